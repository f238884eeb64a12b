"""Every field of every event schema says its category in the schema; one that does not is named."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from contracts import make
from contracts.facts import FIELDS, Facts, Section
from contracts.fields import FieldKind, category_of, models_in, told_by
from contracts.leaving import OfferMessage, ReferralSentMessage, StepMessage
from contracts.requests import REQUESTS
from contracts.vocabulary import Category
from servicekit.envelope import Event, StrictWire

EVENTS = make.event_types()
CATEGORIES = {c.value for c in Category}
KNOWN = CATEGORIES | {k.value for k in FieldKind}
Schema = dict[str, Any]


def schema_of(name: str) -> Schema:
    """As made now: that the files are so is tested with the other files."""
    return make.event_schema(EVENTS[name])


def properties(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Every property at any depth, by where it stands in the file: what a condition (`if`) asks for is none."""
    todo: list[tuple[str, Any]] = [("", schema)]
    while todo:
        place, node = todo.pop()
        if isinstance(node, list):
            todo += [(f"{place}[{n}]", item) for n, item in enumerate(node)]
        elif isinstance(node, dict):
            for key, value in node.items():
                if key == "properties":
                    for name, prop in value.items():
                        yield f"{place}.{name}", prop
                        todo.append((f"{place}.{name}", prop))
                elif key == "$defs":
                    todo += list(value.items())
                elif key not in ("if", "default", "const", "enum", "examples"):
                    todo.append((place, value))


def uncategorised(model: type[BaseModel]) -> list[str]:
    """Each field of a model, and of every model in it at any depth, that has not exactly one category."""
    found, seen, todo = [], {model}, [model]
    while todo:
        current = todo.pop()
        for name, field in current.model_fields.items():
            try:
                category_of(current, name)
            except LookupError as error:
                found.append(str(error))
            inner = set(models_in(field.annotation)) - seen
            seen |= inner
            todo += inner
    return sorted(found)


def inner(schema: Schema, prop: Schema) -> set[str]:
    """What the fields of the objects say that a property holds: through lists and unions."""
    said, todo = set(), [prop]
    while todo:
        node = todo.pop()
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
        said |= {p["x-category"] for p in node.get("properties", {}).values()}
        todo += [*node.get("anyOf", []), *node.get("oneOf", []), *([node["items"]] if "items" in node else [])]
    return said


# --- every field of every schema --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVENTS)
def test_every_property_of_the_schema_has_a_category(name: str) -> None:
    found = dict(properties(schema_of(name)))
    assert {"specversion", "type", "data"} <= {place.removeprefix(".") for place in found}, "the walk sees properties"
    assert {place: prop.get("x-category") for place, prop in found.items() if prop.get("x-category") not in KNOWN} == {}


@pytest.mark.parametrize("name", EVENTS)
def test_every_field_of_the_model_has_a_category(name: str) -> None:
    assert uncategorised(EVENTS[name].model) == []


@pytest.mark.parametrize("name", EVENTS)
def test_what_holds_objects_says_what_all_their_fields_say_or_that_they_say_it(name: str) -> None:
    schema = schema_of(name)
    for place, prop in properties(schema):
        said, parts = prop["x-category"], inner(schema, prop)
        if said == FieldKind.PARTS.value:
            assert parts, f"{place} is no object with fields of its own"
        elif parts:
            assert parts == {said}, place


@pytest.mark.parametrize("name", EVENTS)
def test_what_belongs_to_a_named_category_stands_beside_its_name(name: str) -> None:
    schema = schema_of(name)
    for holder in (schema, *schema.get("$defs", {}).values()):
        named = {n: p for n, p in holder.get("properties", {}).items() if p["x-category"] == FieldKind.AS_NAMED.value}
        objects = [n for n, p in named.items() if inner(schema, p)]
        if len(named) > len(objects):
            assert any("Category" in p.get("$ref", "") for p in named.values()), holder.get("title")


def test_every_category_has_a_field_and_every_kind_is_used() -> None:
    said = Counter(prop["x-category"] for name in EVENTS for _, prop in properties(schema_of(name)))
    assert set(said) == KNOWN


def test_asyncapi_carries_the_categories_through() -> None:
    document = yaml.safe_load((make.SCHEMAS / "asyncapi.yaml").read_text())
    messages = document["components"]["messages"]
    assert set(messages) == set(EVENTS)
    for message in messages.values():
        payload = json.loads((make.SCHEMAS / message["payload"]["$ref"]).read_text())
        assert all(prop["x-category"] in KNOWN for _, prop in properties(payload))
    assert all(f"`{kind.value}`" in document["info"]["description"] for kind in FieldKind)


# --- a field without one is found -------------------------------------------------------------------------------------


class Planted(StrictWire):
    shelf: str


