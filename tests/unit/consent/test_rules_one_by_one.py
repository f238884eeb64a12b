"""One world in which everything is there, and for every rule what happens when that one thing is not."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.consent.oracle import World, kept_as_history
from unit.consent.worlds import KINDS, TIMES, numbered, times

from consent.domain import (
    RULES,
    Agency,
    Agreement,
    ClientFacts,
    Decision,
    Ended,
    Expired,
    GatewayInvoked,
    Granted,
    Item,
    Obligation,
    OverrideAuthorised,
    OverrideReviewed,
    Permit,
    Policy,
    Question,
    Recipients,
    Restricted,
    Scope,
    SharingFact,
    Terms,
    Withdrawn,
    acts_for,
    decide,
    why_not_in_force,
    why_void,
)
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose, RestrictionKind

MOMENT = timedelta(microseconds=1)
AT = TIMES[3]
ITEM = Item("prison", Category.IDENTITY)
OFFENCE = Item("prison", Category.OFFENCE)
HOSTEL = Agency("hostel", AgencyKind.VCS, "leeds")
PROBATION = Agency("probation", AgencyKind.PROBATION, "leeds")
COUNCIL = Agency("council", AgencyKind.LOCAL_AUTHORITY)
REFERRAL = Agency("referral", AgencyKind.SERVICE)
BOTH = frozenset({Category.IDENTITY, Category.OFFENCE})
ALL_KINDS = KINDS | {"police": AgencyKind.POLICE, "clinic": AgencyKind.HEALTH}
THE_HOSTEL, THE_MENTORS = Recipients(frozenset({"hostel"})), Recipients(frozenset({"mentors"}))
BEDS = Recipients(services=frozenset({("hostel", "beds")}))
OF_LEEDS = Recipients(kinds=frozenset({(AgencyKind.VCS, "leeds")}))
GRANT = Granted(1, "prison", THE_HOSTEL, frozenset({Purpose.REFERRAL}), BOTH, TIMES[1])
AGREEMENT = Agreement(
    "sharing",
    4,
    frozenset({"prison"}),
    frozenset({"hostel"}),
    {Purpose.REFERRAL: Terms(Basis.CONSENT, BOTH)},
    TIMES[0],
    TIMES[5],
)
NEVER_SPENT: dict[str, date | None] = {"prison": None}
FULL = World(
    Question(HOSTEL, Purpose.REFERRAL, (ITEM,), AT, spent=NEVER_SPENT),
    ClientFacts((GRANT,)),
    Policy((AGREEMENT,), ALL_KINDS),
)

NO = Withdrawn(0, "hostel", TIMES[2])
STOP = Restricted(0, "prison", "r1", RestrictionKind.VICTIM_SAFETY, Scope())
LIFTED = Ended(0, "prison", "restriction", "r1")
EXCLUDED = Restricted(
    0, "prison", "r1", RestrictionKind.PRACTITIONER_EXCLUSION, Scope(), practitioners=frozenset({("hostel", "ann")})
)
OVERRIDE = OverrideAuthorised(
    0,
    "prison",
    "o1",
    frozenset({"hostel"}),
    frozenset({Purpose.REFERRAL}),
    BOTH,
    starts=TIMES[1],
    ends=TIMES[5],
    review_by=TIMES[2],
)
MAPPA = GatewayInvoked(
    0,
    "police",
    "g1",
    Basis.CJA_S325,
    frozenset({"council", "police", "hostel", "notifications"}),
    frozenset({Purpose.PUBLIC_PROTECTION, Purpose.REFERRAL}),
    BOTH,
    starts=TIMES[1],
    ends=TIMES[5],
)


def decided(world: World) -> Decision:
    return decide(world.question, world.facts, world.policy)


def asked(world: World = FULL, **change: Any) -> World:
    return replace(world, question=replace(world.question, **change))


def agreed(world: World = FULL, **change: Any) -> World:
    return signed(replace(AGREEMENT, **change), world=world)


def signed(*agreements: Agreement, world: World = FULL) -> World:
    return replace(world, policy=replace(world.policy, agreements=agreements))


def history(*said: SharingFact, world: World = FULL, **flags: Any) -> World:
    return replace(world, facts=ClientFacts(numbered(said), **flags))


def linked(*parts: tuple[SharingFact, ...], world: World = FULL, **flags: Any) -> World:
    return replace(world, facts=ClientFacts(parts=tuple(ClientFacts(numbered(p)) for p in parts), **flags))


def unsigned(*said: SharingFact) -> World:
    """What was said is all there is: no agreement. Asked for the council, for public protection."""
    return asked(
        signed(world=history(*said)), recipient=COUNCIL, purpose=Purpose.PUBLIC_PROTECTION, items=(ITEM, OFFENCE)
    )


def on(basis: Basis, *categories: Category, purpose: Purpose = Purpose.REFERRAL, own_word: bool = False) -> Any:
    return {purpose: Terms(basis, frozenset(categories), own_word=own_word)}


SUBSCRIBED = {Purpose.REFERRAL: replace(AGREEMENT.terms[Purpose.REFERRAL], subscription=True)}


def of_service(world: World, name: str = "referral") -> World:
    service = asked(world, recipient=Agency(name, AgencyKind.SERVICE))
    return signed(*(replace(a, recipients=frozenset({name})) for a in world.policy.agreements), world=service)


def test_with_everything_there_it_is_permitted_and_explained() -> None:
    decision = decided(FULL)
    assert decision.permits == (Permit(ITEM, Basis.CONSENT, "sharing", 4, consent=1),)
    assert decision.obligations == (Obligation("no-onward-sharing"), Obligation("erase-on-retraction"))
    assert decision.withheld == ()


SPENT = asked(items=(OFFENCE,), spent={"prison": date(2026, 6, 1)})
MAPPA_STANDS = agreed(
    world=unsigned(),
    recipients=frozenset({"council"}),
    terms=on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION),
)
MAPPA_OF_OFFENCE = replace(MAPPA, categories=frozenset({Category.OFFENCE}))
WITHHELD: dict[str, tuple[str, World]] = {
    # what denies
    "a hold": ("held", history(GRANT, held=True)),
    "a hold of linked clients": ("held", linked((GRANT,), held=True)),
    "a hold goes before a conflict": ("held", history(GRANT, held=True, conflicting=True)),
    "numbers that contradict each other": ("conflicting-identity", history(GRANT, conflicting=True)),
    "a hold of one of the linked": (
        "held",
        replace(FULL, facts=ClientFacts(parts=(ClientFacts((GRANT,)), ClientFacts((GRANT,), held=True)))),
    ),
    "a conflict of one of the linked": (
        "conflicting-identity",
        replace(FULL, facts=ClientFacts(parts=(ClientFacts((GRANT,)), ClientFacts((GRANT,), conflicting=True)))),
    ),
    "a conflict of linked clients": ("conflicting-identity", linked((GRANT,), conflicting=True)),
    "a conflict goes before the purpose": (
        "conflicting-identity",
        of_service(history(GRANT, conflicting=True), "matching"),
    ),
    "our service, for another's purpose": ("not-its-purpose", of_service(FULL, "matching")),
    "a service that we do not have": ("not-its-purpose", of_service(FULL, "another")),
    "the purpose goes before a restriction": ("not-its-purpose", of_service(history(GRANT, STOP), "matching")),
    "restricted for all": ("restricted", history(GRANT, STOP)),
    "restricted before the consent": ("restricted", history(STOP, GRANT)),
    "restricted for this recipient": (
        "restricted",
        history(GRANT, replace(STOP, kind=RestrictionKind.EXCLUSION, scope=Scope(THE_HOSTEL))),
    ),
    "restricted for this kind of agency in its area": (
        "restricted",
        history(GRANT, replace(STOP, scope=Scope(OF_LEEDS))),
    ),
    "restricted for this service": (
        "restricted",
        asked(history(GRANT, replace(STOP, scope=Scope(BEDS))), service="beds"),
    ),
    "restricted for a service, and it is about none": ("restricted", history(GRANT, replace(STOP, scope=Scope(BEDS)))),
    "restricted for this purpose": (
        "restricted",
        history(GRANT, replace(STOP, scope=Scope(purposes=frozenset({Purpose.REFERRAL})))),
    ),
    "restricted for this category": (
        "restricted",
        history(GRANT, replace(STOP, scope=Scope(categories=frozenset({ITEM.category})))),
    ),
    "one restriction for this category, another for another": (
        "restricted",
        history(
            GRANT,
            replace(STOP, scope=Scope(categories=frozenset({ITEM.category}))),
            replace(STOP, id="r2", scope=Scope(categories=frozenset({Category.RISK}))),
        ),
    ),
    "limited access that allows others": (
        "restricted",
        history(GRANT, replace(STOP, kind=RestrictionKind.LIMITED_ACCESS, allowed=frozenset({"council"}))),
    ),
    "restricted until later": ("restricted", history(GRANT, replace(STOP, until=AT + MOMENT))),
    "lifted before it was imposed": ("restricted", history(GRANT, LIFTED, STOP)),
    "lifted, and imposed again": ("restricted", history(GRANT, STOP, LIFTED, STOP)),
    "lifted by another agency": ("restricted", history(GRANT, STOP, replace(LIFTED, asserted_by="police"))),
    "another agency's of the same id lifted": (
        "restricted",
        history(GRANT, STOP, replace(STOP, asserted_by="police"), replace(LIFTED, asserted_by="police")),
    ),
    "another of the same agency lifted": ("restricted", history(GRANT, STOP, replace(LIFTED, id="r2"))),
    "an end of something else with its id": ("restricted", history(GRANT, STOP, replace(LIFTED, what="gateway"))),
    "a restriction beats an override": ("restricted", history(OVERRIDE, STOP)),
    "a restriction goes before an exclusion": ("restricted", history(GRANT, EXCLUDED, STOP)),
    "a practitioner is excluded": ("exclusion-not-enforced", history(GRANT, EXCLUDED)),
    "excluded until later": ("exclusion-not-enforced", history(GRANT, replace(EXCLUDED, until=AT + MOMENT))),
    "an exclusion that another signed to enforce": (
        "exclusion-not-enforced",
        agreed(world=history(GRANT, EXCLUDED), enforces=frozenset({"prison"})),
    ),
    "signed to enforce in an agreement that ended": (
        "exclusion-not-enforced",
        signed(
            AGREEMENT,
            replace(AGREEMENT, id="old", ends=AT, enforces=frozenset({"hostel"})),
            world=history(GRANT, EXCLUDED),
        ),
    ),
    "signed to enforce in a version that a newer one replaced": (
        "exclusion-not-enforced",
        signed(
            replace(AGREEMENT, enforces=frozenset({"hostel"})),
            replace(AGREEMENT, version=5),
            world=history(GRANT, EXCLUDED),
        ),
    ),
    "signed to enforce in an agreement with itself": (
        "exclusion-not-enforced",
        signed(
            AGREEMENT,
            replace(AGREEMENT, id="own", sources=frozenset({"hostel"}), enforces=frozenset({"hostel"})),
            world=history(GRANT, EXCLUDED),
        ),
    ),
    "signed to enforce towards another source": (
        "exclusion-not-enforced",
        signed(
            AGREEMENT,
            replace(AGREEMENT, id="z", sources=frozenset({"probation"}), enforces=frozenset({"hostel"})),
            world=history(GRANT, EXCLUDED),
        ),
    ),
    "the excluded practitioner asks": (
        "exclusion-not-enforced",
        asked(agreed(world=history(GRANT, EXCLUDED), enforces=frozenset({"hostel"})), practitioner="ann"),
    ),
    "the excluded practitioner asks, written otherwise": (
        "exclusion-not-enforced",
        asked(agreed(world=history(GRANT, EXCLUDED), enforces=frozenset({"hostel"})), practitioner=" ANN "),
    ),
    "another practitioner asks, and the agency did not sign to enforce it": (
        "exclusion-not-enforced",
        asked(history(GRANT, EXCLUDED), practitioner="bo"),
    ),
    "an exclusion beats an override": ("exclusion-not-enforced", history(OVERRIDE, EXCLUDED)),
    "a spent conviction": ("spent-conviction", SPENT),
    "spent from today": ("spent-conviction", asked(SPENT, spent={"prison": date(2026, 6, 2)})),
    "spent from today in London, tomorrow in UTC": (
        "spent-conviction",
        asked(SPENT, spent={"prison": date(2026, 6, 2)}, at=datetime.fromisoformat("2026-06-01T23:00:00Z")),
    ),
    "an exclusion goes before a spent conviction": (
        "exclusion-not-enforced",
        asked(history(GRANT, EXCLUDED), items=(OFFENCE,), spent={"prison": date(2026, 6, 1)}),
    ),
    "a spent conviction beats an override": (
        "spent-conviction",
        asked(history(OVERRIDE), items=(OFFENCE,), spent={"prison": date(2026, 6, 1)}),
    ),
    "a conviction of which nothing is told": ("spent-unknown", asked(items=(OFFENCE,), spent={})),
    "what another source told of its own": ("spent-unknown", asked(items=(OFFENCE,), spent={"police": None})),
    "an override does not make up for it": ("spent-unknown", asked(history(OVERRIDE), items=(OFFENCE,), spent={})),
    "a council is told of no spent conviction": (
        "spent-conviction",
        asked(unsigned(MAPPA), items=(OFFENCE,), spent={"prison": date(2026, 6, 1)}),
    ),
    # agreements
    "no agreement at all": ("no-agreement", signed()),
    "an agreement of another source": ("no-agreement", agreed(sources=frozenset({"probation"}))),
    "an agreement with another recipient": ("no-agreement", agreed(recipients=frozenset({"mentors"}))),
    "an agreement without purposes": ("no-agreement", agreed(terms={})),
    "asked for another purpose": ("no-agreement", asked(purpose=Purpose.MENTOR_MATCHING)),
    "an item of another source": ("no-agreement", asked(items=(Item("probation", ITEM.category),))),
    "a newer version without the recipient": (
        "no-agreement",
        signed(AGREEMENT, replace(AGREEMENT, version=5, recipients=frozenset({"mentors"}))),
    ),
    "a newer version without the purpose": ("no-agreement", signed(AGREEMENT, replace(AGREEMENT, version=5, terms={}))),
    "nobody asks, and nobody subscribed": ("not-subscribed", asked(asked=False)),
    "nobody asks, and it takes no invocation": (
        "not-subscribed",
        asked(
            agreed(recipients=frozenset({"probation"}), terms=on(Basis.OMA_S14, *BOTH)),
            recipient=PROBATION,
            asked=False,
        ),
    ),
    "nobody asks, and nobody subscribed to what is suspended": (
        "not-subscribed",
        asked(agreed(suspended_from=AT), asked=False),
    ),
    "nobody asks, and what is subscribed is suspended": (
        "agreement-suspended",
        asked(
            signed(AGREEMENT, replace(AGREEMENT, id="a", terms=SUBSCRIBED, suspended_from=AT)),
            asked=False,
        ),
    ),
    "an agreement not begun": ("agreement-not-in-force", asked(at=AGREEMENT.starts - MOMENT)),
    "an agreement that ends now": ("agreement-not-in-force", agreed(ends=AT)),
    "a newer version that ended": ("agreement-not-in-force", signed(replace(AGREEMENT, version=5, ends=AT), AGREEMENT)),
    "only versions that begin later: the first counts": (
        "agreement-not-in-force",
        signed(
            replace(AGREEMENT, version=5, starts=TIMES[4], recipients=frozenset()),
            replace(AGREEMENT, starts=AT + MOMENT),
        ),
    ),
    "only versions that begin later: the first counts, the other way round": (
        "agreement-not-in-force",
        signed(
            replace(AGREEMENT, starts=AT + MOMENT),
            replace(AGREEMENT, version=5, starts=TIMES[4], recipients=frozenset()),
        ),
    ),
    "an agreement suspended from now": ("agreement-suspended", agreed(suspended_from=AT)),
    "ended goes before suspended": ("agreement-not-in-force", agreed(suspended_from=AT, ends=AT)),
    "a newer version that is suspended": (
        "agreement-suspended",
        signed(AGREEMENT, replace(AGREEMENT, version=5, suspended_from=TIMES[1])),
    ),
    "no category in the agreement": ("agreement-category", agreed(terms=on(Basis.CONSENT))),
    "an item of another category": ("agreement-category", asked(items=(Item("prison", Category.RISK),))),
    "a newer version that says less": (
        "agreement-category",
        signed(AGREEMENT, replace(AGREEMENT, version=5, terms=on(Basis.CONSENT))),
    ),
    "of two agreements the one that got further": (
        "agreement-category",
        signed(replace(AGREEMENT, id="z", ends=AT), replace(AGREEMENT, id="a", terms=on(Basis.CONSENT))),
    ),
    "of two agreements the one that got further, the other way round": (
        "agreement-category",
        signed(replace(AGREEMENT, id="a", ends=AT), replace(AGREEMENT, id="z", terms=on(Basis.CONSENT))),
    ),
    # gateways
    "statute between others": ("gateway-does-not-reach", agreed(terms=on(Basis.OMA_S14, *BOTH))),
    "an override is no basis of an agreement": ("gateway-does-not-reach", agreed(terms=on(Basis.OVERRIDE, *BOTH))),
    "a gateway that is not in the table": (
        "gateway-does-not-reach",
        replace(MAPPA_STANDS, policy=replace(MAPPA_STANDS.policy, gateways={})),
    ),
    "a gateway of an agreement that nobody invoked": ("gateway-does-not-reach", MAPPA_STANDS),
    "another gateway was invoked": (
        "gateway-does-not-reach",
        asked(history(replace(MAPPA, basis=Basis.VITAL_INTERESTS), world=MAPPA_STANDS), items=(OFFENCE,)),
    ),
    "the gateway of an agreement was invoked for another category": (
        "gateway-does-not-reach",
        asked(history(MAPPA_OF_OFFENCE, world=MAPPA_STANDS), items=(ITEM,)),
    ),
    "invoked, and nothing else": ("no-agreement", unsigned(replace(MAPPA, recipients=frozenset({"hostel"})))),
    "invoked for another purpose": ("no-agreement", unsigned(replace(MAPPA, purposes=frozenset({Purpose.REFERRAL})))),
    "invoked for another category": ("no-agreement", unsigned(replace(MAPPA, categories=frozenset({Category.RISK})))),
    "invoked for another disclosure": ("no-agreement", asked(unsigned(replace(MAPPA, once=True)), asked=False)),
    "invoked for another disclosure, at another version": (
        "no-agreement",
        asked(unsigned(replace(MAPPA, once=True)), asked=False, once=frozenset({2})),
    ),
    "authorised for another disclosure": (
        "not-subscribed",
        asked(history(replace(OVERRIDE, once=True)), asked=False),
    ),
    "invoked from later": ("no-agreement", unsigned(replace(MAPPA, starts=AT + MOMENT))),
    "invoked until now": ("no-agreement", unsigned(replace(MAPPA, ends=AT))),
    "ended": ("no-agreement", unsigned(MAPPA, Ended(0, "police", "gateway", "g1"))),
    "ended before it was invoked": ("no-agreement", unsigned(Ended(0, "police", "gateway", "g1"), MAPPA)),
    "MAPPA is not for a charity to invoke": ("no-agreement", unsigned(replace(MAPPA, asserted_by="hostel"))),
    "MAPPA is not for an unknown agency to invoke": ("no-agreement", unsigned(replace(MAPPA, asserted_by="x"))),
    "MAPPA does not reach a charity": (
        "no-agreement",
        asked(unsigned(replace(MAPPA, recipients=frozenset({"hostel"}))), recipient=HOSTEL),
    ),
    "MAPPA does not let out what a charity recorded": (
        "no-agreement",
        asked(unsigned(MAPPA), items=(Item("hostel", ITEM.category),)),
    ),
    "MAPPA does not let out what is of nobody known": (
        "no-agreement",
        asked(unsigned(MAPPA), items=(Item("x", ITEM.category),)),
    ),
    "MAPPA is for no referral": (
        "no-agreement",
        asked(unsigned(replace(MAPPA, purposes=frozenset(Purpose))), purpose=Purpose.REFERRAL),
    ),
    "the duty of others is not for one agency to invoke": (
        "no-agreement",
        unsigned(replace(MAPPA, basis=Basis.CDA_S115)),
    ),
    "nobody invokes what stands in agreements": (
        "no-agreement",
        asked(
            unsigned(
                replace(MAPPA, basis=Basis.OMA_S14, recipients=frozenset({"probation"}), purposes=frozenset(Purpose))
            ),
            recipient=PROBATION,
            purpose=Purpose.REFERRAL,
        ),
    ),
    "consent is no gateway": ("no-agreement", unsigned(replace(MAPPA, basis=Basis.CONSENT))),
    "vital interests take no offence": (
        "no-agreement",
        asked(unsigned(replace(MAPPA, basis=Basis.VITAL_INTERESTS, asserted_by="prison")), items=(OFFENCE,)),
    ),
    "invoked by the recipient": (
        "own-word",
        asked(unsigned(MAPPA), recipient=Agency("police", AgencyKind.POLICE)),
    ),
    "the gateway of an agreement, invoked by the recipient": (
        "own-word",
        asked(
            agreed(
                world=unsigned(MAPPA),
                recipients=frozenset({"police"}),
                terms=on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION),
            ),
            recipient=Agency("police", AgencyKind.POLICE),
        ),
    ),
    # overrides
    "overridden for another recipient": ("no-consent", history(replace(OVERRIDE, recipients=frozenset({"council"})))),
    "overridden for another purpose": (
        "no-consent",
        history(replace(OVERRIDE, purposes=frozenset({Purpose.MENTOR_MATCHING}))),
    ),
    "overridden for another category": (
        "no-consent",
        history(replace(OVERRIDE, categories=frozenset({Category.RISK}))),
    ),
    "overridden from later": ("no-consent", history(replace(OVERRIDE, starts=AT + MOMENT))),
    "overridden until now": ("no-consent", history(replace(OVERRIDE, ends=AT))),
    "an override ended": ("no-consent", history(OVERRIDE, Ended(0, "prison", "override", "o1"))),
    "an override ended before it came": ("no-consent", history(Ended(0, "prison", "override", "o1"), OVERRIDE)),
    "overridden by the recipient": (
        "own-word",
        asked(
            signed(world=history(replace(OVERRIDE, asserted_by="probation", recipients=frozenset({"probation"})))),
            recipient=PROBATION,
        ),
    ),
    "overridden by a charity": (
        "no-consent",
        history(
            replace(OVERRIDE, asserted_by="mentors"),
            world=replace(FULL, policy=replace(FULL.policy, kinds=ALL_KINDS | {"mentors": AgencyKind.VCS})),
        ),
    ),
    "overridden by an unknown agency": ("no-consent", history(replace(OVERRIDE, asserted_by="x"))),
    # consent
    "no consent": ("no-consent", history()),
    "what is no consent": ("no-consent", history(Expired(0, "prison", 1), OverrideReviewed(0, "prison", "o1"))),
    "consent for another": ("no-consent", history(replace(GRANT, recipients=THE_MENTORS))),
    "consent for another kind": (
        "no-consent",
        history(replace(GRANT, recipients=Recipients(kinds=frozenset({(AgencyKind.HEALTH, "leeds")})))),
    ),
    "consent for another area": (
        "no-consent",
        history(replace(GRANT, recipients=Recipients(kinds=frozenset({(AgencyKind.VCS, "hull")})))),
    ),
    "consent for an area, and the recipient has none": (
        "no-consent",
        asked(
            history(replace(GRANT, recipients=OF_LEEDS)),
            recipient=Agency("hostel", AgencyKind.VCS),
        ),
    ),
    "consent for one service, and it is about another": (
        "no-consent",
        asked(history(replace(GRANT, recipients=BEDS)), service="food"),
    ),
    "consent for one service, and it is about none": (
        "no-consent",
        history(replace(GRANT, recipients=BEDS)),
    ),
    "consent for one service of another agency": (
        "no-consent",
        asked(
            history(replace(GRANT, recipients=Recipients(services=frozenset({("mentors", "beds")})))), service="beds"
        ),
    ),
    "consent for another purpose": ("no-consent", history(replace(GRANT, purposes=frozenset()))),
    "consent for another purpose than our service's": (
        "no-consent",
        of_service(history(replace(GRANT, purposes=frozenset({Purpose.MENTOR_MATCHING})))),
    ),
    "consent for another category": ("no-consent", history(replace(GRANT, categories=frozenset({Category.RISK})))),
    "not yet valid": ("consent-not-current", history(replace(GRANT, valid_from=AT + MOMENT))),
    "valid until now": ("consent-not-current", history(replace(GRANT, valid_until=AT))),
    "the recipient's own word": ("own-word", history(replace(GRANT, asserted_by="hostel"))),
    "own word outweighs dates": ("own-word", history(replace(GRANT, asserted_by="hostel", valid_until=AT))),
    "kept as history: the form": ("form-used-before", history(replace(GRANT, void="form-used-before"))),
    "the form outweighs own word": (
        "form-used-before",
        history(replace(GRANT, void="form-used-before", asserted_by="hostel")),
    ),
    "kept as history: a no": ("consent-withdrawn", history(replace(GRANT, void="consent-withdrawn"))),
    "withdrawn": ("consent-withdrawn", history(GRANT, NO)),
    "a no outweighs the form": ("consent-withdrawn", history(replace(GRANT, void="form-used-before"), NO)),
    "withdrawn, and consent given before arrives afterwards": ("consent-withdrawn", history(NO, GRANT)),
    "a withdrawal of before that is recorded afterwards": (
        "consent-withdrawn",
        history(GRANT, replace(NO, at=TIMES[0])),
    ),
    "withdrawn at the moment in which it was given": (
        "consent-withdrawn",
        history(replace(NO, at=GRANT.given_at), GRANT),
    ),
    "withdrawn for this recipient": (
        "consent-withdrawn",
        history(GRANT, replace(NO, scope=Scope(THE_HOSTEL))),
    ),
    "withdrawn for this kind of agency in its area": (
        "consent-withdrawn",
        history(GRANT, replace(NO, scope=Scope(OF_LEEDS))),
    ),
    "withdrawn for this service": (
        "consent-withdrawn",
        asked(history(GRANT, replace(NO, scope=Scope(BEDS))), service="beds"),
    ),
    "consent for a service, and withdrawn for it": (
        "consent-withdrawn",
        asked(history(replace(GRANT, recipients=BEDS), replace(NO, scope=Scope(BEDS))), service="beds"),
    ),
    "withdrawn for the agency of this service": (
        "consent-withdrawn",
        asked(history(replace(GRANT, recipients=BEDS), replace(NO, scope=Scope(THE_HOSTEL))), service="beds"),
    ),
    "withdrawn for this purpose": (
        "consent-withdrawn",
        history(GRANT, replace(NO, scope=Scope(purposes=frozenset({Purpose.REFERRAL})))),
    ),
    "withdrawn for this category": (
        "consent-withdrawn",
        history(GRANT, replace(NO, scope=Scope(categories=frozenset({ITEM.category})))),
    ),
    "refused": ("consent-refused", history(GRANT, replace(NO, refused=True))),
    "refused and withdrawn": ("consent-refused", history(GRANT, replace(NO, refused=True), NO)),
    "withdrawn and refused": ("consent-refused", history(GRANT, NO, replace(NO, refused=True))),
    "of two consents the one that got further": (
        "consent-withdrawn",
        history(GRANT, NO, replace(GRANT, given_at=AT, valid_until=AT)),
    ),
    "of two consents the one that got further, the other way round": (
        "consent-withdrawn",
        history(NO, replace(GRANT, given_at=AT, valid_until=AT), GRANT),
    ),
    # linked clients
    "linked, and one part has no consent": ("no-consent", linked((GRANT,), ())),
    "linked, and the other part has none": ("no-consent", linked((), (GRANT,))),
    "linked: the first of the reasons": ("restricted", linked((GRANT, NO), (GRANT, STOP))),
    "linked: the first of the reasons, the other way round": ("restricted", linked((GRANT, STOP), (GRANT, NO))),
    "linked to one who was linked": (
        "restricted",
        replace(FULL, facts=ClientFacts(parts=(linked((GRANT,), (GRANT, STOP)).facts, ClientFacts((GRANT,))))),
    ),
}


@pytest.mark.parametrize("what", WITHHELD)
def test_what_is_missing_or_denied_is_withheld_by_its_rule(what: str) -> None:
    rule, world = WITHHELD[what]
    decision = decided(world)
    assert {w.rule for w in decision.withheld} == {rule}
    assert (decision.permits, decision.obligations) == ((), ())


def test_every_rule_is_shown() -> None:
    assert {rule for rule, _ in WITHHELD.values()} == {rule.code for rule in RULES}


PERMITTED: dict[str, tuple[Basis, World]] = {
    "the agreement begins now": (Basis.CONSENT, agreed(starts=AT)),
    "nobody asks, and the recipient subscribed": (Basis.CONSENT, asked(agreed(terms=SUBSCRIBED), asked=False)),
    "nobody asks, and one of two agreements is subscribed": (
        Basis.CONSENT,
        asked(signed(AGREEMENT, replace(AGREEMENT, id="z", terms=SUBSCRIBED)), asked=False),
    ),
    "nobody asks, but somebody invoked": (Basis.CJA_S325, asked(unsigned(MAPPA), asked=False)),
    "nobody asks, but the recipient invoked the gateway of an agreement that says its word counts": (
        Basis.CJA_S325,
        asked(
            agreed(
                world=unsigned(MAPPA),
                recipients=frozenset({"police"}),
                terms=on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION, own_word=True),
            ),
            recipient=Agency("police", AgencyKind.POLICE),
            asked=False,
        ),
    ),
    "invoked for this disclosure": (
        Basis.CJA_S325,
        asked(unsigned(replace(MAPPA, once=True)), asked=False, once=frozenset({1})),
    ),
    "authorised for this disclosure": (
        Basis.OVERRIDE,
        asked(history(replace(OVERRIDE, once=True)), asked=False, once=frozenset({1})),
    ),
    "somebody asks while what was for one disclosure holds": (Basis.CJA_S325, unsigned(replace(MAPPA, once=True))),
    "the last moment of the agreement": (Basis.CONSENT, agreed(ends=AT + MOMENT)),
    "suspended in a moment": (Basis.CONSENT, agreed(suspended_from=AT + MOMENT)),
    "a newer version that begins later": (
        Basis.CONSENT,
        signed(AGREEMENT, replace(AGREEMENT, version=5, starts=AT + MOMENT, terms=on(Basis.CONSENT))),
    ),
    "a newer version that begins now": (
        Basis.CONSENT,
        signed(replace(AGREEMENT, terms=on(Basis.CONSENT)), replace(AGREEMENT, version=5, starts=AT)),
    ),
    "one agreement that ended beside one in force": (
        Basis.CONSENT,
        signed(replace(AGREEMENT, id="a", ends=AT), AGREEMENT),
    ),
    "valid from now": (Basis.CONSENT, history(replace(GRANT, valid_from=AT))),
    "the last moment of the consent": (Basis.CONSENT, history(replace(GRANT, valid_until=AT + MOMENT))),
    "a kind in an area": (
        Basis.CONSENT,
        history(replace(GRANT, recipients=OF_LEEDS)),
    ),
    "a named service": (
        Basis.CONSENT,
        asked(history(replace(GRANT, recipients=BEDS)), service="beds"),
    ),
    "the whole agency, about one service": (Basis.CONSENT, asked(service="beds")),
    "our service needs no name in the consent": (Basis.CONSENT, of_service(FULL)),
    "own word, and the agreement says it counts": (
        Basis.CONSENT,
        agreed(world=history(replace(GRANT, asserted_by="hostel")), terms=on(Basis.CONSENT, *BOTH, own_word=True)),
    ),
    "own word, and one of two agreements says it counts": (
        Basis.CONSENT,
        signed(
            replace(AGREEMENT, id="a"),
            replace(AGREEMENT, id="b", terms=on(Basis.CONSENT, *BOTH, own_word=True)),
            replace(AGREEMENT, id="c"),
            world=history(replace(GRANT, asserted_by="hostel")),
        ),
    ),
    "withdrawn for another recipient": (
        Basis.CONSENT,
        history(GRANT, replace(NO, scope=Scope(THE_MENTORS))),
    ),
    "withdrawn for this kind of agency in another area": (
        Basis.CONSENT,
        asked(history(GRANT, replace(NO, scope=Scope(OF_LEEDS))), recipient=replace(HOSTEL, area="hull")),
    ),
    "withdrawn for another service": (
        Basis.CONSENT,
        asked(history(GRANT, replace(NO, scope=Scope(BEDS))), service="food"),
    ),
    "withdrawn for a service, and it is about none": (Basis.CONSENT, history(GRANT, replace(NO, scope=Scope(BEDS)))),
    "withdrawn for another purpose": (
        Basis.CONSENT,
        history(GRANT, replace(NO, scope=Scope(purposes=frozenset({Purpose.MENTOR_MATCHING})))),
    ),
    "withdrawn for another category": (
        Basis.CONSENT,
        history(GRANT, replace(NO, scope=Scope(categories=frozenset({Category.RISK})))),
    ),
    "a no that lists nobody": (Basis.CONSENT, history(GRANT, replace(NO, scope=Scope(Recipients())))),
    "given again after the withdrawal": (Basis.CONSENT, history(GRANT, NO, replace(GRANT, given_at=NO.at + MOMENT))),
    "a dead consent beside a living one": (Basis.CONSENT, history(replace(GRANT, valid_until=TIMES[2]), GRANT)),
    "a living consent before a dead one": (Basis.CONSENT, history(GRANT, replace(GRANT, valid_until=TIMES[2]))),
    "the event of an expiry decides nothing": (Basis.CONSENT, history(GRANT, Expired(0, "prison", 1))),
    "a restriction until now": (Basis.CONSENT, history(GRANT, replace(STOP, until=AT))),
    "a restriction lifted": (Basis.CONSENT, history(GRANT, STOP, LIFTED)),
    "a restriction imposed twice and lifted": (Basis.CONSENT, history(GRANT, STOP, STOP, LIFTED)),
    "imposed, lifted, imposed and lifted": (Basis.CONSENT, history(GRANT, STOP, LIFTED, STOP, LIFTED)),
    "a restriction for another recipient": (
        Basis.CONSENT,
        history(GRANT, replace(STOP, scope=Scope(THE_MENTORS))),
    ),
    "a restriction for another service": (
        Basis.CONSENT,
        asked(history(GRANT, replace(STOP, scope=Scope(BEDS))), service="food"),
    ),
    "a restriction for another purpose": (
        Basis.CONSENT,
        history(GRANT, replace(STOP, scope=Scope(purposes=frozenset({Purpose.MENTOR_MATCHING})))),
    ),
    "a restriction for another category": (
        Basis.CONSENT,
        history(GRANT, replace(STOP, scope=Scope(categories=frozenset({Category.CONTACT})))),
    ),
    "limited access that allows it": (
        Basis.CONSENT,
        history(GRANT, replace(STOP, kind=RestrictionKind.LIMITED_ACCESS, allowed=frozenset({"hostel"}))),
    ),
    "a practitioner of another agency is excluded": (
        Basis.CONSENT,
        history(GRANT, replace(EXCLUDED, practitioners=frozenset({("mentors", "ann")}))),
    ),
    "an exclusion lifted": (Basis.CONSENT, history(GRANT, EXCLUDED, LIFTED)),
    "an exclusion until now": (Basis.CONSENT, history(GRANT, replace(EXCLUDED, until=AT))),
    "spent from tomorrow": (Basis.CONSENT, asked(SPENT, spent={"prison": date(2026, 6, 3)})),
    "the last moment before it is spent": (
        Basis.CONSENT,
        asked(SPENT, spent={"prison": date(2026, 6, 2)}, at=datetime.fromisoformat("2026-06-01T22:59:59Z")),
    ),
    "the conviction that another source recorded is spent": (
        Basis.CONSENT,
        asked(SPENT, spent={"prison": None, "police": date(2026, 6, 1)}),
    ),
    "it is never spent": (Basis.CONSENT, asked(SPENT, spent=NEVER_SPENT)),
    "where nothing is told of a conviction, the rest leaves": (Basis.CONSENT, asked(spent={})),
    "probation is told of a conviction of which nothing is told": (
        Basis.OMA_S14,
        asked(
            agreed(world=SPENT, recipients=frozenset({"probation"}), terms=on(Basis.OMA_S14, *BOTH)),
            recipient=PROBATION,
            spent={},
        ),
    ),
    "probation is told of a spent conviction": (
        Basis.OMA_S14,
        asked(
            agreed(world=SPENT, recipients=frozenset({"probation"}), terms=on(Basis.OMA_S14, *BOTH)),
            recipient=PROBATION,
        ),
    ),
    "a spent conviction hides no other category": (Basis.CONSENT, asked(SPENT, items=(ITEM,))),
    "invoked, without an agreement": (Basis.CJA_S325, unsigned(MAPPA)),
    "invoked from now": (Basis.CJA_S325, unsigned(replace(MAPPA, starts=AT))),
    "the last moment of a gateway": (Basis.CJA_S325, unsigned(replace(MAPPA, ends=AT + MOMENT))),
    "another agency's gateway of the same id ended": (
        Basis.CJA_S325,
        unsigned(MAPPA, Ended(0, "prison", "gateway", "g1")),
    ),
    "something else of the same id ended": (
        Basis.CJA_S325,
        unsigned(MAPPA, Ended(0, "police", "override", "g1"), Ended(0, "police", "restriction", "g1")),
    ),
    "one's own, invoked": (Basis.CDA_S115, unsigned(replace(MAPPA, basis=Basis.CDA_S115, asserted_by="prison"))),
    "one's own, for a life": (
        Basis.VITAL_INTERESTS,
        asked(unsigned(replace(MAPPA, basis=Basis.VITAL_INTERESTS, asserted_by="prison")), items=(ITEM,)),
    ),
    "a charity tells of serious harm": (
        Basis.CDA_S115,
        asked(
            unsigned(replace(MAPPA, basis=Basis.CDA_S115, asserted_by="hostel")),
            items=(Item("hostel", ITEM.category),),
        ),
    ),
    "a gateway needs no consent, whatever the client says": (Basis.CJA_S325, unsigned(MAPPA, NO)),
    "an override": (Basis.OVERRIDE, history(OVERRIDE)),
    "an override without an agreement": (Basis.OVERRIDE, signed(world=history(OVERRIDE))),
    "an override against the client's word": (Basis.OVERRIDE, history(GRANT, NO, OVERRIDE)),
    "overridden from now": (Basis.OVERRIDE, history(replace(OVERRIDE, starts=AT))),
    "the last moment of an override": (Basis.OVERRIDE, history(replace(OVERRIDE, ends=AT + MOMENT))),
    "an override whose review is overdue": (Basis.OVERRIDE, history(replace(OVERRIDE, review_by=TIMES[1]))),
    "an override that was reviewed": (Basis.OVERRIDE, history(OVERRIDE, OverrideReviewed(0, "prison", "o1"))),
    "another agency's override of the same id ended": (
        Basis.OVERRIDE,
        history(OVERRIDE, Ended(0, "police", "override", "o1")),
    ),
    "linked, and both agree": (Basis.CONSENT, linked((GRANT,), (GRANT,))),
    "linked, one by consent and one by override": (Basis.CONSENT, linked((OVERRIDE,), (GRANT,))),
}


@pytest.mark.parametrize("what", PERMITTED)
def test_at_the_edge_it_is_still_permitted(what: str) -> None:
    basis, world = PERMITTED[what]
    decision = decided(world)
    assert decision.withheld == ()
    assert {p.basis for p in decision.permits} == {basis}


# --- which way is taken -----------------------------------------------------------------------------------------------


def test_statute_goes_before_consent_and_consent_before_an_override() -> None:
    statute = replace(AGREEMENT, id="z", terms=on(Basis.OMA_S14, *BOTH), recipients=frozenset({"probation"}))
    consent = replace(AGREEMENT, id="a", recipients=frozenset({"probation"}))
    said = (
        replace(OVERRIDE, recipients=frozenset({"probation"})),
        replace(GRANT, recipients=Recipients(frozenset({"probation"}))),
    )
    world = asked(signed(statute, consent, world=history(*said)), recipient=PROBATION)
    assert decided(world).permits == (Permit(ITEM, Basis.OMA_S14, "z", 4),)
    world = signed(consent, world=world)
    assert decided(world).permits == (Permit(ITEM, Basis.CONSENT, "a", 4, consent=2),)
    assert decided(signed(world=world)).permits == (Permit(ITEM, Basis.OVERRIDE, invoked=1),)


def test_a_gateway_goes_before_consent_and_its_agreement_before_it_alone() -> None:
    council = frozenset({"council"})
    both = frozenset({Purpose.PUBLIC_PROTECTION})
    granted = replace(GRANT, recipients=Recipients(council), purposes=both)
    consent = replace(
        AGREEMENT, id="a", recipients=council, terms=on(Basis.CONSENT, *BOTH, purpose=Purpose.PUBLIC_PROTECTION)
    )
    world = asked(signed(consent, world=unsigned(granted, MAPPA)), items=(ITEM,))
    assert decided(world).permits == (Permit(ITEM, Basis.CJA_S325, invoked=2),)
    stands = replace(consent, id="m", terms=on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION))
    world = signed(consent, stands, world=world)
    assert decided(world).permits == (Permit(ITEM, Basis.CJA_S325, "m", 4, invoked=2),)


def test_an_agreement_stands_on_its_own_gateway_only() -> None:
    terms = on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION)
    harm = replace(MAPPA, basis=Basis.CDA_S115, asserted_by="prison")
    world = asked(agreed(world=unsigned(harm), recipients=frozenset({"council"}), terms=terms), items=(ITEM,))
    assert decided(world).permits == (Permit(ITEM, Basis.CDA_S115, invoked=1),)


def test_a_consent_that_two_items_rest_on_is_named_once() -> None:
    assert decided(asked(items=(ITEM, OFFENCE))).consents == [1]


def test_the_recipients_own_invocation_counts_under_an_agreement_that_says_so() -> None:
    own_word = replace(
        AGREEMENT,
        recipients=frozenset({"police"}),
        terms=on(Basis.CJA_S325, *BOTH, purpose=Purpose.PUBLIC_PROTECTION, own_word=True),
    )
    world = asked(signed(own_word, world=unsigned(MAPPA)), recipient=Agency("police", AgencyKind.POLICE), items=(ITEM,))
    assert decided(world).permits == (Permit(ITEM, Basis.CJA_S325, "sharing", 4, invoked=1),)


def test_of_several_agreements_and_consents_the_first_id_and_the_newest() -> None:
    world = signed(replace(AGREEMENT, id="b"), replace(AGREEMENT, id="a"), world=history(GRANT, GRANT))
    assert decided(world).permits == (Permit(ITEM, Basis.CONSENT, "a", 4, consent=2),)


def test_a_permit_of_linked_clients_names_the_newest_consent() -> None:
    older, newer = (GRANT,), (Expired(0, "prison", 1), GRANT)
    for parts in ((older, newer), (newer, older)):
        assert decided(linked(*parts)).consents == [2]
    assert decided(linked((OVERRIDE,), newer)).permits == (Permit(ITEM, Basis.CONSENT, "sharing", 4, consent=2),)


def test_an_enforcing_recipient_is_told_whom_to_keep_it_from() -> None:
    enforces = agreed(world=history(GRANT, EXCLUDED, replace(EXCLUDED, id="r2")), enforces=frozenset({"hostel"}))
    always = (Obligation("no-onward-sharing"), Obligation("erase-on-retraction"))
    assert decided(enforces).obligations == (*always, Obligation("keep-from-practitioner", "ann"))
    elsewhere = signed(AGREEMENT, replace(AGREEMENT, id="z", recipients=frozenset(), enforces=frozenset({"hostel"})))
    assert decided(replace(elsewhere, facts=enforces.facts)).obligations == decided(enforces).obligations
    others = Item("probation", ITEM.category)
    both_tell = replace(AGREEMENT, sources=frozenset({"prison", "probation"}))
    to_prison = replace(AGREEMENT, id="z", enforces=frozenset({"hostel"}))
    towards_one = decided(asked(signed(both_tell, to_prison, world=enforces), items=(ITEM, others)))
    assert towards_one.permitted == {ITEM}
    assert [(w.item, w.rule) for w in towards_one.withheld] == [(others, "exclusion-not-enforced")]
    another = asked(enforces, practitioner="bo")
    assert decided(another).obligations == decided(enforces).obligations, "the door keeps it from the excluded one"
    for parts in (((GRANT, EXCLUDED), (GRANT,)), ((GRANT,), (GRANT, EXCLUDED))):
        both = linked(*parts, world=agreed(enforces=frozenset({"hostel"})))
        assert decided(both).obligations == decided(enforces).obligations


def test_an_item_may_leave_where_another_may_not() -> None:
    stop = replace(STOP, scope=Scope(categories=frozenset({Category.OFFENCE})))
    decision = decided(asked(history(GRANT, stop), items=(OFFENCE, ITEM)))
    assert decision.permitted == {ITEM}
    assert [(w.item, w.rule) for w in decision.withheld] == [(OFFENCE, "restricted")]
    parts = linked((GRANT,), (GRANT, stop), world=asked(items=(OFFENCE, ITEM)))
    assert decided(parts).permitted == {ITEM}
    assert [w.item for w in decided(parts).withheld] == [OFFENCE]


def test_each_of_our_services_acts_for_one_purpose_and_an_agency_for_all() -> None:
    assert [p for p in Purpose if acts_for(REFERRAL, p)] == [Purpose.REFERRAL]
    assert all(acts_for(HOSTEL, p) for p in Purpose)


def test_in_force_says_why_not() -> None:
    assert why_not_in_force(AGREEMENT, AT) is None
    assert why_not_in_force(AGREEMENT, AGREEMENT.ends) == "agreement-not-in-force"
    assert why_not_in_force(replace(AGREEMENT, suspended_from=AT), AT) == "agreement-suspended"


# --- replayed and late grants -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_at", "seen", "void"),
    [
        (TIMES[3], False, None),
        (TIMES[3], True, "form-used-before"),  # a form opens a permit once
        (TIMES[2], False, "consent-withdrawn"),  # given in the moment of the withdrawal
        (TIMES[1], False, "consent-withdrawn"),  # signed before it, arrives after it
        (TIMES[1], True, "form-used-before"),
    ],
)
def test_what_lifts_a_withdrawal(given_at: datetime, seen: bool, void: str | None) -> None:
    assert why_void(given_at, [GRANT, replace(NO, version=2)], seen) == void


FOR_MENTORS = Scope(THE_MENTORS)
OF_OFFENCES = Scope(categories=frozenset({Category.OFFENCE}))


@pytest.mark.parametrize("scope", [FOR_MENTORS, OF_OFFENCES, Scope(purposes=frozenset({Purpose.MENTOR_MATCHING}))])
def test_a_no_to_something_does_not_void_whole_what_arrives_after_it(scope: Scope) -> None:
    no = replace(NO, version=1, scope=scope)
    assert why_void(NO.at, [no], False) is None
    assert why_void(NO.at, [no], True) == "form-used-before"
    assert why_void(NO.at, [no, replace(NO, version=2)], False) == "consent-withdrawn"


def test_a_late_consent_does_not_lift_a_no_to_something_for_what_that_names() -> None:
    for given_at, refused in ((TIMES[1], "consent-withdrawn"), (NO.at, "consent-withdrawn"), (TIMES[3], None)):
        late = replace(GRANT, given_at=given_at, void=why_void(given_at, [replace(NO, scope=OF_OFFENCES)], False))
        decision = decided(asked(history(replace(NO, scope=OF_OFFENCES), late), items=(ITEM, OFFENCE)))
        assert {w.item: w.rule for w in decision.withheld} == ({OFFENCE: refused} if refused else {})
        assert ITEM in decision.permitted


def test_without_a_withdrawal_a_new_form_lifts_and_a_seen_one_does_not() -> None:
    assert why_void(TIMES[0], [GRANT, STOP], False) is None
    assert why_void(TIMES[0], [], True) == "form-used-before"


arrivals = st.lists(
    st.tuples(st.sampled_from(["g", Scope(), FOR_MENTORS, OF_OFFENCES]), times, st.integers(1, 3)), max_size=7
)


ITEMS_HERE = (ITEM, OFFENCE)
EITHER = frozenset({"hostel", "mentors"})


def names(no: str | Scope, recipient: str, item: Item) -> bool:
    """Whether it is a no that names this."""
    return not isinstance(no, str) and (
        (no.recipients is None or recipient in no.recipients.agencies)
        and (no.categories is None or item.category in no.categories)
    )


@settings(max_examples=300)
@given(arrivals)
def test_in_whatever_order_they_arrive_only_a_fresh_consent_after_every_withdrawal_permits(
    arrived: list[tuple[str | Scope, datetime, int]],
) -> None:
    """The door's intake in small: each grant is entered with what `why_void` says, forms are remembered."""
    said: list[SharingFact] = []
    forms: set[int] = set()
    alive: dict[tuple[str, Item], set[int]] = {(to, item): set() for to in ("hostel", "mentors") for item in ITEMS_HERE}
    for version, (kind, at, form) in enumerate(arrived, 1):
        if isinstance(kind, str):
            void = why_void(at, said, form in forms)
            assert void == kept_as_history(at, said, form in forms)
            said.append(replace(GRANT, version=version, recipients=Recipients(EITHER), given_at=at, void=void))
            for (to, item), permits in alive.items():
                before = [when for no, when, _ in arrived[: version - 1] if names(no, to, item)]
                if form not in forms and all(at > when for when in before):
                    permits.add(version)
            forms.add(form)
        else:
            said.append(replace(NO, version=version, at=at, scope=kind))
            for (to, item), permits in alive.items():
                if names(kind, to, item):
                    permits.clear()
    for (to, item), permits in alive.items():
        world = asked(agreed(recipients=EITHER), recipient=replace(HOSTEL, id=to), items=(item,))
        found = decided(replace(world, facts=ClientFacts(tuple(said)))).consents
        assert found == ([max(permits)] if permits else []), (to, item)
