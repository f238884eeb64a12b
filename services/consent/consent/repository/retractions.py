"""Retractions: what each stop owes, where it stands, who has acknowledged it, and who is to be reminded of it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.repository.queue import RETRACTION
from consent.repository.sharing import SharingState
from consent.repository.sql import Executor, Write, arrays, insert_of

# --- what is owed -----------------------------------------------------------------------------------------------------


class StopRow(NamedTuple):
    """A row of `withdrawal`: something that turned permits into denials, whatever it was; what it owes refers to it.

    The fields of this and of `RetractionRow` are columns, in their order.
    """

    id: UUID
    client_id: int
    version: int
    """Of the client, from which it holds."""
    because: str
    recorded_at: datetime
    agency: str | None = None
    """Who is told when it is done; None: nobody."""
    event_id: str | None = None
    """That agency's event."""
    traceparent: str | None = None


class RetractionRow(NamedTuple):
    """A row of `retraction`: what one recipient is told under one of its references."""

    id: UUID
    withdrawal_id: UUID
    recipient: str
    reference: UUID
    body: str
    named: bool = False
    """Whether the publisher of the stop may know of the recipient."""


_WITHDRAWALS = insert_of(
    "withdrawal",
    "id, client_id, version, because, recorded_at, agency, event_id, traceparent, done_at",
    "uuid, bigint, int, text, timestamptz, text, text, text, timestamptz",
)
_RETRACTIONS = insert_of(
    "retraction", "id, withdrawal_id, recipient, reference, body, named", "uuid, uuid, text, uuid, text, boolean"
)


def adding(stops: Sequence[StopRow], owed: Sequence[RetractionRow]) -> list[Write]:
    """Enter stops with what they owe."""
    owing = {retraction.withdrawal_id for retraction in owed}
    return [
        # one that reaches nobody is done when it is recorded
        Write(_WITHDRAWALS, [(*stop, None if stop.id in owing else stop.recorded_at) for stop in stops]),
        Write(_RETRACTIONS, owed),
    ]


async def owe(db: Executor, told: Collection[SharingState], recipient: str) -> None:
    """Enter that a recipient which has references of these clients was told of them: it is owed retractions.

    The caller holds the clients' locks.
    """
    members = {member for client in told for member in client.members}
    if members:
        await db.execute(
            text(
                "UPDATE reference SET queued = true WHERE client_id = ANY(:ids) AND recipient = :recipient"
                " AND NOT queued"
            ),
            {"ids": sorted(members), "recipient": recipient},
        )


async def under(db: Executor, references: Collection[UUID]) -> Sequence[Any]:
    """The retractions under each `reference` of these: `body`, and `version`, from which it holds."""
    rows = await db.execute(
        text(
            "SELECT r.reference, r.body, w.version FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id"
            " WHERE r.reference = ANY(:references) AND r.body IS NOT NULL"
        ),
        {"references": sorted(references)},
    )
    return rows.all()


# --- where they stand -------------------------------------------------------------------------------------------------


class Withdrawal(NamedTuple):
    """A stop that an agency published, as that agency is told of its end."""

    id: UUID
    client_id: int
    agency: str
    event_id: str | None
    traceparent: str | None


class Placed(NamedTuple):
    """A retraction, where it stands and since when. None: nowhere yet."""

    id: UUID
    withdrawal_id: UUID
    recipient: str
    topic: str | None
    partition: int | None
    offset: int | None
    done_at: datetime | None
    acknowledged_at: datetime | None


async def done_with(db: Executor, retractions: Collection[UUID]) -> list[Withdrawal]:
    """The published withdrawals that are done once these retractions stand in their topics: no other is missing."""
    if not retractions:
        return []
    result = await db.execute(
        text(
            "SELECT id, client_id, agency, event_id, traceparent FROM withdrawal w JOIN (SELECT withdrawal_id, count(*)"
            " AS these FROM retraction WHERE id = ANY(:ids) AND done_at IS NULL GROUP BY withdrawal_id) l"
            " ON l.withdrawal_id = w.id WHERE done_at IS NULL AND agency IS NOT NULL AND these ="
            " (SELECT count(*) FROM retraction r WHERE r.withdrawal_id = w.id AND r.done_at IS NULL)"
        ),
        {"ids": list(retractions)},
    )
    return list(map(Withdrawal._make, result))


_PLACE = text(
    'UPDATE retraction SET topic = t, partition = p, "offset" = o, done_at = coalesce(a, clock_timestamp())'
    " FROM unnest(CAST(:a0 AS uuid[]), CAST(:a1 AS text[]), CAST(:a2 AS int[]), CAST(:a3 AS bigint[]),"
    " CAST(:a4 AS timestamptz[])) AS r(i, t, p, o, a) WHERE id = i AND done_at IS NULL"
)


def placing(places: Mapping[UUID, tuple[str, int, int]], at: datetime | None = None) -> Write:
    """Enter where retractions stand (topic, partition, offset), and since when, by default now."""
    return Write(_PLACE, [(id, *place, at) for id, place in places.items()])


