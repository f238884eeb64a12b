"""What a database that was restored does not know any more, and what is entered of it when it was read back."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from consent.repository.sql import Executor, arrays, insert_of
from contracts.heads import Head


async def is_open(db: Executor) -> bool:
    """Whether something may be taken in: this very database was compared with the topics since its server was started,
    and what was missing was read back. Before that, a fact that came in could get a version that was used already.
    """
    return bool(await db.scalar(text(_COMPARED.format("read_at"))))


async def may_leave(db: Executor) -> bool:
    """Whether something may leave: the door is open, and after a restore the operator said that it may."""
    return bool(await db.scalar(text(_COMPARED.format("done_at"))))


_COMPARED = (
    "SELECT EXISTS (SELECT 1 FROM opened WHERE incarnation = incarnation())"
    " AND NOT EXISTS (SELECT 1 FROM restore WHERE {} IS NULL)"
)


async def open_door(db: Executor) -> None:
    """Enter that this database was compared, and knows what the topics say."""
    await db.execute(text("INSERT INTO opened (incarnation) SELECT incarnation() ON CONFLICT DO NOTHING"))


@dataclass(frozen=True, slots=True)
class Restore:
    """A database that was found to be behind its topics."""

    id: int
    since: datetime
    """From when on what stands in the topics may be unknown."""
    is_read: bool
    """Whether all of it was read back. Then only the operator's word is missing that the door may open."""


async def unfinished(db: Executor) -> Restore | None:
    """The restore after which the door has not been opened again."""
    row = (
        await db.execute(text("SELECT id, since, read_at FROM restore WHERE done_at IS NULL ORDER BY id LIMIT 1"))
    ).one_or_none()
    return None if row is None else Restore(row.id, row.since, row.read_at is not None)


async def last_done(db: Executor) -> int:
    """The number of the newest restore after which the door was allowed to open; 0 where there was none."""
    return int(await db.scalar(text("SELECT max(id) FROM restore WHERE done_at IS NOT NULL")) or 0)


async def last_read(db: Executor) -> datetime | None:
    """When the newest of them had read back all that the topics knew."""
    read_at: datetime | None = await db.scalar(text("SELECT max(read_at) FROM restore WHERE done_at IS NOT NULL"))
    return read_at


async def begin(db: Executor, since: datetime) -> Restore:
    """Close the door until what stands in the topics since then was read back."""
    id = await db.scalar(text("INSERT INTO restore (since) VALUES (:since) RETURNING id"), {"since": since})
    return Restore(int(id or 0), since, False)


async def add_nameless(db: Executor, restore: Restore, count: int) -> None:
    """Count references under which something was retracted, and of which nobody knows whom they stand for."""
    await db.execute(
        text("UPDATE restore SET nameless = nameless + :count WHERE id = :id"), {"count": count, "id": restore.id}
    )


async def nameless(db: Executor, restore: Restore) -> int:
    """How many of them there were."""
    return int(await db.scalar(text("SELECT nameless FROM restore WHERE id = :id"), {"id": restore.id}) or 0)


async def was_read(db: Executor, restore: Restore) -> None:
    """Enter that all was read back: from now on something may be taken in."""
    await open_door(db)
    await db.execute(text("UPDATE restore SET read_at = clock_timestamp() WHERE id = :id"), {"id": restore.id})


async def end(db: Executor, restore: Restore) -> None:
    """Enter that the door may open."""
    await db.execute(text("UPDATE restore SET done_at = clock_timestamp() WHERE id = :id"), {"id": restore.id})


async def newest_heads(db: Executor) -> list[Head]:
    """The newest head of each shard. What was decided after the newest of all is unknown here."""
    rows = await db.execute(
        text(
            "SELECT h.head::text AS head FROM generate_series(0, (SELECT max(shard) FROM head)) AS s(n)"
            " CROSS JOIN LATERAL (SELECT head FROM head WHERE shard = s.n ORDER BY sequence DESC LIMIT 1) h"
        )
    )
    return [Head.model_validate_json(row.head) for row in rows]


async def missing_heads(db: Executor, heads: Collection[Head]) -> list[Head]:
    """Those of which this database knows nothing, in order."""
    if not heads:
        return []
    rows = await arrays(
        db,
        text(
            "SELECT s, n FROM unnest(CAST(:a0 AS int[]), CAST(:a1 AS bigint[])) AS r(s, n) WHERE NOT EXISTS"
            " (SELECT 1 FROM head WHERE shard = s AND sequence = n)"
        ),
        [(h.shard, h.sequence) for h in heads],
    )
    missing = {(row.s, row.n) for row in rows}
    return sorted((h for h in heads if (h.shard, h.sequence) in missing), key=lambda h: (h.shard, h.sequence))


async def add_lost_heads(db: Executor, heads: Sequence[Head]) -> None:
    """Keep heads as they were published: the chain goes on behind them, and what they sealed is gone."""
    if heads:
        await arrays(
            db,
            text(
                "INSERT INTO head (shard, sequence, head, sent, lost_at) SELECT s, n, CAST(h AS jsonb), true, now()"
                " FROM unnest(CAST(:a0 AS int[]), CAST(:a1 AS bigint[]), CAST(:a2 AS text[]))"
                " AS r(s, n, h) ORDER BY s, n"
            ),
            [(h.shard, h.sequence, h.model_dump_json(by_alias=True)) for h in heads],
        )


async def missing_retractions(db: Executor, ids: Collection[UUID]) -> set[UUID]:
    """Those of which this database knows nothing."""
    return await _missing(db, "retraction", ids)


async def missing_withdrawals(db: Executor, ids: Collection[UUID]) -> set[UUID]:
    """Those of which this database knows nothing."""
    return await _missing(db, "withdrawal", ids)


async def _missing(db: Executor, table: str, ids: Collection[UUID]) -> set[UUID]:
    if not ids:
        return set()
    rows = await db.execute(
        text(
            "SELECT i FROM unnest(CAST(:ids AS uuid[])) AS r(i)"  # noqa: S608 # the table is one of our own names
            f" WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE id = i)"
        ),
        {"ids": list(ids)},
    )
    return {row.i for row in rows}


async def missing_events(db: Executor, events: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those (publisher, event id) of which the inbox knows nothing."""
    if not events:
        return set()
    rows = await arrays(
        db,
        text(
            "SELECT a, e FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[])) AS r(a, e) WHERE NOT EXISTS"
            " (SELECT 1 FROM intake WHERE agency = a AND event_id = e)"
        ),
        list(events),
    )
    return {(row.a, row.e) for row in rows}


_REFERENCES = insert_of("reference", "id, client_id, recipient, queued", "uuid, bigint, text, boolean")


async def add_references(db: Executor, references: Sequence[tuple[UUID, int, str]]) -> None:
    """Give references back to those who have them: (reference, client, recipient)."""
    if references:
        await arrays(db, _REFERENCES, [(*one, True) for one in references])
