"""Bad input comes back with a code and a sentence; nothing is lost; the next event flows; a withdrawal denies."""

import json
import random
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.agency import event, eventually, eventually_true, granted, withdrawn
from support.door import holds, recorded

from contracts.leaving import RETRACTED

FACTS = {"identity": {"givenName": "Robin", "familyName": "Fictional"}}
FUTURE = (datetime.now(UTC) + timedelta(days=1)).isoformat()
Make = Callable[[Any], bytes]


def _json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _without_identifier(door: Any) -> bytes:
    return _json(event("client.recorded", door.prison.name, {"identifiers": [], "facts": FACTS}))


def _of_nobody(door: Any) -> bytes:
    nobody = [{"type": "NOMS", "value": "Z0000ZZ"}]
    return _json(event("consent.granted", door.prison.name, granted(nobody, ["hostel-0"], ["referral"], ["identity"])))


BAD: dict[str, Make] = {
    "malformed-json": lambda door: b'{"specversion": "1.0", ',
    "unknown-type": lambda door: _json(door.recorded(type="throughgate.client.guessed.v9")),
    "wrong-agency": lambda door: _json(door.recorded(source=f"/agencies/{door.probation.name}")),
    "invalid-event": _without_identifier,
    "time-in-future": lambda door: _json(door.recorded(time=FUTURE)),
    "too-large": lambda door: _json(door.recorded(padding="x" * 2_000_000)),
    "unknown-client": _of_nobody,
}


async def _holds(door: Any) -> list[dict[str, Any]]:
    """Clients on hold; numbers that no client has yet are held besides."""
    held = await door.operator.call("GET", "/holds")
    return [h for h in held if h["assertedBy"] == door.prison.name and h["held"] == "client"]


async def test_every_bad_input_is_answered_and_the_next_event_flows(door: Any) -> None:
    for code, make in BAD.items():
        size = len(door.prison.replies)
        await door.prison.publish(make(door))
        await eventually(lambda n=size: door.prison.replies[n:] or None, f"the rejection {code}")  # type: ignore[misc]
        reply = door.prison.replies[-1]
        assert reply["type"] == "throughgate.event.rejected.v1"
        assert reply["data"]["code"] == code
        assert len(reply["data"]["detail"]) > 30
        assert "Fictional" not in json.dumps(reply)
        assert door.number not in json.dumps(reply)
        assert (await door.prison.answered(door.recorded()))["type"] == "throughgate.event.accepted.v1"


@pytest.mark.parametrize("code", [c for c in BAD if c != "too-large"])
async def test_over_http_it_is_a_problem(door: Any, code: str) -> None:
    async with door.prison.http() as http:
        response = await http.post("/events", content=BAD[code](door))
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == code
    assert 400 <= response.status_code < 500


async def test_http_limits_and_authentication(door: Any) -> None:
    async with door.prison.http() as http:
        too_large = await http.post("/events", content=BAD["too-large"](door))
        assert (too_large.status_code, too_large.json()["code"]) == (413, "too-large")
        huge = await http.post("/events", content=b"x" * 5_000_000)
        assert huge.status_code == 413
        accepted = await http.post("/events", content=json.dumps(door.recorded()))
        assert accepted.status_code == 202
        assert (await http.post("/agreements", json={})).status_code in (403, 422)
        http.headers["Authorization"] = "Bearer nonsense"
        assert (await http.post("/events", content=b"{}")).status_code == 401


async def test_the_same_event_again_gets_its_first_answer_and_another_under_its_id_does_not(door: Any) -> None:
    body = door.recorded()
    first = await door.prison.answered(body)
    async with door.prison.http() as http:
        again = await http.post("/events", content=json.dumps(body))
        assert again.json()["client"] == first["client"]
        changed = await http.post("/events", content=json.dumps(body | {"clientversion": 7}))
    assert (changed.status_code, changed.json()["code"]) == (409, "id-used-again")


async def test_an_older_client_version_is_history(door: Any) -> None:
    await door.prison.answered(door.consent(door.hostel))
    await door.prison.answered(door.recorded(clientversion=5))
    await door.prison.answered(door.consent(door.hostel))
    older = door.recorded({"identity": {"givenName": "Old", "familyName": "Name"}}, clientversion=4)
    assert (await door.prison.answered(older))["type"] == "throughgate.event.accepted.v1"
    newer = door.recorded(clientversion=9)  # a gap is flagged and not waited for
    await door.prison.answered(newer)

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 2

    await eventually_true(arrived, "the newer facts")
    assert "Old" not in json.dumps([r.event for r in await door.hostel.received()])


