"""The notifications worker: `python -m notifications.worker`. Consumes what is cleared, does what is due, relays."""

from functools import partial

from notifications import events, service
from notifications.settings import Settings
from servicekit import consuming
from servicekit.db import Database, every
from servicekit.worker import Apply


def apply(clock: str) -> Apply:
    """How a batch of records is applied, at the time of that clock."""
    return events.DOOR.apply(partial(service.take_in, clock=service.clock(clock)))


async def due(clock: str, seconds: float, database: Database) -> None:
    """Do what is due, for ever."""

    async def all_that_is_due() -> None:
        while await database.run(lambda session: service.do_due(session, service.clock(clock))):
            pass

    await every(seconds, "what is due", all_that_is_due)


if __name__ == "__main__":
    settings = Settings()
    beside = partial(due, settings.clock, settings.due_seconds)
    consuming.work(settings, events.SERVICE, events.CLEARED_TOPIC, apply(settings.clock), service.poison, beside)
