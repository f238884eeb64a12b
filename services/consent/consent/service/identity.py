"""The same person under several numbers (C10): linking two clients, undoing it, and what looks like one person.

A link makes a new client of the two, which has the strictest of their consents: whatever leaves must be permitted for
each of them. Both of these may turn a permit into a deny, so both retract, under every key that the clients had.
"""

import hashlib
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import (
    Agency,
    Decision,
    Ended,
    Granted,
    Item,
    Policy,
    Question,
    Restricted,
    Scope,
    SharingFact,
    Withdrawn,
    acts_for,
    decide,
)
from consent.repository import candidates, clients, links, sharing
from consent.repository.clients import Client, Reference
from consent.repository.links import Found, Link
from consent.service import register
from consent.service.cases import Damaged
from consent.service.closing import close
from consent.service.desk import BY_THE_DOOR, Cause, Desk, Owed
from consent.service.ledger import new_entry
from consent.service.sections import spent_convictions
from contracts.vocabulary import AgencyKind, Category, Purpose
from servicekit.problems import Problem

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
        Problem: 409, one side names several clients, or it was decided that these are different people; `Damaged`,
            what is kept of one of them cannot be read.
        TryAgain: another link was made or undone meanwhile.
    """
    found = await clients.lock_whole(session, {*one, *other})
    first, second = _single(found, one), _single(found, other)
    now = await clients.time_now(session)
    registered = await register.load(session)
    if first == second:
        desk = Desk(await clients.load(session, [first], []), registered, now)
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
    made = await links.enter(session, id, parts, version, conflicting, act.by, act.cause.event_id, now)
    desk = Desk(await clients.load(session, [made], [made]), registered, now)
    client = desk.clients[made]
    owed = list(_owed(before.values(), client, desk))
    withdrawal = None
    if owed or act.cause.agency is not None:
        withdrawal = desk.retract(client, owed, act.cause, because="linked")
    desk.offer_snapshots(client, now, act.cause.traceparent)
    await _log(session, "linked", [made], id, act, desk)
    return await _closed(session, desk, made, act, id, withdrawal)


def _single(found: Mapping[int, Found], rows: Collection[int]) -> int:
    means = {client for row in rows for client in found[row].may_mean}
    if len(means) != 1:
        raise NOT_ONE_CLIENT
    return means.pop()


def _owed(before: Collection[Client], client: Client, desk: Desk) -> Iterator[Owed]:
    """Under each key that the parts had: what the recipient must erase, now that they are one client.

    Under a key that does not go on, everything. Under one that goes on, the purposes for which the part alone permitted
    something that the linked client does not; and our services are told to whom they may say no more.
    """
    went_on = {r.id: part for part in before for r in part.references.values()}
    lost: dict[UUID, set[Purpose]] = {}
    for reference in client.references.values():
        if reference.queued:
            recipient = desk.register.agencies[reference.recipient]
            lost[reference.id] = set(_lost(recipient, went_on[reference.id], client, desk))
    for reference in client.former:
        purposes = [p for p in Purpose if acts_for(desk.register.agencies[reference.recipient], p)]
        if reference.queued and purposes:
            yield Owed(reference, purposes)
    partners: dict[Purpose, set[str]] = {}
    for reference in client.references.values():
        for purpose in lost.get(reference.id, ()):
            partners.setdefault(purpose, set()).add(reference.recipient)
    for reference in client.references.values():
        if reference.queued:
            yield from _owed_under(reference, lost[reference.id], partners, desk)


def _owed_under(
    reference: Reference, lost: Collection[Purpose], partners: Mapping[Purpose, Collection[str]], desk: Desk
) -> Iterator[Owed]:
    if lost:
        yield Owed(reference, sorted(lost))
        return
    recipient = desk.register.agencies[reference.recipient]
    if recipient.kind is AgencyKind.SERVICE:
        for purpose, others in partners.items():
            if acts_for(recipient, purpose):
                yield Owed(reference, [purpose], recipients=frozenset(others))


def _lost(recipient: Agency, part: Client, client: Client, desk: Desk) -> Iterator[Purpose]:
    """The purposes for which the part permitted something that the linked client does not, or without an obligation.

    It asks about all that may have left: every category of every agency that knows the client, and every service of
    the recipient that a consent names.
    """
    sources = {source for source, _ in part.sections} | part.references.keys()
    sources -= {recipient.id} | {a.id for a in desk.register.agencies.values() if a.kind is AgencyKind.SERVICE}
    items = tuple(Item(source, category) for source in sorted(sources) for category in Category)
    named = {s for f in part.facts.said if isinstance(f, Granted) for agency, s in f.services if agency == recipient.id}
    for purpose in Purpose:
        if acts_for(recipient, purpose):
            for service in (None, *sorted(named)):
                asked = recipient, purpose, items, service, desk
                was = _decided(part, desk.register.lenient, *asked)
                now = _decided(client, desk.register.policy, *asked)
                bound = set(now.obligations) - set(was.obligations)
                if was.permitted - now.permitted or (was.permitted and bound):
                    yield purpose
                    break


def _decided(
    client: Client,
    policy: Policy,
    recipient: Agency,
    purpose: Purpose,
    items: tuple[Item, ...],
    service: str | None,
    desk: Desk,
) -> Decision:
    spent = {i.source: None for i in items} | spent_convictions(client.sections.values())  # as in `service.clock`
    question = Question(recipient, purpose, items, desk.now, service, spent=spent)
    return decide(question, client.facts, policy)


# --- undoing ----------------------------------------------------------------------------------------------------------


async def unlink(session: AsyncSession, id: UUID, act: Act) -> Outcome:
    """Undo a link. What was recorded and said while it held stays behind with it; what stopped, stops both.

    Raises:
        Problem: 404, no such link holds; 409, a later one rests on it; `Damaged`, what is kept of the client cannot be
            read, and it may be what stops both.
        TryAgain: another link was made or undone meanwhile.
    """
    undone = await _held_link(session, id)
    now = await clients.time_now(session)
    registered = await register.load(session)
    linked = (await clients.load(session, [undone.client], [undone.client]))[undone.client]
    if linked.damaged:
        raise Damaged
    version = linked.version + 1  # above all that was ever decided under one of its keys
    stops = _stops((await sharing.own_histories(session, [linked.id])).get(linked.id, ()))
    holds = await links.take_holds(session, linked.id, act.by)
    await _tell_apart(session, undone.parts, act, now)
    await links.undo(session, undone, version, act.by, now)
    parts = await clients.load(session, undone.parts, undone.parts)
    desk = Desk({linked.id: linked, **parts}, registered, now)
    linked.version = version
    for part in parts.values():
        for fact in stops:
            said = desk.say(part, fact, act.cause.event_id or str(id), getattr(fact, "id", None))
            if isinstance(said, Restricted):
                desk.falls_due(part, said.version, "restriction", said.until)
        desk.changes.holds.update({(part.id, agency, reason): times for reason, agency, times in holds})
    withdrawal = desk.stop(linked, Scope(), act.cause, because="unlinked")
    # read again with what was just written, so that the snapshots are offered on the facts as they are now
    await desk.changes.write(session)
    desk = Desk(await clients.load(session, undone.parts, undone.parts), registered, now)
    for part in desk.clients.values():
        desk.offer_snapshots(part, now, act.cause.traceparent)
    await _log(session, "unlinked", [linked.id, *undone.parts], id, act, desk)
    return await _closed(session, desk, None, act, id, withdrawal)


def _stops(history: tuple[SharingFact, ...]) -> list[SharingFact]:
    """Of what was said while the link held, what stops sharing: it holds for both, for nobody knows whom it meant."""
    lifted = {(f.asserted_by, f.id): f.version for f in history if isinstance(f, Ended) and f.what == "restriction"}
    return [
        fact
        for fact in history
        if isinstance(fact, Withdrawn)
        or (isinstance(fact, Restricted) and lifted.get((fact.asserted_by, fact.id), 0) < fact.version)
        or (isinstance(fact, Ended) and fact.what != "restriction")
    ]


async def unlink_between(session: AsyncSession, one: Collection[int], other: Collection[int], act: Act) -> Outcome:
    """Undo the link that makes one client of these two, each given by the rows that its identifiers belong to.

    Raises:
        Problem: 404, there is none; 409, one side names several clients, or a later link rests on it.
        TryAgain: another link was made or undone meanwhile.
    """
    found = await clients.lock_whole(session, {*one, *other})
    if (client := _single(found, one)) != _single(found, other):
        raise NO_SUCH_LINK
    between = {await _between(session, client, a, b) for a in one for b in other}
    if len(between) != 1 or (only := between.pop()) is None:
        raise NO_SUCH_LINK
    return await unlink(session, only.id, act)


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


async def confirm(session: AsyncSession, id: UUID, act: Act) -> None:
    """A person says that contradicting numbers are one person's: what both permit leaves from now on.

    Raises:
        Problem: 404, no such link holds; 409, it does not wait to be confirmed.
        TryAgain: another link was made or undone meanwhile.
    """
    confirmed = await _held_link(session, id, also_further=True)
    if not confirmed.conflicting or confirmed.confirmed:
        raise NOTHING_TO_CONFIRM
    now = await clients.time_now(session)
    await links.confirm(session, confirmed, act.by, now)
    client = (await links.whom(session, [confirmed.client]))[confirmed.client].client
    desk = Desk(await clients.load(session, [client], [client]), await register.load(session), now)
    desk.offer_snapshots(desk.clients[client], now, act.cause.traceparent)
    await _closed(session, desk, client, act, id, None)


async def _held_link(session: AsyncSession, id: UUID, *, also_further: bool = False) -> Link:
    """A link that holds, with all its rows locked."""
    known = await links.link(session, id)
    if known is None or known.undone:
        raise NO_SUCH_LINK
    found = await clients.lock_whole(session, [known.client])
    known = await links.link(session, id)  # it may have been undone or confirmed while we waited
    if known is None or known.undone:
        raise NO_SUCH_LINK
    if found[known.client].client != known.client and not also_further:
        raise LINKED_FURTHER
    return known


async def decide_candidate(session: AsyncSession, one: int, other: int, decision: str, act: Act) -> Outcome | None:
    """Enter what a person decided of two clients that may be one person; the same are linked.

    Raises:
        Problem: 409, one of them is no client any more.
    """
    outcome = await link(session, [one], [other], act) if decision == "same" else None  # the clients' locks come first
    await candidates.decide(session, [(one, other)], decision, act.by, await clients.time_now(session))
    return outcome


async def _log(session: AsyncSession, what: str, rows: Collection[int], link: UUID, act: Act, desk: Desk) -> None:
    """Enter in the ledger that records were combined or parted: Data Protection Act 2018 s.62(1)(e)."""
    known = await sharing.known(session, rows)
    sections = await clients.sections(session, known)
    for row in rows:
        desk.changes.entries.append(
            new_entry(
                kind="combination",
                decision=uuid4(),
                client=row,
                key=None,
                type=f"throughgate.identity.{what}.v1",
                at=desk.now,
                sources=sorted({s["source"] for s in sections[row]}),
                more={"what": what, "link": str(link), "by": act.by, "reason": act.reason},
            )
        )


async def _closed(
    session: AsyncSession, desk: Desk, client: int | None, act: Act, link: UUID | None, withdrawal: UUID | None
) -> Outcome:
    reference = None
    if client is not None and act.cause.agency is not None:
        reference = desk.reference(desk.clients[client], act.cause.agency, queued=False).id
    await close(session, desk)
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
