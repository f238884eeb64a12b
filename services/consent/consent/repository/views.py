"""What is read and not locked: the ledger of a client, names, withdrawals. The API shows them; the worker reads in the
ledger who was told of a conviction that is spent by now.
"""

from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from consent.repository import queue
from consent.repository.sql import Executor


async def disclosures(
    db: Executor,
    clients: Collection[int],
    linked: Collection[int],
    agency: str | None,
    limit: int | None,
    before: int | None,
) -> Sequence[Any]:
    """The ledger of a client, all its `clients` rows, newest first, with what is known of each entry's leaving.

    `linked`: clients of undone links that it was part of; their entries are marked. With `agency`, only what was told,
    or refused, to that agency or of what that agency recorded. No `limit`: all.
    """
    result = await db.execute(
        text(
            "SELECT l.id, l.kind, l.decision, l.recipient, l.purpose, l.type, l.decided_at, l.body, c.key,"
            " l.shard, l.sequence, l.position, EXISTS (SELECT 1 FROM queue q WHERE q.id = l.queue_id) AS leaving,"
            " EXISTS (SELECT 1 FROM ledger n WHERE n.queue_id = l.queue_id AND n.kind = 'cancelled'"
            " AND n.decision = l.decision) AS cancelled, l.client_id = ANY(CAST(:linked AS bigint[])) AS linked"
            " FROM ledger l JOIN client c ON c.id = l.client_id"
            " WHERE l.client_id = ANY(CAST(:clients AS bigint[]) || CAST(:linked AS bigint[]))"
            " AND (CAST(:before AS bigint) IS NULL OR l.id < :before)"
            " AND (CAST(:agency AS text) IS NULL OR l.recipient = :agency OR :agency = ANY(l.sources))"
            " AND l.kind <> 'cancelled' ORDER BY l.id DESC LIMIT :limit"
        ),
        {"clients": list(clients), "linked": list(linked), "agency": agency, "limit": limit, "before": before},
    )
    return result.all()


async def names(db: Executor) -> dict[str, str]:
    """The name of each party by its id."""
    return {row.id: row.name for row in await db.execute(text("SELECT id, name FROM agency"))}


async def withdrawal(db: Executor, id: UUID, agency: str) -> tuple[Any, Sequence[Any]] | None:
    """A withdrawal that this agency published, and its retractions as `queue.places_of` tells them."""
    found = (
        await db.execute(
            text("SELECT id, event_id, recorded_at, done_at FROM withdrawal WHERE id = :id AND agency = :agency"),
            {"id": id, "agency": agency},
        )
    ).one_or_none()
    if found is None:
        return None
    return found, await queue.places_of(db, [id])
