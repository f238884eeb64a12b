"""Answers over HTTP: may I share, what may be seen, who was told. Each is in the ledger before it is given."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Agency, ClientFacts, Decision, Item, Question, decide, is_excluded
from consent.repository import agreements, clients, ledger, links, parties, recorded, retractions, sharing
from consent.repository.clients import Identifier
from consent.repository.ledger import Entry
from consent.repository.queue import NOBODY
from consent.repository.sharing import SharingState
from consent.service import register
from consent.service.ledger import enter, new_entry
from consent.service.register import Register
from consent.service.sections import cut, spent_convictions
from consent.service.telling import (
    asked,
    explain,
    obligations,
    permitted,
    question_of,
    receipt,
    to_recipient,
    to_source,
    withheld,
)
from contracts.merkle import write
from contracts.vocabulary import AgencyKind, Category, Purpose
from servicekit.db import TryAgain
from servicekit.problems import Problem
from servicekit.sql import time_now

NO_SUCH_RECIPIENT = Problem(
    "no-such-recipient",
    "There is no such recipient",
    "Use the id of an agency that is registered with the door.",
    422,
)
ASK_FOR_OTHERS = Problem(
    "ask-for-others",
    "You ask whether you may tell yourself",
    "Name another recipient. What your own agency may see, it sees with POST /views.",
    422,
)
NO_SUCH_CLIENT = Problem(
    "no-such-client", "There is no such client", "Use the client reference from the answer to your event.", 404
)


@dataclass(slots=True)
class Answer:
    """What was decided for one client that the asker named."""

    client: UUID
    decision: UUID = field(default_factory=uuid4)
    told: dict[str, Any] | None = None
    """What the asker is answered; None when it knows no such client, or the client was erased: intake answers as if
    there were none, too.
    """


class _Met(NamedTuple):
    """A client whom the asker knows, before it is decided."""

    answer: Answer
    client: SharingState
    sections: list[dict[str, Any]]
    was_sent: bool
    """Whether a record of the client was sent to the asker."""


async def may_share(
    session: AsyncSession,
    asker: str,
    references: Sequence[UUID],
    recipient: str,
    purpose: Purpose,
    categories: Collection[Category],
    service: str | None,
    practitioner: str | None,
) -> tuple[list[Answer], datetime]:
    """Whether the asker may tell a recipient what it recorded itself of these clients, one answer each. Nothing leaves
    by it.

    Each answer's `told` holds what is permitted and withheld, and why, as far as the asker may know. It holds the
    client's version only where something is permitted: an agency that recorded a number at a guess would learn from the
    version that others know the person.

    Args:
        practitioner: who asks, by the asker's own id; one whom the client excludes is answered as if there were no such
            client, and the attempt is entered.

    Raises:
        Problem: 422, there is no such recipient, or it is the asker.
    """
    if recipient == asker:
        raise ASK_FOR_OTHERS
    registered = await register.load(session)
    to = _recipient(registered, recipient)
    found = await _find(session, asker, references)
    await clients.hold_still(session, set(found.values()))  # an erasure comes wholly before or after
    spent_matters = Category.OFFENCE in categories
    answers, met, now = await _meet(session, asker, references, found, with_sections=spent_matters)
    items = tuple(Item(asker, category) for category in sorted(categories))
    entries: list[Entry] = []
    for answer, client, sections, was_sent in met:
        own = [s for s in sections if s["source"] == asker]
        question = Question(to, purpose, items, now, service, spent=spent_convictions(own))
        decision = decide(question, client.facts, registered.policy)
        knows = bool(decision.permits) or was_sent
        if _is_kept_away(client, asker, practitioner, now, knows=knows):
            entries.append(_attempt("consultation", answer, client, asker, practitioner, now))
            continue
        alone = decide(question, client.facts.as_said_by(asker), registered.policy)
        answer.told = {
            "decidedOn": client.facts.version if decision.permits else None,
            "permitted": [permitted(p) for p in decision.permits],
            "withheld": to_source(withheld(decision), alone, knows=knows),
            "obligations": obligations(decision),
        }
        entries.append(_entry("consultation", answer, client, question, decision, asker))
    await enter(session, entries)
    return answers, now


async def view(
    session: AsyncSession,
    viewer: str,
    references: Sequence[UUID],
    practitioner: str | None,
    purpose: Purpose,
    categories: Collection[Category],
    of_service: str | None = None,
) -> list[Answer]:
    """What a viewer may see of clients now, one answer each. Its `told` holds sections and receipt.

    Until the viewer was sent a record, or is permitted something, the receipt does not say that others know the client.
    A practitioner whom the client excludes is answered as if there were no such client, and the attempt is entered.

    The clients' rows and the register are locked until the decisions are in the ledger, so a withdrawal or a suspension
    comes wholly before or after.

    Args:
        practitioner: who looks, by the viewer's own id; None when a program asks, for nobody knows whom.
        of_service: whose references these are, where one of our services named the clients to the viewer. A client of
            whom the viewer has no reference of its own counts as unknown.

    Raises:
        Problem: 422, the viewer is no agency.
        TryAgain: a client was linked meanwhile.
    """
    found = await _find(session, viewer, references, of_service)
    await clients.hold_still(session, set(found.values()))
    if await _find(session, viewer, references, of_service) != found:
        raise TryAgain  # a link was made or undone while we waited
    await agreements.hold_still(session)
    registered = await register.load(session)
    to = _recipient(registered, viewer)
    answers, met, now = await _meet(session, viewer, references, found, with_sections=True)
    entries: list[Entry] = []
    told_of: list[SharingState] = []
    for answer, client, sections, was_sent in met:
        if _is_kept_away(client, viewer, practitioner, now, knows=was_sent):
            entries.append(_attempt("view", answer, client, viewer, practitioner, now))
            continue
        seen = [s for s in sections if s["source"] != viewer and Category(s["category"]) in categories]
        items = tuple(Item(s["source"], Category(s["category"])) for s in seen)
        question = Question(to, purpose, items, now, practitioner=practitioner, spent=spent_convictions(seen))
        decision = decide(question, client.facts, registered.policy)
        shown = (decision, client.facts.version) if decision.permits or was_sent else (Decision(), 0)
        answer.told = {
            "client": str(answer.client),
            "purpose": purpose.value,
            "sections": cut(seen, decision),
            "receipt": receipt(explain(*shown), purpose.value, answer.decision, now.isoformat()),
        }
        entries.append(_entry("view", answer, client, question, decision, practitioner))
        if decision.permits:
            told_of.append(client)
    await retractions.owe(session, told_of, viewer)
    await enter(session, entries)
    return answers


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a client's ledger as the asker may know it."""

    row: Any
    """Of `repository.ledger.of_client`."""
    explanation: dict[str, Any]
    """Empty where nobody can read it."""
    details: dict[str, Any]
    """What else it says, for the client's own answer and for the agency that caused it, such as whom an override
    reaches."""


