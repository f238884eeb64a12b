"""`decide`: what may leave, for whom, why. It serves the discloser, the API, replay and the tests; there is no second.

It reads like docs/reference/rules.md: `_forbidding_all` and `forbidding` are its first part; `permitting` takes the
ways of the third (`ways`) in their order, and gives the reason of the second where none leads to a permit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
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
    Scope,
    SharingFact,
    Terms,
    Withdrawn,
)
from consent.domain.question import Decision, Item, Obligation, Permit, Question, Withheld
from consent.domain.standing import RESPONSIBLE, Gateway
from consent.domain.table import QUIETLY_TOLD, RANK
from consent.domain.ways import AgreementOnConsent, Consents, GatewayInAgreement, Invoked, Way
from contracts.vocabulary import LONDON, SERVICE_PURPOSES, AgencyKind, Basis, Category, Purpose, RestrictionKind

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
    matter = _Matter(question, facts, policy)
    if rule is not None:
        return Decision(withheld=tuple([matter.withheld(item, rule) for item in question.items]))
    permits: list[Permit] = []
    withheld: list[Withheld] = []
    for item in question.items:
        outcome = matter.forbidding(item) or matter.permitting(item)
        if isinstance(outcome, str):
            withheld.append(matter.withheld(item, outcome))
        else:
            permits.append(outcome)
    return Decision(tuple(permits), tuple(withheld), matter.obligations() if permits else ())


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
    withheld: dict[Item, Withheld] = {}
    permits: dict[Item, Permit] = {}
    for one in (w for d in decisions for w in d.withheld):
        withheld[one.item] = _first(withheld.get(one.item, one), one)
    for permit in (p for d in decisions for p in d.permits if p.item not in withheld):
        first = permits.setdefault(permit.item, permit)
        if permit.consent is not None and (first.consent is None or permit.consent > first.consent):
            permits[permit.item] = permit
    obligations = tuple(dict.fromkeys(o for d in decisions for o in d.obligations))
    return Decision(
        tuple(permits.values()),
        tuple(withheld[item] for item in question.items if item in withheld),
        obligations if permits else (),
    )


def _first(*reasons: Withheld) -> Withheld:
    """Of reasons for the same item the first of the table, and the first by which it is withheld anyway."""
    first = min(reasons, key=lambda reason: RANK[reason.rule])
    if first.rule not in QUIETLY_TOLD:
        return first
    others = [rule for reason in reasons for rule in (reason.rule, reason.anyway) if rule and rule not in QUIETLY_TOLD]
    return first._replace(anyway=min(others, key=lambda rule: RANK[rule], default=None))


def acts_for(recipient: Agency, purpose: Purpose) -> bool:
    """Whether a recipient may get anything for a purpose at all: each of our services acts for one."""
    return recipient.kind is not _SERVICE or SERVICE_PURPOSES.get(recipient.id) is purpose


def naming(consents: Sequence[Granted], recipient: Agency, service: str | None) -> Sequence[Granted]:
    """The consents that name this recipient: as an agency, as a kind in an area, or as one service that it offers.

    One of our own services needs no name: it is the means of its purpose, not somebody whom the client chooses.

    Args:
        service: which one it is about; None: about none, so that a consent for one does not name it.
    """
    if recipient.kind is _SERVICE:
        return consents
    return [consent for consent in consents if consent.recipients.name(recipient, service)]


def why_not_in_force(agreement: Agreement, at: datetime) -> str | None:
    """None when the agreement is in force, else the rule that says why not."""
    if not agreement.starts <= at < agreement.ends:
        return "agreement-not-in-force"
    if agreement.suspended_from is not None and agreement.suspended_from <= at:
        return "agreement-suspended"
    return None


def agreements_in_force(policy: Policy, at: datetime) -> list[Agreement]:
    """The agreements in force, each in the version that counts."""
    counting = (_counting([(a, None) for a in versions], at)[0] for versions in policy.versions)
    return [agreement for agreement in counting if why_not_in_force(agreement, at) is None]


def _forbidding_all(question: Question, facts: ClientFacts) -> str | None:
    """The rule that withholds every item: the first part of the table, as far as restrictions."""
    if facts.held:
        return "held"
    if facts.conflicting:
        return "conflicting-identity"
    if not acts_for(question.recipient, question.purpose):
        return "not-its-purpose"
    return None


class _Matter:
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
        "_undertaken",
        "_ways_of",
    )

    def __init__(self, question: Question, facts: ClientFacts, policy: Policy) -> None:
        self._question, self._policy = question, policy
        recipient, purpose = question.recipient, question.purpose
        grants: list[Granted] = []
        self._noes: list[Withdrawn] = []
        self._gateways: list[GatewayInvoked] = []
        overrides: list[OverrideAuthorised] = []
        restricted = False
        for fact in facts.history:  # oldest first
            if type(fact) is Granted:
                if purpose in fact.purposes:
                    grants.append(fact)
            elif type(fact) is Withdrawn:
                if fact.scope.reaches(recipient, purpose, question.service):
                    self._noes.append(fact)
            elif type(fact) is Restricted:
                restricted = True
            elif type(fact) is GatewayInvoked:
                if _invoked_for(fact, question):
                    self._gateways.append(fact)
            elif type(fact) is OverrideAuthorised and (
                _invoked_for(fact, question) and policy.kinds.get(fact.asserted_by) in RESPONSIBLE
            ):
                overrides.append(fact)
        self._grants = naming(grants, recipient, question.service)
        self._overrides: Sequence[Invoked] = ()
        if self._gateways or overrides:  # an end ends it also when it came first
            over = ended(facts.history)
            self._gateways = [g for g in self._gateways if ("gateway", g.asserted_by, g.id) not in over]
            self._overrides = [
                Invoked(o.version, _OVERRIDE, o.categories, self._is_own(o))
                for o in overrides
                if ("override", o.asserted_by, o.id) not in over
            ]
        self._restricted: set[Category] = set()
        self._excluded: list[str] = []
        self._undertaken = frozenset[str]()
        if restricted:
            self._restrict(standing_restrictions(facts, question.at))
        self._agreed = policy.agreed(recipient.id, purpose)
        self._ways_of: dict[str, tuple[str, Sequence[Way]]] = {}
        self._consents_read: dict[bool, Consents] = {}

    # rules that deny, in the order of the table

    def forbidding(self, item: Item) -> str | None:
        """The rule that withholds this item whatever permits it, if one does."""
        if item.category in self._restricted:
            return "restricted"
        if self._excluded and item.source not in self._undertaken:
            return "exclusion-not-enforced"
        return self._spent(item.source) if item.category is _OFFENCE else None

    def withheld(self, item: Item, rule: str) -> Withheld:
        """The item, withheld by this rule; where that is told quietly, with the rule that withholds it anyway."""
        if rule not in QUIETLY_TOLD:
            return Withheld(item, rule)
        anyway: Permit | str | None = None
        if not acts_for(self._question.recipient, self._question.purpose):
            anyway = "not-its-purpose"
        elif item.category is _OFFENCE:
            anyway = self._spent(item.source)
        anyway = anyway or self.permitting(item)
        return Withheld(item, rule, anyway if isinstance(anyway, str) else None)

    def _restrict(self, restrictions: Iterable[Restricted]) -> None:
        recipient, excluded = self._question.recipient.id, set[str]()
        for restriction in restrictions:
            excluded.update(p for agency, p in restriction.practitioners if agency == recipient)
            if _restricts(restriction, self._question):
                categories = restriction.scope.categories
                self._restricted |= _ALL if categories is None else categories
        self._excluded = sorted(excluded)
        if excluded:
            self._undertaken = self._undertook_to()

    def _undertook_to(self) -> frozenset[str]:
        """The sources to whom the recipient undertook to keep the excluded away; to nobody where one of them asks."""
        recipient, practitioner, at = self._question.recipient.id, self._question.practitioner, self._question.at
        if _is_among(practitioner, self._excluded):
            return frozenset()
        agreements = agreements_in_force(self._policy, at)
        return frozenset[str]().union(*(a.sources for a in agreements if recipient in a.enforces))

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
        source = item.source
        why, ways = self._ways_of.get(source) or self._ways(source)
        for way in ways:
            found = way.permit(item)
            if not isinstance(found, str):
                return found
            if RANK[found] > RANK[why]:
                why = found
        return why

    def _ways(self, source: str) -> tuple[str, Sequence[Way]]:
        """What the agreements lack by which this source may not tell, and the ways of each of its items to a permit."""
        why, at = "no-agreement", self._question.at
        in_agreements: list[GatewayInAgreement] = []
        invoked = self._invoked(source) if self._gateways else []
        on_consent: list[AgreementOnConsent] = []
        for versions in self._agreed.get(source, ()):
            agreement, terms = _counting(versions, at)
            if terms is None:
                continue  # it took the source, the recipient or the purpose out
            if not self._question.asked and not self._policy.tell_unasked(terms):
                lack: str | None = "not-subscribed"
            else:
                lack = why_not_in_force(agreement, at)
            if lack is not None:
                if RANK[lack] > RANK[why]:
                    why = lack
            elif terms.basis is _CONSENT:
                on_consent.append(AgreementOnConsent(agreement, terms.categories, self._consents(terms.own_word)))
            else:
                gateway = self._reaching(terms.basis, source)
                in_agreements.append(GatewayInAgreement(agreement, terms, gateway, invoked))
        ways: list[Way] = [
            *in_agreements,  # 1. a gateway in an agreement
            *invoked,  # 2. a gateway invoked for this client
            *on_consent,  # 3. an agreement on consent, and the client's consent
            *self._overrides,  # 4. a public-protection override
        ]
        self._ways_of[source] = why, ways
        return why, ways

    def _invoked(self, source: str) -> list[Invoked]:
        return [
            Invoked(said.version, said.basis, said.categories & gateway.categories, self._is_own(said))
            for said in self._gateways
            if (gateway := self._reaching(said.basis, source)) is not None
            and self._policy.kinds.get(said.asserted_by) in gateway.invoked_by
            and (said.asserted_by == source or not gateway.own_only)
        ]

    def _is_own(self, said: GatewayInvoked | OverrideAuthorised) -> bool:
        return said.asserted_by == self._question.recipient.id

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

    def _consents(self, own_word: bool) -> Consents:
        """The client's consents as they stand under terms with or without `own_word`."""
        found = self._consents_read.get(own_word)
        if found is None:
            not_from = None if own_word else self._question.recipient.id
            found = self._consents_read[own_word] = Consents(self._grants, self._noes, not_from, self._question.at)
        return found

    def obligations(self) -> tuple[Obligation, ...]:
        """What comes with what is permitted."""
        return ALWAYS + tuple([Obligation("keep-from-practitioner", p) for p in self._excluded])


