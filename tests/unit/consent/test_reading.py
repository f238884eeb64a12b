"""Reading what arrives: every rejection, what it may quote (nothing), and whom an unreadable event may mean."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.service.reading import CLOCK_SKEW, Arrival, id_of, identifiers_in, is_stopping, read, rejected
from contracts import make
from contracts.intake import INTAKE, PATTERNS
from contracts.vocabulary import IdentifierType
from servicekit.app import MAX_BODY
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
    "one byte too many": ("too-large", 413, padded(MAX_BODY + 1)),
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
    "as large as may be": padded(MAX_BODY),
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


# --- whom an unreadable event may mean ------------------------------------------------------------

NUMBERS = st.sampled_from(list(PATTERNS)).flatmap(
    lambda type: st.tuples(st.just(type), st.from_regex(PATTERNS[type], fullmatch=True))
)
"""A type and a number of it."""


def key(type: IdentifierType, value: str) -> tuple[str, str, str]:
    issued = type in (IdentifierType.CASE, IdentifierType.THROUGHGATE)
    return type.value, AGENCY if issued else "", value


def spelled_as(how: str, character: str) -> str:
    if how == "slash" and character == "/":
        return "\\/"
    return f"\\u{ord(character):04{how}}" if how in "xX" else json.dumps(character)[1:-1]


def escaped(text: str, choose: Callable[[], str]) -> str:
    """JSON of a text, each character in a spelling that JSON allows."""
    return '"' + "".join(spelled_as(choose(), c) for c in text) + '"'


SPELLINGS = ["plain", "x", "X", "slash"]


@settings(max_examples=400)
@given(st.data(), NUMBERS)
def test_a_number_is_found_however_it_is_escaped(data: st.DataObject, number: tuple[IdentifierType, str]) -> None:
    type, value = number
    spelled = escaped(value, lambda: data.draw(st.sampled_from(SPELLINGS)))
    shape = data.draw(
        st.sampled_from(
            ['{"data": {"identifiers": [{"type": "%s", "value": %s}]}, "n": 1}', '{"type": "%s", "value": %s}']
        )
    )
    assert key(type, value) in identifiers_in((shape % (type.value, spelled)).encode(), AGENCY)


@settings(max_examples=300)
@given(st.data(), NUMBERS)
def test_a_number_is_found_in_what_was_cut_off_behind_it(
    data: st.DataObject, number: tuple[IdentifierType, str]
) -> None:
    type, value = number
    spelled = escaped(value, lambda: data.draw(st.sampled_from(["plain", "slash"])))
    whole = f'{{"data": {{"identifiers": [{{"type": "{type.value}", "value": {spelled}}}]}}, "more": "things"}}'
    end = whole.index(spelled) + len(spelled)
    raw = whole[: data.draw(st.integers(end, len(whole) - 1))].encode() + data.draw(st.sampled_from([b"", b"\xff"]))
    assert key(type, value) in identifiers_in(raw, AGENCY)


@pytest.mark.parametrize("spelled", ["\\u0041" + NUMBER[1:], "A123\\u0034BC"])
def test_a_number_is_found_when_it_is_escaped_and_cut(spelled: str) -> None:
    raw = b'{"type": "throughgate.consent.withdrawn.v1", "data": {"identifiers": [{"type": "NOMS", "value": "%s"}]'
    assert key(IdentifierType.NOMS, NUMBER) in identifiers_in(raw % spelled.encode(), AGENCY)


def test_an_nhs_number_is_found_when_it_was_sent_as_a_number() -> None:
    body = withdrawn(identifiers=[{"type": "NHS", "value": 9434765919}])
    assert key(IdentifierType.NHS, "9434765919") in identifiers_in(json.dumps(body).encode(), AGENCY)


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps(NUMBER).encode(),
        json.dumps({NUMBER: 1}).encode(),
        json.dumps({"note": f"the client ({NUMBER}) said no"}).encode(),
        json.dumps(json.dumps(withdrawn())).encode(),  # encoded twice
        f"withdrawn: {NUMBER}.".encode(),
        json.dumps({"note": NUMBER}).encode("utf-16"),
    ],
)
def test_a_number_is_found_in_an_odd_place(raw: bytes) -> None:
    assert set(identifiers_in(raw, AGENCY)) == {("NOMS", "", NUMBER)}


@pytest.mark.parametrize("text", ["XA1234BC", "A1234BCX", "A1234B", "0A1234BC", "xa1234bc", "A 1234 BC and more"])
def test_a_part_of_a_longer_word_is_no_number(text: str) -> None:
    assert set(identifiers_in(json.dumps({"note": text}).encode(), AGENCY)) == set()
    assert set(identifiers_in(f'{{"note": "{text}'.encode(), AGENCY)) == set()


REFERENCE = "0f8fad5b-d9cb-469f-a165-70867728950e"
IN_ANOTHER_FORM: dict[str, tuple[tuple[str, str, str], str | None, Any]] = {
    "small letters": (("NOMS", "", NUMBER), "NOMS", "a1234bc"),
    "blanks": (("NHS", "", "9434765919"), "NHS", "943 476 5919"),
    "hyphens": (("NHS", "", "9434765919"), "NHS", "943-476-5919"),
    "a blank at the end": (("CRN", "", "X123456"), "CRN", "X123456 "),
    "a blank that does not break, small letters": (("CRN", "", "X123456"), "CRN", "x\u00a0123456"),
    "the long dash": (("PNC", "", "2004/0712343H"), "PNC", "2004/0712343\u2013h"),
    "a court's number in small letters": (("CRO", "", "123456/04K"), "CRO", "123456/04k"),
    "a reference in capitals": (("THROUGHGATE", AGENCY, REFERENCE), "THROUGHGATE", REFERENCE.upper()),
    "a reference without hyphens": (("THROUGHGATE", AGENCY, REFERENCE), "THROUGHGATE", REFERENCE.replace("-", "")),
    "a reference as a URN": (("THROUGHGATE", AGENCY, REFERENCE), "THROUGHGATE", f"urn:uuid:{REFERENCE}"),
    "a case number with blanks": (("CASE", AGENCY, "hl-42/7"), "CASE", " hl-42 /7"),
    "a case number that is a number": (("CASE", AGENCY, "42"), "CASE", 42),
    "a known type in small letters": (("CASE", AGENCY, "hl-42"), "case", "hl-42"),
    "an unknown type": (("NOMS", "", NUMBER), "PRISON-NUMBER", "a1234bc"),
    "an unknown type of an agency's own": (("CASE", AGENCY, "hl-42"), "OASYS", "hl-42"),
    "no type": (("CASE", AGENCY, "hl-42"), None, "hl-42"),
    "the wrong type": (("CRN", "", "X123456"), "NOMS", "x 123456"),
}


@pytest.mark.parametrize("how", IN_ANOTHER_FORM)
def test_a_number_is_found_in_another_form_than_the_contracts(how: str) -> None:
    key, type, value = IN_ANOTHER_FORM[how]
    whole = json.dumps(withdrawn(identifiers=[{"type": type, "value": value}]), ensure_ascii=False).encode()
    assert key in identifiers_in(whole, AGENCY)
    if isinstance(value, str):  # unquoted numbers do not stand out in what is no JSON
        assert key in identifiers_in(whole[:-9], AGENCY), "also in what was cut off behind it"


def test_under_an_unknown_type_a_number_is_looked_for_among_all_that_it_fits() -> None:
    body = withdrawn(identifiers=[{"type": "PRISON", "value": NUMBER}])
    assert set(identifiers_in(json.dumps(body).encode(), AGENCY)) == {("NOMS", "", NUMBER), ("CASE", AGENCY, NUMBER)}


@settings(max_examples=300)
@given(st.data(), NUMBERS, st.binary(max_size=6))
def test_what_is_found_can_be_stored(data: st.DataObject, number: tuple[IdentifierType, str], junk: bytes) -> None:
    """PostgreSQL takes no NUL and a UUID for a reference: a number of another shape would stop intake for everyone."""
    value = number[1].encode()
    at = data.draw(st.integers(0, len(value)))
    raw = b'{"type": "%s", "value": "%s"' % (number[0].value.encode(), value[:at] + junk + value[at:])
    for cut in (raw, raw + b"}"):
        for type, _, found in identifiers_in(cut, AGENCY):
            assert re.fullmatch(PATTERNS[IdentifierType(type)], found)


STOPPING = {
    "plain": json.dumps(withdrawn()).encode(),
    "cut off": json.dumps(withdrawn()).encode()[:-30],
    "escaped": json.dumps(withdrawn()).replace("withdrawn.v1", "\\u0077ithdrawn.v1").encode(),
    "escaped and cut": json.dumps(withdrawn()).replace("withdrawn.v1", "\\u0077ithdrawn.v1").encode()[:-3],
    "in capitals": json.dumps(withdrawn() | {"type": "THROUGHGATE.Consent.Withdrawn.v1"}).encode(),
    "another version": json.dumps(withdrawn()).replace("withdrawn.v1", "withdrawn.v9").encode(),
    "not UTF-8": json.dumps(withdrawn()).encode() + b"\xff",
    "UTF-16": json.dumps(withdrawn()).encode("utf-16"),
}


@pytest.mark.parametrize("how", STOPPING)
def test_what_was_to_stop_is_seen_to_stop(how: str) -> None:
    assert is_stopping(STOPPING[how])


@pytest.mark.parametrize("body", [event(), granted()])
def test_what_was_not_to_stop_does_not(body: dict[str, Any]) -> None:
    assert not is_stopping(json.dumps(body).encode())
    assert not is_stopping(json.dumps(body).encode()[:-5])


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


def test_a_cut_off_event_stops_only_when_it_says_so() -> None:
    cut_off = rb'{"type":"throughgate.client.recorded.v1","data":{"facts":{"identity":{"givenName":"Ren\u00e9'
    assert not is_stopping(cut_off), "an escape alone is no withdrawal"
    assert is_stopping(rb'{"type":"throughgate.consent.\u0077ithdrawn.v1","data":{"identifiers":[{"ty')
