"""`decide`: what may leave, for whom, why. It serves the discloser, the API, replay and the tests; there is no second.

The rules stand in `RULES`, in the order in which they bind; docs/reference/rules.md is that table with its sources.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal

from consent.domain.facts import (
    Agency,
    Agreement,
    ClientFacts,
    Ended,
    GatewayInvoked,
    Granted,
    OverrideAuthorised,
    Policy,
    Restricted,
    SharingFact,
    Terms,
    Withdrawn,
)
from consent.domain.standing import RESPONSIBLE, Gateway
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Basis, Category, Purpose, RestrictionKind

# --- question and answer ----------------------------------------------------------------------------------------------


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
    service: str | None = None
    """The one thing that the recipient offers which the record is about, where it is about one."""
    practitioner: str | None = None
    """Who will read it, by the recipient's own id, where the door shows it to one person; else None."""
    spent: Mapping[str, date] = field(default_factory=dict)
    """By source: from which day the conviction in its offence section is spent."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item is withheld, and what would make it possible."""

    item: Item
    rule: str

    @property
    def remedy(self) -> str:
        """What would make it possible."""
        return REMEDIES[self.rule]


@dataclass(frozen=True, slots=True)
class Permit:
    """Why one item may leave: under an agreement, or by a gateway or an override invoked for this client."""

    item: Item
    basis: Basis
    agreement: str | None = None
    agreement_version: int | None = None
    consent: int | None = None
    """The version of the client's consent, where it rests on consent."""
    invoked: int | None = None
    """The version at which the gateway or the override was entered, where it rests on one."""


