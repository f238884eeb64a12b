"""Erasing what is known of clients."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text

from consent.repository.clients import IdentifierKey
from consent.repository.sql import Executor, arrays
from contracts.vocabulary import Category


async def overdue(db: Executor, periods: Mapping[Category, timedelta], limit: int) -> list[int]:
    """Clients of whom something is kept longer than its category's period, some of them, oldest first."""
    rows = await arrays(
        db,
        text(
            "SELECT client_id FROM fact JOIN unnest(CAST(:a0 AS text[]), CAST(:a1 AS interval[])) AS r(c, period)"
            " ON category = c WHERE recorded_at < clock_timestamp() - period GROUP BY client_id"
            " ORDER BY min(recorded_at), client_id LIMIT :n"
        ),
        [(category.value, period) for category, period in periods.items()],
        n=limit,
    )
    return [row.client_id for row in rows]


async def kept(db: Executor, clients: Collection[int]) -> Sequence[Any]:
    """What is recorded of these clients, row by row: of linked clients older copies too, which nobody sees any more."""
    rows = await db.execute(
        text("SELECT client_id, source, category, recorded_at FROM fact WHERE client_id = ANY(:clients)"),
        {"clients": sorted(clients)},
    )
    return rows.all()


async def facts(db: Executor, clients: Collection[int], sections: Mapping[tuple[str, str], datetime]) -> None:
    """Erase what is recorded of clients under these (source, category), up to a time each, and what was derived from
    their identity.
    """
    if not sections:
        return
    ids = sorted(clients)
    await arrays(
        db,
        text(
            "DELETE FROM fact USING unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]), CAST(:a2 AS timestamptz[]))"
            " AS r(s, c, t) WHERE client_id = ANY(:clients) AND source = s AND category = c AND recorded_at <= t"
        ),
        [(*key, until) for key, until in sections.items()],
        clients=ids,
    )
    named = [source for source, category in sections if category == Category.IDENTITY.value]
    await db.execute(
        text(
            "DELETE FROM likeness l WHERE client_id = ANY(:clients) AND source = ANY(:sources) AND NOT EXISTS"
            " (SELECT 1 FROM fact f WHERE f.client_id = l.client_id AND f.source = l.source AND f.category = :identity)"
        ),
        {"clients": ids, "sources": named, "identity": Category.IDENTITY.value},
    )


async def queued_records(db: Executor, clients: Collection[int]) -> dict[int, str]:
    """What waits to leave of these clients, whenever it is due, set aside or not: the bodies by the rows' ids."""
    rows = await db.execute(
        text("SELECT id, body FROM queue WHERE client_id = ANY(:clients) AND kind = 2"), {"clients": sorted(clients)}
    )
    return {row.id: row.body for row in rows}


async def rewrite_queued(db: Executor, bodies: Mapping[int, str]) -> None:
    """Give these rows of the queue other bodies. A discloser that has read one meanwhile meets 40001 or left before."""
    if bodies:
        await arrays(
            db,
            text(
                "UPDATE queue SET body = b FROM unnest(CAST(:a0 AS bigint[]), CAST(:a1 AS text[])) AS r(i, b)"
                " WHERE id = i"
            ),
            list(bodies.items()),
        )


async def case_numbers(db: Executor, clients: Collection[int], agency: str) -> None:
    """Erase the numbers by which one agency alone knows these clients."""
    await db.execute(
        text("DELETE FROM identifier WHERE client_id = ANY(:clients) AND type = 'CASE' AND issuer = :agency"),
        {"clients": sorted(clients), "agency": agency},
    )


async def numbers(db: Executor, clients: Collection[int]) -> Sequence[Any]:
    """The numbers of these clients."""
    rows = await db.execute(
        text("SELECT type, issuer, value FROM identifier WHERE client_id = ANY(:clients)"), {"clients": sorted(clients)}
    )
    return rows.all()


