"""Erasing what is kept of a client: at an agency's request, and when a category's period is over.

Recipients get retractions and confirm them. The ledger keeps an entry of kind `erasure` and, where everything was
erased, leaves that nobody can open any more: proof that something was there and that it is gone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Scope, standing_restrictions
from consent.repository import clients, erasure, queue, sharing
from consent.repository.clients import Client
from consent.repository.ledger import OPEN_KEY, Entry
from consent.service import reading, register
from consent.service.desk import Desk, Erasure
from consent.service.ledger import enter
from consent.service.restoring import RESTORED
from contracts.intake import ErasureRequested
from contracts.vocabulary import Category
from servicekit.db import wake_after_commit
from servicekit.problems import Problem

AT_ONCE = 100
"""Clients of whom one transaction erases what is overdue."""
WHENEVER = datetime.max.replace(tzinfo=UTC)
"""Up to when, where all of a section goes."""

STILL_RESTRICTED = Problem(
    "still-restricted",
    "What protects this client would be erased as well",
    "A restriction of another agency stands, or a hold is open: forgotten, it would protect nobody from the next record"
    " on. Have the restriction lifted or the hold seen to, then send a new event with a new id; scope own is open now.",
    409,
)


def is_protected(event: ErasureRequested, agency: str, client: Client, now: datetime) -> bool:
    """Whether erasing would forget what somebody else said to protect the client, and nobody has taken back.

    Not that we lost something of it in a restore: what was retracted may have been this very erasure.
    """
    if event.data.scope != "everything":
        return False
    held = client.facts.held and client.holds.keys() != {RESTORED}
    return held or any(r.asserted_by != agency for r in standing_restrictions(client.facts, now))


def request(event: ErasureRequested, agency: str, client: Client, desk: Desk, traceparent: str | None) -> UUID:
    """Queue the retractions of an agency's request; gives the id under which they can be followed."""
    because = event.data.reason
    if event.data.scope == "everything":
        desk.next_version(client)
        id = desk.stop(client, Scope(), agency, event.id, traceparent, because="erased")
        client.sections.clear()
        desk.erasures.append(Erasure(client, None, because, agency))
        return id
    own = dict.fromkeys((key for key in client.sections if key[0] == agency), WHENEVER)
    return _some(client, own, desk, because, agency, event.id, traceparent)


async def carry_out(session: AsyncSession, wanted: Erasure, desk: Desk) -> None:
    """Erase, after the retractions were queued, and enter it in the ledger."""
    client = wanted.client
    known = (await sharing.known(session, [client.id]))[client.id]
    if wanted.sections is None:
        await _forget_set_aside(session, known.members)
        await erasure.everything(session, known.members)
        await enter(session, [_entry(wanted, known.id, OPEN_KEY, desk.now)])
        return
    await erasure.facts(session, known.members, wanted.sections)
    waiting = await erasure.queued_records(session, known.members)
    cut = {id: _without(body, wanted.sections) for id, body in waiting.items()}
    await erasure.rewrite_queued(session, {id: body for id, body in cut.items() if body != waiting[id]})
    if wanted.asked_by is not None:
        await erasure.case_numbers(session, known.members, wanted.asked_by)
    await enter(session, [_entry(wanted, known.id, known.key, desk.now)])


async def erase_overdue(session: AsyncSession, periods: Mapping[Category, timedelta]) -> int:
    """Erase what is kept longer than its period, of some clients; gives how many clients there were.

    It goes by rows: of linked clients an older copy may be overdue while the newest, which alone leaves, is not. That
    copy goes without a retraction, for recipients have long been told the newer one.
    """
    ids = await erasure.overdue(session, periods, AT_ONCE)
    if not ids:
        return 0
    found = {one.client for one in (await clients.lock_whole(session, ids)).values()}
    desk = Desk(
        await clients.load(session, found, found), await register.load(session), await clients.time_now(session)
    )
    for client in desk.clients.values():
        over = {
            (row.source, row.category): until
            for row in await erasure.kept(session, client.members)
            if row.recorded_at <= (until := desk.now - periods[Category(row.category)])
        }
        if over:
            _some(client, over, desk, "period-over", None, None, None)
    await clients.write(session, desk.changes)
    for one in desk.erasures:
        await carry_out(session, one, desk)
    wake_after_commit(session, queue.CHANNEL)
    return len(found)


def _some(
    client: Client,
    sections: Mapping[tuple[str, str], datetime],
    desk: Desk,
    because: str,
    agency: str | None,
    event_id: str | None,
    traceparent: str | None,
) -> UUID:
    desk.next_version(client)
    gone = [key for key in sections if _goes(client.sections[key], sections)]
    categories = frozenset(Category(category) for _, category in gone)
    scope = Scope(categories=categories) if categories else Scope(recipients=frozenset())
    id = desk.stop(client, scope, agency, event_id, traceparent, because="erased")
    for key in gone:
        del client.sections[key]
    desk.offer_snapshots(client, desk.now, traceparent)  # what others recorded of the same categories goes on
    desk.erasures.append(Erasure(client, sections, because, agency))
    return id


def _goes(section: Mapping[str, Any], sections: Mapping[tuple[str, str], datetime]) -> bool:
    until = sections.get((section["source"], section["category"]))
    return until is not None and datetime.fromisoformat(section["recordedAt"]) <= until


def _without(body: str, sections: Mapping[tuple[str, str], datetime]) -> str:
    """A queued record without what goes: it would leave behind its own retraction.

    The row stays, also when nothing is left in it: then it is refused, and its requester is told. One that may have
    left already is taken back by that.
    """
    try:
        record = orjson.loads(body)
        kept = [section for section in record.get("sections", ()) if not _goes(section, sections)]
    except (ValueError, KeyError, TypeError, AttributeError):
        return "{}"  # nobody can say what is in it, and it could not leave either
    if len(kept) == len(record.get("sections", ())):
        return body
    return orjson.dumps(record | {"sections": kept}).decode()


async def _forget_set_aside(session: AsyncSession, members: tuple[int, ...]) -> None:
    """Erase the bytes of events that could not be applied and hold one of the client's numbers."""
    numbers = {(n.type, n.issuer, n.value) for n in await erasure.numbers(session, members)}
    meant = [
        row.id
        for row in await erasure.set_aside_events(session)
        if not numbers.isdisjoint(reading.identifiers_in(row.value, row.topic.rpartition(".")[2]))
    ]
    await erasure.forget_set_aside(session, meant)


def _entry(wanted: Erasure, client_id: int, key: bytes | None, now: datetime) -> Entry:
    """Where everything went, that there was a client, and when and why it was erased, is all that is left."""
    id, sections = uuid4(), sorted(wanted.sections or ())
    explanation = {
        "kind": "erasure",
        "decision": str(id),
        "decidedAt": now.isoformat(),
        "because": wanted.because,
        "askedBy": wanted.asked_by,
        "erased": "everything"
        if wanted.sections is None
        else [{"source": source, "category": category} for source, category in sections],
    }
    sources = {source for source, _ in sections} | ({wanted.asked_by} if wanted.asked_by else set())
    return Entry("erasure", id, client_id, key, None, None, wanted.because, now, sorted(sources), explanation)
