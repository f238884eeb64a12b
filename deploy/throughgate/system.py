"""The whole of Throughgate on this machine: provisioned, migrated, started, and kept running.

Everything here blocks; call it from asyncio through `asyncio.to_thread`.
"""

import asyncio
import http.client
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from contracts.heads import new_signing_key
from contracts.merkle import to_base64url
from contracts.topics import read_topics
from contracts.vocabulary import SERVICES
from throughgate.issuer import Issuer
from throughgate.native.kafka import Kafka
from throughgate.native.postgres import Postgres
from throughgate.native.process import NativeError, Process, forget_folder, free_port, last_line, watch_folder
from throughgate.provision import databases, topics


@dataclass(frozen=True)
class ProcessKind:
    """How a process of ours runs: `role` is api or worker, `kafka_user` is empty where it does not touch
    Kafka.
    """

    module: str
    role: str
    kafka_user: str = ""

    @property
    def service(self) -> str:
        """The service that it belongs to."""
        return self.module.partition(".")[0]


PROCESSES = (
    ProcessKind("consent.main", "api"),
    ProcessKind("consent.worker", "worker", "consent-intake"),
    ProcessKind("consent.discloser", "worker", "consent-discloser"),
    ProcessKind("referral.main", "api"),
    ProcessKind("referral.worker", "worker", "referral"),
    ProcessKind("matching.main", "api"),
    ProcessKind("matching.worker", "worker", "matching"),
    ProcessKind("notifications.main", "api"),
    ProcessKind("notifications.worker", "worker", "notifications"),
)


