"""Real PostgreSQL and Kafka once per run; a namespace and databases of its own for each test that asks for a system."""

import functools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings
from support import servers
from support.services import DatabaseOf, OfService

from throughgate.native import process
from throughgate.provision import databases
from throughgate.system import System

_stop: list[Callable[[], None]] = []

# How long one example takes says how busy the machine is.
settings.register_profile("throughgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("throughgate")

if worker := os.environ.get("PYTEST_XDIST_WORKER"):  # gw0, gw1...: each draws from ports of its own
    process.PORTS = process.PORTS[int(worker[2:]) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once, in the process that the others come from."""
    if not hasattr(config, "workerinput") and not config.option.collectonly and _needs_servers(config):
        _stop.append(servers.start())


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started here."""
    while _stop:
        _stop.pop()()
    if not hasattr(config, "workerinput"):
        os.environ.pop(servers.VARIABLE, None)


def pytest_report_header() -> str:
    """Say on what the tests run."""
    address = servers.started()
    return f"PostgreSQL and Kafka: {address.kind if address else 'not needed'}"


def _needs_servers(config: pytest.Config) -> bool:
    alone = ("tests/unit", "tests/contract")
    return not (config.args and all(any(part in arg for part in alone) for arg in config.args))


@pytest.fixture(scope="session")
def address() -> servers.Address:
    """Where the run's servers are."""
    found = servers.started()
    if found is None:
        pytest.fail("this test needs PostgreSQL and Kafka: name its folder, or tests/, to pytest")
    return found


def _start(
    address: servers.Address, made: list[System], agencies: list[str], services: list[str], **options: Any
) -> System:
    system = System(
        servers.RunningPostgres(address),
        servers.RunningKafka(address),
        agencies,
        services=services,
        namespace=f"t{uuid4().hex[:10]}-",
        trace_sampling=0.0,
        **options,
    )
    made.append(system)
    system.start()
    return system


@pytest.fixture(scope="session")
def start_system(address: servers.Address) -> Iterator[Callable[..., System]]:
    """Starts a system with a namespace and databases of its own, which lives as long as this process's tests."""
    made: list[System] = []
    yield functools.partial(_start, address, made)
    for system in made:
        servers.end_system(system)


@pytest.fixture
def make_system(address: servers.Address) -> Iterator[Callable[..., System]]:
    """Like `start_system`, for one test: it is stopped afterwards."""
    made: list[System] = []
    yield functools.partial(_start, address, made)
    for system in made:
        servers.end_system(system)


@pytest.fixture
async def database_of(address: servers.Address) -> AsyncIterator[DatabaseOf]:
    """Makes a migrated, empty database of a service, reached with the worker role: `await database_of("referral")`."""
    made: list[tuple[str, OfService]] = []
    server = servers.RunningPostgres(address)

    async def make(service: str, role: str = "worker") -> OfService:
        template = await _template(server, service)
        name = f"d{uuid4().hex[:12]}"
        admin = await asyncpg.connect(server.url())
        try:
            await admin.execute("SELECT pg_advisory_lock(hashtext($1))", template)
            await admin.execute(f"CREATE DATABASE {name} OWNER {template}_owner TEMPLATE {template}")
        finally:
            await admin.close()
        database = OfService(role, lambda role: server.role_url(name, f"{template}_{role}"))
        made.append((name, database))
        return database

    yield make
    for name, database in made:
        await database.close()
        with suppress(asyncpg.PostgresError):
            admin = await asyncpg.connect(server.url())
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
            await admin.close()


async def _template(server: servers.RunningPostgres, service: str) -> str:
    """The migrated database that a service's tests copy, made once a run."""
    wanted = databases.databases("template_", [service])[service]
    admin = await asyncpg.connect(server.url())
    try:
        await admin.execute("SELECT pg_advisory_lock(hashtext($1))", wanted.name)
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1 AND datallowconn", wanted.name):
            await databases.provision(server.url(), [wanted], server.role_password)
            environment = os.environ | {"THROUGHGATE_DATABASE_URL": server.role_url(wanted.name, wanted.owner)}
            subprocess.run([sys.executable, "-m", "servicekit.migrate", service], env=environment, check=True)
    finally:
        await admin.close()
    return wanted.name
