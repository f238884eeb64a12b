"""When nothing is on its way into a topic any more."""

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from support.agency import eventually_true
from throughgate.system import System


def connection(system: System, user: str) -> dict[str, Any]:
    """Arguments of an aiokafka client for a user."""
    return {
        "bootstrap_servers": system.kafka.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": user,
        "sasl_plain_password": system.kafka.password(user),
    }


async def settled(system: System, topics: Collection[str], seconds: float = 30) -> None:
    """Wait until no transaction is open in these topics (named without the namespace).

    A producer is told that its transaction is committed before the brokers have let readers see it, so who reads at
    once may miss it; and one that died leaves its transaction open until another takes over.
    """
    there = await asyncio.to_thread(lambda: system.kafka.admin().list_topics(timeout=10).topics)
    names = [system.namespace + topic for topic in topics]
    places = [TopicPartition(name, partition) for name in names for partition in there[name].partitions]
    async with AsyncExitStack() as stack:
        readers = []
        for level in ("read_committed", "read_uncommitted"):
            reader = AIOKafkaConsumer(**connection(system, system.kafka.admin_user), isolation_level=level)
            await reader.start()
            stack.push_async_callback(reader.stop)
            readers.append(reader)

        async def closed() -> bool:
            ends = [await reader.end_offsets(places) for reader in readers]
            return bool(ends[0] == ends[1])

        await eventually_true(closed, "every transaction to be closed", seconds)
