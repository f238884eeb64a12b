"""Named points at which the fault tests kill or stop a process.

`THROUGHGATE_FAULT=NAME:ACTION:N` does ACTION (`kill` or `stop`) when the point NAME is passed for the Nth time. Unset,
which is every real deployment, passing a point is one comparison with an empty string.
"""

import os
import signal

_name, _action, _nth = ([*os.environ.get("THROUGHGATE_FAULT", "").split(":"), "", ""])[:3]
_passed = 0


def point(name: str) -> None:
    """Mark a place in a process's cycle. Does nothing unless a fault test named it."""
    global _passed
    if name != _name:
        return
    _passed += 1
    if _passed == int(_nth or 1):
        os.kill(os.getpid(), signal.SIGSTOP if _action == "stop" else signal.SIGKILL)
