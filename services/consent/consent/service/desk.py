"""What a change of facts makes of one client: its next version, queue rows, retractions. In memory, written at the end.

The caller holds the lock of every client on the desk. Events are applied one after the other, so an event sees what the
events before it in the same batch did.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

import orjson

from consent.domain import (
    Agency,
    GatewayInvoked,
    Granted,
    Item,
    OverrideAuthorised,
    Question,
    Scope,
    SharingFact,
    Withdrawn,
    acts_for,
    decide,
    why_void,
)
from consent.domain.retention import REMEMBERED
from consent.events import CHANGED, SNAPSHOT
from consent.repository.changes import Changes
from consent.repository.clients import Client, Hold, Identifier, Reference
from consent.repository.due import CONVICTION, Due
from consent.repository.queue import RECORD, QueueRow
from consent.repository.recorded import section
from consent.repository.retractions import StopRow
from consent.repository.sharing import Said
from consent.service.notices import Owed, queue_retraction, withdrawal_done
from consent.service.register import Register, Subscription, merged
from consent.service.sections import OFFENCE, spent_convictions, withheld_from
from contracts.vocabulary import AgencyKind, Category, Purpose
from servicekit.auth import OPERATOR

THE_DOOR = "throughgate"
"""Who says what no agency said."""
CANNOT_BE_READ = Hold(THE_DOOR, "cannot-be-read")
"""Of a client of whom something cannot be read (`service.holds`). Once that is mended, lifting it offers what was
withheld meanwhile."""
RESTORED = Hold(OPERATOR, "lost-in-a-restore")
"""Of what was retracted of which nobody can tell any more what it rested on (`service.restoring`)."""

F = TypeVar("F", bound=SharingFact)


@dataclass(frozen=True, slots=True)
class Cause:
    """By whose word something stops, is held or is erased."""

    agency: str | None
    """The agency that published it: it is told when every retraction is done. None: nobody is."""
    event_id: str | None
    """Of its event; None: it is not at hand any more."""
    traceparent: str | None
    """The trace that what comes of it is part of."""

    @property
    def said_by(self) -> str:
        """Whose word it is in the client's history."""
        return self.agency or THE_DOOR


BY_THE_DOOR = Cause(None, None, None)
"""What no agency published, and of which none is told when it is done."""


@dataclass(frozen=True, slots=True)
class Erasure:
    """What is to be erased of one client once everything else of its batch is written (`service.erasing`)."""

    client: Client
    sections: Mapping[tuple[str, str], datetime] | None
    """(source, category) to a time: what was recorded up to then goes. None: all that is kept of the client."""
    withdrawal: UUID
    """The stop by which recipients are told."""
    because: str
    asked_by: str | None = None