async def done_by(db: Executor, retractions: Collection[UUID], at: datetime | None = None) -> list[Withdrawal]:
    """Enter which withdrawals are done by these retractions, which are placed (`placing`). Gives the published ones: of
    what nobody published nobody is told.

    The withdrawal's row is written even when it is not done yet. Its retractions may pass two disclosers at once, and
    neither sees what the other enters: so the second one meets a changed row, fails with 40001, and looks again.
    """
    if not retractions:
        return []
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
    return [Withdrawal(*row[:-1]) for row in result if row.done_at is not None and row.agency is not None]


async def places_of(db: Executor, withdrawals: Collection[UUID]) -> list[Placed]:
    """Where the retractions of these withdrawals stand, of recipients whom the publisher may know of; no others."""
    result = await db.execute(
        text(
            'SELECT id, withdrawal_id, recipient, topic, partition, "offset", done_at, acknowledged_at FROM retraction'
            " WHERE withdrawal_id = ANY(:ids) AND named ORDER BY recipient, reference"
        ),
        {"ids": list(withdrawals)},
    )
    return list(map(Placed._make, result))


async def withdrawal(db: Executor, id: UUID, agency: str) -> tuple[Any, Sequence[Placed]] | None:
    """A withdrawal that this agency published, and its retractions as `places_of` tells them."""
    found = (
        await db.execute(
            text("SELECT id, event_id, recorded_at, done_at FROM withdrawal WHERE id = :id AND agency = :agency"),
            {"id": id, "agency": agency},
        )
    ).one_or_none()
    if found is None:
        return None
    return found, await places_of(db, [id])


# --- who acknowledged them, and who did not ---------------------------------------------------------------------------


async def acknowledge(db: Executor, acknowledged: Collection[tuple[UUID, UUID]]) -> set[tuple[UUID, UUID]]:
    """A service or partner stopped and erased. Gives those (retraction, reference) that belong together, also where
    that was entered before; the others mean nothing.
    """
    if not acknowledged:
        return set()
    rows = await arrays(
        db,
        text(
            "UPDATE retraction SET acknowledged_at = coalesce(acknowledged_at, clock_timestamp())"
            " FROM unnest(CAST(:a0 AS uuid[]), CAST(:a1 AS uuid[])) AS r(i, f) WHERE id = i AND reference = f"
            " RETURNING id, reference"
        ),
        acknowledged,
    )
    return {(row.id, row.reference) for row in rows}


@dataclass(frozen=True, slots=True)
class Patience:
    """After how many hours a recipient is reminded of a retraction, again and again until it acknowledges it."""

    partners: float
    services: float


_TO_REMIND = (
    "SELECT r.id, w.client_id, r.recipient, r.topic, r.reference, r.body, f.client_id AS keyed_by, w.traceparent"  # noqa: S608
    " FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id JOIN reference f ON f.id = r.reference"
    " JOIN agency a ON a.id = r.recipient"
    " WHERE r.acknowledged_at IS NULL AND r.done_at IS NOT NULL AND r.body IS NOT NULL"
    " AND coalesce(r.reminded_at, r.done_at) <= clock_timestamp()"
    " - make_interval(secs => 3600 * CASE a.kind WHEN 'service' THEN CAST(:services AS float) ELSE :partners END)"
    # one that waits for its topic is not queued again
    f" AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.kind = {RETRACTION} AND q.request = r.id)"
)


async def to_remind(
    db: Executor, patience: Patience, limit: int, only: Collection[UUID] | None = None
) -> Sequence[Any]:
    """Retractions of which the recipient is to be reminded, longest first, as what the queue needs of them.

    With `only`, those of these that still are, locked: read so again behind the locks of their clients.
    """
    tail = " ORDER BY r.done_at, r.id LIMIT :n" if only is None else " AND r.id = ANY(:ids) FOR UPDATE OF r SKIP LOCKED"
    more: dict[str, Any] = {"n": limit} if only is None else {"ids": list(only)}
    values = {"partners": patience.partners, "services": patience.services, **more}
    return (await db.execute(text(_TO_REMIND + tail), values)).all()


async def reminded(db: Executor, ids: Collection[UUID]) -> None:
    """Enter that their recipients are reminded once more."""
    await db.execute(
        text("UPDATE retraction SET reminders = reminders + 1, reminded_at = clock_timestamp() WHERE id = ANY(:ids)"),
        {"ids": list(ids)},
    )


_OVERDUE = (
    " FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id WHERE r.acknowledged_at IS NULL"
    " AND coalesce(r.done_at, w.recorded_at) <= clock_timestamp() - make_interval(secs => 3600 * :hours)"
)


async def overdue(db: Executor, hours: float, limit: int) -> Sequence[Any]:
    """Retractions that nobody acknowledged for so long, or that could not even be sent (`done_at` is None)."""
    result = await db.execute(
        text(
            "SELECT r.id AS retraction, r.recipient, r.reference AS client, r.withdrawal_id AS withdrawal, w.because,"
            " w.agency AS asserted_by, w.recorded_at, r.done_at, r.reminders, r.reminded_at"
            f" {_OVERDUE} ORDER BY coalesce(r.done_at, w.recorded_at), r.id LIMIT :n"
        ),
        {"hours": hours, "n": limit},
    )
    return result.all()


async def overdue_count(db: Executor, hours: float) -> int:
    """How many `overdue` would list."""
    return int(await db.scalar(text(f"SELECT count(*) {_OVERDUE}"), {"hours": hours}) or 0)  # constants
