"""The ledger as an auditor reads it: by places, not by clients."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import text

from consent.repository.sql import Executor

_ENTRIES = (
    "SELECT l.id, l.client_id, l.kind, l.decision, l.queue_id, l.recipient, l.purpose, l.type, l.decided_at, l.sources,"
    " l.leaf, l.shard, l.sequence, l.position, c.key, CASE WHEN :open THEN l.body END AS body"
    " FROM ledger l LEFT JOIN client c ON c.id = l.client_id WHERE l.shard = :shard"
)
_ORDER = " ORDER BY l.sequence, l.position, l.id"


async def batches(db: Executor, shard: int, after: int, limit: int, *, open: bool) -> Sequence[Any]:
    """Entries of the next whole batches behind the one with sequence `after`: some `limit`, or one batch if larger."""
    same = {"shard": shard, "open": open}
    rows = (
        await db.execute(
            text(f"{_ENTRIES} AND l.sequence > :after{_ORDER} LIMIT :limit"), same | {"after": after, "limit": limit}
        )
    ).all()
    if len(rows) < limit:
        return rows
    last = rows[-1].sequence  # it may go on behind the limit
    whole = [row for row in rows if row.sequence < last]
    if whole:
        return whole
    return (await db.execute(text(f"{_ENTRIES} AND l.sequence = :last{_ORDER}"), same | {"last": last})).all()


async def of_erased(db: Executor, clients: Collection[int]) -> Sequence[Any]:
    """What is left of clients without a key: entries that were closed, and those of the erasures that closed them; by
    client and in order.
    """
    if not clients:
        return []
    rows = await db.execute(
        text(
            "SELECT l.id, l.client_id, l.kind, l.decision, l.decided_at, l.leaf, NULL AS key,"
            " CASE WHEN l.kind = 'erasure' THEN l.body END AS body FROM ledger l"
            " WHERE l.client_id = ANY(:clients) AND l.kind IN ('erased', 'erasure') ORDER BY l.client_id, l.id"
        ),
        {"clients": sorted(clients)},
    )
    return rows.all()


async def links(db: Executor, clients: Collection[int]) -> Sequence[Any]:
    """The links that made these rows of `client`, or that these are parts of; `holds`: the link's client is made of its
    parts, where it was not undone.
    """
    rows = await db.execute(
        text(
            "SELECT l.id, l.client_id, l.parts, l.unlinked_at IS NOT NULL AS undone, l.unlinked_at IS NOT NULL"
            " OR c.parts = l.parts AND NOT EXISTS (SELECT 1 FROM client p WHERE p.id = ANY(l.parts)"
            " AND p.merged_into IS DISTINCT FROM c.id) AS holds"
            " FROM link l JOIN client c ON c.id = l.client_id"
            " WHERE l.client_id = ANY(:clients) OR l.parts && CAST(:clients AS bigint[])"
        ),
        {"clients": sorted(clients)},
    )
    return rows.all()


async def extent(db: Executor) -> Sequence[Any]:
    """Entries and newest batch of each shard; under shard None those that wait to be sealed."""
    return (
        await db.execute(
            text("SELECT shard, count(*) AS entries, max(sequence) AS newest FROM ledger GROUP BY shard ORDER BY shard")
        )
    ).all()


async def heads(db: Executor, shard: int, after: int, limit: int) -> Sequence[Any]:
    """The heads of a shard behind `after`, as they are stored."""
    return (
        await db.execute(
            text(
                "SELECT sequence, head::text AS head, sent, lost_at FROM head"
                " WHERE shard = :shard AND sequence > :after ORDER BY sequence LIMIT :limit"
            ),
            {"shard": shard, "after": after, "limit": limit},
        )
    ).all()


async def shards_of_heads(db: Executor) -> list[int]:
    """The shards that have a head."""
    return [row.shard for row in await db.execute(text("SELECT DISTINCT shard FROM head ORDER BY shard"))]


async def signing_keys(db: Executor) -> Sequence[Any]:
    """The public keys that heads were signed with, oldest first."""
    return (await db.execute(text("SELECT id, public_key, since FROM signing_key ORDER BY since, id"))).all()
