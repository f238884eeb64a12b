"""Processes that a test stops at a point of their work (`servicekit.faults`)."""

import psutil

from support.agency import eventually


async def stands_still(pid: int, seconds: float = 30) -> None:
    """Wait until a process that was started with a fault `<point>:stop:<n>` has come there and stands still."""
    process = psutil.Process(pid)
    await eventually(lambda: process.status() == psutil.STATUS_STOPPED or None, "the fault to strike", seconds)
