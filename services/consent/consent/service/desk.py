"""What a change of facts makes of one client: queue rows, consent versions, retractions. In memory, written at the end.

The caller holds the lock of every client on the desk. Events are applied one after the other, so an event sees what the
events before it in the same batch did.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from consent.domain import Agency, ClientFacts, Granted, Item, Question, Withdrawn, acts_for, decide, lifts
from consent.events import SOURCE
from consent.repository.clients import Changes, Client, IdentifierKey, Reference, consent_body, section
from consent.repository.queue import NOTICE, RECORD, RETRACTION, QueueRow
from consent.service.register import Register
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import encode

CHANGED, SNAPSHOT, WITHDRAWN = (
    "throughgate.client.changed.v1",
    "throughgate.client.snapshot.v1",
    "throughgate.client.withdrawn.v1",
)


class Desk:
    """The clients of a batch, what is agreed, and what the batch is going to write."""

    def __init__(self, clients: dict[int, Client], register: Register, now: datetime) -> None:
        self.known: dict[IdentifierKey, int] = {}
        """Which client each identifier of the batch means."""
        self.clients = clients
        self.register = register
        self.now = now
        self.changes = Changes()

    def reference(self, client: Client, recipient: str, *, queued: bool) -> UUID:
        """The client's reference for a recipient, made when there is none yet."""
        known = client.references.get(recipient)
        if known is None:
            known = client.references[recipient] = Reference(uuid4(), recipient, queued)
            self.changes.references.append((known, client.id))
        elif queued and not known.queued:
            known.queued = True  # also one made in this batch: its row is written with what it says by then
            self.changes.first_queued.append(known.id)
        return known.id

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
        self.changes.queue.append(
            QueueRow(
                RECORD,
                client.id,
                recipient.id,
                recipient.topic,
                self.reference(client, recipient.id, queued=True),
                type,
                purpose.value,
                orjson.dumps(body).decode(),
                due_at or self.now,
                requester,
                reference_of_requester,
                request,
                traceparent,
            )
        )

    # --- facts --------------------------------------------------------------------------------------------------------

    def record(
        self, client: Client, source: str, facts: dict[str, Any], recorded_at: datetime, traceparent: str | None
    ) -> None:
        """Keep facts, and queue the change for everyone who subscribes to one of its categories."""
        sections = []
        for category, data in facts.items():
            made = section(source, category, recorded_at, data)
            client.sections[source, category] = made
            self.changes.facts[client.id, source, category] = (recorded_at, orjson.dumps(data).decode())
            sections.append(made)
        for subscription in self.register.subscriptions(source, self.now):
            if any(category in subscription.categories for category in facts):
                self.queue_record(
                    client,
                    subscription.recipient,
                    subscription.purpose,
                    CHANGED,
                    {"sections": sections},
                    traceparent,
                    due_at=max(self.now, subscription.starts),
                )

    # --- consent ------------------------------------------------------------------------------------------------------

    def grant(
        self, client: Client, granted: Granted, form: str, form_seen: bool, event_id: str, details: dict[str, Any]
    ) -> Granted:
        """Add a grant to the history; it takes effect only when it `lifts` what was withdrawn before."""
        granted = replace(
            granted,
            version=self._next_version(client),
            effective=lifts(granted.given_at, client.history, form_seen),
        )
        self._remember(client, granted, granted.asserted_by, event_id, form, details)
        return granted

    def withdraw(
        self,
        client: Client,
        agency: str,
        event_id: str,
        withdrawn_at: datetime,
        purposes: frozenset[Purpose] | None,
        recipients: frozenset[str] | None,
        traceparent: str | None,
    ) -> UUID:
        """Add a withdrawal and queue a retraction for everyone that it reaches who was ever sent or queued anything.

        That includes who only has rows that did not leave yet: one of them may have been decided a moment ago and be on
        its way. Gives the id under which the withdrawal can be followed.
        """
        event = Withdrawn(self._next_version(client), withdrawn_at, purposes, recipients)
        self._remember(client, event, agency, event_id, None, {})
        id = uuid4()
        self.changes.withdrawals.append((id, client.id, event.version, agency, event_id, traceparent, self.now))
        named = sorted(purposes) if purposes is not None else list(Purpose)
        told = False
        for reference in client.references.values():
            recipient = self.register.agencies[reference.recipient]
            if reference.queued and any(event.stops(p, recipient.id) and acts_for(recipient, p) for p in named):
                self._retract(client, recipient, reference.id, id, named, event.version, traceparent)
                told = True
        if not told:
            self.changes.queue.append(withdrawal_done(client.id, id, agency, event_id, [], self.now, traceparent))
        return id

    def _retract(
        self,
        client: Client,
        recipient: Agency,
        reference: UUID,
        withdrawal: UUID,
        purposes: Iterable[Purpose],
        version: int,
        traceparent: str | None,
    ) -> None:
        id = uuid4()
        self.changes.retractions.append((id, withdrawal, recipient.id, reference))
        envelope = retraction(id, reference, purposes, version, self.now)
        self.changes.queue.append(
            QueueRow(
                RETRACTION,
                client.id,
                recipient.id,
                recipient.topic,
                reference,
                WITHDRAWN,
                None,
                envelope.decode(),
                self.now,
                traceparent=traceparent,
                request=id,
            )
        )

    def hold(self, client: Client, agency: str, reason: str, event_id: str, traceparent: str | None) -> None:
        """Deny everything for this client until a person has looked: a stopping event could not be applied."""
        client.held = True
        self.changes.holds.append((uuid4(), client.id, reason, agency))
        self.withdraw(client, agency, event_id, self.now, None, None, traceparent)

    def offer_snapshots(
        self, client: Client, at: datetime, traceparent: str | None, *, resting_on: int | None = None
    ) -> None:
        """Queue a snapshot for each subscriber to whom something is permitted at `at`; it is read when it leaves.

        With `resting_on`, only for those whose permit rests on that version of consent: a permit that begins by it.
        """
        facts = ClientFacts(tuple(client.history), client.held)
        pairs = {
            (s.recipient.id, s.purpose): s.recipient
            for source, _ in client.sections
            for s in self.register.subscriptions(source, self.now)
        }
        for (_, purpose), recipient in sorted(pairs.items(), key=lambda pair: pair[0]):
            items = tuple(Item(source, Category(category)) for source, category in client.sections)
            question = Question(recipient, purpose, tuple(i for i in items if i.source != recipient.id), at)
            decision = decide(question, facts, self.register.agreements, self.register.kinds)
            if decision.permits and (resting_on is None or resting_on in decision.consents):
                due = max(at, self.now)
                self.queue_record(client, recipient, purpose, SNAPSHOT, {}, traceparent, due_at=due)

    def _next_version(self, client: Client) -> int:
        client.consent_version += 1
        self.changes.consent_versions[client.id] = client.consent_version
        return client.consent_version

    def _remember(
        self,
        client: Client,
        event: Granted | Withdrawn,
        agency: str,
        event_id: str,
        form: str | None,
        details: dict[str, Any],
    ) -> None:
        client.history.append(event)
        kind = "granted" if isinstance(event, Granted) else "withdrawn"
        body = consent_body(event, details)
        self.changes.consents.append((client.id, event.version, kind, agency, event_id, form, body, self.now))


