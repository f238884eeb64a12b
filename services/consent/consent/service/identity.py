"""The same person under several numbers: linking two clients, undoing it, and what looks like one person.

A link makes a new client of the two, which has the strictest of their consents: whatever leaves must be permitted for
each of them. Both of these may turn a permit into a deny, so both retract, under every key that the clients had.
"""

import hashlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import (
    Agency,
    Ended,
    Restricted,
    Scope,
    SharingFact,
    Withdrawn,
    acts_for,
    decide,
    not_lifted,
)
from consent.repository import candidates, clients, holds, links, recorded, sharing
from consent.repository.clients import Client, Identifier
from consent.repository.links import Found, Link
from consent.service import desks, losing
from consent.service.desk import BY_THE_DOOR, Cause, Desk
from consent.service.incoming import UNKNOWN_CLIENT, Damaged
from consent.service.ledger import new_entry
from consent.service.notices import Owed
from consent.service.sections import spent_convictions
from contracts.vocabulary import Category, Purpose
from servicekit.problems import Problem
from servicekit.sql import time_now

NOT_ONE_CLIENT = Problem(
    "identifier-conflict",
    "The identifiers belong to different clients",
    "Each list must name one client, and not one whose link was undone. Check each identifier against its source;"
    " nothing was changed.",
    409,
)
TOLD_APART = Problem(
    "told-apart",
    "It was decided that these are different people",
    "If that was wrong, a person with the scope identity links them with POST /links.",
    409,
)
ONE_CLIENT = Problem(
    "one-client", "Both are the same client already", "Nothing is to be done: they are known as one client.", 409
)
NO_SUCH_LINK = Problem(
    "no-such-link", "There is no such link", "List those that you may see with GET /links; one may be undone once.", 404
)
LINKED_FURTHER = Problem(
    "linked-further",
    "A later link rests on this one",
    "Undo the later link first: GET /links shows it; then undo this one.",
    409,
)
NOTHING_TO_CONFIRM = Problem(
    "nothing-to-confirm",
    "Nothing about this link waits to be confirmed",
    "Only a link whose clients have different numbers of the same kind is confirmed, once, while it holds.",
    409,
)


