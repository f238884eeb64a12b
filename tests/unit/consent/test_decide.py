"""The rules against a slow oracle that was written from their documentation and shares nothing with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.domain import (
    OBLIGATIONS,
    REMEDIES,
    Agency,
    Agreement,
    ClientFacts,
    Decision,
    Granted,
    Item,
    Permit,
    Question,
    Terms,
    Withdrawn,
    decide,
    lifts,
)
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Basis, Category, Purpose

DAY = datetime(2026, 6, 1, tzinfo=UTC)
TIMES = [DAY + timedelta(hours=h) for h in range(6)]
SOURCES = {"prison": AgencyKind.PRISON, "probation": AgencyKind.PROBATION, "hostel": AgencyKind.VCS}
RECIPIENTS = [
    Agency("probation", AgencyKind.PROBATION, "leeds"),
    Agency("hostel", AgencyKind.VCS, "leeds"),
    Agency("mentors", AgencyKind.VCS, None),
    Agency("referral", AgencyKind.SERVICE),
]
IDS = [r.id for r in RECIPIENTS]
CATEGORIES = [Category.IDENTITY, Category.RISK]
PURPOSES = [Purpose.REFERRAL, Purpose.MENTOR_MATCHING]
LISTED = {AgencyKind.PRISON, AgencyKind.PROBATION}


@dataclass(frozen=True)
class World:
    """All that a decision is made of."""

    question: Question
    facts: ClientFacts
    agreements: tuple[Agreement, ...]
    kinds: dict[str, AgencyKind]

    @property
    def decision(self) -> Decision:
        return decide(self.question, self.facts, self.agreements, self.kinds)


def some(values: list[Any]) -> st.SearchStrategy[frozenset[Any]]:
    """More often than not nearly all, so that permits are as frequent as refusals."""
    return st.one_of(st.just(frozenset(values)), st.frozensets(st.sampled_from(values)))


def optional(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.sampled_from(values)


times = st.sampled_from(TIMES)
grants = st.builds(
    Granted,
    version=st.just(0),
    asserted_by=st.sampled_from(["prison", "prison", "hostel"]),
    agencies=some(IDS),
    kinds=some([(AgencyKind.VCS, "leeds"), (AgencyKind.PROBATION, "leeds"), (AgencyKind.VCS, "hull")]),
    purposes=some(PURPOSES),
    categories=some(CATEGORIES),
    given_at=times,
    valid_from=optional(TIMES),
    valid_until=optional(TIMES),
    effective=st.sampled_from([True, True, True, False]),
)
withdrawals = st.builds(
    Withdrawn,
    version=st.just(0),
    withdrawn_at=times,
    purposes=st.none() | st.frozensets(st.sampled_from(PURPOSES), min_size=1),
    recipients=st.none() | st.frozensets(st.sampled_from(IDS), min_size=1),
)
terms = st.builds(Terms, basis=st.sampled_from(Basis), categories=some(CATEGORIES))
agreements = st.builds(
    Agreement,
    id=st.just(""),
    version=st.just(0),
    sources=some(list(SOURCES)),
    recipients=some(IDS),
    terms=st.dictionaries(st.sampled_from(PURPOSES), terms, min_size=1),
    starts=st.just(TIMES[0]) | st.sampled_from(TIMES[:3]),
    ends=st.just(TIMES[5]) | st.sampled_from(TIMES[2:]),
)


@st.composite
def worlds(draw: Callable[..., Any]) -> World:
    history = draw(st.lists(grants | grants | withdrawals, max_size=5))
    agreed = draw(st.lists(agreements, max_size=3))
    question = Question(
        draw(st.sampled_from([*RECIPIENTS, RECIPIENTS[0]])),
        draw(st.sampled_from(PURPOSES)),
        tuple(Item(s, c) for s in SOURCES for c in CATEGORIES),
        draw(times),
    )
    ids = [draw(st.sampled_from("ab")) for _ in agreed]
    return World(
        question,
        ClientFacts(
            tuple(replace(e, version=n) for n, e in enumerate(history, 1)),
            draw(st.integers(0, 9).map(lambda n: n == 0)),
        ),
        tuple(
            replace(a, id=id, version=ids[: n + 1].count(id)) for n, (id, a) in enumerate(zip(ids, agreed, strict=True))
        ),
        draw(st.sampled_from([SOURCES, SOURCES, {}])),
    )


def good_consents(world: World, category: Category) -> set[int]:
    """Versions of the grants on which this recipient may be told of this category, one condition a line."""
    to, why, at = world.question.recipient, world.question.purpose, world.question.at
    found = set()
    for grant in world.facts.consents:
        if not isinstance(grant, Granted):
            continue
        named = to.id in grant.agencies
        for kind, area in grant.kinds:
            named = named or (to.kind == kind and to.area == area)
        named = named or to.kind == AgencyKind.SERVICE
        taken_back = False
        for other in world.facts.consents:
            if isinstance(other, Withdrawn):
                reaches = other.purposes is None or why in other.purposes
                reaches = reaches and (other.recipients is None or to.id in other.recipients)
                later = other.version > grant.version or not other.withdrawn_at < grant.given_at
                taken_back = taken_back or (reaches and later)
        conditions = [
            named,
            why in grant.purposes,
            category in grant.categories,
            grant.effective,
            not taken_back,
            grant.asserted_by != to.id,
            grant.valid_from is None or at >= grant.valid_from,
            grant.valid_until is None or at < grant.valid_until,
        ]
        if all(conditions):
            found.add(grant.version)
    return found


def counting(world: World) -> list[Agreement]:
    """Of each agreement the version that counts now: the newest that has begun, or the first when none has."""
    found = []
    for id in {a.id for a in world.agreements}:
        versions = sorted((a for a in world.agreements if a.id == id), key=lambda a: a.version)
        begun = [a for a in versions if a.starts <= world.question.at]
        found.append(begun[-1] if begun else versions[0])
    return found


def for_another(world: World) -> bool:
    """Whether the recipient is a service of ours that acts for another purpose."""
    to = world.question.recipient
    return to.kind == AgencyKind.SERVICE and SERVICE_PURPOSES[to.id] != world.question.purpose


def oracle(world: World, item: Item) -> tuple[Basis, int | None] | None:
    """On what the item may leave, or None."""
    to, why, at = world.question.recipient, world.question.purpose, world.question.at
    answer: tuple[Basis, int | None] | None = None
    if for_another(world):
        return None
    for a in counting(world):
        if world.facts.held or item.source not in a.sources or to.id not in a.recipients or why not in a.terms:
            continue
        if at < a.starts or at >= a.ends or item.category not in a.terms[why].categories:
            continue
        if a.terms[why].basis == Basis.OMA_S14:
            if to.kind in LISTED and world.kinds.get(item.source) in LISTED:
                return Basis.OMA_S14, None
        elif consents := good_consents(world, item.category):
            answer = Basis.CONSENT, max(consents)
    return answer


def may_be_said(world: World, item: Item) -> set[str]:
    """The rules that are true of a refused item: a refusal must not give a reason that is none."""
    to, why, at = world.question.recipient, world.question.purpose, world.question.at
    if world.facts.held:
        return {"held"}
    if for_another(world):
        return {"not-its-purpose"}
    between = [a for a in counting(world) if item.source in a.sources and to.id in a.recipients and why in a.terms]
    if not between:
        return {"no-agreement"}
    said = set()
    for a in between:
        if not a.starts <= at < a.ends:
            said.add("agreement-not-in-force")
        elif item.category not in a.terms[why].categories:
            said.add("agreement-category")
        elif a.terms[why].basis == Basis.OMA_S14:
            said.add("not-a-listed-body")
        else:
            covering = [
                g
                for g in world.facts.consents
                if isinstance(g, Granted)
                and why in g.purposes
                and item.category in g.categories
                and (to.kind == AgencyKind.SERVICE or to.id in g.agencies or (to.kind, to.area) in g.kinds)
            ]
            said |= {"own-word", "consent-withdrawn", "consent-not-current"} if covering else {"no-consent"}
    return said


@settings(max_examples=600, deadline=None)
@given(worlds())
def test_decide_says_what_the_oracle_says(world: World) -> None:
    decision = world.decision
    permits = {p.item: p for p in decision.permits}
    for item in world.question.items:
        expected = oracle(world, item)
        found = permits.get(item)
        assert (None if found is None else (found.basis, found.consent)) == expected
        if found:
            agreement = next(a for a in counting(world) if a.id == found.agreement)
            assert found.agreement_version == agreement.version
            assert item.source in agreement.sources
    for refusal in decision.refusals:
        assert refusal.rule in may_be_said(world, refusal.item)
        assert refusal.remedy == REMEDIES[refusal.rule]


@settings(max_examples=200, deadline=None)
@given(worlds())
def test_every_item_is_answered_once_and_the_same_question_gets_the_same_answer(world: World) -> None:
    decision = world.decision
    answered = [p.item for p in decision.permits] + [r.item for r in decision.refusals]
    assert sorted(answered, key=repr) == sorted(world.question.items, key=repr)
    assert decision.obligations == (OBLIGATIONS if decision.permits else ())
    assert decision.consents == sorted({p.consent for p in decision.permits if p.consent is not None})
    assert decision == World(world.question, world.facts, world.agreements[::-1], world.kinds).decision


def restricted(world: World) -> st.SearchStrategy[World]:
    """The same world with one thing more that stops, or one thing less that allows."""
    consents = world.facts.consents
    last = len(consents) + 1
    ways = [st.just(replace(world, facts=replace(world.facts, held=True)))]
    ways.append(
        withdrawals.map(
            lambda w: replace(world, facts=replace(world.facts, consents=(*consents, replace(w, version=last))))
        )
    )
    for n, event in enumerate(consents):
        if isinstance(event, Granted):
            ways.append(st.just(replace(world, facts=replace(world.facts, consents=consents[:n] + consents[n + 1 :]))))
    for id in {a.id for a in world.agreements}:
        without = tuple(a for a in world.agreements if a.id != id)
        ended = tuple(replace(a, ends=world.question.at) if a.id == id else a for a in world.agreements)
        ways += [st.just(replace(world, agreements=x)) for x in (without, ended)]
    return st.one_of(ways)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_what_stops_never_permits_more(data: st.DataObject) -> None:
    world = data.draw(worlds())
    assert data.draw(restricted(world)).decision.permitted <= world.decision.permitted


@settings(max_examples=200, deadline=None)
@given(worlds(), withdrawals)
def test_a_withdrawal_leaves_what_rests_on_statute_and_whom_it_does_not_name(world: World, taken_back: Any) -> None:
    later = replace(taken_back, version=len(world.facts.consents) + 1)
    after = replace(world, facts=replace(world.facts, consents=(*world.facts.consents, later))).decision
    assert {p for p in world.decision.permits if p.consent is None} <= set(after.permits)
    reached = later.stops(world.question.purpose, world.question.recipient.id)
    if not reached:
        assert after == world.decision
    else:
        assert after.consents == []


# --- one world in which everything is there, and what happens when one part of it is not ----------

ITEM = Item("prison", Category.IDENTITY)
AT = TIMES[3]
HOSTEL = RECIPIENTS[1]
GRANT = Granted(
    1, "prison", frozenset({"hostel"}), frozenset(), frozenset({Purpose.REFERRAL}), frozenset({ITEM.category}), TIMES[1]
)
AGREEMENT = Agreement(
    "sharing",
    4,
    frozenset({"prison"}),
    frozenset({"hostel"}),
    {Purpose.REFERRAL: Terms(Basis.CONSENT, frozenset({ITEM.category}))},
    TIMES[0],
    TIMES[5],
)
FULL = World(Question(HOSTEL, Purpose.REFERRAL, (ITEM,), AT), ClientFacts((GRANT,)), (AGREEMENT,), SOURCES)


def asked(**change: Any) -> World:
    return replace(FULL, question=replace(FULL.question, **change))


def agreed(**change: Any) -> World:
    return replace(FULL, agreements=(replace(AGREEMENT, **change),))


def history(*events: Any, held: bool = False) -> World:
    numbered = tuple(replace(e, version=n) for n, e in enumerate(events, 1))
    return replace(FULL, facts=ClientFacts(numbered, held))


def on(basis: Basis, *categories: Category) -> Any:
    return {Purpose.REFERRAL: Terms(basis, frozenset(categories))}


def test_with_everything_there_it_is_permitted_and_explained() -> None:
    decision = FULL.decision
    assert decision.permits == (Permit(ITEM, "sharing", 4, Basis.CONSENT, 1),)
    assert decision.rests_on == (("sharing", 4), ("consent", 1))


WITHDRAWN_LATER = Withdrawn(0, TIMES[2])
MISSING: dict[str, tuple[str, World]] = {
    "a hold": ("held", history(GRANT, held=True)),
    "our service, for another's purpose": (
        "not-its-purpose",
        replace(
            agreed(recipients=frozenset({"matching"})),
            question=replace(FULL.question, recipient=Agency("matching", AgencyKind.SERVICE)),
        ),
    ),
    "a newer version that says less": (
        "agreement-category",
        replace(FULL, agreements=(AGREEMENT, replace(AGREEMENT, version=5, terms=on(Basis.CONSENT)))),
    ),
    "a newer version that ended": (
        "agreement-not-in-force",
        replace(FULL, agreements=(replace(AGREEMENT, version=5, ends=AT), AGREEMENT)),
    ),
    "only a version that begins later": ("agreement-not-in-force", agreed(starts=TIMES[4])),
    "no agreement at all": ("no-agreement", replace(FULL, agreements=())),
    "another source": ("no-agreement", agreed(sources=frozenset({"probation"}))),
    "another recipient": ("no-agreement", agreed(recipients=frozenset({"mentors"}))),
    "no purpose": ("no-agreement", agreed(terms={})),
    "asked for another purpose": ("no-agreement", asked(purpose=Purpose.MENTOR_MATCHING)),
    "an item of another source": ("no-agreement", asked(items=(Item("probation", ITEM.category),))),
    "not begun": ("agreement-not-in-force", asked(at=AGREEMENT.starts - timedelta(microseconds=1))),
    "ends now": ("agreement-not-in-force", asked(at=AGREEMENT.ends)),
    "no category in the agreement": ("agreement-category", agreed(terms=on(Basis.CONSENT))),
    "an item of another category": ("agreement-category", asked(items=(Item("prison", Category.RISK),))),
    "statute between others": ("not-a-listed-body", agreed(terms=on(Basis.OMA_S14, ITEM.category))),
    "no consent": ("no-consent", history()),
    "consent for another": ("no-consent", history(replace(GRANT, agencies=frozenset({"mentors"})))),
    "consent for another kind": (
        "no-consent",
        history(replace(GRANT, agencies=frozenset(), kinds=frozenset({(AgencyKind.HEALTH, "leeds")}))),
    ),
    "consent for another area": (
        "no-consent",
        history(replace(GRANT, agencies=frozenset(), kinds=frozenset({(AgencyKind.VCS, "hull")}))),
    ),
    "consent for another purpose": ("no-consent", history(replace(GRANT, purposes=frozenset()))),
    "consent for another category": ("no-consent", history(replace(GRANT, categories=frozenset({Category.RISK})))),
    "the recipient's own word": ("own-word", history(replace(GRANT, asserted_by="hostel"))),
    "not yet valid": ("consent-not-current", history(replace(GRANT, valid_from=AT + timedelta(microseconds=1)))),
    "valid until now": ("consent-not-current", history(replace(GRANT, valid_until=AT))),
    "kept as history": ("consent-withdrawn", history(replace(GRANT, effective=False))),
    "withdrawn": ("consent-withdrawn", history(GRANT, WITHDRAWN_LATER)),
    "withdrawn, and consent given before arrives afterwards": ("consent-withdrawn", history(WITHDRAWN_LATER, GRANT)),
    "withdrawn at the moment in which it was given": (
        "consent-withdrawn",
        history(replace(WITHDRAWN_LATER, withdrawn_at=GRANT.given_at), GRANT),
    ),
    "withdrawn for this recipient": (
        "consent-withdrawn",
        history(GRANT, replace(WITHDRAWN_LATER, recipients=frozenset({"hostel"}))),
    ),
    "withdrawn for this purpose": (
        "consent-withdrawn",
        history(GRANT, replace(WITHDRAWN_LATER, purposes=frozenset({Purpose.REFERRAL}))),
    ),
}


@pytest.mark.parametrize("what", MISSING)
def test_whatever_is_missing_it_is_a_deny_with_its_rule(what: str) -> None:
    rule, world = MISSING[what]
    assert [r.rule for r in world.decision.refusals] == [rule]
    assert world.decision.permits == ()


SERVICE = Agency("referral", AgencyKind.SERVICE)
STILL: dict[str, World] = {
    "the agreement begins now": asked(at=AGREEMENT.starts),
    "the last moment of the agreement": asked(at=AGREEMENT.ends - timedelta(microseconds=1)),
    "valid from now": history(replace(GRANT, valid_from=AT)),
    "the last moment of the consent": history(replace(GRANT, valid_until=AT + timedelta(microseconds=1))),
    "a kind in an area": history(
        replace(GRANT, agencies=frozenset(), kinds=frozenset({(AgencyKind.VCS, "leeds")})),
    ),
    "withdrawn for another recipient": history(GRANT, replace(WITHDRAWN_LATER, recipients=frozenset({"mentors"}))),
    "withdrawn for another purpose": history(
        GRANT, replace(WITHDRAWN_LATER, purposes=frozenset({Purpose.MENTOR_MATCHING}))
    ),
    "given again after the withdrawal": history(GRANT, WITHDRAWN_LATER, replace(GRANT, given_at=TIMES[3])),
    "our service needs no name in the consent": replace(
        agreed(recipients=frozenset({"referral"})), question=replace(FULL.question, recipient=SERVICE)
    ),
    "a newer version that begins later": replace(
        FULL, agreements=(AGREEMENT, replace(AGREEMENT, version=5, starts=TIMES[4], terms=on(Basis.CONSENT)))
    ),
    "a dead consent beside a living one": history(replace(GRANT, valid_until=TIMES[2]), GRANT),
}


@pytest.mark.parametrize("what", STILL)
def test_at_the_edge_it_is_still_permitted(what: str) -> None:
    assert [p.item.category for p in STILL[what].decision.permits] == [ITEM.category]


def test_statute_goes_before_consent_so_that_a_withdrawal_stops_only_what_rested_on_consent() -> None:
    probation = RECIPIENTS[0]
    both = tuple(
        replace(AGREEMENT, id=id, recipients=frozenset({"probation"}), terms=on(basis, ITEM.category))
        for id, basis in (("a-consent", Basis.CONSENT), ("z-statute", Basis.OMA_S14))
    )
    agrees = ClientFacts((replace(GRANT, agencies=frozenset({"probation"})),))
    world = replace(FULL, agreements=both, facts=agrees, question=replace(FULL.question, recipient=probation))
    assert replace(world, agreements=both[:1]).decision.consents == [1], "consent alone would do"
    assert [(p.agreement, p.consent) for p in world.decision.permits] == [("z-statute", None)]


# --- replayed and late grants ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_at", "seen", "effective"),
    [
        (TIMES[3], False, True),
        (TIMES[3], True, False),  # a form opens a permit once
        (TIMES[2], False, False),  # given in the moment of the withdrawal
        (TIMES[1], False, False),  # signed before it, arrives after it
    ],
)
def test_what_lifts_a_withdrawal(given_at: datetime, seen: bool, effective: bool) -> None:
    assert lifts(given_at, [GRANT, Withdrawn(2, TIMES[2])], seen) is effective


def test_without_a_withdrawal_a_new_form_lifts_and_a_seen_one_does_not() -> None:
    assert lifts(TIMES[0], [GRANT], False)
    assert not lifts(TIMES[0], [], True)


arrivals = st.lists(st.tuples(st.sampled_from("gw"), times, st.integers(1, 3)), max_size=7)


@settings(max_examples=300, deadline=None)
@given(arrivals)
def test_in_whatever_order_they_arrive_only_a_fresh_consent_after_every_withdrawal_permits(
    arrived: list[tuple[str, datetime, int]],
) -> None:
    """The door's intake in small: each grant is entered with what `lifts` says, forms are remembered."""
    events: list[Any] = []
    forms: set[int] = set()
    alive: set[int] = set()
    for version, (kind, at, form) in enumerate(arrived, 1):
        if kind == "g":
            events.append(replace(GRANT, version=version, given_at=at, effective=lifts(at, events, form in forms)))
            if form not in forms and all(at > when for k, when, _ in arrived[: version - 1] if k == "w"):
                alive.add(version)
            forms.add(form)
        else:
            events.append(Withdrawn(version, at))
            alive.clear()
    world = replace(FULL, facts=ClientFacts(tuple(events)))
    assert world.decision.consents == ([max(alive)] if alive else [])
