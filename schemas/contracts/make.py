"""Writes what is made from the models: event schemas, AsyncAPI, OpenAPI, the pages of all events and all settings.

    python -m contracts.make            write the files
    python -m contracts.make --check    compare only; exit 1 with one sentence that names what differs
    python -m contracts.make --release  take the event schemas as released too, unless that breaks somebody

`schemas/released` holds what others have built against; tests refuse a change that breaks them
(`contracts.compatible`).
"""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import BaseModel

from contracts import asyncapi, compatible, settings_page
from contracts.facts import Facts
from contracts.fields import SchemaWithCategories
from contracts.intake import IntakeEvent
from contracts.leaving import ClearedEvent, LedgerSealed, PartnerEvent
from contracts.replies import Reply
from contracts.requests import ServiceRequest
from contracts.topics import TopicFile, read_topics
from contracts.vocabulary import SERVICES

SCHEMAS = Path(__file__).resolve().parents[1]
REFERENCE = SCHEMAS.parent / "docs" / "reference"

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class EventType:
    """One event type in one version, and whether we read it from others or write it to others."""

    name: str
    model: type[BaseModel]
    direction: compatible.Direction

    @property
    def purpose(self) -> str:
        """What it is for: the sentence of the model's docstring."""
        sentence = " ".join((self.model.__doc__ or "").partition("`: ")[2].split())
        return sentence[:1].upper() + sentence[1:]


def event_types() -> dict[str, EventType]:
    """Every event type by name, in the order of the models."""
    unions: tuple[tuple[Any, compatible.Direction], ...] = (
        (IntakeEvent, "incoming"),
        (Reply, "outgoing"),
        (PartnerEvent, "outgoing"),
        (ClearedEvent, "outgoing"),
        (ServiceRequest, "incoming"),
        (LedgerSealed, "outgoing"),
    )
    found: dict[str, EventType] = {}
    for union, direction in unions:
        for model in get_args(union) or (union,):
            (name,) = get_args(model.model_fields["type"].annotation)
            found[name] = EventType(name, model, direction)
    return found


def event_schema(event: EventType) -> Schema:
    """The JSON Schema of one event type, in which every property says its category.

    Raises:
        LookupError: a field says none (see `contracts.fields`).
    """
    schema = event.model.model_json_schema(mode="validation", schema_generator=SchemaWithCategories)
    schema["description"] = event.purpose
    if event.direction == "outgoing":
        if "Section" in schema.get("$defs", {}):
            _describe_sections(schema)
        del schema["properties"]["clientversion"]
        _open(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:throughgate:schema:{event.name}",
        **schema,
    }


def _describe_sections(schema: Schema) -> None:
    """What a section holds follows from its category; an unknown category has data of any shape."""
    facts = Facts.model_json_schema(mode="validation", schema_generator=SchemaWithCategories)
    rules = []
    for key, prop in facts["properties"].items():
        (ref,) = (case for case in prop["anyOf"] if "$ref" in case)
        rules.append(
            {
                "if": {"properties": {"category": {"const": key}}, "required": ["category"]},
                "then": {"properties": {"data": {**ref, "x-category": prop["x-category"]}}},
            }
        )
    schema["$defs"] |= facts["$defs"]
    schema["$defs"]["Section"]["allOf"] = rules


def _open(node: Any) -> None:
    """Readers of what leaves take fields and values that they do not know yet."""
    if isinstance(node, dict):
        if node.get("additionalProperties") is False:
            del node["additionalProperties"]
        if "enum" in node:
            node["x-extensible-enum"] = node.pop("enum")
        for value in node.values():
            _open(value)
    elif isinstance(node, list):
        for value in node:
            _open(value)


def openapi(service: str) -> Schema:
    """The service's OpenAPI document."""
    create_app = importlib.import_module(f"{service}.main").create_app
    settings = next(iter(get_type_hints(create_app).values()))
    urls = {
        name: "postgresql+asyncpg://nobody@localhost/nothing"
        for name in settings.model_fields
        if name.endswith("database_url")
    }
    document: Schema = create_app(settings(**urls)).openapi()
    return document