class System:
    """Runs `services` for `agencies` on one PostgreSQL and one Kafka, which it starts if they do not run.

    Processes are named by their module (`consent.discloser`). `namespace` keeps several systems on one
    cluster apart: it stands before topic names, groups and transactional ids, and before database names with
    anything but letters, digits and _ taken out. `environment` adds variables to a process in all its lives,
    by name; `common` to every process. What ends is started again, after a fifth of a second at first, and up
    to five seconds when it goes on ending at once. `run_dir` gets logs and the issuer's public keys; without
    one it is a temporary folder that goes with the system.
    """

    def __init__(
        self,
        postgres: Postgres,
        kafka: Kafka,
        agencies: Sequence[str],
        *,
        namespace: str = "",
        services: Sequence[str] = SERVICES,
        run_dir: Path | None = None,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        common: Mapping[str, str] | None = None,
        otlp_endpoint: str = "",
        trace_sampling: float = 0.01,
    ) -> None:
        self.postgres = postgres
        self.kafka = kafka
        self.agencies = list(agencies)
        self.namespace = namespace
        self.issuer = Issuer()
        self.signing_key = new_signing_key()
        """Of the ledger's heads: made here, for development, and never stored."""
        self.timings: dict[str, float] = {}
        """Seconds that each step of the last start took."""
        self.databases = databases.databases(re.sub(r"[^a-z0-9_]", "", namespace), services)
        self._kinds = {k.module: k for k in PROCESSES if k.service in services}
        self._ports = {name: free_port() for name in self._kinds}
        self._environment = environment or {}
        self._common = {
            **(common or {}),
            "THROUGHGATE_TRACE_SAMPLING": str(trace_sampling),
            **({"THROUGHGATE_OTLP_ENDPOINT": otlp_endpoint} if otlp_endpoint else {}),
        }
        self._temporary = run_dir is None
        self._run_dir = run_dir
        self._processes: dict[str, Process] = {}
        self._held: set[str] = set()  # stopped on purpose
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        self._started_here: list[Postgres | Kafka] = []

    @property
    def run_dir(self) -> Path:
        """The folder with `logs/` and `jwks.json`."""
        if self._run_dir is None:
            self._run_dir = Path(tempfile.mkdtemp(prefix="throughgate-run-"))
            watch_folder(self._run_dir)
        return self._run_dir

    @property
    def processes(self) -> tuple[str, ...]:
        """The names of all processes."""
        return tuple(self._kinds)

    @property
    def urls(self) -> dict[str, str]:
        """The base URL of each service's API."""
        return {k.service: self.process_url(name) for name, k in self._kinds.items() if k.role == "api"}

    def process_url(self, name: str) -> str:
        """The base URL of a process: /healthz, /readyz and /metrics are there."""
        return f"http://127.0.0.1:{self._ports[name]}"

    def log(self, name: str) -> Path:
        """The log of a process, over all its lives."""
        return self.run_dir / "logs" / f"{name}.log"

    def start(self) -> None:
        """Provision, migrate, start all processes and return when all are ready.

        Raises NativeError, after stopping again what it had started; the logs stay.
        """
        try:
            with self._timed("total"):
                self._stopping.clear()
                (self.run_dir / "logs").mkdir(parents=True, exist_ok=True)
                self._started_here = [s for s in (self.postgres, self.kafka) if not s.running]
                with ThreadPoolExecutor(2) as pool:
                    lanes = [pool.submit(self._prepare_kafka), pool.submit(self._prepare_databases)]
                    for lane in lanes:
                        lane.result()
                self.issuer.write_jwks(self.run_dir / "jwks.json")
                with self._timed("services"):
                    for name in self._kinds:
                        self.start_process(name)
                    self._keeper = threading.Thread(target=self._keep, name="throughgate-keeper", daemon=True)
                    self._keeper.start()
                    self.wait_ready(90.0)
        except BaseException:
            if self._temporary and self._run_dir is not None:
                forget_folder(self._run_dir)  # the logs stay, for someone to read
                self._temporary = False
            self.stop()
            raise

    def stop(self) -> None:
        """Stop every process, and PostgreSQL and Kafka if this system started them."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None
        with self._lock:
            for process in self._processes.values():
                process.kill(signal.SIGTERM)
                process.kill(signal.SIGCONT)
            until = time.monotonic() + 15.0
            for process in self._processes.values():
                process.stop(max(0.0, until - time.monotonic()))
            self._processes.clear()
            self._held.clear()
        for server in self._started_here:
            server.stop()
        self._started_here.clear()
        if self._temporary and self._run_dir is not None:
            shutil.rmtree(self._run_dir, ignore_errors=True)
            forget_folder(self._run_dir)
            self._run_dir = None

    def __enter__(self) -> "System":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def provision_kafka(self) -> topics.Applied:
        """Make topics, users and permissions. May be called while all runs."""
        with self._timed("topics, users, permissions"):
            plan = topics.plan(read_topics(topics.TOPIC_FILES), self.agencies, self.namespace)
            passwords = {user: self.kafka.password(user) for user in plan.users}
            return topics.apply(plan, self.kafka.admin(), passwords, brokers=self.kafka.brokers)

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return when /readyz of every process answers 200; raises NativeError after `timeout` seconds."""
        until = time.monotonic() + timeout
        waiting = [name for name in self._kinds if name not in self._held]
        while waiting := [name for name in waiting if not self._ready(name)]:
            if time.monotonic() > until:
                logs = ", ".join(str(self.log(name)) for name in waiting)
                raise NativeError(f"Not ready after {timeout:.0f} s: {', '.join(waiting)}; see {logs}.")
            time.sleep(0.05)

    def start_process(self, name: str, extra_env: Mapping[str, str] | None = None) -> None:
        """Start a process, ending the one that runs. `extra_env` (a fault, say) is for this one life of it
        only.
        """
        with self._lock:
            self._held.discard(name)
            if old := self._processes.get(name):
                old.stop()
            process = Process(
                name,
                [sys.executable, "-m", self._kinds[name].module],
                log=self.log(name),
                env=self.environment(name) | dict(extra_env or {}),
                cwd=self.run_dir,
            )
            process.start()
            self._processes[name] = process

    def stop_process(self, name: str) -> None:
        """Stop a process in an orderly way, for good: `start_process` starts it again."""
        with self._lock:
            self._held.add(name)
            self._processes[name].stop()

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to a process, and give its pid. Is it ended by it, it is started again."""
        with self._lock:
            process = self._processes[name]
            process.kill(sig)
            return process.pid

    def pid(self, name: str) -> int:
        """The process id of the present life of a process."""
        with self._lock:
            return self._processes[name].pid

    def environment(self, name: str) -> dict[str, str]:
        """All variables of a process, passwords among them."""
        kind = self._kinds[name]
        role = getattr(self.databases[kind.service], kind.role)
        mine = {
            "THROUGHGATE_DATABASE_URL": self._database_url(kind.service, role),
            "THROUGHGATE_NAMESPACE": self.namespace,
            "THROUGHGATE_JWKS": str(self.run_dir / "jwks.json"),
            "THROUGHGATE_ISSUER": self.issuer.name,
            "THROUGHGATE_HTTP_HOST": "127.0.0.1",
            "THROUGHGATE_HTTP_PORT": str(self._ports[name]),
            "PYTHONUNBUFFERED": "1",
        }
        if kind.kafka_user:
            mine |= {
                "THROUGHGATE_KAFKA_SERVERS": self.kafka.bootstrap,
                "THROUGHGATE_KAFKA_USER": kind.kafka_user,
                "THROUGHGATE_KAFKA_PASSWORD": self.kafka.password(kind.kafka_user),
            }
        if kind.role == "api":
            agency = self.databases[kind.service].agency
            mine["THROUGHGATE_AGENCY_DATABASE_URL"] = self._database_url(kind.service, agency)
            if "consent" in self.urls and kind.service != "consent":
                mine["THROUGHGATE_DOOR_URL"] = self.urls["consent"]
        if kind.module == "consent.discloser":
            mine["THROUGHGATE_SIGNING_KEY"] = to_base64url(self.signing_key)
        return _inherited() | mine | self._common | dict(self._environment.get(name, {}))

    def memory(self) -> dict[str, int]:
        """Resident bytes of each process, of PostgreSQL as a whole (shared pages once, where the system can
        tell), and of each broker. One that has just ended is left out."""
        with self._lock:
            pids = {name: p.pid for name, p in self._processes.items() if p.running}
        pids |= {f"kafka-{n}": self.kafka.pid(n) for n in range(1, self.kafka.brokers + 1)}
        found: dict[str, int] = {}
        for name, pid in pids.items():
            with suppress(psutil.NoSuchProcess):
                found[name] = psutil.Process(pid).memory_info().rss
        postgres = psutil.Process(self.postgres.pid)
        found["postgres"] = 0
        for member in [postgres, *postgres.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                full = member.memory_full_info()
                found["postgres"] += getattr(full, "pss", full.rss)
        return found

    def _prepare_kafka(self) -> None:
        with self._timed("Kafka"):
            self.kafka.log_to(self.run_dir / "logs")
            self.kafka.start()
        self.provision_kafka()

    def _prepare_databases(self) -> None:
        with self._timed("PostgreSQL"):
            self.postgres.log_to(self.run_dir / "logs" / "postgres.log")
            self.postgres.start()
        with self._timed("databases"):
            asyncio.run(
                databases.provision(self.postgres.url(), list(self.databases.values()), self.postgres.role_password)
            )
        with self._timed("migrations"):
            urls = {service: self._database_url(service, d.owner) for service, d in self.databases.items()}
            run = Process(
                "The migration",
                [sys.executable, "-m", "servicekit.migrate"],
                log=self.log("migrate"),
                env=_inherited() | {"THROUGHGATE_DATABASE_URLS": json.dumps(urls)},
                cwd=self.run_dir,
            )
            run.start()
            if not run.wait(120.0) or run.exit_code:
                raise NativeError(
                    f"{run.name} failed: {last_line(run.log.read_text(errors='replace'))} (the rest is in {run.log})."
                )

    def _database_url(self, service: str, role: str) -> str:
        return self.postgres.role_url(self.databases[service].name, role)

    def _ready(self, name: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[name], timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _keep(self) -> None:
        """Start again what ends."""
        waits = dict.fromkeys(self._kinds, 0.2)
        begun = dict.fromkeys(self._kinds, time.monotonic())
        due: dict[str, float] = {}
        while not self._stopping.wait(0.05):
            now = time.monotonic()
            with self._lock:
                for name, process in self._processes.items():
                    if process.running or name in self._held:
                        due.pop(name, None)
                    elif name not in due:
                        waits[name] = 0.2 if now - begun[name] > 10.0 else min(5.0, waits[name] * 2)
                        due[name] = now + waits[name]
                for name in [n for n, at in due.items() if at <= now]:
                    del due[name]
                    begun[name] = now
                    self.start_process(name)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.timings[what] = time.monotonic() - begun


def _inherited() -> dict[str, str]:
    """Our own environment without settings of Throughgate's, which would otherwise reach every process."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THROUGHGATE_")}
