"""Erasing what is kept of a client: at an agency's request, and when a category's period is over.

Recipients get retractions and confirm them. The ledger keeps an entry of kind `erasure` and, where everything was
erased, leaves that nobody can open any more: proof that something was there and that it is gone.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Scope
from consent.repository import clients, erasure, queue, sharing
from consent.repository.clients import Client
from consent.repository.ledger import Entry
from consent.service import reading, register
from consent.service.desk import Desk, Erasure
from consent.service.ledger import enter
from contracts.intake import ErasureRequested
from contracts.vocabulary import Category
from servicekit.db import wake_after_commit

AT_ONCE = 100
"""Clients of whom one transaction erases what is overdue."""


def request(event: ErasureRequested, agency: str, client: Client, desk: Desk, traceparent: str | None) -> UUID:
    """Queue the retractions of an agency's request; gives the id under which they can be followed."""
    because = event.data.reason
    if event.data.scope == "everything":
        desk.next_version(client)
        id = desk.stop(client, Scope(), agency, event.id, traceparent, because="erased")
        client.sections.clear()
        desk.erasures.append(Erasure(client, None, because, agency))
        return id
    own = frozenset(key for key in client.sections if key[0] == agency)
    return _some(client, own, desk, because, agency, event.id, traceparent)


async def carry_out(session: AsyncSession, wanted: Erasure, desk: Desk) -> None:
    """Erase, after the retractions were queued, and enter it in the ledger."""
    client = wanted.client
    known = (await sharing.known(session, [client.id]))[client.id]
    if wanted.sections is None:
        await _forget_set_aside(session, known.members)
        await erasure.everything(session, known.members)
        await enter(session, [_entry(wanted, known.id, None, desk.now)])
        return
    await erasure.facts(session, known.members, wanted.sections)
    if wanted.asked_by is not None:
        await erasure.case_numbers(session, known.members, wanted.asked_by)
    await enter(session, [_entry(wanted, known.id, known.key, desk.now)])


async def erase_overdue(session: AsyncSession, periods: Mapping[Category, timedelta]) -> int:
    """Erase what is kept longer than its period, of some clients; gives how many clients there were."""
    ids = await erasure.overdue(session, periods, AT_ONCE)
    if not ids:
        return 0
    found = {one.client for one in (await clients.lock_whole(session, ids)).values()}
    desk = Desk(
        await clients.load(session, found, found), await register.load(session), await clients.time_now(session)
    )
    for client in desk.clients.values():
        over = frozenset(
            key for key, section in client.sections.items() if _age(section, desk.now) > periods[Category(key[1])]
        )
        if over:
            _some(client, over, desk, "period-over", None, None, None)
    await clients.write(session, desk.changes)
    for one in desk.erasures:
        await carry_out(session, one, desk)
    wake_after_commit(session, queue.CHANNEL)
    return len(desk.erasures)


def _some(
    client: Client,
    sections: frozenset[tuple[str, str]],
    desk: Desk,
    because: str,
    agency: str | None,
    event_id: str | None,
    traceparent: str | None,
) -> UUID:
    desk.next_version(client)
    categories = frozenset(Category(category) for _, category in sections)
    scope = Scope(categories=categories) if categories else Scope(recipients=frozenset())
    id = desk.stop(client, scope, agency, event_id, traceparent, because="erased")
    for key in sections:
        del client.sections[key]
    desk.offer_snapshots(client, desk.now, traceparent)  # what others recorded of the same categories goes on
    desk.erasures.append(Erasure(client, sections, because, agency))
    return id


def _age(section: Mapping[str, Any], now: datetime) -> timedelta:
    return now - datetime.fromisoformat(section["recordedAt"])


async def _forget_set_aside(session: AsyncSession, members: tuple[int, ...]) -> None:
    """Erase the bytes of events that could not be applied and hold one of the client's numbers."""
    numbers = {(n.type, n.issuer, n.value) for n in await erasure.numbers(session, members)}
    meant = [
        row.id
        for row in await erasure.set_aside_events(session)
        if numbers & reading.identifiers_in(row.value, row.topic.rpartition(".")[2])
    ]
    await erasure.forget_set_aside(session, meant)


def _entry(wanted: Erasure, client_id: int, key: bytes | None, now: datetime) -> Entry:
    """Where everything went, no body is kept: that there was a client, and when it was erased, is all that is left."""
    id, sections = uuid4(), sorted(wanted.sections or ())
    explanation = {
        "kind": "erasure",
        "decision": str(id),
        "decidedAt": now.isoformat(),
        "because": wanted.because,
        "askedBy": wanted.asked_by,
        "erased": [{"source": source, "category": category} for source, category in sections] or "everything",
    }
    sources = {source for source, _ in sections} | ({wanted.asked_by} if wanted.asked_by else set())
    return Entry("erasure", id, client_id, key, None, None, wanted.because, now, sorted(sources), explanation)
