"""Taking in what case systems publish: a batch is read, its clients are found and locked, each event has its effect.

The order matters: look up the ids, find the clients, lock their rows, find them again (a link may have changed while we
waited), and only then read facts and time. Reading them together with the lock would give the facts of before the lock.
The ids are entered last, with the answers and all else; whoever finds that another transaction was first begins anew.
"""

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.events import ANSWER_PASSED_AS
from consent.repository import answers, clients, links, retractions, sharing
from consent.repository.clients import Client
from consent.service import desks, erasing, holds, identity, naming, notices, reading, register, saying
from consent.service.desk import Desk
from consent.service.finding import knows, open_desk
from consent.service.incoming import (
    ID_USED_AGAIN,
    NOTHING_TO_REVIEW,
    UNKNOWN_CLIENT,
    UNKNOWN_RETRACTION,
    Damaged,
    Incoming,
    may_not,
)
from consent.service.reading import Arrival
from consent.service.unread import unescaped
from contracts.intake import (
    PASSED_ON,
    ClientRecorded,
    ConsentGranted,
    ErasureRequested,
    GatewayEnded,
    IdentityLinked,
    IdentityUnlinked,
    IntakeEvent,
    OfferAnswered,
    OverrideAuthorised,
    OverrideEnded,
    OverrideReviewed,
    ReferralAnswered,
    RetractionConfirmed,
)
from contracts.vocabulary import SERVICE_PURPOSES, Category
from servicekit.db import TryAgain
from servicekit.problems import Problem
from servicekit.sql import time_now
from servicekit.telemetry import follow

log = logging.getLogger(__name__)

ALONE = frozenset(
    {"throughgate.identity.linked.v1", "throughgate.identity.unlinked.v1", "throughgate.erasure.requested.v1"}
)
"""The types of events that must have a transaction of their own.

Every transaction takes all its locks at once and in order. These lock more than the clients that they name: with
another run of events behind them there would be a second time, out of order, and two such transactions would wait for
each other.
"""
_SAYS_ALONE = re.compile(rf'"type"\s*:\s*"(?:{"|".join(map(re.escape, ALONE))})"')


async def take_in(session: AsyncSession, arrivals: Sequence[Arrival]) -> list[bytes]:
    """Give every event its effect, once, and its answer: the stored reply, in the order of `arrivals`.

    An event that links, unlinks or erases comes `ALONE`: the events behind it are about other clients.

    Raises:
        TryAgain: another transaction linked one of the identifiers, or took in one of the events, meanwhile.
        ValueError: such an event does not come alone.
    """
    batch = [_read(arrival) for arrival in arrivals]
    if len(batch) > 1 and any(incoming.event is not None and incoming.event.type in ALONE for incoming in batch):
        raise ValueError("what links, unlinks or erases is to be taken in alone")
    try:
        return await _take_in(session, batch)
    finally:
        for incoming in batch:
            if incoming.step:
                incoming.step.end()


def stands_alone(value: bytes) -> bool:
    """Whether bytes may be an event that comes `ALONE`, without reading all of them: none that can be read is missed.

    The same words in a text, where quotes are escaped, are no such event.
    """
    return _SAYS_ALONE.search(unescaped(value)) is not None


async def _take_in(session: AsyncSession, batch: Sequence[Incoming]) -> list[bytes]:
    repeats = await _recognise(session, batch)
    unanswered = [incoming for incoming in batch if incoming.answer is None and incoming not in repeats]
    if unanswered and isinstance(unanswered[0].event, IdentityLinked | IdentityUnlinked):
        await _identify(session, unanswered[0], unanswered[0].event)
        if not await answers.keep(session, _first_answers(batch)):
            raise TryAgain
    else:
        desk = await open_desk(session, unanswered)
        forms = await sharing.forms_seen(session, _forms(unanswered))
        await _confirm(session, unanswered, desk)
        await _review(session, unanswered, desk)
        await _look_behind_links(session, unanswered, desk)
        for incoming in unanswered:
            _apply(incoming, desk, forms)
        desk.changes.taken_in = _first_answers(batch)
        await desks.close(session, desk)
    return [_answer_of(incoming, repeats) for incoming in batch]


