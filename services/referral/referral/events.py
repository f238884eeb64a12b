"""The door as this service knows it, and what it asks there."""

from datetime import datetime

from contracts.door import Door
from contracts.requests import ReferralRequestData
from servicekit.kafka import Outgoing

DOOR = Door("referral")


def requested(data: ReferralRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a provider of a referral."""
    return DOOR.asked("throughgate.referral.requested.v1", data, data.client, time, traceparent)
