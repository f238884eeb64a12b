"""Migrations with Alembic, as a step of their own: `python -m SERVICE.migrate` with the owner's database URL."""

import asyncio
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
    asyncio.run(_upgrade(versions, settings))


async def _upgrade(versions: Path, settings: Settings) -> None:
    engine = create_engine(settings.database_url.get_secret_value(), 1, "migrate")
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
