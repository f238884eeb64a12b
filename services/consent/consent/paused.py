"""Topics that cannot be written: they are paused, so that one of them does not hold up the others."""

import asyncio
import logging
import time
from collections.abc import Collection, Iterator

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from prometheus_client import Gauge

from servicekit.kafka import known_topics

log = logging.getLogger(__name__)

PAUSED = Gauge(
    "throughgate_topics_paused", "Topics that do not exist or may not be written, tried again every few seconds."
)
PAUSE_SECONDS = 5.0


class PausedTopics:
    """Which topics wait, by their names without the namespace."""

    def __init__(self, namespace: str, answer_seconds: float) -> None:
        self._namespace, self._answer_seconds = namespace, answer_seconds
        self._until: dict[str, float] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._until

    def __iter__(self) -> Iterator[str]:
        return iter(self._until)

    def add(self, topic: str) -> None:
        """Let a topic wait."""
        log.error("topic %s does not exist or may not be written: its records wait", topic)
        self._until[topic] = time.monotonic() + PAUSE_SECONDS
        PAUSED.set(len(self._until))

    async def without_missing(self, producer: AIOKafkaProducer, topics: Collection[str]) -> set[str]:
        """Those of `topics` that exist for this user; the others wait from now on."""
        known = await known_topics(producer, sorted(self._namespace + topic for topic in topics))
        found = {topic.removeprefix(self._namespace) for topic in known}
        for topic in sorted(set(topics) - found):
            self.add(topic)
        return found

    async def look_again(self, producer: AIOKafkaProducer) -> list[str]:
        """Those that wait still, when those whose pause is over were looked for again."""
        now = time.monotonic()
        due = {topic for topic, until in self._until.items() if until <= now}
        if due:
            try:
                async with asyncio.timeout(self._answer_seconds):
                    found = await self.without_missing(producer, due)
            except (TimeoutError, KafkaError, OSError):
                return list(self._until)  # the brokers do not answer: nothing is known, so nothing changes
            for topic in found:
                del self._until[topic]
            PAUSED.set(len(self._until))
        return list(self._until)
