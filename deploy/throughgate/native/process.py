"""Child processes that never outlive this one, their logs in files, and free ports for them."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

_RANDOM = SystemRandom()
# Below the range from which Linux and macOS take the ports of outgoing connections: a port of ours stays free
# while its server is down, so that a fault test can start the server there again.
PORTS = range(15_000, 32_000)
_given: set[int] = set()
_giving = threading.Lock()


class NativeError(Exception):
    """A part of the system did not start. The message is one sentence, and names the log where there is
    one.
    """


def last_line(printed: str) -> str:
    """What a program said at its end, for the sentence of an error."""
    return (printed.strip() or "it printed nothing").splitlines()[-1]


class _Guard:
    """The writing end of this process's guard (see guard.py), started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def tell(self, sign: str, what: int | Path) -> None:
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py"))],
                    stdin=subprocess.PIPE,
                    text=True,
                    start_new_session=True,
                )
                self._owner = os.getpid()
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):
                self._process.stdin.write(f"{sign} {what}\n")
                self._process.stdin.flush()


_guard = _Guard()


def watch_folder(folder: Path) -> None:
    """Have `folder` removed when this process is gone."""
    _guard.tell("+", folder)


def forget_folder(folder: Path) -> None:
    """Take back `watch_folder`."""
    _guard.tell("-", folder)


def free_port() -> int:
    """A loopback TCP port that nothing listens on now and no outgoing connection will take. None is given twice."""
    with _giving:
        while True:
            port = _RANDOM.choice(PORTS)
            if port in _given:  # whoever has it may not listen there yet
                continue
            with socket.socket() as s, suppress(OSError):
                s.bind(("127.0.0.1", port))
                _given.add(port)
                return port


class Process:
    """One child in a session of its own, so that Ctrl-C reaches only us and we stop the children in order.

    `log` gets what it prints, appended over restarts. `user` is the system user to run as (needs root).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(a) for a in argv]
        self.log = log
        self.env = dict(env) if env is not None else None
        self.user = user
        self.cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; raises NativeError when it was never started."""
        if self._popen is None:
            raise NativeError(f"{self.name} was not started.")
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._popen is not None and self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; the negative signal number when a signal ended it."""
        if self._popen is None:
            return None
        if self._popen.returncode is None and self._popen.poll() is not None:
            _guard.tell("-", self._popen.pid)
        return self._popen.returncode

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.env,
                cwd=self.cwd,
                start_new_session=True,
                user=self.user,
                group=_group(self.user),
                extra_groups=[] if self.user else None,
            )
        _guard.tell("+", self._popen.pid)

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to it and to what it started in its session. SIGKILL is waited for."""
        if not self.running:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.pid, sig)
        if sig == signal.SIGKILL:
            self.wait(10.0)

    def wait(self, timeout: float) -> bool:
        """Wait for its end, at most `timeout` seconds; whether it ended."""
        if self._popen is not None:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
                _guard.tell("-", self._popen.pid)
        return not self.running

    def stop(self, timeout: float = 10.0, sig: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, wake it if it is stopped, and kill it after `timeout` seconds."""
        if not self.running:
            return
        self.kill(sig)
        self.kill(signal.SIGCONT)
        if not self.wait(timeout):
            self.kill()


def _group(user: str | None) -> int | None:
    if user is None:
        return None
    import pwd

    return pwd.getpwnam(user).pw_gid
