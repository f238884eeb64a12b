"""PostgreSQL and Kafka for a test run: started once, in containers where a Docker engine answers, else natively.

The run's first process starts them and tells the others by an environment variable, so that tests may run in parallel.
"""

import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from throughgate.native.kafka import Kafka
from throughgate.native.postgres import Postgres
from throughgate.system import System

VARIABLE = "THROUGHGATE_TEST_SERVERS"


@dataclass(frozen=True)
class Address:
    """How to reach what was started."""

    kind: str
    postgres_host: str
    postgres_port: int
    postgres_password: str
    kafka_bootstrap: str
    kafka_secret: str


class RunningPostgres(Postgres):
    """A server that somebody else started and will stop."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self.host = address.postgres_host
        self.port = address.postgres_port
        self.password = address.postgres_password

    @property
    def running(self) -> bool:
        """It runs."""
        return True

    def log_to(self, log: Path) -> None:
        """Its log is where it was started."""


class RunningKafka(Kafka):
    """A cluster that somebody else started and will stop."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._bootstrap = address.kafka_bootstrap
        self._secret = bytes.fromhex(address.kafka_secret)

    @property
    def bootstrap(self) -> str:
        """Where it listens."""
        return self._bootstrap

    @property
    def running(self) -> bool:
        """It runs."""
        return True

    def log_to(self, folder: Path) -> None:
        """Its log is where it was started."""


def started() -> Address | None:
    """The servers of this run, when they were started."""
    told = os.environ.get(VARIABLE)
    return Address(**json.loads(told)) if told else None


def start() -> Callable[[], None]:
    """Start the servers of this run, tell child processes of them, and give the function that stops them."""
    wanted = os.environ.get("THROUGHGATE_TEST_ON", "")
    if wanted not in ("", "native", "containers"):
        raise SystemExit("THROUGHGATE_TEST_ON is either native or containers.")
    in_containers = wanted == "containers" or (not wanted and _docker_answers())
    address, stop = _start_containers() if in_containers else _start_natively()
    os.environ[VARIABLE] = json.dumps(asdict(address))
    return stop


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _start_natively() -> tuple[Address, Callable[[], None]]:
    postgres, kafka = Postgres(durable=False), Kafka(heap_mb=1024)
    postgres.start()
    kafka.start()

    def stop() -> None:
        kafka.stop()
        postgres.stop()

    secret = kafka._secret.hex()
    return Address("native", postgres.host, postgres.port, postgres.password, kafka.bootstrap, secret), stop


def _start_containers() -> tuple[Address, Callable[[], None]]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.core.container import DockerContainer
    from testcontainers.postgres import PostgresContainer

    from throughgate.native.process import free_port

    with ExitStack() as stack:
        password = secrets.token_urlsafe(24)
        postgres = PostgresContainer("postgres:18", username="postgres", password=password, driver=None)
        postgres.with_command("postgres -c max_connections=300 -c fsync=off")
        stack.enter_context(postgres)
        secret = secrets.token_bytes(32)
        port = free_port()
        kafka = DockerContainer("apache/kafka:4.4.0").with_bind_ports(port, port)
        kafka.with_kwargs(user="root", entrypoint="/bin/bash")
        kafka.with_command(["-c", _kafka_script(port, secret)])
        stack.enter_context(kafka)
        address = Address(
            "containers",
            "127.0.0.1",
            int(postgres.get_exposed_port(5432)),
            password,
            f"127.0.0.1:{port}",
            secret.hex(),
        )
        _wait_for_kafka(address)
        return address, stack.pop_all().close


def _password(secret: bytes, user: str) -> str:
    return hmac.new(secret, user.encode(), hashlib.sha256).hexdigest()[:40]


def _kafka_script(port: int, secret: bytes) -> str:
    """Format with an administrator, then run: users and access rules on, as natively."""
    admin, jaas = _password(secret, "admin"), "org.apache.kafka.common.security.scram.ScramLoginModule"
    properties = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": "1@127.0.0.1:29093",
        "listeners": f"CLIENT://0.0.0.0:{port},CONTROLLER://127.0.0.1:29093",
        "advertised.listeners": f"CLIENT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "CLIENT",
        "listener.security.protocol.map": "CLIENT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": f'{jaas} required username="admin" password="{admin}";',
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:admin;User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
        "auto.create.topics.enable": "false",
        "log.dirs": "/tmp/kafka-data",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "6",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "6",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "1000",
        "log.cleaner.dedupe.buffer.size": str(4 * 1024 * 1024),
        "log.cleaner.threads": "1",
    }
    lines = "\n".join(f"{name}={value}" for name, value in properties.items())
    return f"""
cat > /tmp/server.properties <<'END'
{lines}
END
export CLASSPATH='/opt/kafka/libs/*'
java=$(command -v java || echo /opt/java/bin/java)
"$java" -Xmx128m kafka.tools.StorageTool format -t 5L6g3nShT-eMCtK--X86sw -c /tmp/server.properties \\
  --add-scram 'SCRAM-SHA-512=[name=admin,password={admin}]' && \\
exec "$java" -Xmx1024m kafka.Kafka /tmp/server.properties
"""


def _wait_for_kafka(address: Address, seconds: float = 60.0) -> None:
    from confluent_kafka import KafkaException

    admin = RunningKafka(address).admin()
    until = time.monotonic() + seconds
    while True:
        try:
            admin.list_topics(timeout=2)
            admin.describe_consumer_groups(["ready"], request_timeout=5)["ready"].result()
            return
        except KafkaException:
            if time.monotonic() > until:
                raise RuntimeError(f"Kafka in its container was not ready in {seconds:.0f} s") from None
            time.sleep(0.2)


def end_system(system: System) -> None:
    """Stop a system and delete its topics: thousands of partitions are more than one small broker bears."""
    system.stop()
    admin = system.kafka.admin()
    names = [name for name in admin.list_topics(timeout=30).topics if name.startswith(system.namespace)]
    for deleted in admin.delete_topics(names).values() if names else ():
        with suppress(Exception):  # it is gone already
            deleted.result()
