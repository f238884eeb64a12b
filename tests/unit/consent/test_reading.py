"""Reading what arrives: every rejection, and what it may quote (nothing)."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.service.notices import rejected
from consent.service.reading import CLOCK_SKEW, Arrival, id_of, read, type_in
from contracts import make
from contracts.intake import INTAKE
from servicekit.envelope import MAX_EVENT
from servicekit.problems import Problem

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
AGENCY = "hmp-leeds"
NUMBER = "A1234BC"
MARKER = "Zq7Marker"


def event(kind: str = "client.recorded", data: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    facts = {"identity": {"givenName": "Robin", "familyName": "Fictional"}}
    return {
        "specversion": "1.0",
        "id": "event-1",
        "source": f"/agencies/{AGENCY}",
        "type": f"throughgate.{kind}.v1",
        "time": NOW.isoformat(),
        "data": data or {"identifiers": [{"type": "NOMS", "value": NUMBER}], "facts": facts},
    } | more


def granted(**more: Any) -> dict[str, Any]:
    data = {
        "identifiers": [{"type": "NOMS", "value": NUMBER}],
        "form": "F1",
        "recipients": [{"agency": "hostel"}],
        "purposes": ["referral"],
        "categories": ["identity"],
        "givenAt": NOW.isoformat(),
        "how": {"formVersion": "1"},
    }
    return event("consent.granted", data | more)


def withdrawn(**more: Any) -> dict[str, Any]:
    data = {"identifiers": [{"type": "NOMS", "value": NUMBER}], "withdrawnAt": NOW.isoformat(), "scope": "everything"}
    return event("consent.withdrawn", data | more)


def refused(**more: Any) -> dict[str, Any]:
    data = {"identifiers": [{"type": "NOMS", "value": NUMBER}], "refusedAt": NOW.isoformat(), "scope": "everything"}
    return event("consent.refused", data | more)


def arrival(body: bytes | dict[str, Any]) -> Arrival:
    return Arrival(AGENCY, body if isinstance(body, bytes) else json.dumps(body).encode(), f"intake.{AGENCY}", 0, 7)


def problem(body: bytes | dict[str, Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        read(arrival(body), NOW)
    assert caught.value.__cause__ is None
    return caught.value


def test_an_event_in_binary_mode_is_refused_with_what_to_do_about_it() -> None:
    body = json.dumps(withdrawn()["data"]).encode()
    with pytest.raises(Problem) as caught:
        read(Arrival(AGENCY, body, type="throughgate.consent.withdrawn.v1"), NOW)
    assert (caught.value.code, caught.value.title) == ("invalid-event", "The event is in binary mode")
    assert "structured JSON mode" in caught.value.detail
    whole = json.dumps(withdrawn()).encode()
    assert read(Arrival(AGENCY, whole, type="anything"), NOW).id == "event-1", "a header says nothing of a whole event"


def test_the_type_of_binary_mode_is_found_among_the_headers() -> None:
    headers = [("traceparent", b"x"), ("ce_id", b"1"), ("CE_Type", b"consent\xff")]
    assert type_in(headers) == "consent\ufffd"
    assert type_in([("ce_type", None), ("content-type", b"x")]) is None


def padded(size: int) -> bytes:
    body = event(padding="")
    return json.dumps(body | {"padding": "x" * (size - len(json.dumps(body)))}).encode()


LATE = (NOW + CLOCK_SKEW + timedelta(microseconds=1)).isoformat()
BAD: dict[str, tuple[str, int, bytes | dict[str, Any]]] = {
    "nothing": ("malformed-json", 400, b""),
    "cut off": ("malformed-json", 400, json.dumps(event()).encode()[:-9]),
    "no type": ("invalid-event", 422, {k: v for k, v in event().items() if k != "type"}),
    "not an object": ("invalid-event", 422, b"[1]"),
    "unknown type": ("unknown-type", 422, event("client.guessed")),
    "unknown version": ("unknown-type", 422, event(type="throughgate.client.recorded.v2")),
    "no identifier": ("invalid-event", 422, event(data={"identifiers": [], "facts": {"contact": {}}})),
    "another agency": ("wrong-agency", 403, event(source="/agencies/probation")),
    "an agency whose name goes on": ("wrong-agency", 403, event(source=f"/agencies/{AGENCY}-2")),
    "nobody": ("wrong-agency", 403, event(source="/")),
    "future time": ("time-in-future", 422, event(time=LATE)),
    "future consent": ("time-in-future", 422, granted(givenAt=LATE)),
    "future withdrawal": ("time-in-future", 422, withdrawn(withdrawnAt=LATE)),
    "future refusal": ("time-in-future", 422, refused(refusedAt=LATE)),
    "one byte too many": ("too-large", 413, padded(MAX_EVENT + 1)),
}


@pytest.mark.parametrize("what", BAD)
def test_every_rejection_has_its_code_and_a_sentence_that_says_what_to_do(what: str) -> None:
    code, status, body = BAD[what]
    found = problem(body)
    assert (found.code, found.status) == (code, status)
    assert len(found.detail) > 30
    reply = json.loads(rejected(arrival(body), id_of(arrival(body).value), found, NOW))
    assert reply["data"]["code"] == code
    assert (reply["data"]["topic"], reply["data"]["partition"], reply["data"]["offset"]) == (f"intake.{AGENCY}", 0, 7)


FITS: dict[str, bytes | dict[str, Any]] = {
    "as large as may be": padded(MAX_EVENT),
    "a clock a little fast": event(time=(NOW + CLOCK_SKEW).isoformat()),
    "a unit of the agency": event(source=f"/agencies/{AGENCY}/healthcare"),
    "another offset": event(time=(NOW + CLOCK_SKEW).astimezone().isoformat()),
    "valid from later": granted(validFrom=(NOW + timedelta(days=9)).isoformat()),
}


@pytest.mark.parametrize("what", FITS)
def test_what_fits_is_read(what: str) -> None:
    body = FITS[what]
    assert read(arrival(body), NOW).id == "event-1"


def test_a_rejection_repeated_is_the_same_reply() -> None:
    bad = arrival(b"{")
    first, again = (rejected(bad, None, problem(b"{"), NOW + timedelta(hours=h)) for h in (0, 1))
    assert json.loads(first)["id"] == json.loads(again)["id"]
    other = Arrival(AGENCY, b"{", bad.topic, 0, 8)
    assert json.loads(rejected(other, None, problem(b"{"), NOW))["id"] != json.loads(first)["id"]


# --- a marker put anywhere never comes back -------------------------------------------------------

KNOWN = INTAKE.json_schema()["discriminator"]["mapping"]
EXAMPLES = [
    json.loads(p.read_text())
    for p in sorted((make.SCHEMAS / "examples").glob("*.json"))
    if json.loads(p.read_text())["type"] in KNOWN
]


def paths(node: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if at:
        yield at
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in pairs:
        yield from paths(child, (*at, key))


def spoil(event: dict[str, Any], path: tuple[str | int, ...], how: str, value: Any) -> None:
    parent: Any = event
    for part in path[:-1]:
        parent = parent[part]
    if how == "value":
        parent[path[-1]] = value
    elif how == "key" and isinstance(parent, dict):
        parent[MARKER] = parent.pop(path[-1])
    elif how == "extra" and isinstance(parent, dict):
        parent[MARKER] = value


MARKED = st.sampled_from(
    [MARKER, f"{NUMBER}{MARKER}", [MARKER], {MARKER: MARKER}, {"type": MARKER}, {"type": "NOMS", "value": MARKER}]
)


@settings(max_examples=400)
@given(st.data(), st.sampled_from(EXAMPLES), st.sampled_from(["value", "key", "extra"]), MARKED, st.booleans())
def test_a_marker_put_anywhere_is_never_in_a_rejection(
    data: st.DataObject, example: dict[str, Any], how: str, value: Any, cut: bool
) -> None:
    body = copy.deepcopy(example)
    path = data.draw(st.sampled_from(list(paths(body))))
    spoil(body, path, how, value)
    raw = json.dumps(body).encode()
    raw = raw[: data.draw(st.integers(1, len(raw)))] if cut else raw
    came = Arrival(str(example["source"]).split("/")[2], raw)
    found = None
    try:
        read(came, NOW)
    except Problem as problem:
        found = problem
    if found is not None:
        assert MARKER not in f"{found} {found.code} {found.title} {found.detail}"
        if path[0] != "id":  # the publisher's own name for its event is how it finds it again
            assert MARKER.encode() not in rejected(came, id_of(raw), found, NOW)


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b'{"id": "x"}', "x"),
        (b'{"id": ""}', None),
        (b'{"id": 1}', None),
        (b'{"id": "' + b"x" * 129 + b'"}', None),
        (b'["id"]', None),
        (b'"id"', None),
        (b"{", None),
        (b"", None),
    ],
)
def test_the_id_of_an_event_that_does_not_fit(raw: bytes, id: str | None) -> None:
    assert id_of(raw) == id


def test_an_id_that_cannot_be_stored_is_no_id() -> None:
    assert id_of(b'{"id": "a\\u0000b"}') is None
