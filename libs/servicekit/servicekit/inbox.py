"""The ids of what was taken in already. Nothing deletes them: an event may be replayed however late."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

TABLE = """
CREATE TABLE inbox (
    event_id text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
"""
"""For the service's first migration. No code reads `received_at`: it is for whoever looks into a replay."""


async def fresh(session: AsyncSession, event_ids: Sequence[str]) -> set[str]:
    """Enter the ids, and give those that were not known. Their effects belong in the same transaction."""
    rows = await session.scalars(
        text(
            "INSERT INTO inbox (event_id) SELECT DISTINCT id FROM unnest(CAST(:ids AS text[])) AS r(id) ORDER BY id"
            " ON CONFLICT DO NOTHING RETURNING event_id"
        ),
        {"ids": list(event_ids)},
    )
    return set(rows)
