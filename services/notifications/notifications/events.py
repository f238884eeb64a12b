"""What this service reads on `cleared.notifications` and asks on `requests.notifications`."""

from datetime import datetime

from contracts.door import Door, Received
from contracts.leaving import (
    ClearedEvent,
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    RequestSettled,
    StepMessage,
)
from contracts.requests import StepRequestData
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
    "StepRequestData",
    "StepMessage",
    "RequestSettled",
    "acknowledged",
    "poisoned_withdrawal",
    "reading",
    "requested",
]

DOOR = Door("notifications")
SERVICE = DOOR.service
CLEARED_TOPIC = DOOR.cleared_topic
PURPOSE = DOOR.purpose
reading = DOOR.reading
poisoned_withdrawal = DOOR.poisoned_withdrawal
acknowledged = DOOR.acknowledged


def requested(data: StepRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a recipient of a step that is due."""
    return DOOR.asked("throughgate.release.step-requested.v1", data, data.client, time, traceparent)
