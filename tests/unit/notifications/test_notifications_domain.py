"""The release plan: its dates, both clock changes, and what a change does to its steps."""

from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.cleared import Section, Stop
from contracts.facts import FIRST_DAY, LAST_DAY
from contracts.vocabulary import LONDON, Category
from notifications.domain import (
    TIMETABLE,
    TOO_LATE,
    Client,
    Partner,
    Plan,
    PlanReason,
    PlanState,
    StepName,
    StepState,
    due_at,
)

EVE, MORNING = StepName.DAY_BEFORE, StepName.MORNING
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
RELEASE = date(2026, 6, 10)
BOTH = frozenset(StepName)
DAYS = st.dates(date(2026, 6, 5), date(2026, 6, 12))


@pytest.mark.parametrize(
    ("name", "release", "due"),
    [
        # the clocks go forward on 29 March 2026 and back on 25 October 2026
        (MORNING, date(2026, 3, 28), datetime(2026, 3, 28, 7, tzinfo=UTC)),
        (MORNING, date(2026, 3, 29), datetime(2026, 3, 29, 6, tzinfo=UTC)),
        (EVE, date(2026, 3, 29), datetime(2026, 3, 28, 9, tzinfo=UTC)),
        (EVE, date(2026, 3, 30), datetime(2026, 3, 29, 8, tzinfo=UTC)),
        (MORNING, date(2026, 10, 24), datetime(2026, 10, 24, 6, tzinfo=UTC)),
        (MORNING, date(2026, 10, 25), datetime(2026, 10, 25, 7, tzinfo=UTC)),
        (EVE, date(2026, 10, 25), datetime(2026, 10, 24, 8, tzinfo=UTC)),
        (EVE, date(2026, 10, 26), datetime(2026, 10, 25, 9, tzinfo=UTC)),
        (EVE, date(2027, 1, 1), datetime(2026, 12, 31, 9, tzinfo=UTC)),
        (EVE, date(2028, 3, 1), datetime(2028, 2, 29, 9, tzinfo=UTC)),
    ],
)
def test_due_times_over_both_clock_changes(name: StepName, release: date, due: datetime) -> None:
    assert due_at(name, release) == due


@given(st.sampled_from(StepName), st.dates(FIRST_DAY, LAST_DAY))
def test_every_step_is_at_its_time_on_clocks_in_the_united_kingdom(name: StepName, release: date) -> None:
    days, at = TIMETABLE[name]
    local = due_at(name, release).astimezone(LONDON)
    assert (local.date(), local.time()) == (release + timedelta(days=days), at)
    assert due_at(name, release).tzinfo is UTC


def plan_for(*partners: Partner, release: date = RELEASE, now: datetime = NOW) -> Plan:
    plan = Plan(uuid4())
    plan.set("hmp-leeds", "LEI", release, partners, now)
    return plan


def test_who_is_told_of_what() -> None:
    plan = plan_for(
        Partner("mentors", "*", BOTH),
        Partner("mentors", "LEI", frozenset({EVE})),
        Partner("police", "LEI", frozenset({MORNING})),
        Partner("other", "YOI", BOTH),
    )
    assert sorted((s.name, s.recipient) for s in plan.steps) == [
        (EVE, "mentors"),
        (MORNING, "mentors"),
        (MORNING, "police"),
    ]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("date"), DAYS),
            st.tuples(st.just("released"), DAYS),
            st.tuples(st.just("partners"), st.sets(st.sampled_from(["a", "b", "c"]))),
            st.tuples(st.just("time"), st.integers(0, 48)),
            st.tuples(st.just("settle"), st.sampled_from(["sent", "denied", "cancelled"])),
        ),
        max_size=30,
    )
)
def test_whatever_happens_no_step_is_asked_twice_for_a_day(happened: list[tuple[str, object]]) -> None:
    plan, partners, now, release = Plan(uuid4()), [Partner("a", "*", BOTH)], NOW, RELEASE
    plan.set("hmp-leeds", "LEI", release, partners, now)
    asked: list[tuple[StepName, str, date | None]] = []
    for kind, what in happened:
        match kind, what:
            case "date", date() as release:
                plan.set("hmp-leeds", "LEI", release, partners, now)
            case "released", _:
                plan.cancel(PlanReason.RELEASED)
            case "partners", set() as agencies:
                partners = [Partner(a, "*", BOTH) for a in sorted(agencies)]
                if plan.state == PlanState.PLANNED:
                    plan.set("hmp-leeds", "LEI", release, partners, now)
            case "time", int() as hours:
                now += timedelta(hours=hours)
            case "settle", str() as outcome:
                for step in plan.steps:
                    if step.state == StepState.ASKED:
                        step.to(StepState(outcome))
        for step in plan.take_due(now):
            assert step.due_at is not None
            assert step.due_at <= now <= step.due_at + TOO_LATE
            assert step.for_date == release
            assert step.recipient in {p.agency for p in partners}
            asked.append((step.name, step.recipient, step.for_date))
    assert len(asked) == len(set(asked))
    keys = [(s.name, s.recipient, s.for_date) for s in plan.steps]
    assert len(keys) == len(set(keys))
    waiting = {(s.name, s.recipient) for s in plan.steps if s.state == StepState.PLANNED}
    if plan.state == PlanState.CANCELLED:
        assert not waiting
    else:  # whoever is to be told of the release is told, was told, or it is too late
        for partner in partners:
            for name in StepName:
                same = [s for s in plan.steps if (s.name, s.recipient, s.for_date) == (name, partner.agency, release)]
                assert len(same) == 1
                assert same[0].state != StepState.CANCELLED or same[0].request is not None


