"""Reading what stands in topics ends, whatever happens to them meanwhile."""

import asyncio
from datetime import UTC, datetime
from typing import Any

from confluent_kafka.admin import NewTopic
from support import servers

from servicekit.kafka import create_consumer, create_producer, written_since

BEGINNING = datetime.fromtimestamp(0, UTC)


async def test_a_topic_that_is_deleted_meanwhile_is_not_waited_for(topic: Any, address: servers.Address) -> None:
    """What follows the first record belongs to an open transaction, so that the reading has not ended by itself."""
    await topic.write(b"1")
    producer = create_producer(topic.settings, "open")
    await producer.start()
    reader = create_consumer(topic.settings, None)
    await reader.start()
    admin = servers.RunningKafka(address).admin()
    try:
        await producer.begin_transaction()
        await (await producer.send(topic.path, b"2"))
        found: list[bytes | None] = []
        waited = False
        async with asyncio.timeout(40):
            async for records in written_since(topic.settings, reader, topic.path.__eq__, BEGINNING):
                found += [record.value for record in records]
                if found and not records and not waited:
                    waited = True
                    await asyncio.to_thread(admin.delete_topics([topic.path])[topic.path].result)
        assert found == [b"1"]
        assert waited, "the open transaction was not waited for"
    finally:
        await reader.stop()
        await producer.stop()
        await asyncio.to_thread(admin.create_topics([NewTopic(topic.path, 1, 1)])[topic.path].result)