def _counting(versions: Sequence[tuple[Agreement, Terms | None]], at: datetime) -> tuple[Agreement, Terms | None]:
    """The version that counts: the newest that has begun, or the first where none has."""
    for version in versions:
        if version[0].starts <= at:
            return version
    return versions[-1]


def is_excluded(facts: ClientFacts, agency: str, practitioner: str | None, at: datetime) -> bool:
    """Whether a restriction keeps this practitioner of an agency, by that agency's own id, away from the client."""
    excluded = (one for restriction in standing_restrictions(facts, at) for one in restriction.practitioners)
    return _is_among(practitioner, [id for named, id in excluded if named == agency])


def _restricts(restriction: Restricted, question: Question) -> bool:
    if restriction.kind is RestrictionKind.PRACTITIONER_EXCLUSION:
        return False  # it binds by `exclusion-not-enforced` and by an obligation
    recipient, reach = question.recipient, restriction.scope.may_reach
    return reach(recipient, question.purpose, question.service) and recipient.id not in restriction.allowed


def _is_among(practitioner: str | None, excluded: Iterable[str]) -> bool:
    """Whether somebody is one of these, without case and outer spaces: a token and an exclusion may write an id
    differently.
    """
    return practitioner is not None and practitioner.strip().casefold() in [id.strip().casefold() for id in excluded]


