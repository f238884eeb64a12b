"""The matching worker: `python -m matching.worker`. Consumes what is cleared, runs rounds, relays what is asked."""

from functools import partial

from matching import events, service
from matching.settings import WorkerSettings
from servicekit import consuming
from servicekit.db import Database, every


async def rounds(seconds: float, database: Database) -> None:
    """Let offers expire, and run a round where one is due, for ever."""

    async def once() -> None:
        await database.run(service.expire)
        await database.run(service.run_round_if_due)

    await every(seconds, "a round", once)


if __name__ == "__main__":
    settings = WorkerSettings()
    beside = partial(rounds, settings.round_seconds)
    consuming.work(settings, events.DOOR.service, events.DOOR.cleared_topic, service.apply, service.poison, beside)