UNREADABLE: dict[str, Make] = {
    "cut off": lambda door: _json(door.withdrawal())[:-20],
    "no scope": lambda door: _json(door.withdrawal() | {"data": {"identifiers": door.identifiers}}),
    "future": lambda door: _json(door.withdrawal() | {"time": FUTURE}),
    "another's source": lambda door: _json(door.withdrawal() | {"source": f"/agencies/{door.probation.name}"}),
    "a number in an odd place": lambda door: _json(door.withdrawal() | {"data": {"person": {"ref": door.number}}}),
    "escaped": lambda door: _json(door.withdrawal() | {"time": "x"}).replace(
        door.number.encode(), b"\\u0041" + door.number[1:].encode()
    ),
    "too large": lambda door: _json(door.withdrawal() | {"padding": "x" * 400_000}),
    "no type": lambda door: _json({k: v for k, v in door.withdrawal().items() if k != "type"}),
    "a type without its prefix": lambda door: _json(door.withdrawal() | {"type": "consent.withdrawn.v1"}),
    "a type in another word": lambda door: _json(door.withdrawal() | {"type": "throughgate.consent.revoked.v1"}),
    "data in base64": lambda door: _json(_packed(door.withdrawal())),
}


def _packed(body: dict[str, Any]) -> dict[str, Any]:
    return body | {"data": None, "data_base64": b64encode(_json(body["data"])).decode()}


@pytest.mark.parametrize("how", UNREADABLE)
async def test_a_withdrawal_that_cannot_be_applied_denies_anyway(door: Any, how: str) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def permitted() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(permitted, "the snapshot")
    rejected = await door.prison.answered(UNREADABLE[how](door))
    assert rejected["type"] == "throughgate.event.rejected.v1"

    async def retracted() -> bool:
        return bool((await door.hostel.received())[-1].event["type"] == RETRACTED)

    await eventually_true(retracted, "the retraction")
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await door.prison.answered(door.recorded())
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED, "held until a person has looked"
    holds = await _holds(door)
    assert len(holds) == 1, "someone is told"
    await door.operator.call("DELETE", f"/holds/{holds[0]['hold']}")
    await door.prison.answered(door.recorded())

    async def flows() -> bool:
        return bool((await door.hostel.received())[-1].event["type"] != RETRACTED)

    await eventually_true(flows, "the record under the consent given since")


IN_ANOTHER_FORM: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "small letters": lambda door, _: {"type": "NOMS", "value": door.number.lower()},
    "wide letters": lambda door, _: {"type": "NOMS", "value": "".join(chr(ord(c) + 0xFEE0) for c in door.number)},
    "a short police number": lambda door, _: {"type": "PNC", "value": f"{door.pnc[2:5]}{door.pnc[5:].lstrip('0')}"},
    "blanks": lambda door, _: {"type": "NHS", "value": f"{door.nhs[:3]} {door.nhs[3:6]} {door.nhs[6:]}"},
    "a reference in capitals": lambda _, reference: {"type": "THROUGHGATE", "value": reference.upper()},
    "an unknown type": lambda door, _: {"type": "PRISON-NUMBER", "value": door.number.lower()},
    "an agency's own, with a blank": lambda door, _: {"type": "CASE", "value": " c-4 2 "},
}


@pytest.mark.parametrize("how", IN_ANOTHER_FORM)
async def test_a_withdrawal_with_a_number_in_another_form_denies_anyway(door: Any, how: str) -> None:
    door.nhs = f"{random.randint(10**9, 10**10 - 1)}"
    door.pnc = f"2004/0{random.randint(10**5, 10**6 - 1)}H"
    numbers = {"NHS": door.nhs, "PNC": door.pnc, "CASE": "c-42"}
    more = [{"type": type, "value": value} for type, value in numbers.items()]
    recorded = event("client.recorded", door.prison.name, {"identifiers": [*door.identifiers, *more], "facts": FACTS})
    reference = (await door.prison.answered(recorded))["client"]
    await door.prison.answered(door.consent(door.hostel))

    async def last() -> str | None:
        records = await door.hostel.received()
        return records[-1].event["type"] if records else None

    async def permitted() -> bool:
        return await last() not in (None, RETRACTED)

    await eventually_true(permitted, "the snapshot")
    said = IN_ANOTHER_FORM[how](door, reference)
    answer = await door.prison.answered(event("consent.withdrawn", door.prison.name, withdrawn([said])))
    assert answer["code"] == "invalid-event"

    async def retracted() -> bool:
        return await last() == RETRACTED

    await eventually_true(retracted, "the retraction")
    assert len(await _holds(door)) == 1, "someone is told"


