"""`decide`: what may leave, for whom, why. It serves the discloser, the API, replay and the tests; there is no second.

It reads like docs/reference/rules.md: `_forbidding_all` and `forbidding` are its first part; `permitting` is the third,
way by way, and gives the reason of the second where none leads to a permit.
"""

from collections.abc import Iterable, Sequence
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
    Scope,
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
_EVERYTHING = Scope()
_SERVICE, _OFFENCE, _CONSENT, _OVERRIDE = AgencyKind.SERVICE, Category.OFFENCE, Basis.CONSENT, Basis.OVERRIDE
"""Named once: an enumeration is slow to give out its members, and these are asked for with every item."""


def decide(question: Question, facts: ClientFacts, policy: Policy) -> Decision:
    """Decide each item on its own. Anything that is missing means deny; deny beats permit.

    A statutory basis is preferred to consent, and consent to an override, where several permit: so a withdrawal stops
    only what rested on consent. For linked clients every part must permit.
    """
    if facts.parts:
        return _decide_linked(question, facts, policy)
    rule = _forbidding_all(question, facts)
    if rule is not None:
        return Decision(refusals=tuple([Refusal(item, rule) for item in question.items]))
    case = _Case(question, facts, policy)
    permits: list[Permit] = []
    refusals: list[Refusal] = []
    for item in question.items:
        outcome = case.forbidding(item) or case.permitting(item)
        if isinstance(outcome, str):
            refusals.append(Refusal(item, outcome))
        else:
            permits.append(outcome)
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
    return recipient.kind is not _SERVICE or SERVICE_PURPOSES.get(recipient.id) is purpose


def why_not_in_force(agreement: Agreement, at: datetime) -> str | None:
    """None when the agreement is in force, else the rule that says why not."""
    if not agreement.starts <= at < agreement.ends:
        return "agreement-not-in-force"
    if agreement.suspended_from is not None and agreement.suspended_from <= at:
        return "agreement-suspended"
    return None


def _forbidding_all(question: Question, facts: ClientFacts) -> str | None:
    """The rule that withholds every item: the first part of the table, as far as restrictions."""
    if facts.held:
        return "held"
    if facts.conflicting:
        return "conflicting-identity"
    if not acts_for(question.recipient, question.purpose):
        return "not-its-purpose"
    return None


