"""Outbox and relay over real Kafka: in order, nothing lost, the same bytes again, one at a time."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from support.agency import eventually_true

from servicekit import outbox
from servicekit.db import Database
from servicekit.kafka import Outgoing
from servicekit.outbox import Relay
from throughgate.native.process import free_port

Scalar = Callable[..., Awaitable[Any]]
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@asynccontextmanager
async def relaying(settings: Any, poll_seconds: float = 0.1) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(Relay(settings, poll_seconds).run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def put(database: Database, values: Sequence[bytes], key: bytes | None = b"k", headers: Any = ()) -> None:
    await database.run(lambda session: outbox.add(session, [Outgoing("topic", key, v, headers) for v in values]))


def numbered(first: int, count: int) -> list[bytes]:
    return [f"event {n}".encode() for n in range(first, first + count)]


async def empty(scalar: Scalar) -> None:
    async def nothing_left() -> bool:
        return bool(await scalar("SELECT count(*) = 0 FROM outbox"))

    await eventually_true(nothing_left, "the outbox to be empty")


async def test_rows_leave_in_order_as_they_are(database: Database, scalar: Scalar, topic: Any) -> None:
    topic.settings.batch = 7
    await put(database, numbered(0, 20), headers=[("traceparent", TRACE.encode())])
    async with relaying(topic.settings):
        for n in range(20, 40):
            await put(database, numbered(n, 1), key=None)
        found = await topic.read(40)
        await empty(scalar)
    assert [r.value for r in found] == numbered(0, 40)
    assert [r.key for r in found] == [b"k"] * 20 + [None] * 20
    assert [dict(r.headers) for r in found] == [{"traceparent": TRACE.encode()}] * 20 + [{}] * 20


async def test_what_was_not_committed_does_not_leave(database: Database, scalar: Scalar, topic: Any) -> None:
    async def work(session: AsyncSession) -> None:
        await outbox.add(session, [Outgoing("topic", None, b"never")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.run(work)
    await put(database, [b"kept"])
    async with relaying(topic.settings):
        assert [r.value for r in await topic.read(1)] == [b"kept"]


async def test_a_row_that_is_committed_behind_a_later_one_is_not_lost(
    database: Database, scalar: Scalar, topic: Any
) -> None:
    async with relaying(topic.settings):
        async with AsyncSession(database.engine) as slow, slow.begin():
            await outbox.add(slow, [Outgoing("topic", None, b"first id, committed last")])
            await put(database, [b"second id"])
            assert [r.value for r in await topic.read(1)] == [b"second id"]
            await empty(scalar)
        assert [r.value for r in await topic.read(2)] == [b"second id", b"first id, committed last"]


RELAY = """
import asyncio
from servicekit.outbox import Relay
from servicekit.settings import Settings
asyncio.run(Relay(Settings(), 0.1).run())
"""


def variables(settings: Any) -> dict[str, str]:
    return {
        "THROUGHGATE_DATABASE_URL": settings.database_url.get_secret_value(),
        "THROUGHGATE_KAFKA_SERVERS": settings.kafka_servers,
        "THROUGHGATE_KAFKA_USER": settings.kafka_user,
        "THROUGHGATE_KAFKA_PASSWORD": settings.kafka_password.get_secret_value(),
        "THROUGHGATE_NAMESPACE": settings.namespace,
    }


async def test_after_a_crash_between_sending_and_marking_the_same_bytes_go_again(
    database: Database, scalar: Scalar, topic: Any
) -> None:
    values = numbered(0, 5)
    await put(database, values)
    environment = os.environ | variables(topic.settings) | {"THROUGHGATE_FAULT": "relay.sent:kill:1"}
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", RELAY], env=environment, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert await scalar("SELECT count(*) FROM outbox") == 5
    async with relaying(topic.settings):
        found = await topic.read(10)
        await empty(scalar)
    assert [r.value for r in found] == values + values


async def test_of_two_relays_one_is_active_and_the_other_takes_over(
    database: Database, scalar: Scalar, topic: Any
) -> None:
    async def held() -> int:
        # of this database only: the relays of other tests' systems hold the same lock in theirs
        locks = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND objid = :lock"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return int(await scalar(locks, lock=outbox.LOCK))

    async with relaying(topic.settings, 0.05) as first:
        await eventually_true(held, "the first relay to hold the lock")
        async with relaying(topic.settings, 0.05):
            for n in range(0, 400, 100):
                await put(database, numbered(n, 100))
            await topic.read(400)
            await empty(scalar)
            assert await held() == 1
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await put(database, numbered(400, 1))
            found = await topic.read(401)
            await empty(scalar)
    assert [r.value for r in found] == numbered(0, 401), "each once"


async def test_a_broker_that_is_away_is_waited_for(
    database: Database, scalar: Scalar, topic: Any, caplog: pytest.LogCaptureFixture
) -> None:
    port, broker = free_port(), topic.settings.kafka_servers.split(":")
    await put(database, numbered(0, 3))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(broker[0], int(broker[1]))

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, back), copy(there, writer), return_exceptions=True)

    async def tried() -> bool:
        return sum("relay starts again after KafkaConnectionError" in r.getMessage() for r in caplog.records) >= 2

    away = topic.settings.model_copy(update={"kafka_servers": f"127.0.0.1:{port}"})
    async with relaying(away) as relay:
        await eventually_true(tried, "the relay to try again")
        assert await scalar("SELECT count(*) FROM outbox") == 3
        assert not relay.done()
        async with await asyncio.start_server(forward, "127.0.0.1", port):
            assert [r.value for r in await topic.read(3)] == numbered(0, 3)
            await empty(scalar)


async def test_nothing_to_add_wakes_nobody(database: Database) -> None:
    async def work(session: AsyncSession) -> Any:
        await outbox.add(session, [])
        return session.info.get("wake")

    assert await database.run(work) is None
    assert await database.run(lambda session: session.scalar(text("SELECT count(*) FROM outbox"))) == 0
