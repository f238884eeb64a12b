"""Taking in what case systems publish: a batch is read, its clients are found and locked, each event has its effect.

The order matters: look up the ids, find the clients, lock their rows, find them again (a link may have changed while we
waited), and only then read facts and time. Reading them together with the lock would give the facts of before the lock.
The ids are entered last, with the answers; whoever finds that another transaction was first begins anew.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import RESPONSIBLE, Agency, may_assert
from consent.events import ANSWER_PASSED_AS, PASSED_ON, STOPPING_TYPES, IntakeEvent
from consent.repository import answers, aside, clients, erasure, ledger, links, queue, sharing
from consent.repository.clients import Client, IdentifierKey
from consent.repository.links import Found
from consent.service import erasing, holds, identity, reading, register, saying
from consent.service.desk import Desk
from consent.service.ledger import enter
from consent.service.reading import Arrival
from contracts.intake import (
    ClientRecorded,
    ConsentGranted,
    ErasureRequested,
    GatewayInvoked,
    IdentityLinked,
    IdentityUnlinked,
    OfferAnswered,
    ReferralAnswered,
    RetractionConfirmed,
)
from contracts.vocabulary import SERVICE_PURPOSES, Category
from servicekit.db import TryAgain, wake_after_commit
from servicekit.problems import Problem
from servicekit.telemetry import Step, follow

log = logging.getLogger(__name__)

THE_DOOR = "throughgate"
"""Who says what no agency said."""

UNKNOWN_CLIENT = Problem(
    "unknown-client",
    "Your agency has no client with these identifiers",
    "Publish throughgate.client.recorded.v1 with all of them first, then send a new event with a new id. What stops"
    " sharing counts already: nothing leaves for whoever has one of them, or gets it, until operations have looked.",
    404,
)
"""There is no such client, or the publisher does not know it: nobody learns by an answer which of the two it is."""
CONFLICT = Problem(
    "identifier-conflict",
    "The identifiers belong to different clients",
    "Check each identifier against its source. If they are one person, ask operations to link them; nothing was"
    " changed.",
    409,
)
ID_USED_AGAIN = Problem(
    "id-used-again",
    "This event id was used for other content",
    "Send the event with an id that your system has never used; the earlier event keeps its effect.",
    409,
)
NOT_REGISTERED = Problem(
    "agency-not-registered",
    "Your agency is not registered with the door",
    "Ask the operator of this system to register your agency, then send a new event with a new id.",
    403,
)
NOT_YOURS_TO_SAY = Problem(
    "not-yours-to-say",
    "An agency of your kind may not say this",
    "docs/reference/who-may-say-what.md lists which kind of agency may assert what; ask one that may to publish it.",
    403,
)


@dataclass(slots=True)
class Case:
    """One event of a batch on its way to its answer."""

    arrival: Arrival
    event_id: str | None
    event: IntakeEvent | None = None
    problem: Problem | None = None
    keys: list[IdentifierKey] = field(default_factory=list)
    """Whom the event is about; for a stopping event that cannot be applied, whom it may mean."""
    names_more: bool = False
    """Whether such an event names still more."""
    client: int | None = None
    rows: frozenset[int] = frozenset()
    """The rows of the client that its identifiers belong to: some of the parts, where clients are linked."""
    is_first: bool = False
    """Whether its id was never taken in before, so that its answer is to be kept."""
    answer: bytes | None = None
    step: Step | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Agency and event id, under which the answer is kept."""
        return self.arrival.agency, self.event_id or ""

    @property
    def stops(self) -> bool:
        """Whether it was to stop sharing but cannot be applied, so that it must deny all the same."""
        return self.problem is not None and reading.is_stopping(self.arrival.value)

    @property
    def changes_sharing(self) -> bool:
        """Whether what was said about sharing, and what is recorded, of the client is needed."""
        return self.stops or isinstance(self.event, saying.Saying | ErasureRequested)

    @property
    def traceparent(self) -> str | None:
        """What the next steps of this event's way follow."""
        return self.step.traceparent if self.step else None

    def reject(self, problem: Problem) -> None:
        """It has no effect; if it was to stop sharing, it denies for everyone whom it may mean."""
        self.problem = problem
        if self.stops:
            self.keys, self.names_more = reading.meant_by(self.arrival.value, self.arrival.agency, self.keys)


