"""The door with two discloser settings shortened, so that a takeover takes seconds and not a quarter of a minute."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from support.agency import Agency, Operator, eventually_true
from support.door import superuser
from support.load import AGENCIES, Load, agree
from support.settled import connection

from throughgate.native.process import Process, free_port
from throughgate.system import System

SHORT = {"THROUGHGATE_SEND_SECONDS": "3", "THROUGHGATE_SESSION_SECONDS": "8"}
"""A producer that cannot start keeps the session waiting for six seconds: three, two to stop it, and a pause."""


@dataclass
class Scene:
    """The system, the load on it, and its partners."""

    system: System
    load: Load
    prison: Agency
    partners: list[Agency]

    def standby(self, shard: int = 0, shards: int = 1) -> Process:
        """A second discloser, started: it waits for the lock where its shard has one that runs."""
        environment = self.system.environment("consent.discloser") | {
            "THROUGHGATE_HTTP_PORT": str(free_port()),
            "THROUGHGATE_SHARD": str(shard),
            "THROUGHGATE_SHARDS": str(shards),
        }
        process = Process(
            "standby",
            [sys.executable, "-m", "consent.discloser"],
            log=self.system.log("consent.discloser").with_name("standby.log"),
            env=environment,
        )
        process.start()
        return process

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        """Rows of the door's database."""
        async with superuser(self) as connection:
            return list(await connection.fetch(statement, *parameters))

    async def nothing_waits(self) -> None:
        """Wait until the queue is empty."""

        async def empty() -> bool:
            return not await self.fetch("SELECT 1 FROM queue LIMIT 1")

        await eventually_true(empty, "the queue to be empty", 60)

    async def everyone_has(self, count: int) -> None:
        """Wait until each partner has so many records."""

        async def arrived() -> bool:
            return all([len(await partner.received()) >= count for partner in self.partners])

        await eventually_true(arrived, f"{count} records at each partner", 60)

    async def all_is_taken_in(self) -> None:
        """Wait until the worker has committed all of the prison's topic: its next life is not given any of it again."""
        namespace = self.system.namespace
        places = [TopicPartition(f"{namespace}intake.{self.prison.name}", p) for p in range(3)]
        reader = AIOKafkaConsumer(
            **connection(self.system, self.system.kafka.admin_user),
            group_id=f"{namespace}consent-intake",
            enable_auto_commit=False,
        )
        await reader.start()
        try:

            async def committed() -> bool:
                ends = await reader.end_offsets(places)
                return all([(await reader.committed(place) or 0) >= end for place, end in ends.items()])

            await eventually_true(committed, "the worker to commit what it answered", 60)
        finally:
            await reader.stop()


@pytest.fixture
async def scene(make_system: Callable[..., System]) -> AsyncIterator[Scene]:
    """A door of its own for each test: its processes are going to be killed."""
    system = make_system(AGENCIES, ["consent"], environment={"consent.discloser": SHORT})
    await agree(Operator(system))
    async with AsyncExitStack() as stack:
        prison, *partners = [await stack.enter_async_context(Agency(system, name)) for name in AGENCIES]
        yield Scene(system, Load(prison, 100), prison, partners)
