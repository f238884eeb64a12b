"""What this service reads on `cleared.notifications` and asks on `requests.notifications`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClientChanged,
    ClientSnapshot,
    StepMessage,
)
from contracts.requests import StepRequestData
from servicekit.kafka import Outgoing

__all__ = [
    "CLEARED_TOPIC",
    "DOOR",
    "SERVICE",
    "ClientChanged",
    "ClientSnapshot",
    "Received",
    "StepMessage",
    "StepRequestData",
    "requested",
]

DOOR = Door("notifications")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic


def requested(data: StepRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a recipient of a step that is due."""
    return DOOR.asked("throughgate.release.step-requested.v1", data, data.client, time, traceparent)