@dataclass(frozen=True, slots=True)
class Act:
    """Who links or unlinks, and why."""

    by: str
    reason: str
    cause: Cause = BY_THE_DOOR


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of it."""

    link: UUID | None
    """None: they were one client before, in every system."""
    client: UUID | None
    """The reference of the client for the agency that published it."""
    withdrawal: UUID | None = None
    """Under which the retractions can be followed."""


# --- linking ----------------------------------------------------------------------------------------------------------


async def link(session: AsyncSession, one: Collection[int], other: Collection[int], act: Act) -> Outcome:
    """Make one client of two, each given by the rows that its identifiers belong to.

    Raises:
        Problem: as `_both`; 409, it was decided that these are different people; `Damaged`, what is kept of one of them
            cannot be read.
        TryAgain: another link was made or undone meanwhile.
    """
    first, second = await _both(session, one, other)
    if first == second:
        desk = await desks.open(session, [first], with_facts=[])
        between = await _between(session, first, min(one), min(other))
        return await _closed(session, desk, first, act, between.id if between else None, None)
    before = await clients.load(session, [first, second], [first, second])
    if any(client.damaged for client in before.values()):
        raise Damaged
    members = [before[id].members for id in (first, second)]
    if act.cause.agency is not None and await candidates.told_apart(session, *members):
        raise TOLD_APART
    id, version = uuid4(), max(client.version for client in before.values()) + 1
    conflicting = await links.contradict(session, {id: before[id].members for id in before})
    parts = min(first, second), max(first, second)
    now = await time_now(session)
    made = await links.enter(session, id, parts, version, conflicting, act.by, act.cause.event_id, now)
    desk = await desks.open(session, [made])
    client = desk.clients[made]
    owed = _owed(before.values(), client, desk)
    withdrawal = None
    if owed or act.cause.agency is not None:
        withdrawal = desk.retract(client, owed, act.cause, because="linked")
    desk.offer_snapshots(client, act.cause.traceparent)
    await _log(session, "linked", [made], id, parts, act, desk)
    return await _closed(session, desk, made, act, id, withdrawal)


async def _both(session: AsyncSession, one: Collection[int], other: Collection[int]) -> tuple[int, int]:
    """The clients whom two lists of rows mean, which are locked.

    Raises:
        Problem: 404, all of one was erased, and its reference leads to nothing; 409, one side names several clients.
        TryAgain: another link was made or undone meanwhile.
    """
    found = await clients.lock_whole(session, {*one, *other})
    if await clients.erased_of(session, {meant.client for meant in found.values()}):
        raise UNKNOWN_CLIENT
    return _single(found, one), _single(found, other)


def _single(found: Mapping[int, Found], rows: Collection[int]) -> int:
    means = {client for row in rows for client in found[row].may_mean}
    if len(means) != 1:
        raise NOT_ONE_CLIENT
    return means.pop()


def _owed(before: Collection[Client], client: Client, desk: Desk) -> list[Owed]:
    """Under each key that the parts had: what the recipient must erase, now that they are one client.

    Under a key that does not go on, everything. Under one that goes on, the purposes for which the part alone permitted
    something that the linked client does not; and our services are told to whom they may say no more.
    """
    agencies = desk.register.agencies
    going_on, owed = client.references.values(), list[Owed]()
    for reference in (r for r in client.former if r.queued):
        if purposes := [p for p in Purpose if acts_for(agencies[reference.recipient], p)]:
            owed.append(Owed(reference, purposes))
    parts = {reference.id: part for part in before for reference in part.references.values()}
    lost = {
        (reference.recipient, purpose): frozenset(Category)
        for reference in going_on
        if reference.queued
        for purpose in _lost(agencies[reference.recipient], parts[reference.id], client, desk)
    }
    return owed + [replace(one, categories=None) for one in losing.owed(lost, going_on, desk.register)]


def _lost(recipient: Agency, part: Client, client: Client, desk: Desk) -> Iterator[Purpose]:
    """The purposes for which the part permitted something that the linked client does not, or without an obligation."""
    services, spent = client.facts.services_of(recipient.id), spent_convictions(client.sections.values())
    for purpose in (p for p in Purpose if acts_for(recipient, p)):
        for question in losing.questions(part, recipient, purpose, Category, services, desk.now):
            was = decide(question, part.facts, desk.register.lenient)
            asked_now = replace(question, spent={**question.spent, **spent})
            now = decide(asked_now, client.facts, desk.register.policy)
            bound = set(now.obligations) - set(was.obligations)
            if was.permitted - now.permitted or (was.permitted and bound):
                yield purpose
                break


# --- undoing ----------------------------------------------------------------------------------------------------------


async def unlink(session: AsyncSession, id: UUID, act: Act) -> Outcome:
    """Undo a link. What was recorded and said while it held stays behind with it; what stopped, stops both.

    Raises:
        Problem: 404, no such link holds; 409, a later one rests on it; `Damaged`, what is kept of the client cannot be
            read, and it may be what stops both.
        TryAgain: another link was made or undone meanwhile.
    """
    undone = await _held_link(session, id)
    desk = await desks.open(session, [undone.client])
    linked = desk.clients[undone.client]
    if linked.damaged:
        raise Damaged
    linked.version += 1  # above all that was ever decided under one of its keys
    stops = _stops((await sharing.own_histories(session, [linked.id])).whole().get(linked.id, ()))
    held = await holds.take_off(session, linked.id, act.by)
    await _tell_apart(session, undone.parts, act, desk.now)
    await links.undo(session, undone, linked.version, act.by, desk.now)
    desk.changes.holds.update({(part, hold): times for part in undone.parts for hold, times in held})
    withdrawal = desk.stop(linked, Scope(), act.cause, because="unlinked")
    await desks.close(session, desk)
    desk = await desks.open(session, undone.parts)  # which are held by now, if the client of the link was
    for part in desk.clients.values():
        for fact in stops:
            said = desk.say(part, fact, act.cause.event_id or str(id), getattr(fact, "id", None))
            if isinstance(said, Restricted):
                desk.falls_due(part, said.version, "restriction", None, said.until)
        desk.offer_snapshots(part, act.cause.traceparent)
    await _log(session, "unlinked", [linked.id, *undone.parts], id, undone.parts, act, desk)
    return await _closed(session, desk, None, act, id, withdrawal)


def _stops(history: tuple[SharingFact, ...]) -> list[SharingFact]:
    """Of what was said while the link held, what stops sharing: it holds for both, for nobody knows whom it meant."""
    restrictions = not_lifted(history)
    return [
        fact
        for fact in history
        if isinstance(fact, Withdrawn)
        or fact in restrictions
        or (isinstance(fact, Ended) and fact.what != "restriction")
    ]


async def unlink_between(
    session: AsyncSession,
    one: Collection[Identifier],
    other: Collection[Identifier],
    found: Mapping[Identifier, Found],
    act: Act,
) -> Outcome:
    """Undo that two lists of identifiers mean one client: the link between them, or where one client has all of them,
    that it got the numbers of the `other`.

    Args:
        found: whom each of them means.

    Raises:
        Problem: as `_both`; 404, there is none; 409, a later link rests on it.
        TryAgain: another link was made or undone meanwhile.
    """
    rows = [{found[key].own for key in side} for side in (one, other)]
    client, other_client = await _both(session, *rows)
    if client != other_client:
        raise NO_SUCH_LINK
    between = {await _between(session, client, a, b) for a in rows[0] for b in rows[1]}
    if len(between) != 1:
        raise NO_SUCH_LINK
    if (only := between.pop()) is not None:
        return await unlink(session, only.id, act)
    numbers = [key for key in other if key not in one and not key.is_reference]
    if rows[0] != rows[1] or not numbers or await links.link_of(session, *rows[0]) is not None:
        raise NO_SUCH_LINK
    if rows[0] != {client}:
        raise LINKED_FURTHER
    return await _take_off(session, client, numbers, act)


async def _take_off(session: AsyncSession, client: int, numbers: Collection[Identifier], act: Act) -> Outcome:
    """Give these numbers of a client, which is locked, to a new one, and the others to another new one.

    Nobody can tell what of all that was recorded and said is of whom, so it stays behind: as if the two had been linked
    from the beginning, and the link were undone now.
    """
    kept, other = await clients.make(session, 2)
    id, event_id = uuid4(), act.cause.event_id
    now = await time_now(session)
    await links.divide(session, id, client, (kept, other), numbers, act.by, event_id, now)
    return await unlink(session, id, act)


async def _between(session: AsyncSession, client: int, one: int, other: int) -> Link | None:
    """The link that brought two rows of a client together; None when it is one row, or the link's own."""
    while (made := await links.link_of(session, client)) is not None:
        rows = await links.members(session, made.parts)
        of_one, of_other = ([part for part in made.parts if row in rows[part]] for row in (one, other))
        if not of_one or not of_other:
            return None
        if of_one != of_other:
            return made
        client = of_one[0]
    return None