async def _identify(session: AsyncSession, incoming: Incoming, event: IdentityLinked | IdentityUnlinked) -> None:
    """Give an event that links or unlinks its effect and its answer."""
    agency = incoming.arrival.agency
    others = event.data.same_as if isinstance(event, IdentityLinked) else event.data.not_same_as
    keys = incoming.keys, naming.identifiers_of(others, agency)
    try:
        if incoming.problem is not None:
            raise incoming.problem
        if problem := may_not(incoming, (await register.load(session)).agencies):
            raise problem
        found = await clients.find(session, {*keys[0], *keys[1]})
        whom = {client for one_found in found.values() for client in one_found.may_mean}
        named = await clients.load(session, whom, ())
        await clients.know_who_was_told(session, [c for c in named.values() if agency not in c.known_to], [agency])
        known_to = {id: client.known_to for id, client in named.items()}
        if not all(knows(agency, key, found, known_to) for some in keys for key in some):
            raise UNKNOWN_CLIENT
        act = identity.Act(agency, event.data.reason, incoming.cause)
        if isinstance(event, IdentityLinked):
            one, other = ({found[key].own for key in some} for some in keys)
            outcome = await identity.link(session, one, other, act)
        else:
            outcome = await identity.unlink_between(session, *keys, found, act)
    except Damaged:  # no answer to keep: set aside, it may be applied later
        raise
    except Problem as problem:
        incoming.reject(problem)
        incoming.answer = notices.rejected(incoming.arrival, incoming.event_id, problem, await time_now(session))
        return
    data = {"client": str(outcome.client) if outcome.client else None}
    if outcome.withdrawal:
        data["withdrawal"] = str(outcome.withdrawal)
    incoming.answer = notices.accepted(incoming.arrival, event, data, await time_now(session))


def _read(arrival: Arrival) -> Incoming:
    try:
        event = reading.read(arrival, datetime.now(UTC))
    except Problem as problem:
        incoming = Incoming(arrival, reading.id_of(arrival.value))
        incoming.reject(problem)
        return incoming
    step = follow(f"intake {event.type}", arrival.traceparent or event.traceparent, begin=True)
    return Incoming(
        arrival, event.id, event, keys=naming.identifiers_of(event.data.identifiers, arrival.agency), step=step
    )


async def _recognise(session: AsyncSession, batch: Sequence[Incoming]) -> dict[Incoming, Incoming]:
    """A known event gets its first answer again; a known id with other bytes is rejected; the others are new.

    Gives, by each repeated one, the one in this same batch whose answer it shares.
    """
    first: dict[tuple[str, str], Incoming] = {}
    for incoming in batch:
        if incoming.event_id is not None:
            first.setdefault(incoming.key, incoming)
    earlier = await answers.known(session, first.keys())
    repeats: dict[Incoming, Incoming] = {}
    for incoming in batch:
        if incoming.event_id is None:
            continue
        if incoming.key not in earlier and incoming is first[incoming.key]:
            incoming.is_first = True
            continue
        digest, answer = earlier.get(incoming.key, (first[incoming.key].arrival.digest, None))
        if digest != incoming.arrival.digest:
            incoming.reject(ID_USED_AGAIN)
        elif answer is not None:
            incoming.answer = answer
        else:
            repeats[incoming] = first[incoming.key]
    return repeats


def _first_answers(batch: Sequence[Incoming]) -> list[tuple[str, str, bytes, bytes | None]]:
    return [(*incoming.key, incoming.arrival.digest, incoming.answer) for incoming in batch if incoming.is_first]


def _answer_of(incoming: Incoming, repeats: dict[Incoming, Incoming]) -> bytes:
    answer = repeats.get(incoming, incoming).answer
    if answer is None:
        raise AssertionError("every event of a batch has an answer")
    return answer


def _forms(batch: Sequence[Incoming]) -> list[tuple[str, str]]:
    return [(c.arrival.agency, c.event.data.form) for c in batch if isinstance(c.event, ConsentGranted)]


def _apply(incoming: Incoming, desk: Desk, forms: set[tuple[str, str]]) -> None:
    """Give one event its effect on the desk and its answer."""
    event = incoming.event
    if incoming.problem is None and event is not None and incoming.client is not None:
        client = desk.clients[incoming.client]
        if isinstance(event, saying.Saying) and not incoming.began_while_linked:
            # Not `reject`: whom this means is known, and only that one is denied.
            unbegun = saying.end_unbegun(event, client, desk, incoming.cause)
            incoming.problem = unbegun or saying.begin_ended(event, client, incoming.cause)
        if incoming.problem is None:
            data = _take_effect(incoming, event, client, desk, forms)
            incoming.answer = notices.accepted(incoming.arrival, event, data, desk.now)
            return
    problem = incoming.problem
    if problem is None:
        raise AssertionError("an event without a client is rejected before")
    if incoming.denies_unapplied:
        problem = holds.deny(desk, incoming.keys, incoming.names_more, problem, incoming.cause)
    incoming.answer = notices.rejected(incoming.arrival, incoming.event_id, problem, desk.now)


def _take_effect(
    incoming: Incoming, event: IntakeEvent, client: Client, desk: Desk, forms: set[tuple[str, str]]
) -> dict[str, Any]:
    """Gives what the answer says of it."""
    agency, records = incoming.arrival.agency, isinstance(event, ClientRecorded)
    data: dict[str, Any] = {"client": str(desk.reference(client, agency, queued=False, recorded=records).id)}
    if isinstance(event, ClientRecorded):
        _record(incoming, event, client, desk)
        if incoming.not_attached:
            data["notAttached"] = incoming.not_attached
    elif isinstance(event, ReferralAnswered | OfferAnswered):
        _pass_on(incoming, event, client, desk)
    elif isinstance(event, ErasureRequested):
        data["withdrawal"] = str(erasing.erase_as_asked(event, client, desk, incoming.cause))
    elif isinstance(event, saying.Saying):
        withdrawal = saying.say(event, client, desk, forms, incoming.cause)
        if withdrawal is not None:
            data["withdrawal"] = str(withdrawal)
    return data


