"""What case systems say about sharing: consent, refusal, restrictions, gateways, overrides; and what each makes due."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Literal
from uuid import UUID, uuid4

from consent import domain
from consent.domain import Recipients, Scope
from consent.repository.clients import Client
from consent.service.desk import Cause, Desk
from consent.service.ledger import new_entry
from contracts.intake import (
    ConsentGranted,
    ConsentRefused,
    ConsentWithdrawn,
    GatewayEnded,
    GatewayInvoked,
    OverrideAuthorised,
    OverrideEnded,
    OverrideReviewed,
    Recipient,
    RestrictionImposed,
    RestrictionLifted,
)
from contracts.vocabulary import LOCATION, RestrictionKind
from servicekit.problems import Problem

log = logging.getLogger(__name__)

Saying = (
    ConsentGranted
    | ConsentRefused
    | ConsentWithdrawn
    | RestrictionImposed
    | RestrictionLifted
    | GatewayInvoked
    | GatewayEnded
    | OverrideAuthorised
    | OverrideEnded
    | OverrideReviewed
)


def named_by(event: Saying) -> set[str]:
    """The agencies that an event names as recipients: what it says has no effect for one that nobody registered.

    Not those whom a `limited-access` restriction allows: a name among them that nobody has denies more, never less.
    """
    match event:
        case ConsentGranted() | ConsentRefused() | ConsentWithdrawn():
            return {r.agency for r in event.data.recipients if r.agency}
        case RestrictionImposed():
            return {
                *(r.agency for r in event.data.recipients if r.agency),
                *(p.agency for p in event.data.practitioners),
            }
        case GatewayInvoked() | OverrideAuthorised():
            return set(event.data.recipients)
        case _:
            return set()


ENDED_ALREADY = Problem(
    "ended-already",
    "What your agency began under this id has ended",
    "It opens nothing, and nobody was told. Send a new event with a new id, and give the gateway or the override a new"
    " id of its own too.",
    409,
)
NOTHING_TO_END = Problem(
    "nothing-to-end",
    "Your agency began nothing under this id that could end",
    "Take the id that you gave the restriction, gateway or override of this client; send a new event with a new id."
    " If it was to end a gateway or an override, nothing leaves of the client until operations, who were told, have"
    " looked, and nothing under the id given here ever opens anything.",
    404,
)
"""The same where there is none and where it is another agency's."""


def end_unbegun(event: Saying, client: Client, desk: Desk, cause: Cause) -> Problem | None:
    """End what an event ends and its publisher did not begin under this id of the client; gives the problem. None where
    it ends nothing, or what was begun: then nothing is done here.

    Only what permits is ended, for its beginning may be on the way behind it. The problem denies for the client besides
    (`Incoming.denies_unapplied`): whoever wrote one id for another meant to stop something that goes on.
    """
    what: Literal["restriction", "gateway", "override"]
    match event:
        case RestrictionLifted():
            what, own_id = "restriction", event.data.restriction
        case GatewayEnded():
            what, own_id = "gateway", event.data.gateway
        case OverrideEnded():
            what, own_id = "override", event.data.override
        case _:
            return None
    if _begun(client.facts, cause.said_by, what, own_id):
        return None
    if what != "restriction":
        desk.say(client, domain.Ended(0, cause.said_by, what, own_id), event.id, own_id)
    return NOTHING_TO_END


def begin_ended(event: Saying, client: Client, cause: Cause) -> Problem | None:
    """What is wrong where a gateway or an override of this client begins under an id whose own has ended: it would open
    nothing, and its publisher would take whom it names for told. The end may come before the beginning, though: then
    that is kept, and opens nothing.
    """
    match event:
        case GatewayInvoked():
            what, own_id = "gateway", event.data.gateway
        case OverrideAuthorised():
            what, own_id = "override", event.data.override
        case _:
            return None
    agency = cause.said_by
    ended = _begun(client.facts, agency, what, own_id) and not _going_on(client.facts, agency, what, own_id)
    return ENDED_ALREADY if ended else None


