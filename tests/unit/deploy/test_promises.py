"""The check that anyone can make from a partner's topic finds what is planted, and nothing else."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.leaving import RETRACTED
from throughgate.promises import Placed, Violation, behind_retraction


def record(
    offset: int,
    on: int,
    permitted: dict[str, int | None] | None = None,
    *,
    purpose: str = "referral",
    of: str = "c",
    partition: int = 0,
) -> Placed:
    """Decided on a version; `permitted` are its categories, each with the consent that it rests on, if on one."""
    rests = [{"category": category, "consent": consent} for category, consent in (permitted or {}).items()]
    data = {"purpose": purpose, "receipt": {"decidedOn": on, "permitted": rests}}
    return Placed(
        partition,
        offset,
        {"id": f"{partition}/{offset}", "type": "throughgate.client.changed.v1", "subject": of, "data": data},
    )


def retraction(
    offset: int,
    version: int,
    consent: int | None = None,
    *,
    purposes: tuple[str, ...] = ("referral",),
    categories: list[str] | None = None,
    recipients: list[str] | None = None,
    of: str = "c",
    partition: int = 0,
) -> Placed:
    """It holds from a version; where something was withdrawn, also for consents up to a version."""
    data = {
        "purposes": list(purposes),
        "categories": categories,
        "recipients": recipients,
        "version": version,
        "consentVersion": consent,
    }
    return Placed(partition, offset, {"id": f"{partition}/{offset}", "type": RETRACTED, "subject": of, "data": data})


WITHDREW = retraction(10, 5, 5)
PLANTED: dict[str, tuple[list[Placed], list[tuple[int, int]]]] = {
    "decided before": ([WITHDREW, record(11, 4)], [(10, 11)]),
    "decided long before": ([WITHDREW, record(99, 1)], [(10, 99)]),
    "decided before, for another purpose": ([WITHDREW, record(11, 4, purpose="x")], [(10, 11)]),
    "decided before, and no consent was withdrawn": ([retraction(10, 5), record(11, 4, {"risk": None})], [(10, 11)]),
    "decided before one of two retractions": ([retraction(10, 3), retraction(11, 5), record(12, 4)], [(11, 12)]),
    "behind an older retraction too": ([retraction(10, 5), retraction(11, 3), record(12, 4)], [(10, 12)]),
    "rests on the version itself": ([WITHDREW, record(11, 6, {"risk": 5})], [(10, 11)]),
    "rests on an older version": ([WITHDREW, record(11, 6, {"risk": 1})], [(10, 11)]),
    "one of its categories does": ([WITHDREW, record(11, 6, {"health": None, "contact": 6, "risk": 4})], [(10, 11)]),
    "of one of the purposes": (
        [retraction(10, 5, 5, purposes=("x", "referral")), record(11, 6, {"risk": 4})],
        [(10, 11)],
    ),
    "of one of the categories": ([retraction(10, 5, 5, categories=["risk"]), record(11, 6, {"risk": 4})], [(10, 11)]),
    "decided before what a service tells others": ([retraction(10, 5, 5, recipients=["x"]), record(11, 4)], [(10, 11)]),
    "given in another order": ([record(12, 4), WITHDREW], [(10, 12)]),
    "two of them": ([WITHDREW, record(11, 4), record(12, 6, {"risk": 5})], [(10, 11), (10, 12)]),
}


@pytest.mark.parametrize("what", PLANTED)
def test_what_stands_behind_its_retraction_is_found(what: str) -> None:
    records, places = PLANTED[what]
    assert [(v.retraction_offset, v.record_offset) for v in behind_retraction(records)] == places


KEPT: dict[str, list[Placed]] = {
    "nothing": [],
    "before": [record(0, 1, {"risk": 1}), record(1, 4, {"risk": 4}), WITHDREW],
    "decided on the retraction's own version": [WITHDREW, record(11, 5, {"risk": None})],
    "a newer consent": [WITHDREW, record(11, 6, {"risk": 6})],
    "on statute": [WITHDREW, record(11, 6, {"risk": None})],
    "another client": [WITHDREW, record(11, 1, {"risk": 1}, of="d")],
    "another purpose": [WITHDREW, record(11, 6, {"risk": 1}, purpose="mentor-matching")],
    "another category": [retraction(10, 5, 5, categories=["risk"]), record(11, 6, {"health": 1})],
    "no category is named": [retraction(10, 5, 5, categories=[]), record(11, 6, {"health": 1})],
    "another partition": [WITHDREW, record(11, 1, {"risk": 1}, partition=1)],
    "no consent was withdrawn": [retraction(10, 5), record(11, 6, {"risk": 1})],
    "a service that no longer tells others": [retraction(10, 5, 5, recipients=["x"]), record(11, 6, {"risk": 1})],
    "something without a receipt": [WITHDREW, Placed(0, 11, {"type": "x", "subject": "c", "data": {}})],
}


@pytest.mark.parametrize("what", KEPT)
def test_what_may_stand_there_is_not_found(what: str) -> None:
    assert behind_retraction(KEPT[what]) == []


def test_a_violation_says_where_it_is_and_why() -> None:
    early, resting = record(5, 2, partition=1), record(6, 3, {"risk": 2}, partition=1)
    assert behind_retraction([retraction(3, 3, 3, partition=1), early, resting]) == [
        Violation(1, 3, 5, "decided on version 2, and the retraction holds from 3"),
        Violation(1, 3, 6, "risk rests on consent 2, and 3 was withdrawn"),
    ]


consent = st.none() | st.integers(1, 4)
places: dict[str, Any] = {"of": st.sampled_from("cd"), "partition": st.integers(0, 1)}
records = st.builds(
    record,
    st.just(0),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(["risk", "health"]), consent),
    purpose=st.sampled_from(["referral", "other"]),
    **places,
)
retractions = st.builds(
    retraction,
    st.just(0),
    st.integers(1, 4),
    consent,
    purposes=st.sampled_from([("referral",), ("other",), ("referral", "other")]),
    categories=st.sampled_from([None, ["risk"], ["risk", "health"]]),
    recipients=st.sampled_from([None, None, ["x"]]),
    **places,
)


def forbids(earlier: Placed, later: Placed) -> bool:
    """One pair, as the promise is worded."""
    stop, data = earlier.event["data"], later.event["data"]
    if earlier.event["type"] != RETRACTED or later.event["type"] == RETRACTED or earlier.offset >= later.offset:
        return False
    if (earlier.partition, earlier.event["subject"]) != (later.partition, later.event["subject"]):
        return False
    if data["receipt"]["decidedOn"] < stop["version"]:
        return True
    return any(
        stop["consentVersion"] is not None
        and stop["recipients"] is None
        and data["purpose"] in stop["purposes"]
        and (stop["categories"] is None or rests["category"] in stop["categories"])
        and rests["consent"] is not None
        and rests["consent"] <= stop["consentVersion"]
        for rests in data["receipt"]["permitted"]
    )


@settings(max_examples=500)
@given(st.lists(records | retractions, max_size=10), st.randoms())
def test_every_pair_of_a_retraction_and_a_record_behind_it_counts(story: list[Placed], random: Any) -> None:
    topic = [replace(one, offset=n) for n, one in enumerate(story)]
    guilty = {later.offset for later in topic if any(forbids(earlier, later) for earlier in topic)}
    shuffled = random.sample(topic, len(topic))
    found = behind_retraction(shuffled)
    assert sorted(v.record_offset for v in found) == sorted(guilty), "each once"
    for violation in found:
        assert forbids(topic[violation.retraction_offset], topic[violation.record_offset])
        assert violation.partition == topic[violation.record_offset].partition


def test_a_repeat_behind_the_retraction_counts() -> None:
    again = Placed(0, 7, record(0, 1).event)
    assert [v.record_offset for v in behind_retraction([record(0, 1), retraction(1, 2), again])] == [7], (
        "a resend behind the retraction is a disclosure too"
    )