async def take_in(session: AsyncSession, arrivals: Sequence[Arrival]) -> list[bytes]:
    """Give every event its effect, once, and its answer: the stored reply, in the order of `arrivals`.

    Raises:
        TryAgain: another transaction linked one of the identifiers, or took in one of the events, meanwhile.
    """
    cases = [_read(arrival) for arrival in arrivals]
    try:
        return [answer for run in _runs(cases) for answer in await _take_run(session, run)]
    finally:
        for case in cases:
            if case.step:
                case.step.end()


def _runs(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """The batch in order, cut around what links, unlinks and erases: the events behind it are about other clients."""
    run: list[Case] = []
    for case in cases:
        if isinstance(case.event, IdentityLinked | IdentityUnlinked | ErasureRequested):
            if run:
                yield run
            yield [case]
            run = []
        else:
            run.append(case)
    if run:
        yield run


async def _take_run(session: AsyncSession, cases: Sequence[Case]) -> list[bytes]:
    repeats = await _recognise(session, cases)
    open_cases = [case for case in cases if case.answer is None and id(case) not in repeats]
    if open_cases and isinstance(open_cases[0].event, IdentityLinked | IdentityUnlinked):
        await _identify(session, open_cases[0], open_cases[0].event)
    else:
        desk = await _open_desk(session, open_cases)
        forms = await sharing.forms_seen(session, _forms(open_cases))
        for case in open_cases:
            _apply(case, desk, forms)
        if not await clients.write(session, desk.changes):
            raise TryAgain
        if desk.changes.entries:
            await enter(session, await ledger.with_keys(session, desk.changes.entries))
        await clients.acknowledge_retractions(session, _confirmed(open_cases, desk))
        for pending in desk.erasures:
            await erasing.carry_out(session, pending, desk)
        if desk.changes.queue:
            wake_after_commit(session, queue.CHANNEL)
    if not await answers.keep(session, [(*c.key, c.arrival.digest, c.answer) for c in cases if c.is_first]):
        raise TryAgain
    return [_answer_of(case, repeats) for case in cases]


async def _identify(session: AsyncSession, case: Case, event: IdentityLinked | IdentityUnlinked) -> None:
    """Give an event that links or unlinks its effect and its answer."""
    agency = case.arrival.agency
    linking = isinstance(event, IdentityLinked)
    others = event.data.same_as if isinstance(event, IdentityLinked) else event.data.not_same_as
    keys = case.keys, reading.keys_for(others, agency)
    try:
        if case.problem is not None:
            raise case.problem
        if problem := _may_not(case, (await register.load(session)).agencies.get(agency)):
            raise problem
        found = await clients.find(session, {*keys[0], *keys[1]})
        one, other = ({found[key].own for key in some if key in found} for some in keys)
        whom = {client for one_found in found.values() for client in one_found.may_mean}
        named = await clients.load(session, whom, ())
        await clients.know_who_was_told(session, [c for c in named.values() if agency not in c.known_to], [agency])
        known_to = {id: client.known_to for id, client in named.items()}
        if not all(_knows(agency, key, found, known_to) for some in keys for key in some):
            raise UNKNOWN_CLIENT
        act = identity.Act(agency, event.data.reason, agency, event.id, case.traceparent)
        outcome = await (identity.link if linking else identity.unlink_between)(session, one, other, act)
    except Problem as problem:
        case.reject(problem)
        case.answer = reading.rejected(case.arrival, case.event_id, problem, await clients.time_now(session))
        return
    told = {"client": str(outcome.client) if outcome.client else None}
    if outcome.withdrawal:
        told["withdrawal"] = str(outcome.withdrawal)
    case.answer = reading.accepted(case.arrival, event, told, await clients.time_now(session))


def _read(arrival: Arrival) -> Case:
    try:
        event = reading.read(arrival, datetime.now(UTC))
    except Problem as problem:
        case = Case(arrival, reading.id_of(arrival.value))
        case.reject(problem)
        return case
    step = follow(f"intake {event.type}", arrival.traceparent or event.traceparent, begin=True)
    return Case(arrival, event.id, event, keys=reading.keys_of(event, arrival.agency), step=step)


async def _recognise(session: AsyncSession, cases: Sequence[Case]) -> dict[int, Case]:
    """A known event gets its first answer again; a known id with other bytes is rejected; the others are new.

    Gives, by `id()` of the case, the case in this same batch whose answer a repeated one shares.
    """
    first: dict[tuple[str, str], Case] = {}
    for case in cases:
        if case.event_id is not None:
            first.setdefault(case.key, case)
    earlier = await answers.known(session, first.keys())
    repeats: dict[int, Case] = {}
    for case in cases:
        if case.event_id is None:
            continue
        if case.key not in earlier and case is first[case.key]:
            case.is_first = True
            continue
        digest, answer = earlier.get(case.key, (first[case.key].arrival.digest, None))
        if digest != case.arrival.digest:
            case.reject(ID_USED_AGAIN)
        elif answer is not None:
            case.answer = answer
        else:
            repeats[id(case)] = first[case.key]
    return repeats


def _answer_of(case: Case, repeats: dict[int, Case]) -> bytes:
    answer = repeats.get(id(case), case).answer
    if answer is None:
        raise AssertionError("every event of a batch has an answer")
    return answer


async def _open_desk(session: AsyncSession, cases: Sequence[Case]) -> Desk:
    """Find or make the clients of the batch, lock them, and read what the batch needs of them."""
    named = {id(case): _named(case) for case in cases}
    keys = set().union(*named.values())
    known = await clients.find(session, keys)
    if keys - known.keys():
        # A withdrawal for a number that nobody has yet and the event that brings the number must see each other.
        await clients.lock_numbers(session, exclusive=any(case.changes_sharing for case in cases))
    whom = {client for found in known.values() for client in {found.client} | found.instead}
    await clients.lock(session, whom)
    if keys and await clients.find(session, keys) != known:
        raise TryAgain  # a number changed hands, or a link was made or undone, while we waited for a lock
    registered = await register.load(session)
    now = await clients.time_now(session)
    suspected = {
        client
        for case in cases
        if case.changes_sharing
        for key in named[id(case)]
        if key in known
        for client in known[key].may_mean
    }
    desk = Desk(await clients.load(session, whom, suspected), registered, now)
    await _look_up_who_was_told(session, cases, known, desk)
    await _settle_clients(session, cases, known, desk)
    if stopping := [case for case in cases if case.stops]:
        nobodys = {key for case in stopping for key in case.keys if key not in desk.known}
        desk.held_numbers = await clients.held_numbers(session, nobodys)
        desk.open_holds = await aside.open_holds(session, {case.arrival.agency for case in stopping})
    return desk


def _named(case: Case) -> set[IdentifierKey]:
    """The numbers to look up for an event: for one that stops sharing, all that stand anywhere in it."""
    if case.event is not None and case.event.type in STOPPING_TYPES:
        return set(reading.meant_by(case.arrival.value, case.arrival.agency, case.keys)[0])
    return set(case.keys)


def _knows(
    agency: str, key: IdentifierKey, found: Mapping[IdentifierKey, Found], known_to: Mapping[int, set[str]]
) -> bool:
    """Whether an agency may know that a client has this identifier: by its own number or reference, or because it
    recorded something of the client or was sent a record.

    Of whom it does not know, every answer is the same as if there were no such client.
    """
    if key not in found:
        return False
    return bool(key[1]) or any(agency in known_to.get(client, ()) for client in found[key].may_mean)


async def _look_up_who_was_told(
    session: AsyncSession, cases: Sequence[Case], known: Mapping[IdentifierKey, Found], desk: Desk
) -> None:
    """Look up who was sent a record, where a publisher recorded nothing itself; nothing to read for most batches."""
    asked = {
        (client, case.arrival.agency)
        for case in cases
        if not isinstance(case.event, ClientRecorded)
        for key in _named(case)
        if key in known and not key[1]
        for client in known[key].may_mean
        if case.arrival.agency not in desk.clients[client].known_to
    }
    if asked:
        whom = {client for client, _ in asked}
        await clients.know_who_was_told(session, [desk.clients[id] for id in whom], {agency for _, agency in asked})


async def _settle_clients(
    session: AsyncSession, cases: Sequence[Case], known: dict[IdentifierKey, Found], desk: Desk
) -> None:
    """Say for each event which client it is about; make clients and give them identifiers for recorded facts."""
    numbers = await _numbers(session, cases, known, desk)
    known_to = {id: client.known_to for id, client in desk.clients.items()}
    newcomers: list[int] = []  # numbered downwards from -1 until their rows are made
    linked: list[tuple[IdentifierKey, int, str]] = []
    for case in cases:
        if case.problem is not None:
            continue
        if problem := _may_not(case, desk.register.agencies.get(case.arrival.agency)):
            case.reject(problem)
            continue
        found = {known[key].client for key in case.keys if key in known}
        met = [desk.clients[id] for id in found if id in desk.clients]  # without whom this batch makes
        rows = frozenset(known[key].own for key in case.keys if key in known)
        undone = any(known[key].instead for key in case.keys if key in known)
        unknown = [key for key in case.keys if key not in known]
        if not isinstance(case.event, ClientRecorded) and not _knows_all(case, known, known_to):
            case.reject(UNKNOWN_CLIENT)
        elif len(found) > 1 or (undone and not isinstance(case.event, RetractionConfirmed)):
            if not undone:
                _propose(case, known, desk)
            case.reject(CONFLICT)
        elif not isinstance(case.event, RetractionConfirmed) and any(client.erased for client in met):
            case.reject(UNKNOWN_CLIENT)
        elif isinstance(case.event, ErasureRequested) and any(
            erasing.is_protected(case.event, case.arrival.agency, client, desk.now) for client in met
        ):
            case.reject(erasing.STILL_RESTRICTED)
        elif not isinstance(case.event, ClientRecorded):
            if found:
                case.client, case.rows = found.pop(), rows
            else:
                case.reject(UNKNOWN_CLIENT)
        elif any(type == "THROUGHGATE" for type, _, _ in unknown):
            case.reject(UNKNOWN_CLIENT)
        else:
            client = found.pop() if found else -1 - len(newcomers)
            had = numbers.setdefault(client, {})
            if _contradicts(had, unknown):
                case.reject(CONFLICT)
                continue
            if not rows:
                newcomers.append(client)
            # A number stays with the part through which it came, and so with one client when the link is undone.
            row = next(iter(rows)) if len(rows) == 1 else client
            case.client, case.rows = client, rows or frozenset({client})
            known_to.setdefault(client, set()).add(case.arrival.agency)
            for key in unknown:
                known[key] = Found(client, row)
                linked.append((key, row, case.arrival.agency))
                had[key[0]] = had.get(key[0], 0) + 1
    made = dict(zip(newcomers, await clients.make(session, len(newcomers)), strict=True))
    for nth, number in made.items():
        desk.clients[number] = Client(number, 0, members=(number,), known_to=known_to[nth])
    for case in cases:
        if case.client is not None:
            case.client = made.get(case.client, case.client)
            case.rows = frozenset(made.get(row, row) for row in case.rows)
    for key, found_one in known.items():
        whom = made.get(found_one.client, found_one.client)
        known[key] = found_one._replace(client=whom, own=made.get(found_one.own, found_one.own))
    desk.known = {key: found_one.may_mean for key, found_one in known.items()}
    desk.changes.identifiers = [(key, made.get(number, number), agency) for key, number, agency in linked]
    await _apply_what_was_said_before(session, [key for key, _, _ in linked], known, desk)


async def _apply_what_was_said_before(
    session: AsyncSession, new: Sequence[IdentifierKey], known: Mapping[IdentifierKey, Found], desk: Desk
) -> None:
    """Hold, or begin with a no, the client of a number that is new: a stop, or an erasure, may have named it before."""
    for key, agency in await clients.take_held_numbers(session, new):
        desk.hold(desk.clients[known[key].client], agency, "named-by-an-earlier-withdrawal", "", None)
    erased: dict[int, datetime] = {}
    for key, at in (await erasure.erased_before(session, new)).items():
        erased[known[key].client] = max(at, erased.get(known[key].client, at))
    for number, at in sorted(erased.items()):  # erasing everything was a no as well: only consent given since counts
        desk.say_no(desk.clients[number], THE_DOOR, at, "", None, because="erased")


def _knows_all(case: Case, known: Mapping[IdentifierKey, Found], known_to: Mapping[int, set[str]]) -> bool:
    """Whether a publisher knows whom it names; only a number of its own may be new."""
    agency = case.arrival.agency
    mine = [key for key in case.keys if _knows(agency, key, known, known_to)]
    return bool(mine) and all(key in mine or key[1] for key in case.keys)


def _may_not(case: Case, publisher: Agency | None) -> Problem | None:
    """Why its publisher may not say this, if so."""
    if publisher is None:
        return NOT_REGISTERED
    basis = case.event.data.basis if isinstance(case.event, GatewayInvoked) else None
    if case.event is not None and not may_assert(case.event.type, publisher.kind, basis):
        return NOT_YOURS_TO_SAY
    if isinstance(case.event, ErasureRequested) and case.event.data.scope == "everything":
        return None if publisher.kind in RESPONSIBLE else NOT_YOURS_TO_SAY
    return None


async def _numbers(
    session: AsyncSession, cases: Sequence[Case], known: Mapping[IdentifierKey, Found], desk: Desk
) -> dict[int, dict[str, int]]:
    """How many numbers of each kind those clients have who are about to get another; nothing to read for most."""
    telling = [c for c in cases if isinstance(c.event, ClientRecorded) and any(key not in known for key in c.keys)]
    if not any(key not in known and key[0] in links.UNIQUE for case in telling for key in case.keys):
        return {}
    growing = {known[key].client for case in telling for key in case.keys if key in known}
    had = await links.numbers(session, [row for client in growing for row in desk.clients[client].members])
    counted: dict[int, dict[str, int]] = {}
    for client in growing:
        counts = counted.setdefault(client, {})
        for type, _ in (number for row in desk.clients[client].members for number in had[row]):
            counts[type] = counts.get(type, 0) + 1
    return counted


def _contradicts(had: Mapping[str, int], unknown: Sequence[IdentifierKey]) -> bool:
    """Whether a client would get a second number of a kind of which one person has one."""
    types = [type for type, _, _ in unknown if type in links.UNIQUE]
    return len(types) > len(set(types)) or any(had.get(type) for type in types)


def _propose(case: Case, known: Mapping[IdentifierKey, Found], desk: Desk) -> None:
    """The clients that one event named may be one person: somebody is to decide."""
    named = {known[key].client: known[key].own for key in case.keys if key in known}
    desk.changes.candidates += [(a, b, case.arrival.agency) for a, b in combinations(named.values(), 2)]


def _forms(cases: Sequence[Case]) -> list[tuple[str, str]]:
    return [(c.arrival.agency, c.event.data.form) for c in cases if isinstance(c.event, ConsentGranted)]


def _apply(case: Case, desk: Desk, forms: set[tuple[str, str]]) -> None:
    """Give one event its effect on the desk and its answer."""
    if case.problem is None and case.client is not None and case.event is not None:
        client = desk.clients[case.client]
        agency, event = case.arrival.agency, case.event
        records = isinstance(event, ClientRecorded)
        told: dict[str, Any] = {"client": str(desk.reference(client, agency, queued=False, recorded=records).id)}
        if isinstance(event, ClientRecorded):
            _record(case, event, client, desk)
        elif isinstance(event, ReferralAnswered | OfferAnswered):
            _pass_on(case, event, client, desk)
        elif isinstance(event, ErasureRequested):
            told["withdrawal"] = str(erasing.request(event, agency, client, desk, case.traceparent))
        elif isinstance(event, saying.Saying):
            withdrawal = saying.say(event, agency, client, desk, forms, case.traceparent)
            if withdrawal is not None:
                told["withdrawal"] = str(withdrawal)
        case.answer = reading.accepted(case.arrival, event, told, desk.now)
        return
    problem = case.problem or UNKNOWN_CLIENT
    if case.stops:
        named = case.keys, case.names_more, case.arrival.agency
        problem = holds.deny(desk, *named, problem, case.event_id or "", case.traceparent)
    case.answer = reading.rejected(case.arrival, case.event_id, problem, desk.now)


def _confirmed(cases: Sequence[Case], desk: Desk) -> list[tuple[UUID, UUID]]:
    """Retractions that partners have confirmed, each with a reference by which that partner knows the client."""
    found: list[tuple[UUID, UUID]] = []
    for case in cases:
        if case.problem is None and case.client is not None and isinstance(case.event, RetractionConfirmed):
            client = desk.clients[case.client]
            own = [r.id for r in [*client.references.values(), *client.former] if r.recipient == case.arrival.agency]
            found += [(case.event.data.retraction, reference) for reference in own]
    return found


def _record(case: Case, event: ClientRecorded, client: Client, desk: Desk) -> None:
    agency, version = case.arrival.agency, event.clientversion
    if version is not None:
        had = [client.source_versions[row, agency] for row in case.rows if (row, agency) in client.source_versions]
        latest = max(had, default=None)
        if latest is not None and version <= latest:
            return  # history: what this agency recorded later is known already
        if latest is not None and version > latest + 1:
            log.warning("a gap in the client versions of %s: %d events are missing", agency, version - latest - 1)
        for row in case.rows:
            client.source_versions[row, agency] = desk.changes.source_versions[row, agency] = version
    facts = event.data.facts.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "identity" in facts and (digest := identity.likeness(facts["identity"])) is not None:
        for row in case.rows:
            desk.changes.likenesses[row, agency] = digest
    desk.record(client, agency, facts, event.time, case.traceparent)


def _pass_on(case: Case, event: ReferralAnswered | OfferAnswered, client: Client, desk: Desk) -> None:
    """A provider's answer goes to the service that waits for it: through the queue and a decision, like everything."""
    service, agency = PASSED_ON[event.type], case.arrival.agency
    message = event.data.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"identifiers"})
    body = {"about": [(agency, Category.IDENTITY.value)], "sections": [], "message": message, "provider": agency}
    desk.queue_record(
        client,
        desk.register.agencies[service],
        SERVICE_PURPOSES[service],
        ANSWER_PASSED_AS[event.type],
        body,
        case.traceparent,
    )


SET_ASIDE = Problem(
    "set-aside",
    "The event could not be applied and was set aside",
    "Nothing is lost: operations keep the event and will look at it. Ask them before you send it again.",
    500,
)


async def refuse(session: AsyncSession, arrival: Arrival) -> bytes:
    """Answer an event that cannot be applied for a reason of our own. One that was to stop sharing stops all the same.

    It does as little as it can: it must not fail for the reason for which the event failed.
    """
    case = Case(arrival, reading.id_of(arrival.value))
    case.reject(SET_ASIDE)
    desk = await _open_desk(session, [case])
    _apply(case, desk, set())
    await clients.write(session, desk.changes)
    wake_after_commit(session, queue.CHANNEL)
    return case.answer or b""
