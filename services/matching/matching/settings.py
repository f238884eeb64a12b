"""What the matching worker needs besides what every process needs."""

from servicekit.settings import Settings


class WorkerSettings(Settings):
    """The settings of the matching worker."""

    round_seconds: float = 10.0
    """How often the worker looks whether a round is due."""
