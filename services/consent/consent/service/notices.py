"""What the door says itself: retractions, answers to events, notices of what became of a withdrawal or a request."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from consent.events import SOURCE
from consent.repository.changes import Changes
from consent.repository.clients import Reference
from consent.repository.queue import NOTICE, RETRACTION, QueueRow
from consent.repository.retractions import RetractionRow, StopRow
from consent.service.reading import Arrival
from contracts import topic_names
from contracts.intake import IntakeEvent
from contracts.leaving import RETRACTED
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import encode
from servicekit.problems import Problem

ACCEPTED, REJECTED = "throughgate.event.accepted.v1", "throughgate.event.rejected.v1"
DONE = "throughgate.withdrawal.done.v1"


@dataclass(frozen=True, slots=True)
class Owed:
    """What a recipient is to be told to stop and erase, under one of its references."""

    reference: Reference
    purposes: Sequence[Purpose]
    categories: frozenset[Category] | None = None
    """None: all."""
    recipients: frozenset[str] | None = None
    """For one of our services that is not reached itself: those to whom it is to tell no more."""


def queue_retraction(
    changes: Changes,
    stop: StopRow,
    owed: Owed,
    topic: str,
    *,
    consent_version: int | None = None,
    named: bool = False,
) -> None:
    """Enter that a stop owes this retraction (`contracts.leaving.WithdrawnData`), and queue it for the topic.

    Args:
        named: whether the publisher of the stop may know of the recipient.
    """
    id, reference = uuid4(), owed.reference
    data = {
        "retraction": str(id),
        "purposes": list(owed.purposes),
        "categories": None if owed.categories is None else sorted(owed.categories),
        "recipients": None if owed.recipients is None else sorted(owed.recipients),
        "version": stop.version,
        "consentVersion": consent_version,
        "action": "stop-and-erase",
    }
    event = encode(RETRACTED, SOURCE, data, subject=str(reference.id), id=str(id), time=stop.recorded_at)
    retraction = RetractionRow(id, stop.id, reference.recipient, reference.id, event.decode(), named)
    changes.retractions.append(retraction)
    changes.queue.append(
        retraction_row(
            retraction, stop.client_id, topic, stop.recorded_at, traceparent=stop.traceparent, keyed_by=reference.client
        )
    )


def retraction_row(
    retraction: RetractionRow, client_id: int, topic: str, at: datetime, *, traceparent: str | None, keyed_by: int
) -> QueueRow:
    """A retraction on its way: the same row when it is first told and when it is told again."""
    return QueueRow(
        kind=RETRACTION,
        client_id=client_id,
        recipient=retraction.recipient,
        topic=topic,
        reference=retraction.reference,
        type=RETRACTED,
        purpose=None,
        body=retraction.body,
        due_at=at,
        traceparent=traceparent,
        request=retraction.id,
        keyed_by=keyed_by,
    )


def notice(
    client_id: int,
    recipient: str,
    topic: str,
    reference: UUID,
    type: str,
    envelope: bytes,
    at: datetime,
    traceparent: str | None = None,
) -> QueueRow:
    """What the door says itself on a topic: it leaves as it stands, and nothing is decided about it."""
    return QueueRow(
        kind=NOTICE,
        client_id=client_id,
        recipient=recipient,
        topic=topic,
        reference=reference,
        type=type,
        purpose=None,
        body=envelope.decode(),
        due_at=at,
        traceparent=traceparent,
    )


def withdrawal_done(
    client_id: int,
    withdrawal: UUID,
    agency: str,
    event_id: str | None,
    recipients: list[dict[str, Any]],
    now: datetime,
    traceparent: str | None,
) -> QueueRow:
    """Tell the publisher that its withdrawal is done, and where each retraction stands.

    It has the withdrawal's id: when it has to go again, it is known as the same.
    """
    data = {"event": event_id, "withdrawal": str(withdrawal), "recipients": recipients}
    envelope = encode(DONE, SOURCE, data, id=str(withdrawal), time=now)
    return notice(client_id, agency, topic_names.replies(agency), withdrawal, DONE, envelope, now, traceparent)


def request_settled(
    client_id: int,
    service: str,
    reference: UUID,
    request: UUID,
    outcome: str,
    withheld: list[dict[str, Any]],
    now: datetime,
    traceparent: str | None,
) -> QueueRow:
    """Tell a service what became of its request."""
    type = "throughgate.request.settled.v1"
    data = {"request": str(request), "outcome": outcome, "withheld": withheld}
    envelope = encode(type, SOURCE, data, subject=str(reference), time=now)
    return notice(client_id, service, topic_names.cleared(service), reference, type, envelope, now, traceparent)


def row_settled(row: Any, outcome: str, now: datetime, withheld: list[dict[str, Any]] | None = None) -> QueueRow:
    """Tell the service that asked for a row of the queue what became of it."""
    asked = row.requester, row.reference_of_requester, row.request
    return request_settled(row.client_id, *asked, outcome, withheld or [], now, row.traceparent)


def accepted(arrival: Arrival, event: IntakeEvent, data: dict[str, Any], now: datetime) -> bytes:
    """The reply to an accepted event."""
    return encode(
        ACCEPTED,
        SOURCE,
        {"event": event.id, **data},
        id=_reply_id(arrival, event.id),
        time=now,
    )


def rejected(arrival: Arrival, event_id: str | None, problem: Problem, now: datetime) -> bytes:
    """The reply to a rejected event. Its id follows from the event: a redelivery cannot look like a second one."""
    return encode(
        REJECTED,
        SOURCE,
        {
            "event": event_id,
            "code": problem.code,
            "title": problem.title,
            "detail": problem.detail,
            "topic": arrival.topic,
            "partition": arrival.partition,
            "offset": arrival.offset,
        },
        id=_reply_id(arrival, event_id),
        time=now,
    )


def _reply_id(arrival: Arrival, event_id: str | None) -> str:
    place = f"{arrival.topic}/{arrival.partition}/{arrival.offset}" if event_id is None else event_id
    return str(uuid5(NAMESPACE_URL, f"throughgate:{arrival.agency}:{place}:{arrival.digest.hex()}"))
