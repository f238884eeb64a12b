"""The worker process of a service that consumes one topic, asks by its outbox, and sets aside what it cannot apply."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from servicekit import aside, run
from servicekit.db import Database
from servicekit.kafka import create_consumer
from servicekit.outbox import Relay
from servicekit.settings import Settings
from servicekit.worker import Apply, Poison, Worker

Beside = Callable[[Database], Coroutine[Any, Any, None]]
"""What a worker does beside consuming, until it is cancelled; when it fails the process ends."""


def work(
    settings: Settings, service: str, topic: str, apply: Apply, poison: Poison, beside: Beside | None = None
) -> None:
    """Run the process: consume, relay what is asked, forget in time what was set aside, and do what is `beside`.

    Args:
        service: names the process, its consumer group and its database connections.
        topic: without the namespace.
    """
    run.work(partial(_main, settings, service, topic, apply, poison, beside), settings, f"{service}-worker")


async def _main(
    settings: Settings,
    service: str,
    topic: str,
    apply: Apply,
    poison: Poison,
    beside: Beside | None,
    ready: Callable[[], None],
) -> None:
    database = Database(settings.database_url.get_secret_value(), settings.database_pool, f"{service} worker")
    consumer = create_consumer(settings, service)
    consumer.subscribe([settings.namespace + topic])
    await consumer.start()
    try:
        worker = Worker(
            database, consumer, apply, poison=poison, batch=settings.batch, stall_seconds=settings.stall_seconds
        )
        ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(worker.run())
            tasks.create_task(Relay(settings).run())
            tasks.create_task(aside.keep_for(database, settings.set_aside_days))
            if beside is not None:
                tasks.create_task(beside(database))
    finally:
        await consumer.stop()
        await database.close()
