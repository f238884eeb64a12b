"""What leaves holds the values of the permitted categories' fields and no other value, field by field."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.domain import Agency, Agreement, ClientFacts, Decision, Item, Policy, Question, Terms, decide
from consent.repository.recorded import section
from consent.service.sections import cut
from consent.service.telling import explain, receipt
from contracts.facts import FIELDS
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose
from servicekit.envelope import encode

AT = datetime(2026, 1, 5, 9, tzinfo=UTC)
ID = UUID("00000000-0000-4000-8000-000000000001")
PROBATION = Agency("probation-leeds", AgencyKind.PROBATION)
SOURCES = {"hmp-leeds": AgencyKind.PRISON, "hmp-hull": AgencyKind.PRISON}
PLACES = [(source, category, name) for source in SOURCES for category in FIELDS for name in sorted(FIELDS[category])]
OLD = "shoeSize"
"""A field that an older contract had: it is stored, and stands in no model any more."""


def value(source: str, category: str, name: str) -> str:
    """A value that stands in one field of one client as one agency recorded it, and nowhere else."""
    return f"<value-{source}-{category}-{name}>"


def stored() -> list[dict[str, Any]]:
    """Everything that both prisons recorded of a client; a field of an older contract in each section."""
    return [
        section(source, category, AT, {name: value(source, category, name) for name in (*sorted(fields), OLD)})
        | {"note": value(source, category, "note")}
        for source in SOURCES
        for category, fields in FIELDS.items()
    ]


VALUES = {
    place: value(*place) for place in [*PLACES, *((s, c, n) for s in SOURCES for c in FIELDS for n in (OLD, "note"))]
}


def permits(*allowed: tuple[str, str]) -> Decision:
    """What the rules say where agreements let each source tell these categories, on a statutory basis."""
    agreements = [
        Agreement(
            f"agreement-of-{source}",
            1,
            frozenset({source}),
            frozenset({PROBATION.id}),
            {Purpose.REFERRAL: Terms(Basis.OMA_S14, frozenset(Category(c) for s, c in allowed if s == source))},
            AT - timedelta(days=1),
            AT + timedelta(days=1),
        )
        for source in SOURCES
    ]
    items = tuple(Item(source, Category(category)) for source in SOURCES for category in FIELDS)
    policy = Policy(agreements, {PROBATION.id: PROBATION.kind, **SOURCES})
    return decide(Question(PROBATION, Purpose.REFERRAL, items, AT), ClientFacts(version=1), policy)


def record(decision: Decision) -> bytes:
    """The bytes that leave."""
    told = {
        "purpose": "referral",
        "sections": cut(stored(), decision),
        "receipt": receipt(explain(decision, 1), "referral", ID, AT.isoformat()),
    }
    return encode("throughgate.client.snapshot.v1", "/throughgate", told, subject=str(ID), time=AT)


def told(decision: Decision) -> set[tuple[str, str, str]]:
    """The places of which the record gives away the value."""
    text = record(decision).decode()
    return {place for place, unique in VALUES.items() if unique in text}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("category", FIELDS)
def test_one_permitted_category_gives_away_exactly_its_fields(source: str, category: str) -> None:
    assert told(permits((source, category))) == {(source, category, name) for name in FIELDS[category]}


@pytest.mark.parametrize(("source", "category", "name"), PLACES)
def test_each_field_leaves_with_its_category_and_with_no_other(source: str, category: str, name: str) -> None:
    others = [(s, c) for s in SOURCES for c in FIELDS if (s, c) != (source, category)]
    assert (source, category, name) in told(permits((source, category)))
    assert (source, category, name) not in told(permits(*others))


@settings(max_examples=60)
@given(st.sets(st.sampled_from([(source, category) for source in SOURCES for category in FIELDS])))
def test_any_permitted_categories_give_away_exactly_their_fields(allowed: set[tuple[str, str]]) -> None:
    assert told(permits(*allowed)) == {place for place in PLACES if place[:2] in allowed}


def test_nothing_permitted_gives_away_nothing() -> None:
    assert told(Decision()) == set()


def test_a_section_has_what_the_contract_names_and_nothing_else() -> None:
    everything = permits(*((source, category) for source in SOURCES for category in FIELDS))
    for kept in cut(stored(), everything):
        assert set(kept) == {"category", "source", "recordedAt", "data"}
        assert set(kept["data"]) == FIELDS[kept["category"]]
