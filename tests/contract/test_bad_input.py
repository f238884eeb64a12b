"""Whatever a case system sends is read, or refused with a sentence that says where and quotes nothing."""

import ast
import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped, unused-ignore]
from pydantic import AwareDatetime, BeforeValidator, ValidationError

from contracts import intake, make
from contracts.agreements import AgreementText
from contracts.facts import Facts
from contracts.fields import models_in
from contracts.intake import INTAKE, read
from contracts.vocabulary import Category
from matching.api import VolunteerBody
from referral.api import ServiceBody
from servicekit.problems import where

EXAMPLES = make.SCHEMAS / "examples"
INCOMING = sorted(INTAKE.json_schema()["discriminator"]["mapping"])
RECORDED, GRANTED = "throughgate.client.recorded.v1", "throughgate.consent.granted.v1"
WITHDRAWN, ANSWERED = "throughgate.consent.withdrawn.v1", "throughgate.referral.answered.v1"
REFUSED, CONFIRMED = "throughgate.consent.refused.v1", "throughgate.retraction.confirmed.v1"
IMPOSED, LIFTED = "throughgate.restriction.imposed.v1", "throughgate.restriction.lifted.v1"
INVOKED, GATEWAY_ENDED = "throughgate.gateway.invoked.v1", "throughgate.gateway.ended.v1"
AUTHORISED, OVERRIDE_ENDED = "throughgate.override.authorised.v1", "throughgate.override.ended.v1"
REVIEWED, INTERPRETED = "throughgate.override.reviewed.v1", "throughgate.consent.granted.v1.with-interpreter"
MARKER = "Zq7Marker"


def example(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text())
    return event


def refusal(event: bytes) -> str:
    with pytest.raises(ValidationError) as caught:
        read(event)
    return where(caught.value)


RAW = {
    "nothing": b"",
    "not JSON": b"Dear colleague, " + MARKER.encode(),
    "cut off": b'{"specversion": "1.0", "id": "' + MARKER.encode(),
    "not UTF-8": b'{"id": "\xff\xfe"}',
    "half a surrogate pair": b'{"type": "\\ud800' + MARKER.encode() + b'"}',
    "too deep": b"[" * 100_000,
    "not an object": f'["{MARKER}"]'.encode(),
    "null": b"null",
    "a number too long": b'{"type": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"type": NaN}',
}


@pytest.mark.parametrize("name", RAW)
def test_what_is_not_an_event_is_refused(name: str) -> None:
    sentence = refusal(RAW[name])
    assert sentence.startswith("the event ")
    assert MARKER not in sentence


def put(value: Any, *path: str | int) -> Callable[[Any], None]:
    def change(event: Any) -> None:
        for part in path[:-1]:
            event = event[part]
        event[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Any], None]:
    def change(event: Any) -> None:
        for part in path[:-1]:
            event = event[part]
        del event[path[-1]]

    return change


