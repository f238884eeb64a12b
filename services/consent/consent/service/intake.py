"""Taking in what case systems publish: a batch is read, its clients are found and locked, each event has its effect.

The order matters: look up the ids, find the clients, lock their rows, find them again (a link may have changed while we
waited), and only then read facts and time. Reading them together with the lock would give the facts of before the lock.
The ids are entered last, with the answers and all else; whoever finds that another transaction was first begins anew.
"""

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.events import ANSWER_PASSED_AS, PASSED_ON
from consent.repository import answers, clients, sharing
from consent.repository.clients import Client
from consent.service import erasing, holds, identity, reading, register, saying
from consent.service.cases import ID_USED_AGAIN, UNKNOWN_CLIENT, UNKNOWN_RETRACTION, Case, Damaged, may_not
from consent.service.closing import close
from consent.service.desk import Desk
from consent.service.reading import Arrival
from consent.service.settling import knows, open_desk
from contracts.intake import (
    ClientRecorded,
    ConsentGranted,
    ErasureRequested,
    IdentityLinked,
    IdentityUnlinked,
    OfferAnswered,
    ReferralAnswered,
    RetractionConfirmed,
)
from contracts.vocabulary import SERVICE_PURPOSES, Category
from servicekit.db import TryAgain
from servicekit.problems import Problem
from servicekit.telemetry import follow

log = logging.getLogger(__name__)

ALONE = IdentityLinked | IdentityUnlinked | ErasureRequested
"""Events that must have a transaction of their own.

Every transaction takes all its locks at once and in order. These lock more than the clients that they name: with
another run of events behind them there would be a second time, out of order, and two such transactions would wait for
each other.
"""
_ALONE_TYPES = [name for event in get_args(ALONE) for name in get_args(event.model_fields["type"].annotation)]
_SAYS_ALONE = re.compile(rf'"type"\s*:\s*"(?:{"|".join(map(re.escape, _ALONE_TYPES))})"')


async def take_in(session: AsyncSession, arrivals: Sequence[Arrival]) -> list[bytes]:
    """Give every event its effect, once, and its answer: the stored reply, in the order of `arrivals`.

    An event that links, unlinks or erases comes `ALONE`: the events behind it are about other clients.

    Raises:
        TryAgain: another transaction linked one of the identifiers, or took in one of the events, meanwhile.
        ValueError: such an event does not come alone.
    """
    cases = [_read(arrival) for arrival in arrivals]
    if len(cases) > 1 and any(isinstance(case.event, ALONE) for case in cases):
        raise ValueError("what links, unlinks or erases is to be taken in alone")
    try:
        return await _take_in(session, cases)
    finally:
        for case in cases:
            if case.step:
                case.step.end()


def stands_alone(value: bytes) -> bool:
    """Whether bytes may be an event that comes `ALONE`, without reading all of them: none that can be read is missed.

    The same words in a text, where quotes are escaped, are no such event.
    """
    return _SAYS_ALONE.search(reading.unescaped(value)) is not None


async def _take_in(session: AsyncSession, cases: Sequence[Case]) -> list[bytes]:
    repeats = await _recognise(session, cases)
    open_cases = [case for case in cases if case.answer is None and id(case) not in repeats]
    if open_cases and isinstance(open_cases[0].event, IdentityLinked | IdentityUnlinked):
        await _identify(session, open_cases[0], open_cases[0].event)
        if not await answers.keep(session, _first_answers(cases)):
            raise TryAgain
    else:
        desk = await open_desk(session, open_cases)
        forms = await sharing.forms_seen(session, _forms(open_cases))
        await _confirm(session, open_cases, desk)
        for case in open_cases:
            _apply(case, desk, forms)
        desk.changes.taken_in = _first_answers(cases)
        await close(session, desk)
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
        if problem := may_not(case, (await register.load(session)).agencies):
            raise problem
        found = await clients.find(session, {*keys[0], *keys[1]})
        one, other = ({found[key].own for key in some if key in found} for some in keys)
        whom = {client for one_found in found.values() for client in one_found.may_mean}
        named = await clients.load(session, whom, ())
        await clients.know_who_was_told(session, [c for c in named.values() if agency not in c.known_to], [agency])
        known_to = {id: client.known_to for id, client in named.items()}
        if not all(knows(agency, key, found, known_to) for some in keys for key in some):
            raise UNKNOWN_CLIENT
        act = identity.Act(agency, event.data.reason, case.cause)
        outcome = await (identity.link if linking else identity.unlink_between)(session, one, other, act)
    except Damaged:  # no answer to keep: set aside, it may be applied later
        raise
    except Problem as problem:
        case.reject(problem)
        case.answer = reading.rejected(case.arrival, case.event_id, problem, await clients.time_now(session))
        return
    data = {"client": str(outcome.client) if outcome.client else None}
    if outcome.withdrawal:
        data["withdrawal"] = str(outcome.withdrawal)
    case.answer = reading.accepted(case.arrival, event, data, await clients.time_now(session))


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


