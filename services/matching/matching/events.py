"""What this service reads on `cleared.matching` and asks on `requests.matching`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClearedEvent,
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    OfferAnswerPassed,
    OfferMessage,
    RequestSettled,
)
from contracts.requests import OfferRequestData
from servicekit.kafka import Outgoing

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

DOOR = Door("matching")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic
PURPOSE = DOOR.purpose
reading = DOOR.reading
poisoned_withdrawal = DOOR.poisoned_withdrawal
acknowledged = DOOR.acknowledged


def requested(data: OfferRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a scheme of an offer."""
    return DOOR.asked("throughgate.mentoring.offer-requested.v1", data, data.client, time, traceparent)