def say(event: Saying, client: Client, desk: Desk, forms: set[tuple[str, str]], cause: Cause) -> UUID | None:
    """Enter what was said. For what stops sharing: the id under which it can be followed until it is done."""
    agency = cause.said_by
    match event:
        case ConsentGranted():
            _grant(event, client, desk, forms, cause)
        case ConsentRefused() | ConsentWithdrawn():
            at = event.data.refused_at if isinstance(event, ConsentRefused) else event.data.withdrawn_at
            refused = isinstance(event, ConsentRefused)
            id = desk.withdraw(client, at, _scope(event.data), cause, refused=refused)
            desk.offer_snapshots(client, cause.traceparent)  # what rests on another basis goes on
            return id
        case RestrictionImposed():
            return _restrict(event, client, desk, cause)
        case GatewayInvoked() | OverrideAuthorised():
            if isinstance(event, OverrideAuthorised):
                _enter_override("authorised", event, agency, client, desk)
            _invoke(event, client, desk, cause)
        case RestrictionLifted():
            lifted = _going_on(client.facts, agency, "restriction", event.data.restriction)
            ended = domain.Ended(0, agency, "restriction", event.data.restriction)
            desk.say(client, ended, event.id, event.data.restriction)
            if lifted:
                desk.offer_snapshots(client, cause.traceparent)
        case GatewayEnded():
            return _end(desk, client, "gateway", event.data.gateway, cause)
        case OverrideEnded():
            _enter_override("ended", event, agency, client, desk)
            return _end(desk, client, "override", event.data.override, cause)
        case OverrideReviewed():
            details = event.data.model_dump(mode="json", exclude={"identifiers"})
            reviewed = domain.OverrideReviewed(0, agency, event.data.override)
            desk.say(client, reviewed, event.id, reviewed.id, details)
            _enter_override("reviewed", event, agency, client, desk)
    return None


def _enter_override(
    what: str, event: OverrideAuthorised | OverrideEnded | OverrideReviewed, agency: str, client: Client, desk: Desk
) -> None:
    """Whatever becomes of an override stands in the ledger, so that the client can be told of it."""
    said = event.data.model_dump(mode="json", by_alias=True, exclude={"identifiers"})
    desk.changes.entries.append(
        new_entry(
            kind="override",
            decision=uuid4(),
            client=client.id,
            key=None,
            type=event.type,
            at=desk.now,
            sources=[agency],
            more={"what": what, "by": agency, **said},
        )
    )


def _scope(data: Any) -> Scope:
    """What lists of an event reach; an empty one means all."""
    return Scope(
        _recipients(data.recipients) if data.recipients else None,
        frozenset(data.purposes) or None,
        frozenset(data.categories) or None,
    )


def _recipients(named: Iterable[Recipient]) -> Recipients:
    return Recipients(
        frozenset(r.agency for r in named if r.agency and not r.service),
        frozenset((r.kind, r.area) for r in named if r.kind and r.area),
        frozenset((r.agency, r.service) for r in named if r.agency and r.service),
    )


def _grant(event: ConsentGranted, client: Client, desk: Desk, forms: set[tuple[str, str]], cause: Cause) -> None:
    agency, data = cause.said_by, event.data
    granted = domain.Granted(
        0,
        agency,
        _recipients(data.recipients),
        frozenset(data.purposes),
        frozenset(data.categories),
        data.given_at,
        data.valid_from,
        data.valid_until,
    )
    details = data.how.model_dump(mode="json")
    granted = desk.grant(client, granted, data.form, (agency, data.form) in forms, event.id, details)
    forms.add((agency, data.form))
    if granted.void is not None:
        log.warning("a consent of %s is kept as history: %s", agency, granted.void)
        return
    if desk.falls_due(client, granted.version, "consent", data.valid_from, data.valid_until):
        desk.offer_snapshots(client, cause.traceparent, resting_on=granted.version)


