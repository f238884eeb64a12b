"""What the worker does beside taking in: ends by the clock, reminders, erasing, the snapshots that a change of the
register makes due, and counts for those who look.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import erasure, restoring
from consent.service import clock, redacting, retention, snapshots
from consent.service.clock import Waiting
from consent.settings import WorkerSettings
from servicekit import faults
from servicekit.db import Database, every, is_transient

log = logging.getLogger(__name__)

OVERDUE = Gauge("throughgate_retractions_overdue", "Retractions that a recipient has not confirmed in time.")
REVIEWS = Gauge("throughgate_override_reviews_overdue", "Overrides whose review is overdue.")
HOLDS = Gauge("throughgate_holds", "Clients and numbers for whom everything is denied until a person has looked.")
SET_ASIDE = Gauge("throughgate_set_aside_waiting", "Rows and events that are set aside until a person has looked.")
RETENTION = Gauge(
    "throughgate_retention_finished_timestamp_seconds", "When all that was overdue was last erased; 0: not yet."
)

BATCH = 50
"""Ends, reminders or erasures of one transaction: it holds the locks of their clients."""


async def keep_up(database: Database, settings: WorkerSettings) -> None:
    """Tell what ends, remind, erase and offer snapshots, until cancelled. What fails is logged and put off: it holds up
    nothing else.

    The four run side by side, because the daily run may have much to erase, and a change of the register many clients.
    """
    periods = settings.periods

    async def tell_and_remind() -> None:
        await all_in_batches(database, clock.tell_what_is_due, clock.put_off)
        await all_in_batches(database, lambda session, limit: clock.remind(session, settings.patience, limit))

    async def redact_ledger() -> None:
        await all_in_batches(database, lambda session, _: redacting.redact_ledger(session), redacting.put_off)

    async def retain() -> None:
        await all_in_batches(
            database,
            lambda session, limit: retention.next_batch(session, periods, limit),
            lambda session: retention.skip(session, periods),
        )

    async def offer_snapshots() -> None:  # a chunk is a batch already, and stays one when it is done again alone
        await all_in_batches(
            database,
            lambda session, _: snapshots.offer_next_chunk(session, settings.batch),
            snapshots.put_off,
            "worker.followed-up",
        )

    works = (tell_and_remind, redact_ledger, retain, offer_snapshots)
    await asyncio.gather(*(every(settings.upkeep_seconds, "upkeep", work) for work in works))


async def all_in_batches(
    database: Database,
    work: Callable[[AsyncSession, int], Awaitable[bool]],
    put_off: Callable[[AsyncSession], Awaitable[None]] | None = None,
    point: str | None = None,
) -> None:
    """Work in batches until nothing is left. A batch that fails is done one by one; what fails alone is put off.

    `point`: of `servicekit.faults`, passed after each batch's commit.
    """

    async def batch(limit: int) -> bool:
        # While the door is closed after a restore, a stop could get a version that was used before.
        found = await database.run(restoring.is_open) and await database.run(lambda session: work(session, limit))
        if found and point:
            faults.point(point)
        return found

    try:
        while await batch(BATCH):
            pass
        return
    except Exception as error:
        log.exception("upkeep goes on one by one after %s", type(error).__name__)
        if is_transient(error):
            return
    for _ in range(BATCH):
        try:
            if not await batch(1):
                return
        except Exception as error:
            log.exception("upkeep is put off after %s", type(error).__name__)
            if put_off is None:
                return
            with suppress(Exception):
                await database.run(put_off)


async def count(database: Database, settings: WorkerSettings) -> None:
    """Keep the gauges, and tell the owner of alerts in the log whenever more came to wait. Until cancelled."""
    before = Waiting(0, 0, 0, 0)
    while True:
        try:
            now = await database.run(lambda session: clock.waiting(session, settings.overdue_hours))
            RETENTION.set((await database.run(erasure.last_run)).timestamp())
        except Exception as error:
            log.exception("what waits for a person could not be counted: %s", type(error).__name__)
        else:
            tell(settings.alert_owner, before, now)
            before = now
        await asyncio.sleep(settings.count_seconds)


def tell(owner: str, before: Waiting, now: Waiting) -> None:
    """Set the gauges; log counts, and nothing else, of what there is more of than before."""
    for gauge, earlier, number, what in (
        (OVERDUE, before.retractions, now.retractions, "retractions are not confirmed: GET /retractions/overdue"),
        (REVIEWS, before.reviews, now.reviews, "overrides are not reviewed: GET /overrides/overdue"),
        (HOLDS, before.holds, now.holds, "holds are not lifted: GET /holds"),
        (SET_ASIDE, before.set_aside, now.set_aside, "rows or events are set aside: GET /set-aside"),
    ):
        gauge.set(number)
        if number > earlier:
            log.error("for %s to see to: %d %s", owner, number, what)
