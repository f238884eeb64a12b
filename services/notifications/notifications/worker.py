"""The notifications worker: `python -m notifications.worker`. Consumes what is cleared, does what is due, relays."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from notifications import events, service
from notifications.settings import Settings
from servicekit import aside, run
from servicekit.db import Database, is_transient
from servicekit.kafka import Outgoing, create_consumer
from servicekit.outbox import Relay
from servicekit.worker import Record, Worker

log = logging.getLogger(__name__)


async def apply(clock: str, session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
    """Apply a batch of records at the time of that clock."""
    with events.reading(records) as received:
        await service.take_in(session, received, service.clock(clock))
    return ()


async def due(database: Database, clock: str, seconds: float) -> None:
    """Do what is due, for ever."""
    while True:
        try:
            while await database.run(lambda session: service.do_due(session, service.clock(clock))):
                pass
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("what is due waits after %s", type(error).__name__)
        await asyncio.sleep(seconds)


async def main(settings: Settings, ready: Callable[[], None]) -> None:
    """Work until cancelled."""
    database = Database(settings.database_url.get_secret_value(), settings.database_pool, "notifications worker")
    consumer = create_consumer(settings, events.SERVICE)
    consumer.subscribe([settings.namespace + events.CLEARED_TOPIC])
    await consumer.start()
    try:
        worker = Worker(
            database,
            consumer,
            partial(apply, settings.clock),
            poison=service.poison,
            batch=settings.batch,
            stall_seconds=settings.stall_seconds,
        )
        ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            tasks.create_task(Relay(settings).run())
            tasks.create_task(aside.keep_for(database, settings.set_aside_days))
            tasks.create_task(due(database, settings.clock, settings.due_seconds))
    finally:
        await consumer.stop()
        await database.close()


if __name__ == "__main__":
    settings = Settings()
    run.work(partial(main, settings), settings, "notifications-worker")
