"""The door as this service knows it, and what it asks there."""

from datetime import datetime

from contracts.door import Door
from contracts.requests import OfferRequestData
from servicekit.kafka import Outgoing

DOOR = Door("matching")


def requested(data: OfferRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a scheme of an offer."""
    return DOOR.asked("throughgate.mentoring.offer-requested.v1", data, data.client, time, traceparent)
