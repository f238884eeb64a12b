"""The queue rows that leave as they are: retractions, and notices of what became of a withdrawal or a request."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from consent.events import SOURCE
from consent.repository.queue import NOTICE, RETRACTION, QueueRow
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import encode

RETRACTED = "throughgate.client.withdrawn.v1"
"""The type of every retraction, whatever it is for: a withdrawal, a restriction, an erasure, an end."""
DONE = "throughgate.withdrawal.done.v1"


@dataclass(frozen=True, slots=True)
class Retraction:
    """What a recipient is told to stop and erase (`contracts.leaving.WithdrawnData`)."""

    id: UUID
    reference: UUID
    purposes: Iterable[Purpose]
    categories: frozenset[Category] | None
    recipients: frozenset[str] | None
    version: int
    consent_version: int | None

    def encode(self, now: datetime) -> bytes:
        """The event's bytes."""
        data = {
            "retraction": str(self.id),
            "purposes": list(self.purposes),
            "categories": None if self.categories is None else sorted(self.categories),
            "recipients": None if self.recipients is None else sorted(self.recipients),
            "version": self.version,
            "consentVersion": self.consent_version,
            "action": "stop-and-erase",
        }
        return encode(RETRACTED, SOURCE, data, subject=str(self.reference), id=str(self.id), time=now)


def retraction_row(
    client_id: int,
    recipient: str,
    topic: str,
    reference: UUID,
    retraction: UUID,
    body: str,
    now: datetime,
    traceparent: str | None,
    keyed_by: int,
) -> QueueRow:
    """A retraction on its way: the same row when it is first told, told again, or takes back what may have arrived."""
    return QueueRow(
        RETRACTION,
        client_id,
        recipient,
        topic,
        reference,
        RETRACTED,
        None,
        body,
        now,
        traceparent=traceparent,
        request=retraction,
        keyed_by=keyed_by,
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
    return QueueRow(
        NOTICE,
        client_id,
        agency,
        f"replies.{agency}",
        withdrawal,
        DONE,
        None,
        envelope.decode(),
        now,
        traceparent=traceparent,
    )


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
    return QueueRow(
        NOTICE,
        client_id,
        service,
        f"cleared.{service}",
        reference,
        type,
        None,
        envelope.decode(),
        now,
        traceparent=traceparent,
    )


def row_settled(row: Any, outcome: str, now: datetime, withheld: list[dict[str, Any]] | None = None) -> QueueRow:
    """Tell the service that asked for a row of the queue what became of it."""
    asked = row.requester, row.reference_of_requester, row.request
    return request_settled(row.client_id, *asked, outcome, withheld or [], now, row.traceparent)
