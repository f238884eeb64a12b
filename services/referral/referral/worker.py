"""The referral worker: `python -m referral.worker`. Consumes what is cleared, relays what is asked."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from referral import events, service
from servicekit import aside, run
from servicekit.db import Database
from servicekit.kafka import Outgoing, create_consumer
from servicekit.outbox import Relay
from servicekit.settings import Settings
from servicekit.worker import Record, Worker


async def apply(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
    """Apply a batch of records."""
    with events.reading(records) as received:
        await service.take_in(session, received)
    return ()


async def main(settings: Settings, ready: Callable[[], None]) -> None:
    """Work until cancelled."""
    database = Database(settings.database_url.get_secret_value(), settings.database_pool, "referral worker")
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
    finally:
        await consumer.stop()
        await database.close()


if __name__ == "__main__":
    settings = Settings()
    run.work(partial(main, settings), settings, "referral-worker")