def events_page(events: dict[str, EventType], topics: list[TopicFile]) -> str:
    """`docs/reference/events.md`"""
    lines = [
        "# Events",
        "",
        "Made from `schemas/contracts` and `schemas/topics` by `python -m contracts.make`; not by hand.",
        "",
        "Every event is a CloudEvents 1.0 record in structured JSON. Schemas are in `schemas/events`,",
        "examples in `schemas/examples`; the topics and their rules are in `schemas/asyncapi.yaml`.",
        "",
        "| type | written by | read by | topic | purpose |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, event in events.items():
        on = [topic for topic in topics if name in topic.messages]
        cells = (
            f"[`{name}`](../../schemas/events/{name}.json)",
            _listed(topic.writer for topic in on),
            _listed(topic.reader for topic in on),
            _listed(f"`{topic.name}`" for topic in on),
            event.purpose,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _listed(values: Iterator[str]) -> str:
    return ", ".join(dict.fromkeys(values))


def made() -> dict[Path, str]:
    """Every made file with its text."""
    events, topics = event_types(), read_topics(SCHEMAS / "topics")
    files = {SCHEMAS / "events" / f"{name}.json": _json(event_schema(event)) for name, event in events.items()}
    purposes = {name: event.purpose for name, event in events.items()}
    document = asyncapi.document(topics, purposes, (SCHEMAS / "asyncapi-intro.md").read_text("utf-8"))
    files[SCHEMAS / "asyncapi.yaml"] = "# Made by python -m contracts.make; do not edit by hand.\n" + _yaml(document)
    files[REFERENCE / "events.md"] = events_page(events, topics)
    files |= {SCHEMAS / "openapi" / f"{service}.json": _json(openapi(service)) for service in SERVICES}
    files[REFERENCE / "settings.md"] = settings_page.page(SERVICES)
    return files


def differing(files: dict[Path, str]) -> list[Path]:
    """Files that are not as made, and event schemas that no model makes any more."""
    differ = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    return differ + [path for path in sorted((SCHEMAS / "events").glob("*.json")) if path not in files]


def broken() -> list[str]:
    """One sentence for each way in which the models break somebody who built against `schemas/released`."""
    events, found = event_types(), []
    for path in sorted((SCHEMAS / "released").glob("*.json")):
        event = events.get(path.stem)
        if event is None:
            found.append(f"{path.stem}: the event is removed")
        else:
            old = json.loads(path.read_text("utf-8"))
            found += [f"{path.stem}: {what}" for what in compatible.breaks(old, event_schema(event), event.direction)]
    return found


def _json(document: Schema) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def _yaml(document: Schema) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m contracts.make", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when a file differs")
    parser.add_argument("--release", action="store_true", help="take the event schemas as released, if nobody breaks")
    arguments = parser.parse_args()
    files = made()
    differ = differing(files)
    if arguments.check:
        names = ", ".join(str(path.relative_to(SCHEMAS.parent)) for path in differ)
        if differ:
            print(f"Not as made from the models: {names}; run python -m contracts.make and commit the result.")
        return 1 if differ else 0
    if arguments.release and (found := broken()):
        print("Not released, for it breaks what others built against the released schemas:", *found, sep="\n  ")
        print("Publish it as a new type (.v2), or, if nobody uses it yet, delete its file in schemas/released first.")
        return 1
    for path in differ:
        if path in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], "utf-8")
        else:
            path.unlink()
    if arguments.release:
        released = SCHEMAS / "released"
        released.mkdir(exist_ok=True)
        for path in sorted((SCHEMAS / "events").glob("*.json")):
            (released / path.name).write_bytes(path.read_bytes())
    print(f"{len(files)} files, {len(differ)} of them changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