ID, FACTS = ("data", "identifiers"), ("data", "facts")
BAD: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "unknown type": (RECORDED, put(f"throughgate.{MARKER}.v1", "type"), ""),
    "type of what leaves": (RECORDED, put("throughgate.client.withdrawn.v1", "type"), ""),
    "no type": (RECORDED, drop("type"), ""),
    "type is no text": (RECORDED, put([MARKER], "type"), ""),
    "other specversion": (RECORDED, put("0.3", "specversion"), "specversion"),
    "no id": (RECORDED, drop("id"), "id is missing"),
    "empty id": (RECORDED, put("", "id"), "id"),
    "id too long": (RECORDED, put(MARKER * 40, "id"), "id"),
    "id is a number": (RECORDED, put(17, "id"), "id"),
    "no data": (RECORDED, drop("data"), "data is missing"),
    "data is text": (RECORDED, put(MARKER, "data"), "data"),
    "naive time": (RECORDED, put("2025-03-03T09:12:44", "time"), "time"),
    "a date for a time": (RECORDED, put("2025-03-03", "time"), "time"),
    "a number for a time": (RECORDED, put(1_741_000_000, "time"), "time"),
    "time in words": (RECORDED, put(f"Fri Jun 14 {MARKER}", "time"), "time"),
    "two offsets": (RECORDED, put("2025-03-03T09:12:44Z+01:00", "time"), "time"),
    "clientversion below zero": (RECORDED, put(-1, "clientversion"), "clientversion"),
    "clientversion as text": (RECORDED, put("7", "clientversion"), "clientversion"),
    "missing identifiers": (RECORDED, drop(*ID), "data.identifiers is missing"),
    "no identifier": (RECORDED, put([], *ID), "data.identifiers"),
    "too many identifiers": (
        RECORDED,
        put([{"type": "CASE", "value": MARKER}] * 11, *ID),
        "data.identifiers",
    ),
    "identifier without type": (RECORDED, drop(*ID, 0, "type"), "data.identifiers.0"),
    "unknown identifier type": (RECORDED, put(MARKER, *ID, 0, "type"), "data.identifiers.0"),
    "NOMS number shape": (RECORDED, put("1234ABC", *ID, 0, "value"), "data.identifiers.0.NOMS.value"),
    "NOMS number in lower case": (RECORDED, put("a1234bc", *ID, 0, "value"), "data.identifiers.0.NOMS.value"),
    "NOMS number with digits of another script": (
        RECORDED,
        put("A١٢٣٤BC", *ID, 0, "value"),
        "identifiers.0.NOMS.value",
    ),
    "NOMS number with a line end": (
        RECORDED,
        put("A1234BC\n", *ID, 0, "value"),
        "data.identifiers.0.NOMS.value",
    ),
    "CRN as NOMS number": (RECORDED, put("X123456", *ID, 0, "value"), "data.identifiers.0.NOMS.value"),
    "unknown field": (RECORDED, put(MARKER, "data", MARKER), "data has a field that is not in the contract"),
    "unknown category": (RECORDED, put({MARKER: MARKER}, *FACTS, MARKER), "data.facts has a field"),
    "unknown field of a category": (
        RECORDED,
        put(MARKER, *FACTS, "identity", MARKER),
        "data.facts.identity has a field",
    ),
    "Python name of a field": (
        RECORDED,
        put({"given_name": MARKER, "family_name": MARKER}, *FACTS, "identity"),
        "identity",
    ),
    "Python name of a category": (
        RECORDED,
        put({"level": "soon"}, *FACTS, "needs_health"),
        "data.facts has a field",
    ),
    "empty facts": (RECORDED, put({}, *FACTS), "data"),
    "facts that are all null": (RECORDED, put({"identity": None}, *FACTS), "data"),
    "missing name": (
        RECORDED,
        drop(*FACTS, "identity", "familyName"),
        "data.facts.identity.familyName is missing",
    ),
    "empty name": (RECORDED, put("", *FACTS, "identity", "familyName"), "data.facts.identity.familyName"),
    "U+0000 in a name": (
        RECORDED,
        put(f"{MARKER}\0", *FACTS, "identity", "familyName"),
        "data.facts.identity.familyName",
    ),
    "text too long": (
        RECORDED,
        put(MARKER * 1000, *FACTS, "needs.accommodation", "summary"),
        "needs.accommodation.summary",
    ),
    "a time for a date": (
        RECORDED,
        put("1991-04-17T10:00:00Z", *FACTS, "identity", "dateOfBirth"),
        "dateOfBirth",
    ),
    "a date that is none": (RECORDED, put("1991-02-30", *FACTS, "identity", "dateOfBirth"), "dateOfBirth"),
    "unknown level": (
        RECORDED,
        put(MARKER, *FACTS, "needs.accommodation", "level"),
        "needs.accommodation.level",
    ),
    "a word for a truth": (
        RECORDED,
        put("yes", *FACTS, "equality", "interpreterNeeded"),
        "equality.interpreterNeeded",
    ),
    "name of a prison": (
        RECORDED,
        put("HMP Leeds", *FACTS, "custody-and-release", "prison"),
        "custody-and-release.prison",
    ),
    "consent without purposes": (GRANTED, drop("data", "purposes"), "data.purposes is missing"),
    "consent for no purpose": (GRANTED, put([], "data", "purposes"), "data.purposes"),
    "consent for everything": (GRANTED, put(["*"], "data", "purposes"), "data.purposes.0"),
    "consent for no category": (GRANTED, put([], "data", "categories"), "data.categories"),
    "consent for a pathway group": (GRANTED, put(["needs"], "data", "categories"), "data.categories.0"),
    "consent for nobody": (GRANTED, put([], "data", "recipients"), "data.recipients"),
    "a recipient that is nobody": (GRANTED, put([{}], "data", "recipients"), "data.recipients.0"),
    "a kind in no area": (GRANTED, put([{"kind": "vcs"}], "data", "recipients"), "data.recipients.0"),
    "an agency and a kind": (
        GRANTED,
        put([{"agency": "a-b", "kind": "vcs"}], "data", "recipients"),
        "data.recipients.0",
    ),
    "an agency in an area": (
        GRANTED,
        put([{"agency": "a-b", "area": "leeds"}], "data", "recipients"),
        "data.recipients.0",
    ),
    "agency by its name": (
        GRANTED,
        put([{"agency": "Harbour Housing"}], "data", "recipients"),
        "data.recipients.0.agency",
    ),
    "consent without a form": (GRANTED, drop("data", "form"), "data.form is missing"),
    "consent without how": (GRANTED, drop("data", "how"), "data.how is missing"),
    "consent at a naive time": (GRANTED, put("2025-03-03T09:40:00", "data", "givenAt"), "data.givenAt"),
    "consent before any time": (GRANTED, put("0001-01-01T00:00:00+14:00", "data", "givenAt"), "data.givenAt"),
    "consent after all time": (
        GRANTED,
        put("9999-12-31T23:59:59-14:00", "data", "validUntil"),
        "data.validUntil",
    ),
    "consent that ends before it is given": (
        GRANTED,
        put("2025-03-03T09:39:59Z", "data", "validUntil"),
        "data",
    ),
    "withdrawal without scope": (WITHDRAWN, drop("data", "scope"), "data.scope is missing"),
    "withdrawal of everything and of some": (WITHDRAWN, put("everything", "data", "scope"), "data"),
    "withdrawal of nothing": (
        WITHDRAWN,
        lambda event: event["data"].update(scope="listed", purposes=[], recipients=[], categories=[]),
        "data",
    ),
    "a language by its name": (GRANTED, put("Polish", "data", "how", "language"), "data.how.language"),
    "refusal without scope": (REFUSED, drop("data", "scope"), "data.scope is missing"),
    "refusal without time": (REFUSED, drop("data", "refusedAt"), "data.refusedAt is missing"),
    "refusal at the time of a withdrawal": (
        REFUSED,
        put("2025-03-10T11:15:00Z", "data", "withdrawnAt"),
        "data has a field",
    ),
    "refusal with a reason": (REFUSED, put(MARKER, "data", "reason"), "data has a field"),
    "restriction without id": (IMPOSED, drop("data", "restriction"), "data.restriction is missing"),
    "restriction named like a person": (
        IMPOSED,
        put(f"{MARKER} Example", "data", "restriction"),
        "data.restriction does not have the form",
    ),
    "restriction of no kind": (IMPOSED, drop("data", "kind"), "data.kind is missing"),
    "restriction of an unknown kind": (IMPOSED, put(MARKER, "data", "kind"), "data.kind is not one of"),
    "restriction of an unknown category": (IMPOSED, put([MARKER], "data", "categories"), "data.categories.0"),
    "restriction on everybody by a star": (IMPOSED, put(["*"], "data", "recipients"), "data.recipients.0"),
    "restriction until a day": (IMPOSED, put("2025-09-30", "data", "until"), "data.until"),
    "restriction with an endless reason": (IMPOSED, put(MARKER * 300, "data", "reason"), "data.reason is too long"),
    "excluded practitioner of nobody": (
        f"{IMPOSED}.practitioner-exclusion",
        drop("data", "practitioners", 0, "agency"),
        "data.practitioners.0.agency is missing",
    ),
    "excluded practitioner by name": (
        f"{IMPOSED}.practitioner-exclusion",
        put(f"{MARKER} Example", "data", "practitioners", 0, "practitioner"),
        "data.practitioners.0.practitioner does not have the form",
    ),
    "lifting nothing": (LIFTED, drop("data", "restriction"), "data.restriction is missing"),
    "lifting for some recipients": (LIFTED, put([MARKER], "data", "recipients"), "data has a field"),
    "gateway by a basis that nobody invokes": (INVOKED, put("oma-2007-s14", "data", "basis"), "data.basis"),
    "gateway by consent": (INVOKED, put("consent", "data", "basis"), "data.basis is not one of"),
    "gateway to nobody": (INVOKED, put([], "data", "recipients"), "data.recipients needs at least one entry"),
    "gateway for every purpose": (INVOKED, put([], "data", "purposes"), "data.purposes needs at least one"),
    "gateway for every category": (INVOKED, put([], "data", "categories"), "data.categories needs at least one"),
    "gateway without end": (INVOKED, drop("data", "ends"), "data.ends is missing"),
    "gateway that never ends": (INVOKED, put(None, "data", "ends"), "data.ends"),
    "gateway without reason": (INVOKED, drop("data", "reason"), "data.reason is missing"),
    "gateway on nobody's authority": (INVOKED, put("", "data", "authorisedByRole"), "data.authorisedByRole is empty"),
    "ending no gateway": (GATEWAY_ENDED, drop("data", "gateway"), "data.gateway is missing"),
    "override to a kind of agency": (AUTHORISED, put([{"kind": "vcs"}], "data", "recipients"), "data.recipients.0"),
    "override to nobody": (AUTHORISED, put([], "data", "recipients"), "data.recipients needs at least one"),
    "override to very many": (AUTHORISED, put(["a-b"] * 11, "data", "recipients"), "data.recipients has too many"),
    "override for every category": (AUTHORISED, put([], "data", "categories"), "data.categories needs at least one"),
    "override for a whole record": (
        AUTHORISED,
        put([c.value for c in Category][:7], "data", "categories"),
        "data.categories has too many",
    ),
    "override for a referral": (AUTHORISED, put(["referral"], "data", "purposes"), "data.purposes.0"),
    "override for a referral too": (
        AUTHORISED,
        put(["public-protection", "referral"], "data", "purposes"),
        "data.purposes.1",
    ),
    "override by one person": (AUTHORISED, drop("data", "approvedBy"), "data.approvedBy is missing"),
    "override without review": (AUTHORISED, drop("data", "reviewBy"), "data.reviewBy is missing"),
    "override without reason": (AUTHORISED, put("", "data", "reason"), "data.reason is empty"),
    "ending no override": (OVERRIDE_ENDED, put("", "data", "override"), "data.override does not have the form"),
    "review by nobody": (REVIEWED, drop("data", "reviewedBy"), "data.reviewedBy is missing"),
    "review without outcome": (REVIEWED, put(MARKER, "data", "outcome"), "data.outcome is not one of"),
    "confirmation of no retraction": (CONFIRMED, drop("data", "retraction"), "data.retraction is missing"),
    "confirmation of a retraction by words": (CONFIRMED, put(MARKER, "data", "retraction"), "data.retraction"),
    "an answer that is none": (ANSWERED, put(MARKER, "data", "answer"), "data.answer"),
    "a referral by its name": (ANSWERED, put(MARKER, "data", "referral"), "data.referral"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_event_is_refused_with_the_place(name: str) -> None:
    kind, change, place = BAD[name]
    event = example(kind)
    read(json.dumps(event).encode())
    change(event)
    sentence = refusal(json.dumps(event).encode())
    assert place in sentence
    assert sentence
    assert MARKER not in sentence


DAYS = {
    ("identity", "dateOfBirth"): {"givenName": "X", "familyName": "Y"},
    ("custody-and-release", "releaseDate"): {},
    ("offence", "sentenceEnds"): {"mainOffence": "Z"},
    ("offence", "spentOn"): {"mainOffence": "Z"},
}


@pytest.mark.parametrize(("category", "field"), DAYS)
def test_a_day_that_only_stands_for_none_is_refused(category: str, field: str) -> None:
    def recorded(day: str) -> bytes:
        event = example(RECORDED)
        put({category: DAYS[category, field] | {field: day}}, *FACTS)(event)
        return json.dumps(event).encode()

    for day in ("1900-01-01", "2199-12-31"):
        read(recorded(day))
    for day in ("0001-01-01", "1899-12-31", "2200-01-01", "9999-12-31"):
        told = f"data.facts.{category}.{field} does not fit: a day is from 1900-01-01 to 2199-12-31"
        assert refusal(recorded(day)).startswith(told)


def test_every_day_among_the_facts_has_its_bounds() -> None:
    assert json.dumps(Facts.model_json_schema()).count('"format": "date"') == len(DAYS)
    assert json.dumps(Facts.model_json_schema()).count('"formatMinimum": "1900-01-01"') == len(DAYS)


def differently(**values: Any) -> Callable[[Any], None]:
    return lambda event: event["data"].update(values)


NOBODY_NAMED = "a recipient is an agency"
SCOPE = "scope 'listed' names purposes"
KIND = "limited-access may list allowed"
RULES: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "a recipient that is nobody": (GRANTED, put([{}], "data", "recipients"), NOBODY_NAMED),
    "refusal of a kind in no area": (REFUSED, put([{"kind": "vcs"}], "data", "recipients"), NOBODY_NAMED),
    "exclusion of the service of nobody": (IMPOSED, put([{"service": MARKER}], "data", "recipients"), NOBODY_NAMED),
    "a service of a kind": (
        GRANTED,
        put([{"kind": "vcs", "area": "leeds", "service": MARKER}], "data", "recipients"),
        NOBODY_NAMED,
    ),
    "assessed by nobody": (INTERPRETED, drop("data", "how", "capacityAssessedBy"), "capacityAssessedBy, a role"),
    "assumed by somebody": (INTERPRETED, put("assumed", "data", "how", "capacity"), "capacityAssessedBy, a role"),
    "ends as it begins": (
        INTERPRETED,
        differently(validUntil="2025-05-12T00:00:00+01:00"),
        "validUntil must lie after validFrom",
    ),
    "nothing recorded": (RECORDED, put({}, "data", "facts"), "facts must hold at least one category"),
    "refusal of everything and of some": (REFUSED, put("everything", "data", "scope"), SCOPE),
    "refusal of nothing": (REFUSED, differently(purposes=[], recipients=[], categories=[]), SCOPE),
    "limited access but not for": (f"{IMPOSED}.limited-access", differently(recipients=[{"agency": "a-b"}]), KIND),
    "exclusion of nobody": (IMPOSED, differently(recipients=[]), KIND),
    "exclusion of all but": (IMPOSED, differently(allowed=["a-b"]), KIND),
    "practitioners and purposes": (
        f"{IMPOSED}.practitioner-exclusion",
        differently(purposes=["referral"]),
        KIND,
    ),
    "no practitioner": (f"{IMPOSED}.practitioner-exclusion", differently(practitioners=[]), KIND),
    "safety of a victim but not from": (f"{IMPOSED}.victim-safety", differently(allowed=["a-b"]), KIND),
    "never a location to nobody": (f"{IMPOSED}.never-location", differently(recipients=[]), KIND),
    "never some location": (f"{IMPOSED}.never-location", differently(categories=["contact"]), KIND),
    "gateway that ends as it starts": (
        INVOKED,
        differently(ends="2025-03-25T12:00:00Z"),
        "ends must lie after starts",
    ),
    "approved by who authorised": (AUTHORISED, differently(approvedBy="staff-20418"), "two different people"),
    "approved by who authorised, in capitals": (
        AUTHORISED,
        differently(approvedBy="Staff-20418"),
        "two different people",
    ),
    "restricted until before it was said": (
        IMPOSED,
        differently(until="2025-03-14T09:00:00Z"),
        "data.until must lie after time",
    ),
    "override that ends before it starts": (
        AUTHORISED,
        differently(ends="2025-03-26T18:14:59Z"),
        "ends must lie after starts, by at most 28 days",
    ),
    "override of a month": (
        AUTHORISED,
        differently(ends="2025-04-23T18:15:01Z"),
        "ends must lie after starts, by at most 28 days",
    ),
    "review before it starts": (AUTHORISED, differently(reviewBy="2025-03-26T18:15:00Z"), "reviewBy must lie"),
    "review years later": (AUTHORISED, differently(reviewBy="2027-03-26T18:15:00Z"), "reviewBy must lie"),
}