class _Case:
    """A question with those facts that bear on it: what is the same for several items is looked up once."""

    __slots__ = (
        "_agreed",
        "_consents_read",
        "_excluded",
        "_gateways",
        "_grants",
        "_noes",
        "_overrides",
        "_policy",
        "_question",
        "_restricted",
        "_told_by",
        "_unenforced",
    )

    def __init__(self, question: Question, facts: ClientFacts, policy: Policy) -> None:
        self._question, self._policy = question, policy
        recipient, purpose = question.recipient, question.purpose
        id, of_its_kind, for_service = recipient.id, (recipient.kind, recipient.area), (recipient.id, question.service)
        is_ours = recipient.kind is _SERVICE  # the means of its purpose, not somebody whom the client chooses
        self._grants: list[Granted] = []
        self._noes: list[Withdrawn] = []
        self._gateways: list[GatewayInvoked] = []
        self._overrides: list[OverrideAuthorised] = []
        restricted = False
        for fact in facts.history:  # oldest first
            if type(fact) is Granted:
                if purpose in fact.purposes and (
                    is_ours or id in fact.agencies or of_its_kind in fact.kinds or for_service in fact.services
                ):
                    self._grants.append(fact)
            elif type(fact) is Withdrawn:
                if fact.scope.reaches(id, purpose):
                    self._noes.append(fact)
            elif type(fact) is Restricted:
                restricted = True
            elif type(fact) is GatewayInvoked:
                if _invoked_for(fact, question):
                    self._gateways.append(fact)
            elif type(fact) is OverrideAuthorised and (
                _invoked_for(fact, question) and policy.kinds.get(fact.asserted_by) in RESPONSIBLE
            ):
                self._overrides.append(fact)
        if self._gateways or self._overrides:  # an end ends it also when it came first
            ended = {(e.what, e.asserted_by, e.id) for e in facts.history if isinstance(e, Ended)}
            self._gateways = [g for g in self._gateways if ("gateway", g.asserted_by, g.id) not in ended]
            self._overrides = [o for o in self._overrides if ("override", o.asserted_by, o.id) not in ended]
        self._restricted: set[Category] = set()
        self._excluded: list[str] = []
        self._unenforced = False
        if restricted:
            self._restrict(standing_restrictions(facts, question.at))
        self._agreed = policy.agreed(id, purpose)
        self._told_by: dict[str, _Telling] = {}
        self._consents_read: dict[bool, _Consents] = {}

    # rules that deny, in the order of the table

    def forbidding(self, item: Item) -> str | None:
        """The rule that withholds this item whatever permits it, if one does."""
        if item.category in self._restricted:
            return "restricted"
        if self._unenforced:
            return "exclusion-not-enforced"
        return self._spent(item.source) if item.category is _OFFENCE else None

    def _restrict(self, restrictions: Iterable[Restricted]) -> None:
        recipient, excluded = self._question.recipient.id, set[str]()
        for restriction in restrictions:
            excluded.update(p for agency, p in restriction.practitioners if agency == recipient)
            if _restricts(restriction, recipient, self._question.purpose):
                categories = restriction.scope.categories
                self._restricted |= _ALL if categories is None else categories
        self._excluded = sorted(excluded)
        self._unenforced = bool(excluded) and not self._keeps_excluded_away()

    def _keeps_excluded_away(self) -> bool:
        recipient, practitioner, at = self._question.recipient.id, self._question.practitioner, self._question.at
        if practitioner is not None and _as_compared(practitioner) in map(_as_compared, self._excluded):
            return False
        current = (_counting([(a, None) for a in versions], at)[0] for versions in self._policy.versions)
        return any(recipient in agreement.enforces and why_not_in_force(agreement, at) is None for agreement in current)

    def _spent(self, source: str) -> str | None:
        """The rule that withholds the conviction that this source recorded, if one does."""
        question = self._question
        if question.recipient.kind in RESPONSIBLE:
            return None
        if source not in question.spent:
            return "spent-unknown"
        day = question.spent[source]
        if day is None or day > question.at.astimezone(LONDON).date():  # the law's day, not that of UTC
            return None
        return "spent-conviction"

    # what is missing, and the ways to a permit, in the order of preference

    def permitting(self, item: Item) -> Permit | str:
        """A permit by the first way that leads to one, or the rule of the way that got furthest."""
        source, category = item
        told = self._told_by.get(source)
        if told is None:
            told = self._told_by[source] = self._telling(source)
        why, on_statute, invoked, on_consent = told
        for agreement, terms, gateway in on_statute:  # 1. a gateway in an agreement
            if category not in terms.categories:
                why = _further(why, "agreement-category")
            elif gateway is None or category not in gateway.categories:
                why = _further(why, "gateway-does-not-reach")
            elif not gateway.invoked_by:
                return Permit(item, terms.basis, agreement.id, agreement.version)
            else:
                for said, categories in invoked:
                    counts = terms.own_word or not self._is_own(said)
                    if said.basis is terms.basis and category in categories and counts:
                        return Permit(item, terms.basis, agreement.id, agreement.version, invoked=said.version)
                why = _further(why, "gateway-does-not-reach")
        for said, categories in invoked:  # 2. a gateway invoked for this client
            if category in categories:
                if not self._is_own(said):
                    return Permit(item, said.basis, invoked=said.version)
                why = _further(why, "own-word")
        for agreement, terms, consents in on_consent:  # 3. an agreement on consent, and the client's consent
            if category not in terms.categories:
                why = _further(why, "agreement-category")
            else:
                found = consents.of(category)
                if not isinstance(found, str):
                    return Permit(item, _CONSENT, agreement.id, agreement.version, found.version)
                why = _further(why, found)
        for override in self._overrides:  # 4. a public-protection override
            if category in override.categories:
                if not self._is_own(override):
                    return Permit(item, _OVERRIDE, invoked=override.version)
                why = _further(why, "own-word")
        return why

    def _is_own(self, said: GatewayInvoked | OverrideAuthorised) -> bool:
        return said.asserted_by == self._question.recipient.id

    def _telling(self, source: str) -> "_Telling":
        """What is the same for every item of one source."""
        agreed = self._agreed.get(source, ())
        if not agreed and not self._gateways:
            return _NOTHING
        why, at = "no-agreement", self._question.at
        on_statute: list[tuple[Agreement, Terms, Gateway | None]] = []
        on_consent: list[tuple[Agreement, Terms, _Consents]] = []
        for versions in agreed:
            agreement, terms = _counting(versions, at)
            if terms is None:
                continue  # it took the source, the recipient or the purpose out
            lack = why_not_in_force(agreement, at)
            if lack is not None:
                why = _further(why, lack)
            elif terms.basis is _CONSENT:
                on_consent.append((agreement, terms, self._consents(terms.own_word)))
            else:
                on_statute.append((agreement, terms, self._reaching(terms.basis, source)))
        invoked = [
            (said, said.categories & gateway.categories)
            for said in self._gateways
            if (gateway := self._reaching(said.basis, source)) is not None
            and self._policy.kinds.get(said.asserted_by) in gateway.invoked_by
            and (said.asserted_by == source or not gateway.own_only)
        ]
        return why, on_statute, invoked, on_consent

    def _reaching(self, basis: Basis, source: str) -> Gateway | None:
        """The gateway of this basis, where it reaches the source, the recipient and the purpose."""
        gateway = self._policy.gateways.get(basis)
        if (
            gateway is not None
            and self._policy.kinds.get(source) in gateway.sources
            and self._question.recipient.kind in gateway.recipients
            and self._question.purpose in gateway.purposes
        ):
            return gateway
        return None

    def _consents(self, own_word: bool) -> "_Consents":
        """The client's consents as they stand under terms with or without `own_word`."""
        found = self._consents_read.get(own_word)
        if found is None:
            not_from = None if own_word else self._question.recipient.id
            found = self._consents_read[own_word] = _Consents(self._grants, self._noes, not_from, self._question.at)
        return found

    def obligations(self) -> tuple[Obligation, ...]:
        """What comes with what is permitted."""
        return ALWAYS + tuple(Obligation("keep-from-practitioner", p) for p in self._excluded)


