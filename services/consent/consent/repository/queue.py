"""The queue of what may have to leave. The discloser lives on this file."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.repository.ledger import WAS_TO_LEAVE
from consent.repository.sql import Executor, Write, at_once, insert_of
from contracts import topic_names

RETRACTION, NOTICE, RECORD = 0, 1, 2
"""Kinds of queue rows: the first two leave as they are, a record is decided when it leaves."""
NOBODY = 0
"""In place of a client, where a row is about none."""

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
    f"(kind = {RETRACTION} OR NOT EXISTS (SELECT 1 FROM queue s WHERE s.set_aside IS NOT NULL AND s.topic = q.topic"  # noqa: S608
    " AND s.reference = q.reference AND s.id < q.id))"
)


BESIDE = 500
"""How many records a cycle claims beside retractions and notices, and decides before it is cut short for a retraction:
so records go on leaving, however many of those there are.
"""


_COLUMNS = ", ".join(QueueRow._fields)

# Only constants are put into the texts.
_FIRST = (
    f"SELECT {_COLUMNS} FROM queue q WHERE kind < {RECORD} AND {_OURS} AND topic <> ALL(:paused) AND {_NOT_BEHIND}"  # noqa: S608
    " ORDER BY kind, id LIMIT :n"
)
_CLAIM_FIRST = text(_FIRST)
_CLAIM = text(
    f"WITH first AS ({_FIRST}) SELECT * FROM first UNION ALL"  # noqa: S608
    f" (SELECT {_COLUMNS} FROM queue q WHERE kind = {RECORD} AND {_OURS} AND topic <> ALL(:paused) AND {_NOT_BEHIND}"
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
                f" ORDER BY kind <> {RETRACTION}, id"
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
    return topic_names.parts(topic)[0] == "partner"


async def in_doubt(db: Executor, shard: int, shards: int) -> Sequence[Any]:
    """Rows of cycles that were interrupted after they were decided and before they were known to be sent, with their
    entries of the ledger.
    """
    result = await db.execute(
        text(
            "SELECT q.id, q.topic, l.kind, l.decision, l.body, l.shard, l.sequence, l.position, k.key FROM queue q"  # noqa: S608
            " JOIN ledger l ON l.queue_id = q.id JOIN client k ON k.id = l.client_id"
            f" WHERE q.keyed_by % :shards = :shard AND k.key IS NOT NULL AND {WAS_TO_LEAVE}"
        ),
        {"shard": shard, "shards": shards},
    )
    return result.all()


async def leaving(db: Executor, clients: Collection[int]) -> set[int]:
    """Those of these rows of whom a record waits in the queue: it may be decided already, and not be in the ledger yet.

    Whoever asks the ledger asks this first: a record that leaves in between stands in the ledger by then.
    """
    rows = await db.execute(
        text(
            f"SELECT DISTINCT client_id FROM queue WHERE client_id = ANY(:ids) AND kind = {RECORD}"  # noqa: S608
            " AND set_aside IS NULL AND due_at <= clock_timestamp()"
        ),
        {"ids": sorted(clients)},
    )
    return {row.client_id for row in rows}


_REMOVE = text("DELETE FROM queue WHERE id = ANY(CAST(:a0 AS bigint[]))")


def removing(ids: Collection[int]) -> Write:
    """Take rows off the queue: they left, or were refused."""
    return Write(_REMOVE, [(id,) for id in ids])


async def set_aside(db: Executor, id: int, reason: str) -> None:
    """Keep a row that cannot be sent out of the others' way until a person has looked."""
    await db.execute(text("UPDATE queue SET set_aside = :reason WHERE id = :id"), {"id": id, "reason": reason})