class PlantedData(BaseModel):
    holds: ClassVar = FieldKind.SHARING

    place: Annotated[list[Planted] | None, FieldKind.PARTS] = None


class PlantedEvent(Event[PlantedData]):
    """`throughgate.planted.v1`: one field deep down says nothing."""

    type: Literal["throughgate.planted.v1"]


def test_a_planted_field_without_a_category_is_named() -> None:
    event = make.EventType("throughgate.planted.v1", PlantedEvent, "incoming")
    assert uncategorised(PlantedEvent) == ["Planted.shelf says no category"]
    with pytest.raises(LookupError, match=r"Planted\.shelf says no category"):
        make.event_schema(event)


def test_a_field_that_says_two_categories_is_named() -> None:
    class Twice(StrictWire):
        shelf: Annotated[str, Category.RISK, FieldKind.SHARING]

    assert uncategorised(Twice) == ["Twice.shelf says two categories"]


def test_a_new_attribute_of_the_envelope_is_named() -> None:
    class Wider(Event[PlantedData]):
        nickname: str

    assert "Wider.nickname says no category" in uncategorised(Wider)


def test_a_field_says_otherwise_than_its_model() -> None:
    class Mixed(StrictWire):
        holds: ClassVar = Category.CONTACT

        phone: str
        reference: Annotated[UUID, FieldKind.REFERENCE]

    assert category_of(Mixed, "phone") is Category.CONTACT
    assert category_of(Mixed, "reference") is FieldKind.REFERENCE


def test_a_property_whose_category_was_taken_away_is_found() -> None:
    schema = schema_of("throughgate.client.recorded.v1")
    del schema["$defs"]["Contact"]["properties"]["phone"]["x-category"]
    assert [place for place, prop in properties(schema) if "x-category" not in prop] == ["Contact.phone"]


# --- facts ------------------------------------------------------------------------------------------------------------


def test_each_field_of_facts_has_the_category_under_whose_key_it_stands() -> None:
    for name, field in Facts.model_fields.items():
        key = field.alias or name
        assert category_of(Facts, name).value == key
        (model,) = models_in(field.annotation)
        assert {category_of(model, inner).value for inner in model.model_fields} == {key}
        assert FIELDS[key] == {f.alias or n for n, f in model.model_fields.items()}
        assert not any(list(models_in(f.annotation)) for f in model.model_fields.values()), "cutting selects keys"
    assert {field.alias or name for name, field in Facts.model_fields.items()} == CATEGORIES == set(FIELDS)


def test_a_field_of_facts_belongs_to_one_model() -> None:
    """No two categories share a model, or one could not tell from the model what it is."""
    models = [m for field in Facts.model_fields.values() for m in models_in(field.annotation)]
    assert len(models) == len(set(models)) == len(Category)


def test_data_of_a_section_has_the_category_that_the_section_names() -> None:
    rules = schema_of("throughgate.client.changed.v1")["$defs"]["Section"]["allOf"]
    for rule in rules:
        key = rule["if"]["properties"]["category"]["const"]
        data = rule["then"]["properties"]["data"]
        assert data["x-category"] == key
        assert inner(schema_of("throughgate.client.changed.v1"), data) == {key}
    assert {category_of(Section, name) for name in Section.model_fields} == {FieldKind.AS_NAMED}


# --- what leaves ------------------------------------------------------------------------------------------------------


def test_no_identifier_and_no_free_text_is_in_what_leaves() -> None:
    for name, event in EVENTS.items():
        if event.direction == "outgoing":
            said = {prop["x-category"] for _, prop in properties(schema_of(name))}
            assert not said & {FieldKind.IDENTIFIER.value, FieldKind.KEPT.value}, name


AT = datetime.fromisoformat("2026-01-05T09:00:00Z")
ID = UUID("00000000-0000-4000-8000-000000000001")
REFERRAL = ReferralSentMessage(referral=ID, service="A course", pathway=Category.NEEDS_ABUSE, respond_by=AT)


def test_a_message_tells_the_categories_of_its_fields() -> None:
    assert told_by(REFERRAL) == {Category.NEEDS_ABUSE}
    assert told_by(StepMessage(step_reference=ID, step="day-before", due_at=AT)) == {Category.CUSTODY_AND_RELEASE}
    assert told_by(OfferMessage(offer=ID, mentor=ID, expires_at=AT)) == set()


@pytest.mark.parametrize(
    ("kind", "about"),
    [("referral.requested", "identity"), ("release.step-requested", "identity")],
)
def test_a_request_must_be_about_what_its_message_tells(kind: str, about: str) -> None:
    event = json.loads((make.SCHEMAS / "examples" / f"throughgate.{kind}.v1.json").read_text())
    REQUESTS.validate_json(json.dumps(event))
    event["data"]["about"] = [about]
    with pytest.raises(ValidationError, match="about must name every category"):
        REQUESTS.validate_json(json.dumps(event))
