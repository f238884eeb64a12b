"""Use cases of referral: load, decide, write rows and outbox. Commits nothing: the caller does."""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import door
from contracts.cleared import Section, Stop
from contracts.leaving import (
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    OfferAnswerPassed,
    ReferralAnswerPassed,
    ReferralSentMessage,
    SettledData,
    Withheld,
)
from contracts.requests import ReferralRequestData
from contracts.vocabulary import Category
from referral import events, repository
from referral.domain import (
    KEPT,
    RESPOND_WITHIN,
    Actor,
    Client,
    NotAllowedError,
    Reason,
    Referral,
    Service,
    State,
    bars,
    choose,
    is_wanting,
)
from servicekit import outbox
from servicekit.problems import Problem
from servicekit.sql import time_now

log = logging.getLogger(__name__)


async def _begin(session: AsyncSession, received: Sequence[door.Received]) -> "Batch":
    clients = await repository.lock_clients(session, {r.client for r in received})
    work = Batch(clients, await time_now(session))
    if pathways := work.pathways_at_stake(received):
        work.directory = await repository.lock_directory(session, pathways)
        work.now = await time_now(session)
    return work


apply = events.DOOR.applying(_begin, repository.save)
"""How a batch of records is applied."""
poison = events.DOOR.poison(repository.erase_poisoned)
"""What is done with an event that cannot be applied, besides keeping it."""


