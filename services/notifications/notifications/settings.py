"""What the notifications processes need besides what every process needs."""

from typing import Literal

from servicekit import settings


class Settings(settings.Settings):
    """The settings of the notifications processes."""

    clock: Literal["system", "adjustable"] = "system"
    """`adjustable`: the system's time and an offset that `PUT /clock` sets, for demonstrations and tests only."""
    due_seconds: float = 1.0
    """How often the worker looks for what is due."""
