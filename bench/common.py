"""What several benches share: the door, a prison and whom it tells, their events, who publishes and reads them."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from bench.figures import say
from throughgate.native.kafka import Kafka
from throughgate.native.postgres import Postgres
from throughgate.native.process import NativeError
from throughgate.system import System

PRISON, CHARITY = "hmp-leeds", "harbour-housing"
WORKER, DISCLOSER = "consent.worker", "consent.discloser"
SHARED = ["identity", "custody-and-release", "needs.accommodation", "equality"]
"""What the agreement covers: not the risk that the prison records too, so every record is cut."""
PATIENCE = 120.0
"""Seconds without any record after which a run is given up."""


def the_door(recipients: Sequence[str], stack: ExitStack) -> System:
    """The door and its servers, started, with an agreement between the prison and these; they end with `stack`."""
    say("Starting PostgreSQL, Kafka and the door.")
    system = System(Postgres(durable=True), Kafka(optimise=True), [PRISON, *recipients], services=["consent"])
    stack.enter_context(system)
    asyncio.run(_agree(system, recipients))
    return system


async def _agree(system: System, recipients: Sequence[str]) -> None:
    token = system.issuer.token("operations", "operator", ["operator", "agreements:read"])
    headers = {"Authorization": f"Bearer {token}"}
    terms = {"purpose": "referral", "basis": "consent", "categories": SHARED, "subscription": True}
    agreement = {
        "id": "resettlement",
        "version": 1,
        "sources": [PRISON],
        "recipients": list(recipients),
        "terms": [terms],
        "signatories": dict.fromkeys([PRISON, *recipients], "A. Director"),
        "starts": "2025-01-01T00:00:00Z",
        "review": "2098-01-01T00:00:00Z",
        "ends": "2099-01-01T00:00:00Z",
    }
    async with httpx.AsyncClient(base_url=system.urls["consent"], headers=headers) as http:
        for id in (PRISON, *recipients):
            agency = {"name": id, "kind": "prison" if id == PRISON else "vcs", "area": "leeds"}
            (await http.put(f"/agencies/{id}", json=agency)).raise_for_status()
        (await http.post("/agreements", json=agreement)).raise_for_status()


class Clients:
    """The prison's clients, each with its two numbers and the surrogate that is its Kafka key."""

    def __init__(self, count: int) -> None:
        self._numbers = [
            [
                {"type": "NOMS", "value": f"A{n % 10_000:04}{chr(65 + n // 10_000)}X"},
                {"type": "PNC", "value": f"2004/{n:07}H"},
            ]
            for n in range(count)
        ]
        self._keys = [str(uuid4()).encode() for _ in range(count)]
        self._versions = [0] * count
        self._turn = 0

    def granted(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and bytes of an event for each: the client agrees that the charity is told."""
        for key, numbers in zip(self._keys, self._numbers, strict=True):
            data = {
                "identifiers": numbers,
                "form": uuid4().hex,
                "recipients": [{"agency": CHARITY}],
                "purposes": ["referral"],
                "categories": SHARED,
                "givenAt": datetime.now(UTC),
                "how": {"formVersion": "2026-1", "witnessRole": "resettlement worker"},
            }
            yield key, _event("consent.granted", data)

    def recorded(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and bytes of `count` events with facts, client after client: 0.8 kB each, as a case system sends them."""
        for _ in range(count):
            n = self._turn = (self._turn + 1) % len(self._keys)
            self._versions[n] += 1
            facts = {
                "identity": {
                    "givenName": "Daniel",
                    "familyName": f"Example{n}",
                    "dateOfBirth": "1991-04-17",
                    "gender": "male",
                },
                "custody-and-release": {
                    "prison": "LEI",
                    "status": "sentenced",
                    "releaseDate": "2026-04-11",
                    "releaseKind": "conditional",
                },
                "needs.accommodation": {
                    "level": "urgent",
                    "summary": "No address to go to on the day of release; was staying with friends before.",
                    "area": "leeds",
                },
                "risk": {"harm": "medium"},
                "equality": {"language": "en", "interpreterNeeded": False},
            }
            data = {"identifiers": self._numbers[n], "facts": facts}
            yield self._keys[n], _event("client.recorded", data, clientversion=self._versions[n])


def _event(kind: str, data: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": f"/agencies/{PRISON}/case-system",
            "type": f"throughgate.{kind}.v1",
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
            "data": data,
        }
        | more
    )


