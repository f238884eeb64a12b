"""Erasure leaves proof of erasure and nothing else; what is kept too long goes by itself."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from support.agency import Agency, event, eventually_true, terms

from throughgate.verify import WITHDRAWN, behind_retraction

WORDS = ("Robin", "Fictional", "Nowhere", "no fixed abode")


async def _admin(door: Any) -> Any:
    return await asyncpg.connect(door.system.postgres.url(door.system.databases["consent"].name))


async def _readable(door: Any, *words: str) -> list[str]:
    """Every table of the door in which one of the words stands, whatever the column, bytes included."""
    connection = await _admin(door)
    try:
        tables = [r[0] for r in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        found = []
        for table in tables:
            for row in await connection.fetch(f'SELECT * FROM "{table}"'):
                text = b" ".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
                if any(word.encode() in text for word in words):
                    found.append(table)
        return sorted(set(found))
    finally:
        await connection.close()


def erasure(door: Any, agency: Any, scope: str) -> dict[str, Any]:
    data = {"identifiers": door.identifiers, "scope": scope, "reason": "client-asked"}
    return event("erasure.requested", agency.name, data)


async def _told(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(arrived, "the snapshot")


async def test_everything_is_erased_and_what_is_left_is_proof(door: Any) -> None:
    await _told(door)
    assert {"fact", "identifier"} <= set(await _readable(door, door.number, *WORDS)), "the search finds what is there"
    asked = erasure(door, door.prison, "everything")
    first = await door.prison.answered(asked)
    done = await door.prison.done(asked["id"])
    assert {d["recipient"] for d in done["recipients"]} == {door.hostel.name, door.mentors.name, "referral"}
    assert await _readable(door, door.number) == []
    connection = await _admin(door)
    try:
        entries = await connection.fetch(
            "SELECT decision, kind, body, length(leaf) AS leaf FROM ledger WHERE client_id ="
            " (SELECT client_id FROM reference WHERE id = $1::uuid)",
            first["client"],
        )
        keys = await connection.fetchval(
            "SELECT count(key) FROM client WHERE id = (SELECT client_id FROM reference WHERE id = $1::uuid)",
            first["client"],
        )
    finally:
        await connection.close()
    assert {"disclosure", "erasure"} <= {e["kind"] for e in entries}
    assert all(e["leaf"] == 32 for e in entries), "the leaves are left"
    assert {e["kind"] for e in entries if e["body"] is not None} == {"erasure"}, "and nothing else that could be read"
    assert keys == 0
    records = await door.hostel.received()
    assert records[-1].event["type"] == WITHDRAWN
    assert behind_retraction(records) == []


async def test_the_entry_of_an_erasure_leads_to_its_leaf_for_an_auditor(lone_door: Any) -> None:
    await _told(lone_door)
    asked = erasure(lone_door, lone_door.prison, "everything")
    await lone_door.prison.answered(asked)
    await lone_door.prison.done(asked["id"])
    token = lone_door.system.issuer.token("auditor", "operator", ["audit"])
    found: list[dict[str, Any]] = []
    async with httpx.AsyncClient(
        base_url=lone_door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}
    ) as http:

        async def sealed() -> bool:
            entries = (await http.get("/ledger/entries?shard=0&open=true")).json()
            found[:] = [e for e in entries if e["kind"] == "erasure"]
            return bool(found)

        await eventually_true(sealed, "the erasure to be sealed")
    assert [e["opened"] for e in found] == [{"erased": False, "leaf": found[0]["leaf"], "agrees": True}]


@pytest.mark.parametrize("scope", ["own", "everything"])
async def test_an_erasure_may_be_asked_for_over_http(door: Any, scope: str) -> None:
    await _told(door)
    asked = erasure(door, door.prison, scope)
    async with door.prison.http() as http:
        answer = await http.post("/events", json=asked)
    assert answer.is_success, answer.text
    await door.prison.done(asked["id"])
    assert await _readable(door, f"Lane {door.number}", *([door.number] if scope == "everything" else [])) == []


async def _restriction(door: Any, agency: Any) -> dict[str, Any]:
    data = {
        "identifiers": door.identifiers,
        "restriction": "r-1",
        "kind": "victim-safety",
        "reason": "a threat",
    }
    known = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    await agency.answered(event("client.recorded", agency.name, known))
    reply: dict[str, Any] = await agency.answered(event("restriction.imposed", agency.name, data))
    assert reply["type"].endswith("accepted.v1"), reply
    return reply


async def test_what_protects_a_client_is_not_erased_with_everything(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await _restriction(door, door.prison)
    await _restriction(door, door.hostel)
    refused = await door.prison.answered(erasure(door, door.prison, "everything"))
    assert refused["code"] == "still-restricted"
    assert "identifier" in await _readable(door, door.number), "nothing was erased"
    lifted = {"identifiers": door.identifiers, "restriction": "r-1"}
    await door.hostel.answered(event("restriction.lifted", door.hostel.name, lifted))
    held = event("consent.withdrawn", door.prison.name, {"identifiers": door.identifiers})  # it lacks all else
    assert (await door.prison.answered(held))["code"] == "invalid-event"
    assert (await door.prison.answered(erasure(door, door.prison, "everything")))["code"] == "still-restricted"
    connection = await _admin(door)
    try:
        hold = await connection.fetchval(
            "SELECT h.id FROM hold h JOIN identifier USING (client_id) WHERE value = $1 AND lifted_at IS NULL",
            door.number,
        )
    finally:
        await connection.close()
    await door.operator.call("DELETE", f"/holds/{hold}")
    asked = erasure(door, door.prison, "everything")
    assert "withdrawal" in await door.prison.answered(asked), "its own restriction is no obstacle"
    assert await _readable(door, door.number) == []


async def test_a_form_of_before_the_erasure_opens_nothing_for_who_comes_after(door: Any) -> None:
    await door.prison.answered(door.recorded())
    signed = door.consent(door.hostel)
    await door.prison.answered(signed)
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    assert await _readable(door, signed["data"]["form"]) == [], "what is kept of a form is a digest"
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded())
    await door.prison.answered(signed | {"id": str(uuid4())})
    await door.prison.answered(door.consent(door.mentors))

    async def told() -> bool:
        return any(r.event["type"].startswith("throughgate.client.snapshot") for r in await door.mentors.received())

    await eventually_true(told, "what a new form permits")
    assert len(await door.hostel.received()) == before


async def test_a_consent_of_before_the_erasure_opens_nothing_even_on_a_form_that_nobody_has_seen(door: Any) -> None:
    await door.prison.answered(door.recorded())
    late, very_late = door.consent(door.hostel), door.consent(door.hostel)
    very_late["data"]["givenAt"] = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded())
    assert (await door.prison.answered(late))["type"].endswith("accepted.v1"), "it is kept as history"
    connection = await _admin(door)
    try:  # a year on, the digests are deleted and the client is known for long
        await connection.execute("UPDATE erased_number SET erased_at = erased_at - interval '366 days'")
        subprocess.run(
            [sys.executable, "-m", "consent.retention"],
            env=os.environ | door.system.environment("consent.worker"),
            check=True,
        )
        assert await connection.fetchval("SELECT count(*) FROM erased_number") == 0
    finally:
        await connection.close()
    again = erasure(door, door.prison, "everything")
    await door.prison.answered(again)
    await door.prison.done(again["id"])
    connection = await _admin(door)
    try:
        await connection.execute("DELETE FROM erased_number")
    finally:
        await connection.close()
    await door.prison.answered(door.recorded())
    await door.prison.answered(very_late)
    await door.prison.answered(door.consent(door.mentors))

    async def told() -> bool:
        return any(r.event["type"].startswith("throughgate.client.snapshot") for r in await door.mentors.received())

    await eventually_true(told, "what was agreed since permits")
    assert {r.event["type"] for r in (await door.hostel.received())[before:]} <= {WITHDRAWN}


async def _subscribes_later(door: Any, recipient: Agency) -> str:
    """A second agreement, which begins in an hour: until then what is recorded waits in the queue. Gives its id."""
    body = {
        "id": f"later-{recipient.name}",
        "version": 1,
        "sources": [door.prison.name],
        "recipients": [recipient.name],
        "terms": [terms("referral", ["needs.accommodation", "identity"])],
        "signatories": dict.fromkeys((door.prison.name, recipient.name), "A. Signatory"),
        "starts": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await door.operator.call("POST", "/agreements", body)
    return str(body["id"])


async def _hour_passes(door: Any, agreement: str) -> None:
    connection = await _admin(door)
    try:
        await connection.execute("UPDATE agreement SET starts = starts - interval '2 hours' WHERE id = $1", agreement)
        await connection.execute(
            "UPDATE queue SET due_at = due_at - interval '2 hours' WHERE recipient = $1 AND kind = 2",
            door.probation.name,
        )
    finally:
        await connection.close()


async def test_what_is_erased_does_not_leave_behind_its_retraction(door: Any) -> None:
    agreement = await _subscribes_later(door, door.probation)
    words = f"a room near Lane {door.number}"
    need = {"needs.accommodation": {"level": "soon", "summary": words}}
    await door.prison.answered(door.recorded(need))
    await door.prison.answered(door.consent(door.probation))
    assert "queue" in await _readable(door, words)
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    in_queue = await _readable(door, words)
    await _hour_passes(door, agreement)

    async def nothing_waits() -> bool:
        return await _waiting(door) == []

    await eventually_true(nothing_waits, "the row to be decided")
    assert [r.event["type"] for r in await door.probation.received()] == [WITHDRAWN]
    assert in_queue == [], "nor could it be read while it waited"


async def _waiting(door: Any) -> list[Any]:
    connection = await _admin(door)
    try:
        return list(
            await connection.fetch("SELECT id, body FROM queue WHERE recipient = $1 AND kind = 2", door.probation.name)
        )
    finally:
        await connection.close()


async def test_what_waits_for_a_person_loses_what_is_erased_and_keeps_the_rest(door: Any) -> None:
    await door.prison.answered(door.recorded())
    now, source, other = datetime.now(UTC).isoformat(), door.prison.name, door.mentors.name
    words = f"Lane {door.number}"
    sections = [
        {"source": of, "category": "contact", "recordedAt": now, "data": {"address": f"{words}, for {of}"}}
        for of in (source, other)
    ]
    request = {"about": [[other, "contact"]], "sections": sections, "message": {"note": "as before"}}
    connection = await _admin(door)
    try:
        for body in (json.dumps(request), f"not JSON, but {words}, for {source}"):
            await connection.execute(
                "INSERT INTO queue (kind, client_id, keyed_by, recipient, topic, reference, type, purpose, body,"
                " requester, reference_of_requester, request, due_at, set_aside) SELECT 2, client_id, client_id, $2,"
                " 'partner.' || $2, gen_random_uuid(), 'throughgate.referral.made.v1', 'referral', $3, 'referral',"
                " gen_random_uuid(), gen_random_uuid(), now(), 'for a test' FROM identifier WHERE value = $1",
                door.number,
                door.probation.name,
                body,
            )
        await door.prison.answered(erasure(door, door.prison, "own"))
        assert await _readable(door, f"for {source}") == []
        left = {row["body"] for row in await _waiting(door)}
        assert [json.loads(body) for body in sorted(left, key=len)] == [{}, request | {"sections": sections[1:]}]
    finally:
        await connection.execute("DELETE FROM queue WHERE set_aside = 'for a test'")
        await connection.close()


async def test_who_was_erased_is_a_stranger_afterwards(door: Any) -> None:
    await _told(door)
    asked = erasure(door, door.prison, "everything")
    before = await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    data = {"identifiers": [{"type": "THROUGHGATE", "value": before["client"]}], "facts": {"risk": {"harm": "low"}}}
    late = await door.prison.answered(event("client.recorded", door.prison.name, data))
    assert late["code"] == "unknown-client", "the old reference takes nothing in any more"
    again = await door.prison.answered(door.recorded())
    assert again["client"] != before["client"], "the same number begins anew"
    records = await door.hostel.received()
    confirmed = {
        "identifiers": [{"type": "THROUGHGATE", "value": records[-1].event["subject"]}],
        "retraction": records[-1].event["data"]["retraction"],
    }
    await door.hostel.answered(event("retraction.confirmed", door.hostel.name, confirmed))
    async with door.prison.http() as http:
        status = (await http.get(f"/withdrawals/{before['withdrawal']}")).json()
    assert {r["recipient"] for r in status["recipients"] if r["acknowledgedAt"]} == {door.hostel.name}


async def test_a_charity_may_erase_its_own_records_only(door: Any) -> None:
    sources, to = [door.hostel.name], [door.mentors.name]
    await door.operator.agree(f"back-{door.hostel.name}", sources, to, [terms("referral", ["needs.accommodation"])])
    await door.prison.answered(door.recorded())
    need = {"needs.accommodation": {"level": "soon", "summary": "a room kept for a week"}}
    data = {"identifiers": door.identifiers, "facts": need}
    await door.hostel.answered(event("client.recorded", door.hostel.name, data))
    await door.prison.answered(door.consent(door.mentors))

    async def both() -> bool:
        sources = {s["source"] for r in await door.mentors.received() for s in r.event["data"].get("sections", ())}
        return sources == {door.prison.name, door.hostel.name}

    await eventually_true(both, "what both recorded")
    refused = await door.hostel.answered(erasure(door, door.hostel, "everything"))
    assert refused["code"] == "not-yours-to-say"
    asked = erasure(door, door.hostel, "own")
    await door.hostel.answered(asked)
    await door.hostel.done(asked["id"])
    assert await _readable(door, "a room kept for a week") == []

    async def goes_on() -> bool:
        last = (await door.mentors.received())[-1].event
        return last["type"] != WITHDRAWN and {s["source"] for s in last["data"]["sections"]} == {door.prison.name}

    await eventually_true(goes_on, "what the prison recorded goes on behind the retraction")
    assert behind_retraction(await door.mentors.received()) == []


async def test_what_is_kept_too_long_is_erased_by_a_run(door: Any) -> None:
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    risk = {"harm": "low", "considerations": f"Of {door.number}"}
    facts = {"contact": {"address": f"Lane {door.number}"}, "risk": risk}
    await door.prison.answered(door.recorded(facts, time=old))
    await door.prison.answered(door.consent(door.hostel))
    environment = os.environ | door.system.environment("consent.worker")

    def run() -> str:
        return subprocess.run(
            [sys.executable, "-m", "consent.retention"], env=environment, check=True, capture_output=True, text=True
        ).stdout

    assert "of 1 clients" in run()
    assert await _readable(door, f"Lane {door.number}") == [], "contact is kept for a year"
    assert "fact" in await _readable(door, f"Of {door.number}"), "risk is kept for two"
    assert "of 0 clients" in run()


async def test_an_old_copy_that_a_link_hides_is_erased_as_well(door: Any) -> None:
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    second = [{"type": "CRN", "value": f"X{door.number[1:5]}{len(door.number)}0"}]
    await door.prison.answered(door.recorded({"contact": {"address": f"Old Lane {door.number}"}}, time=old))
    newer = {"identifiers": second, "facts": {"contact": {"address": f"New Lane {door.number}"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, newer))
    same = {"identifiers": door.identifiers, "sameAs": second, "reason": "fingerprints"}
    linked = await door.prison.answered(event("identity.linked", door.prison.name, same))
    assert linked["type"].endswith("accepted.v1"), linked
    environment = os.environ | door.system.environment("consent.worker")
    told = subprocess.run(
        [sys.executable, "-m", "consent.retention"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "of 1 clients" in told
    assert await _readable(door, f"Old Lane {door.number}") == []
    assert "fact" in await _readable(door, f"New Lane {door.number}"), "the newer copy is kept"
