"""What a decision is made of: who takes part, what they agreed, and what was said about sharing one client's record."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Literal

from consent.domain.standing import GATEWAYS, Gateway
from contracts import topic_names
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose, RestrictionKind


@dataclass(frozen=True, slots=True)
class Agency:
    """A party: an organisation, or one of our services (kind `service`)."""

    id: str
    kind: AgencyKind
    area: str | None = None

    @property
    def topic(self) -> str:
        """Where records for this recipient go, without the namespace."""
        name = topic_names.cleared if self.kind is AgencyKind.SERVICE else topic_names.partner
        return name(self.id)


# --- agreements -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What an agreement allows for one purpose."""

    basis: Basis
    categories: frozenset[Category]
    subscription: bool = False
    """Whether recipients get every change and a snapshot when a permit begins, without asking."""
    own_word: bool = False
    """Whether the recipient's own word counts: a consent that it recorded, or that it invoked the gateway itself."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """An information-sharing agreement in one version: who may tell whom what, why, and when."""

    id: str
    version: int
    sources: frozenset[str]
    recipients: frozenset[str]
    terms: Mapping[Purpose, Terms]
    starts: datetime
    ends: datetime
    enforces: frozenset[str] = frozenset()
    """The parties that undertook to the sources to keep excluded practitioners away from a client's record."""
    suspended_from: datetime | None = None


Versions = tuple[tuple[Agreement, Terms | None], ...]
"""All versions of one agreement, newest first, each with what it lets one source tell one recipient for one purpose."""


