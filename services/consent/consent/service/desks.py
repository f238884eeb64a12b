"""Opening a desk for clients that are locked, and closing it: what a batch made of them takes effect, in one order."""

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import clients, ledger, queue
from consent.service import erasing, register
from consent.service.desk import Desk
from consent.service.ledger import enter
from servicekit.db import wake_after_commit
from servicekit.sql import time_now


async def open(session: AsyncSession, ids: Collection[int], with_facts: Collection[int] | None = None) -> Desk:
    """The desk of clients that the caller has locked. Their facts and the time are read here, in statements of their
    own: with the lock, or before it, they would be of before what we waited for.

    Args:
        ids: clients as they are now, not parts of others.
        with_facts: those of whom it must be known what rules their sharing; None: all.
    """
    loaded = await clients.load(session, ids, ids if with_facts is None else with_facts)
    return Desk(loaded, await register.load(session), await time_now(session))


async def close(session: AsyncSession, desk: Desk) -> None:
    """Write the changes, enter the entries in the ledger, erase what is to be erased, wake the discloser.

    The entries come behind the changes, for they may be of clients who get their keys by them; erasing comes last, so
    that what was written a moment ago goes as well.

    Raises:
        TryAgain: another transaction linked one of the identifiers, or took in one of the events, meanwhile.
    """
    await desk.changes.write(session)
    if desk.changes.retractions:
        wake_after_commit(session, queue.RETRACTIONS)  # first: it cuts a cycle short
    if desk.changes.queue:
        wake_after_commit(session, queue.CHANNEL)
    if desk.changes.entries:
        await enter(session, await ledger.with_keys(session, desk.changes.entries))
    for wanted in desk.erasures:
        await erasing.carry_out(session, wanted, desk)
