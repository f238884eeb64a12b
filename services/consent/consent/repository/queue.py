"""The queue of what may have to leave, and where retractions stand. The discloser lives on this file."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.repository.sql import Executor, Write, at_once, insert_of

RETRACTION, NOTICE, RECORD = 0, 1, 2
"""Kinds of queue rows: the first two leave as they are, a record is decided when it leaves."""

CHANNEL = "queue"
RETRACTIONS = "retractions"
"""Channels: that something is queued, and that it is a retraction."""


class QueueRow(NamedTuple):
    """What may have to leave. The driver's own rows take twenty times as long to give out a column."""

    kind: int
    client_id: int
    recipient: str
    topic: str
    reference: UUID
    type: str
    purpose: str | None
    body: str
    due_at: datetime
    requester: str | None = None
    """The service that asked for this record."""
    reference_of_requester: UUID | None = None
    request: UUID | None = None
    """The service's request; for a retraction its id."""
    traceparent: str | None = None
    keyed_by: int | None = None
    """The client whose reference the key is, where that is a part of a linked client; else `client_id`."""
    id: int = 0
    """Its place in the queue; 0 before it has one."""


_QUEUE = insert_of(
    "queue",
    ", ".join(QueueRow._fields[:-1]),
    "smallint, bigint, text, text, uuid, text, text, text, timestamptz, text, uuid, uuid, text, bigint",
)


def adding(rows: Sequence[QueueRow]) -> Write:
    """Queue rows in order."""
    return Write(_QUEUE, [(*row[:-2], row.keyed_by or row.client_id) for row in rows])


async def add(db: Executor, rows: Sequence[QueueRow]) -> None:
    """Queue rows in order."""
    await at_once(db, [adding(rows)])


_OURS = "keyed_by % :shards = :shard AND set_aside IS NULL AND due_at <= clock_timestamp()"


_NOT_BEHIND = (
    "(kind = 0 OR NOT EXISTS (SELECT 1 FROM queue s WHERE s.set_aside IS NOT NULL AND s.topic = q.topic"
    " AND s.reference = q.reference AND s.id < q.id))"
)


BESIDE = 500
"""So many of the records that may leave do so in a cycle whatever is in a hurry: beside retractions and notices, and
before a cycle is cut short for them.
"""


_COLUMNS = ", ".join(QueueRow._fields)

# Only constants are put into the texts.
_FIRST = (
    f"SELECT {_COLUMNS} FROM queue q WHERE kind < 2 AND {_OURS} AND topic <> ALL(:paused) AND {_NOT_BEHIND}"  # noqa: S608
    " ORDER BY kind, id LIMIT :n"
)
_CLAIM_FIRST = text(_FIRST)
_CLAIM = text(
    f"WITH first AS ({_FIRST}) SELECT * FROM first UNION ALL"  # noqa: S608
    f" (SELECT {_COLUMNS} FROM queue q WHERE kind = 2 AND {_OURS} AND topic <> ALL(:paused) AND {_NOT_BEHIND}"
    " ORDER BY id LIMIT CASE WHEN EXISTS (SELECT FROM first) THEN :beside ELSE :n END)"
)


async def claim(
    db: Executor, shard: int, shards: int, limit: int, paused: Collection[str], only: Collection[int] | None
) -> list[QueueRow]:
    """The rows to leave next: retractions, notices, records, by id. One process a shard claims, so nothing is locked.

    `paused` topics wait. A row behind one that was set aside waits as well when it is for the same client and
    recipient, so that their order holds; a retraction never waits. `only` limits the claim to these ids.
    """
    if only is not None:
        result = await db.execute(
            # Only constants are put into the text.
            text(
                f"SELECT {_COLUMNS} FROM queue q WHERE id = ANY(:only) AND {_OURS} AND {_NOT_BEHIND}"  # noqa: S608
                " ORDER BY kind <> 0, id"
            ),
            {"only": list(only), "shard": shard, "shards": shards},
        )
        return [QueueRow(*row) for row in result]
    bound = {"shard": shard, "shards": shards, "paused": list(paused), "n": limit, "beside": min(limit, BESIDE)}
    rows = [QueueRow(*row) for row in await db.execute(_CLAIM, bound)]
    return sorted(rows, key=lambda row: (row.kind, row.id))


async def claim_first(db: Executor, shard: int, shards: int, limit: int, paused: Collection[str]) -> list[QueueRow]:
    """The retractions and notices to leave next, as `claim` gives them, and no records."""
    bound = {"shard": shard, "shards": shards, "paused": list(paused), "n": limit}
    return [QueueRow(*row) for row in await db.execute(_CLAIM_FIRST, bound)]


def is_partners(topic: str) -> bool:
    """Whether a partner reads this topic, and not one of our own services."""
    return topic.startswith("partner.")


