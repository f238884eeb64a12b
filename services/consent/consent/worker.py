"""The door's worker: takes in what case systems and our own services write. `python -m consent.worker`.

What it does beside that stands in `consent.upkeep`.
"""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import restoring
from consent.service.intake import refuse, stands_alone, take_in
from consent.service.reading import Arrival, type_in
from consent.service.requests import Asked, take_requests
from consent.settings import WorkerSettings
from consent.upkeep import count, keep_up
from contracts import topic_names
from servicekit.db import Database
from servicekit.kafka import Outgoing, create_consumer, create_producer
from servicekit.run import work
from servicekit.telemetry import from_headers
from servicekit.worker import Record, Worker

GROUP = "consent-intake"
POLL_SECONDS = 0.5


class Intake:
    """Routes a poll's records: `intake.<agency>` to intake, `requests.<service>` to requests."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def split(self, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Split a poll's records into transactions. What links, unlinks or erases has one alone, and what services ask
        has one of its own."""
        run: list[Record] = []
        for record in records:
            if self._kind(record) != "intake":
                continue
            if not stands_alone(record.value or b""):
                run.append(record)
                continue
            yield run
            yield [record]
            run = []
        yield run
        yield [record for record in records if self._kind(record) == "requests"]

    async def apply(self, session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        """Take in one part of `split`; gives the replies, to be sent after the commit."""
        if self._kind(records[0]) == "requests":
            asked = [Asked(self._who(r), r.value or b"", from_headers(r.headers)) for r in records]
            await take_requests(session, asked)
            return ()
        arrivals = [self._arrival(r) for r in records]
        replies = await take_in(session, arrivals)
        return [self._reply(a, value) for a, value in zip(arrivals, replies, strict=True)]

    async def poison(self, session: AsyncSession, record: Record, reason: str) -> Sequence[Outgoing]:
        """Answer an event that was set aside; one that was to stop sharing stops all the same."""
        if self._kind(record) != "intake":
            return ()
        arrival = self._arrival(record)
        return [self._reply(arrival, await refuse(session, arrival))]

    def _kind(self, record: Record) -> str:
        return topic_names.parts(str(record.topic), self._namespace)[0]

    def _who(self, record: Record) -> str:
        return topic_names.parts(str(record.topic), self._namespace)[1]

    def _arrival(self, record: Record) -> Arrival:
        topic = str(record.topic).removeprefix(self._namespace)
        value, headers = record.value or b"", record.headers
        place = (topic, record.partition, record.offset)
        return Arrival(self._who(record), value, *place, from_headers(headers), type_in(headers))

    def _reply(self, arrival: Arrival, value: bytes) -> Outgoing:
        return Outgoing(self._namespace + topic_names.replies(arrival.agency), None, value)


class StillClosed(TimeoutError):
    """The database was put back, or started again, and is not compared with the topics yet: try again."""


async def apply_when_open(intake: Intake, session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
    """Take in a batch once the door is open. After a restore the step `consent.restore` first takes in again what was
    lost: an older event must not overwrite a newer one.

    Raises:
        StillClosed: it is not.
    """
    if not await restoring.is_open(session):
        raise StillClosed
    return await intake.apply(session, records)


async def main(settings: WorkerSettings, ready: Callable[[], None]) -> None:
    """Take in until cancelled."""
    database = Database(settings.database_url.get_secret_value(), 4, "consent worker")
    consumer = create_consumer(settings, GROUP)
    consumer.subscribe(pattern=f"^{re.escape(settings.namespace)}(intake|requests)\\.[a-z0-9-]+$")
    producer = create_producer(settings)
    intake = Intake(settings.namespace)
    try:
        while not await database.run(restoring.is_open):
            await asyncio.sleep(POLL_SECONDS)
        await producer.start()
        await consumer.start()
        ready()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_up(database, settings))
            tasks.create_task(count(database, settings))
            await Worker(
                database,
                consumer,
                partial(apply_when_open, intake),
                split=intake.split,
                poison=intake.poison,
                producer=producer,
                batch=settings.batch,
                stall_seconds=settings.stall_seconds,
            ).run()
    finally:
        await consumer.stop()
        await producer.stop()
        await database.close()


if __name__ == "__main__":
    settings = WorkerSettings()
    work(partial(main, settings), settings, "consent-worker")
