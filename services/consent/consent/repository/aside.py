"""Rows and events that were set aside until a person has looked, and what persons did of what waited for them."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from consent.repository.ledger import WAS_TO_LEAVE
from consent.repository.queue import RETRACTION
from consent.repository.sql import Executor


async def set_aside(db: Executor, limit: int, after: tuple[str, int] | None) -> Sequence[Any]:
    """Rows that cannot be sent (`leaving`), then events that could not be applied (`arrived`), each oldest first.
    `after`: those behind the one of this way and id.
    """
    way, id = after or ("leaving", 0)
    behind = {"leaving": id, "arrived": 0} if way == "leaving" else {"leaving": 2**63 - 1, "arrived": id}
    result = await db.execute(
        text(
            "SELECT * FROM ("  # noqa: S608 # a constant
            "(SELECT 'leaving' AS way, q.id, q.topic, q.type, q.set_aside AS reason, CAST(NULL AS int) AS partition,"
            ' CAST(NULL AS bigint) AS "offset", q.due_at AS since, (SELECT count(*) FROM queue b'
            " WHERE b.topic = q.topic AND b.reference = q.reference AND b.id > q.id"
            f" AND b.kind <> {RETRACTION}) AS waiting"
            " FROM queue q WHERE q.set_aside IS NOT NULL AND q.id > :leaving ORDER BY q.id LIMIT :n)"
            " UNION ALL (SELECT 'arrived', s.id, s.topic, NULL, s.reason, s.partition, s.\"offset\", s.set_aside_at, 0"
            " FROM set_aside s WHERE s.id > :arrived ORDER BY s.id LIMIT :n)"
            ") AS every ORDER BY way DESC, id LIMIT :n"
        ),
        {"n": limit, **behind},
    )
    return result.all()


async def retry_leaving(db: Executor, id: int) -> bool:
    """Let a row be decided again, and those behind it. False: no row with this id is set aside."""
    found = await db.scalar(
        text("UPDATE queue SET set_aside = NULL WHERE id = :id AND set_aside IS NOT NULL RETURNING 1"), {"id": id}
    )
    return bool(found)


async def client_of_leaving(db: Executor, id: int) -> int | None:
    """Whose row is set aside under this id; None: no row is."""
    found = await db.scalar(text("SELECT client_id FROM queue WHERE id = :id AND set_aside IS NOT NULL"), {"id": id})
    return None if found is None else int(found)


async def discard_leaving(db: Executor, id: int) -> Any | None:
    """Take a row off the queue, so that those behind it leave; gives what is to be said of it to the service that
    asked for it. None: no row with this id is set aside. The caller holds the client's lock.
    """
    result = await db.execute(
        text(
            "DELETE FROM queue WHERE id = :id AND set_aside IS NOT NULL"
            " RETURNING id, client_id, reference, requester, reference_of_requester, request, traceparent"
        ),
        {"id": id},
    )
    return result.one_or_none()


async def decided_of(db: Executor, queue_id: int) -> Any | None:
    """The entry of the ledger by which a row of the queue was to leave; None: there is none, or it was cancelled."""
    result = await db.execute(
        text(
            "SELECT l.decision, l.client_id, l.recipient, l.purpose, l.type, k.key FROM ledger l"  # noqa: S608 # constant
            f" JOIN client k ON k.id = l.client_id WHERE l.queue_id = :id AND {WAS_TO_LEAVE}"
        ),
        {"id": queue_id},
    )
    return result.one_or_none()


async def take_arrived(db: Executor, id: int) -> Any | None:
    """Take an event out of those that were set aside: where it stood, and its bytes unless they were erased."""
    result = await db.execute(
        text('DELETE FROM set_aside WHERE id = :id RETURNING topic, partition, "offset", value'), {"id": id}
    )
    return result.one_or_none()


async def record_intervention(db: Executor, by: str, action: str, about: str, reason: str | None = None) -> None:
    """Keep what a person did: `hold-lifted`, `retried` or `discarded`."""
    await db.execute(
        text("INSERT INTO intervention (by, action, about, reason) VALUES (:by, :action, :about, :reason)"),
        {"by": by, "action": action, "about": about, "reason": reason},
    )


async def counts(db: Executor) -> tuple[int, int]:
    """How many holds nobody has lifted, and how many rows and events are set aside."""
    row = (
        await db.execute(
            text(
                "SELECT (SELECT count(*) FROM hold WHERE lifted_at IS NULL)"
                " + (SELECT count(*) FROM held_identifier) AS holds,"
                " (SELECT count(*) FROM queue WHERE set_aside IS NOT NULL) + (SELECT count(*) FROM set_aside) AS aside"
            )
        )
    ).one()
    return row.holds, row.aside