@pytest.mark.parametrize("by", ["Kafka", "HTTP"])
async def test_a_stop_in_binary_mode_denies_and_its_publisher_reads_how_to_send_it(door: Any, by: str) -> None:
    await recorded(door)
    stop = event("restriction.imposed", door.prison.name, {"identifiers": door.identifiers, "reason": "a threat"})
    value, type = _json(stop["data"]), stop["type"]
    if by == "Kafka":
        size = len(door.prison.replies)
        await door.prison.publish(value, headers=[("ce_specversion", b"1.0"), ("ce_type", type.encode())])
        await eventually(lambda: door.prison.replies[size:] or None, "the rejection")
        answer = door.prison.replies[-1]["data"]
    else:
        async with door.prison.http() as http:
            response = await http.post("/events", content=value, headers={"ce-specversion": "1.0", "ce-type": type})
        answer = response.json()
    assert answer["code"] == "invalid-event"
    assert "structured JSON mode" in answer["detail"]
    assert [h["reason"] for h in await _holds(door)] == ["invalid-event"]

    async def retracted() -> bool:
        return bool((await door.hostel.received())[-1].event["type"] == RETRACTED)

    await eventually_true(retracted, "the retraction")


async def test_what_stops_nothing_holds_nobody_whatever_words_are_in_it(door: Any) -> None:
    await door.prison.answered(door.recorded())
    health = {"risk": {"note": "withdrew from heroin; consent withdrawn, refused, restricted", "harm": "no such"}}
    for body in (door.recorded(health), door.recorded(health) | {"type": "throughgate.client.noted.v1"}):
        assert (await door.prison.answered(body))["type"] == "throughgate.event.rejected.v1"
    assert await holds(door, door.prison) == []


NAMING_NOBODY: dict[str, tuple[str, list[dict[str, str]]]] = {
    "a number too short": ("invalid-event", [{"type": "NOMS", "value": "A12"}]),
    "no number": ("invalid-event", []),
    "a reference that nobody has": ("unknown-client", [{"type": "THROUGHGATE", "value": str(uuid4())}]),
}


@pytest.mark.parametrize("how", NAMING_NOBODY)
async def test_a_withdrawal_that_names_nobody_is_told_to_somebody(door: Any, how: str) -> None:
    code, identifiers = NAMING_NOBODY[how]
    for _ in range(2):
        answer = await door.prison.answered(event("consent.withdrawn", door.prison.name, withdrawn(identifiers)))
        assert answer["code"] == code
    held = [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name]
    assert [(h["held"], h["reason"], h["times"]) for h in held] == [("nobody", code, 2)]
    await door.operator.call("PUT", f"/holds/{held[0]['hold']}/owner", {"owner": "duty desk"})
    await door.operator.call("DELETE", f"/holds/{held[0]['hold']}")


async def test_a_withdrawal_for_a_client_not_yet_known_waits_for_that_client(door: Any) -> None:
    rejected = await door.prison.answered(door.withdrawal())
    assert rejected["code"] == "unknown-client"
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await door.prison.answered(door.recorded())
    assert [r for r in await door.hostel.received() if r.event["type"] != RETRACTED] == []
    assert len(await _holds(door)) == 1


async def test_an_identifier_given_twice_is_one_identifier(door: Any) -> None:
    body = event("client.recorded", door.prison.name, {"identifiers": door.identifiers * 2, "facts": FACTS})
    assert (await door.prison.answered(body))["type"] == "throughgate.event.accepted.v1"


HOSTILE: dict[str, Make] = {
    "NUL in a case number": lambda door: b'{"type":"throughgate.consent.withdrawn.v1" "CASE" "value":"a\x00b"',
    "NUL in the id": lambda door: _json(door.withdrawal() | {"id": "a\x00b"}),
    "UTF-16": lambda door: json.dumps(door.withdrawal()).encode("utf-16"),
}


@pytest.mark.parametrize("how", HOSTILE)
async def test_hostile_bytes_are_answered_and_the_next_event_flows(door: Any, how: str) -> None:
    await door.prison.answered(door.recorded())
    assert (await door.prison.answered(HOSTILE[how](door)))["type"] == "throughgate.event.rejected.v1"
    assert (await door.prison.answered(door.recorded()))["type"] == "throughgate.event.accepted.v1"
    assert len(await _holds(door)) == (0 if "case" in how else 1)


async def test_a_withdrawal_rejected_late_holds_every_number_in_it(door: Any) -> None:
    """Its identifier is unknown, but its subject names a client that we know."""
    await door.prison.answered(door.recorded())
    data = withdrawn([{"type": "CASE", "value": "nobody-1"}])
    body = event("consent.withdrawn", door.prison.name, data, subject=door.number)
    assert (await door.prison.answered(body))["code"] == "unknown-client"
    assert len(await _holds(door)) == 1
