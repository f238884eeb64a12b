"""Migrations with Alembic, a step of their own: `python -m servicekit.migrate SERVICE` with its owner's database URL.

Without a service it brings several up to date in one process, one after the other, which is quicker where they run side
by side: THROUGHGATE_DATABASE_URLS is a JSON object of service to the owner's URL.
"""

import asyncio
import json
import os
import sys
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


async def upgrade(urls: dict[str, str]) -> None:
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


if __name__ == "__main__":
    if sys.argv[1:]:
        urls = {sys.argv[1]: Settings().database_url.get_secret_value()}
    else:
        urls = json.loads(os.environ["THROUGHGATE_DATABASE_URLS"])
    asyncio.run(upgrade(urls))