PAGE = 500
"""Entries that are read at once."""


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger says of one client, as far as the asker may know it."""

    lines: list[Line]
    """Newest first."""
    names: dict[str, str]
    """The agencies' by their ids."""
    is_whole: bool
    """Whether it is all that there is: the client's own answer."""


async def who_was_told(
    session: AsyncSession,
    asker: str | None,
    reference: UUID,
    *,
    whole: bool,
    by: str,
    practitioner: str | None,
    limit: int | None = None,
    before: int | None = None,
) -> History | None:
    """The ledger of one client. All of it is for the operator, and for an agency of the responsible authority that
    recorded something of the client; another agency that asks for all gets what it may know.

    What was told of the client while it was linked with another is among it when that link was undone. Of a client of
    whom everything was erased that is left which says so.

    That it was read is entered in it, too, but of a client of whom everything was erased; and that a practitioner tried
    to whom it is not shown.

    Args:
        asker: an agency; None: the operator, to whom every reference is known.
        whole: whether all of it is asked for.
        by: which of the asker's people or programs reads it, for the ledger.
        practitioner: who asks, by the agency's own id.
        limit: None for no limit.

    Returns:
        None for a practitioner whom the client excludes: the caller commits, and answers as if it knew no such client.

    Raises:
        Problem: 404, the asker knows no such client.
        TryAgain: everything was erased meanwhile.
    """
    agency = asker or await clients.recipient_of(session, reference) or ""
    found = await _find(session, agency, [reference])
    known = (await sharing.known(session, found.values())).found  # what was told is shown, whatever cannot be read
    if not known:
        raise NO_SUCH_CLIENT
    client = known[found[reference]]
    read: dict[str, Any] = {"client": str(reference), "by": by}
    if asker is not None and practitioner is not None:  # the operator is of no agency, and a program is nobody
        knows = bool(await clients.sent_to(session, client.members, [agency]))
        if _is_kept_away(client, asker, practitioner, await time_now(session), knows=knows):
            await _enter_reading(session, "attempt", client.id, asker, read | {"what": "reading"})
            return None
    told = await _history(session, asker, agency, client, whole=whole, limit=limit, before=before)
    if client.key is not None:
        read |= {"whole": told.is_whole, "entries": len(told.lines), "before": before}
        await _enter_reading(session, "reading", client.id, asker, read)
    return told


