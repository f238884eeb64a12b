"""Holds: what denies everything until a person has looked, of clients and of numbers that no client has yet."""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from consent.repository.clients import Hold, Identifier
from consent.repository.sql import Executor, Write, arrays, insert_of

_HOLDS = insert_of(
    "hold",
    "client_id, asserted_by, reason, times",
    "bigint, text, text, int",
    "ON CONFLICT (client_id, asserted_by, reason) WHERE lifted_at IS NULL"
    " DO UPDATE SET times = hold.times + excluded.times, last_at = clock_timestamp()",
)
_HELD_NUMBERS = insert_of(
    "held_identifier",
    "type, issuer, value, asserted_by, reason, times",
    "text, text, text, text, text, int",
    "ON CONFLICT (type, issuer, value, asserted_by, reason)"
    " DO UPDATE SET times = held_identifier.times + excluded.times, last_at = clock_timestamp()",
)


def adding(rows: Collection[tuple[int | None, str, str, int]]) -> Write:
    """Put on, or count once more, the hold of each (client, agency, reason), with how often it came. Without a client:
    what operations are to see to besides.
    """
    return Write(_HOLDS, rows)


def adding_numbers(rows: Collection[tuple[Any, ...]]) -> Write:
    """The same of numbers that no client has: (*number, agency, reason, how often)."""
    return Write(_HELD_NUMBERS, rows)


async def lock_unheld(db: Executor, ids: Collection[int], hold: Hold) -> set[int]:
    """Those of these rows on which this hold is not put yet, kept from being locked by others; those that are
    locked are left out.
    """
    found = await db.scalars(
        text(
            "SELECT id FROM client c WHERE id = ANY(:ids) AND NOT EXISTS (SELECT 1 FROM hold h WHERE h.client_id = c.id"
            " AND h.asserted_by = :by AND h.reason = :reason AND h.lifted_at IS NULL) ORDER BY id"
            " FOR KEY SHARE OF c SKIP LOCKED"
        ),
        {"ids": list(ids), "by": hold.asserted_by, "reason": hold.reason},
    )
    return set(found)


async def unlifted(db: Executor) -> Sequence[Any]:
    """Holds that nobody has lifted, oldest first: of clients, of numbers that no client has, and those that hold nobody
    but are to be seen to. Never the number.
    """
    result = await db.execute(
        text(
            "SELECT id AS hold, CASE WHEN client_id IS NULL THEN 'nobody' ELSE 'client' END AS held, reason,"
            " asserted_by, since, times, last_at, owner FROM hold WHERE lifted_at IS NULL"
            " UNION ALL SELECT id, 'number', reason, asserted_by, since, times, last_at, owner FROM held_identifier"
            " ORDER BY since, hold"
        )
    )
    return result.all()


async def count_open(db: Executor, agencies: Collection[str]) -> dict[str, int]:
    """How many clients and numbers are held by the word of each of these agencies."""
    rows = await db.execute(
        text(
            "SELECT a,"
            " (SELECT count(*) FROM hold WHERE asserted_by = a AND lifted_at IS NULL AND client_id IS NOT NULL)"
            " + (SELECT count(*) FROM held_identifier WHERE asserted_by = a) AS n"
            " FROM unnest(CAST(:agencies AS text[])) AS r(a)"
        ),
        {"agencies": sorted(agencies)},
    )
    return {row.a: row.n for row in rows}


async def find(db: Executor, hold: UUID) -> Any | None:
    """A hold that nobody has lifted: `client_id`, None where it holds nobody, `asserted_by`, `times` and `last_at`."""
    found = await db.execute(
        text("SELECT client_id, asserted_by, times, last_at FROM hold WHERE id = :id AND lifted_at IS NULL"),
        {"id": hold},
    )
    return found.one_or_none()


async def set_owner(db: Executor, hold: UUID, owner: str) -> bool:
    """Enter who looks at a hold. False: nobody's hold has this id."""
    for statement in (
        "UPDATE hold SET owner = :owner WHERE id = :id AND lifted_at IS NULL RETURNING 1",
        "UPDATE held_identifier SET owner = :owner WHERE id = :id RETURNING 1",
    ):
        if await db.scalar(text(statement), {"id": hold, "owner": owner}):
            return True
    return False


async def lift(db: Executor, hold: UUID, by: str) -> None:
    """Enter that a hold is lifted, and by whom."""
    await db.execute(
        text("UPDATE hold SET lifted_at = clock_timestamp(), lifted_by = :by WHERE id = :id AND lifted_at IS NULL"),
        {"id": hold, "by": by},
    )


async def take_off(db: Executor, client: int, by: str) -> list[tuple[Hold, int]]:
    """Lift the holds of a client, to be put on others instead; gives how often each came."""
    rows = await db.execute(
        text(
            "UPDATE hold SET lifted_at = clock_timestamp(), lifted_by = :by"
            " WHERE client_id = :client AND lifted_at IS NULL RETURNING asserted_by, reason, times"
        ),
        {"client": client, "by": by},
    )
    return [(Hold(row.asserted_by, row.reason), row.times) for row in rows]


_THESE = "unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]), CAST(:a2 AS text[])) AS r(t, i, v)"


async def of_numbers(db: Executor, keys: Collection[Identifier]) -> set[tuple[Identifier, Hold]]:
    """The open holds of these numbers, which no client has yet."""
    if not keys:
        return set()
    result = await arrays(
        db,
        text(
            "SELECT type, issuer, value, asserted_by, reason FROM held_identifier"  # noqa: S608 # a constant
            f" JOIN {_THESE} ON type = t AND issuer = i AND value = v"
        ),
        list(keys),
    )
    return {(Identifier(row.type, row.issuer, row.value), Hold(row.asserted_by, row.reason)) for row in result}


async def take_off_numbers(db: Executor, keys: Collection[Identifier]) -> list[tuple[Identifier, str]]:
    """Take the holds off these numbers, for now a client has them: it is the one to hold. Gives number and agency."""
    if not keys:
        return []
    result = await arrays(
        db,
        text(
            f"DELETE FROM held_identifier USING {_THESE} WHERE type = t AND issuer = i AND value = v"  # noqa: S608
            " RETURNING type, issuer, value, asserted_by"
        ),
        list(keys),
    )
    return sorted((Identifier(row.type, row.issuer, row.value), row.asserted_by) for row in result)


async def forget_number(db: Executor, id: UUID) -> bool:
    """Forget that a number is held, the number with it. False: there is none with this id."""
    return bool(await db.scalar(text("DELETE FROM held_identifier WHERE id = :id RETURNING 1"), {"id": id}))
