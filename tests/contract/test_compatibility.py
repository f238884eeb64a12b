"""A schema change that breaks somebody who built against the released one fails; each rule is seen to bite."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from contracts import compatible, make

Schema = dict[str, Any]
EVENTS = make.event_types()


def test_models_break_nobody_who_built_against_the_released_schemas() -> None:
    assert make.broken() == [], (
        "publish the change as a new type (.v2); see contracts.make about what was never used yet"
    )


def test_every_event_type_was_released_or_is_new() -> None:
    released = {path.stem for path in (make.SCHEMAS / "released").glob("*.json")}
    assert released, "schemas/released is what the rules compare with"
    for name in released:
        assert json.loads((make.SCHEMAS / "released" / f"{name}.json").read_text())["$id"].endswith(name)


def remove(*path: str) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        holder = at(schema, path[:-1])
        del holder[path[-1]]

    return change


def put(value: Any, *path: str) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        holder = at(schema, path[:-1])
        assert holder.get(path[-1]) != value
        holder[path[-1]] = value

    return change


def alter(what: Callable[[Any], Any], *path: str) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        holder = at(schema, path[:-1])
        holder[path[-1]] = what(copy.deepcopy(holder.get(path[-1], [])))

    return change


def both(*changes: Callable[[Schema], None]) -> Callable[[Schema], None]:
    def change(schema: Schema) -> None:
        for one in changes:
            one(schema)

    return change


def at(schema: Schema, path: tuple[str, ...]) -> Schema:
    node = schema
    for part in path:
        node = node[part]
    return node


def without(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [v for v in values if v != value]


def plus(value: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda values: [*values, value]


RECORDED, GRANTED, ASKED = "client.recorded", "consent.granted", "referral.requested"
CHANGED, WITHDRAWN, SETTLED, ACCEPTED = (
    "client.changed",
    "client.withdrawn",
    "request.settled",
    "event.accepted",
)
D, P = "$defs", "properties"

BREAKING = {
    # what comes in: whatever was accepted is still accepted
    "in: property removed": (RECORDED, remove(D, "Contact", P, "phone"), "contact.phone is removed"),
    "in: category removed": (RECORDED, remove(D, "Facts", P, "needs.abuse"), "facts.needs.abuse is removed"),
    "in: property newly required": (
        RECORDED,
        alter(plus("dateOfBirth"), D, "Identity", "required"),
        "dateOfBirth is newly required",
    ),
    "in: new and required": (
        GRANTED,
        both(
            put({"type": "string"}, D, "HowGiven", P, "place"),
            alter(plus("place"), D, "HowGiven", "required"),
        ),
        "how.place is new and required",
    ),
    "in: enumeration narrowed": (
        GRANTED,
        alter(without("assessed"), D, "HowGiven", P, "capacity", "enum"),
        "capacity no longer takes a value",
    ),
    "in: enumeration where anything went": (
        GRANTED,
        put(["en", "cy"], D, "HowGiven", P, "language", "enum"),
        "language no longer takes a value",
    ),
    "in: shared enumeration narrowed": (
        GRANTED,
        alter(without("referral"), D, "Purpose", "enum"),
        "purposes[] no longer takes a value",
    ),
    "in: pattern changed": (
        RECORDED,
        put("^A[0-9]{4}[A-Z]{2}$", D, "Noms", P, "value", "pattern"),
        "{NOMS}.value asks for another form",
    ),
    "in: format added": (
        GRANTED,
        put("date", D, "HowGiven", P, "formVersion", "format"),
        "formVersion asks for another form",
    ),
    "in: limit narrowed": (
        GRANTED,
        put(10, D, "ConsentGrantedData", P, "recipients", "maxItems"),
        "recipients has a narrower maxItems",
    ),
    "in: limit added": (
        GRANTED,
        put(2, D, "ConsentGrantedData", P, "purposes", "maxItems"),
        "purposes has a narrower maxItems",
    ),
    "in: retyped": (
        RECORDED,
        put([{"type": "string"}, {"type": "null"}], D, "Offence", P, "sentenceMonths", "anyOf"),
        "sentenceMonths no longer takes a type",
    ),
    "in: null no longer taken": (
        RECORDED,
        put([{"type": "string", "format": "date"}], D, "Identity", P, "dateOfBirth", "anyOf"),
        "dateOfBirth no longer takes a type",
    ),
    "in: identifier type removed": (
        RECORDED,
        alter(without({"$ref": "#/$defs/Cro"}), D, "ClientRecordedData", P, "identifiers", "items", "oneOf"),
        "identifiers[]{CRO} is removed",
    ),
    "in: a service's request newly required": (
        ASKED,
        alter(plus("include"), D, "ReferralRequestData", "required"),
        "include is newly required",
    ),
    # what leaves: old readers read new records, new readers read old ones
    "out: property removed": (CHANGED, remove(D, "Receipt", P, "decision"), "receipt.decision is removed"),
    "out: retyped": (
        CHANGED,
        put({"type": "string"}, D, "Receipt", P, "permitted", "items"),
        "permitted[] has another type",
    ),
    "out: newly null": (
        CHANGED,
        put({"anyOf": [{"type": "string"}, {"type": "null"}]}, D, "Withheld", P, "rule"),
        "withheld[].rule has another type",
    ),
    "out: no longer always there": (
        CHANGED,
        alter(without("receipt"), D, "Disclosure", "required"),
        "receipt is no longer always there",
    ),
    "out: old records lack it": (
        ACCEPTED,
        alter(plus("withdrawal"), D, "AcceptedData", "required"),
        "withdrawal is newly required",
    ),
    "out: new and required": (
        WITHDRAWN,
        both(
            put({"type": "string"}, D, "WithdrawnData", P, "why"),
            alter(plus("why"), D, "WithdrawnData", "required"),
        ),
        "data.why is new and required",
    ),
    "out: constant changed": (
        WITHDRAWN,
        put("stop", D, "WithdrawnData", P, "action", "const"),
        "action has other values",
    ),
    "out: value removed": (
        SETTLED,
        alter(without("cancelled"), D, "SettledData", P, "outcome", "x-extensible-enum"),
        "outcome has other values",
    ),
    "out: enumeration closed": (
        SETTLED,
        put(["sent", "denied"], D, "SettledData", P, "outcome", "enum"),
        "outcome has other values",
    ),
    "out: form changed": (
        WITHDRAWN,
        remove(D, "WithdrawnData", P, "retraction", "format"),
        "retraction has another form",
    ),
    "out: field of a category removed": (
        CHANGED,
        remove(D, "Contact", P, "phone"),
        "sections[]{contact}.data.phone is removed",
    ),
}

HARMLESS = {
    "in: optional property": (RECORDED, put({"type": "string"}, D, "Contact", P, "what3words")),
    "in: enumeration widened": (GRANTED, alter(plus("employment"), D, "Purpose", "enum")),
    "in: limit widened": (GRANTED, put(500, D, "ConsentGrantedData", P, "recipients", "maxItems")),
    "in: no longer required": (RECORDED, alter(without("familyName"), D, "Identity", "required")),
    "in: description": (RECORDED, put("Other words.", D, "Contact", "description")),
    "out: optional property": (CHANGED, put({"type": "string"}, D, "Receipt", P, "ledger")),
    "out: value added": (CHANGED, alter(plus("leisure"), D, "Category", "x-extensible-enum")),
    "out: description": (CHANGED, put("Other words.", D, "Receipt", "description")),
}


def compared(short: str, change: Callable[[Schema], None]) -> list[str]:
    event = EVENTS[f"throughgate.{short}.v1"]
    old = make.event_schema(event)
    new = copy.deepcopy(old)
    change(new)
    assert new != old
    return compatible.breaks(old, new, event.direction)


@pytest.mark.parametrize("planted", BREAKING)
def test_a_breaking_change_is_told(planted: str) -> None:
    short, change, told = BREAKING[planted]
    assert EVENTS[f"throughgate.{short}.v1"].direction == {"in": "incoming", "ou": "outgoing"}[planted[:2]]
    found = compared(short, change)
    assert any(told in sentence for sentence in found), found


@pytest.mark.parametrize("planted", HARMLESS)
def test_a_harmless_change_passes(planted: str) -> None:
    assert compared(*HARMLESS[planted]) == []


def test_a_released_event_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    remaining = {name: event for name, event in EVENTS.items() if name != "throughgate.client.withdrawn.v1"}
    monkeypatch.setattr(make, "event_types", lambda: remaining)
    assert make.broken() == ["throughgate.client.withdrawn.v1: the event is removed"]


def test_what_breaks_somebody_is_not_released(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {path: path.read_bytes() for path in (make.SCHEMAS / "released").glob("*.json")}
    monkeypatch.setattr(make, "broken", lambda: ["throughgate.x.v1: event.data is removed"])
    monkeypatch.setattr(make, "made", dict)
    monkeypatch.setattr("sys.argv", ["make", "--release"])
    assert make.main() == 1
    assert "event.data is removed" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (make.SCHEMAS / "released").glob("*.json")} == kept
