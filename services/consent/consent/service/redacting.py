"""Redacting the ledger: of what was erased of a client (`service.erasing`), and of what was told longer ago than the
period of its category (`service.retention`).

Of each record that carried what was erased the ledger keeps who got which categories and why, and the hash of the
record. Where everything was erased it keeps leaves that nobody can open any more, and beside them nothing: proof that
something was there and that it is gone.
"""

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import erasure, ledger
from consent.repository.ledger import OPEN_KEY
from consent.service.auditing import seal_of
from consent.service.ledger import enter, new_entry
from consent.service.sections import OFFENCE
from contracts.vocabulary import Category
from servicekit.sql import time_now

CHUNK = 500
"""Entries of the ledger that are opened at once."""
AGAIN_SECONDS = 600.0
"""How often to look for what may still come into the ledger, while retractions cannot leave."""


async def redact_ledger(session: AsyncSession) -> bool:
    """Redact in the ledger what was erased: the next row of what waits for it. False: nothing waits.

    It is done after the erasure: a client may have many entries, and another may be entered a moment later. Each
    transaction takes one row, so that it locks the entries in their order, as sealing does.
    """
    row = await erasure.claim_redaction(session)
    if row is None:
        return False
    after = 0
    while entries := await ledger.readable(session, row.client_id, after, CHUNK):
        after = entries[-1].id
        bodies = {entry.id: _redacted(entry, row) for entry in entries}
        await ledger.rewrite(session, {id: body for id, body in bodies.items() if body is not None})
    if row.source is None:  # where all of the client was erased
        await close_ledger(session, row.client_id, "entered-meanwhile", None, await time_now(session), always=False)
    if row.last:
        await erasure.redaction_done(session, row.id)
    else:
        await erasure.redact_again(session, row.id, AGAIN_SECONDS)
    return True


async def put_off(session: AsyncSession) -> None:
    """Let others go first: what is to be redacted first could not be."""
    row = await erasure.claim_redaction(session)
    if row is not None:
        await erasure.redact_again(session, row.id, AGAIN_SECONDS)


def without_told(entry: Any, categories: Collection[Category]) -> bytes | None:
    """The body of an entry without what was told, where that was of one of these categories; None: it was not, was
    erased already, or cannot be read.
    """
    if entry.kind not in ledger.TOLD or entry.key is None:
        return None
    with suppress(ledger.Unreadable):
        opened = ledger.open(entry)
        if opened is not None and opened.told is not None:
            told = {Category(one["category"]) for one in opened.explanation["permitted"]}
            if not told.isdisjoint(categories):
                return ledger.without_told(entry.key, entry.decision, opened, opened.explanation)
    return None


async def close_ledger(
    session: AsyncSession, client: int, because: str, asked_by: str | None, at: datetime, *, always: bool
) -> None:
    """Blank what the ledger says of a client row whose key was destroyed, and enter that: nothing else is left of it.

    `always`: also where there was nothing to blank.
    """
    id = uuid4()
    leaves = await ledger.close(session, client, id, at)
    if not leaves and not always:
        return
    entry = new_entry(
        kind="erasure",
        decision=id,
        client=client,
        key=OPEN_KEY,
        type=because,
        at=at,
        sources=[asked_by] if asked_by else [],
        more={"because": because, "askedBy": asked_by, "erased": "everything", "closed": seal_of(leaves)},
    )
    await enter(session, [entry])


def _redacted(entry: Any, what: Any) -> bytes | None:
    """The body of an entry without what was erased; None: it holds nothing of it, or cannot be read."""
    with suppress(ledger.Unreadable):
        opened = ledger.open(entry)
        return None if opened is None else _cut(entry, opened, what)
    return None


def _cut(entry: Any, opened: ledger.Opened, what: Any) -> bytes | None:
    """All that was told goes, for a message may say again what stood in a section. The explanation names categories,
    and stays but for the days on which convictions become spent and, where everything goes, reasons in free text.
    """
    explanation, at = opened.explanation, entry.decided_at
    if explanation.get("decidedOn", 0) >= what.version:  # it is of what was recorded since
        return None
    if what.decision not in (None, entry.decision):
        return None
    kept = {name: value for name, value in explanation.items() if name != "reason" or what.source is not None}
    if spent := explanation.get("asked", {}).get("spent"):
        days = {source: day for source, day in spent.items() if not _is_meant(what, source, OFFENCE, at)}
        kept["asked"] = explanation["asked"] | {"spent": days}
    left = _items(opened, at) if entry.kind in ledger.TOLD else ()
    if kept == explanation and not any(_is_meant(what, *item) for item in left):
        return None
    return ledger.without_told(entry.key, entry.decision, opened, kept)


def _is_meant(what: Any, source: str, category: str, at: datetime) -> bool:
    """Whether a row of `erasure.claim_redaction` means what this source told of the category at a time."""
    in_time = what.until is None or at <= what.until
    return in_time and what.source in (None, source) and what.category in (None, category)


def _items(opened: ledger.Opened, decided_at: datetime) -> Iterator[tuple[str, str, datetime]]:
    """Source, category and time of what left and was not erased since: of a section when it was recorded, of what a
    message is about when that was decided.
    """
    if opened.told is None:
        return
    recorded = opened.recorded()
    for one in opened.explanation["permitted"]:
        key = one["source"], one["category"]
        yield *key, recorded.get(key, decided_at)
