"""`decide`: what may leave, for whom, why. It serves the discloser, the API, replay and the tests; there is no second.

It reads like the table of docs/reference/rules.md: `forbidding` is its first part, `_lacks` and `_ways` are the second.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

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
from consent.domain.question import Decision, Item, Obligation, Permit, Question, Refusal
from consent.domain.standing import RESPONSIBLE, Gateway
from consent.domain.table import RANK
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Basis, Category, Purpose, RestrictionKind

LONDON = ZoneInfo("Europe/London")
ALWAYS = (Obligation("no-onward-sharing"), Obligation("erase-on-retraction"))
_ALL = frozenset(Category)


def decide(question: Question, facts: ClientFacts, policy: Policy) -> Decision:
    """Decide each item on its own. Anything that is missing means deny; deny beats permit.

    A statutory basis is preferred to consent, and consent to an override, where several permit: so a withdrawal stops
    only what rested on consent. For linked clients every part must permit.
    """
    if facts.parts:
        return _decide_linked(question, facts, policy)
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


def _decide_linked(question: Question, facts: ClientFacts, policy: Policy) -> Decision:
    """What every part permits. Of several reasons the first of the table, of several consents the newest: it is above
    whatever was withdrawn under a part's key before the link, and below whatever is withdrawn since.
    """
    decisions = [
        decide(
            question,
            replace(part, held=part.held or facts.held, conflicting=part.conflicting or facts.conflicting),
            policy,
        )
        for part in facts.parts
    ]
    refused: dict[Item, Refusal] = {}
    permits: dict[Item, Permit] = {}
    for refusal in (r for d in decisions for r in d.refusals):
        other = refused.setdefault(refusal.item, refusal)
        if RANK[refusal.rule] < RANK[other.rule]:
            refused[refusal.item] = refusal
    for permit in (p for d in decisions for p in d.permits if p.item not in refused):
        first = permits.setdefault(permit.item, permit)
        if permit.consent is not None and (first.consent is None or permit.consent > first.consent):
            permits[permit.item] = permit
    obligations = tuple(dict.fromkeys(o for d in decisions for o in d.obligations))
    return Decision(
        tuple(permits.values()),
        tuple(refused[item] for item in question.items if item in refused),
        obligations if permits else (),
    )


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
    """A question with those facts that bear on it: what is the same for every item is looked up once."""

    __slots__ = (
        "_agreed",
        "_consents",
        "_excluded",
        "_gateways",
        "_overrides",
        "_policy",
        "_question",
        "_restricted",
        "_unenforced",
        "_whole",
    )

    def __init__(self, question: Question, facts: ClientFacts, policy: Policy) -> None:
        self._question, self._policy = question, policy
        recipient, purpose, at = question.recipient, question.purpose, question.at
        self._agreed = _agreed(policy.agreements, recipient.id, purpose, at)
        self._restricted: set[Category] = set()
        excluded: set[str] = set()
        grants: list[Granted] = []
        noes: list[Withdrawn] = []
        self._gateways: list[GatewayInvoked] = []
        self._overrides: list[OverrideAuthorised] = []
        ended = {(e.what, e.asserted_by, e.id): e.version for e in facts.history if isinstance(e, Ended)}
        for fact in facts.history:
            if isinstance(fact, Granted):
                if _names(fact, question):
                    grants.append(fact)
            elif isinstance(fact, Withdrawn):
                if fact.scope.reaches(recipient.id, purpose):
                    noes.append(fact)
            elif isinstance(fact, Restricted):
                lifted = ended.get(("restriction", fact.asserted_by, fact.id), 0) > fact.version
                if not lifted and (fact.until is None or at < fact.until):
                    excluded.update(p for agency, p in fact.practitioners if agency == recipient.id)
                    if _restricts(fact, recipient.id, purpose):
                        self._restricted |= _ALL if fact.scope.categories is None else fact.scope.categories
            elif isinstance(fact, GatewayInvoked):  # its end ends it also when it came first
                if ("gateway", fact.asserted_by, fact.id) not in ended and _invoked_for(fact, question):
                    self._gateways.append(fact)
            elif isinstance(fact, OverrideAuthorised) and (
                ("override", fact.asserted_by, fact.id) not in ended
                and _invoked_for(fact, question)
                and policy.kinds.get(fact.asserted_by) in RESPONSIBLE
            ):
                self._overrides.append(fact)
        self._consents = _Consents(grants, noes, recipient.id, at)
        self._excluded = sorted(excluded)
        self._unenforced = bool(excluded) and not self._keeps_excluded_away()
        self._whole = self._forbidding_all(facts)

    # rules that deny, in the order of the table

    def _forbidding_all(self, facts: ClientFacts) -> str | None:
        """The rule that withholds every item, of those that come before restrictions."""
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
        if item.category in self._restricted:
            return "restricted"
        if self._unenforced:
            return "exclusion-not-enforced"
        if item.category is Category.OFFENCE and self._is_spent(item.source):
            return "spent-conviction"
        return None

    def _keeps_excluded_away(self) -> bool:
        recipient, practitioner, at = self._question.recipient.id, self._question.practitioner, self._question.at
        if practitioner is not None:  # the door itself sees to it
            return practitioner not in self._excluded
        current = _current(self._policy.agreements, at)
        return any(recipient in agreement.enforces and in_force(agreement, at) is None for agreement in current)

    def _is_spent(self, source: str) -> bool:
        day = self._question.spent.get(source)
        today = self._question.at.astimezone(LONDON).date()  # the law's day, not that of UTC
        return day is not None and day <= today and self._question.recipient.kind not in RESPONSIBLE

    # what is missing, and the ways to a permit, in the order of preference

    def permitting(self, item: Item) -> Permit | str:
        """A permit, or the rule of the way that got furthest."""
        why = "no-agreement"
        for outcome in self._ways(item):
            if isinstance(outcome, Permit):
                return outcome
            if RANK[outcome] > RANK[why]:
                why = outcome
        return why

    def _ways(self, item: Item) -> Iterator[Permit | str]:
        """Each way by which this item could leave: the permit, or the rule for which it is none."""
        on_consent: list[tuple[Agreement, Terms]] = []
        for agreement, terms, not_in_force in self._agreed:
            if item.source in agreement.sources:
                if not_in_force is not None:
                    yield not_in_force
                elif item.category not in terms.categories:
                    yield "agreement-category"
                elif terms.basis is Basis.CONSENT:
                    on_consent.append((agreement, terms))
                else:
                    yield self._by_statute(item, agreement, terms)
        for gateway in self._gateways:
            if self._lets_out(gateway, item):
                yield self._unless_own_word(gateway, Permit(item, gateway.basis, invoked=gateway.version))
        for agreement, terms in on_consent:
            found = self._consents.of(item.category, terms.own_word)
            if isinstance(found, Granted):
                yield Permit(item, Basis.CONSENT, agreement.id, agreement.version, found.version)
            else:
                yield found
        for override in self._overrides:
            if item.category in override.categories:
                yield self._unless_own_word(override, Permit(item, Basis.OVERRIDE, invoked=override.version))

    def _unless_own_word(self, said: GatewayInvoked | OverrideAuthorised, permit: Permit) -> Permit | str:
        return "own-word" if said.asserted_by == self._question.recipient.id else permit

    def _by_statute(self, item: Item, agreement: Agreement, terms: Terms) -> Permit | str:
        """By the gateway of an agreement: it stands there, or must also have been invoked for this client."""
        gateway = self._policy.gateways.get(terms.basis)
        if gateway is None or not self._reaches(gateway, item):
            return "gateway-does-not-reach"
        if not gateway.invoked_by:
            return Permit(item, terms.basis, agreement.id, agreement.version)
        for said in self._gateways:
            own_word = said.asserted_by == self._question.recipient.id
            if said.basis is terms.basis and self._lets_out(said, item) and (terms.own_word or not own_word):
                return Permit(item, terms.basis, agreement.id, agreement.version, invoked=said.version)
        return "gateway-does-not-reach"

    def _reaches(self, gateway: Gateway, item: Item) -> bool:
        return (
            self._policy.kinds.get(item.source) in gateway.sources
            and self._question.recipient.kind in gateway.recipients
            and self._question.purpose in gateway.purposes
            and item.category in gateway.categories
        )

    def _lets_out(self, said: GatewayInvoked, item: Item) -> bool:
        """Whether the gateway, as it was invoked for this client, reaches this item."""
        gateway = self._policy.gateways.get(said.basis)
        return (
            gateway is not None
            and item.category in said.categories
            and self._reaches(gateway, item)
            and self._policy.kinds.get(said.asserted_by) in gateway.invoked_by
            and (said.asserted_by == item.source or not gateway.own_only)
        )

    def obligations(self) -> tuple[Obligation, ...]:
        """What comes with what is permitted."""
        return ALWAYS + tuple(Obligation("keep-from-practitioner", p) for p in self._excluded)


class _Consents:
    """The client's consents that name this recipient and purpose, by category."""

    __slots__ = ("_at", "_found", "_grants", "_noes", "_recipient")

    def __init__(self, grants: list[Granted], noes: list[Withdrawn], recipient: str, at: datetime) -> None:
        self._grants, self._recipient, self._at = grants, recipient, at
        self._noes = sorted(noes, key=lambda no: not no.refused)  # the reason told is the last of the table
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
            if category in grant.categories:
                rule = self._voids(grant, category, own_word)
                if rule is None:
                    return grant
                if RANK[rule] > RANK[why]:
                    why = rule
        return why

    def _voids(self, grant: Granted, category: Category, own_word: bool) -> str | None:
        """Why a grant opens nothing, from the end of the table upwards: what the client said outweighs dates.

        It is dead once a no that reaches it was recorded after it or was said after it was given: whichever order the
        two arrived in, the client said no.
        """
        for no in self._noes:
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


