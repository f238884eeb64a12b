"""Schema files, AsyncAPI and OpenAPI are those of the models; every example fits; topics and events match."""

import json
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker  # type: ignore[import-untyped, unused-ignore]

from contracts import make
from contracts.facts import Facts
from contracts.fields import models_in
from contracts.intake import INTAKE, read
from contracts.topics import read_topics
from contracts.vocabulary import Category

EVENTS = make.event_types()
EXAMPLES = sorted((make.SCHEMAS / "examples").glob("*.json"))
INCOMING = sorted(INTAKE.json_schema()["discriminator"]["mapping"])

FORMATS = FormatChecker(formats=())
FORMATS.checks("date", raises=ValueError)(lambda value: not isinstance(value, str) or bool(date.fromisoformat(value)))
FORMATS.checks("uuid", raises=ValueError)(lambda value: not isinstance(value, str) or bool(UUID(value)))
FORMATS.checks("date-time", raises=ValueError)(
    lambda value: not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None
)


def schema_of(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((make.SCHEMAS / "events" / f"{name}.json").read_text())
    return schema


def type_of(example: Path) -> str:
    return str(json.loads(example.read_text())["type"])


def test_made_files_are_as_made() -> None:
    differ = [str(path.relative_to(make.SCHEMAS.parent)) for path in make.differing(make.made())]
    assert differ == [], "run python -m contracts.make and commit what it writes"


def test_check_names_what_differs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    files = make.made()
    monkeypatch.setattr(make, "made", lambda: files)
    monkeypatch.setattr("sys.argv", ["make", "--check"])
    assert make.main() == 0
    files[make.SCHEMAS / "asyncapi.yaml"] += "more"
    del files[make.SCHEMAS / "events" / "throughgate.client.changed.v1.json"]
    assert make.main() == 1
    (sentence,) = capsys.readouterr().out.splitlines()
    assert "schemas/asyncapi.yaml, schemas/events/throughgate.client.changed.v1.json;" in sentence


def test_a_service_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contracts.make.SERVICES", ("not-there",))
    with pytest.raises(ModuleNotFoundError):
        make.made()


@pytest.mark.parametrize("name", EVENTS)
def test_schema_is_valid_and_has_an_example(name: str) -> None:
    Draft202012Validator.check_schema(schema_of(name))
    assert name in {type_of(example) for example in EXAMPLES}
    assert EVENTS[name].purpose, "the event's docstring says what it is for: `type`: sentence."


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_fits_schema_and_model(example: Path) -> None:
    name = type_of(example)
    assert example.stem == name or example.stem.startswith(f"{name}.")
    Draft202012Validator(schema_of(name), format_checker=FORMATS).validate(json.loads(example.read_text()))
    event = EVENTS[name].model.model_validate_json(example.read_bytes())
    # what the model does not know it would ignore: an example must not teach such a field
    written = event.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert keys(written) == keys(json.loads(example.read_text()))
    if name in INCOMING:
        assert read(example.read_bytes()) == event


def keys(value: Any, place: str = "") -> set[str]:
    if isinstance(value, dict):
        return {f"{place}.{key}" for key in value}.union(*(keys(v, f"{place}.{k}") for k, v in value.items()))
    if isinstance(value, list):
        return set().union(*(keys(item, f"{place}[{n}]") for n, item in enumerate(value)))
    return set()


def test_an_unfit_example_is_found() -> None:
    event = json.loads((make.SCHEMAS / "examples" / "throughgate.client.withdrawn.v1.json").read_text())
    event["data"]["retraction"] = "not-a-uuid"
    assert not Draft202012Validator(schema_of(event["type"]), format_checker=FORMATS).is_valid(event)


def test_topics_and_events_name_each_other() -> None:
    topics = read_topics(make.SCHEMAS / "topics")
    named = {name for topic in topics for name in topic.messages}
    assert named - set(EVENTS) == set(), "a topic names a message type that no model makes"
    assert set(EVENTS) - named == set(), "an event type travels on no topic"
    for topic in topics:
        assert len(set(topic.messages)) == len(topic.messages)


def test_asyncapi_is_whole() -> None:
    document = yaml.safe_load((make.SCHEMAS / "asyncapi.yaml").read_text())
    assert document["asyncapi"] == "3.0.0"
    topics = {topic.kind: topic for topic in read_topics(make.SCHEMAS / "topics")}
    assert {kind: channel["address"] for kind, channel in document["channels"].items()} == {
        kind: topic.name for kind, topic in topics.items()
    }
    for ref in refs(document):
        if ref.startswith("#/"):
            found = document
            for part in ref.removeprefix("#/").split("/"):
                found = found[part]
        else:
            assert (make.SCHEMAS / ref).exists(), ref
    assert document["components"]["securitySchemes"]["scram"]["type"] == "scramSha512"
    for said in ("read_committed", "surrogate", "What is not promised", "retention"):
        assert said in document["info"]["description"]


def refs(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from refs(value)


def test_facts_of_a_client_stand_in_facts_only() -> None:
    for name in INCOMING:
        schema = schema_of(name)
        holders = [key for key, part in schema["$defs"].items() if refers_to_facts(part)]
        assert holders in ([], ["ClientRecordedData"])


def refers_to_facts(part: dict[str, Any]) -> bool:
    models = {"Facts", *(m.__name__ for f in Facts.model_fields.values() for m in models_in(f.annotation))}
    return part.get("title") != "Facts" and any(ref.rpartition("/")[2] in models for ref in refs(part))


def test_data_of_a_section_is_described_for_every_category() -> None:
    rules = schema_of("throughgate.client.changed.v1")["$defs"]["Section"]["allOf"]
    assert {rule["if"]["properties"]["category"]["const"] for rule in rules} == {
        category.value for category in Category
    }


def test_readers_of_what_leaves_meet_no_closed_object_or_enumeration() -> None:
    for name, event in EVENTS.items():
        if event.direction == "outgoing":
            text = json.dumps(schema_of(name))
            assert '"additionalProperties": false' not in text
            assert '"enum"' not in text
            assert "clientversion" not in text


def test_no_event_holds_a_float() -> None:
    """The door hashes its records as they are (`contracts.merkle.write`): a float is spelled otherwise elsewhere."""

    def types(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = node.get("type")
            here = {own} if isinstance(own, str) else set()
            return here.union(*(types(child) for child in node.values()))
        return set().union(*(types(child) for child in node)) if isinstance(node, list) else set()

    for name, event in make.event_types().items():
        assert "number" not in types(make.event_schema(event)), name
