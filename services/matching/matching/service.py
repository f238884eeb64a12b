"""Use cases of matching: load, decide, write rows and outbox. Commits nothing: the caller does."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.leaving import OfferAnswerMessage, SettledData
from contracts.vocabulary import Category
from matching import domain, events, repository
from matching.domain import KEPT, LONDON, OFFER_STANDS, Actor, Client, Match, Reason, Section, State
from servicekit import faults, inbox, outbox
from servicekit.kafka import Outgoing
from servicekit.problems import Problem

log = logging.getLogger(__name__)


async def take_in(session: AsyncSession, received: Sequence[events.Received]) -> None:
    """Apply a batch of cleared events, each once, in their order."""
    fresh = await inbox.fresh(session, [r.event.id for r in received])
    batch = list({r.event.id: r for r in received if r.event.id in fresh}.values())
    if not batch:
        return
    clients = await repository.lock_clients(session, {r.client for r in batch})
    work = Batch(clients)
    if answered := work.volunteers_that_answer(batch):
        work.volunteers = await repository.lock_volunteers(session, answered)
    work.now = await repository.now(session)
    for r in batch:
        work.apply(r)
    await repository.save(session, clients.values(), work.withdrawn, work.kept)
    await outbox.add(session, work.outgoing)
    faults.point("matching.applied")


async def erase_poisoned(session: AsyncSession, value: bytes | None) -> None:
    """Erase for a withdrawal that could not be applied, by no more than it takes; what is open is left to a person."""
    found = events.poisoned_withdrawal(value)
    if found is not None:
        client, version = found
        log.error("erased for a withdrawal that could not be applied: its open work is to be ended by a person")
        await repository.erase_poisoned(session, client, version)


class Batch:
    """A batch on its way: the locked clients, and what is to be written. No I/O."""

    now: datetime

    def __init__(self, clients: dict[UUID, Client]) -> None:
        self.clients = clients
        self.volunteers: dict[UUID, domain.Volunteer] = {}
        self.withdrawn: set[UUID] = set()
        self.kept: list[tuple[UUID, Section]] = []
        self.outgoing: list[Outgoing] = []

    def volunteers_that_answer(self, batch: Sequence[events.Received]) -> set[UUID]:
        """The volunteers whose offers are answered in this batch: their checks are asked about again."""
        offers = {r.event.data.message.offer for r in batch if isinstance(r.event, events.OfferAnswerPassed)}
        return {m.volunteer for client in self.clients.values() for m in client.matches if m.id in offers}

    def apply(self, r: events.Received) -> None:
        """Apply one event to the client in memory."""
        client = self.clients[r.client]
        event = r.event
        match event:
            case events.ClientWithdrawn():
                if events.PURPOSE in event.data.purposes:
                    client.withdraw(event.data.version, self.now)
                    self.withdrawn.add(client.reference)
                    self.kept = [(reference, s) for reference, s in self.kept if reference != client.reference]
                retraction = event.data.retraction
                self.outgoing.append(events.acknowledged(client.reference, retraction, self.now, r.traceparent))
            case events.RequestSettled():
                self._settle(client, event.data)
            case events.ClientSnapshot() | events.ClientChanged():
                if not client.covered(event.data.receipt.decided_on):
                    self._learn(client, event)
            case events.OfferAnswerPassed():
                if not client.covered(event.data.receipt.decided_on):
                    self._answer(client, event.data.provider, event.data.message)
            case _:
                log.warning("ignored an event of type %s: it is not for this service", event.type)

    def _learn(self, client: Client, event: events.ClientSnapshot | events.ClientChanged) -> None:
        client.waiting_since = client.waiting_since or self.now
        client.facts_at = self.now
        for s in event.data.sections:
            if s.category in KEPT:
                data = {k: s.data[k] for k in KEPT[s.category] if k in s.data}
                section = Section(s.source, s.category, s.recorded_at, data)
                if client.keep(section):
                    self.kept.append((client.reference, section))

    def _settle(self, client: Client, settled: SettledData) -> None:
        found = next((m for m in client.matches if m.request == settled.request), None)
        if found is None or found.state != State.REQUESTED:
            return
        match settled.outcome:
            case "sent":
                found.move(State.OFFERED, Actor.DOOR, self.now)
            case "denied":
                found.move(State.WITHDRAWN, Actor.DOOR, self.now, Reason.SHARING_DENIED)
                found.withheld = [w.model_dump(mode="json", by_alias=True) for w in settled.withheld]
            case "cancelled":  # the next round offers anew, if it still may
                found.move(State.WITHDRAWN, Actor.DOOR, self.now, Reason.SHARING_CANCELLED)

    def _answer(self, client: Client, scheme: str, answer: OfferAnswerMessage) -> None:
        found = next((m for m in client.matches if m.id == answer.offer), None)
        if found is None or found.scheme != scheme:
            log.warning("ignored an answer: it is not its sender's offer")
            return
        if found.state not in (State.REQUESTED, State.OFFERED):
            log.warning("ignored an answer: the match is %s", found.state)
            return
        if found.state == State.REQUESTED:  # the scheme was faster than the door's word that it was told
            found.move(State.OFFERED, Actor.DOOR, self.now)
        if self.now >= found.expires_at:
            found.move(State.EXPIRED, Actor.RULE, self.now, Reason.NOT_ANSWERED)
        elif answer.answer == "declined":
            found.move(State.DECLINED, Actor.SCHEME, self.now, Reason.read(answer.reason))
        elif failed := self._failed_checks(client, found):
            found.explanation = {**found.explanation, "failedAtStart": failed}
            found.move(State.WITHDRAWN, Actor.RULE, self.now, Reason.CHECKS_FAILED)
        else:
            found.move(State.ACTIVE, Actor.SCHEME, self.now)

    def _failed_checks(self, client: Client, found: Match) -> list[str]:
        profile, volunteer = domain.profile(client), self.volunteers.get(found.volunteer)
        if profile is None or volunteer is None:
            return ["risk-unknown"]
        day = self.now.astimezone(LONDON).date()
        return domain.bars(domain.Pair(profile, volunteer, day), at_start=True)


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did: the offers that it asked for, and why the others still wait."""

    ran: bool
    offers: list[UUID]
    unmatched: dict[UUID, dict[str, int]]


