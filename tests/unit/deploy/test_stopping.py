"""`throughgate up` and `demo --keep` stop by SIGINT also where a script started them in its background."""

import signal
import subprocess
import sys

import pytest

WAITS = """
import io, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell that is no terminal's hands it down
from contextlib import suppress
from rich.console import Console
from throughgate.demo import _terminate_like_interrupt, wait_for_the_end
from throughgate.story.narrator import Narrator
_terminate_like_interrupt()
with suppress(KeyboardInterrupt):  # it may come before the end is waited for
    print("up", flush=True)
    wait_for_the_end(Narrator(Console(file=io.StringIO())))
print("stopped in order")
"""


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_in_order(sig: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "up\n"
            waiting.send_signal(sig)
            said, _ = waiting.communicate(timeout=10)
        finally:
            waiting.kill()
    assert said == "stopped in order\n"
