"""Everything that this code base knows of Kafka: connections, the batch consumer's safety, the watchdog.

Known limits of aiokafka 0.14 that shape this file: no cooperative assignor; consumers read uncommitted unless told;
consuming can stall after a rebalance or a leader change with no error (`Watchdog`); a send to a topic that does not
exist waits for its metadata for the whole request timeout (`known_topics`).
"""

import asyncio
import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import (
    InvalidMessageError,
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner, murmur2

from servicekit.settings import Settings

log = logging.getLogger(__name__)

UNSENDABLE = (
    InvalidMessageError,
    InvalidTopicError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
"""Errors of a record or its topic. Every other error is of the cluster, and no record is to blame for it."""

Headers = Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One record to send, bytes as they are."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()


def connection(settings: Settings) -> dict[str, Any]:
    """The arguments that every client needs to reach the brokers as this process's user."""
    options: dict[str, Any] = {"bootstrap_servers": settings.kafka_servers}
    if settings.kafka_user:
        options |= {
            "client_id": settings.kafka_user,
            "security_protocol": "SASL_SSL" if settings.kafka_ca_file else "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": settings.kafka_user,
            "sasl_plain_password": settings.kafka_password.get_secret_value(),
        }
        if settings.kafka_ca_file:
            options["ssl_context"] = ssl.create_default_context(cafile=settings.kafka_ca_file)
    return options


def create_producer(settings: Settings, transactional_id: str | None = None) -> AIOKafkaProducer:
    """An idempotent producer; with a transactional id, starting it fences every older one of that id."""
    return AIOKafkaProducer(
        **connection(settings),
        enable_idempotence=True,
        acks="all",
        transactional_id=settings.namespace + transactional_id if transactional_id else None,
        max_request_size=4 * 1024 * 1024,
        max_batch_size=256 * 1024,
        request_timeout_ms=10_000,
        partitioner=_partition,
    )


_hashed: Callable[[bytes], int] = lru_cache(maxsize=50_000)(murmur2)
"""In Python it takes as long as all the rest of sending a record, and a client's key comes again and again."""
_by_default = DefaultPartitioner()


def _partition(key: bytes | None, partitions: Sequence[int], available: Sequence[int]) -> int:
    """As every Kafka client places a key."""
    if key is None:
        return int(_by_default(key, partitions, available))
    return partitions[(_hashed(key) & 0x7FFFFFFF) % len(partitions)]


def create_consumer(settings: Settings, group: str | None) -> AIOKafkaConsumer:
    """A consumer that reads committed records only and commits offsets only when told."""
    return AIOKafkaConsumer(
        **connection(settings),
        group_id=settings.namespace + group if group else None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 1024 * 1024,
        fetch_max_wait_ms=100,
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
        metadata_max_age_ms=10_000,
    )


async def known_topics(producer: AIOKafkaProducer, topics: Sequence[str]) -> set[str]:
    """Which of `topics` exist for this user, found out in one round trip where not known yet."""
    missing = [t for t in topics if not producer.client.cluster.partitions_for_topic(t)]
    if missing:
        for topic in missing:
            producer.client.add_topic(topic)
        await producer.client.force_metadata_update()
    return {t for t in topics if producer.client.cluster.partitions_for_topic(t)}


async def send_all(producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> list[Any]:
    """Send and wait until the brokers have them all; gives their `RecordMetadata` in order.

    Raises:
        KafkaError: at least one record was not taken. The others may have been. Where a record or its topic is to
            blame, it is that: the others fail with the transaction, as if another producer had taken it over.
    """
    futures = [
        await producer.send(r.topic, r.value, key=r.key, headers=list(r.headers) if r.headers else None)
        for r in records
    ]
    sent = await asyncio.gather(*futures, return_exceptions=True)
    if errors := [one for one in sent if isinstance(one, BaseException)]:
        raise next((error for error in errors if isinstance(error, UNSENDABLE)), errors[0])
    return sent


GONE_SECONDS = 10.0
"""A topic that no broker shows for so long was deleted."""
STALLED_SECONDS = 120.0
"""More than a broker lets a transaction be open."""


@asynccontextmanager
async def reading(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A started consumer in no group, for `written_since`."""
    consumer = create_consumer(settings, None)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def written_since(
    settings: Settings, consumer: AIOKafkaConsumer, topics: Callable[[str], bool], moment: datetime
) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """What stands now in these topics (asked by name) with a time from `moment` on, in parts, each in order.

    `consumer` is started and in no group. It must read committed records only: where a transaction is still open, this
    waits until the broker has ended it, for behind it may stand what others can read already. An empty part says only
    that there is no more for the moment. A topic that is deleted meanwhile has nothing more to give.

    Raises:
        KafkaError: a topic may not be read.
        TimeoutError: nothing came for `STALLED_SECONDS`, and it had not ended.
    """
    places = await _partitions(consumer, topics)
    if not places:
        return
    # One that reads uncommitted records sees how far the topics really go.
    looking = AIOKafkaConsumer(**connection(settings), enable_auto_commit=False, request_timeout_ms=5_000)
    await looking.start()
    try:
        looking.assign(places)
        begins = await looking.offsets_for_times(dict.fromkeys(places, max(0, int(moment.timestamp() * 1000))))
        ends = await looking.end_offsets(places)
    finally:
        await looking.stop()
    waiting = {place: ends[place] for place, at in begins.items() if at is not None and at.offset < ends[place]}
    if not waiting:
        return
    consumer.assign(list(waiting))
    for place in waiting:
        consumer.seek(place, begins[place].offset)
    moved, missing = time.monotonic(), dict[TopicPartition, float]()
    while waiting:
        polled = await consumer.getmany(*waiting, timeout_ms=200, max_records=5000)
        if polled:
            moved = time.monotonic()
        elif time.monotonic() - moved > STALLED_SECONDS:
            raise TimeoutError
        else:
            # The library goes on asking for a topic that was deleted, and does not say so. One that is missing once
            # may be there: the answer leaves out what its broker cannot tell of just then.
            there = await _partitions(consumer, topics)
            missing = {place: missing.get(place, time.monotonic()) for place in waiting if place not in there}
            gone = {place for place, since in missing.items() if time.monotonic() - since > GONE_SECONDS}
            waiting = {place: end for place, end in waiting.items() if place not in gone}
        yield [record for records in polled.values() for record in records]
        waiting = {place: end for place, end in waiting.items() if await consumer.position(place) < end}


async def _partitions(consumer: AIOKafkaConsumer, topics: Callable[[str], bool]) -> set[TopicPartition]:
    # Not asked of the consumer itself, which knows the partitions of what is assigned to it only.
    cluster = await consumer._client.fetch_all_metadata()
    return {
        TopicPartition(name, n)
        for name in cluster.topics()
        if topics(name)
        for n in cluster.partitions_for_topic(name) or ()  # none of one that is just being deleted
    }


class Watchdog:
    """Ends the process when it makes no progress while there is something to do and the broker answers.

    A quiet night is no stall (nothing to do), nor is a broker that is away (it does not answer).
    """

    def __init__(self, consumer: AIOKafkaConsumer, seconds: float) -> None:
        self._consumer = consumer
        self._seconds = seconds
        self._in_hand = False
        self._moved = time.monotonic()

    def progress(self) -> None:
        """Something was worked on just now."""
        self._moved = time.monotonic()

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the work on what was polled, up to the commit of its offsets."""
        self._in_hand = True
        try:
            yield
        finally:
            self._in_hand = False
            self.progress()

    async def run(self) -> None:
        """Look every few seconds, for ever."""
        while True:
            await asyncio.sleep(min(self._seconds / 4, 10))
            try:
                async with asyncio.timeout(5):
                    lag = await self._lag()
            except (TimeoutError, KafkaError, OSError):
                lag = 0
            if lag == 0:
                self.progress()
            elif time.monotonic() - self._moved >= self._seconds:
                log.critical("no progress for %d s with a lag of %d records: ending", self._seconds, lag)
                os._exit(70)

    async def _lag(self) -> int:
        partitions = self._consumer.assignment()
        ends = await self._consumer.end_offsets(list(partitions)) if partitions else {}
        done = await asyncio.gather(*(self._done(partition) for partition in ends))
        return int(sum(ends.values())) - sum(done)

    async def _done(self, partition: TopicPartition) -> int:
        """Up to where a partition is worked off: behind the markers of transactions too, which nobody commits."""
        if not self._in_hand:
            with suppress(TimeoutError):  # it has no position yet
                async with asyncio.timeout(1):
                    return int(await self._consumer.position(partition))
        return await self._consumer.committed(partition) or 0