@dataclass(frozen=True, slots=True)
class Obligation:
    """What the recipient must do with what it gets."""

    code: Literal["no-onward-sharing", "erase-on-retraction", "keep-from-practitioner"]
    practitioner: str | None = None
    """The recipient's own id of the person who must not see it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, item by item, with everything that it rests on."""

    permits: tuple[Permit, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    obligations: tuple[Obligation, ...] = ()

    @property
    def permitted(self) -> frozenset[Item]:
        """The items that may leave."""
        return frozenset(p.item for p in self.permits)

    @property
    def consents(self) -> list[int]:
        """The consent versions that the permits rest on, in order."""
        return sorted({p.consent for p in self.permits if p.consent is not None})


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """One way in which something is withheld."""

    code: str
    withholds: str
    remedy: str
    source: str
    told: Literal["openly", "quietly", "never"] = "openly"
    """What the recipient learns: the rule; that something is withheld, not why; or not even that there is something."""


RULES = (
    # What denies, whatever permits. The first that applies is the reason.
    Rule(
        "held",
        "A stopping event named this client and could not be applied.",
        "Operations must ask its publisher what it meant and lift the hold.",
        "promise 5",
        "quietly",
    ),
    Rule(
        "conflicting-identity",
        "The client's numbers contradict each other, or a link with another client was undone.",
        "A person must decide who this client is: GET /candidates.",
        "C10",
        "quietly",
    ),
    Rule(
        "not-its-purpose",
        "One of our services would get something for a purpose that it does not act for.",
        "Nothing makes this possible.",
        "purpose limitation: UK GDPR article 5(1)(b)",
        "never",
    ),
    Rule(
        "restricted",
        "A restriction reaches this recipient, purpose and category.",
        "Only the agency that imposed the restriction lifts it.",
        "C4",
        "quietly",
    ),
    Rule(
        "exclusion-not-enforced",
        "A practitioner of the recipient is excluded, and the recipient has not signed to enforce exclusions; or it is"
        " the excluded practitioner who asks.",
        "Let the recipient sign an agreement in which it undertakes to enforce exclusions.",
        "C4",
        "quietly",
    ),
    Rule(
        "spent-conviction",
        "The conviction is spent and the recipient is neither prison, probation nor police.",
        "Nothing makes this possible.",
        "Rehabilitation of Offenders Act 1974 s.4, s.9",
        "never",
    ),
    # What is missing for a permit. Of several ways, the reason is that of the one that got furthest down.
    Rule(
        "no-agreement",
        "No agreement lets the source tell the recipient anything for this purpose.",
        "Sign an information-sharing agreement between the source and the recipient for this purpose.",
        "C1",
        "never",
    ),
    Rule(
        "agreement-not-in-force",
        "The agreement has not begun or has ended.",
        "Sign a new version of the agreement.",
        "C1",
    ),
    Rule(
        "agreement-suspended",
        "The agreement is suspended.",
        "Ask the parties of the agreement to settle why it was suspended and to resume it.",
        "C1",
    ),
    Rule(
        "agreement-category",
        "The agreement does not cover this category for this purpose.",
        "Sign a version of the agreement that covers it.",
        "C1, C6",
        "never",
    ),
    Rule(
        "gateway-does-not-reach",
        "The statutory gateway of the agreement does not reach these parties, this purpose or this category, or nobody"
        " invoked it for this client.",
        "It takes another basis, such as consent, or a gateway invoked for this client.",
        "C3",
    ),
    Rule(
        "no-consent",
        "No consent names this recipient, purpose and category.",
        "Ask the client for consent that names them.",
        "C2",
    ),
    Rule(
        "consent-not-current",
        "The consent has not begun or has expired.",
        "Ask the client again.",
        "C2",
    ),
    Rule(
        "own-word",
        "The recipient itself recorded the consent, or invoked the gateway.",
        "Another agency must record it, or the agreement must say that the recipient's word counts.",
        "DESIGN 'who may say what'",
    ),
    Rule(
        "form-used-before",
        "The form of this consent was used for an earlier one: it may be a late or repeated copy.",
        "Record the client's consent on a new form.",
        "C2",
    ),
    Rule(
        "consent-withdrawn",
        "The client withdrew.",
        "Only consent given afterwards, on a new form, makes it possible.",
        "C2, C8; UK GDPR article 7(3)",
    ),
    Rule(
        "consent-refused",
        "The client was asked and said no.",
        "Respect it. If the client comes back to it, record the consent on a new form.",
        "C2",
    ),
)
"""Every rule that withholds. No other reason exists; where nothing permits and no rule spoke, it is `no-agreement`."""

REMEDIES = {rule.code: rule.remedy for rule in RULES}
_RANK = {rule.code: rank for rank, rule in enumerate(RULES)}

ALWAYS = (Obligation("no-onward-sharing"), Obligation("erase-on-retraction"))


# --- deciding ---------------------------------------------------------------------------------------------------------


def decide(question: Question, facts: ClientFacts, policy: Policy) -> Decision:
    """Decide each item on its own. Anything that is missing means deny; deny beats permit.

    A statutory basis is preferred to consent, and consent to an override, where several permit: so a withdrawal stops
    only what rested on consent. For linked clients every part must permit.
    """
    if not facts.parts:
        return _decide(question, facts, policy)
    decisions = [_decide(question, part, policy) for part in facts.parts]
    refused = {r.item: r for d in decisions for r in d.refusals}
    permits: dict[Item, Permit] = {}
    for permit in (p for d in decisions for p in d.permits if p.item not in refused):
        other = permits.setdefault(permit.item, permit)
        if permit.consent is not None and (other.consent is None or permit.consent < other.consent):
            permits[permit.item] = permit  # the oldest: whatever takes back a newer one takes it back too
    refusals = tuple(refused[item] for item in question.items if item in refused)
    obligations = tuple(dict.fromkeys(o for d in decisions for o in d.obligations))
    return Decision(tuple(permits.values()), refusals, obligations if permits else ())


def _decide(question: Question, facts: ClientFacts, policy: Policy) -> Decision:
    case = _Case(question, facts, policy)
    permits: list[Permit] = []
    refusals: list[Refusal] = []
    for item in question.items:
        outcome = case.forbidding(item) or case.permitting(item)
        if isinstance(outcome, Permit):
            permits.append(outcome)
        else:
            refusals.append(Refusal(item, outcome))
    return Decision(tuple(permits), tuple(refusals), case.obligations() if permits else ())


def acts_for(recipient: Agency, purpose: Purpose) -> bool:
    """Whether a recipient may get anything for a purpose at all: each of our services acts for one."""
    return recipient.kind is not AgencyKind.SERVICE or SERVICE_PURPOSES.get(recipient.id) is purpose


def in_force(agreement: Agreement, at: datetime) -> str | None:
    """None when the agreement is in force, else the rule that says why not."""
    if not agreement.starts <= at < agreement.ends:
        return "agreement-not-in-force"
    if agreement.suspended_from is not None and agreement.suspended_from <= at:
        return "agreement-suspended"
    return None


class _Case:
    """A question with those facts that bear on it, so that each item is a few look-ups."""

    __slots__ = ("_agreed", "_consents", "_invoked", "_question", "_restrictions", "_whole", "excluded", "policy")

    def __init__(self, question: Question, facts: ClientFacts, policy: Policy) -> None:
        self._question = question
        self.policy = policy
        recipient, purpose, at = question.recipient, question.purpose, question.at
        self._agreed = _agreed(policy.agreements, recipient.id, purpose, at)
        grants: list[Granted] = []
        refusals: list[Withdrawn] = []
        self._restrictions: list[Restricted] = []
        self._invoked: list[GatewayInvoked | OverrideAuthorised] = []
        ended = {(e.what, e.asserted_by, e.id): e.version for e in facts.history if isinstance(e, Ended)}
        excluded: list[str] = []
        for fact in facts.history:
            if isinstance(fact, Granted):
                if _names(fact, question):
                    grants.append(fact)
            elif isinstance(fact, Withdrawn):
                if fact.scope.reaches(recipient.id, purpose):
                    refusals.append(fact)
            elif isinstance(fact, Restricted):
                over = ended.get(("restriction", fact.asserted_by, fact.id), 0) > fact.version
                if not over and (fact.until is None or at < fact.until):
                    excluded += [p for agency, p in fact.practitioners if agency == recipient.id]
                    if _restricts(fact, recipient.id, purpose):
                        self._restrictions.append(fact)
            elif isinstance(fact, GatewayInvoked | OverrideAuthorised):
                what = "gateway" if isinstance(fact, GatewayInvoked) else "override"
                if (
                    (what, fact.asserted_by, fact.id) not in ended
                    and recipient.id in fact.recipients
                    and purpose in fact.purposes
                    and fact.starts <= at < fact.ends
                ):
                    self._invoked.append(fact)
        self._consents = _Consents(grants, refusals, recipient.id, at)
        self.excluded = tuple(dict.fromkeys(excluded))
        self._whole = self._forbidding_all(facts)

    # rules that deny, in the order of the table

    def _forbidding_all(self, facts: ClientFacts) -> str | None:
        """The rule that withholds every item, before restrictions are looked at."""
        if facts.held:
            return "held"
        if facts.conflicting:
            return "conflicting-identity"
        if not acts_for(self._question.recipient, self._question.purpose):
            return "not-its-purpose"
        return None

    def forbidding(self, item: Item) -> str | None:
        """The rule that withholds this item whatever permits it, if one does."""
        if self._whole is not None:
            return self._whole
        for restriction in self._restrictions:
            if restriction.scope.categories is None or item.category in restriction.scope.categories:
                return "restricted"
        if self.excluded and not self._keeps_excluded_away():
            return "exclusion-not-enforced"
        if item.category is Category.OFFENCE and self._question.recipient.kind not in RESPONSIBLE:
            spent = self._question.spent.get(item.source)
            if spent is not None and spent <= self._question.at.date():
                return "spent-conviction"
        return None

    def _keeps_excluded_away(self) -> bool:
        if self._question.practitioner is not None:  # the door itself sees to it
            return self._question.practitioner not in self.excluded
        return any(
            self._question.recipient.id in a.enforces and in_force(a, self._question.at) is None
            for a in _current(self.policy.agreements, self._question.at)
        )

    # ways to a permit, in the order of preference

    def permitting(self, item: Item) -> Permit | str:
        """A permit, or the rule of the way that got furthest."""
        question, why = self._question, "no-agreement"
        consent: tuple[Agreement, Terms] | None = None
        for agreement, terms, not_in_force in self._agreed:
            if item.source not in agreement.sources:
                continue
            if not_in_force is not None:
                why = _further(why, not_in_force)
            elif item.category not in terms.categories:
                why = _further(why, "agreement-category")
            elif terms.basis is Basis.CONSENT:
                if consent is None or (terms.own_word and not consent[1].own_word):
                    consent = agreement, terms
            elif self._reaches(self.policy.gateways.get(terms.basis), item) and (
                not self.policy.gateways[terms.basis].invoked_by or self._invocation(item, terms.basis) is not None
            ):
                return Permit(item, terms.basis, agreement.id, agreement.version)
            else:
                why = _further(why, "gateway-does-not-reach")
        for fact in self._invoked:
            if isinstance(fact, GatewayInvoked) and self._lets_out(fact, item):
                if fact.asserted_by != question.recipient.id:
                    return Permit(item, fact.basis, invoked=fact.version)
                why = _further(why, "own-word")
        if consent is not None:
            agreement, terms = consent
            found = self._consents.of(item.category, terms.own_word)
            if isinstance(found, Granted):
                return Permit(item, Basis.CONSENT, agreement.id, agreement.version, found.version)
            why = _further(why, found)
        for fact in self._invoked:
            if isinstance(fact, OverrideAuthorised) and item.category in fact.categories:
                if fact.asserted_by != question.recipient.id:
                    return Permit(item, Basis.OVERRIDE, invoked=fact.version)
                why = _further(why, "own-word")
        return why

    def _reaches(self, gateway: Gateway | None, item: Item) -> bool:
        return (
            gateway is not None
            and self.policy.kinds.get(item.source) in gateway.sources
            and self._question.recipient.kind in gateway.recipients
            and self._question.purpose in gateway.purposes
            and item.category in gateway.categories
        )

    def _lets_out(self, fact: GatewayInvoked, item: Item) -> bool:
        gateway = self.policy.gateways.get(fact.basis)
        return (
            gateway is not None
            and item.category in fact.categories
            and self._reaches(gateway, item)
            and self.policy.kinds.get(fact.asserted_by) in gateway.invoked_by
            and (fact.asserted_by == item.source or not gateway.own_only)
        )

    def _invocation(self, item: Item, basis: Basis) -> GatewayInvoked | None:
        for fact in self._invoked:
            if isinstance(fact, GatewayInvoked) and fact.basis is basis and self._lets_out(fact, item):
                return fact
        return None

    def obligations(self) -> tuple[Obligation, ...]:
        """What comes with what is permitted."""
        return ALWAYS + tuple(Obligation("keep-from-practitioner", p) for p in sorted(self.excluded))


class _Consents:
    """The client's consents that name this recipient and purpose, by category."""

    __slots__ = ("_at", "_found", "_grants", "_recipient", "_refusals")

    def __init__(self, grants: list[Granted], refusals: list[Withdrawn], recipient: str, at: datetime) -> None:
        self._grants, self._refusals, self._recipient, self._at = grants, refusals, recipient, at
        self._found: dict[tuple[Category, bool], Granted | str] = {}

    def of(self, category: Category, own_word: bool) -> Granted | str:
        """The newest grant that covers the category, or the rule of the one that got furthest."""
        key = category, own_word
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._find(category, own_word)
        return found

    def _find(self, category: Category, own_word: bool) -> Granted | str:
        why = "no-consent"
        for grant in reversed(self._grants):  # the history is in the order of versions
            if category not in grant.categories:
                continue
            rule = self._voids(grant, category, own_word)
            if rule is None:
                return grant
            why = _further(why, rule)
        return why

    def _voids(self, grant: Granted, category: Category, own_word: bool) -> str | None:
        """A grant is dead once a no that reaches it was recorded after it or was said after it was given: whichever
        order the two arrived in, the client said no.
        """
        for no in self._refusals:
            if (no.version > grant.version or no.at >= grant.given_at) and (
                no.scope.categories is None or category in no.scope.categories
            ):
                return "consent-refused" if no.refused else "consent-withdrawn"
        if grant.void is not None:
            return grant.void
        if grant.asserted_by == self._recipient and not own_word:
            return "own-word"
        at = self._at
        if (grant.valid_from and at < grant.valid_from) or (grant.valid_until and at >= grant.valid_until):
            return "consent-not-current"
        return None


def _further(one: str, other: str) -> str:
    return other if _RANK[other] > _RANK[one] else one


def _agreed(
    agreements: Iterable[Agreement], recipient: str, purpose: Purpose, at: datetime
) -> list[tuple[Agreement, Terms, str | None]]:
    """The agreements that name this recipient and purpose, with their terms and why they are not in force."""
    found = [a for a in agreements if recipient in a.recipients and purpose in a.terms]
    if not found:
        return []
    ids = {a.id for a in found}
    # A newer version that has begun and no longer names them counts as well: it took them out.
    current = _current([a for a in agreements if a.id in ids], at)
    return sorted(
        ((a, a.terms[purpose], in_force(a, at)) for a in current if recipient in a.recipients and purpose in a.terms),
        key=lambda one: one[0].id,
    )


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


def _names(grant: Granted, question: Question) -> bool:
    """Whether a grant names this recipient and purpose."""
    if question.purpose not in grant.purposes:
        return False
    recipient = question.recipient
    if recipient.kind is AgencyKind.SERVICE:
        return True  # our service is the means of its purpose, not somebody whom the client chooses
    return (
        recipient.id in grant.agencies
        or (recipient.area is not None and (recipient.kind, recipient.area) in grant.kinds)
        or (question.service is not None and (recipient.id, question.service) in grant.services)
    )


def _restricts(restriction: Restricted, recipient: str, purpose: Purpose) -> bool:
    if restriction.kind is RestrictionKind.PRACTITIONER_EXCLUSION:
        return False  # it binds by `exclusion-not-enforced` and by an obligation
    return restriction.scope.reaches(recipient, purpose) and recipient not in restriction.allowed


def lifts(
    given_at: datetime, history: Iterable[SharingFact], form_seen: bool
) -> Literal["consent-withdrawn", "form-used-before"] | None:
    """None when a new grant takes effect: on a form not seen before, and given after every no that was said so far.

    One that does not is kept as history: it may be a late or replayed copy of a consent that the client has since
    withdrawn.
    """
    if form_seen:
        return "form-used-before"
    return "consent-withdrawn" if any(isinstance(e, Withdrawn) and e.at >= given_at for e in history) else None
