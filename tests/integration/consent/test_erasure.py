"""Erasure leaves proof of erasure and nothing else; what is kept too long goes by itself."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
from support.agency import event, eventually_true, terms

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
            "SELECT kind, body, length(leaf) AS leaf FROM ledger WHERE client_id ="
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
    assert all(e["body"] is None for e in entries), "and nothing that could be read"
    assert keys == 0
    records = await door.hostel.received()
    assert records[-1].event["type"] == WITHDRAWN
    assert behind_retraction(records) == []


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
