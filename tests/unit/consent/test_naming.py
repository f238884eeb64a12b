"""Whom an event means that cannot be read, and whether it was to stop sharing."""

import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consent.repository.clients import Identifier
from consent.service.naming import identifiers_in
from consent.service.stopping import is_stopping
from contracts.intake import PATTERNS, STOPPING_TYPES
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
    "wide letters and digits": (("NOMS", "", NUMBER), "NOMS", "".join(chr(ord(c) + 0xFEE0) for c in NUMBER)),
    "a case number in wide letters": (("CASE", AGENCY, "hl42"), "CASE", "\uff48\uff4c42"),
    "a police number without its century": (("PNC", "", "2004/0712343H"), "PNC", "04/0712343H"),
    "a police number without its zeros": (("PNC", "", "2004/0712343H"), "PNC", "2004/712343h"),
    "a police number without either": (("PNC", "", "1998/0000012H"), "PNC", "98/12H"),
    "a police number without either, with blanks": (("PNC", "", "2004/0712343H"), "PNC", " 04 / 712343 H"),
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


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_police_number_without_its_century_is_of_the_last_year_that_ended_so(ahead: int) -> None:
    year = datetime.now(UTC).year + ahead
    raw = json.dumps({"note": f"PNC/{year % 100:02}/712343H"}).encode()
    assert set(identifiers_in(raw, AGENCY)) == {("PNC", "", f"{year - 100 * ahead}/0712343H")}


@pytest.mark.parametrize("line", ["", "\n"])
def test_numbers_are_found_in_data_in_base64_and_before_all_others(line: str) -> None:
    data = b64encode(json.dumps(withdrawn()["data"]).encode()).decode()
    packed = {"subject": "X123456", "data_base64": data[:9] + line + data[9:], "to": "X123457"}
    for raw in (json.dumps(packed).encode(), json.dumps(packed).encode()[:-2]):
        assert next(identifiers_in(raw, AGENCY)) == ("NOMS", "", NUMBER)
    cut = json.dumps(packed).encode()[:-60]
    assert key(IdentifierType.NOMS, NUMBER) in identifiers_in(cut, AGENCY), "also in what was cut off behind it"


def test_those_of_an_event_without_its_envelope_come_before_all_others() -> None:
    raw = json.dumps({"note": "X123456", **withdrawn()["data"], "more": "X123457"}).encode()
    assert next(identifiers_in(raw, AGENCY)) == ("NOMS", "", NUMBER)


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


