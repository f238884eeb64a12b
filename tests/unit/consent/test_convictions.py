"""From when a conviction is withheld: the clock rings when the rule begins to deny, neither before nor after."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consent.domain import Agency, ClientFacts, Item, Policy, Question, decide
from consent.service.sections import spent_convictions, withheld_from
from contracts.facts import spent_on
from contracts.vocabulary import AgencyKind, Category, Purpose

NOW = datetime(2026, 6, 2, 9, tzinfo=UTC)
HOSTEL = Agency("hostel", AgencyKind.VCS)
ITEM = Item("prison", Category.OFFENCE)


def rule(offence: dict[str, Any], at: datetime) -> str:
    """Why the hostel may not be told it then; nothing permits anything, so there is always a reason."""
    spent = spent_convictions([{"source": "prison", "category": "offence", "data": offence}])
    question = Question(HOSTEL, Purpose.REFERRAL, (ITEM,), at, spent=spent)
    return decide(question, ClientFacts(), Policy([], {})).withheld[0].rule


@pytest.mark.parametrize(
    ("offence", "begins"),
    [
        ({"spentOn": "2026-06-02"}, datetime(2026, 6, 1, 23, tzinfo=UTC)),
        ({"spentOn": "2026-12-01"}, datetime(2026, 12, 1, tzinfo=UTC)),
        ({"spentOn": "2026-03-29"}, datetime(2026, 3, 29, tzinfo=UTC)),  # summer time begins at one o'clock
        ({"spentOn": "2026-10-25"}, datetime(2026, 10, 24, 23, tzinfo=UTC)),
        ({"sentenceMonths": 12, "sentenceEnds": "2026-06-02"}, datetime(2026, 12, 2, tzinfo=UTC)),
        (
            {"sentenceMonths": 12, "sentenceEnds": "2026-06-02", "adultWhenConvicted": True},
            datetime(2027, 6, 1, 23, tzinfo=UTC),
        ),
        ({"neverSpent": True, "spentOn": "2026-06-02"}, None),
        ({"sentenceMonths": 12}, NOW),
        ({}, NOW),
    ],
)
def test_it_begins_with_the_day_in_london_or_now_where_nobody_can_tell(
    offence: dict[str, Any], begins: datetime | None
) -> None:
    assert withheld_from(offence, NOW) == begins


@given(st.dates(date(1900, 1, 1), date(2199, 12, 31)))
def test_it_is_the_very_moment_from_which_the_rules_withhold_it(day: date) -> None:
    offence = {"spentOn": day.isoformat()}
    begins = withheld_from(offence, NOW)
    assert begins is not None
    assert rule(offence, begins) == "spent-conviction"
    assert rule(offence, begins - timedelta(microseconds=1)) == "no-agreement"


@given(st.dates(), st.integers(0, 1200))
def test_there_is_such_a_moment_for_whatever_day_may_be_recorded(day: date, months: int) -> None:
    for offence in ({"spentOn": day.isoformat()}, {"sentenceMonths": months, "sentenceEnds": day.isoformat()}):
        begins = withheld_from(offence, NOW)
        assert begins == NOW if spent_on(offence) is None else begins is not None


@pytest.mark.parametrize(("months", "adult"), [(1, 12), (12, 12), (13, 48), (48, 48), (49, 84), (1200, 84)])
def test_who_is_not_known_to_have_been_an_adult_has_half_of_the_period(months: int, adult: int) -> None:
    offence = {"sentenceMonths": months, "sentenceEnds": "2020-03-05"}
    assert spent_on(offence | {"adultWhenConvicted": True}) == date(2020 + adult // 12, 3, 5)
    assert spent_on(offence) == date(2020 + adult // 24, 9 if adult % 24 else 3, 5)


@pytest.mark.parametrize(
    ("ends", "adult", "young"),
    [
        ("2024-02-29", date(2025, 3, 1), date(2024, 8, 29)),
        ("2025-08-31", date(2026, 8, 31), date(2026, 3, 1)),
        ("2026-12-31", date(2027, 12, 31), date(2027, 7, 1)),
        ("2026-06-30", date(2027, 6, 30), date(2026, 12, 30)),
    ],
)
def test_where_the_month_has_no_such_day_it_is_the_first_of_the_next(ends: str, adult: date, young: date) -> None:
    offence = {"sentenceMonths": 6, "sentenceEnds": ends}
    assert (spent_on(offence | {"adultWhenConvicted": True}), spent_on(offence)) == (adult, young)


def test_an_end_in_the_last_years_of_the_calendar_has_a_day_too() -> None:
    assert spent_on({"sentenceMonths": 60, "sentenceEnds": "9999-12-31"}) == date(9999, 7, 1)
    assert spent_on({"sentenceMonths": 60, "sentenceEnds": "9996-02-29", "adultWhenConvicted": True}) == date(
        9999, 3, 1
    )