async def _tell_apart(session: AsyncSession, parts: tuple[int, int], act: Act, now: datetime) -> None:
    rows = await links.members(session, parts)
    pairs = [(a, b) for a in rows[parts[0]] for b in rows[parts[1]]]
    await candidates.decide(session, pairs, "different", act.by, now)


# --- what a person decides --------------------------------------------------------------------------------------------


async def confirm(session: AsyncSession, id: UUID, by: str) -> None:
    """A person says that contradicting numbers are one person's: what both permit leaves from now on.

    Args:
        by: who says so.

    Raises:
        Problem: 404, no such link holds; 409, it does not wait to be confirmed.
        TryAgain: another link was made or undone meanwhile.
    """
    confirmed = await _held_link(session, id, also_further=True)
    if not confirmed.conflicting or confirmed.confirmed:
        raise NOTHING_TO_CONFIRM
    await links.confirm(session, confirmed, by, await time_now(session))
    client = (await links.whom(session, [confirmed.client]))[confirmed.client].client
    desk = await desks.open(session, [client])
    desk.offer_snapshots(desk.clients[client], None)
    await desks.close(session, desk)


async def _held_link(session: AsyncSession, id: UUID, *, also_further: bool = False) -> Link:
    """A link that holds, with all its rows locked."""
    known = await links.link(session, id)
    if known is None or known.undone:
        raise NO_SUCH_LINK
    found = await clients.lock_whole(session, [known.client])
    known = await links.link(session, id)  # it may have been undone or confirmed while we waited
    if known is None or known.undone or await clients.erased_of(session, [known.client]):
        raise NO_SUCH_LINK
    if found[known.client].client != known.client and not also_further:
        raise LINKED_FURTHER
    return known


