"""What the clock makes due: ends of what was said about sharing, convictions that become spent, reminders of
retractions, and what is overdue.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.repository.sql import Executor, Write

# --- ends -------------------------------------------------------------------------------------------------------------

CONVICTION = "conviction"


class Due(NamedTuple):
    """An end before it is written."""

    client: int
    kind: str
    """`consent`, `restriction`, `gateway`, `override` or `conviction`."""
    at: datetime
    version: int | None = None
    """Of what was said and ends."""
    source: str | None = None
    """Of a conviction, the agency that recorded it."""


_ADD = text(
    "INSERT INTO due (client_id, kind, due_at, version, source) SELECT c, k, t, v, s FROM unnest("
    "CAST(:a0 AS bigint[]), CAST(:a1 AS text[]), CAST(:a2 AS timestamptz[]), CAST(:a3 AS int[]), CAST(:a4 AS text[]))"
    " WITH ORDINALITY AS r(c, k, t, v, s, nth)"
    # a conviction is recorded again and again with the same day
    " WHERE NOT EXISTS (SELECT 1 FROM due d WHERE d.client_id = c AND d.source = s AND d.due_at = t) ORDER BY nth"
)


def adding(rows: Collection[Due]) -> Write:
    """Remember these ends. The caller holds the clients' locks."""
    return Write(_ADD, rows)


async def claim(db: Executor, limit: int) -> Sequence[Any]:
    """Ends that have come, locked for this transaction: `id`, `client_id`, `version` and `kind` of what was said,
    `asserted_by`, and under which `event_id` and `own_id` it was said; of a conviction its `source`. Others claim
    others.
    """
    result = await db.execute(
        text(
            "SELECT d.id, d.client_id, d.version, d.kind, d.source, f.asserted_by, f.event_id, f.own_id FROM due d"
            " LEFT JOIN sharing_fact f ON f.client_id = d.client_id AND f.version = d.version"
            " WHERE d.due_at <= clock_timestamp() ORDER BY d.due_at, d.id LIMIT :n FOR UPDATE OF d SKIP LOCKED"
        ),
        {"n": limit},
    )
    return result.all()


async def remove(db: Executor, ids: Collection[int]) -> None:
    """Forget ends that had their effect."""
    await db.execute(text("DELETE FROM due WHERE id = ANY(:ids)"), {"ids": sorted(ids)})


async def put_off(db: Executor, seconds: float) -> None:
    """Let the others go before the end that is due first: it could not be told."""
    await db.execute(
        text(
            "UPDATE due SET due_at = clock_timestamp() + make_interval(secs => :seconds) WHERE id = (SELECT id FROM due"
            " WHERE due_at <= clock_timestamp() ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)"
        ),
        {"seconds": seconds},
    )


async def wait(db: Executor, ids: Collection[int], seconds: float) -> None:
    """Let these ends come once more, later."""
    await db.execute(
        text("UPDATE due SET due_at = clock_timestamp() + make_interval(secs => :seconds) WHERE id = ANY(:ids)"),
        {"ids": sorted(ids), "seconds": seconds},
    )


# --- convictions ------------------------------------------------------------------------------------------------------


async def leaving(db: Executor, clients: Collection[int]) -> set[int]:
    """Those of these rows of whom a record waits in the queue: it may be decided already, and not be in the ledger yet.

    Whoever asks the ledger asks this first: a record that leaves in between stands in the ledger by then.
    """
    rows = await db.execute(
        text(
            "SELECT DISTINCT client_id FROM queue WHERE client_id = ANY(:ids) AND kind = 2 AND set_aside IS NULL"
            " AND due_at <= clock_timestamp()"
        ),
        {"ids": sorted(clients)},
    )
    return {row.client_id for row in rows}


async def retracted(db: Executor, references: Collection[UUID]) -> Sequence[Any]:
    """The retractions under each `reference` of these: `body`, and `version`, from which it holds."""
    rows = await db.execute(
        text(
            "SELECT r.reference, r.body, w.version FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id"
            " WHERE r.reference = ANY(:references) AND r.body IS NOT NULL"
        ),
        {"references": sorted(references)},
    )
    return rows.all()