def consumer(kafka: Kafka, topic: str, **more: Any) -> tuple[Consumer, list[TopicPartition]]:
    """A consumer of committed records, in C so that it takes little from what is measured; and where the topic's
    partitions begin, none of which it is assigned yet.
    """
    config = {"group.id": "bench", "isolation.level": "read_committed", "enable.auto.commit": False}
    made = Consumer(kafka.client_config() | config | more)
    partitions = made.list_topics(topic, timeout=10).topics[topic].partitions
    return made, [TopicPartition(topic, p, 0) for p in partitions]


class Reader:
    """Reads one topic from now on."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._topic = topic
        self._consumer, places = consumer(kafka, topic)
        for place in places:
            place.offset = self._end(place)
        self._consumer.assign(places)

    def _end(self, place: TopicPartition) -> int:
        until = time.monotonic() + 15
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(place, timeout=10)[1])
            except KafkaException:  # a topic made just now may have no leader yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def take(self, count: int) -> list[bytes]:
        """The next `count` records."""
        found: list[bytes] = []
        heard = time.monotonic()
        while len(found) < count:
            messages = self._consumer.consume(1000, timeout=0.01)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise NativeError(f"Only {len(found)} of {count} records arrived in {self._topic}.")
            found += [_value(m) for m in messages]
        return found

    def take_timed(self, count: int) -> list[tuple[float, bytes]]:
        """The next `count` records, each with the time at which it was here."""
        found: list[tuple[float, bytes]] = []
        heard = time.monotonic()
        while len(found) < count:
            message = self._consumer.poll(1.0)
            if message is not None:
                found.append((time.time(), _value(message)))
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise NativeError(f"Only {len(found)} of {count} records arrived in {self._topic}.")
        return found

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


def _value(message: Any) -> bytes:
    if message.error():
        raise KafkaException(message.error())
    value: bytes = message.value()
    return value


class Side:
    """What is measured: where its events go in and come out, and whom to stop while they are loaded."""

    def __init__(self, kafka: Kafka, intake: str, partner: str, first: Callable[[], int], user: str) -> None:
        self.reader = Reader(kafka, partner)
        self._intake = intake
        self.first = first
        config = kafka.client_config(user) | {"acks": "all", "linger.ms": 2}
        self._producer = Producer(config | {"queue.buffering.max.messages": 1_000_000})

    def publish(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish and wait for the broker."""
        for key, value in events:
            self._producer.produce(self._intake, value, key=key)
        if self._producer.flush(60):
            raise NativeError(f"The broker did not take all events for {self._intake}.")

    def drain(self, events: Sequence[tuple[bytes, bytes]]) -> tuple[float, list[bytes]]:
        """Load `events` while the first process stands still; give the seconds from waking it to the last record.

        It is stopped, not ended: it is warm and has its partitions, so that no start is measured.
        """
        os.kill(self.first(), signal.SIGSTOP)
        try:
            self.publish(events)
        finally:
            begun = time.perf_counter()
            os.kill(self.first(), signal.SIGCONT)
        records = self.reader.take(len(events))
        return time.perf_counter() - begun, records

    def paced(self, clients: Clients, rate: float, seconds: float) -> list[float]:
        """Publish at a steady rate; give the milliseconds from each event's time to its record being here.

        The event's time is that of publishing it, and the record says it again in `recordedAt`.
        """
        count = int(rate * seconds)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(self.reader.take_timed, count)
            begun = time.monotonic()
            sent = 0
            while sent < count:
                due = min(count, int((time.monotonic() - begun) * rate) + 1)
                for key, value in clients.recorded(due - sent):
                    self._producer.produce(self._intake, value, key=key)
                sent = due
                self._producer.poll(0)
                time.sleep(0.001)
            self._producer.flush(30)
            arrived = reading.result()
        return sorted(1000 * (at - _recorded_at(value)) for at, value in arrived)


def _recorded_at(value: bytes) -> float:
    return datetime.fromisoformat(orjson.loads(value)["data"]["sections"][0]["recordedAt"]).timestamp()