def _is_kept_away(client: SharingState, agency: str, practitioner: str | None, at: datetime, *, knows: bool) -> bool:
    """Whether who asks is answered as if there were no such client. An agency that recorded a number at a guess would
    learn from another's exclusion that others know the person: until it `knows` the client, only its own counts.
    """
    return is_excluded(client.facts if knows else client.facts.as_said_by(agency), agency, practitioner, at)


async def _history(
    session: AsyncSession,
    asker: str | None,
    agency: str,
    client: SharingState,
    *,
    whole: bool,
    limit: int | None,
    before: int | None,
) -> History:
    linked = [] if client.key is None else await links.undone_of(session, client.members)
    names = await parties.names(session)
    if whole and (asker is None or await ledger.answers_for(session, client.id)):
        rows = await ledger.of_client(session, client.members, linked, None, limit, before)
        return History([Line(row, explanation := _opened(row), _details(explanation)) for row in rows], names, True)
    asks = _Asker(
        agency,
        client.facts.as_said_by(agency),
        await register.load(session),
        bool(await clients.sent_to(session, [*client.members, *linked], [agency])),
    )
    lines: list[Line] = []
    some = None if limit is None else max(limit, PAGE)  # of which the asker may see few
    while True:
        rows = await ledger.of_client(session, client.members, linked, agency, some, before)
        lines += [line for row in rows if (line := asks.line(row)) is not None]
        if limit is None or some is None or len(rows) < some or len(lines) >= limit:
            return History(lines[:limit], names, False)
        before = rows[-1].id


async def _enter_reading(
    session: AsyncSession, kind: str, client: int, asker: str | None, read: Mapping[str, Any]
) -> None:
    """Enter that a client's ledger was read, or was to be. The client is locked for no longer than that: it may be a
    long one.

    Raises:
        TryAgain: everything was erased meanwhile.
    """
    await clients.hold_still(session, [client])
    entry = _own_entry(kind, client, None, asker, await time_now(session), read)
    (entry,) = await ledger.with_keys(session, [entry])
    if entry.key is None:
        raise TryAgain
    await enter(session, [entry])


def _attempt(
    what: str, answer: Answer, client: SharingState, agency: str, practitioner: str | None, at: datetime
) -> Entry:
    said = {"client": str(answer.client), "by": practitioner, "what": what}
    return _own_entry("attempt", client.id, client.key, agency, at, said)


def _own_entry(
    kind: str, client: int, key: bytes | None, asker: str | None, at: datetime, said: Mapping[str, Any]
) -> Entry:
    """An entry of what somebody did about whom nothing was decided."""
    named: dict[str, Any] = {"decision": uuid4(), "client": client, "key": key, "recipient": asker, "type": kind}
    return new_entry(kind=kind, at=at, sources=[], more=said, **named)


_SHOWN_ELSEWHERE = frozenset(
    [
        *("kind", "decision", "decidedAt", "decidedOn", "recipient", "purpose", "type", "client"),
        *("permitted", "withheld", "asked", "row", "queue", "sources", "closed", "parts"),
    ]
)


def _opened(row: Any) -> dict[str, Any]:
    """The explanation of an entry; empty where nobody can read it."""
    try:
        opened = ledger.open(row)
    except ledger.Unreadable:  # it is said to be; `throughgate verify` finds it
        return {}
    return {} if opened is None else opened.explanation