# --- retractions that nobody acknowledged -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Patience:
    """After how many hours a recipient is reminded of a retraction, again and again until it acknowledges it."""

    partners: float
    services: float


_TO_REMIND = (
    "SELECT r.id, w.client_id, r.recipient, r.topic, r.reference, r.body, f.client_id AS keyed_by, w.traceparent"
    " FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id JOIN reference f ON f.id = r.reference"
    " JOIN agency a ON a.id = r.recipient"
    " WHERE r.acknowledged_at IS NULL AND r.done_at IS NOT NULL AND r.body IS NOT NULL"
    " AND coalesce(r.reminded_at, r.done_at) <= clock_timestamp()"
    " - make_interval(secs => 3600 * CASE a.kind WHEN 'service' THEN CAST(:services AS float) ELSE :partners END)"
    # one that waits for its topic is not queued again
    " AND NOT EXISTS (SELECT 1 FROM queue q WHERE q.kind = 0 AND q.request = r.id)"
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
            "SELECT r.id, r.recipient, r.reference, r.withdrawal_id, w.because, w.agency, w.recorded_at, r.done_at,"
            f" r.reminders, r.reminded_at {_OVERDUE} ORDER BY coalesce(r.done_at, w.recorded_at), r.id LIMIT :n"
        ),
        {"hours": hours, "n": limit},
    )
    return result.all()


async def overdue_count(db: Executor, hours: float) -> int:
    """How many `overdue` would list."""
    return int(await db.scalar(text(f"SELECT count(*) {_OVERDUE}"), {"hours": hours}) or 0)  # constants


# --- overrides that nobody reviewed -----------------------------------------------------------------------------------


_UNREVIEWED = text(
    "WITH RECURSIVE authorised AS ("
    " SELECT client_id, version, asserted_by, own_id, recorded_at,"
    # one that cannot be read must not fail the list
    " CASE WHEN pg_input_is_valid(body ->> 'review_by', 'timestamptz')"
    " THEN CAST(body ->> 'review_by' AS timestamptz) END AS review_by"
    " FROM sharing_fact WHERE kind = 'override-authorised'),"
    " made AS ("
    " SELECT client_id, version, asserted_by, own_id, recorded_at, client_id AS reached, review_by FROM authorised"
    " WHERE coalesce(review_by <= clock_timestamp(), true)"
    " UNION SELECT m.client_id, m.version, m.asserted_by, m.own_id, m.recorded_at, unnest(c.parts), m.review_by"
    " FROM made m JOIN client c ON c.id = m.reached),"
    " reaching AS (SELECT * FROM made"
    " UNION SELECT r.client_id, r.version, r.asserted_by, r.own_id, r.recorded_at, c.merged_into, r.review_by"
    " FROM reaching r JOIN client c ON c.id = r.reached WHERE c.merged_into IS NOT NULL)"
    " SELECT r.asserted_by, r.own_id, r.recorded_at, r.review_by FROM reaching r"
    " LEFT JOIN sharing_fact v ON v.client_id = r.reached AND v.kind = 'override-reviewed'"
    " AND v.asserted_by = r.asserted_by AND v.own_id = r.own_id AND v.version > r.version"
    " GROUP BY r.client_id, r.version, r.asserted_by, r.own_id, r.recorded_at, r.review_by"
    " HAVING count(v.version) = 0 ORDER BY r.review_by NULLS FIRST, r.client_id, r.version"
)


async def unreviewed(db: Executor) -> Sequence[Any]:
    """Overrides whose time for a review has passed and that nobody has reviewed since, oldest first; before them those
    of which that time cannot be read (`review_by` is None).

    A review counts whether it was said of the client, of the client that it is linked in now, or of a part of it: once
    a link is undone, only the parts can still be named. A client takes on the versions of its parts, and they its own.
    """
    return (await db.execute(_UNREVIEWED)).all()
