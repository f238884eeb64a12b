"""Erasing what is known of clients, and what is overdue for it."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.domain.retention import REMEMBERED
from consent.repository import queue
from consent.repository.clients import Identifier
from consent.repository.sql import Executor, arrays, insert_of
from contracts.vocabulary import Category

# --- what is overdue --------------------------------------------------------------------------------------------------

# A section, an end that is to come, a hold, a record that waits; or anything that was said, told, asked or erased since
# a time. To be filled with the condition on the client.
_IS_KEPT = (
    "EXISTS (SELECT 1 FROM fact WHERE client_id {0}) OR EXISTS (SELECT 1 FROM due WHERE client_id {0})"  # noqa: S608 # a constant
    " OR EXISTS (SELECT 1 FROM hold WHERE client_id {0} AND lifted_at IS NULL)"
    f" OR EXISTS (SELECT 1 FROM queue WHERE client_id {{0}} AND kind = {queue.RECORD})"
    " OR EXISTS (SELECT 1 FROM client WHERE id {0} AND made_at > clock_timestamp() - CAST(:rest AS interval))"
    " OR EXISTS (SELECT 1 FROM sharing_fact WHERE client_id {0}"
    " AND recorded_at > clock_timestamp() - CAST(:rest AS interval))"
    " OR EXISTS (SELECT 1 FROM ledger WHERE client_id {0}"
    " AND decided_at > clock_timestamp() - CAST(:rest AS interval))"
)


async def overdue(
    db: Executor, periods: Mapping[Category, timedelta], rest: timedelta, after: int, limit: int
) -> list[int]:
    """The next clients behind `after` of whom something is kept longer than its category's period; and those of whom
    no section is left, and nothing was said, told or asked for as long as `rest`.
    """
    rows = await arrays(
        db,
        text(
            # each part limited for itself: a batch reads the next clients, not all of them
            "(SELECT DISTINCT client_id FROM fact JOIN unnest(CAST(:a0 AS text[]), CAST(:a1 AS interval[]))"  # noqa: S608 # constants
            " AS r(c, period) ON category = c WHERE client_id > :after AND recorded_at < clock_timestamp() - period"
            " ORDER BY client_id LIMIT :n)"
            " UNION (SELECT id FROM client c WHERE id > :after AND key IS NOT NULL AND merged_into IS NULL"
            f" AND NOT ({_IS_KEPT.format('= c.id')}) ORDER BY id LIMIT :n) ORDER BY client_id LIMIT :n"
        ),
        [(category.value, period) for category, period in periods.items()],
        rest=rest,
        after=after,
        n=limit,
    )
    return [row.client_id for row in rows]


async def is_kept(db: Executor, clients: Collection[int], rest: timedelta) -> bool:
    """Whether there is more of a client, all its rows, than numbers and what is older than `rest`."""
    found = await db.scalar(
        text(f"SELECT {_IS_KEPT.format('= ANY(:clients)')}"),
        {"clients": sorted(clients), "rest": rest},
    )
    return bool(found)


async def claim_run(db: Executor) -> int | None:
    """The client that the daily run has come to, locked for this transaction; None: not due, or another's turn."""
    after: int | None = await db.scalar(
        text("SELECT after FROM retention_run WHERE next_at <= clock_timestamp() FOR UPDATE SKIP LOCKED")
    )
    return after


async def move_on(db: Executor, after: int) -> None:
    """Enter which client the run has come to."""
    await db.execute(text("UPDATE retention_run SET after = :after"), {"after": after})


async def finish_run(db: Executor, every: timedelta) -> None:
    """Enter that all was looked at, and when it is due again."""
    await db.execute(
        text(
            "UPDATE retention_run SET after = 0, finished_at = clock_timestamp(),"
            " next_at = clock_timestamp() + CAST(:every AS interval)"
        ),
        {"every": every},
    )


async def last_run(db: Executor) -> datetime:
    """When a run last came to its end; 1970: never yet."""
    at: datetime = (await db.execute(text("SELECT finished_at FROM retention_run"))).scalar_one()
    return at


async def claim_told(db: Executor, days: int, categories: Collection[Category]) -> int:
    """The entry of the ledger to which the run has come for periods of so many days, locked for this transaction.

    It begins again where one of these categories was not looked for before.
    """
    found = await db.execute(
        text(
            "INSERT INTO retention_told AS t (days, categories) VALUES (:days, :categories)"
            " ON CONFLICT (days) DO UPDATE SET categories = excluded.categories,"
            " after = CASE WHEN t.categories @> excluded.categories THEN t.after ELSE 0 END RETURNING after"
        ),
        {"days": days, "categories": sorted(categories)},
    )
    after: int = found.scalar_one()
    return after


