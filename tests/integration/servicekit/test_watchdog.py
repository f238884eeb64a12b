"""The watchdog ends a process that stalls, and no other; it ends the process, so each try is a process of its own."""

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

STALLED = 70

SCRIPT = """
import asyncio, os, sys
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from servicekit.kafka import Watchdog, create_consumer, create_producer
from servicekit.settings import Settings
from servicekit.worker import Worker

LOOKS = 12
IDLE = 8

async def main(how, topic):
    settings = Settings()
    if how == "marker":
        producer = create_producer(settings, topic)
        await producer.start()
        async with producer.transaction():
            await producer.send_and_wait(topic, b"c", partition=0)
        await producer.stop()
    consumer = create_consumer(settings, topic)
    await consumer.start()
    consumer.assign([TopicPartition(topic, 0)])
    here = TopicPartition(topic, 0)
    if how in ("quiet", "in hand", "marker", "late"):
        last = None
        while last is None or last.offset < (2 if how == "marker" else 1):
            for records in (await consumer.getmany(timeout_ms=5000)).values():
                last = records[-1]
        if how != "in hand":
            await consumer.commit({here: last.offset + 1})  # as the worker does
        await consumer.getmany(timeout_ms=300)  # the marker of a transaction is passed over, by nobody's commit
    watchdog = Watchdog(consumer, 0.4)
    if how == "in hand":
        batch = watchdog.batch()
        batch.__enter__()
    look = watchdog._lag

    async def looked():
        # Stands before the real answer; the process ends well once the watchdog looked often enough and let it live.
        looked.times += 1
        print("look", looked.times, flush=True)
        if looked.times > LOOKS:
            os._exit(0)
        if how == "refused":
            raise KafkaConnectionError
        if how == "unreachable":
            raise OSError
        if how == "silent":
            raise TimeoutError
        lag = await look()
        if how == "late":
            assert lag == 0
            lag = 2 if looked.times > IDLE else 0
        if how == "meanwhile":
            watchdog.progress()
        return lag

    looked.times = 0
    watchdog._lag = looked

    async def move():
        for _ in range(100):
            watchdog.progress()
            await asyncio.sleep(0.02)
        os._exit(0)

    if how == "worker":
        class Hanging(Worker):
            async def take(self, records):
                await asyncio.sleep(30)

        await Hanging(None, consumer, None, stall_seconds=0.4).run()

    moving = asyncio.create_task(move()) if how == "working" else None
    await watchdog.run()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("stalled", STALLED),
        ("in hand", STALLED),
        ("worker", STALLED),
        ("late", STALLED),
        ("quiet", 0),
        ("marker", 0),
        ("working", 0),
        ("meanwhile", 0),
        ("refused", 0),
        ("unreachable", 0),
        ("silent", 0),
    ],
)
async def test_it_ends_with_lag_and_an_answering_broker_and_no_progress_only(how: str, status: int, topic: Any) -> None:
    await topic.write(b"a", b"b")
    settings = topic.settings
    environment = os.environ | {
        "THROUGHGATE_DATABASE_URL": "none",
        "THROUGHGATE_KAFKA_SERVERS": settings.kafka_servers,
        "THROUGHGATE_KAFKA_USER": settings.kafka_user,
        "THROUGHGATE_KAFKA_PASSWORD": settings.kafka_password.get_secret_value(),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT, how, topic.path],
        env=environment,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    if status:
        assert "no progress for 0 s with a lag of 2 records: ending" in done.stderr
    if how == "late":  # what comes after a long silence has its time, too
        assert int(done.stdout.split()[-1]) >= 11
