"""An entry of the ledger is opened as it was written, and what is nothing that the door writes is unreadable."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest

from consent.repository.ledger import NOTHING_TOLD, OPEN_KEY, Entry, Unreadable, open, without_told, write_down
from contracts.merkle import write

KEY, NOW = bytes(range(32)), datetime(2026, 6, 1, 12, tzinfo=UTC)
SECTION = {"source": "prison", "category": "identity", "recordedAt": NOW.isoformat(), "data": {"givenName": "Robin"}}
DECIDED: dict[str, Any] = {
    "kind": "disclosure",
    "recipient": "hostel",
    "purpose": "referral",
    "decidedOn": 3,
    "permitted": [{"category": "identity", "source": "prison", "basis": "consent", "consent": 1}],
    "withheld": [],
}


def row(explanation: Any = DECIDED, told: Any = None, *, key: bytes | None = KEY, **columns: Any) -> Any:
    """A row of the ledger with its client's key."""
    decision, kind = uuid4(), columns.get("kind", "disclosure")
    bytes_told = NOTHING_TOLD if told is None else write(told)
    entry = Entry(kind, decision, 1, key or OPEN_KEY, "hostel", "referral", "t", NOW, [], explanation, bytes_told)
    return SimpleNamespace(**{"kind": kind, "decision": decision, "key": key, "body": write_down(entry).body} | columns)


@pytest.mark.parametrize("told", [{"data": {"sections": [SECTION]}}, {"sections": [SECTION]}])
def test_it_is_opened_as_it_was_written(told: dict[str, Any]) -> None:
    opened = open(row(told=told))
    assert opened is not None
    assert (opened.explanation, opened.told) == (DECIDED, write(told))
    assert opened.recorded() == {("prison", "identity"): NOW}


def test_what_was_erased_from_it_is_gone_and_the_leaf_stays() -> None:
    one = row(told={"sections": [SECTION]})
    whole = open(one)
    assert whole is not None
    one.body = without_told(KEY, one.decision, whole, DECIDED)
    rest = open(one)
    assert rest is not None
    assert (rest.told, rest.leaf, rest.recorded()) == (None, whole.leaf, {})


def test_nobody_opens_it_without_the_key_unless_it_says_that_a_client_was_erased() -> None:
    assert open(row(key=None)) is None
    assert open(row({"kind": "erasure"}, key=None, kind="erasure")) is not None


UNREADABLE: dict[str, Any] = {
    "no body": row(body=None),
    "too short": row(body=b"abc"),
    "another entry's": row(decision=UUID(int=1)),
    "another client's": SimpleNamespace(**vars(row()) | {"key": KEY[::-1]}),
    "another kind's": row({"kind": "erasure"}),
    "no object": row([]),
    "items that are none": row(DECIDED | {"permitted": ["identity"]}),
    "a question that is none": row(DECIDED | {"asked": []}),
}


@pytest.mark.parametrize("how", UNREADABLE)
def test_what_the_door_does_not_write_is_unreadable(how: str) -> None:
    with pytest.raises(Unreadable):
        open(UNREADABLE[how])


@pytest.mark.parametrize("told", [[], {"sections": "all"}, {"data": {"sections": [SECTION | {"recordedAt": "then"}]}}])
def test_what_the_door_does_not_tell_is_unreadable(told: Any) -> None:
    opened = open(row(told=told))
    assert opened is not None
    with pytest.raises(Unreadable):
        opened.recorded()
    with pytest.raises(Unreadable):
        opened.proven(json.dumps({}).encode())
