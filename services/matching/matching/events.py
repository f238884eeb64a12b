"""What this service reads on `cleared.matching` and asks on `requests.matching`."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import orjson
from opentelemetry.trace import SpanKind

from contracts.leaving import (
    CLEARED,
    ClearedEvent,
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    OfferAnswerPassed,
    OfferMessage,
    RequestSettled,
)
from contracts.requests import AcknowledgedData, OfferRequestData
from contracts.vocabulary import SERVICE_PURPOSES
from servicekit.envelope import Wire, encode
from servicekit.kafka import Outgoing
from servicekit.telemetry import follow, from_headers, header
from servicekit.worker import Record

__all__ = [
    "ClearedEvent",
    "SERVICE",
    "CLEARED_TOPIC",
    "PURPOSE",
    "ClientChanged",
    "ClientSnapshot",
    "ClientWithdrawn",
    "Received",
    "OfferAnswerPassed",
    "OfferRequestData",
    "OfferMessage",
    "RequestSettled",
    "acknowledged",
    "poisoned_withdrawal",
    "reading",
    "requested",
]

SERVICE = "matching"
CLEARED_TOPIC = f"cleared.{SERVICE}"
REQUESTS_TOPIC = f"requests.{SERVICE}"
PURPOSE = SERVICE_PURPOSES[SERVICE]
"""The one purpose that this service acts for: a withdrawal for others only is not for it."""
WITHDRAWN_OF_ANY_VERSION = "throughgate.client.withdrawn."


@dataclass(frozen=True, slots=True)
class Received:
    """One cleared event, the client it is about, and the trace that what follows from it belongs to."""

    event: ClearedEvent
    client: UUID
    traceparent: str | None


@contextmanager
def reading(records: Sequence[Record]) -> Iterator[list[Received]]:
    """The events of a batch, each within a traced step of its own.

    Raises:
        ValueError: a record cannot be read (pydantic's error is one); the worker sets it aside.
    """
    with ExitStack() as steps:
        received = []
        for record in records:
            event = CLEARED.validate_json(record.value)
            step = steps.enter_context(
                follow(f"{SERVICE} applies {event.type}", from_headers(record.headers), kind=SpanKind.CONSUMER)
            )
            received.append(Received(event, UUID(event.subject), step.traceparent))
        yield received


def poisoned_withdrawal(value: bytes | None) -> tuple[UUID, int | None] | None:
    """The client of a withdrawal that could not be applied, and the version that it reaches to where that can be read.

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
    purposes, version = told.get("purposes"), told.get("consentVersion")
    if isinstance(purposes, list) and PURPOSE not in purposes:
        return None
    return client, version if type(version) is int and 0 <= version < 2**31 else None


def requested(data: OfferRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a scheme of an offer."""
    return _outgoing("throughgate.mentoring.offer-requested.v1", data, data.client, time, traceparent)


def acknowledged(client: UUID, retraction: UUID, time: datetime, traceparent: str | None) -> Outgoing:
    """Tell the door that for this retraction we have stopped and erased."""
    data = AcknowledgedData(client=client, retraction=retraction)
    return _outgoing("throughgate.retraction.acknowledged.v1", data, client, time, traceparent)


def _outgoing(type: str, data: Wire, client: UUID, time: datetime, traceparent: str | None) -> Outgoing:
    reference = str(client)
    value = encode(
        type,
        f"/services/{SERVICE}",
        data.model_dump(mode="json", by_alias=True),
        subject=reference,
        time=time,
        traceparent=traceparent,
    )
    return Outgoing(REQUESTS_TOPIC, reference.encode(), value, header(traceparent))
