"""The matching worker: `python -m matching.worker`. Consumes what is cleared, runs rounds, relays what is asked."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from matching import events, service
from matching.settings import Settings
from servicekit import aside, run
from servicekit.db import Database, is_transient
from servicekit.kafka import Outgoing, create_consumer
from servicekit.outbox import Relay
from servicekit.worker import Record, Worker

log = logging.getLogger(__name__)


async def apply(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
    """Apply a batch of records."""
    with events.reading(records) as received:
        await service.take_in(session, received)
    return ()


async def rounds(database: Database, seconds: float) -> None:
    """Let offers expire, and run a round where one is due, for ever."""
    while True:
        try:
            await database.run(service.expire)
            await database.run(service.run_round_if_due)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("a round waits after %s", type(error).__name__)
        await asyncio.sleep(seconds)


async def main(settings: Settings, ready: Callable[[], None]) -> None:
    """Work until cancelled."""
    database = Database(settings.database_url.get_secret_value(), settings.database_pool, "matching worker")
    consumer = create_consumer(settings, events.SERVICE)
    consumer.subscribe([settings.namespace + events.CLEARED_TOPIC])
    await consumer.start()
    try:
        worker = Worker(
            database,
            consumer,
            apply,
            poison=service.poison,
            batch=settings.batch,
            stall_seconds=settings.stall_seconds,
        )
        ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            tasks.create_task(Relay(settings).run())
            tasks.create_task(aside.keep_for(database, settings.set_aside_days))
            tasks.create_task(rounds(database, settings.round_seconds))
    finally:
        await consumer.stop()
        await database.close()


if __name__ == "__main__":
    settings = Settings()
    run.work(partial(main, settings), settings, "matching-worker")
