"""`decide` against the slow oracle, in any world; and what must hold of it whatever the rules are."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from unit.consent import worlds as made
from unit.consent.oracle import ORDER, Answer, World, answer, excluded
from unit.consent.worlds import ITEMS, worlds

from consent.domain import (
    REMEDIES,
    RULES,
    ClientFacts,
    Decision,
    Ended,
    GatewayInvoked,
    Granted,
    Obligation,
    OverrideAuthorised,
    Permit,
    Policy,
    Restricted,
    SharingFact,
    Withdrawn,
    decide,
)
from consent.service.telling import to_recipient, withheld
from contracts.vocabulary import Basis


def decided(world: World) -> Decision:
    return decide(world.question, world.facts, world.policy)


def rests_on(permit: Permit) -> Answer:
    signed = None
    if permit.agreement is not None:
        assert permit.agreement_version is not None
        signed = permit.agreement, permit.agreement_version
    return Answer(permit.basis, signed, permit.consent, permit.invoked)


@settings(max_examples=2000)
@given(worlds)
def test_decide_says_what_the_oracle_says(world: World) -> None:
    decision = decided(world)
    said: dict[Any, Answer | str] = {p.item: rests_on(p) for p in decision.permits}
    said |= {w.item: w.rule for w in decision.withheld}
    assert said == {item: answer(world, item) for item in world.question.items}
    assert all(w.remedy == REMEDIES[w.rule] for w in decision.withheld)
    keep_away = [Obligation("keep-from-practitioner", p) for p in excluded(world)]
    obliged = [Obligation("no-onward-sharing"), Obligation("erase-on-retraction"), *keep_away]
    assert set(decision.obligations) == (set(obliged) if decision.permits else set())
    assert len(decision.obligations) == len(set(decision.obligations))


def test_the_oracle_reads_every_rule_from_the_page() -> None:
    assert [rule.code for rule in RULES] == ORDER


@settings(max_examples=400)
@given(worlds, st.randoms())
def test_every_item_is_answered_once_and_always_the_same(world: World, random: Any) -> None:
    decision = decided(world)
    answered = [p.item for p in decision.permits] + [w.item for w in decision.withheld]
    assert sorted(answered, key=repr) == sorted(ITEMS, key=repr)
    order = [list(ITEMS).index(p.item) for p in decision.permits]
    assert order == sorted(order), "in the order of the question"
    assert decision.permitted == {p.item for p in decision.permits}
    assert decision.consents == sorted({p.consent for p in decision.permits if p.consent is not None})
    agreements = list(world.policy.agreements)
    random.shuffle(agreements)
    assert decided(replace(world, policy=replace(world.policy, agreements=agreements))) == decision
    alone = [decided(replace(world, question=replace(world.question, items=(item,)))) for item in ITEMS]
    assert sum((d.permits for d in alone), ()) == decision.permits, "an item does not depend on the others"


# --- monotonic: what stops never permits more -------------------------------------------------------------------------


def everywhere(facts: ClientFacts, change: Callable[[ClientFacts], ClientFacts]) -> ClientFacts:
    """The change made to every part, as what is said since a link is."""
    return replace(change(facts), parts=tuple(everywhere(part, change) for part in facts.parts))


def adding(fact: SharingFact) -> Callable[[ClientFacts], ClientFacts]:
    return lambda facts: replace(facts, history=(*facts.history, replace(fact, version=len(facts.history) + 1)))


def somewhere(facts: ClientFacts, change: Callable[[ClientFacts], Iterator[ClientFacts]]) -> Iterator[ClientFacts]:
    """The client with the change made to one of the parts, or to the one that is there."""
    if not facts.parts:
        yield from change(facts)
    for n, part in enumerate(facts.parts):
        for changed in change(part):
            yield replace(facts, parts=(*facts.parts[:n], changed, *facts.parts[n + 1 :]))


def putting_first(fact: SharingFact) -> Callable[[ClientFacts], ClientFacts]:
    """Said before all the rest, which keep their versions."""
    return lambda facts: replace(facts, history=(fact, *facts.history))


def without_one(which: Callable[[SharingFact], bool]) -> Callable[[ClientFacts], Iterator[ClientFacts]]:
    """Without one thing that was said; the versions of the others stay."""

    def change(facts: ClientFacts) -> Iterator[ClientFacts]:
        for n, fact in enumerate(facts.history):
            if which(fact):
                yield replace(facts, history=facts.history[:n] + facts.history[n + 1 :])

    return change


def allows(fact: SharingFact) -> bool:
    """What opens something, and the lifting of a restriction."""
    lifts = isinstance(fact, Ended) and fact.what == "restriction"
    return lifts or isinstance(fact, Granted | GatewayInvoked | OverrideAuthorised)


def stricter(world: World, draw: Callable[..., Any]) -> Iterator[World]:
    """The same world with one thing more that stops, or one thing less that allows."""
    facts, policy = world.facts, world.policy
    no = draw(st.one_of(made.withdrawals, made.restrictions))
    yield replace(world, facts=everywhere(facts, adding(no)))
    yield replace(world, facts=replace(facts, held=True))
    yield replace(world, facts=replace(facts, conflicting=True))
    for one in facts.parts or (facts,):
        for fact in one.history:
            if isinstance(fact, GatewayInvoked | OverrideAuthorised):
                what: Any = "gateway" if isinstance(fact, GatewayInvoked) else "override"
                over = Ended(0, fact.asserted_by, what, fact.id)
                yield replace(world, facts=everywhere(facts, adding(over)))
                yield replace(world, facts=everywhere(facts, putting_first(over)))
    for changed in somewhere(facts, without_one(allows)):
        yield replace(world, facts=changed)
    if facts.parts:
        another = ClientFacts(made.numbered(draw(st.lists(made.said, max_size=3))))
        yield replace(world, facts=replace(facts, parts=(*facts.parts, another)))
    for id in {a.id for a in policy.agreements}:
        others = tuple(a for a in policy.agreements if a.id != id)
        mine = tuple(a for a in policy.agreements if a.id == id)
        yield replace(world, policy=replace(policy, agreements=others))
        now: dict[str, Any] = {"ends": world.question.at, "suspended_from": world.question.at, "enforces": frozenset()}
        for name, value in now.items():
            changed_ones = tuple(replace(a, **{name: value}) for a in mine)
            yield replace(world, policy=replace(policy, agreements=(*others, *changed_ones)))
    for basis in policy.gateways:
        fewer = {b: g for b, g in policy.gateways.items() if b != basis}
        yield replace(world, policy=replace(policy, gateways=fewer))
    for id in policy.kinds:
        known = {other: kind for other, kind in policy.kinds.items() if other != id}
        yield replace(world, policy=replace(policy, kinds=known))
    question = world.question
    noes = [f.scope.recipients for f in facts.said if isinstance(f, Withdrawn | Restricted) and f.scope.recipients]
    if not any(recipients.kinds for recipients in noes):
        yield replace(world, question=replace(question, recipient=replace(question.recipient, area=None)))
    if not any(isinstance(f, Withdrawn) and f.scope.recipients and f.scope.recipients.services for f in facts.said):
        yield replace(world, question=replace(question, service=None))
    for once in (question.once, frozenset[int]()):
        yield replace(world, question=replace(question, asked=False, once=once))
    for a in policy.agreements:
        on_request = {purpose: replace(terms, subscription=False) for purpose, terms in a.terms.items()}
        others = tuple(b for b in policy.agreements if b is not a)
        yield replace(world, policy=replace(policy, agreements=(*others, replace(a, terms=on_request))))
    yield replace(world, question=replace(question, spent=dict.fromkeys(made.SOURCES, made.SPENT[0])))
    yield replace(world, question=replace(question, spent={}))


@settings(max_examples=400)
@given(st.data())
def test_what_stops_never_permits_more(data: st.DataObject) -> None:
    world = data.draw(worlds)
    permitted = decided(world).permitted
    for stopped in stricter(world, data.draw):
        assert decided(stopped).permitted <= permitted


@settings(max_examples=1000)
@given(worlds)
def test_a_stop_gives_away_nothing_that_its_recipient_is_not_told_without_it(world: World) -> None:
    """That something of a category is known can itself be sensitive."""

    def told(facts: ClientFacts) -> set[tuple[str, str]]:
        decision = decide(world.question, facts, world.policy)
        named = {(str(p.item.category), p.item.source) for p in decision.permits}
        return named | {(one["category"], one["source"]) for one in to_recipient(withheld(decision))}

    def free(facts: ClientFacts) -> ClientFacts:
        history = tuple(fact for fact in facts.history if not isinstance(fact, Restricted))
        return ClientFacts(history, version=facts.version, parts=tuple(map(free, facts.parts)))

    assert told(world.facts) <= told(free(world.facts))


@settings(max_examples=200)
@given(worlds, made.restrictions)
def test_lifting_by_another_agency_or_before_lifts_nothing(world: World, restriction: Restricted) -> None:
    restricted = replace(world, facts=everywhere(world.facts, adding(restriction)))
    other = Ended(0, "another", "restriction", restriction.id)
    assert decided(replace(world, facts=everywhere(restricted.facts, adding(other)))) == decided(restricted)
    early = Ended(0, restriction.asserted_by, "restriction", restriction.id)
    same = replace(restricted, facts=everywhere(restricted.facts, putting_first(early)))
    assert decided(same) == decided(restricted)


@settings(max_examples=200)
@given(worlds, made.withdrawals)
def test_a_no_stops_consent_and_leaves_the_rest_and_whom_it_does_not_name(world: World, no: Any) -> None:
    before = decided(world)
    after = decided(replace(world, facts=everywhere(world.facts, adding(no))))
    assert {p for p in before.permits if p.consent is None} <= set(after.permits)
    scope = no.scope
    asked = world.question
    reached = (scope.recipients is None or scope.recipients.name(asked.recipient, asked.service)) and (
        scope.purposes is None or world.question.purpose in scope.purposes
    )
    if not reached:
        assert after == before
    for permit in after.permits:
        if reached and (scope.categories is None or permit.item.category in scope.categories):
            assert permit.basis is not Basis.CONSENT
    for permit in before.permits:
        if scope.categories is not None and permit.item.category not in scope.categories:
            assert permit in after.permits


@settings(max_examples=60)
@given(worlds)
def test_with_nothing_known_nothing_is_permitted(world: World) -> None:
    nobody = Policy((), {}, {})
    for poorer in (
        replace(world, policy=nobody),
        replace(world, facts=ClientFacts(), policy=replace(world.policy, kinds={})),
        replace(world, facts=ClientFacts(), policy=replace(world.policy, gateways={})),
        replace(world, facts=ClientFacts(parts=(ClientFacts(), ClientFacts())), policy=nobody),
    ):
        assert decided(poorer).permits == ()
