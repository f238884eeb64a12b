"""Kills what a process started, and removes its temporary folders, when that process is gone, however it
went.

Runs as a process of its own that reads lines from its standard input: `+ PGID` and `- PGID` watch and forget
a process group, `+ PATH` and `- PATH` a folder. The end of the input means that the writer is gone, killed or
not. The prctl "parent death signal" would not do: it is bound to the thread that started the child, and ours
come from thread pools. Imports nothing of ours, so that it starts in 20 ms and stays small.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Read until the end of the input, then kill and remove what is still watched."""
    watched: dict[str, None] = {}
    for line in sys.stdin:
        sign, _, what = line.rstrip("\n").partition(" ")
        if sign == "+":
            watched[what] = None
        else:
            watched.pop(what, None)
    for what in watched:
        if what.isdecimal():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(what), signal.SIGKILL)
    folders = [what for what in watched if not what.isdecimal()]
    until = time.monotonic() + 10
    while (folders := [f for f in folders if Path(f).exists()]) and time.monotonic() < until:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)  # what is dying may still have written


if __name__ == "__main__":
    main()