def _first_answers(cases: Sequence[Case]) -> list[tuple[str, str, bytes, bytes | None]]:
    return [(*case.key, case.arrival.digest, case.answer) for case in cases if case.is_first]


def _answer_of(case: Case, repeats: dict[int, Case]) -> bytes:
    answer = repeats.get(id(case), case).answer
    if answer is None:
        raise AssertionError("every event of a batch has an answer")
    return answer


def _forms(cases: Sequence[Case]) -> list[tuple[str, str]]:
    return [(c.arrival.agency, c.event.data.form) for c in cases if isinstance(c.event, ConsentGranted)]


def _apply(case: Case, desk: Desk, forms: set[tuple[str, str]]) -> None:
    """Give one event its effect on the desk and its answer."""
    if case.problem is None and case.client is not None and case.event is not None:
        client = desk.clients[case.client]
        agency, event = case.arrival.agency, case.event
        records = isinstance(event, ClientRecorded)
        data: dict[str, Any] = {"client": str(desk.reference(client, agency, queued=False, recorded=records).id)}
        if isinstance(event, ClientRecorded):
            _record(case, event, client, desk)
        elif isinstance(event, ReferralAnswered | OfferAnswered):
            _pass_on(case, event, client, desk)
        elif isinstance(event, ErasureRequested):
            data["withdrawal"] = str(erasing.erase_as_asked(event, client, desk, case.cause))
        elif isinstance(event, saying.Saying):
            withdrawal = saying.say(event, client, desk, forms, case.cause)
            if withdrawal is not None:
                data["withdrawal"] = str(withdrawal)
        case.answer = reading.accepted(case.arrival, event, data, desk.now)
        return
    problem = case.problem or UNKNOWN_CLIENT
    if case.denies_unapplied:
        problem = holds.deny(desk, case.keys, case.names_more, problem, case.cause)
    case.answer = reading.rejected(case.arrival, case.event_id, problem, desk.now)


async def _confirm(session: AsyncSession, cases: Sequence[Case], desk: Desk) -> None:
    """Enter which retractions partners have confirmed; what confirms none of its publisher's own is rejected."""
    confirmed: list[tuple[Case, set[tuple[UUID, UUID]]]] = []
    for case in cases:
        if case.problem is None and case.client is not None and isinstance(case.event, RetractionConfirmed):
            client, agency = desk.clients[case.client], case.arrival.agency
            known = {r.id for r in [*client.references.values(), *client.former] if r.recipient == agency}
            # of an undone link, too; what nobody found may be another's
            known |= {UUID(key[2]) for key in case.keys if clients.is_reference(key) and key in desk.known}
            confirmed.append((case, {(case.event.data.retraction, reference) for reference in known}))
    entered = await clients.acknowledge_retractions(session, set().union(*(pairs for _, pairs in confirmed)))
    for case, pairs in confirmed:
        if pairs.isdisjoint(entered):
            case.reject(UNKNOWN_RETRACTION)


def _record(case: Case, event: ClientRecorded, client: Client, desk: Desk) -> None:
    agency, version = case.arrival.agency, event.clientversion
    if version is not None:
        had = [client.source_versions[row, agency] for row in case.rows if (row, agency) in client.source_versions]
        latest = max(had, default=None)
        if latest is not None and version < latest:
            return  # history: what this agency recorded later is known already; the same again may be gone since
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
    "The event could not be applied, for a reason of ours",
    "If it was to stop sharing, nothing leaves for whoever it names until operations have looked. They keep what came"
    " by Kafka; what came over HTTP, send again once they have mended what it failed for: ask them.",
    500,
)


async def refuse(session: AsyncSession, arrival: Arrival) -> bytes:
    """Answer an event that cannot be applied for a reason of our own. One that was to stop sharing stops all the same.

    It does as little as it can: it must not fail for the reason for which the event failed.
    """
    case = Case(arrival, reading.id_of(arrival.value))
    case.reject(SET_ASIDE)
    desk = await open_desk(session, [case])
    _apply(case, desk, set())
    await close(session, desk)
    return case.answer or b""