_KEEP_FORMS = (
    "INSERT INTO used_form (asserted_by, form) SELECT DISTINCT asserted_by, sha256(convert_to(own_id, 'UTF8'))"
    " FROM sharing_fact WHERE client_id = ANY(:clients) AND kind = 'granted' AND own_id IS NOT NULL"
    " ON CONFLICT DO NOTHING"
)
REMEMBERED = timedelta(days=365)
"""For how long the numbers of a client who was erased are known again, by their digests."""
_DIGEST = "sha256(k.key || convert_to({0} || '/' || {1} || '/' || {2}, 'UTF8'))"
_KEEP_NUMBERS = (
    "INSERT INTO erased_number (digest, erased_at)"  # noqa: S608 # constants
    f" SELECT {_DIGEST.format('type', 'issuer', 'value')}, clock_timestamp() FROM identifier CROSS JOIN erasure_key k"
    " WHERE client_id = ANY(:clients) ON CONFLICT (digest) DO UPDATE SET erased_at = excluded.erased_at"
)
EVERYTHING = (
    _KEEP_FORMS,
    _KEEP_NUMBERS,
    "DELETE FROM identifier WHERE client_id = ANY(:clients)",
    "DELETE FROM fact WHERE client_id = ANY(:clients)",
    "DELETE FROM source_version WHERE client_id = ANY(:clients)",
    "DELETE FROM sharing_fact WHERE client_id = ANY(:clients)",
    "DELETE FROM due WHERE client_id = ANY(:clients)",
    "DELETE FROM likeness WHERE client_id = ANY(:clients)",
    "DELETE FROM candidate WHERE one = ANY(:clients) OR other = ANY(:clients)",
    # retractions and notices hold references only, and have to leave
    "DELETE FROM queue WHERE client_id = ANY(:clients) AND kind = 2",
    # from here on nobody can read what the ledger says of them; the leaves stay
    "UPDATE ledger SET body = NULL WHERE client_id = ANY(:clients)",
    "UPDATE client SET key = NULL, conflicting = true WHERE id = ANY(:clients)",
)
"""What erases a client. References stay: they are random, recipients confirm by them. So do digests of the forms that
the client signed, without the client: each opens a permit once. And for a time keyed digests of the numbers: a consent
of before the erasure opens nothing for who comes after."""


async def everything(db: Executor, clients: Collection[int]) -> None:
    """Erase these clients, all but the leaves of the ledger and what has to be told to recipients."""
    for statement in EVERYTHING:
        await db.execute(text(statement), {"clients": sorted(clients)})


async def erased_before(db: Executor, keys: Collection[IdentifierKey]) -> dict[IdentifierKey, datetime]:
    """Which of these numbers a client had of whom everything was erased, and when; as long as that is remembered."""
    if not keys:
        return {}
    rows = await arrays(
        db,
        text(
            "SELECT t, i, v, erased_at"  # noqa: S608 # constants
            " FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]), CAST(:a2 AS text[]))"
            " AS r(t, i, v) CROSS JOIN erasure_key k"
            f" JOIN erased_number ON digest = {_DIGEST.format('t', 'i', 'v')}"
        ),
        list(keys),
    )
    return {(type, issuer, value): at for type, issuer, value, at in rows}


async def forget_numbers(db: Executor) -> None:
    """Forget the digests of numbers that were erased so long ago that consents of before open nothing anyway."""
    await db.execute(
        text("DELETE FROM erased_number WHERE erased_at < clock_timestamp() - CAST(:period AS interval)"),
        {"period": REMEMBERED},
    )


async def set_aside_events(db: Executor) -> Sequence[Any]:
    """The events that wait for a person, with their bytes."""
    rows = await db.execute(text("SELECT id, topic, value FROM set_aside WHERE value IS NOT NULL"))
    return rows.all()


async def forget_set_aside(db: Executor, ids: Collection[int]) -> None:
    """Erase the bytes of events that wait for a person; that they came stays known."""
    await db.execute(text("UPDATE set_aside SET value = NULL WHERE id = ANY(:ids)"), {"ids": sorted(ids)})
