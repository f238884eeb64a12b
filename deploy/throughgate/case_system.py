"""An agency's case system as Throughgate meets it: publishes events, reads replies and what the agency is told."""

import hashlib
import hmac
import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from contracts import topic_names
from throughgate.reaching import CommandError, Surroundings, open_consumer

PREFIX = "throughgate."


@dataclass(frozen=True)
class Received:
    """A record that an agency read from one of its topics."""

    topic: str
    partition: int
    offset: int
    key: str
    event: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)
    value: bytes = b""
    """The event's own bytes."""

    @property
    def type(self) -> str:
        """The event's type without the `throughgate.` before it and the version behind."""
        return short(self.event["type"])

    @property
    def data(self) -> dict[str, Any]:
        """What the event says."""
        found: dict[str, Any] = self.event["data"]
        return found

    @property
    def subject(self) -> str:
        """The client's reference at this recipient."""
        return str(self.event.get("subject") or "")

    @property
    def place(self) -> tuple[str, int, int]:
        """Topic, partition and offset."""
        return self.topic, self.partition, self.offset

    @property
    def categories(self) -> list[str]:
        """The categories that came with it."""
        return sorted({s["category"] for s in self.data.get("sections", ())})

    @property
    def rests_on(self) -> str:
        """In words, what its receipt rests on."""
        receipt = self.data.get("receipt")
        if not receipt:
            return ""
        grounds = {
            f"{p['agreement']} v{p['agreementVersion']} ({p['basis']})"
            if p["agreement"]
            else f"{p['basis']} {p['invoked']}"
            for p in receipt["permitted"]
        }
        return "; ".join([*sorted(grounds), *(f"consent {v}" for v in self.consents)])

    @property
    def consents(self) -> list[int]:
        """The consent versions that its receipt rests on."""
        permitted = self.data.get("receipt", {}).get("permitted", ())
        return sorted({p["consent"] for p in permitted if p["consent"] is not None})


def short(type: str) -> str:
    """An event type for people: `client.changed`."""
    return type.removeprefix(PREFIX).rsplit(".v", 1)[0]


def make_event(agency: str, type: str, data: Mapping[str, Any], **envelope: Any) -> dict[str, Any]:
    """A CloudEvents 1.0 event as a case system makes it; `envelope` replaces attributes."""
    return {
        "specversion": "1.0",
        "id": str(uuid.uuid4()),
        "source": f"/agencies/{agency}/case-system",
        "type": f"{PREFIX}{type}.v1",
        "time": datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        "data": dict(data),
        **envelope,
    }


