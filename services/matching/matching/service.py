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

from contracts import door
from contracts.cleared import Stop
from contracts.leaving import (
    ClientChanged,
    ClientSnapshot,
    OfferAnswerPassed,
    OfferMessage,
    ReferralAnswerPassed,
    SettledData,
)
from contracts.requests import OfferRequestData
from contracts.vocabulary import LONDON, Category
from matching import domain, events, repository
from matching.domain import KEPT, OFFER_STANDS, TOLD, Actor, Client, Match, Reason, State
from servicekit import faults, outbox
from servicekit.kafka import Outgoing
from servicekit.problems import Problem
from servicekit.sql import time_now

log = logging.getLogger(__name__)


async def _begin(session: AsyncSession, received: Sequence[door.Received]) -> "Batch":
    clients = await repository.lock_clients(session, {r.client for r in received})
    work = Batch(clients, await time_now(session))
    if answered := work.volunteers_that_answer(received):
        work.volunteers = await repository.lock_volunteers(session, answered)
        work.now = await time_now(session)
    return work


apply = events.DOOR.applying(_begin, repository.save)
"""How a batch of records is applied."""
poison = events.DOOR.poison(repository.erase_poisoned)
"""What is done with an event that cannot be applied, besides keeping it."""


class Batch(door.Batch[Client]):
    """A batch on its way: the locked clients, and what is to be written. No I/O."""

    def __init__(self, clients: dict[UUID, Client], now: datetime) -> None:
        super().__init__(events.DOOR, clients, now)
        self.volunteers: dict[UUID, domain.Volunteer] = {}

    def volunteers_that_answer(self, batch: Sequence[door.Received]) -> set[UUID]:
        """The volunteers whose offers are answered in this batch: their checks are asked about again."""
        offers = {r.event.data.message.offer for r in batch if isinstance(r.event, OfferAnswerPassed)}
        return {m.volunteer for client in self.clients.values() for m in client.matches if m.id in offers}

    def stop(self, client: Client, stop: Stop, traceparent: str | None) -> None:
        """End the match that a retraction reaches; the next round finds another mentor, where it may."""
        client.stop(stop, self.now)

    def learn(self, client: Client, event: ClientSnapshot | ClientChanged, traceparent: str | None) -> None:
        """Keep facts; the next round goes by them."""
        client.heard(event.data.receipt.decided_on)
        client.waiting_since = client.waiting_since or self.now
        client.facts_at = self.now
        client.keep(*door.sections(event, KEPT))

    def settle(self, client: Client, settled: SettledData, traceparent: str | None) -> None:
        """Take in what became of the request to offer."""
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

    def answer(
        self,
        client: Client,
        event: ReferralAnswerPassed | OfferAnswerPassed,
        traceparent: str | None,
    ) -> None:
        """Take in a scheme's answer to an offer."""
        if isinstance(event, ReferralAnswerPassed):
            super().answer(client, event, traceparent)
            return
        scheme, answer = event.data.provider, event.data.message
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
    origins: Mapping[UUID, str | None]
    """Of each offer and each client who waits: the agency whose assessment of risk it goes by."""

    def seen_by(self, within: str | None) -> "Round":
        """The round as far as `within` one agency may know of it: what goes by that agency's own assessment."""
        if within is None:
            return self
        own = {id: origin for id, origin in self.origins.items() if origin == within}
        unmatched = {client: why for client, why in self.unmatched.items() if client in own}
        return Round(self.ran, [offer for offer in self.offers if offer in own], unmatched, own)


async def expire(session: AsyncSession) -> int:
    """Let the offers expire whose time has passed; how many."""
    clients = await repository.lock_clients(session, await repository.expiring(session))
    now = await time_now(session)
    count = 0
    for client in clients.values():
        found = client.open_match()
        if found and found.state != State.ACTIVE and found.expires_at <= now:
            found.move(State.EXPIRED, Actor.RULE, now, Reason.NOT_ANSWERED)
            count += 1
    await repository.save(session, clients.values())
    return count


async def run_round_if_due(session: AsyncSession) -> Round | None:
    """Run a round if somebody waits and something changed."""
    return await run_round(session) if await repository.round_due(session) else None


async def run_round(session: AsyncSession) -> Round:
    """Find the best mentors for all who wait, and ask the door to offer them.

    The search holds no lock on anybody. What it found is locked, read again and asked again before it is written.
    """
    if not await repository.try_round_lock(session):
        return Round(False, [], {}, {})
    now = await time_now(session)
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
    now = await time_now(session)
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
        outgoing.append(_offer(client, profile, volunteer, a.scores, now))
    await repository.save(session, clients.values())
    await outbox.add(session, outgoing)
    offers: dict[UUID, str | None] = {m.id: m.origin for client in clients.values() for m in client.matches if m.moves}
    waits = {p.client: p.origin for p in profiles if p.client in solution.unmatched}
    return Round(True, list(offers), solution.unmatched, offers | waits)


def _offer(
    client: Client, profile: domain.Profile, volunteer: domain.Volunteer, scores: Mapping[str, float], now: datetime
) -> Outgoing:
    if profile.origin is None:
        raise AssertionError("a client whose risk is not known is never offered a mentor")
    expires = now + OFFER_STANDS
    made = Match(client.reference, volunteer.id, volunteer.scheme, expires, profile.origin, request=uuid4())
    made.explanation = {"scores": scores, "passed": [rule.name for rule in domain.RULES]}
    made.begin(now)
    client.matches.append(made)
    data = OfferRequestData(
        request=made.request,
        client=client.reference,
        recipient=made.scheme,
        origin=profile.origin,
        about=sorted(TOLD),
        include=[Category.IDENTITY, Category.CUSTODY_AND_RELEASE, *sorted(profile.needs)],
        message=OfferMessage(offer=made.id, mentor=made.volunteer, expires_at=made.expires_at),
    )
    return events.requested(data, now, None)


def _past(rows: Sequence[RowMapping], clients: Mapping[UUID, Client]) -> domain.Past:
    found: dict[tuple[UUID, UUID | str], frozenset[str]] = {
        (client.reference, scheme): frozenset({domain.AVOIDED})
        for client in clients.values()
        for scheme in client.avoided
    }
    for row in rows:
        if row.state != State.WITHDRAWN:
            pair = (row.client, row.volunteer)
            found[pair] = found.get(pair, frozenset()) | {str(row.state)}
            continue
        facts_at = clients[row.client].facts_at
        if facts_at is None or facts_at <= row.changed_at:
            pair = (row.client, row.scheme)
            found[pair] = found.get(pair, frozenset()) | {"denied"}
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
