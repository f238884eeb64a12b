"""The notifications worker: `python -m notifications.worker`. Consumes what is cleared, does what is due, relays."""

from functools import partial

from notifications import events, service
from notifications.settings import WorkerSettings
from servicekit import consuming
from servicekit.db import Database, every


async def due(clock: str, seconds: float, database: Database) -> None:
    """Do what is due, for ever."""

    async def all_that_is_due() -> None:
        while await database.run(lambda session: service.do_due(session, clock)):
            pass

    await every(seconds, "what is due", all_that_is_due)


if __name__ == "__main__":
    settings = WorkerSettings()
    beside = partial(due, settings.clock, settings.due_seconds)
    apply = service.apply(settings.clock)
    consuming.work(settings, events.DOOR.service, events.DOOR.cleared_topic, apply, service.poison, beside)
