"""Migrations with Alembic, as a step of their own: `python -m SERVICE.migrate` with the owner's database URL.

`python -m servicekit.migrate` brings several services up to date in one process, one after the other, which is quicker
where they run side by side: THROUGHGATE_DATABASE_URLS is a JSON object of service to the owner's URL.
"""

import asyncio
import json
import os
from importlib.util import find_spec
from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from servicekit.db import create_engine
from servicekit.settings import Settings

LOCK = 7_202
"""Advisory lock: of several migration steps that start at once, one works and the others find it done."""


def upgrade(versions: Path, settings: Settings) -> None:
    """Bring the database up to the newest revision in the folder `versions`."""
    asyncio.run(_upgrade(versions, settings.database_url.get_secret_value()))


async def upgrade_all(urls: dict[str, str]) -> None:
    """Bring each service's database up to date. Alembic's context is global, so one after the other.

    Raises:
        LookupError: a service is not installed here.
    """
    for service, url in urls.items():
        found = find_spec(service)
        if found is None or not found.submodule_search_locations:
            raise LookupError(f"the service {service} is not installed")
        await _upgrade(Path(found.submodule_search_locations[0]) / "migrations" / "versions", url)


async def _upgrade(versions: Path, url: str) -> None:
    engine = create_engine(url, 1, "migrate")
    async with engine.begin() as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        await connection.run_sync(_run, versions)
    await engine.dispose()


def _run(connection: Connection, versions: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(versions.parent))
    config.set_main_option("version_locations", str(versions))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)) as context:
        context.configure(connection=connection)
        with context.begin_transaction():
            context.run_migrations()


def grants(tables: dict[str, str], *roles: str) -> list[str]:
    """GRANT statements: `tables` maps a table to its privileges; each role of this database gets them.

    Roles are called `<database>_<role>`; the migration runs as `<database>_owner`, so the prefix is read from the name.
    """
    return [
        f"DO $$ BEGIN EXECUTE format('GRANT {privileges} ON {table} TO %I', current_database() || '_{role}'); END $$"
        for table, privileges in tables.items()
        for role in roles
    ]


ASKING = (
    # The transaction says who asks (`servicekit.access`); when nobody does, nothing is theirs.
    """
CREATE FUNCTION asking() RETURNS text LANGUAGE sql STABLE
    RETURN nullif(current_setting('throughgate.agency', true), '')
""",
    """
CREATE FUNCTION answers_for_all() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('throughgate.whole', true), '') = 'yes'
""",
)
"""Functions for the rules of `bound`: the agency that asks, and whether it is shown every agency's rows."""


def may_execute(role: str, *functions: str) -> list[str]:
    """GRANT statements for functions, each with its arguments' types: without one, nobody but the owner executes it."""
    return [
        f"DO $$ BEGIN EXECUTE format('GRANT EXECUTE ON FUNCTION {function} TO %I', current_database() || '_{role}');"
        " END $$"
        for function in functions
    ]


def bound(rules: dict[str, str]) -> list[str]:
    """Row-level security, forced on the owner too: of each table the agencies' role sees the rows for which its rule
    holds. The owner, the API and the worker, who mix agencies, see all.
    """
    statements = []
    for table, rule in rules.items():
        statements += [
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            *(policy(f"{table}_{role}", table, role, "true", "ALL") for role in ("owner", "api", "worker")),
            policy(f"{table}_agency", table, "agency", rule, "SELECT"),
        ]
    return statements


def policy(name: str, table: str, role: str, rule: str, command: str) -> str:
    """A policy for a role of this database, as `grants` names them: the rows that it may read, or write."""
    using = "" if command == "INSERT" else f"USING ({rule})"
    check = "" if command == "SELECT" else f"WITH CHECK ({rule})"
    return (
        f"DO $$ BEGIN EXECUTE format($p$CREATE POLICY {name} ON {table} FOR {command} TO %I {using} {check}$p$,"
        f" current_database() || '_{role}'); END $$"
    )


if __name__ == "__main__":
    asyncio.run(upgrade_all(json.loads(os.environ["THROUGHGATE_DATABASE_URLS"])))
