"""The consuming loop over real Kafka and PostgreSQL: a poison event stops nobody, and nothing else is poison."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import TopicAuthorizationFailedError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from support.agency import eventually_true

from servicekit import inbox, worker
from servicekit.db import Database, TryAgain
from servicekit.kafka import Outgoing, create_producer
from servicekit.telemetry import CONSUMED, SET_ASIDE
from servicekit.worker import Record, Worker

Scalar = Callable[..., Awaitable[Any]]
GROUP = "group"


async def apply(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
    """Each value is an event's id; it has its effect once, and some values fail."""
    fresh = await inbox.fresh(session, [r.value.decode() for r in records])
    for record in records:
        value = record.value.decode()
        if value in fresh:
            await session.execute(text("INSERT INTO effect (id) VALUES (:id)"), {"id": value})
        if value == "poison":
            raise ValueError(value)
        if value == "against a rule":
            await session.execute(text("UPDATE thing SET n = 100"))
    return ()


@asynccontextmanager
async def working(database: Database, topic: Any, apply: Any = apply, **options: Any) -> AsyncIterator[None]:
    """A worker that consumes the topic meanwhile."""
    consumer = topic.consumer(GROUP)
    await consumer.start()
    task = asyncio.create_task(Worker(database, consumer, apply, **options).run())
    try:
        yield
        assert not task.done(), "a worker works for ever"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await consumer.stop()


async def up_to(topic: Any, offset: int) -> None:
    async def committed() -> bool:
        return bool(await topic.committed(GROUP) >= offset)

    await eventually_true(committed, f"offset {offset} to be committed")