WAS_TO_LEAVE = (
    "l.kind = 'disclosure' AND NOT EXISTS (SELECT 1 FROM ledger c"
    " WHERE c.queue_id = l.queue_id AND c.kind = 'cancelled' AND c.decision = l.decision)"
)
"""Of an entry `l` of the ledger: that its record was to leave, and that was not cancelled."""


async def in_doubt(db: Executor, shard: int, shards: int) -> Sequence[Any]:
    """Rows of cycles that were interrupted after they were decided and before they were known to be sent, with their
    entries of the ledger.
    """
    result = await db.execute(
        text(
            "SELECT q.id, q.topic, l.decision, l.body, l.shard, l.sequence, l.position, k.key FROM queue q"  # noqa: S608
            " JOIN ledger l ON l.queue_id = q.id JOIN client k ON k.id = l.client_id"
            f" WHERE q.keyed_by % :shards = :shard AND k.key IS NOT NULL AND {WAS_TO_LEAVE}"
        ),
        {"shard": shard, "shards": shards},
    )
    return result.all()


_REMOVE = text("DELETE FROM queue WHERE id = ANY(CAST(:a0 AS bigint[]))")


def removing(ids: Collection[int]) -> Write:
    """Take rows off the queue: they left, or were refused."""
    return Write(_REMOVE, [(id,) for id in ids])


async def set_aside(db: Executor, id: int, reason: str) -> None:
    """Keep a row that cannot be sent out of the others' way until a person has looked."""
    await db.execute(text("UPDATE queue SET set_aside = :reason WHERE id = :id"), {"id": id, "reason": reason})


async def done_with(db: Executor, retractions: Collection[UUID]) -> Sequence[Any]:
    """The published withdrawals that are done once these retractions stand in their topics: no other is missing."""
    if not retractions:
        return ()
    result = await db.execute(
        text(
            "SELECT id, client_id, agency, event_id, traceparent FROM withdrawal w JOIN (SELECT withdrawal_id, count(*)"
            " AS these FROM retraction WHERE id = ANY(:ids) AND done_at IS NULL GROUP BY withdrawal_id) l"
            " ON l.withdrawal_id = w.id WHERE done_at IS NULL AND agency IS NOT NULL AND these ="
            " (SELECT count(*) FROM retraction r WHERE r.withdrawal_id = w.id AND r.done_at IS NULL)"
        ),
        {"ids": list(retractions)},
    )
    return result.all()


_PLACE = text(
    'UPDATE retraction SET topic = t, partition = p, "offset" = o, done_at = coalesce(a, clock_timestamp())'
    " FROM unnest(CAST(:a0 AS uuid[]), CAST(:a1 AS text[]), CAST(:a2 AS int[]), CAST(:a3 AS bigint[]),"
    " CAST(:a4 AS timestamptz[])) AS r(i, t, p, o, a) WHERE id = i AND done_at IS NULL"
)


def placing(places: Mapping[UUID, tuple[str, int, int]], at: datetime | None = None) -> Write:
    """Enter where retractions stand (topic, partition, offset), and since when, by default now."""
    return Write(_PLACE, [(id, *place, at) for id, place in places.items()])


async def done_by(db: Executor, retractions: Collection[UUID], at: datetime | None = None) -> Sequence[Any]:
    """Enter and give the withdrawals that are done by these retractions, which are placed (`placing`).

    The withdrawal's row is written even when it is not done yet. Its retractions may pass two disclosers at once, and
    neither sees what the other enters: so the second one meets a changed row, fails with 40001, and looks again.
    """
    if not retractions:
        return ()
    result = await db.execute(
        text(
            "UPDATE withdrawal w SET done_at = CASE WHEN NOT EXISTS (SELECT 1 FROM retraction r"
            " WHERE r.withdrawal_id = w.id AND r.done_at IS NULL)"
            " THEN coalesce(CAST(:at AS timestamptz), clock_timestamp()) END"
            " WHERE done_at IS NULL AND id IN (SELECT withdrawal_id FROM retraction WHERE id = ANY(:ids))"
            " RETURNING id, client_id, agency, event_id, traceparent, done_at"
        ),
        {"ids": list(retractions), "at": at},
    )
    return [row for row in result if row.done_at is not None]


async def places_of(db: Executor, withdrawals: Collection[UUID]) -> Sequence[Any]:
    """Where the retractions of these withdrawals stand, of recipients whom the publisher may know of; no others."""
    result = await db.execute(
        text(
            'SELECT id, withdrawal_id, recipient, topic, partition, "offset", done_at, acknowledged_at FROM retraction'
            " WHERE withdrawal_id = ANY(:ids) AND named ORDER BY recipient, reference"
        ),
        {"ids": list(withdrawals)},
    )
    return result.all()