async def decide_candidate(session: AsyncSession, pair: Any, decision: str, act: Act) -> Outcome | None:
    """Enter what a person decided of two clients that may be one person; the same are linked.

    Args:
        pair: of `repository.candidates.pair`.

    Raises:
        Problem: as `_both`.
        TryAgain: another link was made or undone meanwhile.
    """
    outcome, rows = None, (pair.one, pair.other)
    if decision == "same":
        outcome = await link(session, [pair.one], [pair.other], act)
    else:
        await _both(session, [pair.one], [pair.other])
        await _log_told_apart(session, pair.id, rows, act)
    await candidates.decide(session, [rows], decision, act.by, await time_now(session))
    return outcome


async def _log_told_apart(session: AsyncSession, id: UUID, rows: Collection[int], act: Act) -> None:
    """Enter it in the ledger of both, under the candidate's id: by that the reason is redacted with either.

    As of no agency's records: who knows only one of the two would learn that there is another.
    """
    desk = await desks.open(session, [])
    desk.changes.entries = [
        new_entry(
            kind="combination",
            decision=id,
            client=row,
            key=None,
            type="told-apart",
            at=desk.now,
            sources=[],
            more={"what": "told-apart", "by": act.by, "reason": act.reason},
        )
        for row in rows
    ]
    await desks.close(session, desk)


async def _log(
    session: AsyncSession, what: str, rows: Sequence[int], link: UUID, parts: tuple[int, int], act: Act, desk: Desk
) -> None:
    """Enter in the ledger that records were combined or parted: Data Protection Act 2018 s.62(1)(e). Which were, is
    sealed with it.

    Under the first of the rows, the client of the link, alone. That is shown with both, and redacted with either.
    """
    known = (await sharing.known(session, rows)).whole()
    sections = (await recorded.sections(session, known)).whole()
    desk.changes.entries.append(
        new_entry(
            kind="combination",
            decision=uuid4(),
            client=rows[0],
            key=None,
            type=f"throughgate.identity.{what}.v1",
            at=desk.now,
            sources=sorted({s["source"] for some in sections.values() for s in some}),
            more={"what": what, "link": str(link), "parts": list(parts), "by": act.by, "reason": act.reason},
        )
    )


async def _closed(
    session: AsyncSession, desk: Desk, client: int | None, act: Act, link: UUID | None, withdrawal: UUID | None
) -> Outcome:
    reference = None
    if client is not None and act.cause.agency is not None:
        reference = desk.reference(desk.clients[client], act.cause.agency, queued=False).id
    await desks.close(session, desk)
    return Outcome(link, reference, withdrawal)


# --- what looks like one person ---------------------------------------------------------------------------------------


def likeness(identity: Mapping[str, Any]) -> bytes | None:
    """A digest of family name, given name and date of birth, without case, accents and signs; None without all three.

    Args:
        identity: the fields of `contracts.facts.Identity` as JSON.
    """
    names = [_letters(identity.get(name) or "") for name in ("familyName", "givenName")]
    born = identity.get("dateOfBirth")
    if not all(names) or not born:
        return None
    return hashlib.sha256("\0".join([*names, str(born)]).encode()).digest()[:16]


def _letters(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", name).casefold() if c.isalpha())