class Batch(door.Batch[Client]):
    """A batch on its way: the locked clients and directory, and what is to be written. No I/O."""

    def __init__(self, clients: dict[UUID, Client], now: datetime) -> None:
        super().__init__(events.DOOR, clients, now)
        self.directory: dict[UUID, Service] = {}

    def pathways_at_stake(self, batch: Sequence[door.Received]) -> set[str]:
        """The pathways on which a service may have to be chosen: their lines are to be locked."""
        found: set[str] = set()
        # The usual batch. It ends no referral, and most of its needs have theirs already.
        only_facts = all(isinstance(r.event, ClientSnapshot | ClientChanged) for r in batch)
        for r in batch:
            client = self.clients[r.client]
            match r.event:
                case ClientSnapshot() | ClientChanged():
                    found |= {
                        s.category
                        for s in door.sections(r.event, KEPT)
                        if is_wanting(s) and (not only_facts or _unreferred(client, s.category))
                    }
                case ReferralAnswerPassed() if r.event.data.message.answer == "declined":
                    found |= {x.pathway for x in client.referrals if x.id == r.event.data.message.referral}
                case ClientWithdrawn() if r.event.data.recipients is not None:
                    found |= {x.pathway for x in client.referrals if x.provider in r.event.data.recipients}
        return found

    def stop(self, client: Client, stop: Stop, traceparent: str | None) -> None:
        """End what a retraction reaches. Where it is only for some recipients, the need goes to another at once."""
        ended = client.reached(stop)
        for referral in ended:
            self._free(referral)
        client.stop(stop, self.now)
        if stop.recipients is not None:
            for referral in ended:
                self._pass_on(client, referral, traceparent, never=stop.recipients)

    def learn(self, client: Client, event: ClientSnapshot | ClientChanged, traceparent: str | None) -> None:
        """Keep facts, and make a referral of each need that calls for one and has none."""
        client.heard(event.data.receipt.decided_on)
        sections = door.sections(event, KEPT)
        client.keep(*sections)  # all of them first: age and area may stand apart
        for section in sections:
            if is_wanting(section) and _unreferred(client, section.category):
                referral = client.open_referral(section.category) or self._new(client, section)
                self._propose(client, referral, section, traceparent)

    def _new(self, client: Client, section: Section, follows: UUID | None = None) -> Referral:
        referral = Referral(
            client.reference, section.category, section.source, self.now + RESPOND_WITHIN, follows=follows
        )
        referral.record(Actor.RULE, self.now)
        client.referrals.append(referral)
        return referral

    def _pass_on(
        self, client: Client, ended: Referral, traceparent: str | None, never: Collection[str] = frozenset()
    ) -> None:
        """Propose the next best service for the need of a referral that came to nothing, while the need is known."""
        section = client.need(ended.pathway, ended.origin)
        if section is not None:
            referral = self._new(client, section, follows=ended.id)
            self._propose(client, referral, section, traceparent, never=never)

    def _propose(
        self,
        client: Client,
        referral: Referral,
        section: Section,
        traceparent: str | None,
        never: Collection[str] = frozenset(),
    ) -> None:
        """Choose the best service for a draft and ask the door; without one it stays a draft, explained.

        An agency for which the door denied this draft, that was to be told no more, or that declined the client for
        what was erased since, comes last; those that are `never` to be asked are not looked at.
        """
        avoided = (
            client.avoided | client.once_declined_by(self.now) | ({referral.provider} if referral.provider else set())
        )
        candidates = [s for s in self.directory.values() if s.organization not in never]
        best, referral.eligibility = choose(
            candidates, client, referral.pathway, section.data.get("area"), self.now, avoided
        )
        referral.origin = section.source
        if best is None:
            if not referral.moves:  # an older draft was looked at again, and stays
                referral.record(Actor.RULE, self.now)
            return
        self.assign(referral, best, Actor.RULE, traceparent)

    def assign(self, referral: Referral, service: Service, by: Actor, traceparent: str | None) -> None:
        """Hold a place at the service and ask the door to tell its provider."""
        referral.move(State.AWAITING, by, self.now)
        referral.service, referral.provider = service.id, service.organization
        referral.respond_by = self.now + RESPOND_WITHIN
        referral.withheld = []
        service.held += 1
        self._ask(referral, traceparent)

    def _ask(self, referral: Referral, traceparent: str | None) -> None:
        if referral.provider is None:
            raise AssertionError("a referral that is asked about has a provider")
        referral.request = uuid4()
        data = ReferralRequestData(
            request=referral.request,
            client=referral.client,
            recipient=referral.provider,
            origin=referral.origin,
            about=[referral.pathway],
            include=[Category.IDENTITY, Category.CONTACT, Category.CUSTODY_AND_RELEASE, referral.pathway],
            message=ReferralSentMessage(
                referral=referral.id,
                service=str(referral.service),
                pathway=referral.pathway,
                respond_by=referral.respond_by,
            ),
        )
        self.outgoing.append(events.requested(data, self.now, traceparent))

    def settle(self, client: Client, settled: SettledData, traceparent: str | None) -> None:
        """Take in what became of the request that is outstanding; of an older one it does not matter any more."""
        referral = next((r for r in client.referrals if r.request == settled.request), None)
        if referral is None or referral.state != State.AWAITING:
            return
        match settled.outcome:
            case "sent":
                referral.move(State.SENT, Actor.DOOR, self.now)
            case "denied":
                self._free(referral)
                referral.move(State.DRAFT, Actor.DOOR, self.now)
                referral.withheld = [_rule(w) for w in settled.withheld]
            case "cancelled":  # a withdrawal would have ended the referral: it is open, so it is asked again
                referral.move(State.AWAITING, Actor.DOOR, self.now)
                self._ask(referral, traceparent)

    def answer(
        self,
        client: Client,
        event: ReferralAnswerPassed | OfferAnswerPassed,
        traceparent: str | None,
    ) -> None:
        """Take in a provider's answer to a referral."""
        if isinstance(event, OfferAnswerPassed):
            super().answer(client, event, traceparent)
            return
        provider, answer = event.data.provider, event.data.message
        referral = next((r for r in client.referrals if r.id == answer.referral), None)
        if referral is None or referral.provider != provider:
            log.warning("ignored an answer: it is not its sender's referral")
            return
        if referral.state == State.AWAITING:  # the provider was faster than the door's word that it was told
            referral.move(State.SENT, Actor.DOOR, self.now)
        try:
            if answer.answer == "accepted":
                referral.move(State.ACCEPTED, Actor.PROVIDER, self.now)
                return
            referral.move(State.DECLINED, Actor.PROVIDER, self.now, Reason.read(answer.reason))
        except NotAllowedError:
            log.warning("ignored an answer: the referral is %s", referral.state)
            return
        self._free(referral, left=True)
        self._pass_on(client, referral, traceparent)

    def _free(self, referral: Referral, left: bool = False) -> None:
        """Give the place back, in memory; in the database it is the state that holds it."""
        if (left or referral.holds_place) and referral.service in self.directory:
            self.directory[referral.service].held -= 1