async def told_before(db: Executor, days: int, after: int, limit: int) -> Sequence[Any]:
    """The entries behind `after` up to the first that was decided less than so many days ago, at most `limit`; locked,
    for two workers may each redact one body. Where none is so old it looks at one page, not at all of the ledger.
    """
    rows = await db.execute(
        text(
            "WITH next AS (SELECT id, kind, decided_at FROM ledger WHERE id > :after ORDER BY id LIMIT :limit)"
            " SELECT l.id, l.kind, l.decision, l.decided_at, l.body, c.key FROM ledger l"
            " LEFT JOIN client c ON c.id = l.client_id WHERE l.id IN (SELECT id FROM next) AND NOT EXISTS (SELECT 1"
            " FROM next n WHERE n.id <= l.id AND n.kind <> 'erased' AND n.decided_at >= clock_timestamp()"
            " - make_interval(days => :days)) ORDER BY l.id FOR UPDATE OF l"
        ),
        {"after": after, "limit": limit, "days": days},
    )
    return rows.all()


async def told_until(db: Executor, days: int, after: int) -> None:
    """Enter to which entry of the ledger the run has come for periods of so many days."""
    await db.execute(
        text("UPDATE retention_told SET after = :after WHERE days = :days"), {"days": days, "after": after}
    )


