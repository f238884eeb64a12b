"""The hard rules of matching, and the best assignment against a slow oracle."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.cleared import Section, Stop
from contracts.vocabulary import Category
from matching.domain import (
    AVOIDED,
    MOVES,
    OPEN,
    RULES,
    SCORE_LIMIT,
    Actor,
    Client,
    Match,
    NotAllowedError,
    Pair,
    Profile,
    Reason,
    State,
    Volunteer,
    bars,
    check_move,
    past_of,
    profile,
    scores,
    solve,
)

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
TODAY = date(2026, 6, 1)
SOMEBODY = Profile(
    client=uuid4(),
    waiting_since=NOW - timedelta(weeks=3),
    facts_at=NOW,
    harm="low",
    origin="probation-leeds",
    in_custody=True,
    prison="LEI",
    gender="female",
    language="pl",
    interpreter_needed=False,
    needs=frozenset({Category.NEEDS_ACCOMMODATION}),
    areas=frozenset({"leeds"}),
)
MENTOR = Volunteer(
    id=uuid4(),
    scheme="mentors",
    areas=frozenset({"leeds"}),
    languages=frozenset({"en", "PL"}),
    gender="male",
    approved=True,
    available=True,
    dbs_level="enhanced",
    dbs_expires=TODAY + timedelta(days=1),
    prison_clearances=frozenset({"LEI"}),
    training=frozenset({"core"}),
    experience_months=3,
    interviewed_by_public_protection=False,
    caseload_limit=2,
)
HIGH: dict[str, Any] = {
    "experience_months": 12,
    "training": frozenset({"high-risk"}),
    "interviewed_by_public_protection": True,
}


def test_a_pair_that_nothing_bars() -> None:
    assert bars(Pair(SOMEBODY, MENTOR, TODAY)) == []


@pytest.mark.parametrize(
    ("client", "volunteer", "codes"),
    [
        ({"harm": None}, {}, ["risk-unknown"]),
        ({"harm": "unheard-of"}, {}, ["risk-unknown"]),
        ({}, {"approved": False}, ["not-approved"]),
        ({}, {"available": False}, ["not-available"]),
        ({}, {"dbs_level": None}, ["check-missing"]),
        ({}, {"dbs_expires": None}, ["check-expired"]),
        ({}, {"dbs_expires": TODAY}, ["check-expired"]),
        ({}, {"prison_clearances": frozenset({"YOI"})}, ["prison-clearance"]),
        ({"prison": None}, {}, ["prison-clearance"]),
        ({"in_custody": False}, {"prison_clearances": frozenset()}, []),
        ({"harm": "high"}, HIGH, []),
        ({"harm": "very-high"}, HIGH | {"experience_months": 11}, ["high-risk-experience"]),
        ({"harm": "high"}, HIGH | {"training": frozenset()}, ["high-risk-training"]),
        ({"harm": "high"}, HIGH | {"interviewed_by_public_protection": False}, ["high-risk-interview"]),
        ({"needs": frozenset({Category.NEEDS_ABUSE})}, {}, ["gender"]),
        ({"needs": frozenset({Category.NEEDS_ABUSE})}, {"gender": "female"}, []),
        ({"needs": frozenset({Category.NEEDS_SEX_WORK}), "gender": None}, {"gender": None}, ["gender"]),
        ({"areas": frozenset({"york"})}, {}, ["area"]),
        ({"areas": frozenset()}, {}, []),
        ({"interpreter_needed": True}, {}, []),
        ({"interpreter_needed": True}, {"languages": frozenset({"en"})}, ["language"]),
        ({}, {"caseload": 2}, ["caseload"]),
    ],
)
def test_each_rule_bars_by_its_name(client: dict[str, object], volunteer: dict[str, object], codes: list[str]) -> None:
    pair = Pair(replace(SOMEBODY, **client), replace(MENTOR, **volunteer), TODAY)  # type: ignore[arg-type]
    assert bars(pair) == codes
    starts = {rule.name for rule in RULES if rule.at_start}
    assert bars(pair, at_start=True) == [code for code in codes if code in starts]


@pytest.mark.parametrize(
    ("past", "code"), [("declined", "declined-before"), ("expired", "expired-before"), ("denied", "sharing-denied")]
)
def test_the_past_bars(past: str, code: str) -> None:
    assert bars(Pair(SOMEBODY, MENTOR, TODAY, frozenset({past}))) == [code]
    key = MENTOR.scheme if past == "denied" else MENTOR.id
    found = past_of({(SOMEBODY.client, key): frozenset({past})}, SOMEBODY.client, MENTOR)
    assert found == {past}


CLIENTS = st.lists(
    st.builds(
        lambda harm, weeks, language, prison: replace(
            SOMEBODY,
            client=uuid4(),
            harm=harm,
            waiting_since=NOW - timedelta(weeks=weeks),
            language=language,
            prison=prison,
        ),
        st.sampled_from(["low", "medium", "high", None]),
        st.integers(0, 60),
        st.sampled_from(["en", "pl", None]),
        st.sampled_from(["LEI", "YOI"]),
    ),
    max_size=4,
)
VOLUNTEERS = st.lists(
    st.builds(
        lambda limit, caseload, languages, prisons, high: replace(
            MENTOR,
            id=uuid4(),
            caseload_limit=limit,
            caseload=caseload,
            languages=frozenset(languages),
            prison_clearances=frozenset(prisons),
            **(HIGH if high else {}),
        ),
        st.integers(0, 2),
        st.integers(0, 1),
        st.sets(st.sampled_from(["en", "pl"])),
        st.sets(st.sampled_from(["LEI", "YOI"])),
        st.booleans(),
    ),
    max_size=3,
)


@settings(max_examples=60)
@given(CLIENTS, VOLUNTEERS)
def test_a_round_is_as_good_as_trying_everything(clients: list[Profile], volunteers: list[Volunteer]) -> None:
    def worth(choice: tuple[Volunteer | None, ...]) -> tuple[int, float] | None:
        total, count = 0.0, 0
        for client, volunteer in zip(clients, choice, strict=True):
            if volunteer is None:
                continue
            pair = Pair(client, volunteer, TODAY)
            if bars(pair) or choice.count(volunteer) > volunteer.caseload_limit - volunteer.caseload:
                return None
            total, count = total + sum(scores(pair, NOW).values()), count + 1
        return count, round(total, 6)

    found = solve(clients, volunteers, {}, NOW)
    made = {a.client.client: a.volunteer for a in found.assignments}
    assert set(made) | set(found.unmatched) == {c.client for c in clients}
    best = max(w for choice in product([None, *volunteers], repeat=len(clients)) if (w := worth(choice)))
    assert worth(tuple(made.get(c.client) for c in clients)) == best


@given(st.integers(-5, 500), st.sets(st.sampled_from(list(Category))))
def test_scores_are_never_negative_and_have_a_limit(weeks: int, pathways: set[Category]) -> None:
    pair = Pair(
        replace(SOMEBODY, waiting_since=NOW - timedelta(weeks=weeks), needs=frozenset(pathways)),
        replace(MENTOR, pathways=frozenset(c for c in pathways if c.value.startswith("needs."))),
        TODAY,
    )
    told = scores(pair, NOW)
    assert all(value >= 0 for value in told.values())
    assert sum(told.values()) < SCORE_LIMIT


def test_who_is_left_is_told_why() -> None:
    other = replace(SOMEBODY, client=uuid4(), harm=None)
    found = solve([other], [MENTOR, replace(MENTOR, id=uuid4(), approved=False)], {}, NOW)
    assert found.unmatched == {other.client: {"risk-unknown": 2, "not-approved": 1}}
    assert solve([], [], {}, NOW).assignments == []


@given(st.sampled_from(State), st.sampled_from(State), st.sampled_from(Actor), st.none() | st.sampled_from(Reason))
def test_a_move_is_allowed_exactly_by_the_table(state: State, to: State, by: Actor, reason: Reason | None) -> None:
    allowed = by in MOVES.get((state, to), ()) and (reason is None) == (to in OPEN)
    try:
        check_move(state, to, by, reason)
    except NotAllowedError:
        assert not allowed
    else:
        assert allowed


def _client(*sections: tuple[str, Category, int, dict[str, object]]) -> Client:
    found = Client(uuid4(), waiting_since=NOW, facts_at=NOW)
    for source, category, hours, data in sections:
        found.keep(Section(source, category, NOW + timedelta(hours=hours), data))
    return found


def test_the_gravest_risk_counts_and_the_newest_of_everything_else() -> None:
    custody = Category.CUSTODY_AND_RELEASE
    found = profile(
        _client(
            ("probation", Category.RISK, 0, {"harm": "high"}),
            ("prison", Category.RISK, 5, {"harm": "low"}),
            ("prison", custody, 0, {"prison": "LEI", "status": "sentenced"}),
            ("probation", custody, 3, {"prison": "YOI", "status": "released"}),
            ("prison", Category.NEEDS_ETE, 0, {"level": "met", "area": "York"}),
            ("prison", Category.NEEDS_HEALTH, 0, {"level": "soon", "area": "West-Yorkshire"}),
        )
    )
    assert found is not None
    assert (found.harm, found.origin) == ("high", "probation")
    assert (found.in_custody, found.prison) == (False, "YOI")
    assert (set(found.needs), set(found.areas)) == ({Category.NEEDS_HEALTH}, {"west yorkshire"})
    assert profile(Client(uuid4())) is None


def test_withdrawal_leaves_a_tombstone_and_nothing_else() -> None:
    found = _client(("prison", Category.RISK, 0, {"harm": "low"}))
    states = [State.REQUESTED, State.OFFERED, State.ACTIVE]
    found.matches = [Match(found.reference, uuid4(), "mentors", NOW, state=state) for state in states]
    found.stop(Stop(4), NOW)
    assert [m.state for m in found.matches] == [State.WITHDRAWN, State.WITHDRAWN, State.ENDED]
    assert {(m.reason, m.moves[-1].by) for m in found.matches} == {(Reason.SHARING_TAKEN_BACK, Actor.DOOR)}
    assert (found.sections, found.waiting_since, found.tombstone) == ({}, None, 4)


@pytest.mark.parametrize(
    ("stop", "ends"),
    [
        (Stop(4, frozenset({Category.RISK})), True),
        (Stop(4, frozenset({Category.IDENTITY})), True),
        (Stop(4, frozenset({Category.EQUALITY, Category.CONTACT})), False),
        (Stop(4, recipients=frozenset({"mentors"})), True),
        (Stop(4, recipients=frozenset({"others"})), False),
        (Stop(4, frozenset({Category.IDENTITY}), frozenset({"mentors"})), True),
        (Stop(4, frozenset({Category.RISK}), frozenset({"mentors"})), False),
    ],
)
def test_a_match_goes_on_while_what_it_rests_on_is_there(stop: Stop, ends: bool) -> None:
    found = _client(("prison", Category.RISK, 0, {"harm": "low"}), ("prison", Category.EQUALITY, 0, {"language": "en"}))
    made = Match(found.reference, uuid4(), "mentors", NOW, state=State.ACTIVE, explanation={"scores": {"language": 10}})
    found.matches.append(made)
    found.stop(stop, NOW)
    assert (made.state, made.reason) == ((State.ENDED, Reason.SHARING_TAKEN_BACK) if ends else (State.ACTIVE, None))
    left = {category for _, category in found.sections}
    gone = stop.categories or frozenset(Category) if stop.recipients is None else frozenset()
    assert left == {Category.RISK, Category.EQUALITY} - gone
    assert (made.explanation == {}) == (stop.recipients is None and stop.categories != frozenset({Category.CONTACT}))
    told = stop.takes(Category.IDENTITY)
    assert (found.waiting_since, found.avoided) == (NOW, stop.recipients if stop.recipients and told else set())


def test_an_avoided_scheme_is_asked_only_where_nobody_else_can() -> None:
    first, second = replace(SOMEBODY, client=uuid4()), replace(SOMEBODY, client=uuid4())
    kept, other = replace(MENTOR, id=uuid4(), scheme="kept"), replace(MENTOR, id=uuid4(), scheme="other")
    past: dict[tuple[UUID, UUID | str], frozenset[str]] = {(first.client, "kept"): frozenset({AVOIDED})}
    pairs = {a.client.client: a.volunteer.scheme for a in solve([first], [kept, other], past, NOW).assignments}
    assert pairs == {first.client: "other"}
    pairs = {a.client.client: a.volunteer.scheme for a in solve([first, second], [kept, other], past, NOW).assignments}
    assert pairs == {first.client: "other", second.client: "kept"}
    pairs = {a.client.client: a.volunteer.scheme for a in solve([first], [kept], past, NOW).assignments}
    assert pairs == {first.client: "kept"}, "the door decides, and says why not"
