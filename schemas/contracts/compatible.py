"""Which change of a schema breaks somebody who built against the released one.

Records of both versions stand side by side in a topic, and the door, the services and the partners are
never updated at one moment. So:

- **incoming** (others write, we read): whatever was accepted is still accepted. No property removed, for an
  unknown one is refused; none newly required; no type, enumeration, form or limit narrowed.
- **outgoing** (we write, others read): old readers read new records, new readers read old ones. What is
  there keeps its type, form, values and whether it is always there; only properties that may be absent are
  added. Enumerations in what leaves are open (`x-extensible-enum`): values are added but never removed, and
  a reader skips one that it does not know. Our own services read closed enumerations, so they are deployed
  before the door writes a new value.

A change that breaks is published as a new event type (`.v2`) beside the old one.
"""

from dataclasses import dataclass
from typing import Any, Literal

Schema = dict[str, Any]
Direction = Literal["incoming", "outgoing"]

_LOWER = ("minLength", "minItems", "minimum", "exclusiveMinimum")
_UPPER = ("maxLength", "maxItems", "maximum", "exclusiveMaximum")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a schema says of one place of an event."""

    types: frozenset[str]
    values: frozenset[str] | None
    """The only values (`enum`, `const`); None where any value is taken."""
    open_values: frozenset[str]
    form: tuple[str | None, str | None]
    """`pattern` and `format`."""
    limits: tuple[tuple[str, float], ...]
    required: bool
    holder: str
    """The place that holds this one."""


def breaks(old: Schema, new: Schema, direction: Direction) -> list[str]:
    """One sentence for each way in which `new` breaks somebody who built against `old`."""
    before, after = shapes(old), shapes(new)
    compare = _incoming if direction == "incoming" else _outgoing
    found = [f"{place} is removed" for place, shape in before.items() if place not in after and shape.holder in after]
    for place, shape in after.items():
        if place in before:
            found += [f"{place} {what}" for what in compare(before[place], shape)]
        elif shape.required and shape.holder in before:
            found.append(f"{place} is new and required")
    return found


def shapes(schema: Schema) -> dict[str, Shape]:
    """Every place of an event and what `schema` says of it; `{case}` is one case of a union."""
    found: dict[str, Shape] = {}
    _walk(schema, schema, "event", "", True, found)
    return found


def _walk(root: Schema, node: Schema, place: str, holder: str, required: bool, found: dict[str, Shape]) -> None:
    node = _resolve(root, node)
    union: list[Schema] = node.get("anyOf") or node.get("oneOf") or []
    cases = [_resolve(root, case) for case in union]
    nullable = any(case.get("type") == "null" for case in cases)
    cases = [case for case in cases if case.get("type") != "null"]
    if len(cases) == 1:
        node, cases = {**node, **cases[0]}, []
    found[place] = _shape(node, nullable, required, holder)
    for case in cases:
        _walk(root, case, f"{place}{{{_name(case)}}}", place, False, found)
    for rule in node.get("allOf", []):
        when = "".join(str(p["const"]) for p in rule["if"]["properties"].values())
        for name, value in rule["then"]["properties"].items():
            _walk(root, value, f"{place}{{{when}}}.{name}", place, name in node.get("required", ()), found)
    for name, value in node.get("properties", {}).items():
        _walk(root, value, f"{place}.{name}", place, name in node.get("required", ()), found)
    if "items" in node:
        _walk(root, node["items"], f"{place}[]", place, False, found)


def _resolve(root: Schema, node: Schema) -> Schema:
    if "$ref" not in node:
        return node
    target: Schema = root["$defs"][node["$ref"].removeprefix("#/$defs/")]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _name(case: Schema) -> str:
    return str(case.get("properties", {}).get("type", {}).get("const") or case.get("title") or case.get("type"))


def _shape(node: Schema, nullable: bool, required: bool, holder: str) -> Shape:
    kind = node.get("type", [])
    types = {kind} if isinstance(kind, str) else set(kind)
    values = [node["const"]] if "const" in node else node.get("enum")
    return Shape(
        frozenset(types | {"null"} if nullable else types),
        None if values is None else frozenset(map(str, values)),
        frozenset(node.get("x-extensible-enum", ())),
        (node.get("pattern"), node.get("format")),
        tuple((key, node[key]) for key in (*_LOWER, *_UPPER) if key in node),
        required,
        holder,
    )


def _incoming(old: Shape, new: Shape) -> list[str]:
    found = []
    if new.types and not old.types <= new.types:
        found.append("no longer takes a type that it took")
    if new.values is not None and (old.values is None or not old.values <= new.values):
        found.append("no longer takes a value that it took")
    if any(mine is not None and mine != theirs for theirs, mine in zip(old.form, new.form, strict=True)):
        found.append("asks for another form")
    before = dict(old.limits)
    for key, limit in new.limits:
        if key not in before or (limit > before[key] if key in _LOWER else limit < before[key]):
            found.append(f"has a narrower {key}")
    if new.required and not old.required:
        found.append("is newly required")
    return found


def _outgoing(old: Shape, new: Shape) -> list[str]:
    found = []
    if new.types != old.types:
        found.append("has another type")
    if new.values != old.values or not old.open_values <= new.open_values:
        found.append("has other values")
    if new.form != old.form or new.limits != old.limits:
        found.append("has another form or limit")
    if new.required != old.required:
        found.append("is no longer always there" if old.required else "is newly required")
    return found
