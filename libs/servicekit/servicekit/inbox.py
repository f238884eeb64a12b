"""What was taken in already. It outlives the longest retention of the topic that it guards."""

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

TABLES = (
    """
CREATE TABLE inbox (
    event_id text PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
    """
CREATE TABLE set_aside (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    partition int NOT NULL,
    "offset" bigint NOT NULL,
    reason text NOT NULL,
    value bytea,
    set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (topic, partition, "offset")
)
""",
)
"""For the service's first migration. `set_aside` keeps a poison event's bytes for a person to look at."""


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


async def set_aside(
    session: AsyncSession, topic: str, partition: int, offset: int, reason: str, value: bytes | None
) -> None:
    """Keep a poison event. `reason` is a class name or a code, never a message that may quote the event."""
    await session.execute(
        text(
            'INSERT INTO set_aside (topic, partition, "offset", reason, value) VALUES (:t, :p, :o, :r, :v)'
            " ON CONFLICT DO NOTHING"
        ),
        {"t": topic, "p": partition, "o": offset, "r": reason, "v": value},
    )
