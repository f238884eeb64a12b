"""What the clock makes due: what was said about sharing and begins or ends, spent convictions, and reviews."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text

from consent.repository.sql import Executor, Write

# --- beginnings and ends ----------------------------------------------------------------------------------------------

CONVICTION = "conviction"


class Due(NamedTuple):
    """A beginning or an end before it is written: of what was said one at a time, the end once it has begun."""

    client: int
    kind: str
    """`consent`, `restriction`, `gateway`, `override` or `conviction`."""
    at: datetime
    version: int | None = None
    """Of what was said."""
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
    """Remember these. The caller holds the clients' locks."""
    return Write(_ADD, rows)


async def claim(db: Executor, limit: int) -> Sequence[Any]:
    """Beginnings and ends that have come, locked for this transaction: `id`, `client_id`, `version` and `kind` of what
    was said, `asserted_by`, and under which `event_id` and `own_id` it was said; of a conviction its `source`. Others
    claim others.
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
    """Forget those that had their effect."""
    await db.execute(text("DELETE FROM due WHERE id = ANY(:ids)"), {"ids": sorted(ids)})


async def put_off(db: Executor, seconds: float) -> None:
    """Let the others go before the one that is due first: it could not be told."""
    await db.execute(
        text(
            "UPDATE due SET due_at = clock_timestamp() + make_interval(secs => :seconds) WHERE id = (SELECT id FROM due"
            " WHERE due_at <= clock_timestamp() ORDER BY due_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)"
        ),
        {"seconds": seconds},
    )


async def wait(db: Executor, ids: Collection[int], seconds: float) -> None:
    """Let these come once more, later."""
    await db.execute(
        text("UPDATE due SET due_at = clock_timestamp() + make_interval(secs => :seconds) WHERE id = ANY(:ids)"),
        {"ids": sorted(ids), "seconds": seconds},
    )


# --- overrides that nobody reviewed -----------------------------------------------------------------------------------


_UNREVIEWED = (
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
    " SELECT r.own_id AS override, r.asserted_by AS agency, r.recorded_at AS authorised_at, r.review_by FROM reaching r"
    " LEFT JOIN sharing_fact v ON v.client_id = r.reached AND v.kind = 'override-reviewed'"
    " AND v.asserted_by = r.asserted_by AND v.own_id = r.own_id AND v.version > r.version"
    " GROUP BY r.client_id, r.version, r.asserted_by, r.own_id, r.recorded_at, r.review_by"
    " HAVING count(v.version) = 0 ORDER BY r.review_by NULLS FIRST, r.client_id, r.version"
)


async def unreviewed(db: Executor) -> Sequence[Any]:
    """Overrides (`override`: the agency's own id; `agency`, `authorised_at`, `review_by`) whose time for a review has
    passed and that nobody has reviewed since, oldest first; before them those of which that time cannot be read
    (`review_by` is None).

    A review counts whether it was said of the client, of the client that it is linked in now, or of a part of it: once
    a link is undone, only the parts can still be named. A client takes on the versions of its parts, and they its own.
    """
    return (await db.execute(text(_UNREVIEWED))).all()


async def count_unreviewed(db: Executor) -> int:
    """How many that are."""
    return int(await db.scalar(text(f"SELECT count(*) FROM ({_UNREVIEWED}) AS every")) or 0)  # noqa: S608 # constant