async def expire(session: AsyncSession) -> int:
    """Let the offers expire whose time has passed; how many."""
    clients = await repository.lock_clients(session, await repository.expiring(session))
    now = await repository.now(session)
    count = 0
    for client in clients.values():
        found = client.open_match()
        if found and found.state != State.ACTIVE and found.expires_at <= now:
            found.move(State.EXPIRED, Actor.RULE, now, Reason.NOT_ANSWERED)
            count += 1
    await repository.save(session, clients.values(), (), ())
    return count


async def run_round_if_due(session: AsyncSession) -> Round | None:
    """Run a round if somebody waits and something changed."""
    return await run_round(session) if await repository.round_due(session) else None


async def run_round(session: AsyncSession) -> Round:
    """Find the best mentors for all who wait, and ask the door to offer them.

    The search holds no lock on anybody. What it found is locked, read again and asked again before it is written.
    """
    if not await repository.try_round_lock(session):
        return Round(False, [], {})
    now = await repository.now(session)
    await repository.round_done(session, now)
    waiting = await repository.clients(session, await repository.waiting(session))
    profiles = [p for client in waiting.values() if (p := domain.profile(client))]
    past = _past(await repository.past(session, list(waiting), now), waiting)
    volunteers = await repository.volunteers(session)
    solution = await asyncio.to_thread(domain.solve, profiles, volunteers, past, now)
    faults.point("matching.solved")
    found = solution.assignments
    clients = await repository.lock_clients(session, {a.client.client for a in found})
    locked = await repository.lock_volunteers(session, {a.volunteer.id for a in found})
    past = _past(await repository.past(session, list(clients), now), clients)
    now = await repository.now(session)
    outgoing = []
    for a in found:
        client, volunteer = clients[a.client.client], locked.get(a.volunteer.id)
        profile = domain.profile(client)
        if volunteer is None or profile is None or client.open_match():
            continue
        before = domain.past_of(past, client.reference, volunteer)
        if domain.bars(domain.Pair(profile, volunteer, now.astimezone(LONDON).date(), before)):
            continue
        locked[volunteer.id] = replace(volunteer, caseload=volunteer.caseload + 1)
        outgoing.append(_offer(client, profile, a, now))
    await repository.save(session, clients.values(), (), ())
    await outbox.add(session, outgoing)
    offers = [m.id for client in clients.values() for m in client.matches if m.moves]
    return Round(True, offers, solution.unmatched)


def _offer(client: Client, profile: domain.Profile, a: domain.Assignment, now: datetime) -> Outgoing:
    if profile.origin is None:
        raise AssertionError("a client whose risk is not known is never offered a mentor")
    expires = now + OFFER_STANDS
    made = Match(client.reference, a.volunteer.id, a.volunteer.scheme, expires, profile.origin, request=uuid4())
    made.explanation = {"scores": a.scores, "passed": [rule.name for rule in domain.RULES]}
    made.begin(now)
    client.matches.append(made)
    data = events.OfferRequestData(
        request=made.request,
        client=client.reference,
        recipient=made.scheme,
        origin=profile.origin,
        about=[Category.IDENTITY],  # an offer is of a mentor for somebody: without saying for whom it is none
        include=[Category.IDENTITY, Category.CUSTODY_AND_RELEASE, *sorted(profile.needs)],
        message=events.OfferMessage(offer=made.id, mentor=made.volunteer, expires_at=made.expires_at),
    )
    return events.requested(data, now, None)


def _past(rows: Sequence[RowMapping], clients: Mapping[UUID, Client]) -> domain.Past:
    found: dict[tuple[UUID, UUID | str], frozenset[str]] = {}
    for row in rows:
        if row.state != State.WITHDRAWN:
            pair = (row.client, row.volunteer)
            found[pair] = found.get(pair, frozenset()) | {str(row.state)}
            continue
        facts_at = clients[row.client].facts_at
        if facts_at is None or facts_at <= row.changed_at:
            found[row.client, row.scheme] = frozenset({"denied"})
    return found


async def put_volunteer(session: AsyncSession, id: UUID, values: Mapping[str, Any], *, within: str | None) -> None:
    """Write one volunteer: `within` one agency its own only.

    Raises:
        Problem: the volunteer is another scheme's.
    """
    own = within is None or within == values["scheme"]
    if not own or not await repository.put_volunteer(session, id, values, within):
        raise Problem(
            "not-yours",
            "This volunteer is another scheme's",
            "Write volunteers with your own agency as scheme, under ids of your own, or ask the operator to do it.",
            403,
        )


async def volunteers(session: AsyncSession, limit: int) -> Sequence[RowMapping]:
    """Volunteers with their caseloads."""
    return await repository.listed_volunteers(session, limit)


async def matches(
    session: AsyncSession, client: UUID | None, state: str | None, limit: int, *, within: str | None
) -> Sequence[RowMapping]:
    """Matches, newest first: `within` one agency those that rest on its assessment or that it was offered."""
    return await repository.matches(session, within, client, state, limit)
