"""A service's conversation with the door: what it reads on its cleared topic, what it asks on its requests topic."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from opentelemetry.trace import SpanKind

from contracts.leaving import CLEARED, ClearedEvent
from contracts.requests import AcknowledgedData
from contracts.vocabulary import SERVICE_PURPOSES
from servicekit.envelope import Wire, encode
from servicekit.kafka import Outgoing
from servicekit.telemetry import follow, from_headers, header
from servicekit.worker import Record

WITHDRAWN_OF_ANY_VERSION = "throughgate.client.withdrawn."


@dataclass(frozen=True, slots=True)
class Received:
    """One cleared event, the client it is about, and the trace that what follows from it belongs to."""

    event: ClearedEvent
    client: UUID
    traceparent: str | None


class Door:
    """The door as one service knows it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.cleared_topic = f"cleared.{service}"
        self.requests_topic = f"requests.{service}"
        self.purpose = SERVICE_PURPOSES[service]
        """The one purpose that this service acts for: a withdrawal for others only is not for it."""

    @contextmanager
    def reading(self, records: Sequence[Record]) -> Iterator[list[Received]]:
        """The events of a batch, each within a traced step of its own.

        Raises:
            ValueError: a record cannot be read (pydantic's error is one); the worker sets it aside.
        """
        with ExitStack() as steps:
            received = []
            for record in records:
                event = CLEARED.validate_json(record.value)
                step = steps.enter_context(
                    follow(f"{self.service} applies {event.type}", from_headers(record.headers), kind=SpanKind.CONSUMER)
                )
                received.append(Received(event, UUID(event.subject), step.traceparent))
            yield received

    def poisoned_withdrawal(self, value: bytes | None) -> tuple[UUID, int | None] | None:
        """The client of a withdrawal that could not be applied, and the version that it reaches to where that can
        be read.

        Read with as little faith in the record as possible: it may be the contract that it does not fit. None: it is no
        withdrawal, is for other purposes than ours, or does not say whose.
        """
        try:
            event = orjson.loads(value or b"")
            if not event["type"].startswith(WITHDRAWN_OF_ANY_VERSION):
                return None
            client = UUID(event["subject"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        data = event.get("data")
        told = data if isinstance(data, dict) else {}
        purposes, version = told.get("purposes"), told.get("version")
        if isinstance(purposes, list) and self.purpose not in purposes:
            return None
        return client, version if type(version) is int and 0 <= version < 2**31 else None

    def asked(self, type: str, data: Wire, client: UUID, time: datetime, traceparent: str | None) -> Outgoing:
        """A request to the door about a client, for the outbox."""
        reference = str(client)
        value = encode(
            type,
            f"/services/{self.service}",
            data.model_dump(mode="json", by_alias=True),
            subject=reference,
            time=time,
            traceparent=traceparent,
        )
        return Outgoing(self.requests_topic, reference.encode(), value, header(traceparent))

    def acknowledged(self, client: UUID, retraction: UUID, time: datetime, traceparent: str | None) -> Outgoing:
        """Tell the door that for this retraction we have stopped and erased."""
        data = AcknowledgedData(client=client, retraction=retraction)
        return self.asked("throughgate.retraction.acknowledged.v1", data, client, time, traceparent)
