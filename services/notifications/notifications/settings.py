"""What the notifications processes need besides what every process needs."""

from typing import Literal

from servicekit import settings


class Clocked(settings.Settings):
    """What both need."""

    clock: Literal["system", "adjustable"] = "system"
    """`adjustable`: the system's time and an offset that `PUT /clock` sets, for demonstrations and tests only."""


class ApiSettings(Clocked, settings.ApiSettings):
    """The settings of the notifications API."""


class WorkerSettings(Clocked):
    """The settings of the notifications worker."""

    due_seconds: float = 1.0
    """How often the worker looks for what is due."""