@pytest.mark.parametrize("name", RULES)
def test_a_broken_rule_is_told_in_its_own_words(name: str) -> None:
    kind, change, told = RULES[name]
    event = example(kind)
    read(json.dumps(event).encode())
    change(event)
    sentence = refusal(json.dumps(event).encode())
    assert sentence.startswith(("data", "the event"))
    assert told in sentence.partition(" does not fit: ")[2]
    assert MARKER not in sentence


def test_every_rule_of_the_intake_models_is_broken_by_a_case() -> None:
    tree = ast.parse(Path(intake.__file__).read_text())
    rules = [
        str(node.exc.args[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.args[0], ast.Constant)
    ]
    assert len(rules) == sum(isinstance(node, ast.Raise) for node in ast.walk(tree)), "a rule's sentence quotes nothing"
    assert [rule for rule in rules if not any(told in rule for _, _, told in RULES.values())] == []


def test_the_longest_override_and_the_latest_review_are_taken() -> None:
    event = example(AUTHORISED)
    event["data"].update(ends="2025-04-23T18:15:00Z", reviewBy="2025-05-21T18:15:00Z")
    read(json.dumps(event).encode())


def test_the_widest_override_is_taken() -> None:
    event = example(AUTHORISED)
    event["data"]["categories"] = ["identity", "contact", "custody-and-release", "risk", "offence", "health"]
    read(json.dumps(event).encode())


def test_unknown_extension_attributes_of_the_envelope_are_ignored() -> None:
    event = example(RECORDED) | {"partitionkey": "x", "dataschema": "https://example.org/schema"}
    assert read(json.dumps(event).encode()) == read(json.dumps(example(RECORDED)).encode())


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


EVENTS = [
    json.loads(path.read_text()) for path in sorted(EXAMPLES.glob("*.json")) if path.stem.startswith(tuple(INCOMING))
]
ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        17,
        2**70,
        1.5,
        "",
        "\0",
        "yes",
        "7",
        "1700000000",
        "2025-01-01",
        "2025-01-01T00:00:00Z",
        [],
        {},
    ]
)
MARKED: st.SearchStrategy[Any] = st.sampled_from(
    [MARKER, f"{MARKER}\n", [MARKER], {MARKER: MARKER}, {"type": MARKER}, [{"type": MARKER, "value": MARKER}]]
)