async def effects(scalar: Scalar) -> list[str]:
    return list(await scalar("SELECT array_agg(id) FROM effect") or [])


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(b"poison", "ValueError"), (b"against a rule", "IntegrityError"), (b"\xff", "UnicodeDecodeError")],
)
async def test_poison_is_set_aside_and_the_others_have_their_effect(
    bad: bytes, reason: str, database: Database, scalar: Scalar, topic: Any
) -> None:
    sizes: list[int] = []

    async def counted(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        sizes.append(len(records))
        return await apply(session, records)

    before = SET_ASIDE._value.get(), CONSUMED._value.get()
    await topic.write(b"a", b"b", bad, b"c", b"d")
    async with working(database, topic, counted):
        await up_to(topic, 5)
    assert await effects(scalar) == ["a", "b", "c", "d"]
    kept = 'SELECT array_agg(row(topic, partition, "offset", reason, value)::text) FROM set_aside'
    row = f"({topic.path},0,2,{reason},"
    (found,) = await scalar(kept)
    assert found.startswith(row)
    assert await scalar("SELECT value FROM set_aside") == bad
    assert sizes[0] > 1, "the batch was tried as one"
    assert sizes.count(1) >= 5, "and then event by event"
    assert (SET_ASIDE._value.get() - before[0], CONSUMED._value.get() - before[1]) == (1, 5)


async def test_a_batch_without_poison_is_one_transaction(database: Database, scalar: Scalar, topic: Any) -> None:
    await topic.write(*(f"{n}".encode() for n in range(50)))
    async with working(database, topic):
        await up_to(topic, 50)
    assert await effects(scalar) == [f"{n}" for n in range(50)]
    assert await scalar("SELECT count(DISTINCT xmin::text) FROM effect") < 5


async def test_what_was_written_during_a_batch_is_in_the_next(
    database: Database, topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library has fetched "b" and will not fetch "c" before somebody takes "b": it must not cost "c" a batch."""
    monkeypatch.setattr(worker, "FETCH_MS", 5000)  # more than the worker waits, so that no slow machine decides
    batches: list[list[bytes]] = []

    async def slow(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        batches.append([record.value for record in records])
        if len(batches) == 1:
            await topic.write(b"b")
            await asyncio.sleep(0.5)
            await topic.write(b"c")
        return ()

    await topic.write(b"a")
    async with working(database, topic, slow):
        await up_to(topic, 3)
    assert batches == [[b"a"], [b"b", b"c"]]


async def test_what_was_fetched_ahead_is_not_committed_before_it_was_taken(database: Database, topic: Any) -> None:
    batches: list[list[bytes]] = []

    async def ending(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        batches.append([record.value for record in records])
        if len(batches) > 1:
            await session.execute(text("SELECT * FROM nowhere"))
        await topic.write(b"b")
        await asyncio.sleep(0.5)
        return ()

    await topic.write(b"a")
    consumer = topic.consumer(GROUP)
    await consumer.start()
    try:
        with pytest.raises(DBAPIError):
            await asyncio.wait_for(Worker(database, consumer, ending).run(), 30)
    finally:
        await consumer.stop()
    assert batches == [[b"a"], [b"b"]]
    assert await topic.committed(GROUP) == 1


async def test_what_was_applied_is_committed_although_the_next_fetch_fails(database: Database, topic: Any) -> None:
    await topic.write(b"a")
    consumer = topic.consumer(GROUP)
    await consumer.start()
    applied: list[bytes] = []
    fetch = consumer.getmany

    async def fetch_until_applied(**how: Any) -> Any:
        if applied:
            raise TopicAuthorizationFailedError
        return await fetch(**how)

    async def noted(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        applied.extend(record.value for record in records)
        return ()

    consumer.getmany = fetch_until_applied
    try:
        with pytest.raises(TopicAuthorizationFailedError):
            await asyncio.wait_for(Worker(database, consumer, noted).run(), 30)
    finally:
        await consumer.stop()
    assert (applied, await topic.committed(GROUP)) == ([b"a"], 1)


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_no_batch_is_larger_than_told(most: int, database: Database, scalar: Scalar, topic: Any) -> None:
    sizes: list[int] = []

    async def counted(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        sizes.append(len(records))
        return await apply(session, records)

    await topic.write(*(f"{n}".encode() for n in range(10)))
    async with working(database, topic, counted, batch=most):
        await up_to(topic, 10)
    assert await effects(scalar) == [f"{n}" for n in range(10)]
    assert (max(sizes), sum(sizes)) == (most, 10)


async def test_the_publisher_of_poison_is_answered(database: Database, scalar: Scalar, topic: Any) -> None:
    """Answers go out after the commit; here to the same topic, whose consumer takes them for more events."""

    async def poison(session: AsyncSession, record: Record, reason: str) -> Sequence[Outgoing]:
        return [Outgoing(topic.path, None, f"answer to {record.offset}: {reason}".encode())]

    producer = create_producer(topic.settings)
    await producer.start()
    await topic.write(b"a", b"poison")
    try:
        async with working(database, topic, poison=poison, producer=producer):
            await up_to(topic, 3)
    finally:
        await producer.stop()
    assert await effects(scalar) == ["a", "answer to 1: ValueError"]


async def test_an_answer_is_sent_after_the_commit(database: Database, scalar: Scalar, topic: Any) -> None:
    """Whoever reads the answer finds its effect."""

    async def answering(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        await apply(session, records)
        return [Outgoing(topic.path, None, b"answer") for r in records if r.value == b"question"]

    producer = create_producer(topic.settings)
    await producer.start()
    await topic.write(b"question")
    try:
        async with working(database, topic, answering, producer=producer):
            assert [r.value for r in await topic.read(2)] == [b"question", b"answer"]
            assert "question" in await effects(scalar)
    finally:
        await producer.stop()


class Trouble:
    """What fails for a reason that goes away, until `over` is set."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.seen = 0

    async def lock(self, session: AsyncSession) -> None:
        await session.execute(text("SET LOCAL lock_timeout = '5ms'"))
        await session.execute(text("UPDATE thing SET n = n + 1 WHERE id = 1"))

    async def connection(self, session: AsyncSession) -> None:
        if not self.over.is_set():
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async def memory(self, session: AsyncSession) -> None:
        if not self.over.is_set():
            await session.execute(text("DO $$ BEGIN RAISE 'none left' USING ERRCODE = '53200'; END $$"))

    async def network(self, session: AsyncSession) -> None:
        if not self.over.is_set():
            raise OSError

    async def time(self, session: AsyncSession) -> None:
        if not self.over.is_set():
            raise TimeoutError


@pytest.mark.parametrize("kind", ["lock", "connection", "memory", "network", "time"])
async def test_what_goes_away_by_itself_is_waited_for_and_never_set_aside(
    kind: str, database: Database, scalar: Scalar, topic: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trouble = Trouble()
    await topic.write(b"a", b"b")

    async def troubled(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        trouble.seen += 1
        await getattr(trouble, kind)(session)
        return await apply(session, records)

    async def waited() -> bool:
        return sum("a batch waits" in r.getMessage() for r in caplog.records) >= 2

    async with database.engine.connect() as holder:
        await holder.execute(text("SELECT 1 FROM thing WHERE id = 1 FOR UPDATE"))
        async with working(database, topic, troubled):
            await eventually_true(waited, "the batch to wait twice")
            assert await topic.committed(GROUP) == 0
            trouble.over.set()
            await holder.rollback()
            await up_to(topic, 2)
    assert await effects(scalar) == ["a", "b"]
    assert await scalar("SELECT count(*) FROM set_aside") == 0
    assert trouble.seen > 2


@pytest.mark.parametrize("state", ["42P01", "42501", "57014", "25006", "58030"])
async def test_what_no_event_is_to_blame_for_ends_the_worker(
    state: str, database: Database, scalar: Scalar, topic: Any
) -> None:
    """A missing table or right, a cancelled statement, a database that is read only or has no disk."""
    await topic.write(b"a", b"b")
    consumer = topic.consumer(GROUP)
    await consumer.start()

    async def broken(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        await session.execute(text(f"DO $$ BEGIN RAISE 'planted' USING ERRCODE = '{state}'; END $$"))
        return ()

    try:
        with pytest.raises(DBAPIError):
            await asyncio.wait_for(Worker(database, consumer, broken).run(), 30)
    finally:
        await consumer.stop()
    assert await scalar("SELECT count(*) FROM set_aside") == 0
    assert await topic.committed(GROUP) == 0


async def test_a_race_lost_as_a_batch_is_run_event_by_event(database: Database, scalar: Scalar, topic: Any) -> None:
    await topic.write(b"a", b"b")

    async def racing(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        if len(records) > 1:
            raise TryAgain
        return await apply(session, records)

    async with working(database, topic, racing):
        await up_to(topic, 2)
    assert (await effects(scalar), await scalar("SELECT count(*) FROM set_aside")) == (["a", "b"], 0)


async def test_an_event_that_loses_every_race_waits_and_is_no_poison(
    database: Database, scalar: Scalar, topic: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await topic.write(b"a")
    over = asyncio.Event()

    async def racing(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        if not over.is_set():
            raise TryAgain
        return await apply(session, records)

    async def gave_up_once() -> bool:
        return any("after TryAgain" in r.getMessage() and "waits" in r.getMessage() for r in caplog.records)

    async with working(database, topic, racing):
        await eventually_true(gave_up_once, "the transaction to be run in vain as often as it is")
        assert await topic.committed(GROUP) == 0
        over.set()
        await up_to(topic, 1)
    assert (await effects(scalar), await scalar("SELECT count(*) FROM set_aside")) == (["a"], 0)


async def test_a_poison_event_meets_trouble_while_it_is_set_aside(
    database: Database, scalar: Scalar, topic: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The row must be kept whatever happens: nothing is lost."""
    over = asyncio.Event()
    await topic.write(b"poison", b"a")

    async def poison(session: AsyncSession, record: Record, reason: str) -> Sequence[Outgoing]:
        if not over.is_set():
            raise OSError
        return ()

    async def waited() -> bool:
        return any("a batch waits" in r.getMessage() for r in caplog.records)

    async with working(database, topic, poison=poison):
        await eventually_true(waited, "setting aside to wait")
        assert await scalar("SELECT count(*) FROM set_aside") == 0
        over.set()
        await up_to(topic, 2)
    assert (await effects(scalar), await scalar("SELECT count(*) FROM set_aside")) == (["a"], 1)


async def test_what_was_applied_before_its_offset_was_committed_has_its_effect_once(
    database: Database, scalar: Scalar, topic: Any
) -> None:
    await topic.write(b"a", b"poison", b"b")
    consumer = topic.consumer(GROUP)
    await consumer.start()
    try:
        taken: list[Record] = []
        while len(taken) < 3:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                taken += records
        await Worker(database, consumer, apply).take(taken)
    finally:
        await consumer.stop()  # it dies here: nothing was committed
    assert await topic.committed(GROUP) == 0
    await topic.write(b"c", b"a")
    async with working(database, topic):
        await up_to(topic, 5)
    assert await effects(scalar) == ["a", "b", "c"]
    assert await scalar("SELECT count(*) FROM set_aside") == 1


async def test_a_worker_that_answers_needs_a_producer(database: Database, topic: Any) -> None:
    await topic.write(b"a")
    consumer = topic.consumer(GROUP)
    await consumer.start()

    async def answering(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        return [Outgoing(topic.path, None, b"answer")]

    try:
        with pytest.raises(RuntimeError, match="producer"):
            await asyncio.wait_for(Worker(database, consumer, answering).run(), 30)
    finally:
        await consumer.stop()


async def test_the_inbox_tells_what_is_new_once(database: Database) -> None:
    async def enter(session: AsyncSession) -> set[str]:
        return await inbox.fresh(session, ["a", "b", "a"])

    assert await database.run(enter) == {"a", "b"}
    assert await database.run(enter) == set()
    with pytest.raises(DBAPIError):
        await database.run(lambda session: inbox.fresh(session, ["a\0b"]))