class _Consents:
    """The client's consents that name this recipient and purpose: which categories are open by them, and which void.

    A consent is void once a no that reaches it was recorded after it or was said after it was given: whichever order
    the two arrived in, the client said no.
    """

    __slots__ = ("_open", "_void")

    def __init__(self, grants: list[Granted], noes: list[Withdrawn], not_from: str | None, at: datetime) -> None:
        """In the order of versions. `not_from`: whose word does not count."""
        self._open: list[tuple[frozenset[Category], Granted]] = []
        self._void: list[tuple[frozenset[Category], str]] = []
        noes = sorted(noes, key=lambda no: not no.refused)  # the reason told is the last of the table
        for grant in reversed(grants):  # from the end of the table upwards: what the client said outweighs dates
            left = grant.categories
            for no in noes:
                if no.version > grant.version or no.at >= grant.given_at:
                    reached = left if no.scope.categories is None else left & no.scope.categories
                    self._void.append((reached, "consent-refused" if no.refused else "consent-withdrawn"))
                    left -= reached
            if not left:
                continue
            if grant.void is not None:
                self._void.append((left, grant.void))
            elif grant.asserted_by == not_from:
                self._void.append((left, "own-word"))
            elif (grant.valid_from and at < grant.valid_from) or (grant.valid_until and at >= grant.valid_until):
                self._void.append((left, "consent-not-current"))
            else:
                self._open.append((left, grant))
        self._void.sort(key=lambda void: RANK[void[1]], reverse=True)

    def of(self, category: Category) -> Granted | str:
        """The newest consent that opens the category, or the rule of the one that got furthest."""
        for categories, grant in self._open:
            if category in categories:
                return grant
        for categories, rule in self._void:
            if category in categories:
                return rule
        return "no-consent"


_Telling = tuple[
    str,
    Sequence[tuple[Agreement, Terms, Gateway | None]],
    Sequence[tuple[GatewayInvoked, frozenset[Category]]],
    Sequence[tuple[Agreement, Terms, _Consents]],
]
"""What a source may tell by: the lack of its agreements that are not in force; those in force on a statute, with the
gateway where that reaches; the gateways invoked that reach, and for what; the agreements in force on consent."""
_NOTHING: _Telling = "no-agreement", (), (), ()


def _further(rule: str, other: str) -> str:
    """The one further down the table."""
    return rule if RANK[rule] >= RANK[other] else other


def _counting(versions: Sequence[tuple[Agreement, Terms | None]], at: datetime) -> tuple[Agreement, Terms | None]:
    """The version that counts: the newest that has begun, or the first where none has."""
    for version in versions:
        if version[0].starts <= at:
            return version
    return versions[-1]


def _restricts(restriction: Restricted, recipient: str, purpose: Purpose) -> bool:
    if restriction.kind is RestrictionKind.PRACTITIONER_EXCLUSION:
        return False  # it binds by `exclusion-not-enforced` and by an obligation
    return restriction.scope.reaches(recipient, purpose) and recipient not in restriction.allowed


def _as_compared(practitioner: str) -> str:
    """The id of a practitioner without case and outer spaces: a token and an exclusion may write it differently."""
    return practitioner.strip().casefold()


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


def why_void(
    given_at: datetime, history: Iterable[SharingFact], form_seen: bool
) -> Literal["consent-withdrawn", "form-used-before"] | None:
    """None when a new grant takes effect: on a form not seen before, and given after every no to everything so far.

    One that does not is kept as history: it may be a late or replayed copy of a consent that the client has since
    withdrawn. A no that names something voids of it what it names (`_Consents`), and leaves the rest.
    """
    if form_seen:
        return "form-used-before"
    noes = (e for e in history if isinstance(e, Withdrawn) and e.scope == _EVERYTHING)
    return "consent-withdrawn" if any(no.at >= given_at for no in noes) else None
