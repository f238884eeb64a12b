"""Erasing what is kept longer than its period: sections, what was told of them, and at last the client."""

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import standing_restrictions
from consent.repository import clients, erasure, ledger
from consent.service import desks, erasing, redacting
from consent.service.desk import BY_THE_DOOR
from contracts.vocabulary import Category

EVERY = timedelta(days=1)
"""How often a worker looks at all clients."""
BECAUSE = "period-over"


class Periods(NamedTuple):
    """How long what is kept."""

    sections: Mapping[Category, timedelta]
    """From when an agency last recorded it."""
    rest: timedelta
    """What is left when no section is: from when anything was last said, told or asked of the client."""


class Looked(NamedTuple):
    """What a batch came to."""

    after: int
    """The last client that it looked at."""
    erased: int
    """Of how many clients something was erased."""


async def erase_overdue(session: AsyncSession, periods: Periods, after: int, limit: int) -> Looked | None:
    """Erase what is overdue of the next clients behind `after`; None: there are no more.

    A client of whom something cannot be read is left as it is, for that may be a restriction: it is held, and has its
    turn in a run after the hold is lifted.

    It goes by rows: of linked clients an older copy may be overdue while the newest, which alone leaves, is not. That
    copy goes without a retraction, for recipients have long been told the newer one.

    The last that goes are numbers, what was said about sharing, and what can be read of the ledger, as
    when an agency asks for it (`service.erasing`). They stay where a restriction stands or a hold is open, for those
    protect whoever has the number.
    """
    ids = await erasure.overdue(session, *periods, after, limit)
    if not ids:
        return None
    found = await clients.lock_whole(session, ids)
    desk = await desks.open(session, {one.client for one in found.values()})
    for client in (one for one in desk.clients.values() if not one.damaged):
        over = {
            (row.source, row.category): until
            for row in await erasure.kept(session, client.members)
            if row.recorded_at <= (until := desk.now - periods.sections[Category(row.category)])
        }
        if over:
            erasing.erase_sections(client, over, desk, BECAUSE, BY_THE_DOOR)
        elif not (
            client.erased
            or any(standing_restrictions(client.facts, desk.now))
            or await erasure.is_kept(session, client.members, periods.rest)
        ):
            erasing.erase_everything(client, desk, BECAUSE, BY_THE_DOOR)
    await desks.close(session, desk)
    return Looked(ids[-1], len(desk.erasures))


async def redact_overdue(session: AsyncSession, periods: Periods) -> bool:
    """Redact in the ledger what was told longer ago than the period of one of its categories: the next page. False:
    nothing is left to look at.

    What was replaced since is kept nowhere else, so its section never falls due. Who was told of which categories, and
    why, stays.
    """
    for days in sorted({period.days for period in periods.sections.values()}):
        categories = {category for category, period in periods.sections.items() if period.days <= days}
        after = await erasure.claim_told(session, days, categories)
        if entries := await erasure.told_before(session, days, after, redacting.CHUNK):
            bodies = {entry.id: redacting.without_told(entry, categories) for entry in entries}
            await ledger.rewrite(session, {id: body for id, body in bodies.items() if body is not None})
            await erasure.told_until(session, days, entries[-1].id)
            return True
    return False


async def finish(session: AsyncSession, periods: Periods) -> None:
    """All clients were looked at: forget what was to be remembered of erased ones for a time, and say so.

    What could not be applied may hold anything, so the shortest of the periods holds for it.
    """
    await erasure.forget_numbers(session)
    await erasure.forget_set_aside_before(session, min(periods.sections.values()))
    await erasure.finish_run(session, EVERY)


async def next_batch(session: AsyncSession, periods: Periods, limit: int) -> bool:
    """The next batch of the daily run, if it is due. False: it is not, it came to its end, or another worker has it.

    Where it stands is kept in the database: any worker goes on where the last batch was committed.
    """
    after = await erasure.claim_run(session)
    if after is None:
        return False
    looked = await erase_overdue(session, periods, after, limit)
    if looked is None:
        if await redact_overdue(session, periods):
            return True
        await finish(session, periods)
        return False
    await erasure.move_on(session, looked.after)
    return True


async def skip(session: AsyncSession, periods: Periods) -> None:
    """Leave out the client that the daily run has come to, until tomorrow: it could not be erased."""
    after = await erasure.claim_run(session)
    if after is not None:
        for id in await erasure.overdue(session, *periods, after, 1):
            await erasure.move_on(session, id)
