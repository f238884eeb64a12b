"""What the matching worker needs besides what every process needs."""

from servicekit import settings


class Settings(settings.Settings):
    """The settings of the matching processes."""

    round_seconds: float = 10.0
    """How often the worker looks whether a round is due."""
