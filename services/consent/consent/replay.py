"""Tries a changed policy on past decisions: `python -m consent.replay --since 2026-05-01 < policy.json`.

Reads the policy as JSON (`service.replaying.Change`) from standard input and writes what came of it, as JSON, to
standard output. The transaction is READ ONLY: PostgreSQL refuses whatever would change something. The role needs
SELECT, and to see all rows.
"""

import argparse
import asyncio
import sys
from datetime import UTC, datetime

import orjson
from pydantic import ValidationError

from consent.service.replaying import Change, ChangedGateway, Replayed, replay
from servicekit.db import create_engine
from servicekit.problems import where
from servicekit.settings import Settings


async def run(url: str, change: Change, since: datetime) -> Replayed:
    """Replay against a database, in one transaction that reads one state and cannot write."""
    engine = create_engine(url, 1, "replay")
    try:
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        async with engine.connect() as connection:
            await connection.execution_options(**options)
            async with connection.begin():
                return await replay(connection, change, since)
    finally:
        await engine.dispose()


def _since(value: str) -> datetime:
    at = datetime.fromisoformat(value)
    try:
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("beyond the years that there are") from None


def main() -> None:
    """The command. Exit code 2 for a policy that does not fit, with a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m consent.replay", description="Try a changed policy on the past.")
    parser.add_argument("--since", type=_since, required=True, help="a date, or a time with its offset; else UTC")
    since = parser.parse_args().since
    try:
        change = Change.model_validate_json(sys.stdin.buffer.read() or b"{}")
        if not change.agreements and all(row == ChangedGateway() for row in change.gateways.values()):
            parser.error("The policy changes nothing: name the agreements or gateways to try (docs/how-to/replay.md).")
        url = Settings().database_url.get_secret_value()
        replayed = asyncio.run(run(url, change, since))
    except ValidationError as error:
        parser.error(f"The policy does not fit: {where(error)}.")
    except ValueError as error:
        parser.error(f"The policy does not fit: {error}.")
    sys.stdout.buffer.write(orjson.dumps(replayed, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    main()