def _agreed(
    agreements: Iterable[Agreement], recipient: str, purpose: Purpose, at: datetime
) -> list[tuple[Agreement, Terms, str | None]]:
    """The agreements that name this recipient and purpose, with their terms and why they are not in force."""
    ids = {a.id for a in agreements if recipient in a.recipients and purpose in a.terms}
    if not ids:
        return []
    # A newer version that has begun and no longer names them counts as well: it took them out.
    current = _current([a for a in agreements if a.id in ids], at)
    named = (a for a in current if recipient in a.recipients and purpose in a.terms)
    return [(a, a.terms[purpose], in_force(a, at)) for a in sorted(named, key=lambda a: a.id)]


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
        or (recipient.kind, recipient.area) in grant.kinds
        or (recipient.id, question.service) in grant.services
    )


def _restricts(restriction: Restricted, recipient: str, purpose: Purpose) -> bool:
    if restriction.kind is RestrictionKind.PRACTITIONER_EXCLUSION:
        return False  # it binds by `exclusion-not-enforced` and by an obligation
    return restriction.scope.reaches(recipient, purpose) and recipient not in restriction.allowed


def _invoked_for(said: GatewayInvoked | OverrideAuthorised, question: Question) -> bool:
    return (
        question.recipient.id in said.recipients
        and question.purpose in said.purposes
        and said.starts <= question.at < said.ends
    )


def standing_restrictions(facts: ClientFacts, at: datetime) -> list[Restricted]:
    """The restrictions of a client that were not lifted and have not ended, of whatever kind; of any part counts."""
    if facts.parts:
        return [found for part in facts.parts for found in standing_restrictions(part, at)]
    lifted = {
        (e.asserted_by, e.id): e.version for e in facts.history if isinstance(e, Ended) and e.what == "restriction"
    }
    return [
        fact
        for fact in facts.history
        if isinstance(fact, Restricted)
        and lifted.get((fact.asserted_by, fact.id), 0) < fact.version
        and (fact.until is None or at < fact.until)
    ]


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
