"""The door's inbox, table `intake`: the id and digest of each event that was taken in, and what it was answered."""

from collections.abc import Collection

from sqlalchemy import text

from consent.repository.sql import Executor, Write, arrays, at_once, insert_of


async def known(db: Executor, keys: Collection[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes, bytes | None]]:
    """Digest and stored answer of those (publisher, event id) that were taken in before."""
    if not keys:
        return {}
    result = await arrays(
        db,
        text(
            "SELECT agency, event_id, digest, answer FROM intake JOIN unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]))"
            " AS r(a, e) ON agency = a AND event_id = e"
        ),
        list(keys),
    )
    return {(row.agency, row.event_id): (row.digest, row.answer) for row in result}


_KEEP = insert_of("intake", "agency, event_id, digest, answer", "text, text, bytea, bytea", "ON CONFLICT DO NOTHING")


def keeping(entries: Collection[tuple[str, str, bytes, bytes | None]]) -> Write:
    """What `keep` writes."""
    return Write(_KEEP, sorted(entries, key=lambda e: (e[0], e[1])))


async def keep(db: Executor, entries: Collection[tuple[str, str, bytes, bytes | None]]) -> bool:
    """Enter what was taken in: publisher, event id, digest, answer. Written once, when the answer is known.

    False: another transaction took one of them in meanwhile, so this one must be run again.
    """
    (kept,) = await at_once(db, [keeping(entries)])
    return kept == len(entries)