def _unreferred(client: Client, pathway: Category) -> bool:
    """Whether the pathway has no referral yet, or one that found no service or no permit."""
    referral = client.open_referral(pathway)
    return referral is None or referral.state == State.DRAFT


def _rule(withheld: Withheld) -> dict[str, str]:
    return withheld.model_dump(mode="json", by_alias=True)


async def put_service(session: AsyncSession, id: UUID, values: Mapping[str, Any], *, within: str | None) -> None:
    """Write one line of the directory: `within` one agency its own only.

    Raises:
        Problem: it is another agency's.
    """
    own = within is None or within == values["organization"]
    if not own or not await repository.put_service(session, id, values, within):
        raise Problem(
            "not-yours",
            "This line of the directory is another organization's",
            "Write lines with your own agency as organization, under ids of your own, or ask the operator to do it.",
            403,
        )


async def refer(
    session: AsyncSession,
    reference: UUID,
    pathway: Category,
    service_id: UUID,
    traceparent: str | None,
    *,
    within: str | None,
) -> UUID:
    """A practitioner refers a client to a service; gives the referral's id. `within` one agency for the need that it
    recorded itself: of what others recorded the answer says nothing.

    Raises:
        Problem: client, need or service is not known, the service does not fit, or a referral is open already.
    """
    client = await repository.lock_known_client(session, reference)
    section = client.need(pathway, within) if client else None
    if client is None or section is None or within not in (None, section.source):
        raise Problem(
            "need-not-known",
            "No need of this client on this pathway that your agency recorded has been cleared",
            "Record the need in your case system, see that the client agrees to referrals, then refer again.",
            409,
        )
    directory = await repository.lock_directory(session, [pathway])
    work = Batch({reference: client}, await time_now(session))
    work.directory = directory
    service = directory.get(service_id)
    if service is None:
        raise Problem(
            "service-not-found",
            "The directory has no such service on this pathway",
            "Choose one that GET /services lists for this pathway.",
            404,
        )
    referral = client.open_referral(pathway)
    if referral is not None and referral.state != State.DRAFT:
        raise Problem(
            "referral-open",
            "The client has an open referral on this pathway",
            "Follow the open referral at GET /referrals, or have it ended before making another.",
            409,
        )
    area = section.data.get("area")
    if found := bars(service, client, pathway, area, work.now):
        raise Problem(
            "not-eligible",
            "The client cannot be referred there",
            f"Choose another service: {', '.join(found)}.",
            409,
        )
    if referral is None:
        referral = Referral(reference, pathway, section.source, work.now + RESPOND_WITHIN)
        referral.record(Actor.PRACTITIONER, work.now)
        client.referrals.append(referral)
    referral.origin = section.source
    _, referral.eligibility = choose(directory.values(), client, pathway, area, work.now)
    work.assign(referral, service, Actor.PRACTITIONER, traceparent)
    await repository.save(session, [client])
    await outbox.add(session, work.outgoing)
    return referral.id


async def referral(session: AsyncSession, id: UUID, *, within: str | None) -> tuple[RowMapping, Sequence[RowMapping]]:
    """One referral and its history, if `within` does not keep it from view.

    Raises:
        Problem: there is none with that id, or none that concerns that agency.
    """
    found = await repository.referrals(session, within, id=id)
    if not found:
        raise Problem(
            "referral-not-found",
            "There is no such referral",
            "Take the id from GET /referrals, or from the event.",
            404,
        )
    return found[0], await repository.history(session, within, id)
