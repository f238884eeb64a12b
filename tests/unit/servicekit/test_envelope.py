"""The envelope: CloudEvents 1.0 in structured JSON mode, bytes as they are."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from servicekit.envelope import Event, StrictWire, Wire, encode

EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class Thing(StrictWire):
    """Data."""

    some_value: int


class ThingHappened(Event[Thing]):
    """An event."""

    type: Literal["thing.happened.v1"]


GOOD: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "source": "/s",
    "type": "thing.happened.v1",
    "time": "2026-06-01T12:00:00Z",
    "data": {"someValue": 1},
}


def test_what_is_encoded_is_an_event() -> None:
    now = datetime(2026, 6, 1, 12, tzinfo=UTC)
    raw = encode("thing.happened.v1", "/s", {"someValue": 1}, subject="c", id="1", time=now, traceparent="t")
    assert json.loads(raw) == GOOD | {
        "time": "2026-06-01T12:00:00+00:00",
        "subject": "c",
        "traceparent": "t",
        "datacontenttype": "application/json",
    }
    event = ThingHappened.model_validate_json(raw)
    assert (event.time, event.subject, event.data.some_value) == (now, "c", 1)


def test_what_is_not_given_is_not_there_and_ids_are_new() -> None:
    one, two = (json.loads(encode("t", "/s", {})) for _ in range(2))
    assert set(one) == {"specversion", "id", "source", "type", "time", "datacontenttype", "data"}
    assert UUID(one["id"]) != UUID(two["id"])
    assert datetime.now(UTC) - datetime.fromisoformat(one["time"]) < timedelta(minutes=1)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("abc"), values, max_size=4))
def test_data_comes_back_as_it_was(data: dict[str, Any]) -> None:
    assert json.loads(encode("t", "/s", data))["data"] == data


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "0.3"},
        {"type": "thing.happened.v2"},
        {"id": ""},
        {"id": "x" * 129},
        {"id": "a\0b"},
        {"source": ""},
        {"source": "a\0b"},
        {"subject": "a\0b"},
        {"subject": "x" * 201},
        {"time": "2026-06-01T12:00:00"},
        {"time": "1899-12-31T23:59:59Z"},
        {"time": "2200-01-01T00:00:01Z"},
        {"datacontenttype": "text/xml"},
        {"clientversion": -1},
        {"clientversion": 2**63},
        {"data": {"someValue": 1, "another": 2}},
        {"data": {"someValue": "x"}},
        {"data": None},
    ],
)
def test_what_is_no_event_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ThingHappened.model_validate(GOOD | change)


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type", "time", "data"])
def test_what_an_event_must_have(missing: str) -> None:
    with pytest.raises(ValidationError):
        ThingHappened.model_validate({name: value for name, value in GOOD.items() if name != missing})


@pytest.mark.parametrize(
    "change", [{"myextension": "x"}, {"clientversion": 2**63 - 1}, {"time": "1900-01-01T00:00:00Z"}, {"subject": None}]
)
def test_what_may_be_there_besides(change: dict[str, Any]) -> None:
    ThingHappened.model_validate(GOOD | change)


def test_a_reader_of_ours_ignores_new_fields_and_what_comes_from_outside_may_have_none() -> None:
    class Reader(Wire):
        some_value: int

    assert Reader.model_validate({"someValue": 1, "more": 2}).model_dump(by_alias=True) == {"someValue": 1}
    with pytest.raises(ValidationError):
        Thing.model_validate({"someValue": 1, "more": 2})
