"""The events that the door takes in and gives out, by topic."""

from contracts.heads import Head
from contracts.intake import INTAKE, PASSED_ON, STOPPING_TYPES, IntakeEvent
from contracts.requests import REQUESTS, SENT_AS, ServiceRequest
from servicekit.envelope import encode

ANSWER_PASSED_AS = {
    "throughgate.referral.answered.v1": "throughgate.referral.answer-passed.v1",
    "throughgate.mentoring.offer-answered.v1": "throughgate.mentoring.answer-passed.v1",
}
"""The type under which a provider's answer reaches the service that waits for it."""

SOURCE = "/throughgate"
"""`source` of everything that leaves the door."""


def head_event(head: Head) -> bytes:
    """A head of the ledger for the topic `heads`. Sent again it is the same event."""
    data = head.model_dump(by_alias=True)
    return encode("throughgate.ledger.sealed.v1", SOURCE, data, id=f"{head.shard}/{head.sequence}", time=head.at)


__all__ = [
    "ANSWER_PASSED_AS",
    "INTAKE",
    "PASSED_ON",
    "REQUESTS",
    "SENT_AS",
    "SOURCE",
    "STOPPING_TYPES",
    "IntakeEvent",
    "ServiceRequest",
    "head_event",
]