@dataclass(frozen=True)
class Policy:
    """What does not belong to one client: all versions of all agreements, the kind of every party, the gateways.

    What is derived from them, once, knows no client and no time.
    """

    agreements: Sequence[Agreement]
    kinds: Mapping[str, AgencyKind]
    gateways: Mapping[Basis, Gateway] = field(default_factory=lambda: GATEWAYS)
    _agreed: dict[tuple[str, Purpose], Mapping[str, Sequence[Versions]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def tell_unasked(self, terms: Terms) -> bool:
        """Whether something leaves on these terms though nobody asks: because recipients subscribe, or because who
        invokes their gateway for a client wants it told.
        """
        if terms.subscription:
            return True
        gateway = self.gateways.get(terms.basis)
        return gateway is not None and bool(gateway.invoked_by)

    def agreed(self, recipient: str, purpose: Purpose) -> Mapping[str, Sequence[Versions]]:
        """By source the agreements, in the order of their ids, of which a version lets it tell this recipient something
        for this purpose.
        """
        found = self._agreed.get((recipient, purpose))
        if found is None:
            found = self._agreed[recipient, purpose] = self._look_through(recipient, purpose)
        return found

    @cached_property
    def versions(self) -> Sequence[Sequence[Agreement]]:
        """Of each agreement all versions, newest first; the agreements in the order of their ids."""
        by_id: dict[str, list[Agreement]] = {}
        for a in sorted(self.agreements, key=lambda a: a.version, reverse=True):
            by_id.setdefault(a.id, []).append(a)
        return [versions for _, versions in sorted(by_id.items())]

    @cached_property
    def _telling(self) -> Mapping[str, Sequence[Sequence[Agreement]]]:
        """By recipient the agreements, all versions of each, of which a version names it."""
        found: dict[str, list[Sequence[Agreement]]] = {}
        for versions in self.versions:
            for recipient in frozenset[str]().union(*(a.recipients for a in versions)):
                found.setdefault(recipient, []).append(versions)
        return found

    def _look_through(self, recipient: str, purpose: Purpose) -> Mapping[str, Sequence[Versions]]:
        found: dict[str, list[Versions]] = {}
        for versions in self._telling.get(recipient, ()):
            telling = [a for a in versions if recipient in a.recipients and purpose in a.terms]
            for source in {source for a in telling for source in a.sources}:
                found.setdefault(source, []).append(
                    tuple((a, a.terms[purpose] if a in telling and source in a.sources else None) for a in versions)
                )
        return found


# --- what was said about sharing: an append-only history, one version each, per client -------------------------------


@dataclass(frozen=True, slots=True)
class Recipients:
    """Whom a consent, a no or a restriction names."""

    agencies: frozenset[str] = frozenset()
    kinds: frozenset[tuple[AgencyKind, str]] = frozenset()
    """Kinds of agency in an area: all that are there, also those that come later."""
    services: frozenset[tuple[str, str]] = frozenset()
    """Named services of an agency: (agency, service)."""

    def name(self, recipient: Agency, service: str | None) -> bool:
        """Whether they name this recipient, where it is about this service that it offers; None: about none."""
        return (
            recipient.id in self.agencies
            or (recipient.kind, recipient.area) in self.kinds
            or (recipient.id, service) in self.services
        )

    def name_any_of(self, recipient: Agency) -> bool:
        """Whether they name this recipient, if only for a service that it offers."""
        return self.name(recipient, None) or any(agency == recipient.id for agency, _ in self.services)


@dataclass(frozen=True, slots=True)
class Scope:
    """What something reaches. None means every one: only what denies may say so."""

    recipients: Recipients | None = None
    purposes: frozenset[Purpose] | None = None
    categories: frozenset[Category] | None = None

    def reaches(self, recipient: Agency, purpose: Purpose, service: str | None) -> bool:
        """Whether any category may be touched of what this recipient gets for this purpose about this service."""
        return (self.recipients is None or self.recipients.name(recipient, service)) and (
            self.purposes is None or purpose in self.purposes
        )

    def may_reach(self, recipient: Agency, purpose: Purpose, service: str | None) -> bool:
        """Whether it reaches that, or cannot be told not to: what is about no service may be for the one it names."""
        if service is None and self.recipients is not None and self.recipients.name_any_of(recipient):
            return self.purposes is None or purpose in self.purposes
        return self.reaches(recipient, purpose, service)


@dataclass(frozen=True, slots=True)
class Granted:
    """The client agreed."""

    version: int
    asserted_by: str
    recipients: Recipients
    purposes: frozenset[Purpose]
    categories: frozenset[Category]
    given_at: datetime
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    void: Literal["consent-withdrawn", "form-used-before"] | None = None
    """Why it opens nothing and is kept as history only (`why_void`)."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The client said no: withdrew, or was asked and refused."""

    version: int
    asserted_by: str
    at: datetime
    scope: Scope = Scope()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Expired:
    """What was said at another version came to its end. It changes no decision, which follows the clock; it is the
    event.
    """

    version: int
    asserted_by: str
    ended: int
    """The version of the consent, restriction, gateway or override that ended."""


@dataclass(frozen=True, slots=True)
class Restricted:
    """A restriction. It beats every permit until it is lifted or `until` has come."""

    version: int
    asserted_by: str
    id: str
    kind: RestrictionKind
    scope: Scope
    allowed: frozenset[str] = frozenset()
    """For a limited-access client: the only recipients whom it does not reach."""
    practitioners: frozenset[tuple[str, str]] = frozenset()
    """For an exclusion of practitioners: (agency, that agency's own id of the practitioner)."""
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class GatewayInvoked:
    """An agency relies on a statutory gateway for this client."""

    version: int
    asserted_by: str
    id: str
    basis: Basis
    recipients: frozenset[str]
    purposes: frozenset[Purpose]
    categories: frozenset[Category]
    starts: datetime
    ends: datetime
    once: bool = False
    """For one disclosure: its recipients get what is known when it begins, and nothing later unasked."""


@dataclass(frozen=True, slots=True)
class OverrideAuthorised:
    """A public-protection override: authorised by one person, approved by another, narrow, for a time."""

    version: int
    asserted_by: str
    id: str
    recipients: frozenset[str]
    purposes: frozenset[Purpose]
    categories: frozenset[Category]
    starts: datetime
    ends: datetime
    review_by: datetime
    once: bool = False
    """As for a gateway."""


@dataclass(frozen=True, slots=True)
class OverrideReviewed:
    """Somebody looked at an override. It changes no decision: it ends that the review is overdue."""

    version: int
    asserted_by: str
    id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A restriction was lifted, or a gateway or an override was ended, by the agency whose it is."""

    version: int
    asserted_by: str
    what: Literal["restriction", "gateway", "override"]
    id: str


SharingFact = (
    Granted | Withdrawn | Expired | Restricted | GatewayInvoked | OverrideAuthorised | OverrideReviewed | Ended
)


ANOTHER_SERVICE = ""
"""Stands for any service that nothing names: no service is called so."""


def _services_named(fact: SharingFact, agency: str) -> Iterator[str]:
    """The services of this agency that a consent, a no or a restriction names."""
    named: Recipients | None = None
    if isinstance(fact, Granted):
        named = fact.recipients
    elif isinstance(fact, Withdrawn | Restricted):
        named = fact.scope.recipients
    if named is not None:
        yield from (service for provider, service in named.services if provider == agency)


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What rules the disclosures of one client."""

    history: tuple[SharingFact, ...] = ()
    """What was said about sharing, oldest first. Empty for linked clients: there it stands in `parts`."""
    held: bool = False
    """A stopping event that could not be applied denies everything until a person has looked at it."""
    version: int = 0
    """Rises with every change of what is here; receipts name it."""
    conflicting: bool = False
    """The numbers of this client contradict each other, or its link was undone: nothing leaves."""
    parts: tuple["ClientFacts", ...] = ()
    """For linked clients: each as it was before, with what was said since. A permit must hold for every part."""

    def as_said_by(self, agency: str) -> "ClientFacts":
        """The client as it would be if nobody but this agency had said anything of it."""
        own = {fact for fact in self.said if fact.asserted_by == agency}
        return ClientFacts(tuple(sorted(own, key=lambda fact: fact.version)))

    def services_of(self, agency: str) -> list[str]:
        """The services of this agency of which something else may be permitted than of the agency: those that are named
        by what was said, and `ANOTHER_SERVICE` where there are any.
        """
        named = {service for fact in self.said for service in _services_named(fact, agency)}
        return sorted({ANOTHER_SERVICE, *named} if named else named)

    @property
    def said(self) -> tuple[SharingFact, ...]:
        """All that was said of the client; of linked clients, part by part. What was said since the link stands in the
        history of every part, so it comes once for each.
        """
        return tuple(fact for part in self.parts for fact in part.said) or self.history