def retraction(id: UUID, reference: UUID, purposes: Iterable[Purpose], version: int, now: datetime) -> bytes:
    """The bytes of a retraction (`contracts.leaving.WithdrawnData`)."""
    data = {
        "retraction": str(id),
        "purposes": [p.value for p in purposes],
        "consentVersion": version,
        "action": "stop-and-erase",
    }
    return encode(WITHDRAWN, SOURCE, data, subject=str(reference), id=str(id), time=now)


def withdrawal_done(
    client_id: int,
    withdrawal: UUID,
    agency: str,
    event_id: str,
    recipients: list[dict[str, Any]],
    now: datetime,
    traceparent: str | None,
) -> QueueRow:
    """Tell the publisher that its withdrawal is done, and where each retraction stands."""
    data = {"event": event_id, "withdrawal": str(withdrawal), "recipients": recipients}
    envelope = encode("throughgate.withdrawal.done.v1", SOURCE, data, time=now)
    return QueueRow(
        NOTICE,
        client_id,
        agency,
        f"replies.{agency}",
        withdrawal,
        "throughgate.withdrawal.done.v1",
        None,
        envelope.decode(),
        now,
        traceparent=traceparent,
    )


def request_settled(
    client_id: int,
    service: str,
    reference: UUID,
    request: UUID,
    outcome: str,
    withheld: list[dict[str, Any]],
    now: datetime,
    traceparent: str | None,
) -> QueueRow:
    """Tell a service what became of its request."""
    type = "throughgate.request.settled.v1"
    data = {"request": str(request), "outcome": outcome, "withheld": withheld}
    envelope = encode(type, SOURCE, data, subject=str(reference), time=now)
    return QueueRow(
        NOTICE,
        client_id,
        service,
        f"cleared.{service}",
        reference,
        type,
        None,
        envelope.decode(),
        now,
        traceparent=traceparent,
    )
