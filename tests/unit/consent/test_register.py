"""What a version of an agreement is at a time, and how long the minimum standard runs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from pydantic import TypeAdapter

from consent.domain import Agency, Agreement, Terms
from consent.service.agreements import months_after
from consent.service.register import Register, state, terms_of
from consent.service.snapshots import _begins
from contracts.agreements import AgreementText, Readable, minimum_standard
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
ONE = Agreement(
    "leeds",
    1,
    frozenset({"prison"}),
    frozenset({"hostel"}),
    {Purpose.REFERRAL: Terms(Basis.CONSENT, frozenset({Category.IDENTITY}))},
    NOW - DAY,
    NOW + DAY,
)


@pytest.mark.parametrize(
    ("version", "others", "expected"),
    [
        (ONE, [], "in-force"),
        (replace(ONE, starts=NOW + DAY / 2), [], "not-begun"),
        (replace(ONE, starts=NOW), [], "in-force"),
        (replace(ONE, ends=NOW), [], "expired"),
        (replace(ONE, suspended_from=NOW), [], "suspended"),
        (replace(ONE, suspended_from=NOW, ends=NOW), [], "expired"),
        (ONE, [replace(ONE, version=2, starts=NOW)], "superseded"),
        (ONE, [replace(ONE, version=2, starts=NOW + DAY)], "in-force"),
        (ONE, [replace(ONE, version=2, ends=NOW)], "superseded"),  # ended early
    ],
)
def test_the_state_of_a_version(version: Agreement, others: list[Agreement], expected: str) -> None:
    assert state(version, [version, *others], NOW) == expected


@pytest.mark.parametrize(
    ("at", "months", "expected"),
    [
        (datetime(2026, 1, 15, tzinfo=UTC), 6, datetime(2026, 7, 15, tzinfo=UTC)),
        (datetime(2026, 8, 31, tzinfo=UTC), 6, datetime(2027, 2, 28, tzinfo=UTC)),
        (datetime(2024, 2, 29, tzinfo=UTC), 12, datetime(2025, 2, 28, tzinfo=UTC)),
        (datetime(2026, 12, 1, tzinfo=UTC), 12, datetime(2027, 12, 1, tzinfo=UTC)),
    ],
)
def test_months_are_those_of_the_calendar(at: datetime, months: int, expected: datetime) -> None:
    assert months_after(at, months) == expected


def test_the_minimum_standard_rests_on_consent_alone_and_names_nothing_sensitive() -> None:
    terms = terms_of(minimum_standard().terms)
    assert terms.keys() == {Purpose.REFERRAL, Purpose.MENTOR_MATCHING, Purpose.RELEASE_NOTIFICATION}
    assert {t.basis for t in terms.values()} == {Basis.CONSENT}
    assert all(t.subscription and not t.own_word for t in terms.values())
    sensitive = {Category.RISK, Category.OFFENCE, Category.HEALTH, Category.NEEDS_HEALTH, Category.EQUALITY}
    assert not sensitive & frozenset[Category]().union(*(t.categories for t in terms.values()))


def test_who_subscribes_is_told_as_of_the_time_that_is_asked_for() -> None:
    subscribed = {Purpose.REFERRAL: replace(ONE.terms[Purpose.REFERRAL], subscription=True)}
    register = Register({"hostel": Agency("hostel", AgencyKind.VCS)}, [replace(ONE, terms=subscribed)])
    assert [s.recipient.id for s in register.subscriptions("prison", NOW)] == ["hostel"]
    assert register.subscriptions("prison", NOW + DAY) == []


TEXT = {
    "sources": ["prison"],
    "recipients": ["hostel"],
    "terms": [{"purpose": "referral", "basis": "consent", "categories": ["identity"]}],
    "starts": "2026-01-01T00:00:00Z",
    "review": "2026-06-01T00:00:00Z",
    "ends": "2027-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"review": "2025-01-01T00:00:00Z"},
        {"ends": "2026-05-01T00:00:00Z"},
        {"terms": TEXT["terms"] * 2},  # type: ignore[operator]
        {"terms": [TEXT["terms"][0] | {"basis": "public-protection-override"}]},  # type: ignore[index]
        {"enforces": ["a-stranger"]},
        {"recipients": ["prison"]},  # with itself
        {"sources": []},
        {"surprise": 1},
    ],
)
def test_a_text_that_contradicts_itself_is_refused(wrong: dict[str, object]) -> None:
    AgreementText.model_validate(TEXT)
    with pytest.raises(ValueError, match="AgreementText"):
        AgreementText.model_validate(TEXT | wrong)


def test_a_source_that_joins_offers_whatever_an_exclusion_withheld_from_who_undertook_it() -> None:
    """Also for purposes of other agreements, and also where the recipient undertook it to others before."""
    before = replace(ONE, enforces=frozenset({"hostel"}))
    joined = replace(before, version=2, sources=frozenset({"prison", "probation"}))
    begins = _begins(SimpleNamespace(agreement="leeds", version=2, kind="version"), Register({}, [before, joined]), NOW)
    assert begins == {"prison": set(), "probation": {("hostel", purpose) for purpose in Purpose}}


@pytest.mark.parametrize("name", ["A. Head", "7", "Zoë Ó Briain", "石川", "علی", "A.\u00a0Head"])
def test_a_name_is_what_can_be_read(name: str) -> None:
    assert TypeAdapter[str](Readable).validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        " ",
        "\u3000",
        "-",
        "\u2800",
        "\u3164",
        "A\u202eB",
        "A\u200bB",
        "A\nB",
        "A\x00",
        "A\x1b[0m",
        "A\u2028B",
        "\ue000A",
    ],
)
def test_a_name_that_shows_nothing_or_hides_something_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"characters would hide|it says nothing"):
        TypeAdapter[str](Readable).validate_python(name)