class Desk:
    """The clients of a batch, what is agreed, and what the batch is going to write."""

    def __init__(self, clients: dict[int, Client], register: Register, now: datetime) -> None:
        self.known: dict[Identifier, frozenset[int]] = {}
        """Whom each identifier of the batch may mean: one client, or those whose link was undone."""
        self.held_numbers: set[tuple[Identifier, Hold]] = set()
        """The open holds of numbers that no client has."""
        self.open_holds: dict[str, int] = {}
        """How many holds are open by the word of each agency (`service.holds`)."""
        self.clients = clients
        self.register = register
        self.now = now
        self.changes = Changes()
        for client in clients.values():
            if CANNOT_BE_READ not in client.holds:
                self.changes.holds.update((row, CANNOT_BE_READ) for row in client.damaged)
        self.erasures: list[Erasure] = []
        """What goes once the changes are written."""

    def reference(self, client: Client, recipient: str, *, queued: bool, recorded: bool = False) -> Reference:
        """The client's reference for a recipient, made when there is none yet; `recorded` when it records something."""
        known = client.references.get(recipient)
        if known is None:
            known = client.references[recipient] = Reference(uuid4(), recipient, queued, client.id, recorded)
            self.changes.references.append(known)
            return known
        if queued and not known.queued:
            known.queued = True  # also one made in this batch: its row is written with what it says by then
            self.changes.first_queued.append(known.id)
        if recorded and not known.recorded:
            known.recorded = True
            self.changes.first_recorded.append(known.id)
        return known

    def queue_record(
        self,
        client: Client,
        recipient: Agency,
        purpose: Purpose,
        type: str,
        body: dict[str, Any],
        traceparent: str | None,
        *,
        due_at: datetime | None = None,
        requester: str | None = None,
        reference_of_requester: UUID | None = None,
        request: UUID | None = None,
    ) -> None:
        """Queue a record for `recipient`: `sections`, and where there is a `message`, the items that it is `about`."""
        reference = self.reference(client, recipient.id, queued=True)
        self.changes.queue.append(
            QueueRow(
                kind=RECORD,
                client_id=client.id,
                recipient=recipient.id,
                topic=recipient.topic,
                reference=reference.id,
                type=type,
                purpose=purpose.value,
                body=orjson.dumps(body).decode(),
                due_at=due_at or self.now,
                requester=requester,
                reference_of_requester=reference_of_requester,
                request=request,
                traceparent=traceparent,
                keyed_by=reference.client,
            )
        )

    # --- facts --------------------------------------------------------------------------------------------------------

    def record(
        self, client: Client, source: str, facts: dict[str, Any], recorded_at: datetime, traceparent: str | None
    ) -> None:
        """Keep facts, and queue the change for everyone who is to get one of its categories unasked. A conviction falls
        due when it begins to be withheld: at once, where it is.
        """
        sections = []
        for category, data in facts.items():
            made = section(source, category, recorded_at, data)
            client.sections[source, category] = made
            self.changes.facts[client.id, source, category] = (recorded_at, orjson.dumps(data).decode())
            sections.append(made)
            if category == OFFENCE and (at := withheld_from(data, self.now)) is not None:
                self.changes.due.append(Due(client.id, CONVICTION, at, source=source))
        for subscription in self._subscriptions(client, source):
            if any(category in subscription.categories for category in facts):
                to = client, subscription.recipient, subscription.purpose
                if subscription.starts <= self.now:
                    self.queue_record(*to, CHANGED, {"sections": sections}, traceparent)
                else:  # read when it leaves: by then this may have been corrected
                    self.queue_record(*to, SNAPSHOT, {}, traceparent, due_at=subscription.starts)

    def _subscriptions(self, client: Client, source: str) -> list[Subscription]:
        """Who gets what this source records of the client, unasked: by an agreement, a gateway or an override."""
        agreed = self.register.subscriptions(source, self.now)
        invoked = list(self._following(client, source))
        return merged([*agreed, *invoked]) if invoked else agreed

    def _following(self, client: Client, source: str) -> Iterator[Subscription]:
        """By the gateways and overrides that let out what this source records, unless they were for one disclosure.

        They are asked of the rules beforehand: there is no sense in queueing for those whom they do not reach. One that
        has yet to begin gives a snapshot then (`service.clock`).
        """
        for said in client.facts.said:
            if not isinstance(said, GatewayInvoked | OverrideAuthorised) or not said.starts <= self.now < said.ends:
                continue
            items = tuple(Item(source, category) for category in sorted(said.categories))
            for id in sorted((said.recipients & self.register.agencies.keys()) - {source}):
                recipient = self.register.agencies[id]
                for purpose in sorted(said.purposes):
                    question = Question(recipient, purpose, items, self.now, spent={source: None}, asked=False)
                    permits = decide(question, client.facts, self.register.policy).permits
                    reached = frozenset(p.item.category for p in permits if p.invoked is not None)
                    if reached:
                        yield Subscription(recipient, purpose, reached, said.starts)

    # --- what is said about sharing -----------------------------------------------------------------------------------

    def grant(
        self, client: Client, granted: Granted, form: str, form_seen: bool, event_id: str, details: dict[str, Any]
    ) -> Granted:
        """Add a grant to the history. `why_void` says whether it takes effect after what the client said no to before.

        Void is also one that comes more than `REMEMBERED` after it was given, of a client whom the door did not know:
        all that was said of this person may have been erased since, and nothing is left by which to know.
        """
        void = why_void(granted.given_at, client.facts.said, form_seen)
        was_unknown = client.since is None or granted.given_at < client.since
        if void is None and was_unknown and granted.given_at < self.now - REMEMBERED:
            void = "consent-withdrawn"
        granted = replace(granted, void=void)
        return self.say(client, granted, event_id, form, details)

    def say(
        self, client: Client, fact: F, event_id: str, own_id: str | None = None, details: dict[str, Any] | None = None
    ) -> F:
        """Add a fact to the client's history, as its next version."""
        fact = replace(fact, version=client.version + 1)
        client.say(fact)
        self.changes.versions[client.id] = client.version
        self.changes.said.append(
            Said(client.id, fact, event_id, own_id, orjson.dumps(details or {}).decode(), self.now)
        )
        return fact

    def next_version(self, client: Client) -> None:
        """Let a new version begin without anything said: what was decided before it is not to stand behind it."""
        client.version += 1
        client.facts = replace(client.facts, version=client.version)
        self.changes.versions[client.id] = client.version

    def withdraw(
        self,
        client: Client,
        at: datetime,
        scope: Scope,
        cause: Cause,
        *,
        refused: bool = False,
    ) -> UUID:
        """Add a no to the history and retract what rested on consent. Gives the id under which it can be followed."""
        no = self.say(client, Withdrawn(0, cause.said_by, at, scope, refused), cause.event_id or "")
        # What is about another service of the same agency may rest on the same consent behind it.
        by_service = scope.recipients is not None and scope.recipients.services
        version = None if by_service else no.version
        return self.stop(client, scope, cause, because="withdrawn", consent_version=version)

    def stop(
        self,
        client: Client,
        scope: Scope,
        cause: Cause,
        *,
        because: str,
        consent_version: int | None = None,
        allowed: frozenset[str] = frozenset(),
    ) -> UUID:
        """Queue a retraction for everyone whom a stop reaches who was ever sent or queued anything of the client.

        That includes a recipient of whose rows none has left yet: one may have been decided a moment ago and be on
        its way. The stop itself is already in the history, so the client's version is the one from which it holds.
        `allowed` are the recipients that it does not reach. A kind of agency in an area is those that are of it
        now, for who comes to it later was told nothing. An agency of which it names a service is told to stop too: what
        it has is not kept apart by service.
        """
        owed = []
        who, agencies = scope.recipients, self.register.agencies
        named_now = None if who is None else frozenset(id for id, one in agencies.items() if who.name_any_of(one))
        for reference in [*client.references.values(), *client.former]:
            recipient = self.register.agencies[reference.recipient]
            named = Purpose if scope.purposes is None else scope.purposes
            purposes = [p for p in sorted(named) if acts_for(recipient, p)]
            reached = recipient.id not in allowed and (named_now is None or recipient.id in named_now)
            if not reference.queued or not purposes or not (reached or recipient.kind is AgencyKind.SERVICE):
                continue
            # One of our services that is not reached itself stops telling those who are.
            others = None if reached else named_now
            if not reached and others is None:
                others = frozenset(self.register.partners) - allowed
            if others is not None and not others:
                continue
            categories = self._could_be_told(client, recipient, scope.categories)
            if categories is None or categories:
                owed.append(Owed(reference, purposes, categories, others))
        return self.retract(client, owed, cause, because=because, consent_version=consent_version)

    def _could_be_told(
        self, client: Client, recipient: Agency, categories: frozenset[Category] | None
    ) -> frozenset[Category] | None:
        """Those of these categories of which a recipient may ever have been told: from the others it would learn that
        something of them is known. Under a link that was undone anything may have left. None: all.
        """
        if categories is None or recipient.kind is AgencyKind.SERVICE or client.former:
            return categories
        told = self.register.categories.get(recipient.id, frozenset())
        for said in client.facts.said:
            if isinstance(said, GatewayInvoked | OverrideAuthorised) and recipient.id in said.recipients:
                told |= said.categories
        return categories & told

    def retract(
        self,
        client: Client,
        owed: Sequence[Owed],
        cause: Cause,
        *,
        because: str,
        consent_version: int | None = None,
    ) -> UUID:
        """Queue these retractions as one stop, which holds from the client's version on; gives its id.

        The agency that caused it is told when it is done, and by name of those whom it may know of.
        """
        agency, event_id, traceparent = cause.agency, cause.event_id, cause.traceparent
        stop = StopRow(uuid4(), client.id, client.version, because, self.now, agency, event_id, traceparent)
        self.changes.stops.append(stop)
        named = self._may_know_of(agency, client)
        for one in owed:
            id = one.reference.recipient
            topic = self.register.agencies[id].topic
            queue_retraction(self.changes, stop, one, topic, consent_version=consent_version, named=id in named)
        if not owed and agency is not None:
            self.changes.queue.append(withdrawal_done(client.id, stop.id, agency, event_id, [], self.now, traceparent))
        return stop.id

    def _may_know_of(self, agency: str | None, client: Client) -> frozenset[str]:
        """The recipients of a client whom an agency may know of: itself, whom it tells by an agreement in force what it
        recorded of the client, and whom its own consent, gateway or override named.

        Not whom its stop names: it could name everybody, to learn who was told. For that reason the others are not
        counted either.
        """
        if agency is None:
            return frozenset()
        found = {agency}
        if any(source == agency for source, _ in client.sections):
            found |= self.register.tells(agency, self.now)
        for said in client.facts.said:
            if said.asserted_by == agency:
                match said:
                    case Granted() if said.void is None:
                        found |= said.recipients.agencies | {provider for provider, _ in said.recipients.services}
                    case GatewayInvoked() | OverrideAuthorised():
                        found |= said.recipients
        return frozenset(found)

    def hold(self, client: Client, reason: str, cause: Cause) -> None:
        """Deny everything for this client until a person has looked: a stopping event could not be applied.

        Coalesced: while one is open for the same reason by the same agency's word, another only counts. What the client
        may have taken back by it was denied already, and is said once more when it is lifted (`service.holds`).
        """
        hold = Hold(cause.said_by, reason)
        is_open = hold in client.holds
        self.changes.holds[client.holds.setdefault(hold, client.id), hold] += 1
        if is_open:
            return
        client.facts = replace(client.facts, held=True, parts=tuple(replace(p, held=True) for p in client.facts.parts))
        self.say_no(client, self.now, cause, because="held")

    def say_no(self, client: Client, at: datetime, cause: Cause, *, because: str) -> None:
        """Add to the history that the client said no to everything at that time, and retract what rested on consent.

        Nobody is told when it is done: an agency that may not know of the client would learn that there is one.
        """
        no = self.say(client, Withdrawn(0, cause.said_by, at), cause.event_id or "")
        untold = replace(BY_THE_DOOR, traceparent=cause.traceparent)
        self.stop(client, Scope(), untold, because=because, consent_version=no.version)

    def falls_due(
        self, client: Client, version: int, kind: str, begins: datetime | None, ends: datetime | None
    ) -> bool:
        """Remember when what was said begins, or once it has, when it ends (`service.clock`). Whether it has begun."""
        begun = begins is None or begins <= self.now
        at = ends if begun else begins
        if at is not None:
            self.changes.due.append(Due(client.id, kind, at, version))
        return begun

    def offer_snapshots(
        self,
        client: Client,
        traceparent: str | None,
        *,
        resting_on: int | None = None,
        once: bool = False,
        to: Collection[tuple[str, Purpose]] | None = None,
    ) -> None:
        """Queue a snapshot for each recipient to whom something is permitted now though nobody asked; it is read when
        it leaves. What begins later is offered then.

        With `resting_on`, only for those whose permit rests on what was said at that version and so begins by it, for
        this one disclosure if it is `once`; with `to`, only for these recipients and purposes.
        """
        own = [resting_on] if once and resting_on is not None else []
        items = tuple(Item(source, Category(category)) for source, category in client.sections)
        spent = spent_convictions(client.sections.values())
        for (id, purpose), recipient in sorted(self._may_be_told(client).items(), key=lambda pair: pair[0]):
            if to is not None and (id, purpose) not in to:
                continue
            others = tuple(i for i in items if i.source != recipient.id)
            question = Question(recipient, purpose, others, self.now, spent=spent, asked=False, once=frozenset(own))
            permits = decide(question, client.facts, self.register.policy).permits
            if any(resting_on is None or resting_on in (p.consent, p.invoked) for p in permits):
                body = {"once": own} if own else {}
                self.queue_record(client, recipient, purpose, SNAPSHOT, body, traceparent)

    def _may_be_told(self, client: Client) -> dict[tuple[str, Purpose], Agency]:
        """Who gets what is recorded without asking: by a subscription, or named by a gateway or an override."""
        found = {
            (s.recipient.id, s.purpose): s.recipient
            for source, _ in client.sections
            for s in self.register.subscriptions(source, self.now)
        }
        for said in client.facts.said:
            if isinstance(said, GatewayInvoked | OverrideAuthorised):
                for id in said.recipients & self.register.agencies.keys():
                    found |= {(id, purpose): self.register.agencies[id] for purpose in said.purposes}
        return found
