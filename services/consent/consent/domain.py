"""The rules: what may leave, for whom, why. Pure: plain data in, a decision out, no clock and no I/O.

`decide` serves the discloser, the API, replay and the tests; there is no second implementation.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Basis, Category, Purpose


@dataclass(frozen=True, slots=True)
class Agency:
    """A party: an organisation, or one of our services (kind `service`)."""

    id: str
    kind: AgencyKind
    area: str | None = None

    @property
    def topic(self) -> str:
        """Where records for this recipient go, without the namespace."""
        return f"cleared.{self.id}" if self.kind is AgencyKind.SERVICE else f"partner.{self.id}"


@dataclass(frozen=True, slots=True)
class Terms:
    """What an agreement allows for one purpose."""

    basis: Basis
    categories: frozenset[Category]
    subscription: bool = False
    """Whether recipients get every change and a snapshot when a permit begins, without asking."""


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


@dataclass(frozen=True, slots=True)
class Granted:
    """The client agreed. `effective` is False for one kept as history only (see `lifts`)."""

    version: int
    asserted_by: str
    agencies: frozenset[str]
    kinds: frozenset[tuple[AgencyKind, str]]
    """Kinds of agency in an area."""
    purposes: frozenset[Purpose]
    categories: frozenset[Category]
    given_at: datetime
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    effective: bool = True


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The client withdrew, for the purposes named and the recipients named; None means every one."""

    version: int
    withdrawn_at: datetime
    purposes: frozenset[Purpose] | None = None
    recipients: frozenset[str] | None = None

    def stops(self, purpose: Purpose, recipient: str) -> bool:
        """Whether it reaches this recipient for this purpose."""
        return (self.purposes is None or purpose in self.purposes) and (
            self.recipients is None or recipient in self.recipients
        )


