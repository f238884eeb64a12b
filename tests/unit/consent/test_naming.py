"""Whom an event means that cannot be read, and whether it was to stop sharing."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.repository.clients import Identifier
from consent.service.naming import identifiers_in, is_stopping
from contracts.intake import PATTERNS
from contracts.vocabulary import IdentifierType

AGENCY = "hmp-leeds"
NUMBER = "A1234BC"
NOMS = {"type": "NOMS", "value": NUMBER}


def event(kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": "event-1",
        "source": f"/agencies/{AGENCY}",
        "type": f"throughgate.{kind}.v1",
        "time": "2026-06-01T12:00:00+00:00",
        "data": data,
    }


def withdrawn(**more: Any) -> dict[str, Any]:
    data = {"identifiers": [NOMS], "withdrawnAt": "2026-06-01T12:00:00+00:00", "scope": "everything"}
    return event("consent.withdrawn", data | more)


NUMBERS = st.sampled_from(list(PATTERNS)).flatmap(
    lambda type: st.tuples(st.just(type), st.from_regex(PATTERNS[type], fullmatch=True))
)
"""A type and a number of it."""


def key(type: IdentifierType, value: str) -> Identifier:
    issued = type in (IdentifierType.CASE, IdentifierType.THROUGHGATE)
    return Identifier(type.value, AGENCY if issued else "", value)


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
    number, type, value = IN_ANOTHER_FORM[how]
    key = Identifier(*number)
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


@pytest.mark.parametrize(
    "body",
    [
        event("client.recorded", {"identifiers": [NOMS], "facts": {"identity": {"givenName": "Robin"}}}),
        event("consent.granted", {"identifiers": [NOMS], "form": "F1", "givenAt": "2026-06-01T12:00:00+00:00"}),
    ],
)
def test_what_was_not_to_stop_does_not(body: dict[str, Any]) -> None:
    assert not is_stopping(json.dumps(body).encode())
    assert not is_stopping(json.dumps(body).encode()[:-5])


def test_a_cut_off_event_stops_only_when_it_says_so() -> None:
    cut_off = rb'{"type":"throughgate.client.recorded.v1","data":{"facts":{"identity":{"givenName":"Ren\u00e9'
    assert not is_stopping(cut_off), "an escape alone is no withdrawal"
    assert is_stopping(rb'{"type":"throughgate.consent.\u0077ithdrawn.v1","data":{"identifiers":[{"ty')
