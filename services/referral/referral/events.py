"""What this service reads on `cleared.referral` and asks on `requests.referral`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    OfferAnswerPassed,
    ReferralAnswerPassed,
    ReferralSentMessage,
)
from contracts.requests import ReferralRequestData
from servicekit.kafka import Outgoing

__all__ = [
    "CLEARED_TOPIC",
    "DOOR",
    "SERVICE",
    "ClientChanged",
    "ClientSnapshot",
    "ClientWithdrawn",
    "OfferAnswerPassed",
    "Received",
    "ReferralAnswerPassed",
    "ReferralRequestData",
    "ReferralSentMessage",
    "requested",
]

DOOR = Door("referral")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic


def requested(data: ReferralRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a provider of a referral."""
    return DOOR.asked("throughgate.referral.requested.v1", data, data.client, time, traceparent)
