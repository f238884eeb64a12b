"""The whole on this machine: started, told a story, kept running so that the other commands find it."""

import fcntl
import os
import random
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from types import FrameType
from typing import Any

import psutil

from contracts.vocabulary import LONDON
from throughgate.issuer import Issuer
from throughgate.native.kafka import Kafka
from throughgate.native.postgres import Postgres
from throughgate.native.process import NativeError
from throughgate.reaching import CommandError, Surroundings
from throughgate.running import CHECKOUT, forget, remember, state_folder
from throughgate.story import setting
from throughgate.story.cast import Cast, Party, make_cast
from throughgate.story.narrator import Narrator
from throughgate.story.play import Story
from throughgate.story.report import report
from throughgate.story.world import Callers, World, opened
from throughgate.system import System
from throughgate.traces import Receiver

WORKERS = ("consent.worker", "consent.discloser", "referral.worker", "matching.worker", "notifications.worker")
"""What CHAOS kills."""
CLOCKED = ("notifications.main", "notifications.worker")
PATIENCE = 30.0
PATIENCE_IN_CHAOS = 120.0
"""A consumer that was killed is missed by its group only after ten seconds."""


# --- starting and stopping ---


@contextmanager
def _only_one(wanted: bool) -> Iterator[None]:
    """Where the system is to be found by others: only one at a time in a checkout."""
    if not wanted:
        yield
        return
    with (state_folder() / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CommandError(
                "A system of this checkout is running already: stop it with Ctrl-C there, or use throughgate story."
            ) from error
        try:
            yield
        finally:
            forget()


class Whole:
    """The running system with its trace receiver, its issuer and its surroundings."""

    def __init__(self, system: System, agencies: Sequence[Party], receiver: Receiver, issuer: Issuer) -> None:
        self.system = system
        self.agencies = tuple(agencies)
        self.receiver = receiver
        self.issuer = issuer
        self.seconds = 0.0

    @property
    def around(self) -> Surroundings:
        """Where it is."""
        kafka = self.system.kafka
        passwords = {p.id: kafka.password(p.id) for p in self.agencies}
        return Surroundings(
            kafka.bootstrap,
            self.system.urls,
            passwords,
            self.issuer,
            self.system.namespace,
            self.receiver.url,
            self.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"],
        )


@contextmanager
def started(brokers: int, agencies: Sequence[Party], tell: Narrator, *, findable: bool) -> Iterator[Whole]:
    """The whole, running; stopped at the end, whatever happens. `findable`: with a state file for other commands.

    Raises:
        NativeError, CommandError: it did not start.
    """
    if brokers not in (1, 3):
        raise CommandError(f"{brokers} brokers cannot be: give 1 or 3.")
    _terminate_like_interrupt()
    with _only_one(findable):
        run_dir = state_folder() / f"run-{os.getpid()}"
        _forget_old_runs(keep=3)
        run_dir.mkdir(mode=0o700)
        receiver = Receiver()
        receiver.start()
        issuer = Issuer()
        environment = {name: {"THROUGHGATE_CLOCK": "adjustable"} for name in CLOCKED}
        environment["matching.worker"] = {"THROUGHGATE_ROUND_SECONDS": "1"}
        system = System(
            Postgres(),
            Kafka(brokers),
            [p.id for p in agencies],
            run_dir=run_dir,
            environment=environment,
            otlp_endpoint=receiver.url,
            trace_sampling=0.0,
        )
        system.issuer = issuer
        whole = Whole(system, agencies, receiver, issuer)
        well = False
        try:
            begun = time.monotonic()
            servers = f"PostgreSQL, {brokers} Kafka broker{'s' if brokers > 1 else ''}"
            tell.line(f"Starting {servers} and {len(system.processes)} processes.")
            with _spinning(tell, "starting"):
                system.start()
            whole.seconds = time.monotonic() - begun
            parts = ", ".join(f"{what} {took:.1f}" for what, took in system.timings.items() if what != "total")
            tell.line(f"Up in {whole.seconds:.1f} s ({parts}).")
            if findable:
                remember(whole.around, issuer.save(run_dir / "issuer-key.json"))
            yield whole
            well = True
        except KeyboardInterrupt:
            well = True
            raise
        finally:
            with _deaf():
                if system.timings:
                    tell.line("Stopping everything.")
                system.stop()
                receiver.stop()
                (run_dir / "issuer-key.json").unlink(missing_ok=True)
                if well:
                    shutil.rmtree(run_dir, ignore_errors=True)
                else:
                    tell.line(f"The logs are in {run_dir / 'logs'}.")


@contextmanager
def _spinning(tell: Narrator, text: str) -> Iterator[None]:
    if tell.console.is_terminal:
        with tell.console.status(text):
            yield
    else:
        yield


def _terminate_like_interrupt() -> None:
    """SIGTERM and a closed terminal stop us as Ctrl-C does: in order. So does SIGINT where a script started us in its
    background, which hands it down as ignored.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError):  # not in the main thread: the caller's business
            signal.signal(sig, interrupt)


@contextmanager
def _deaf() -> Iterator[None]:
    """Stopping takes a second or two; another Ctrl-C meanwhile changes nothing."""
    old: dict[signal.Signals, Any] = {}
    for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with suppress(ValueError):
            old[sig] = signal.signal(sig, signal.SIG_IGN)
    try:
        yield
    finally:
        for sig, handler in old.items():
            signal.signal(sig, handler)


def _forget_old_runs(keep: int) -> None:
    """Folders of failed runs stay for someone to read; only the last ones."""
    dead = [f for f in state_folder().glob("run-*") if not psutil.pid_exists(int(f.name.removeprefix("run-")))]
    for folder in sorted(dead, key=lambda f: f.stat().st_mtime)[: -keep or None]:
        shutil.rmtree(folder, ignore_errors=True)


# --- the story ---


class Chaos:
    """Kills each worker with SIGKILL once, each during a step of its own choosing; the keeper starts it again."""

    def __init__(self, system: System, tell: Narrator) -> None:
        self._system = system
        self._tell = tell
        self._planned: dict[int, list[str]] | None = None
        self._timers: list[threading.Timer] = []
        self._killed: list[str] = []

    def on_step(self, number: int, of: int) -> None:
        """A step begins."""
        if self._planned is None:
            self._planned = {}
            for worker in WORKERS:
                self._planned.setdefault(random.randrange(2, of - 1), []).append(worker)
            self._tell.line(f"Chaos: kill -9 for each of {', '.join(WORKERS)}, once.")
        for worker in self._planned.get(number, ()):
            timer = threading.Timer(random.uniform(0.0, 0.5), self._kill, [worker])
            timer.daemon = True
            self._timers.append(timer)
            timer.start()

    def _kill(self, worker: str) -> None:
        with suppress(NativeError, KeyError):
            pid = self._system.kill(worker)
            self._killed.append(worker)
            self._tell.aside(f"kill -9 {worker} ({pid})")

    def finish(self) -> None:
        """Wait until all were killed and run again.

        Raises:
            CommandError: one was not killed.
        """
        for timer in self._timers:
            timer.join()
        self._system.wait_ready()
        if missing := set(WORKERS) - set(self._killed):
            raise CommandError(f"Chaos did not kill {', '.join(sorted(missing))}.")
        self._tell.line(f"Chaos: {len(self._killed)} workers were killed and run again; the story ended the same.")

    def stop(self) -> None:
        """Kill nothing more."""
        for timer in self._timers:
            timer.cancel()


def play(around: Surroundings, agencies: Sequence[Party], tell: Narrator, chaos: Chaos | None = None) -> Cast:
    """Play the story against a system and tell how it ended. Gives its people.

    Raises:
        CommandError: something was not as it must be.
    """
    people = make_cast(datetime.now(LONDON).date())
    world: World
    with opened(around, [p.id for p in agencies], PATIENCE_IN_CHAOS if chaos else PATIENCE) as world:
        story = Story(world, people, agencies, tell, chaos.on_step if chaos else None)
        begun = time.monotonic()
        try:
            told = story.play()
            if chaos:
                chaos.finish()
        finally:
            if chaos:
                chaos.stop()
        report(told, agencies, tell)
        tell.line()
        tell.line(f"The story held in every point; it took {time.monotonic() - begun:.1f} s.")
    return people


def search_for_people(whole: Whole, people: Cast, tell: Narrator) -> None:
    """Look for the people's names, numbers and addresses where they must never be.

    Raises:
        CommandError: something of them stands in a log, a metric or a span.
    """
    values = [value for person in people.people for value in person.personal_values()]
    texts = {f"the log {path.name}": path.read_text(errors="replace") for path in whole.system.run_dir.glob("logs/*")}
    for name in whole.system.processes:
        with urllib.request.urlopen(f"{whole.system.process_url(name)}/metrics", timeout=10) as answer:  # noqa: S310
            texts[f"the metrics of {name}"] = answer.read().decode()
    texts["a span"] = "\n".join(f"{span.service} {span.name} {span.says}" for span in whole.receiver.spans)
    for where, text in texts.items():
        if any(value in text for value in values):
            raise CommandError(f"Personal data stands in {where}.")
    logs = sum(where.startswith("the log") for where in texts)
    tell.line(
        f"None of the {len(values)} names, numbers and addresses stands in {logs} logs, the metrics of "
        f"{len(whole.system.processes)} processes or {len(whole.receiver.spans)} spans."
    )


def furnish(around: Surroundings, agencies: Sequence[Party]) -> None:
    """Agencies, agreements and what the services work with, without a story. Raises CommandError."""
    api = Callers(around)
    try:
        for _ in (*setting.register(api, agencies), *setting.equip(api)):
            pass
    finally:
        api.close()


def figures(whole: Whole, tell: Narrator) -> None:
    """Start time and memory."""
    tell.heading("Figures")
    tell.line(f"    figure warm_start {whole.seconds:.1f} s")
    memory = whole.system.memory()
    for name, resident in sorted(memory.items(), key=lambda pair: -pair[1]):
        tell.line(f"    figure resident_{name.replace('.', '_').replace('-', '_')} {resident / 2**20:.0f} MiB")
    tell.line(f"    figure resident_all {sum(memory.values()) / 2**20:.0f} MiB")


def where_to_look(around: Surroundings, agencies: Sequence[Party], logs: str, tell: Narrator) -> None:
    """What to do with a system that runs."""
    tell.heading("It is running. Where to look:")
    for service, url in around.urls.items():
        tell.line(f"    {service:<14} {url}/docs")
    tell.line(f"    Kafka          {around.kafka_servers}, topics intake.A, replies.A and partner.A of each agency A:")
    tell.line(f"                   {', '.join(p.id for p in agencies)}")
    tell.line(f"    logs           {logs}")
    command = CHECKOUT / ".venv" / "bin" / "throughgate"
    example = CHECKOUT / "schemas" / "examples" / "throughgate.client.recorded.v1.json"
    tell.line("  In another terminal:")
    tell.line(f"    {command} publish hmp-leeds --fresh {example}")
    tell.line(f"    {command} withdraw hmp-leeds REFERENCE          (the client's reference from the reply)")
    tell.line(f"    {command} tail partner.harbour-housing")
    tell.line(f"    {command} story                                 (the story again, with new people)")
    tell.line(f'    eval "$({command} token operator --scope operator --export)"    (then $TOKEN and $DOOR are set)')


def wait_for_the_end(tell: Narrator) -> None:
    """Until Ctrl-C, or SIGTERM."""
    tell.line()
    tell.line("Ctrl-C stops it.")
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
