"""What a service set aside, because it could not be applied: listed for a person, and kept for a time only.

A poison event's bytes can hold personal data that nobody could read out of it. They are erased with the client that
they name, and the row goes when its time is over. The door has a list of its own: there a person can try again.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncSession

from servicekit.access import Db
from servicekit.auth import OPERATOR, Caller, require
from servicekit.db import Database, every
from servicekit.envelope import Wire
from servicekit.rights import grants
from servicekit.sql import do, rows

SECONDS_BETWEEN = 600.0
TABLE = """
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
"""
"""For the service's first migration. It keeps a poison event's bytes for a person to look at."""
MIGRATION = (
    "ALTER TABLE set_aside ADD COLUMN erased boolean GENERATED ALWAYS AS (value IS NULL) STORED",
    *grants({"set_aside": "UPDATE (value), DELETE"}, "worker"),
    *grants({"set_aside": 'SELECT (id, topic, partition, "offset", reason, set_aside_at, erased)'}, "api"),
)
"""For a later migration of the service. Its API cannot read the bytes."""

router = APIRouter(tags=["operations"])


class SetAside(Wire):
    """An event that could not be applied, and where it stands on its topic. Nothing of what it says."""

    id: int
    topic: str
    partition: int
    offset: int
    reason: str
    """The class of the error, or a code."""
    set_aside_at: datetime
    erased: bool
    """Whether its bytes are gone."""


@router.get("/set-aside", summary="Events that could not be applied")
async def get_set_aside(
    db: Db,
    _: Annotated[Caller, Depends(require(OPERATOR))],
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0,
) -> list[SetAside]:
    """Oldest first. What it is about is for whoever may read the service's database.

    `after` for the next page is the last `id`; a page with fewer than `limit` is the last.
    """
    found = await db.run(
        lambda session: rows(
            session,
            """
            SELECT id, topic, partition, "offset", reason, set_aside_at, erased FROM set_aside
            WHERE id > :after ORDER BY id LIMIT :limit
            """,
            after=after,
            limit=limit,
        )
    )
    return [SetAside.model_validate(dict(row)) for row in found]


async def set_aside(
    session: AsyncSession, topic: str, partition: int, offset: int, reason: str, value: bytes | None
) -> None:
    """Keep a poison event. `reason` is a class name or a code, never a message that may quote the event."""
    await do(
        session,
        """
        INSERT INTO set_aside (topic, partition, "offset", reason, value)
        VALUES (:topic, :partition, :offset, :reason, :value) ON CONFLICT DO NOTHING
        """,
        topic=topic,
        partition=partition,
        offset=offset,
        reason=reason,
        value=value,
    )


async def erase_of(session: AsyncSession, references: Collection[UUID], keeping: bytes | None = None) -> None:
    """Erase the bytes of the events that name one of these clients, wherever in them it stands. Events of exactly the
    bytes `keeping` are left.
    """
    if references:
        await do(
            session,
            """
            UPDATE set_aside SET value = NULL
            WHERE value IS DISTINCT FROM CAST(:keeping AS bytea) AND EXISTS (
                SELECT FROM unnest(CAST(:references AS text[])) AS r
                WHERE position(convert_to(r, 'UTF8') IN value) > 0)
            """,
            references=sorted(map(str, references)),
            keeping=keeping,
        )


async def forget(session: AsyncSession, after: timedelta) -> None:
    """Forget what was set aside longer ago."""
    await do(
        session, "DELETE FROM set_aside WHERE set_aside_at < clock_timestamp() - CAST(:after AS interval)", after=after
    )


async def keep_for(database: Database, days: float) -> None:
    """Forget what is older than so many days, for ever."""
    after = timedelta(days=days)
    await every(SECONDS_BETWEEN, "forgetting", lambda: database.run(lambda session: forget(session, after)))
