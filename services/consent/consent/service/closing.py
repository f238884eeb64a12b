"""Closing a desk: all that a batch made of its clients takes effect, in the only order in which it may."""

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import ledger, queue
from consent.service import erasing
from consent.service.desk import Desk
from consent.service.ledger import enter
from servicekit.db import TryAgain, wake_after_commit


async def close(session: AsyncSession, desk: Desk) -> None:
    """Write the changes, enter the entries in the ledger, erase what is to be erased, wake the discloser.

    The entries come behind the changes, for they may be of clients who get their keys by them; erasing comes last, so
    that what was written a moment ago goes as well.

    Raises:
        TryAgain: another transaction linked one of the identifiers, or took in one of the events, meanwhile.
    """
    if not await desk.changes.write(session):
        raise TryAgain
    if desk.changes.entries:
        await enter(session, await ledger.with_keys(session, desk.changes.entries))
    for wanted in desk.erasures:
        await erasing.carry_out(session, wanted, desk)
    if desk.changes.retractions:
        wake_after_commit(session, queue.RETRACTIONS)
    if desk.changes.queue or desk.changes.entries or desk.erasures:
        wake_after_commit(session, queue.CHANNEL)