def without(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


RESTRICTED = {"identifiers": [NOMS], "restriction": "r-1", "kind": "limited-access"}
HEROIN = {"identifiers": [NOMS], "facts": {"risk": {"note": "withdrew from heroin, refused help, consent withdrawn"}}}
STOPPING = {
    "plain": json.dumps(withdrawn()).encode(),
    "cut off": json.dumps(withdrawn()).encode()[:-30],
    "escaped": json.dumps(withdrawn()).replace("withdrawn.v1", "\\u0077ithdrawn.v1").encode(),
    "escaped and cut": json.dumps(withdrawn()).replace("withdrawn.v1", "\\u0077ithdrawn.v1").encode()[:-3],
    "in capitals": json.dumps(withdrawn() | {"type": "THROUGHGATE.Consent.Withdrawn.v1"}).encode(),
    "another version": json.dumps(withdrawn()).replace("withdrawn.v1", "withdrawn.v9").encode(),
    "not UTF-8": json.dumps(withdrawn()).encode() + b"\xff",
    "UTF-16": json.dumps(withdrawn()).encode("utf-16"),
    "no type": json.dumps(without(withdrawn(), "type")).encode(),
    "no type, cut off": json.dumps(without(withdrawn(), "type")).encode()[:-30],
    "no type, UTF-16": json.dumps(without(withdrawn(), "type")).encode("utf-16"),
    "no envelope": json.dumps(withdrawn()["data"]).encode(),
    "no type, data in base64": json.dumps(
        {"data_base64": b64encode(json.dumps(withdrawn()["data"]).encode()).decode()}
    ).encode(),
    "an empty type": json.dumps(withdrawn() | {"type": ""}).encode(),
    "a wrong type": json.dumps(withdrawn() | {"type": "throughgate.client.said-no.v1"}).encode(),
    "a type of another name": json.dumps({"eventType": "CONSENT_REVOKED", "prisoner": NUMBER}).encode(),
    "a restriction without a type": json.dumps({"data": RESTRICTED}).encode(),
    "the end of a gateway without a type": json.dumps({"data": {"identifiers": [NOMS], "gateway": "g-1"}}).encode(),
    "fields in another spelling": json.dumps({"Identifiers": [NOMS], "withdrawn_at": "2026-06-01"}).encode(),
    "in a list": json.dumps([without(withdrawn(), "type")]).encode(),
    "encoded twice": json.dumps(json.dumps(withdrawn() | {"type": "consent.withdraw"})).encode(),
}


@pytest.mark.parametrize("how", STOPPING)
def test_what_was_to_stop_is_seen_to_stop(how: str) -> None:
    assert is_stopping(STOPPING[how])


MISSPELT = [
    *(type.removesuffix(".v1") for type in sorted(STOPPING_TYPES)),
    *(type.removeprefix("throughgate.") for type in sorted(STOPPING_TYPES)),
    *(type.removesuffix("ed.v1").removesuffix("n.v1") for type in sorted(STOPPING_TYPES)),
    *(type.title().replace(".", "") for type in sorted(STOPPING_TYPES)),
    *(type.replace(".", " . ") for type in sorted(STOPPING_TYPES)),
    *(type.replace(".", "/") for type in sorted(STOPPING_TYPES)),
    "throughgate.consent.revoked.v1",
    "consent.revoked",
    "throughgate.consent.withdrew.v1",
    "throughgate.client.restricted.v1",
    "throughgate.identity.unlink.v1",
    "throughgate.client.erased.v1",
    "\uff43onsent.withdrawn.v1",
]


@pytest.mark.parametrize("type", MISSPELT)
def test_a_type_that_is_not_spelt_to_the_letter_says_that_it_stops(type: str) -> None:
    assert is_stopping(json.dumps(event("x", {"identifiers": [NOMS]}) | {"type": type}).encode())
    assert is_stopping(b'{"identifiers": []}', type), "also in a header"
    assert is_stopping(f'{{"data": {{"x": 1}}, "type": "{type}", '.encode()), "also in what was cut off behind it"


@pytest.mark.parametrize(
    "body",
    [
        event("client.recorded", {"identifiers": [NOMS], "facts": {"identity": {"givenName": "Robin"}}}),
        event("consent.granted", {"identifiers": [NOMS], "form": "F1", "givenAt": "2026-06-01T12:00:00+00:00"}),
        event("client.recorded", HEROIN),
        event("client.recorded", HEROIN) | {"type": "Client.Recorded.v2"},
        event("client.recorded", HEROIN | {"withdrawnAt": "2026-06-01T12:00:00+00:00"}),
        event("restriction.lifted", {"identifiers": [NOMS], "restriction": "r-1"}),
        event("identity.unlinked", {"identifiers": [NOMS], "notSameAs": [NOMS], "reason": "consent withdrawn"}),
        without(event("client.recorded", HEROIN), "type"),
        without(event("restriction.lifted", {"identifiers": [NOMS], "restriction": "r-1"}), "type"),
        {"eventType": "approved-premises.application.withdrawn", "personReference": {"identifiers": [NOMS]}},
        {
            "type": "prison-offender-events.visitor.restriction.upserted",
            "additionalInformation": {"nomsNumber": NUMBER},
        },
        {"note": "consent.withdrawn"},
    ],
)
def test_what_was_not_to_stop_does_not(body: dict[str, Any]) -> None:
    assert not is_stopping(json.dumps(body).encode())
    assert not is_stopping(json.dumps(body).encode()[:-5])
    assert not is_stopping(json.dumps(body).encode(), "throughgate.client.recorded.v1"), "nor by a header"


def test_a_cut_off_event_stops_only_when_it_says_so() -> None:
    cut_off = rb'{"type":"throughgate.client.recorded.v1","data":{"facts":{"identity":{"givenName":"Ren\u00e9'
    assert not is_stopping(cut_off), "an escape alone is no withdrawal"
    assert is_stopping(rb'{"type":"throughgate.consent.\u0077ithdrawn.v1","data":{"identifiers":[{"ty')
