"""How the story reaches a system: addresses, tokens, the agencies' case systems on Kafka, the services over HTTP."""

import hashlib
import hmac
import json
import logging
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import httpx
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from throughgate.issuer import Issuer

T = TypeVar("T")
PREFIX = "throughgate."
READ_SECONDS = 30.0
"""How long Kafka may give nothing while a topic is read to its end."""
SCOPES = {
    "operator": ("operator", "agreements:write", "agreements:read", "audit"),
    "agency": (
        "events:write",
        "disclosures:read",
        "subject-access",
        "agreements:read",
        "agreements:sign",
        "decisions:ask",
        "views:read",
    ),
    "referral": ("directory:write", "referrals:read", "operator"),
    "matching": ("volunteers:write", "matches:read", "operator"),
    "notifications": ("plans:write", "plans:read", "operator"),
}
"""What each of the story's callers may do."""

_quiet = logging.getLogger("throughgate.story.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class StoryError(Exception):
    """Something did not come out as it must, or cannot be reached. The message is a sentence for people."""


@dataclass(frozen=True)
class Surroundings:
    """Where a running system is, and how its agencies get in."""

    kafka_servers: str
    urls: Mapping[str, str]
    """Base URL of each service's API."""
    passwords: Mapping[str, str]
    """Kafka passwords by agency."""
    issuer: Issuer
    namespace: str = ""
    traces_url: str = ""
    """Where `GET /traces/<id>` answers (`throughgate.traces`); empty where traces go elsewhere."""
    database: str = ""
    """URL of the door's database, which `throughgate replay` reads; empty where it is not known."""

    def kafka_config(self, user: str) -> dict[str, Any]:
        """The settings of a Kafka client of `user`. Raises StoryError for a user whose password is not known."""
        if user not in self.passwords:
            known = ", ".join(sorted(self.passwords)) or "none"
            raise StoryError(f"There is no agency {user} in this system: choose one of {known}.")
        config: dict[str, Any] = {
            "bootstrap.servers": self.kafka_servers,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.passwords[user],
            "reconnect.backoff.max.ms": 500,
            "logger": _quiet,
        }
        if ca_file := os.environ.get("THROUGHGATE_KAFKA_CA_FILE"):
            config |= {"security.protocol": "SASL_SSL", "ssl.ca.location": ca_file}
        return config

    def topic(self, name: str) -> str:
        """A topic's full name."""
        return self.namespace + name


def variable(prefix: str, name: str) -> str:
    """The environment variable that belongs to a user or role: `THROUGHGATE_KAFKA_PASSWORD_HMP_LEEDS`."""
    return prefix + re.sub(r"[^A-Z0-9]", "_", name.upper())


def passwords_from_environment(users: Sequence[str], prefix: str = "THROUGHGATE_KAFKA_PASSWORD_") -> dict[str, str]:
    """Each user's password: from `<prefix><USER>`, else from the file `THROUGHGATE_PASSWORDS_FILE` (`user=password`).

    Raises:
        StoryError: one is missing, or the file cannot be read.
    """
    kept: dict[str, str] = {}
    if path := os.environ.get("THROUGHGATE_PASSWORDS_FILE"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            raise StoryError(f"The passwords cannot be read from {path}: {error.strerror}.") from error
        pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
        kept = {name.strip(): value.strip() for name, _, value in pairs}
    found = {u: os.environ.get(variable(prefix, u)) or kept.get(u, "") for u in users}
    if missing := [u for u, password in found.items() if not password]:
        raise StoryError(
            f"The password of {missing[0]} is missing: set {variable(prefix, missing[0])}, "
            "or name a file of lines user=password in THROUGHGATE_PASSWORDS_FILE."
        )
    return found


# --- records ---


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

    def __init__(self, around: Surroundings, agency: str, *, topics: Sequence[str] = ("replies", "partner")) -> None:
        self.agency = agency
        self._around = around
        self._config = around.kafka_config(agency)
        self._intake = around.topic(f"intake.{agency}")
        self._producer = Producer(
            self._config | {"enable.idempotence": True, "acks": "all", "message.max.bytes": 4_000_000, "linger.ms": 0}
        )
        self._looker: Consumer | None = None
        self._received: list[Received] = []
        self._ends: dict[tuple[str, int], int] = {}
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._trouble: Exception | None = None
        self._consumer = open_consumer(self._config, [around.topic(f"{t}.{agency}") for t in topics], from_end=True)
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
        topic = self._around.topic(f"partner.{self.agency}")
        return [r for r in (self._all() if repeats else self.received) if r.topic == topic]

    def replies(self) -> list[Received]:
        """What stands on its replies topic."""
        return [r for r in self.received if r.topic == self._around.topic(f"replies.{self.agency}")]

    def all_replies(self) -> list[Received]:
        """What stands on its replies topic, repeated ids and all."""
        return [r for r in self._all() if r.topic == self._around.topic(f"replies.{self.agency}")]

    def _all(self) -> list[Received]:
        with self._lock:
            if self._trouble is not None:
                raise StoryError(f"{self.agency} cannot read its topics: {self._trouble}")
            return list(self._received)

    def has_read_to_the_end(self) -> bool:
        """Whether everything that stands on its partner topic now was read."""
        topic = self._around.topic(f"partner.{self.agency}")
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
            StoryError: it was not taken; `refused` when the topic is not this agency's to write.
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
            raise StoryError(f"Kafka at {self._around.kafka_servers} did not take an event in 30 s: is the system up?")
        refusal, message = done[0]
        if refusal is not None:
            raise self._not_taken(topic, refusal)
        return message.topic() or "", message.partition() or 0, message.offset() or 0

    def _not_taken(self, topic: str | None, refusal: KafkaError) -> StoryError:
        return StoryError(f"{self.agency} could not write to {topic or self._intake}: {refusal.name()}")

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


def open_consumer(config: Mapping[str, Any], topics: Sequence[str], *, from_end: bool) -> Consumer:
    """A consumer of all partitions of `topics`, in no group, of committed records only.

    Raises:
        StoryError: a topic does not exist or is not this user's to read, or Kafka cannot be reached.
    """
    user = config["sasl.username"]
    consumer = Consumer(
        dict(config)
        | {
            "group.id": f"{user}.story",  # librdkafka wants one; it is not joined, and nothing is committed
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 100,
        }
    )
    try:
        places = []
        for topic in topics:
            found = consumer.list_topics(topic, timeout=15).topics[topic]
            if found.error is not None:
                raise KafkaException(found.error)
            for partition in found.partitions:
                place = TopicPartition(topic, partition)
                if from_end:
                    place.offset = consumer.get_watermark_offsets(place, timeout=15)[1]
                else:
                    place.offset = OFFSET_BEGINNING
                places.append(place)
        consumer.assign(places)
    except KafkaException as error:
        consumer.close()
        raise (
            _refused(error.args[0], user, ", ".join(topics))
            or StoryError(
                f"Kafka at {config['bootstrap.servers']} does not answer: is the system up? ({error.args[0].name()})"
            )
        ) from error
    return consumer


def records_on(around: Surroundings, user: str, topic: str, *, follow: bool = False) -> Iterator[Message]:
    """All that stands on a topic now, committed records only; with `follow`, what comes later too, for ever.

    Raises:
        StoryError: the topic is not this user's to read, Kafka cannot be reached, or it did not give all of it.
    """
    consumer = open_consumer(around.kafka_config(user), [around.topic(topic)], from_end=False)
    waiting = {place.partition for place in consumer.assignment()}  # a set: a partition may end more than once
    until = time.monotonic() + READ_SECONDS
    try:
        while follow or waiting:
            message = consumer.poll(0.5)
            error = message.error() if message is not None else None
            if message is not None and error is None:
                until = time.monotonic() + READ_SECONDS
                yield message
            elif message is not None and error is not None and error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition())
            elif error is not None and (sentence := _refused(error, user, topic)):
                raise sentence
            elif not follow and time.monotonic() > until:  # other errors come and go while brokers change
                raise StoryError(f"Kafka gave nothing more of {topic} for {READ_SECONDS:.0f} s, and it had not ended.")
    finally:
        consumer.close()


def _refused(error: KafkaError, user: str, topics: str) -> StoryError | None:
    """What an error of reading says to people; None where Kafka may yet answer."""
    sentences = {
        KafkaError.TOPIC_AUTHORIZATION_FAILED: f"{user} may not read {topics} (TOPIC_AUTHORIZATION_FAILED): "
        "each agency reads its own partner, replies and the heads topic.",
        KafkaError.UNKNOWN_TOPIC_OR_PART: f"{user} sees no topic {topics}: check the name.",
        KafkaError._AUTHENTICATION: f"Kafka refused the password of {user}: is this the system that it belongs to?",
    }
    return StoryError(sentences[error.code()]) if error.code() in sentences else None


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


def try_to_read(around: Surroundings, agency: str, topic: str) -> str:
    """What Kafka says when `agency` opens `topic` to read it: the name of the error, or nothing when it lets it."""
    consumer = Consumer(around.kafka_config(agency) | {"group.id": f"{agency}.story"})
    try:
        found = consumer.list_topics(around.topic(topic), timeout=15).topics[around.topic(topic)]
        return "" if found.error is None else str(found.error.name())
    except KafkaException as error:
        return str(error.args[0].name())
    finally:
        consumer.close()


# --- HTTP ---


class Api:
    """The services' APIs, called with the tokens of whoever the story needs."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._clients = {s: httpx.Client(base_url=url, timeout=15.0) for s, url in around.urls.items()}
        self._tokens: dict[tuple[str, tuple[str, ...]], tuple[float, str]] = {}

    def close(self) -> None:
        """Disconnect."""
        for client in self._clients.values():
            client.close()

    def operator(self, method: str, path: str, **options: Any) -> Any:
        """Call the door as the operator."""
        return self._call("consent", method, path, "operator", SCOPES["operator"], **options)

    def agency(self, agency: str, method: str, path: str, **options: Any) -> Any:
        """Call the door as one of an agency's people."""
        return self._call("consent", method, path, agency, SCOPES["agency"], **options)

    def service(self, service: str, method: str, path: str, **options: Any) -> Any:
        """Call one of the three services as its co-ordinator."""
        return self._call(service, method, path, "operator", SCOPES[service], **options)

    def _call(self, service: str, method: str, path: str, agency: str, scopes: tuple[str, ...], **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._token(agency, scopes)}"}
        until = time.monotonic() + 30
        while True:
            try:
                answer = self._clients[service].request(method, path, headers=headers, **options)
            except httpx.HTTPError as error:
                if time.monotonic() > until:
                    url = self._around.urls[service]
                    raise StoryError(f"The {service} API at {url} does not answer: is the system up?") from error
                time.sleep(0.2)
                continue
            if answer.is_success:
                return answer.json() if answer.content else None
            raise StoryError(f"The {service} API refused {method} {path.split('?')[0]}: {_problem(answer)}")

    def _token(self, agency: str, scopes: tuple[str, ...]) -> str:
        until, token = self._tokens.get((agency, scopes), (0.0, ""))
        if until < time.monotonic():
            token = self._around.issuer.token(f"story@{agency}", agency, scopes)
            self._tokens[agency, scopes] = time.monotonic() + 1800, token
        return token


def _problem(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        return f"{answer.status_code} {problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"


# --- the world ---


class World:
    """Everything that the story touches. `patience` is how long an effect may take before the story fails."""

    def __init__(self, around: Surroundings, agencies: Sequence[str], patience: float = 30.0) -> None:
        self.around = around
        self.patience = patience
        self.waiting_for: Callable[[str], None] = lambda text: None
        """Told what is waited for, to show it."""
        self.api = Api(around)
        self._systems: dict[str, CaseSystem] = {}
        try:
            for agency in agencies:
                self._systems[agency] = CaseSystem(around, agency)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect from everything."""
        for system in self._systems.values():
            system.close()
        self.api.close()

    def __getitem__(self, agency: str) -> CaseSystem:
        return self._systems[agency]

    def until(self, look: Callable[[], T | None], expected: str) -> T:
        """What `look` finds, as soon as it finds something that is neither None nor False.

        Raises:
            StoryError: it found nothing in time; the sentence says what was expected.
        """
        self.waiting_for(expected)
        until = time.monotonic() + self.patience
        pause = 0.01
        while True:
            found = look()
            if found is not None and found is not False:
                self.waiting_for("")
                return found
            if time.monotonic() > until:
                raise StoryError(f"Expected within {self.patience:.0f} s, and it did not come: {expected}.")
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)


@contextmanager
def opened(around: Surroundings, agencies: Sequence[str], patience: float = 30.0) -> Iterator[World]:
    """A world that is closed at the end."""
    world = World(around, agencies, patience)
    try:
        yield world
    finally:
        world.close()


def check(holds: bool, claim: str) -> None:
    """The story claims something: it fails when it is not so."""
    if not holds:
        raise StoryError(f"This must hold, and does not: {claim}.")
