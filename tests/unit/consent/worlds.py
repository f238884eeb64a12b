"""Made-up worlds in which the rules are asked: small, so that facts meet, and with little missing in each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, TypeVar, cast

from hypothesis import strategies as st
from unit.consent.oracle import World

from consent.domain import (
    GATEWAYS,
    Agency,
    Agreement,
    ClientFacts,
    Ended,
    Expired,
    GatewayInvoked,
    Granted,
    Item,
    OverrideAuthorised,
    OverrideReviewed,
    Policy,
    Question,
    Recipients,
    Restricted,
    Scope,
    SharingFact,
    Terms,
    Withdrawn,
)
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose, RestrictionKind

DAY = datetime(2026, 6, 1, 20, tzinfo=UTC)
TIMES = [DAY + timedelta(hours=h) for h in range(6)]
"""From 21 o'clock to 2 in London: midnight there is between the second and the fourth, in UTC one later."""
SPENT = [date(2026, 6, 1), date(2026, 6, 2), date(2026, 6, 3)]
KINDS = {
    "prison": AgencyKind.PRISON,
    "probation": AgencyKind.PROBATION,
    "hostel": AgencyKind.VCS,
    "council": AgencyKind.LOCAL_AUTHORITY,
}
RECIPIENTS = [
    Agency("probation", AgencyKind.PROBATION, "leeds"),
    Agency("hostel", AgencyKind.VCS, "leeds"),
    Agency("council", AgencyKind.LOCAL_AUTHORITY),
    Agency("referral", AgencyKind.SERVICE),
]
IDS = [r.id for r in RECIPIENTS]
IN_AN_AREA = [(AgencyKind.VCS, "leeds"), (AgencyKind.VCS, "hull")]
SERVICES = [("hostel", "beds"), ("council", "beds")]
SOURCES = ["prison", "hostel"]
CATEGORIES = [Category.IDENTITY, Category.OFFENCE, Category.NEEDS_FINANCE]
PURPOSES = [Purpose.REFERRAL, Purpose.PUBLIC_PROTECTION, Purpose.RELEASE_NOTIFICATION]
ITEMS = tuple(Item(s, c) for s in SOURCES for c in CATEGORIES)
INVOKED = [Basis.CDA_S115, Basis.CJA_S325, Basis.VITAL_INTERESTS]


T = TypeVar("T")


def usually(likely: T, other: st.SearchStrategy[T], odds: int = 7) -> st.SearchStrategy[T]:
    """Left to chance nearly every world would lack something, and the first lack hides the others."""
    likelies = st.just(likely)
    return st.sampled_from([True] * odds + [False]).flatmap(lambda yes: likelies if yes else other)


def some(values: Sequence[Any]) -> st.SearchStrategy[frozenset[Any]]:
    """Usually all of them."""
    return usually(frozenset(values), st.frozensets(st.sampled_from(values)))


def listed(values: Sequence[Any]) -> st.SearchStrategy[Any]:
    """What something that stops lists: None is all."""
    return st.none() | st.frozensets(st.sampled_from(values), min_size=1, max_size=2)


