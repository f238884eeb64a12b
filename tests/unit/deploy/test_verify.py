"""The check that anyone can make from a partner's topic finds what is planted, and nothing else."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from throughgate.verify import WITHDRAWN, Placed, Violation, behind_retraction, without_repeats


def record(offset: int, *consents: int, purpose: str = "referral", of: str = "c", partition: int = 0) -> Placed:
    data = {"purpose": purpose, "receipt": {"consents": list(consents)}}
    return Placed(
        partition,
        offset,
        {"id": f"{partition}/{offset}", "type": "throughgate.client.changed.v1", "subject": of, "data": data},
    )


def retraction(offset: int, version: int, *purposes: str, of: str = "c", partition: int = 0) -> Placed:
    data = {"purposes": list(purposes or ("referral",)), "consentVersion": version}
    return Placed(partition, offset, {"id": f"{partition}/{offset}", "type": WITHDRAWN, "subject": of, "data": data})


PLANTED: dict[str, tuple[list[Placed], list[tuple[int, int]]]] = {
    "behind, the version itself": ([record(0, 1), retraction(1, 2), record(2, 2)], [(1, 2)]),
    "behind, an older version": ([retraction(4, 2), record(9, 1)], [(4, 9)]),
    "behind, one of several": ([retraction(0, 2), record(1, 3, 2)], [(0, 1)]),
    "behind by far": ([retraction(0, 2), *[record(n, 3) for n in range(1, 50)], record(50, 2)], [(0, 50)]),
    "behind an older retraction too": ([retraction(0, 5), retraction(1, 2), record(2, 4)], [(0, 2)]),
    "of one of the purposes": ([retraction(0, 2, "x", "referral"), record(1, 1)], [(0, 1)]),
    "given in another order": ([record(2, 1), retraction(1, 2)], [(1, 2)]),
    "two of them": ([retraction(0, 2), record(1, 1), record(2, 2)], [(0, 1), (0, 2)]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_stands_behind_its_retraction_is_found(what: str) -> None:
    records, places = PLANTED[what]
    assert [(v.retraction_offset, v.record_offset) for v in behind_retraction(records)] == places


KEPT: dict[str, list[Placed]] = {
    "nothing": [],
    "before": [record(0, 1), record(1, 2), retraction(2, 3)],
    "a newer consent": [retraction(0, 2), record(1, 3)],
    "without consent": [retraction(0, 2), record(1)],
    "another client": [retraction(0, 2), record(1, 1, of="d")],
    "another purpose": [retraction(0, 2), record(1, 1, purpose="mentor-matching")],
    "another partition": [retraction(0, 2), record(1, 1, partition=1)],
    "something without a receipt": [retraction(0, 2), Placed(0, 1, {"type": "x", "subject": "c", "data": {}})],
}


@pytest.mark.parametrize("what", KEPT)
def test_what_may_stand_there_is_not_found(what: str) -> None:
    assert behind_retraction(KEPT[what]) == []


def test_a_violation_says_where_it_is() -> None:
    assert behind_retraction([retraction(3, 2, partition=1), record(5, 2, partition=1)]) == [
        Violation(1, 3, 5, "referral", 2)
    ]


steps = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 1),
        st.sampled_from("cd"),
        st.sampled_from(["referral", "other"]),
        st.integers(1, 3),
    ),
    max_size=10,
)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_every_pair_of_a_retraction_and_a_record_behind_it_counts(story: list[Any]) -> None:
    """Pair by pair, as the promise is worded."""
    records = [
        retraction(n, version, purpose, of=of, partition=p)
        if takes_back
        else record(n, version, purpose=purpose, of=of, partition=p)
        for n, (takes_back, p, of, purpose, version) in enumerate(story)
    ]
    guilty = {
        (p, n)
        for n, (takes_back, p, of, purpose, version) in enumerate(story)
        if not takes_back
        and any(earlier[0] and earlier[1:4] == (p, of, purpose) and version <= earlier[4] for earlier in story[:n])
    }
    assert {(v.partition, v.record_offset) for v in behind_retraction(reversed(records))} == guilty


def test_a_partner_that_drops_repeats_keeps_the_first() -> None:
    again = Placed(0, 7, record(0, 1).event)
    assert without_repeats([again, record(3, 1), record(0, 1)]) == [record(0, 1), record(3, 1)]
    assert [v.record_offset for v in behind_retraction([record(0, 1), retraction(1, 1), again])] == [7], (
        "a resend behind the retraction is a disclosure too"
    )
