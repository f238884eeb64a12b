"""What the worker does beside taking in: ends by the clock, reminders, erasing, and counts for those who look."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import erasure, restoring
from consent.service import clock, erasing, retention
from consent.service.clock import Waiting
from consent.settings import WorkerSettings
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
    """Tell what ends, remind and erase, until cancelled. What fails is logged and put off: it holds up nothing else.

    The three run side by side, because the daily run may have much to erase.
    """
    periods = settings.periods

    async def tell_and_remind() -> None:
        await all_in_batches(database, clock.tell_what_is_due, clock.put_off)
        await all_in_batches(database, lambda session, limit: clock.remind(session, settings.patience, limit))

    async def redact_ledger() -> None:
        await all_in_batches(database, lambda session, _: erasing.redact_ledger(session), erasing.put_off)

    async def retain() -> None:
        await all_in_batches(
            database,
            lambda session, limit: retention.next_batch(session, periods, limit),
            lambda session: retention.skip(session, periods),
        )

    works = (tell_and_remind, redact_ledger, retain)
    await asyncio.gather(*(every(settings.upkeep_seconds, "upkeep", work) for work in works))


async def all_in_batches(
    database: Database,
    work: Callable[[AsyncSession, int], Awaitable[bool]],
    put_off: Callable[[AsyncSession], Awaitable[None]] | None = None,
) -> None:
    """Work in batches until nothing is left. A batch that fails is done one by one; what fails alone is put off."""

    async def batch(limit: int) -> bool:
        # While the door is closed after a restore, a stop could get a version that was used before.
        return await database.run(restoring.is_open) and await database.run(lambda session: work(session, limit))

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
