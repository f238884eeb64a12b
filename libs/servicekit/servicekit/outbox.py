"""Rows written with the state they tell of, and the one relay that sends them.

Order of ids is order of commits for one client because whoever adds a row holds that client's row lock. The relay reads
what is there and deletes what was acknowledged; it keeps no cursor, for `id > last` loses rows whose ids were drawn
before they were committed. Stored bytes are sent as they are, so a resend has the same id.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from servicekit import faults
from servicekit.db import create_engine, is_transient, listening, wait, wake_after_commit
from servicekit.kafka import Outgoing, create_producer, send_all
from servicekit.settings import Settings
from servicekit.telemetry import RELAYED, from_headers, header

log = logging.getLogger(__name__)

CHANNEL = "outbox"
LOCK = 7_201
"""Advisory lock of the active relay; each service has a database of its own, so the number need not differ."""

TABLE = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key bytea,
    value bytea NOT NULL,
    traceparent text,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
"""For the service's first migration. `topic` is without the namespace. `added_at` is for operations; no code reads
it."""


async def add(session: AsyncSession, records: Sequence[Outgoing]) -> None:
    """Queue records in the caller's transaction, in order. The caller holds the lock of the client they are about."""
    if not records:
        return
    await session.execute(
        text(
            "INSERT INTO outbox (topic, key, value, traceparent) SELECT t, k, v, p FROM unnest(CAST(:t AS text[]),"
            " CAST(:k AS bytea[]), CAST(:v AS bytea[]), CAST(:p AS text[]))"
            " WITH ORDINALITY AS r(t, k, v, p, n) ORDER BY n"
        ),
        {
            "t": [r.topic for r in records],
            "k": [r.key for r in records],
            "v": [r.value for r in records],
            "p": [from_headers(r.headers) for r in records],
        },
    )
    wake_after_commit(session, CHANNEL)


class Relay:
    """Sends the outbox. Any number may run; the advisory lock lets one of them be active."""

    def __init__(self, settings: Settings, poll_seconds: float = 1.0) -> None:
        self._settings = settings
        self._poll = poll_seconds

    async def run(self) -> None:
        """Relay for ever, through a database or broker that goes and comes back."""
        while True:
            try:
                await self._relay()
            except Exception as error:
                if not is_transient(error) and not isinstance(error, KafkaError):
                    raise
                log.warning("relay starts again after %s", type(error).__name__)
                await asyncio.sleep(1)

    async def _relay(self) -> None:
        url = self._settings.database_url.get_secret_value()
        engine = create_engine(url, 1, "relay", isolation_level="AUTOCOMMIT")
        try:
            async with engine.connect() as connection, listening(url, CHANNEL) as (woken,):
                while not await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK}):
                    await asyncio.sleep(self._poll)
                producer = create_producer(self._settings)
                try:
                    await producer.start()
                    while True:
                        if not await self._send(connection, producer):
                            await wait(woken, self._poll)
                finally:
                    await producer.stop()
        finally:
            await engine.dispose()

    async def _send(self, connection: AsyncConnection, producer: AIOKafkaProducer) -> int:
        rows: Sequence[Any] = (
            await connection.execute(
                text("SELECT id, topic, key, value, traceparent FROM outbox ORDER BY id LIMIT :n"),
                {"n": self._settings.batch},
            )
        ).all()
        if not rows:
            return 0
        await send_all(
            producer,
            [
                Outgoing(
                    self._settings.namespace + row.topic,
                    row.key,
                    row.value,
                    header(row.traceparent),
                )
                for row in rows
            ],
        )
        faults.point("relay.sent")
        await connection.execute(text("DELETE FROM outbox WHERE id = ANY(:ids)"), {"ids": [row.id for row in rows]})
        RELAYED.inc(len(rows))
        return len(rows)
