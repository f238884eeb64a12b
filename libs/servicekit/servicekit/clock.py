"""The one source of time. Code that decides takes the time as an argument; code that runs takes a `Clock`."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Gives the present as an aware datetime in UTC."""


def system_clock() -> datetime:
    """The machine's time, UTC."""
    return datetime.now(UTC)