ConsentEvent = Granted | Withdrawn


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What rules the disclosures of one client: the whole consent history, oldest first, and whether a hold is on."""

    consents: tuple[ConsentEvent, ...] = ()
    held: bool = False
    """A stopping event that could not be applied denies everything until a person has looked at it."""


@dataclass(frozen=True, slots=True)
class Item:
    """One category as one agency recorded it: the unit that is permitted or withheld."""

    source: str
    category: Category


@dataclass(frozen=True, slots=True)
class Question:
    """May these items of one client go to this recipient for this purpose at this time?"""

    recipient: Agency
    purpose: Purpose
    items: tuple[Item, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item is withheld, and what would make it possible."""

    item: Item
    rule: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Permit:
    """Why one item may leave."""

    item: Item
    agreement: str
    agreement_version: int
    basis: Basis
    consent: int | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, item by item, with everything that it rests on."""

    permits: tuple[Permit, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    obligations: tuple[str, ...] = field(default=())

    @property
    def permitted(self) -> frozenset[Item]:
        """The items that may leave."""
        return frozenset(p.item for p in self.permits)

    @property
    def consents(self) -> list[int]:
        """The consent versions that the permits rest on, in order."""
        return sorted({p.consent for p in self.permits if p.consent is not None})

    @property
    def rests_on(self) -> tuple[tuple[str, int], ...]:
        """Agreement and consent versions: when these change, a record is no longer the same record."""
        agreements = {(p.agreement, p.agreement_version) for p in self.permits}
        return tuple(sorted(agreements)) + tuple(("consent", v) for v in self.consents)


REMEDIES = {
    "held": "A withdrawal arrived that could not be read. Operations must look at it and lift the hold.",
    "not-its-purpose": "This service acts for another purpose: nothing makes this possible.",
    "no-agreement": "Sign an information-sharing agreement between the source and the recipient for this purpose.",
    "agreement-not-in-force": "The agreement has not begun, or has ended: sign a new version.",
    "agreement-category": "The agreement does not cover this category for this purpose: sign a version that does.",
    "not-a-listed-body": "This statutory gateway does not reach both parties: it takes another basis, such as consent.",
    "no-consent": "Ask the client for consent that names this recipient, purpose and category.",
    "consent-withdrawn": "The client withdrew. Only consent given afterwards, on a new form, makes it possible.",
    "consent-not-current": "The client's consent has not begun or has expired: ask the client again.",
    "own-word": "The recipient itself recorded the consent: another agency must record it.",
}
"""Every rule that withholds, and what would make sharing possible. The order in which they bind is that of `decide`."""

OMA_S14_BODIES = frozenset({AgencyKind.PRISON, AgencyKind.PROBATION})
"""Offender Management Act 2007 s.14: an uncontracted charity is not evidently a listed body, so it is not here."""

OBLIGATIONS = ("no-onward-sharing", "erase-on-retraction")


def decide(
    question: Question, facts: ClientFacts, agreements: Iterable[Agreement], kinds: Mapping[str, AgencyKind]
) -> Decision:
    """Decide each item on its own. Anything that is missing means deny; deny beats permit.

    `agreements` are all versions of all of them, `kinds` the kind of every agency that is a source. A statutory
    basis is preferred to consent where both permit, so that a withdrawal stops only what rested on consent.
    """
    permits: list[Permit] = []
    refusals: list[Refusal] = []
    candidates = sorted(
        (
            a
            for a in _current(agreements, question.at)
            if question.recipient.id in a.recipients and question.purpose in a.terms
        ),
        key=lambda a: (a.terms[question.purpose].basis is Basis.CONSENT, a.id),
    )
    consents: dict[Category, Granted | str] = {}
    for item in question.items:
        outcome = _decide_item(item, question, facts, candidates, kinds, consents)
        if isinstance(outcome, Permit):
            permits.append(outcome)
        else:
            refusals.append(Refusal(item, outcome, REMEDIES[outcome]))
    return Decision(tuple(permits), tuple(refusals), OBLIGATIONS if permits else ())


def acts_for(recipient: Agency, purpose: Purpose) -> bool:
    """Whether a recipient may get anything for a purpose at all: each of our services acts for one."""
    return recipient.kind is not AgencyKind.SERVICE or SERVICE_PURPOSES.get(recipient.id) is purpose


def _current(agreements: Iterable[Agreement], at: datetime) -> Iterable[Agreement]:
    """Of each agreement the version that counts: the newest that has begun, or the first when none has."""
    chosen: dict[str, Agreement] = {}
    for a in agreements:
        other = chosen.get(a.id)
        if other is None or (a.starts <= at, a.version if a.starts <= at else -a.version) > (
            other.starts <= at,
            other.version if other.starts <= at else -other.version,
        ):
            chosen[a.id] = a
    return chosen.values()


def _decide_item(
    item: Item,
    question: Question,
    facts: ClientFacts,
    candidates: list[Agreement],
    kinds: Mapping[str, AgencyKind],
    consents: dict[Category, Granted | str],
) -> Permit | str:
    if facts.held:
        return "held"
    if not acts_for(question.recipient, question.purpose):
        return "not-its-purpose"
    why = "no-agreement"
    for agreement in candidates:
        if item.source not in agreement.sources:
            continue
        if not agreement.starts <= question.at < agreement.ends:
            why = "agreement-not-in-force"
            continue
        terms = agreement.terms[question.purpose]
        if item.category not in terms.categories:
            why = "agreement-category"
            continue
        if terms.basis is Basis.OMA_S14:
            if question.recipient.kind in OMA_S14_BODIES and kinds.get(item.source) in OMA_S14_BODIES:
                return Permit(item, agreement.id, agreement.version, terms.basis, None)
            why = "not-a-listed-body"
            continue
        if item.category not in consents:
            consents[item.category] = consent_for(
                facts.consents, question.recipient, question.purpose, item.category, question.at
            )
        consent = consents[item.category]
        if isinstance(consent, Granted):
            return Permit(item, agreement.id, agreement.version, terms.basis, consent.version)
        why = consent
    return why


def consent_for(
    history: Iterable[ConsentEvent], recipient: Agency, purpose: Purpose, category: Category, at: datetime
) -> Granted | str:
    """The newest grant that covers this, or the rule that says why there is none.

    A grant is dead once a withdrawal that reaches it was recorded after it or was made after it was given: whichever
    order the two arrived in, the client said no.
    """
    best: Granted | None = None
    why = "no-consent"
    events = tuple(history)
    for grant in events:
        if not isinstance(grant, Granted) or not _covers(grant, recipient, purpose, category):
            continue
        if not grant.effective or any(_kills(event, grant, recipient.id, purpose) for event in events):
            why = "consent-withdrawn"
        elif grant.asserted_by == recipient.id:
            why = "own-word"
        elif (grant.valid_from and at < grant.valid_from) or (grant.valid_until and at >= grant.valid_until):
            why = "consent-not-current"
        elif best is None or grant.version > best.version:
            best = grant
    return best or why


def _covers(grant: Granted, recipient: Agency, purpose: Purpose, category: Category) -> bool:
    if purpose not in grant.purposes or category not in grant.categories:
        return False
    if recipient.kind is AgencyKind.SERVICE:
        return True  # our service is the means of its purpose, not somebody whom the client chooses
    return recipient.id in grant.agencies or (
        recipient.area is not None and (recipient.kind, recipient.area) in grant.kinds
    )


def _kills(event: ConsentEvent, grant: Granted, recipient: str, purpose: Purpose) -> bool:
    return (
        isinstance(event, Withdrawn)
        and event.stops(purpose, recipient)
        and (event.version > grant.version or event.withdrawn_at >= grant.given_at)
    )


def lifts(given_at: datetime, history: Iterable[ConsentEvent], form_seen: bool) -> bool:
    """Whether a new grant takes effect: on a form not seen before, and given after every withdrawal made so far.

    One that does not is kept as history: it may be a late or replayed copy of a consent that the client has since
    withdrawn.
    """
    return not form_seen and not any(isinstance(e, Withdrawn) and e.withdrawn_at >= given_at for e in history)