def _details(explanation: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in explanation.items() if name not in _SHOWN_ELSEWHERE}


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who reads a client's ledger without answering for everybody."""

    agency: str
    said: ClientFacts
    """What it said of the client itself."""
    registered: Register
    knows: bool
    """Whether it was sent a record of the client."""

    def line(self, row: Any) -> Line | None:
        """The entry as the agency may know it. Where it was the recipient: what it was told and refused; else what
        became of its own items. None where it may know nothing of it: until it was sent a record, that is every entry
        that says only what others know.
        """
        explanation = _opened(row)
        is_own = self.agency in (row.recipient, explanation.get("by"))
        shown = explanation | self._items(explanation, row) if explanation else {}
        line = Line(row, shown, _details(explanation) if is_own else {})
        if self.knows or line.explanation.get("permitted"):
            return line
        if row.kind in ("view", "reading", "attempt", "disclosure", "combination"):
            return line if is_own else None
        return line if row.recipient != self.agency or line.explanation.get("withheld") else None

    def _items(self, explanation: dict[str, Any], row: Any) -> dict[str, Any]:
        """What was permitted and withheld."""
        if row.kind not in ledger.DECISIONS:
            return {}
        own = [one for one in explanation["withheld"] if one["source"] == self.agency]
        if row.recipient == self.agency:
            knows = self.knows or explanation["permitted"]
            return {"withheld": to_recipient(explanation["withheld"] if knows else own)}
        by_then = ClientFacts(tuple(fact for fact in self.said.history if fact.version <= explanation["decidedOn"]))
        question = question_of(explanation, self.registered.agencies[row.recipient], row.decided_at)
        alone = decide(question, by_then, self.registered.policy)
        permits = [one for one in explanation["permitted"] if one["source"] == self.agency]
        return {"permitted": permits, "withheld": to_source(own, alone, knows=self.knows or bool(permits))}


async def _meet(
    session: AsyncSession, asker: str, references: Collection[UUID], found: Mapping[UUID, int], *, with_sections: bool
) -> tuple[list[Answer], list[_Met], datetime]:
    """The answers to be given, one a reference, in order; those of the clients who can be decided; and the time of it.
    The caller holds the clients still.
    """
    known, sections = await _facts(session, found.values(), with_sections=with_sections)
    sent = await _sent(session, asker, known.values())
    answers = [Answer(reference) for reference in dict.fromkeys(references)]
    met = [
        _Met(answer, client, sections.get(id, []), client.id in sent)
        for answer in answers
        if (client := known.get(id := found.get(answer.client, NOBODY))) is not None
    ]
    return answers, met, await time_now(session)


async def _sent(session: AsyncSession, agency: str, known: Collection[SharingState]) -> set[int]:
    """The clients of whom, or of a part of whom, a record was sent to an agency."""
    members = {row for client in known for row in client.members}
    rows = {row for row, _ in await clients.sent_to(session, members, [agency])}
    return {client.id for client in known if not rows.isdisjoint(client.members)}


async def _find(
    session: AsyncSession, asker: str, references: Collection[UUID], of_service: str | None = None
) -> dict[UUID, int]:
    own = {reference: reference for reference in references}
    if of_service is not None:
        own = await clients.own_references(session, references, of_service)
    keys = {reference: Identifier.reference(asker, mine) for reference, mine in own.items()}
    found = await clients.resolve(session, set(keys.values()))
    return {reference: found[key] for reference, key in keys.items() if key in found}


async def _facts(
    session: AsyncSession, found: Collection[int], *, with_sections: bool
) -> tuple[dict[int, SharingState], dict[int, list[dict[str, Any]]]]:
    """What is known of the clients that were found, but for those who were erased: they count as unknown."""
    ids = set(found)
    known, sections, _ = await recorded.facts_of(session, ids, ids if with_sections else ())
    return {id: client for id, client in known.items() if client.key is not None}, sections


def _recipient(registered: Register, id: str) -> Agency:
    found = registered.agencies.get(id)
    if found is None or found.kind is AgencyKind.SERVICE:
        raise NO_SUCH_RECIPIENT
    return found


def _entry(
    kind: str, answer: Answer, client: SharingState, question: Question, decision: Decision, by: str | None
) -> Entry:
    grounds = explain(decision, client.facts.version)
    # The random id keeps the hash that an erasure leaves of what was told from being guessed, as that of an event does.
    told = write({"id": str(uuid4()), **(answer.told or {})})
    return new_entry(
        kind=kind,
        decision=answer.decision,
        client=client.id,
        key=client.key,
        recipient=question.recipient.id,
        purpose=question.purpose.value,
        type=kind,
        at=question.at,
        sources=sorted({item.source for item in question.items}),
        more={"client": str(answer.client), "by": by, **grounds, **asked(question)},
        told=told,
    )