def test_too_late_is_missed_and_late_is_sent() -> None:
    just = due_at(EVE, RELEASE) + TOO_LATE
    plan = plan_for(Partner("a", "*", BOTH), now=just)
    assert [s.name for s in plan.take_due(just)] == [EVE, MORNING]
    after = just + timedelta(seconds=1)
    plan = plan_for(Partner("a", "*", BOTH), now=after)
    assert [(s.name, s.state) for s in plan.steps] == [(EVE, StepState.MISSED), (MORNING, StepState.PLANNED)]
    plan = plan_for(Partner("a", "*", BOTH))
    assert [s.name for s in plan.take_due(after)] == [MORNING]
    assert plan.steps[0].state == StepState.MISSED


def custody(source: str, hours: int, release: str | None, status: str = "sentenced") -> Section:
    data = {"prison": "LEI", "status": status, "releaseDate": release}
    return Section(source, Category.CUSTODY_AND_RELEASE, NOW + timedelta(hours=hours), data)


def test_the_agency_that_recorded_last_is_believed() -> None:
    client = Client(uuid4())
    partners = [Partner("a", "*", BOTH)]
    for section in (custody("hmp-leeds", 2, "2026-06-10"), custody("probation", 1, "2026-07-10")):
        client.keep(section)
    client.replan(partners, NOW)
    plan = client.plan()
    assert plan is not None
    assert (plan.release_date, plan.origin) == (RELEASE, "hmp-leeds")
    client.keep(custody("probation", 3, None))
    client.replan(partners, NOW)
    assert (plan.state, plan.reason) == (PlanState.CANCELLED, PlanReason.NO_DATE)
    client.keep(custody("hmp-leeds", 4, "2026-06-11"))
    client.replan(partners, NOW)
    assert client.plan() is plan
    assert (plan.state, {s.for_date for s in plan.steps}) == (PlanState.PLANNED, {RELEASE, date(2026, 6, 11)})


def test_withdrawal_leaves_a_tombstone_and_nothing_else() -> None:
    client = Client(uuid4())
    client.keep(custody("hmp-leeds", 0, "2026-06-10"))
    client.replan([Partner("a", "*", BOTH)], NOW)
    plan = client.plan()
    assert plan is not None
    client.stop(Stop(4))
    assert (plan.origin, plan.prison, plan.release_date) == (None, None, None)
    assert {(s.state, s.for_date, s.due_at) for s in plan.steps} == {(StepState.CANCELLED, None, None)}
    assert (client.sections, client.tombstone, client.plan()) == ({}, 4, None)


@pytest.mark.parametrize(
    ("stop", "planned"),
    [
        (Stop(4, frozenset({Category.RISK})), {"a", "b"}),
        (Stop(4, frozenset({Category.CUSTODY_AND_RELEASE})), set()),
        (Stop(4, recipients=frozenset({"a"})), {"b"}),
        (Stop(4, frozenset({Category.RISK}), frozenset({"a"})), {"a", "b"}),
        (Stop(4, frozenset({Category.CUSTODY_AND_RELEASE}), frozenset({"a"})), {"b"}),
    ],
)
def test_a_retraction_cancels_the_steps_that_it_reaches(stop: Stop, planned: set[str]) -> None:
    client, partners = Client(uuid4()), [Partner("a", "*", BOTH), Partner("b", "*", BOTH)]
    client.keep(custody("hmp-leeds", 0, "2026-06-10"))
    client.replan(partners, NOW)
    [plan] = client.plans
    client.stop(stop)
    client.replan(partners, NOW)
    client.replan(partners, NOW)
    assert {s.recipient for s in plan.steps if s.state == StepState.PLANNED} == planned
    assert (plan.release_date is None) == (client.sections == {}) == (not planned)
