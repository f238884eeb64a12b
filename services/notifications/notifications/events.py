"""The door as this service knows it, and what it asks there."""

from datetime import datetime

from contracts.door import Door
from contracts.requests import StepRequestData
from servicekit.kafka import Outgoing

DOOR = Door("notifications")


def requested(data: StepRequestData, time: datetime, traceparent: str | None) -> Outgoing:
    """Ask the door to tell a recipient of a step that is due."""
    return DOOR.asked("throughgate.release.step-requested.v1", data, data.client, time, traceparent)