async def _confirm(session: AsyncSession, batch: Sequence[Incoming], desk: Desk) -> None:
    """Enter which retractions partners have confirmed; what confirms none of its publisher's own is rejected."""
    confirmed: list[tuple[Incoming, set[tuple[UUID, UUID]]]] = []
    for incoming in batch:
        if incoming.problem is None and incoming.client is not None and isinstance(incoming.event, RetractionConfirmed):
            client, agency = desk.clients[incoming.client], incoming.arrival.agency
            known = {r.id for r in [*client.references.values(), *client.former] if r.recipient == agency}
            # of an undone link, too; what nobody found may be another's
            known |= {UUID(key.value) for key in incoming.keys if key.is_reference and key in desk.known}
            confirmed.append((incoming, {(incoming.event.data.retraction, reference) for reference in known}))
    entered = await retractions.acknowledge(session, set().union(*(pairs for _, pairs in confirmed)))
    for incoming, pairs in confirmed:
        if pairs.isdisjoint(entered):
            incoming.reject(UNKNOWN_RETRACTION)


async def _review(session: AsyncSession, batch: Sequence[Incoming], desk: Desk) -> None:
    """Reject what reviews an override that its publisher did not authorise before, of this client or of one that it was
    linked in then.
    """
    authorised: set[tuple[int, str, str]] = set()
    for incoming in batch:
        if incoming.problem is not None or incoming.client is None:
            continue
        if isinstance(incoming.event, OverrideAuthorised | OverrideReviewed):
            agency, override = incoming.arrival.agency, incoming.event.data.override
            if isinstance(incoming.event, OverrideAuthorised):
                authorised.add((incoming.client, agency, override))
            elif (incoming.client, agency, override) not in authorised:
                members = desk.clients[incoming.client].members
                rows = {*members, *await links.undone_of(session, members)}
                if not await sharing.was_begun(session, rows, agency, "override-authorised", override):
                    incoming.reject(NOTHING_TO_REVIEW)


async def _look_behind_links(session: AsyncSession, batch: Sequence[Incoming], desk: Desk) -> None:
    """What a gateway or an override permitted while its client was linked stays behind when the link is undone: whoever
    began it may end it all the same.
    """
    for incoming in batch:
        match incoming.event:
            case GatewayEnded():
                kind, own_id = "gateway-invoked", incoming.event.data.gateway
            case OverrideEnded():
                kind, own_id = "override-authorised", incoming.event.data.override
            case _:
                continue
        if incoming.problem is None and incoming.client is not None:
            undone = await links.undone_of(session, desk.clients[incoming.client].members)
            agency = incoming.arrival.agency
            incoming.began_while_linked = await sharing.was_begun(session, undone, agency, kind, own_id)


def _record(incoming: Incoming, event: ClientRecorded, client: Client, desk: Desk) -> None:
    agency, version = incoming.arrival.agency, event.clientversion
    if version is not None:
        had = [client.source_versions[row, agency] for row in incoming.rows if (row, agency) in client.source_versions]
        latest = max(had, default=None)
        if latest is not None and version < latest:
            return  # history: what this agency recorded later is known already; the same again may be gone since
        if latest is not None and version > latest + 1:
            log.warning("a gap in the client versions of %s: %d events are missing", agency, version - latest - 1)
        for row in incoming.rows:
            client.source_versions[row, agency] = desk.changes.source_versions[row, agency] = version
    facts = event.data.facts.model_dump(mode="json", by_alias=True, exclude_none=True)
    if "identity" in facts and (digest := identity.likeness(facts["identity"])) is not None:
        for row in incoming.rows:
            desk.changes.likenesses[row, agency] = digest
    desk.record(client, agency, facts, event.time, incoming.traceparent)


def _pass_on(incoming: Incoming, event: ReferralAnswered | OfferAnswered, client: Client, desk: Desk) -> None:
    """A provider's answer goes to the service that waits for it: through the queue and a decision, like everything."""
    service, agency = PASSED_ON[event.type], incoming.arrival.agency
    message = event.data.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"identifiers"})
    body = {"about": [(agency, Category.IDENTITY.value)], "sections": [], "message": message, "provider": agency}
    desk.queue_record(
        client,
        desk.register.agencies[service],
        SERVICE_PURPOSES[service],
        ANSWER_PASSED_AS[event.type],
        body,
        incoming.traceparent,
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
    incoming = Incoming(arrival, reading.id_of(arrival.value))
    incoming.reject(SET_ASIDE)
    desk = await open_desk(session, [incoming])
    _apply(incoming, desk, set())
    await desks.close(session, desk)
    return _answer_of(incoming, {})