def _restrict(event: RestrictionImposed, client: Client, desk: Desk, cause: Cause) -> UUID | None:
    data = event.data
    scope = _scope(data)
    if data.kind is RestrictionKind.NEVER_LOCATION:
        scope = Scope(scope.recipients, scope.purposes, LOCATION)
    restricted = domain.Restricted(
        0,
        cause.said_by,
        data.restriction,
        data.kind,
        scope,
        frozenset(data.allowed),
        frozenset((p.agency, p.practitioner) for p in data.practitioners),
        data.until,
    )
    restricted = desk.say(client, restricted, event.id, data.restriction, {"reason": data.reason})
    desk.falls_due(client, restricted.version, "restriction", None, data.until)
    reached = scope
    if data.kind is RestrictionKind.PRACTITIONER_EXCLUSION:
        reached = Scope(Recipients(frozenset(p.agency for p in data.practitioners)))
    id = desk.stop(client, reached, cause, because="restricted", allowed=restricted.allowed)
    # what is left for those whom it reached, with its obligations
    desk.offer_snapshots(client, cause.traceparent)
    return id


def _invoke(event: GatewayInvoked | OverrideAuthorised, client: Client, desk: Desk, cause: Cause) -> None:
    agency, data = cause.said_by, event.data
    named = frozenset(data.recipients), frozenset(data.purposes), frozenset(data.categories), data.starts, data.ends
    invoked: domain.GatewayInvoked | domain.OverrideAuthorised
    if isinstance(event, GatewayInvoked):
        kind, own_id = "gateway", event.data.gateway
        invoked = domain.GatewayInvoked(0, agency, own_id, event.data.basis, *named, data.once)
    else:
        kind, own_id = "override", event.data.override
        invoked = domain.OverrideAuthorised(0, agency, own_id, *named, event.data.review_by, data.once)
    details = data.model_dump(mode="json", include={"authorised_by", "authorised_by_role", "approved_by", "reason"})
    invoked = desk.say(client, invoked, event.id, own_id, details)
    if desk.falls_due(client, invoked.version, kind, data.starts, data.ends):
        desk.offer_snapshots(client, cause.traceparent, resting_on=invoked.version, once=data.once)


def _end(desk: Desk, client: Client, what: Any, own_id: str, cause: Cause) -> UUID:
    """End a gateway or an override of this agency, and retract what it let out; once only, if it is ended again."""
    ended = _going_on(client.facts, cause.said_by, what, own_id)
    desk.say(client, domain.Ended(0, cause.said_by, what, own_id), cause.event_id or "", own_id)
    reached = Scope(
        Recipients(frozenset().union(*(f.recipients for f in ended))),
        frozenset().union(*(f.purposes for f in ended)),
        frozenset().union(*(f.categories for f in ended)),
    )
    id = desk.stop(client, reached, cause, because=f"{what}-ended")
    if ended:
        desk.offer_snapshots(client, cause.traceparent)
    return id


_BEGINS: Mapping[str, type[domain.Restricted | domain.GatewayInvoked | domain.OverrideAuthorised]] = {
    "restriction": domain.Restricted,
    "gateway": domain.GatewayInvoked,
    "override": domain.OverrideAuthorised,
}


def _begun(facts: domain.ClientFacts, agency: str, what: str, own_id: str) -> list[Any]:
    """What this agency imposed, invoked or authorised of the client under this id; it may have ended since."""
    kind = _BEGINS[what]
    return [f for f in facts.said if isinstance(f, kind) and (f.asserted_by, f.id) == (agency, own_id)]


def _going_on(facts: domain.ClientFacts, agency: str, what: str, own_id: str) -> list[Any]:
    """Of that, what was not lifted or ended yet; it may be over by the clock, and nobody told yet."""
    if facts.parts:
        return [found for part in facts.parts for found in _going_on(part, agency, what, own_id)]
    begun = _begun(facts, agency, what, own_id)
    if what == "restriction":
        standing = domain.not_lifted(facts.history)
        return [f for f in begun if f in standing]
    return [] if (what, agency, own_id) in domain.ended(facts.history) else begun
