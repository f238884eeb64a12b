"""The raw ceiling: the hops, transactions and bytes of the door, and no logic. Started by bench/pipeline.py.

`intake SIZE` is the worker's way: fetch up to 500, insert them in one transaction, wake the other, send a reply of SIZE
bytes for each, commit offsets. `send SIZE` is the discloser's: in one transaction delete what the last cycle sent, read
up to 1,000, insert the outgoing bytes; then send them, SIZE bytes each, in one Kafka transaction. The Kafka clients are
set up as the door's.
"""

import sys

import asyncpg
import uvloop
from aiokafka import TopicPartition

from servicekit.db import Waker, listening, wait
from servicekit.kafka import Outgoing, create_consumer, create_producer, send_all
from servicekit.settings import Settings

CHANNEL = "ceiling"


async def take_in(settings: Settings, size: int) -> None:
    """Fetch, insert, answer."""
    url, prefix = settings.database_url.get_secret_value(), settings.namespace
    consumer, producer, waker = create_consumer(settings, "intake"), create_producer(settings), Waker(url)
    consumer.subscribe([f"{prefix}intake"])
    db = await asyncpg.connect(url)
    await producer.start()
    await consumer.start()
    reply = Outgoing(f"{prefix}replies", None, b"." * size)
    while True:
        polled = await consumer.getmany(timeout_ms=200, max_records=500)
        records = [record for batch in polled.values() for record in batch]
        if not records:
            continue
        async with db.transaction():
            await db.execute(
                "INSERT INTO waiting (key, body) SELECT * FROM unnest($1::text[], $2::bytea[])",
                [record.key.decode() for record in records],
                [record.value for record in records],
            )
        waker.wake(CHANNEL)
        await send_all(producer, [reply] * len(records))
        await consumer.commit({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})


async def send(settings: Settings, size: int) -> None:
    """Read, insert, send."""
    url, topic = settings.database_url.get_secret_value(), f"{settings.namespace}partner"
    producer = create_producer(settings, "send")
    db = await asyncpg.connect(url)
    await producer.start()
    sent: list[int] = []
    filler = b"." * size
    async with listening(url, CHANNEL) as (woken,):
        while True:
            async with db.transaction(isolation="repeatable_read"):
                if sent:
                    await db.execute("DELETE FROM waiting WHERE id = ANY($1::bigint[])", sent)
                rows = await db.fetch("SELECT id, key, body FROM waiting ORDER BY id LIMIT 1000")
                sent = [row["id"] for row in rows]
                values = [(row["body"] + filler)[:size] for row in rows]
                if rows:
                    await db.execute(
                        "INSERT INTO sent (waiting_id, body) SELECT * FROM unnest($1::bigint[], $2::bytea[])",
                        sent,
                        values,
                    )
            if not rows:
                await wait(woken, 1.0)
                continue
            await producer.begin_transaction()
            outgoing = [Outgoing(topic, r["key"].encode(), v) for r, v in zip(rows, values, strict=True)]
            await send_all(producer, outgoing)
            await producer.commit_transaction()


if __name__ == "__main__":
    uvloop.run({"intake": take_in, "send": send}[sys.argv[1]](Settings(), int(sys.argv[2])))