class CaseSystem:
    """One agency's case system: publishes to its intake topic and reads its replies and what it is told.

    It reads from where its topics ended when it was opened. Close it.
    """

    def __init__(self, around: Surroundings, agency: str) -> None:
        self.agency = agency
        self._around = around
        self._config = around.kafka_config(agency)
        self._intake = around.topic(topic_names.intake(agency))
        self._replies = around.topic(topic_names.replies(agency))
        self._partner = around.topic(topic_names.partner(agency))
        self._producer = Producer(
            self._config | {"enable.idempotence": True, "acks": "all", "message.max.bytes": 4_000_000, "linger.ms": 0}
        )
        self._looker: Consumer | None = None
        self._received: list[Received] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._trouble: Exception | None = None
        self._consumer = open_consumer(self._config, [self._replies, self._partner], from_end=True)
        self._thread = threading.Thread(target=self._read, name=f"story-{agency}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading and disconnect."""
        self._closing.set()
        self._thread.join(5.0)
        self._consumer.close()
        if self._looker is not None:
            self._looker.close()
        self._producer.flush(2.0)

    @property
    def received(self) -> list[Received]:
        """All that was read so far, repeated ids dropped as partners must."""
        first: dict[tuple[str, str], Received] = {}
        for record in self._all():
            first.setdefault((record.topic, str(record.event.get("id"))), record)
        return list(first.values())

    def told(self, *, repeats: bool = False) -> list[Received]:
        """What stands on its partner topic; with `repeats`, repeated ids too."""
        return [r for r in (self._all() if repeats else self.received) if r.topic == self._partner]

    def replies(self) -> list[Received]:
        """What stands on its replies topic."""
        return [r for r in self.received if r.topic == self._replies]

    def all_replies(self) -> list[Received]:
        """What stands on its replies topic, repeated ids and all."""
        return [r for r in self._all() if r.topic == self._replies]

    def _all(self) -> list[Received]:
        with self._lock:
            if self._trouble is not None:
                raise CommandError(f"{self.agency} cannot read its topics: {self._trouble}")
            return list(self._received)

    def has_read_to_the_end(self) -> bool:
        """Whether everything that stands on its partner topic now was read."""
        topic = self._partner
        if self._looker is None:  # the reading consumer is busy in its thread, and would not answer
            self._looker = Consumer(self._config | {"group.id": f"{self.agency}.story"})
        partitions = self._looker.list_topics(topic, timeout=15).topics[topic].partitions
        ends = {
            n: self._looker.get_watermark_offsets(TopicPartition(topic, n), timeout=15)[1] for n in sorted(partitions)
        }
        with self._lock:
            return all(self._ends.get((topic, n), -1) >= end for n, end in ends.items())

    def publish(
        self, value: bytes, key: str, *, topic: str | None = None, traceparent: str = ""
    ) -> tuple[str, int, int]:
        """Send one event and wait until the brokers have it. Gives its topic, partition and offset.

        Raises:
            CommandError: it was not taken; `refused` when the topic is not this agency's to write.
        """
        done: list[tuple[KafkaError | None, Message]] = []
        try:
            self._producer.produce(
                topic or self._intake,
                value=value,
                key=key,
                headers={"traceparent": traceparent} if traceparent else None,
                on_delivery=lambda error, message: done.append((error, message)),
            )
        except KafkaException as error:  # at once, when the producer knows already that the topic is not its to write
            raise self._not_taken(topic, error.args[0]) from error
        until = time.monotonic() + 30
        while not done and time.monotonic() < until:
            self._producer.poll(0.1)
        if not done:
            raise CommandError(
                f"Kafka at {self._around.kafka_servers} did not take an event in 30 s: is the system up?"
            )
        refusal, message = done[0]
        if refusal is not None:
            raise self._not_taken(topic, refusal)
        return message.topic() or "", message.partition() or 0, message.offset() or 0

    def _not_taken(self, topic: str | None, refusal: KafkaError) -> CommandError:
        return CommandError(f"{self.agency} could not write to {topic or self._intake}: {refusal.name()}")

    def key_for(self, identifier: Mapping[str, str]) -> str:
        """This agency's own surrogate for a client: the same for the same number, and never the number."""
        secret = self._around.passwords[self.agency].encode()
        return hmac.new(secret, f"{identifier['type']} {identifier['value']}".encode(), hashlib.sha256).hexdigest()[:16]

    def _read(self) -> None:
        while not self._closing.is_set():
            try:
                messages = self._consumer.consume(200, timeout=0.1)
            except (KafkaException, RuntimeError) as trouble:
                self._trouble = trouble
                return
            read = [r for m in messages if (r := read_message(m)) is not None]
            ends = {
                (m.topic() or "", m.partition() or 0): m.offset() or 0
                for m in messages
                if (error := m.error()) is not None and error.code() == KafkaError._PARTITION_EOF
            }
            if read or ends:
                with self._lock:
                    self._received += read
                    self._ends |= ends


def read_message(message: Message) -> Received | None:
    """A record, or None for one that is no event of ours."""
    if message.error() is not None:
        return None
    try:
        event = json.loads(message.value() or b"")
    except ValueError:
        return None
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return Received(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        (message.key() or b"").decode() if isinstance(message.key(), bytes | None) else str(message.key()),
        event,
        {name: value.decode() if isinstance(value, bytes) else str(value) for name, value in pairs},
        message.value() or b"",
    )
