"""Where a running system is and how a command gets into it: addresses, passwords, reading a topic as an agency."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from throughgate.issuer import Issuer

T = TypeVar("T")
READ_SECONDS = 30.0
"""How long Kafka may give nothing while a topic is read to its end."""

_quiet = logging.getLogger("throughgate.kafka")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class CommandError(Exception):
    """Something cannot be done, be reached, or did not come out as it must. The message is a sentence for people."""


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
        """The settings of a Kafka client of `user`. Raises CommandError for a user whose password is not known."""
        if user not in self.passwords:
            known = ", ".join(sorted(self.passwords)) or "none"
            raise CommandError(f"There is no agency {user} in this system: choose one of {known}.")
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
        CommandError: one is missing, or the file cannot be read.
    """
    kept: dict[str, str] = {}
    if path := os.environ.get("THROUGHGATE_PASSWORDS_FILE"):
        try:
            lines = Path(path).read_text().splitlines()
        except OSError as error:
            raise CommandError(f"The passwords cannot be read from {path}: {error.strerror}.") from error
        pairs = (line.partition("=") for line in lines if "=" in line and not line.lstrip().startswith("#"))
        kept = {name.strip(): value.strip() for name, _, value in pairs}
    found = {u: os.environ.get(variable(prefix, u)) or kept.get(u, "") for u in users}
    if missing := [u for u, password in found.items() if not password]:
        raise CommandError(
            f"The password of {missing[0]} is missing: set {variable(prefix, missing[0])}, "
            "or name a file of lines user=password in THROUGHGATE_PASSWORDS_FILE."
        )
    return found


def needed(name: str) -> str:
    """What a variable of the environment says. Raises CommandError when it says nothing."""
    if value := os.environ.get(name):
        return value
    raise CommandError(f"{name} is not set: throughgate COMMAND --help says what it is for.")


def found_within(seconds: float, look: Callable[[], T | None]) -> T | None:
    """What `look` finds, asked again until that is neither None nor False; None when it found nothing in time."""
    until, pause = time.monotonic() + seconds, 0.01
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > until:
            return None
        time.sleep(pause)
        pause = min(0.1, pause * 1.1)


# --- reading topics ---


def open_consumer(config: Mapping[str, Any], topics: Sequence[str], *, from_end: bool) -> Consumer:
    """A consumer of all partitions of `topics`, in no group, of committed records only.

    Raises:
        CommandError: a topic does not exist or is not this user's to read, or Kafka cannot be reached.
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
            or CommandError(
                f"Kafka at {config['bootstrap.servers']} does not answer: is the system up? ({error.args[0].name()})"
            )
        ) from error
    return consumer


def records_on(around: Surroundings, user: str, topic: str, *, follow: bool = False) -> Iterator[Message]:
    """All that stands on a topic now, committed records only; with `follow`, what comes later too, for ever.

    Raises:
        CommandError: the topic is not this user's to read, Kafka cannot be reached, or it did not give all of it.
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
                raise CommandError(
                    f"Kafka gave nothing more of {topic} for {READ_SECONDS:.0f} s, and it had not ended."
                )
    finally:
        consumer.close()


def _refused(error: KafkaError, user: str, topics: str) -> CommandError | None:
    """What an error of reading says to people; None where Kafka may yet answer."""
    sentences = {
        KafkaError.TOPIC_AUTHORIZATION_FAILED: f"{user} may not read {topics} (TOPIC_AUTHORIZATION_FAILED): "
        "each agency reads its own partner, replies and the heads topic.",
        KafkaError.UNKNOWN_TOPIC_OR_PART: f"{user} sees no topic {topics}: check the name.",
        KafkaError._AUTHENTICATION: f"Kafka refused the password of {user}: is this the system that it belongs to?",
    }
    return CommandError(sentences[error.code()]) if error.code() in sentences else None
