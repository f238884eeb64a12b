"""What this service reads on `cleared.matching` and asks on `requests.matching`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClientChanged,
    ClientSnapshot,
    OfferAnswerPassed,
    OfferMessage,
    ReferralAnswerPassed,
)
from contracts.requests import OfferRequestData
from servicekit.kafka import Outgoing

__all__ = [
    "CLEARED_TOPIC",
    "DOOR",
    "SERVICE",
    "ClientChanged",
    "ClientSnapshot",
    "OfferAnswerPassed",
    "OfferMessage",
    "OfferRequestData",
    "Received",
    "ReferralAnswerPassed",
    "requested",
]

DOOR = Door("matching")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic


def requested(data: OfferRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a scheme of an offer."""
    return DOOR.asked("throughgate.mentoring.offer-requested.v1", data, data.client, time, traceparent)
