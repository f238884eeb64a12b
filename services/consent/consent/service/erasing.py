"""Erasing what is kept of a client: at an agency's request, and when its period is over (`service.retention`).

Recipients get retractions and confirm them. The ledger keeps an entry of kind `erasure`, and is redacted afterwards
(`service.redacting`).
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Recipients, Scope, standing_restrictions
from consent.repository import candidates, clients, erasure, links, sharing
from consent.repository.clients import Client
from consent.repository.erasure import OfLedger
from consent.repository.ledger import Entry
from consent.service import naming
from consent.service.desk import RESTORED, Cause, Desk, Erasure
from consent.service.ledger import enter, new_entry
from consent.service.redacting import close_ledger
from contracts import topic_names
from contracts.intake import ErasureRequested
from contracts.vocabulary import Category
from servicekit.problems import Problem

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
    """Whether erasing would forget what somebody else said to protect the client and has not taken back.

    The hold of a restore (`RESTORED`) does not count: what the restore lost may have been this very erasure.
    """
    if event.data.scope != "everything":
        return False
    held = client.facts.held and client.holds.keys() != {RESTORED}
    return held or any(r.asserted_by != agency for r in standing_restrictions(client.facts, now))


def erase_as_asked(event: ErasureRequested, client: Client, desk: Desk, cause: Cause) -> UUID:
    """Queue the retractions of an agency's request; gives the id under which they can be followed.

    It is carried out when the desk is closed.
    """
    because = event.data.reason
    if event.data.scope == "everything":
        return erase_everything(client, desk, because, cause)
    own = dict.fromkeys((key for key in client.sections if key[0] == cause.agency), WHENEVER)
    return erase_sections(client, own, desk, because, cause)


def erase_everything(client: Client, desk: Desk, because: str, cause: Cause) -> UUID:
    """Queue the retractions of all that was ever told of a client, of whom nothing is to be kept."""
    desk.next_version(client)
    id = desk.stop(client, Scope(), cause, because="erased")
    client.sections.clear()
    desk.erasures.append(Erasure(client, None, id, because, cause.agency))
    return id


def erase_sections(
    client: Client, sections: Mapping[tuple[str, str], datetime], desk: Desk, because: str, cause: Cause
) -> UUID:
    """Queue the retractions of sections, (source, category) to a time up to which what was recorded goes."""
    desk.next_version(client)
    gone = [key for key in sections if _goes(client.sections[key], sections)]
    categories = frozenset(Category(category) for _, category in gone)
    scope = Scope(categories=categories) if categories else Scope(recipients=Recipients())
    id = desk.stop(client, scope, cause, because="erased")
    for key in gone:
        del client.sections[key]
    desk.offer_snapshots(client, cause.traceparent)  # what others recorded of the same categories goes on
    whole = dict.fromkeys(gone, WHENEVER)  # an older one that was told may have borne a later time
    desk.erasures.append(Erasure(client, {**sections, **whole}, id, because, cause.agency))
    return id


async def carry_out(session: AsyncSession, wanted: Erasure, desk: Desk) -> None:
    """Erase, after the retractions were queued, and enter it in the ledger."""
    client = wanted.client
    known = (await sharing.known(session, [client.id])).whole()[client.id]
    whose = await links.meaning_of_undone(session, known.members)
    await clients.lock(session, whose.keys())  # whoever erases the other part comes wholly before or after
    erased = await clients.erased_of(session, set[int]().union(*whose.values()))
    undone = [row for row, meant in whose.items() if meant - erased != {client.id}]
    # with links whose clients were linked again, and those of which nobody is left whose numbers they could be
    members = *known.members, *(whose.keys() - undone)
    await erasure.owe_redactions(session, [*_of_ledger(wanted, members, undone)])
    if wanted.sections is None:
        apart = await candidates.told_apart_from(session, [*members, *undone])
        await erasure.owe_redactions(session, [OfLedger(row, wanted.withdrawal, decision=id) for id, row in apart])
        await _forget_set_aside(session, members)
        await erasure.everything(session, members, undone)
        for row in members:
            await close_ledger(session, row, wanted.because, wanted.asked_by, desk.now, always=row == known.id)
        return
    await erasure.facts(session, members, wanted.sections)
    waiting = await erasure.queued_records(session, members)
    rewritten = {id: _without(body, wanted) for id, body in waiting.items()}
    await erasure.rewrite_queued(session, {id: body for id, body in rewritten.items() if body != waiting[id]})
    if wanted.asked_by is not None:
        await erasure.case_numbers(session, members, wanted.asked_by)
    await enter(session, [_entry(wanted, known.id, known.key, desk.now)])


def _of_ledger(wanted: Erasure, members: tuple[int, ...], undone: Iterable[int]) -> Iterator[OfLedger]:
    """What is to be redacted in the ledger. What was told of the client while it was linked with another stands under
    the client that the link made, also when that was undone since.
    """
    if wanted.sections is None:  # the clients' own entries are closed, but one may be on its way
        yield from (OfLedger(client, wanted.withdrawal) for client in (*members, *undone))
        return
    for client in (*members, *undone):
        if wanted.asked_by is not None:  # with what it answered, of which it recorded no section
            yield OfLedger(client, wanted.withdrawal, wanted.asked_by)
            continue
        for (source, category), until in wanted.sections.items():
            yield OfLedger(client, wanted.withdrawal, source, category, None if until == WHENEVER else until)


NOTHING_LEFT = '{"sections":[]}'


def _goes(section: Mapping[str, Any], sections: Mapping[tuple[str, str], datetime]) -> bool:
    until = sections.get((section["source"], section["category"]))
    return until is not None and datetime.fromisoformat(section["recordedAt"]) <= until


def _without(body: str, wanted: Erasure) -> str:
    """A queued record without what goes: it would leave behind its own retraction. A message about what goes says it
    again, so nothing of it is left.

    The row stays even when nothing is left in it: it is then refused, and its requester is told. A record that may have
    left already is taken back by that.
    """
    sections = wanted.sections or {}
    try:
        record = orjson.loads(body)
        kept = [section for section in record.get("sections", ()) if not _goes(section, sections)]
        about = [(source, category) for source, category in record.get("about", ())]
        if any(source == wanted.asked_by or sections.get((source, category)) == WHENEVER for source, category in about):
            return NOTHING_LEFT
    except (ValueError, KeyError, TypeError, AttributeError):
        return "{}"  # nobody can say what is in it, and it could not leave either
    if len(kept) == len(record.get("sections", ())):
        return body
    return orjson.dumps(record | {"sections": kept}).decode()


async def _forget_set_aside(session: AsyncSession, members: tuple[int, ...]) -> None:
    """Erase the bytes of events that could not be applied and name the client."""
    names = await erasure.names(session, members)
    meant = [
        row.id
        for row in await erasure.set_aside_events(session)
        if not names.isdisjoint(naming.identifiers_in(row.value, topic_names.parts(row.topic)[1]))
    ]
    await erasure.forget_set_aside(session, meant)


def _entry(wanted: Erasure, client_id: int, key: bytes | None, now: datetime) -> Entry:
    """The entry that says which sections were erased, when and why."""
    sections = sorted(wanted.sections or ())
    erased = [{"source": source, "category": category} for source, category in sections]
    sources = {source for source, _ in sections} | ({wanted.asked_by} if wanted.asked_by else set())
    return new_entry(
        kind="erasure",
        decision=uuid4(),
        client=client_id,
        key=key,
        type=wanted.because,
        at=now,
        sources=sorted(sources),
        more={"because": wanted.because, "askedBy": wanted.asked_by, "erased": erased},
    )
