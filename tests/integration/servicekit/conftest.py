"""A database with servicekit's tables and two of the test's own, and a topic that nobody else uses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from confluent_kafka.admin import NewTopic
from pydantic import SecretStr
from sqlalchemy import text
from support import servers
from support.services import DatabaseOf

from servicekit.db import Database
from servicekit.kafka import create_consumer, create_producer
from servicekit.settings import Settings


@pytest.fixture
async def database(database_of: DatabaseOf) -> Database:
    """Inbox, outbox and set_aside, and the tables `effect` (ids that had their effect) and `thing` (two rows)."""
    database = await database_of("referral", "owner")

    async def tables(session: Any) -> None:
        await session.execute(text("CREATE TABLE effect (id text NOT NULL)"))
        await session.execute(text("CREATE TABLE thing (id int PRIMARY KEY, n int NOT NULL CHECK (n < 100))"))
        await session.execute(text("INSERT INTO thing VALUES (1, 0), (2, 0)"))

    await database.run(tables)
    return database


@pytest.fixture
def scalar(database: Database) -> Callable[..., Awaitable[Any]]:
    """One value of the database, as committed."""

    async def read(statement: str, **parameters: Any) -> Any:
        async with database.engine.connect() as connection:
            return await connection.scalar(text(statement), parameters)

    return read


class Topic:
    """A topic of one partition, and how to write and read it."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings

    @property
    def path(self) -> str:
        """Its name with the namespace."""
        return self.settings.namespace + self.name

    async def write(self, *values: bytes) -> None:
        """Write values."""
        producer: AIOKafkaProducer = create_producer(self.settings)
        await producer.start()
        try:
            for value in values:
                await producer.send(self.path, value, key=b"k")
        finally:
            await producer.stop()

    def consumer(self, group: str | None = None) -> AIOKafkaConsumer:
        """A consumer of it in a group."""
        consumer = create_consumer(self.settings, group)
        if group:
            consumer.subscribe([self.path])
        else:
            consumer.assign([TopicPartition(self.path, 0)])
        return consumer

    async def read(self, count: int, seconds: float = 30) -> list[ConsumerRecord]:
        """The first `count` records, and whatever stands behind them by then."""
        consumer = self.consumer()
        await consumer.start()
        try:
            found: list[ConsumerRecord] = []
            async with asyncio.timeout(seconds):
                while len(found) < count:
                    for records in (await consumer.getmany(timeout_ms=100)).values():
                        found += records
            return found
        finally:
            await consumer.stop()

    async def committed(self, group: str) -> int:
        """The offset that a group committed, 0 for none."""
        consumer = create_consumer(self.settings, group)
        await consumer.start()
        try:
            return await consumer.committed(TopicPartition(self.path, 0)) or 0
        finally:
            await consumer.stop()


@pytest.fixture
async def topic(address: servers.Address, database: Database) -> AsyncIterator[Topic]:
    """A topic for this test, reached as the administrator."""
    kafka = servers.RunningKafka(address)
    settings = Settings(
        database_url=SecretStr(database.engine.url.render_as_string(hide_password=False)),
        kafka_servers=kafka.bootstrap,
        kafka_user=kafka.admin_user,
        kafka_password=SecretStr(kafka.password(kafka.admin_user)),
        namespace=f"t{uuid4().hex[:10]}-",
    )
    topic = Topic("topic", settings)
    admin = kafka.admin()
    await asyncio.to_thread(
        lambda: admin.create_topics([NewTopic(topic.path, 1, 1)], operation_timeout=10)[topic.path].result()
    )
    yield topic
    await asyncio.to_thread(lambda: admin.delete_topics([topic.path])[topic.path].result())