def _invoked_for(said: GatewayInvoked | OverrideAuthorised, question: Question) -> bool:
    return (
        question.recipient.id in said.recipients
        and question.purpose in said.purposes
        and said.starts <= question.at < said.ends
        and (not said.once or question.asked or said.version in question.once)
    )


def standing_restrictions(facts: ClientFacts, at: datetime) -> list[Restricted]:
    """The restrictions of a client that were not lifted and have not ended, of whatever kind; of any part counts."""
    if facts.parts:
        return [found for part in facts.parts for found in standing_restrictions(part, at)]
    return [found for found in not_lifted(facts.history) if found.until is None or at < found.until]


def not_lifted(history: Sequence[SharingFact]) -> list[Restricted]:
    """The restrictions, also those that have ended, but for those that the agency whose they are lifted since."""
    lifted = {(e.asserted_by, e.id): e.version for e in history if isinstance(e, Ended) and e.what == "restriction"}
    return [
        fact
        for fact in history
        if isinstance(fact, Restricted) and lifted.get((fact.asserted_by, fact.id), 0) < fact.version
    ]


def ended(history: Iterable[SharingFact]) -> set[tuple[str, str, str]]:
    """What was ended or lifted: what it is, its agency, and that agency's id of it. A gateway or override is so for
    ever, whichever came first; for a restriction see `not_lifted`.
    """
    return {(e.what, e.asserted_by, e.id) for e in history if isinstance(e, Ended)}


def leaves_open(consent: Granted, history: Sequence[SharingFact], agencies: Iterable[Agency], at: datetime) -> bool:
    """Whether anything that the client agreed to is still open, as far as the client goes: for one of these agencies,
    or for those that come later to a kind that it names. Dates are left aside.
    """
    timeless = replace(consent, valid_from=None, valid_until=None)
    for agency in (*agencies, *(Agency("", kind, area) for kind, area in consent.recipients.kinds)):
        for service in (None, *(service for id, service in consent.recipients.services if id == agency.id)):
            for purpose in consent.purposes if consent.recipients.name(agency, service) else ():
                noes = [f for f in history if isinstance(f, Withdrawn) and f.scope.reaches(agency, purpose, service)]
                left = Consents([timeless], noes, None, at)
                if any(isinstance(left.of(category), Granted) for category in consent.categories):
                    return True
    return False


def why_void(
    given_at: datetime, history: Iterable[SharingFact], form_seen: bool
) -> Literal["consent-withdrawn", "form-used-before"] | None:
    """None when a new grant takes effect: on a form not seen before, and given after every no to everything so far.

    One that does not is kept as history: it may be a late or replayed copy of a consent that the client has since
    withdrawn. A no that names something voids of it what it names (`Consents`), and leaves the rest.
    """
    if form_seen:
        return "form-used-before"
    noes = (e for e in history if isinstance(e, Withdrawn) and e.scope == _EVERYTHING)
    return "consent-withdrawn" if any(no.at >= given_at for no in noes) else None