ONE, NOW = st.just(0), TIMES[2]
times = st.sampled_from(TIMES)
one_agency = st.sampled_from(IDS).map(lambda one: Recipients(frozenset({one})))
one_kind = st.sampled_from(IN_AN_AREA).map(lambda one: Recipients(kinds=frozenset({one})))
one_service = st.sampled_from(SERVICES).map(lambda one: Recipients(services=frozenset({one})))
several = st.builds(
    Recipients, *(st.frozensets(st.sampled_from(some), max_size=2) for some in (IDS, IN_AN_AREA, SERVICES))
)
scopes = st.builds(Scope, st.none() | several, listed(PURPOSES), listed(CATEGORIES))
narrow = st.builds(
    Scope,
    one_agency | one_agency | one_kind | one_service,
    usually(None, st.sampled_from(PURPOSES).map(lambda one: frozenset({one})), 1),
    st.sampled_from(CATEGORIES).map(lambda one: frozenset({one})),
)
agencies = st.sampled_from(list(KINDS))
own_ids = st.sampled_from(["x", "y"])
grants = st.builds(
    Granted,
    version=ONE,
    asserted_by=st.sampled_from(["prison", "prison", "hostel"]),
    recipients=st.builds(
        Recipients,
        usually(frozenset(IDS), st.frozensets(st.sampled_from(IDS)), 1),
        usually(frozenset(), st.frozensets(st.sampled_from(IN_AN_AREA)), 3),
        usually(frozenset(), st.frozensets(st.sampled_from(SERVICES)), 3),
    ),
    purposes=some(PURPOSES),
    categories=some(CATEGORIES),
    given_at=times,
    valid_from=usually(None, times),
    valid_until=usually(None, times),
    void=st.sampled_from([None] * 8 + ["consent-withdrawn", "form-used-before"]),
)
withdrawals = st.builds(
    Withdrawn, version=ONE, asserted_by=agencies, at=times, scope=narrow | narrow | scopes, refused=st.booleans()
)
restrictions = st.builds(
    Restricted,
    version=ONE,
    asserted_by=st.sampled_from(["prison", "hostel"]),
    id=own_ids,
    kind=st.sampled_from([*RestrictionKind, RestrictionKind.PRACTITIONER_EXCLUSION]),
    scope=narrow | narrow | scopes,
    allowed=usually(frozenset(), st.frozensets(st.sampled_from(IDS), max_size=2), 3),
    practitioners=usually(
        frozenset(), st.frozensets(st.tuples(agencies, st.sampled_from(["ann", "Bo"])), max_size=2), 1
    ),
    until=usually(None, times, 2),
)
named: dict[str, Any] = {
    "version": ONE,
    "asserted_by": st.sampled_from(["prison", "prison", "hostel", "probation", "council"]),
    "id": own_ids,
    "recipients": some(IDS),
    "purposes": some(PURPOSES),
    "categories": some(CATEGORIES),
    "starts": usually(TIMES[0], times),
    "ends": usually(TIMES[5], times),
    "once": usually(False, st.just(True), 2),
}
gateways = st.builds(GatewayInvoked, basis=st.sampled_from([*INVOKED, *INVOKED, Basis.OMA_S14]), **named)
overrides = st.builds(OverrideAuthorised, review_by=times, **named)
whats: st.SearchStrategy[Literal["restriction", "gateway", "override"]] = st.sampled_from(
    ["restriction", "gateway", "override"]
)
ends = st.builds(Ended, version=ONE, asserted_by=st.sampled_from(["prison", "hostel"]), what=whats, id=own_ids)
events = st.builds(Expired, ONE, agencies, st.integers(1, 3)) | st.builds(OverrideReviewed, ONE, agencies, own_ids)
said = st.sampled_from(
    [grants] * 7 + [withdrawals] * 2 + [restrictions] * 2 + [gateways] * 3 + [overrides] + [ends] * 2 + [events]
).flatmap(lambda one: cast(st.SearchStrategy[SharingFact], one))
bases = st.sampled_from([*Basis, Basis.CJA_S325, *[Basis.CONSENT] * 6])
terms = st.builds(
    Terms,
    basis=bases,
    categories=some(CATEGORIES),
    subscription=usually(True, st.just(False), 2),
    own_word=st.sampled_from([True, False, False]),
)
every_purpose = st.fixed_dictionaries(dict.fromkeys(PURPOSES, terms))
agreements = st.builds(
    Agreement,
    id=st.just(""),
    version=ONE,
    sources=some(SOURCES),
    recipients=some(IDS),
    terms=usually(True, st.just(False)).flatmap(
        lambda every: every_purpose if every else st.dictionaries(st.sampled_from(PURPOSES), terms)
    ),
    starts=usually(TIMES[0], times),
    ends=usually(TIMES[5], times),
    enforces=st.frozensets(st.sampled_from(IDS)),
    suspended_from=usually(None, times, 9),
)
questions = st.builds(
    Question,
    recipient=st.sampled_from([*RECIPIENTS, *RECIPIENTS[:3]]),
    purpose=st.sampled_from([*PURPOSES, Purpose.PUBLIC_PROTECTION]),
    items=st.just(ITEMS),
    at=usually(NOW, times, 2),
    service=st.sampled_from([None, "beds", "food"]),
    practitioner=usually(None, st.sampled_from(["ann", "bo", " Ann", "cy"]), 3),
    spent=usually(
        dict.fromkeys(SOURCES), st.dictionaries(st.sampled_from(SOURCES), st.sampled_from([*SPENT, None])), 2
    ),
    asked=st.sampled_from([True, False, False, False]),
    once=st.sampled_from([frozenset(), frozenset({1, 2}), frozenset({3})]),
)
seldom = st.sampled_from([False] * 29 + [True])


def numbered(history: Sequence[SharingFact]) -> tuple[SharingFact, ...]:
    """As a client's history: each the next version."""
    return tuple(replace(fact, version=n) for n, fact in enumerate(history, 1))


@st.composite
def clients(draw: Callable[..., Any]) -> ClientFacts:
    """One client; sometimes linked ones, with what was said before and since."""
    history = draw(st.lists(said, max_size=6))
    if draw(st.sampled_from([True, False, False])):
        before = draw(st.lists(st.lists(said, max_size=3), min_size=1, max_size=2))
        parts = tuple(ClientFacts(numbered([*own, *history]), draw(seldom), 9, draw(seldom)) for own in before)
        return ClientFacts((), draw(seldom), 9, draw(seldom), parts)
    return ClientFacts(numbered(history), draw(seldom), 9, draw(seldom))


@st.composite
def policies(draw: Callable[..., Any]) -> Policy:
    """Agreements in versions; sometimes an agency or a gateway is not known."""
    agreed = draw(st.lists(agreements, min_size=0 if draw(seldom) else 1, max_size=3))
    ids = [draw(st.sampled_from("ab")) for _ in agreed]
    versions = tuple(
        replace(a, id=id, version=ids[: n + 1].count(id)) for n, (id, a) in enumerate(zip(ids, agreed, strict=True))
    )
    kinds = {id: kind for id, kind in KINDS.items() if not draw(seldom)}
    known = {basis: gateway for basis, gateway in GATEWAYS.items() if not draw(seldom)}
    return Policy(versions, kinds, known)


worlds = cast(st.SearchStrategy[World], st.builds(World, questions, clients(), policies()))