@st.composite
def spoilt(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any]:
    """An example with something odd in up to three places: as a value, as a new field, as a field's name."""
    event: dict[str, Any] = copy.deepcopy(draw(st.sampled_from(EVENTS)))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(event))))
        holder: Any = event
        for part in path[:-1]:
            holder = holder[part]
        how = draw(st.sampled_from(["value", "longer", "field", "name"]))
        here = holder[path[-1]]
        if how == "field" and isinstance(here, dict):
            here[MARKER] = copy.deepcopy(draw(values))
        elif how == "name" and isinstance(holder, dict):
            holder[f"{path[-1]}{MARKER}"] = holder.pop(path[-1])
        elif how == "longer" and isinstance(here, str):
            holder[path[-1]] = here + MARKER
        else:
            holder[path[-1]] = copy.deepcopy(draw(values))
    return event


@given(spoilt(MARKED))
@settings(max_examples=300)
def test_no_value_of_the_event_is_in_the_sentence(event: dict[str, Any]) -> None:
    try:
        read(json.dumps(event).encode())
    except ValidationError as error:
        sentence = where(error)
        assert sentence
        assert MARKER not in sentence
        assert "Example" not in sentence  # the family name in the examples
        assert "A1234BC" not in sentence


@given(spoilt(ODD | MARKED))
@settings(max_examples=300)
def test_what_is_read_fits_the_schema_file(event: dict[str, Any]) -> None:
    """A publisher that checks against the file refuses nothing that the door would take."""
    try:
        read(json.dumps(event).encode())
    except ValidationError:
        return
    schema = json.loads((make.SCHEMAS / "events" / f"{event['type']}.json").read_text())
    errors = [error.message for error in Draft202012Validator(schema).iter_errors(event)]
    assert errors == []


