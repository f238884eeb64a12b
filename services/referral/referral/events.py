"""What this service reads on `cleared.referral` and asks on `requests.referral`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClearedEvent,
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    ReferralAnswerPassed,
    ReferralSentMessage,
    RequestSettled,
)
from contracts.requests import ReferralRequestData
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
    "ReferralAnswerPassed",
    "ReferralRequestData",
    "ReferralSentMessage",
    "RequestSettled",
    "acknowledged",
    "poisoned_withdrawal",
    "reading",
    "requested",
]

DOOR = Door("referral")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic
PURPOSE = DOOR.purpose
reading = DOOR.reading
poisoned_withdrawal = DOOR.poisoned_withdrawal
acknowledged = DOOR.acknowledged


def requested(data: ReferralRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a provider of a referral."""
    return DOOR.asked("throughgate.referral.requested.v1", data, data.client, time, traceparent)
