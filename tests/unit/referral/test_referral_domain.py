"""The referral's lifecycle and the choice of a service."""

from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.cleared import Section, Stop
from contracts.vocabulary import Category
from referral.domain import (
    CLOSED,
    ENDS_WITH_REASON,
    HOLDING,
    MOVES,
    Actor,
    Client,
    NotAllowedError,
    Reason,
    Referral,
    Service,
    State,
    age_on,
    bars,
    check_move,
    choose,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOME = Category.NEEDS_ACCOMMODATION


def service(**values: object) -> Service:
    given = {
        "id": uuid4(),
        "organization": "house",
        "pathways": frozenset({HOME}),
        "area": "leeds",
        "minimum_age": None,
        "maximum_age": None,
        "status": "active",
        "capacity": 1,
        "assured_date": date(2026, 1, 1),
    }
    return Service(**(given | values))  # type: ignore[arg-type]


def client(born: str | None = None) -> Client:
    found = Client(uuid4())
    if born:
        found.keep(Section("hmp-leeds", Category.IDENTITY, NOW, {"dateOfBirth": born}))
    return found


def referral(of: Client, service: UUID | None = None, state: State = State.DRAFT) -> Referral:
    made = Referral(of.reference, HOME, "hmp-leeds", NOW, service=service, state=state, changed_at=NOW)
    of.referrals.append(made)
    return made


@given(st.sampled_from(State), st.sampled_from(State), st.sampled_from(Actor), st.none() | st.sampled_from(Reason))
def test_a_move_is_allowed_exactly_by_the_table_and_with_its_reason(
    state: State, to: State, by: Actor, reason: Reason | None
) -> None:
    allowed = by in MOVES.get((state, to), ()) and (reason is not None) == (to in ENDS_WITH_REASON)
    try:
        check_move(state, to, by, reason)
    except NotAllowedError:
        assert not allowed
    else:
        assert allowed


def test_the_table_is_whole() -> None:
    assert not any(state in CLOSED for state, _ in MOVES)
    for state in set(State) - CLOSED:
        assert (state, State.WITHDRAWN) in MOVES
    reached = {State.DRAFT}
    while new := {to for state, to in MOVES if state in reached} - reached:
        reached |= new
    assert reached == set(State)
    assert not HOLDING & (CLOSED | {State.DRAFT})


@given(st.lists(st.tuples(st.sampled_from(State), st.sampled_from(Actor), st.none() | st.sampled_from(Reason))))
def test_whatever_is_tried_a_closed_referral_stays_and_the_history_tells_all(
    tries: list[tuple[State, Actor, Reason | None]],
) -> None:
    made = referral(client())
    for to, by, reason in tries:
        before, closed = made.state, not made.is_open
        try:
            made.move(to, by, NOW, reason)
        except NotAllowedError:
            assert made.state == before
        else:
            assert not closed
            assert made.moves[-1].state == made.state
    assert made.holds_place == (made.state in HOLDING)


@pytest.mark.parametrize(
    ("offered", "born", "area", "codes"),
    [
        (service(), "1990-01-01", "Leeds", []),
        (service(area=None), None, "york", []),
        (service(), None, "York", ["other-area"]),
        (service(area="west-yorkshire"), None, "West Yorkshire", []),
        (service(status="inactive"), None, None, ["inactive"]),
        (service(capacity=1, held=1), None, None, ["no-free-capacity"]),
        (service(pathways=frozenset({Category.NEEDS_ETE})), None, None, ["other-pathway"]),
        (service(minimum_age=18), "2008-06-01", None, []),
        (service(minimum_age=18), "2008-06-02", None, ["age-outside-limits"]),
        (service(maximum_age=25), "2000-06-01", None, ["age-outside-limits"]),
        (service(maximum_age=0), "2000-06-01", None, ["age-outside-limits"]),
        (service(minimum_age=18), None, None, []),
    ],
)
def test_why_a_service_does_not_fit(offered: Service, born: str | None, area: str | None, codes: list[str]) -> None:
    assert bars(offered, client(born), HOME, area, NOW) == codes


def test_a_decline_is_remembered_for_a_while() -> None:
    offered, found = service(), client()
    referral(found, offered.id, State.DECLINED)
    assert bars(offered, found, HOME, None, NOW) == ["declined-before"]
    assert bars(offered, found, HOME, None, NOW + timedelta(days=91)) == []


@given(
    st.lists(
        st.builds(
            service,
            id=st.uuids(),
            area=st.sampled_from(["leeds", "york", None]),
            status=st.sampled_from(["active", "inactive"]),
            capacity=st.integers(0, 3),
            held=st.integers(0, 3),
            assured_date=st.none() | st.dates(date(2024, 1, 1), date(2026, 1, 1)),
        ),
        unique_by=lambda s: s.id,
        max_size=8,
    )
)
def test_the_choice_is_the_best_of_the_eligible_and_all_are_explained(directory: list[Service]) -> None:
    found = client()
    best, explained = choose(directory, found, HOME, "Leeds", NOW)
    eligible = [s for s in directory if not bars(s, found, HOME, "Leeds", NOW)]
    assert (best is None) == (not eligible)
    if best:
        assert best in eligible
        assert (best.assured_date or date.min) == max(s.assured_date or date.min for s in eligible)
        assert best.held < best.capacity
    assert {e["service"] for e in explained} == {str(s.id) for s in directory}
    assert {e["service"] for e in explained if e["eligible"]} == {str(s.id) for s in eligible}
    assert choose(directory[::-1], found, HOME, "Leeds", NOW)[1] == explained


def test_withdrawal_leaves_a_tombstone_and_nothing_else() -> None:
    found = client("1990-01-01")
    open_one, done = referral(found, uuid4(), State.SENT), referral(found, uuid4(), State.COMPLETED)
    open_one.eligibility = [{"eligible": True}]
    found.stop(Stop(7), NOW)
    assert (open_one.state, done.state) == (State.WITHDRAWN, State.COMPLETED)
    assert (open_one.moves[-1].by, open_one.moves[-1].reason) == (Actor.DOOR, Reason.SHARING_TAKEN_BACK)
    assert open_one.eligibility == []
    assert (found.sections, found.tombstone) == ({}, 7)
    found.stop(Stop(3), NOW)
    assert found.tombstone == 7


@given(
    st.sampled_from(State),
    st.sampled_from([None, "house", "hostel"]),
    st.none() | st.frozensets(st.sampled_from([HOME, Category.NEEDS_ETE, Category.IDENTITY])),
    st.none() | st.frozensets(st.sampled_from(["house", "hostel"]), min_size=1),
)
def test_a_retraction_ends_what_it_reaches_and_nothing_else(
    state: State, provider: str | None, categories: frozenset[Category] | None, recipients: frozenset[str] | None
) -> None:
    found = client("1990-01-01")
    found.keep(Section("hmp-leeds", HOME, NOW, {"level": "soon"}))
    made = referral(found, uuid4(), state)
    made.provider, made.eligibility = provider, [{"eligible": True}]
    found.stop(Stop(7, categories, recipients), NOW)
    named = categories is None or HOME in categories
    told = recipients is None or (provider in recipients and state != State.DRAFT)
    assert (made.state != state) == (state not in CLOSED and named and told)
    erased = recipients is None and named
    assert (("hmp-leeds", HOME) in found.sections) == (not erased)
    aged = recipients is None and (categories is None or Category.IDENTITY in categories)
    assert (made.eligibility == []) == (erased or aged), "what was told of a choice goes with what it was told by"
    need = categories is None or bool(categories & {HOME, Category.NEEDS_ETE})
    avoided = set(recipients if recipients and need else ())
    assert found.avoided == avoided
    assert found.tombstone == 7
    found.heard(7)
    assert found.avoided == avoided, "nothing was said since"
    found.heard(8)
    assert found.avoided == set()


def test_an_avoided_agency_is_chosen_only_where_there_is_no_other() -> None:
    best, other = service(organization="best", assured_date=date(2026, 6, 1)), service(organization="other")
    assert choose([best, other], client(), HOME, None, NOW)[0] is best
    assert choose([best, other], client(), HOME, None, NOW, {"best"})[0] is other
    assert choose([best], client(), HOME, None, NOW, {"best"})[0] is best


@given(st.dates(date(1920, 1, 1), date(2010, 1, 1)), st.dates(date(2020, 1, 1), date(2030, 1, 1)))
def test_age_is_the_number_of_birthdays(born: date, day: date) -> None:
    age = age_on(born, day)
    passed = sum((year, born.month, born.day) <= (day.year, day.month, day.day) for year in range(born.year + 1, 2031))
    assert age == passed


def test_reasons_from_outside_are_read_or_are_other() -> None:
    assert Reason.read("full") == Reason.FULL
    assert Reason.read("no such code") == Reason.OTHER
    assert Reason.read(None) == Reason.OTHER