def _whole_times(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a day or a time stands in an event."""
    if isinstance(node, dict | list):
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _whole_times(inner, (*at, key))
    elif isinstance(node, str) and re.match(r"\d{4}-\d{2}-\d{2}", node):
        yield at


@pytest.mark.parametrize("digits", ["20270101", "1798761600", "2027", "0", "-1", "1e9", 1798761600])
@pytest.mark.parametrize(
    "name", [p.stem for p in sorted(EXAMPLES.glob("*.json")) if p.stem.split(".v1")[0] + ".v1" in INCOMING]
)
def test_digits_alone_are_no_time(name: str, digits: str | int) -> None:
    """They would be read as seconds since 1970: a consent that is to begin next year would be open, a no long past."""
    event = example(name)
    for *path, last in _whole_times(event):
        changed = copy.deepcopy(event)
        inner: Any = changed
        for key in path:
            inner = inner[key]
        inner[last] = digits
        assert refusal(json.dumps(changed).encode()), (*path, last)


def _is_bare(annotation: Any, said: Sequence[Any] = ()) -> bool:
    """Whether a type holds a day or a time of which digits alone are one."""
    if get_origin(annotation) is Annotated:
        return _is_bare(get_args(annotation)[0], get_args(annotation)[1:])
    if annotation in (date, datetime, AwareDatetime):
        return not any(isinstance(one, BeforeValidator) for one in said)
    return any(_is_bare(part) for part in get_args(annotation))


@pytest.mark.parametrize("root", [intake.IntakeEvent, AgreementText, VolunteerBody, ServiceBody])
def test_every_day_and_time_that_comes_in_is_written_out(root: Any) -> None:
    models, waiting = set(), list(models_in(root))
    while waiting:
        if (model := waiting.pop()) not in models:
            models.add(model)
            waiting += [one for field in model.model_fields.values() for one in models_in(field.annotation)]
    bare = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if _is_bare(field.annotation, field.metadata)
    ]
    assert bare == []