# --- some sections ----------------------------------------------------------------------------------------------------


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
    # the day on which a conviction is spent tells of it
    convicted = [source for source, category in sections if category == Category.OFFENCE.value]
    await db.execute(
        text(
            "DELETE FROM due d WHERE client_id = ANY(:clients) AND source = ANY(:sources) AND NOT EXISTS"
            " (SELECT 1 FROM fact f WHERE f.client_id = d.client_id AND f.source = d.source AND f.category = :offence)"
        ),
        {"clients": ids, "sources": convicted, "offence": Category.OFFENCE.value},
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
        text(f"SELECT id, body FROM queue WHERE client_id = ANY(:clients) AND kind = {queue.RECORD}"),  # noqa: S608 # a constant
        {"clients": sorted(clients)},
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


class OfLedger(NamedTuple):
    """What was erased and may stand in the ledger under a client row; None: of every one, from whenever."""

    client: int
    withdrawal: UUID
    source: str | None = None
    category: str | None = None
    until: datetime | None = None
    decision: UUID | None = None
    """Of every decision, or of the one whose reason may tell of the client who was erased."""


_OWE_REDACTIONS = insert_of(
    "ledger_erasure",
    "client_id, withdrawal_id, source, category, until, decision",
    "bigint, uuid, text, text, timestamptz, uuid",
)


async def owe_redactions(db: Executor, what: Sequence[OfLedger]) -> None:
    """Remember that this is to be redacted in the ledger."""
    if what:
        await arrays(db, _OWE_REDACTIONS, what)


async def claim_redaction(db: Executor) -> Any | None:
    """What is to be redacted in the ledger next, locked for this transaction: `id`, `source`, `category`, `until`
    and `decision` as in `OfLedger`, `client_id`, the `version` from which the erasure holds, and `last`: whether
    nothing that was decided before it can come into the ledger any more. Others claim others.

    A decision of before the erasure may be entered after it, by a cycle of the discloser that had begun. It leaves
    before the retractions do: when they are known to have left, it is there.
    """
    rows = await db.execute(
        text(
            "SELECT e.id, e.client_id, e.source, e.category, e.until, e.decision, w.version,"
            " w.done_at IS NOT NULL AS last FROM ledger_erasure e JOIN withdrawal w ON w.id = e.withdrawal_id"
            " WHERE w.done_at IS NOT NULL OR e.due_at <= clock_timestamp()"
            " ORDER BY e.due_at, e.id LIMIT 1 FOR UPDATE OF e SKIP LOCKED"
        )
    )
    return rows.one_or_none()


async def redaction_done(db: Executor, id: int) -> None:
    """Nothing of this stands in the ledger any more."""
    await db.execute(text("DELETE FROM ledger_erasure WHERE id = :id"), {"id": id})


async def redact_again(db: Executor, id: int, seconds: float) -> None:
    """Look for this once more, then at the latest."""
    await db.execute(
        text("UPDATE ledger_erasure SET due_at = clock_timestamp() + make_interval(secs => :s) WHERE id = :id"),
        {"id": id, "s": seconds},
    )


# --- everything -------------------------------------------------------------------------------------------------------


async def names(db: Executor, clients: Collection[int]) -> set[Identifier]:
    """All by which an event may name these clients: their numbers, and the references of those who know them."""
    rows = await db.execute(
        text(
            "SELECT type, issuer, value FROM identifier WHERE client_id = ANY(:clients)"
            " UNION ALL SELECT 'THROUGHGATE', recipient, CAST(id AS text) FROM reference"
            " WHERE client_id = ANY(:clients)"
        ),
        {"clients": sorted(clients)},
    )
    return {Identifier(*row) for row in rows}


_KEEP_FORMS = (
    "INSERT INTO used_form (asserted_by, form) SELECT DISTINCT asserted_by, sha256(convert_to(own_id, 'UTF8'))"
    " FROM sharing_fact WHERE client_id = ANY(:clients) AND kind = 'granted' AND own_id IS NOT NULL"
    " ON CONFLICT DO NOTHING"
)
_DIGEST = "sha256(k.key || convert_to({0} || '/' || {1} || '/' || {2}, 'UTF8'))"
_KEEP_NUMBERS = (
    "INSERT INTO erased_number (digest, erased_at)"  # noqa: S608 # constants
    f" SELECT {_DIGEST.format('type', 'issuer', 'value')}, clock_timestamp() FROM identifier CROSS JOIN erasure_key k"
    " WHERE client_id = ANY(:clients) ON CONFLICT (digest) DO UPDATE SET erased_at = excluded.erased_at"
)
RECORDED_AND_SAID = (
    _KEEP_FORMS,
    "DELETE FROM fact WHERE client_id = ANY(:clients)",
    "DELETE FROM source_version WHERE client_id = ANY(:clients)",
    "DELETE FROM sharing_fact WHERE client_id = ANY(:clients)",
    "DELETE FROM due WHERE client_id = ANY(:clients)",
    "DELETE FROM likeness WHERE client_id = ANY(:clients)",
)
"""What erases what was recorded and said of a client."""
EVERYTHING = (
    *RECORDED_AND_SAID,
    _KEEP_NUMBERS,
    "DELETE FROM identifier WHERE client_id = ANY(:clients)",
    "DELETE FROM candidate WHERE one = ANY(:clients) OR other = ANY(:clients)",
    # retractions and notices hold references only, and have to leave
    f"DELETE FROM queue WHERE client_id = ANY(:clients) AND kind = {queue.RECORD}",  # noqa: S608 # a constant
    # from here on nobody can read what the ledger says of them; the leaves stay, and what an earlier erasure entered
    "UPDATE ledger SET body = NULL FROM client c WHERE c.id = client_id AND c.id = ANY(:clients) AND key IS NOT NULL",
    "UPDATE client SET key = NULL, conflicting = true WHERE id = ANY(:clients)",
)
"""What erases a client. References stay: they are random, recipients confirm by them. So do digests of the forms that
the client signed, without the client: each opens a permit once. And for a time keyed digests of the numbers: a consent
given before the erasure opens nothing for the client who gets the number next."""


async def everything(db: Executor, clients: Collection[int], undone: Collection[int]) -> None:
    """Erase these clients, all but the leaves of the ledger and what has to be told to recipients.

    `undone`: clients of undone links that they were part of. What was recorded and said there stayed behind; nobody can
    say of whom it is, and nothing rests on it. Their numbers stay, for those may be the other's.
    """
    for statements, some in ((EVERYTHING, clients), (RECORDED_AND_SAID, undone)):
        for statement in statements if some else ():
            await db.execute(text(statement), {"clients": sorted(some)})


async def erased_before(db: Executor, keys: Collection[Identifier]) -> dict[Identifier, datetime]:
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
    return {Identifier(*number): at for *number, at in rows}


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


async def forget_set_aside_before(db: Executor, period: timedelta) -> None:
    """Erase the bytes of events that have waited for a person for so long."""
    await db.execute(
        text(
            "UPDATE set_aside SET value = NULL"
            " WHERE value IS NOT NULL AND set_aside_at < clock_timestamp() - CAST(:period AS interval)"
        ),
        {"period": period},
    )
