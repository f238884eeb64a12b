"""Pairs of clients that may be one person, for a person to decide; and what makes two clients look alike."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from consent.repository.sql import Executor, Write, arrays, at_once, insert_of

_CANDIDATES = insert_of("candidate", "one, other, because", "bigint, bigint, text", "ON CONFLICT DO NOTHING")
_LIKENESSES = text(
    "INSERT INTO likeness (client_id, source, digest) SELECT * FROM unnest(CAST(:a0 AS bigint[]),"
    " CAST(:a1 AS text[]), CAST(:a2 AS bytea[]))"
    " ON CONFLICT (client_id, source) DO UPDATE SET digest = excluded.digest, compared = false"
    " WHERE likeness.digest <> excluded.digest"
)


def proposing(pairs: Collection[tuple[int, int]], because: str) -> Write:
    """Enter pairs of clients that may be one person. A pair that is known already, decided or not, stays as it is."""
    return Write(_CANDIDATES, [(*pair, because) for pair in sorted({(min(pair), max(pair)) for pair in pairs})])


def resembling(digests: Collection[tuple[int, str, bytes]]) -> Write:
    """Keep what makes clients look alike: (client, source, digest)."""
    return Write(_LIKENESSES, sorted(digests))


async def compare(db: Executor) -> None:
    """Propose the pairs of clients that came to look alike since this was last done.

    Done when somebody looks and not when facts come in: whichever of two was committed later is seen here with both.
    """
    rows = await db.execute(
        text(
            "WITH news AS (UPDATE likeness SET compared = true WHERE NOT compared RETURNING client_id, digest)"
            " SELECT DISTINCT least(n.client_id, l.client_id) AS one, greatest(n.client_id, l.client_id) AS other"
            " FROM news n JOIN likeness l ON l.digest = n.digest AND l.client_id <> n.client_id"
        )
    )
    await at_once(db, [proposing([(row.one, row.other) for row in rows], "same-details")])


async def told_apart(db: Executor, one: Collection[int], other: Collection[int]) -> bool:
    """Whether it was decided that these are different people."""
    result = await db.execute(
        text(
            "SELECT 1 FROM candidate WHERE decision = 'different' AND (one = ANY(:one) AND other = ANY(:other)"
            " OR one = ANY(:other) AND other = ANY(:one)) LIMIT 1"
        ),
        {"one": list(one), "other": list(other)},
    )
    return result.first() is not None


async def told_apart_from(db: Executor, rows: Collection[int]) -> list[tuple[UUID, int]]:
    """Pairs with one of these rows of which a person looked at the candidate and decided that they are different
    people: its id, and the other row.
    """
    found = await db.execute(
        text(
            "SELECT id, CASE WHEN one = ANY(:rows) THEN other ELSE one END AS other FROM candidate"
            " WHERE decision = 'different' AND because <> 'unlinked' AND (one = ANY(:rows)) <> (other = ANY(:rows))"
        ),
        {"rows": sorted(rows)},
    )
    return [(row.id, row.other) for row in found]


async def decide(db: Executor, pairs: Iterable[tuple[int, int]], decision: str, by: str, now: datetime) -> None:
    """Enter what a person decided of pairs; they are not proposed again."""
    rows = sorted({(min(pair), max(pair)) for pair in pairs})
    if rows:
        await arrays(
            db,
            text(
                "INSERT INTO candidate (one, other, because, decision, decided_by, decided_at)"
                " SELECT o, t, 'unlinked', :decision, :by, :now"
                " FROM unnest(CAST(:a0 AS bigint[]), CAST(:a1 AS bigint[])) AS r(o, t)"
                " ON CONFLICT (one, other) DO UPDATE SET decision = excluded.decision,"
                " decided_by = excluded.decided_by, decided_at = excluded.decided_at"
            ),
            rows,
            decision=decision,
            by=by,
            now=now,
        )


_CANDIDATE = "SELECT id, one, other, because, found_at, decision FROM candidate WHERE "


async def open_pairs(db: Executor, after: UUID | None, limit: int) -> Sequence[Any]:
    """Pairs that nobody has decided yet, oldest first, behind the one with id `after`, whatever became of that."""
    result = await db.execute(
        text(
            f"{_CANDIDATE} decision IS NULL AND (CAST(:after AS uuid) IS NULL"  # noqa: S608 # ours
            " OR (found_at, id) > (SELECT c.found_at, c.id FROM candidate c WHERE c.id = :after))"
            " ORDER BY found_at, id LIMIT :limit"
        ),
        {"after": after, "limit": limit},
    )
    return result.all()


async def pair(db: Executor, id: UUID) -> Any | None:
    """One pair, decided or not."""
    return (await db.execute(text(f"{_CANDIDATE} id = :id"), {"id": id})).one_or_none()
