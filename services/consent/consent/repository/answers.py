"""What was taken in already and what it was answered."""

from collections.abc import Collection

from sqlalchemy import text

from consent.repository.sql import Executor, arrays


async def enter(db: Executor, events: Collection[tuple[str, str, bytes]]) -> set[tuple[str, str]]:
    """Enter (agency, event id, digest); gives those (agency, event id) that were not known."""
    if not events:
        return set()
    result = await arrays(
        db,
        text(
            "INSERT INTO intake (agency, event_id, digest) SELECT a, e, d FROM unnest(CAST(:a0 AS text[]),"
            " CAST(:a1 AS text[]), CAST(:a2 AS bytea[])) AS r(a, e, d) ORDER BY a, e"
            " ON CONFLICT DO NOTHING RETURNING agency, event_id"
        ),
        events,
    )
    return {(row.agency, row.event_id) for row in result}


async def earlier_answers(
    db: Executor, keys: Collection[tuple[str, str]]
) -> dict[tuple[str, str], tuple[bytes, bytes | None]]:
    """Digest and stored answer of events that were known."""
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


async def keep_answers(db: Executor, answers: Collection[tuple[str, str, bytes]]) -> None:
    """Store the answer of events entered in this transaction."""
    if answers:
        await arrays(
            db,
            text(
                "UPDATE intake SET answer = v FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]),"
                " CAST(:a2 AS bytea[])) AS r(a, e, v) WHERE agency = a AND event_id = e"
            ),
            answers,
        )
