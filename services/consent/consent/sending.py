"""What a shard writes: its producer, the only one with its transactional id, and the Kafka transaction of a cycle."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from consent.events import head_event
from consent.paused import PausedTopics
from consent.service.disclosing import Leaving, Place
from consent.settings import RESTART_SECONDS, STOP_SECONDS, DiscloserSettings
from contracts import topic_names
from contracts.heads import Head
from servicekit.kafka import Outgoing, create_producer, send_all
from servicekit.telemetry import Step, across_the_border, follow, header

log = logging.getLogger(__name__)


class Sender:
    """Writes for one shard, a transaction at a time."""

    def __init__(self, settings: DiscloserSettings, keep_session: Callable[[], Awaitable[None]]) -> None:
        """`keep_session` fails when the session is lost that holds the shard's lock: the lock allows the producer."""
        self._settings, self._keep_session = settings, keep_session
        self._producer: AIOKafkaProducer | None = None
        self._steps: list[Step] = []
        self.paused = PausedTopics(settings.namespace, settings.send_seconds)

    @property
    def producer(self) -> AIOKafkaProducer:
        """The producer that is started."""
        if self._producer is None:
            raise RuntimeError("the producer is started before the first claim")
        return self._producer

    async def renew(self) -> None:
        """A fresh producer of the same transactional id: fences an older one, aborts what was open, and knows nothing
        of the failed one.
        """
        await self.stop()
        self._producer = await self._start(self._settings.shard)

    async def fence(self, shard: int) -> None:
        """Fence whoever writes as another shard."""
        await (await self._start(shard)).stop()

    async def _start(self, shard: int) -> AIOKafkaProducer:
        while True:
            await self._keep_session()
            producer = create_producer(self._settings, f"discloser-{shard}")
            try:
                async with asyncio.timeout(self._settings.send_seconds):
                    await producer.start()
                return producer
            except (TimeoutError, KafkaError, OSError) as error:
                log.warning("the brokers cannot be reached yet: %s", type(error).__name__)
                with suppress(Exception):
                    await asyncio.wait_for(producer.stop(), STOP_SECONDS)
                await asyncio.sleep(RESTART_SECONDS)

    async def look_again(self) -> list[str]:
        """The topics that wait still, when those whose pause is over were looked for again."""
        return await self.paused.look_again(self.producer)

    async def can_write(self, topics: Collection[str]) -> bool:
        """Whether none of these is missing; those that are wait from now on."""
        return len(await self.paused.without_missing(self.producer, topics)) == len(topics)

    async def begin(self) -> None:
        """Begin a transaction. It is not aborted here when it fails: the producer that replaces this one aborts it, or
        finds it committed.
        """
        self._steps = []
        await self.producer.begin_transaction()

    async def write(self, leaving: Sequence[Leaving], heads: Sequence[Head] = ()) -> list[tuple[Leaving, Place]]:
        """Write into the transaction, the heads behind the others; gives where each stands."""
        prefix, outgoing = self._settings.namespace, []
        for item in leaving:
            step, traceparent = _trace(item.row)
            self._steps.append(step)
            key = str(item.row.reference).encode()
            outgoing.append(Outgoing(prefix + item.row.topic, key, item.value, header(traceparent)))
        outgoing += [Outgoing(prefix + topic_names.HEADS, str(head.shard).encode(), head_event(head)) for head in heads]
        written = await send_all(self.producer, outgoing)
        return [(item, (item.row.topic, at.partition, at.offset)) for item, at in zip(leaving, written, strict=False)]

    async def commit(self) -> None:
        """Commit the transaction: from now on it can be read."""
        await self.producer.commit_transaction()
        for step in self._steps:
            step.end()

    async def stop(self) -> None:
        """Stop the producer; one that cannot be stopped is left."""
        if self._producer is not None:
            with suppress(Exception):
                await asyncio.wait_for(self._producer.stop(), STOP_SECONDS)


def is_fenced(error: BaseException) -> bool:
    """Whether another process writes in place of this one."""
    return type(error).__name__ in {
        "ProducerFenced",
        "InvalidProducerEpoch",
        "InvalidTxnState",
        "TransactionalIdAuthorizationFailed",
    }


def _trace(row: Any) -> tuple[Step, str | None]:
    """A sending step; to a service our trace goes on, to a partner a new one begins."""
    name = f"send {row.type} to {row.topic}"
    if topic_names.parts(row.topic)[0] == "cleared":
        step = follow(name, row.traceparent)
        return step, step.traceparent
    return across_the_border(name, row.traceparent)
