"""A database for each service, with four roles: one owns it and migrates; the API's, the agencies' and the worker's own
nothing.
"""

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from contracts.vocabulary import SERVICES

_LOCK = 0x7467_7076  # advisory lock: GRANTs on the same database do not go together
_SCRAM_ITERATIONS = 4096
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Database:
    """The names that belong to one service."""

    name: str

    @property
    def owner(self) -> str:
        """Owns the database and all in it; runs migrations and nothing else."""
        return f"{self.name}_owner"

    @property
    def api(self) -> str:
        """Logs in for the HTTP process."""
        return f"{self.name}_api"

    @property
    def agency(self) -> str:
        """Logs in for the HTTP process where one agency asks: row-level security holds it to that agency's rows."""
        return f"{self.name}_agency"

    @property
    def worker(self) -> str:
        """Logs in for the workers."""
        return f"{self.name}_worker"

    @property
    def roles(self) -> tuple[str, ...]:
        """All of them."""
        return self.owner, self.api, self.agency, self.worker


def databases(prefix: str = "", services: Sequence[str] = SERVICES) -> dict[str, Database]:
    """The database of each service. Raises ValueError for a name that would need quoting."""
    found = {service: Database(prefix + service) for service in services}
    for database in found.values():
        if not _NAME.fullmatch(database.name) or len(database.name) > 50:
            raise ValueError(
                f"{database.name!r} cannot be a database: small letters, digits and _, at most 50 of them."
            )
    return found


async def provision(admin_url: str, wanted: Sequence[Database], passwords: Callable[[str], str]) -> None:
    """Make databases and roles, and set the roles' passwords; what is there stays. Raises
    asyncpg.PostgresError.

    `admin_url` is a `postgresql://` URL of a superuser (or of a role that may create databases and roles).
    `passwords` gives the password of a role. Migrations grant what the API and the worker may do, table by
    table.
    """
    async with _connected(admin_url) as lock:
        await lock.execute("SELECT pg_advisory_lock($1)", _LOCK)
        roles = {role for d in wanted for role in d.roles}
        existing = {
            r["rolname"] for r in await lock.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", roles)
        }
        statements = [f"CREATE ROLE {role} NOSUPERUSER NOCREATEDB NOCREATEROLE" for role in sorted(roles - existing)]
        # Verifiers, not passwords: no log of the server can ever hold one.
        statements += [f"ALTER ROLE {role} LOGIN PASSWORD '{_verifier(passwords(role))}'" for role in sorted(roles)]
        statements += ["REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC"]
        await lock.execute(";\n".join(statements))
        await asyncio.gather(*(_database(admin_url, d) for d in wanted))


async def _database(admin_url: str, database: Database) -> None:
    async with _connected(admin_url) as c:
        if not await c.fetchval("SELECT true FROM pg_database WHERE datname = $1", database.name):
            await c.execute(f"CREATE DATABASE {database.name} OWNER {database.owner}")
    async with _connected(with_database(admin_url, database.name)) as c:
        clients = f"{database.api}, {database.agency}, {database.worker}"
        await c.execute(
            f"""
            REVOKE ALL ON DATABASE {database.name} FROM PUBLIC;
            GRANT CONNECT ON DATABASE {database.name} TO {clients};
            REVOKE ALL ON SCHEMA public FROM PUBLIC;
            GRANT USAGE ON SCHEMA public TO {clients};
            ALTER DEFAULT PRIVILEGES FOR ROLE {database.owner} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
            """
        )


def with_database(url: str, database: str) -> str:
    """The same URL for another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _verifier(password: str) -> str:
    """What PostgreSQL stores of a password (SCRAM-SHA-256)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{_base64(salt)}${_base64(stored)}:{_base64(server)}"


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
