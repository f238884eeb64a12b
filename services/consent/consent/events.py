"""What is in every event that the door sends, how it passes answers on, and a head of the ledger as an event."""

from contracts.heads import Head
from servicekit.envelope import encode

CHANGED, SNAPSHOT = "throughgate.client.changed.v1", "throughgate.client.snapshot.v1"
UNASKED = frozenset({CHANGED, SNAPSHOT})
"""What leaves though nobody asked for it."""

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
