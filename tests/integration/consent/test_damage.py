"""What is kept of a client and cannot be read denies, for that client alone: a stop holds, and a page is answered."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from support.agency import event, eventually_true
from support.door import decided, override, recorded, reference_of, superuser, was_told

from consent.repository import clients, links
from consent.repository.changes import Changes
from consent.repository.clients import Reference
from consent.repository.ledger import open as open_entry
from consent.repository.restoring import Restore
from consent.repository.retractions import StopRow
from consent.service.holds import hold_damaged, lift
from consent.service.incoming import Damaged
from consent.service.notices import Owed, queue_retraction
from consent.service.requests import Asked, take_requests
from consent.service.restoring import Retracted, UnderReference, take_back
from contracts.door import Door as Talk
from contracts.leaving import RETRACTED
from contracts.proof import SALT_BYTES
from contracts.vocabulary import Purpose
from servicekit.db import Database

SEEN = ["identity", "needs.accommodation"]
DAMAGES = {
    "what was said": ("sharing_fact", "body", "'[]'"),
    "its kind": ("sharing_fact", "kind", "'no such'"),
    "a fact": ("fact", "data", "'{\"x'"),
    "what a fact is": ("fact", "data", "'[]'"),
}


@pytest.fixture
async def owner(lone_door: Any) -> AsyncIterator[Any]:
    async with superuser(lone_door) as connection:
        yield connection


async def client_of(owner: Any, door: Any) -> int:
    return int(await owner.fetchval("SELECT client_id FROM identifier WHERE value = $1", door.number))


async def damage(owner: Any, door: Any, how: str) -> Any:
    """Damage something of the client; gives how to mend it: a statement and its parameters."""
    table, column, value = DAMAGES[how]
    client = await client_of(owner, door)
    one = "kind = 'granted'" if table == "sharing_fact" else "category = 'identity'"
    whole = await owner.fetchval(f"SELECT {column} FROM {table} WHERE client_id = $1 AND {one}", client)
    await owner.execute(f"UPDATE {table} SET {column} = {value} WHERE client_id = $1 AND {one}", client)
    one = one.replace("kind = 'granted'", "version = 1")
    return f"UPDATE {table} SET {column} = $2 WHERE client_id = $1 AND {one}", client, whole


async def published(agency: Any, said: dict[str, Any], way: str) -> dict[str, Any]:
    """Publish by Kafka or over HTTP; gives what the answer says."""
    if way == "kafka":
        return dict(await agency.answered(said))
    answer = await agency.post(said)
    return {"status": answer.status_code, **answer.json()}


async def seen(agency: Any, clients: list[str]) -> list[dict[str, Any]]:
    async with agency.http() as http:
        answer = await http.post("/views", json={"clients": clients, "purpose": "referral", "categories": SEEN})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["views"])


async def holds(door: Any) -> list[str]:
    held = await door.operator.call("GET", "/holds")
    return [h["reason"] for h in held if h["assertedBy"] == door.prison.name and h["held"] == "client"]


# --- a stop holds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["kafka", "http"])
@pytest.mark.parametrize("how", DAMAGES)
async def test_a_withdrawal_holds_whatever_else_cannot_be_read(lone_door: Any, owner: Any, how: str, way: str) -> None:
    door = lone_door
    await recorded(door)
    reference = await reference_of(door.hostel)
    mend = await damage(owner, door, how)
    said = door.withdrawal()
    answer = await published(door.prison, said, way)
    assert answer["withdrawal"], "it was applied, and can be followed"
    await door.prison.done(said["id"])
    last = (await door.hostel.received())[-1].event
    assert (last["type"], last["subject"]) == (RETRACTED, reference)
    assert await holds(door) == []
    await owner.execute(*mend)
    assert (await seen(door.hostel, [reference]))[0]["sections"] == []
    await door.prison.answered(door.recorded())
    await decided(door)
    assert (await door.hostel.received())[-1].event == last, "nothing leaves behind it"


@pytest.mark.parametrize("way", ["kafka", "http"])
async def test_a_stop_that_rests_on_what_cannot_be_read_holds_the_client(lone_door: Any, owner: Any, way: str) -> None:
    """Whom the end of a gateway reaches stands in what was said when it began."""
    door = lone_door
    await recorded(door)
    await damage(owner, door, "what was said")
    end = event("gateway.ended", door.prison.name, {"identifiers": door.identifiers, "gateway": "g-1"})
    answer = await published(door.prison, end, way)
    assert answer["code"] == "set-aside"
    assert answer.get("status", 500) == 500
    await was_told(door.hostel, 2)
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED
    assert await holds(door) == ["set-aside"]


async def test_what_opens_or_erases_waits_until_it_can_be_read(lone_door: Any, owner: Any) -> None:
    """It may be that the client said no since, or that somebody protects what is to be forgotten."""
    door = lone_door
    await recorded(door)
    mend = await damage(owner, door, "a fact")
    erase = {"identifiers": door.identifiers, "scope": "everything", "reason": "client-asked"}
    threat = event("override.authorised", door.prison.name, override(door))
    for said in (door.consent(door.mentors), event("erasure.requested", door.prison.name, erase), threat):
        assert (await door.prison.answered(said))["code"] == "set-aside", said["type"]
    assert await owner.fetchval("SELECT count(*) FROM sharing_fact WHERE client_id = $1", mend[1]) == 1
    await owner.execute(*mend)
    waiting = await owner.fetchval("SELECT min(id) FROM set_aside WHERE topic LIKE '%intake.' || $1", door.prison.name)
    retried = await door.operator.call("POST", f"/set-aside/arrived/{waiting}/retry")
    assert retried == {"outcome": "accepted"}


async def test_a_stop_for_parts_holds_though_what_was_said_of_both_cannot_be_read(lone_door: Any, owner: Any) -> None:
    door = lone_door
    other, both = ([{"type": "CASE", "value": f"{name}-{door.number}"}] for name in ("o", "b"))
    parts = {"identifiers": other, "facts": {"risk": {"harm": "low"}}}
    linked = {"identifiers": door.identifiers, "sameAs": other, "reason": "one and the same"}
    of_both = {"identifiers": [*door.identifiers, *other, *both], "facts": {"risk": {"harm": "low"}}}
    gateway = door.invoked("gateway", door.prison, door.probation)
    undone = {"identifiers": door.identifiers, "notSameAs": other, "reason": "a mistake"}
    for said in (
        door.recorded(),
        event("client.recorded", door.prison.name, parts),
        event("identity.linked", door.prison.name, linked),
        event("client.recorded", door.prison.name, of_both),
        gateway,
        event("identity.unlinked", door.prison.name, undone),
    ):
        answer = await door.prison.answered(said)
        assert answer["type"].endswith("accepted.v1"), answer
    body = "jsonb_set(body, '{ends}', '\"no time\"')"
    damaged = f"UPDATE sharing_fact SET body = {body} WHERE kind = 'gateway-invoked' AND own_id = $1"
    assert await owner.execute(damaged, gateway["data"]["gateway"]) == "UPDATE 1"
    stop = event(
        "consent.refused",
        door.prison.name,
        {"identifiers": both, "refusedAt": door.recorded()["time"], "scope": "everything"},
    )
    assert (await door.prison.answered(stop))["code"] == "identifier-conflict"
    assert await holds(door) == ["identifier-conflict"] * 2


# --- what was withheld is offered once it is mended -------------------------------------------------------------------


async def damage_holds(door: Any, owner: Any) -> list[str]:
    """The open holds of the client because something of it cannot be read, by their ids."""
    mine = await owner.fetch("SELECT id FROM hold WHERE client_id = $1", await client_of(owner, door))
    held = await door.operator.call("GET", "/holds")
    of_damage = [h for h in held if h["hold"] in {str(row["id"]) for row in mine} and h["reason"] == "cannot-be-read"]
    assert all(h["assertedBy"] == "throughgate" and "mended" in h["meaning"] for h in of_damage)
    return [h["hold"] for h in of_damage]


async def test_what_rests_on_something_else_leaves_once_the_damage_is_mended(lone_door: Any, owner: Any) -> None:
    door = lone_door
    await recorded(door)
    await door.prison.answered(door.invoked("gateway", door.prison, door.probation))
    await was_told(door.probation)
    mend = await damage(owner, door, "a fact")
    said = door.withdrawal()
    assert "accepted" in (await door.prison.answered(said))["type"]
    await door.prison.done(said["id"])
    await decided(door)
    taken_back = [(await agency.received())[-1].event["type"] for agency in (door.probation, door.hostel)]
    assert taken_back == [RETRACTED, RETRACTED]
    (hold,) = await damage_holds(door, owner)
    with pytest.raises(AssertionError, match="cannot-be-read"):
        await door.operator.call("DELETE", f"/holds/{hold}")
    await owner.execute(*mend)
    told = len(await door.probation.received())
    await door.operator.call("DELETE", f"/holds/{hold}")
    await was_told(door.probation, told + 1)
    assert (await door.probation.received())[-1].event["type"] == "throughgate.client.snapshot.v1"
    await decided(door)
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED, "the consent stays withdrawn"
    assert await damage_holds(door, owner) == []


async def the_hold(door: Any, owner: Any) -> str:
    """The one hold, once it is put on: the discloser does so behind its cycle."""

    async def held() -> bool:
        return len(await damage_holds(door, owner)) == 1

    await eventually_true(held, "the hold")
    (hold,) = await damage_holds(door, owner)
    return hold


async def test_a_client_who_cannot_be_read_and_is_locked_stops_nobody_else(lone_door: Any, owner: Any) -> None:
    """To hold a client takes its row, and a worker that was stopped may have that locked for as long as it lives."""
    locked, other = lone_door, replace(lone_door, number=f"B{lone_door.number[1:]}")
    await recorded(locked)
    await other.prison.answered(other.recorded())
    await other.prison.answered(other.consent(other.hostel))
    await was_told(other.hostel, 2)
    await damage(owner, locked, "what was said")
    discloser = psutil.Process(locked.system.pid("consent.discloser"))
    discloser.suspend()
    await locked.prison.answered(locked.recorded({"needs.accommodation": {"level": "soon"}}))
    async with owner.transaction():
        await owner.execute("SELECT 1 FROM client WHERE id = $1 FOR UPDATE", await client_of(owner, locked))
        discloser.resume()
        withdrawal = other.withdrawal()
        await other.prison.answered(withdrawal)
        await other.prison.done(withdrawal["id"], 15)
        await decided(locked)
    await locked.prison.answered(locked.recorded({"needs.accommodation": {"level": "later"}}))
    await the_hold(locked, owner)


async def test_the_hold_of_an_undone_link_stays_until_its_row_is_mended(database_of: Any) -> None:
    database = await database_of("consent", "owner")

    async def undone(session: AsyncSession) -> int:
        parts, id, now = await clients.make(session, 2), uuid4(), datetime.now(UTC)
        linked = await links.enter(session, id, (parts[0], parts[1]), 2, False, "operator", None, now)
        said = "INSERT INTO sharing_fact (client_id, version, kind, asserted_by, event_id, body, recorded_at)"
        values = " VALUES (:id, 3, 'no such', 'prison', 'e', '{}', clock_timestamp())"
        await session.execute(text(said + values), {"id": linked})
        link = await links.link(session, id)
        assert link is not None
        await links.undo(session, link, 9, "operator", now)
        await hold_damaged(session, [linked])
        return linked

    row = await database.run(undone)
    (hold,) = await database.run(lambda s: s.scalars(text("SELECT id FROM hold WHERE lifted_at IS NULL")))
    with pytest.raises(Damaged):
        await database.run(lambda s: lift(s, hold, "operator"))
    await database.run(lambda s: s.execute(text("DELETE FROM sharing_fact WHERE client_id = :id"), {"id": row}))
    await database.run(lambda s: lift(s, hold, "operator"))
    await database.run(lambda s: hold_damaged(s, [row]))
    held = await database.run(lambda s: s.scalar(text("SELECT count(*) FROM hold WHERE lifted_at IS NULL")))
    assert held == 0, "what was mended meanwhile is not held again"


async def test_what_the_discloser_withheld_is_offered_and_no_consent_taken_back(lone_door: Any, owner: Any) -> None:
    door = lone_door
    await recorded(door)
    mend = await damage(owner, door, "what was said")
    for level in ("soon", "later"):
        await door.prison.answered(door.recorded({"needs.accommodation": {"level": level}}))
        await decided(door)
    hold = await the_hold(door, owner)
    told = len(await door.hostel.received())
    await owner.execute(*mend)
    await door.operator.call("DELETE", f"/holds/{hold}")
    await was_told(door.hostel, told + 1)
    newest = (await door.hostel.received())[-1].event
    assert {"level": "later"} in [section["data"] for section in newest["data"]["sections"]]


# --- what cannot be done says so --------------------------------------------------------------------------------------


async def test_who_cannot_be_read_is_not_linked_or_parted_and_an_event_waits(lone_door: Any, owner: Any) -> None:
    """A stop of one part may be among what cannot be read: it would be forgotten for the other."""
    door, prison = lone_door, lone_door.prison
    other = [{"type": "CASE", "value": f"o-{door.number}"}]
    one, two = [
        (await prison.answered(said))["client"]
        for said in (
            door.recorded(),
            event("client.recorded", prison.name, {"identifiers": other, "facts": {"risk": {"harm": "low"}}}),
        )
    ]
    token = door.system.issuer.token("a-person", "operator", ["identity", "operator"])
    url, headers = door.system.urls["consent"], {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        mend = await damage(owner, door, "a fact")
        links = {"clients": [one, two], "reason": "fingerprints"}
        refused = await http.post("/links", json=links)
        assert (refused.status_code, refused.json()["code"]) == (409, "cannot-be-read")
        said = {"identifiers": door.identifiers, "sameAs": other, "reason": "fingerprints"}
        linked = event("identity.linked", prison.name, said)
        answer = await published(prison, linked, "http")
        assert (answer["status"], answer["code"]) == (409, "cannot-be-read")
        assert (await prison.answered(linked))["code"] == "set-aside"
        await owner.execute(*mend)
        waiting = await owner.fetchval("SELECT min(id) FROM set_aside WHERE topic LIKE '%intake.' || $1", prison.name)
        retried = await door.operator.call("POST", f"/set-aside/arrived/{waiting}/retry")
        assert retried == {"outcome": "accepted"}
        link = await owner.fetchval("SELECT id FROM link ORDER BY linked_at DESC LIMIT 1")
        await owner.execute(mend[0], mend[1], "[]")
        refused = await http.delete(f"/links/{link}")
        assert (refused.status_code, refused.json()["code"]) == (409, "cannot-be-read")
        await owner.execute(*mend)
        assert (await http.delete(f"/links/{link}")).status_code == 204


async def test_a_run_that_erases_leaves_out_whom_it_cannot_read_and_goes_on(lone_door: Any, owner: Any) -> None:
    """Among what cannot be read may be what protects whoever has the number."""
    damaged, whole = lone_door, replace(lone_door, number=f"B{lone_door.number[1:]}")
    old = (datetime.now(UTC) - timedelta(days=800)).isoformat()
    facts = {"risk": {"harm": "low"}, "identity": {"givenName": "Robin", "familyName": "Fictional"}}
    for door in (damaged, whole):
        assert "accepted" in (await door.prison.answered(door.recorded(facts, time=old)))["type"]
    mend = await damage(owner, damaged, "a fact")
    rows = [await client_of(owner, door) for door in (damaged, whole)]
    environment = os.environ | lone_door.system.environment("consent.worker")
    command = [sys.executable, "-m", "consent.retention"]
    run = partial(subprocess.run, command, env=environment, capture_output=True, text=True, check=True)
    kept = "SELECT count(*) FROM fact WHERE client_id = $1 AND category = 'risk'"
    ran = await asyncio.to_thread(run)
    assert f"client row {rows[0]} is treated as held" in ran.stdout + ran.stderr
    assert [await owner.fetchval(kept, row) for row in rows] == [1, 0]
    (hold,) = await damage_holds(damaged, owner)
    await owner.execute(*mend)
    await damaged.operator.call("DELETE", f"/holds/{hold}")
    await asyncio.to_thread(run)
    assert await owner.fetchval(kept, rows[0]) == 0


async def test_a_restore_reads_back_what_stops_also_for_whom_it_cannot_read(lone_door: Any, owner: Any) -> None:
    damaged, whole = lone_door, replace(lone_door, number=f"B{lone_door.number[1:]}")
    lost = []
    for count, door in enumerate((damaged, whole), 1):
        await door.prison.answered(door.recorded())
        await decided(door)
        await door.prison.answered(door.consent(door.hostel))
        await was_told(door.hostel, count)
    now, hostel = datetime.now(UTC), damaged.hostel.name
    for offset, record in enumerate(await damaged.hostel.received()):
        reference = UUID(record.event["subject"])
        changes, topic = Changes(), f"partner.{hostel}"
        owed = Owed(Reference(reference, hostel, True, 0), [Purpose.REFERRAL])
        queue_retraction(changes, StopRow(uuid4(), 0, 9, "withdrawn", now), owed, topic, consent_version=9)
        (one,) = changes.retractions
        place = topic, 0, 1_000_000 + offset
        read = Retracted(one.id, 9, True, frozenset({Purpose.REFERRAL}), None, now, one.body, place)
        lost.append(UnderReference(hostel, reference, 9, [read]))
    await damage(owner, damaged, "what was said")
    worker = damaged.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"]
    database = Database(worker, 1, "test")
    try:
        taken = await database.run(lambda session: take_back(session, Restore(0, now, False), lost))
    finally:
        await database.close()
    assert taken.retractions == 2
    withdrawn = "SELECT count(*) FROM sharing_fact WHERE client_id = $1 AND kind = 'withdrawn'"
    assert [await owner.fetchval(withdrawn, await client_of(owner, door)) for door in (damaged, whole)] == [1, 1]
    assert len(await damage_holds(damaged, owner)) == 1


async def test_what_a_service_confirms_of_whom_it_cannot_read_counts(lone_door: Any, owner: Any) -> None:
    """Else the retraction would be overdue for ever, though the service stopped and erased."""
    door = lone_door
    await recorded(door)
    said = door.withdrawal()
    await door.prison.answered(said)
    await door.prison.done(said["id"])
    mine = "FROM retraction JOIN reference f ON f.id = reference WHERE f.client_id = $1 AND f.recipient = 'referral'"
    row = await client_of(owner, door)
    retraction, reference = await owner.fetchrow(f"SELECT retraction.id, reference {mine}", row)
    await damage(owner, door, "a fact")
    confirmed = Talk("referral").acknowledged(reference, retraction, datetime.now(UTC), None)
    database = Database(door.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"], 1, "test")
    try:
        await database.run(lambda session: take_requests(session, [Asked("referral", confirmed.value)]))
    finally:
        await database.close()
    assert await owner.fetchval(f"SELECT acknowledged_at IS NOT NULL {mine}", row)


# --- a page is answered -----------------------------------------------------------------------------------------------


async def damage_met(door: Any) -> float:
    """How often the API came upon a client of whom something cannot be read."""
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=30) as http:
        lines = (await http.get("/metrics")).text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("throughgate_damaged_total ")))


async def test_one_of_whom_something_cannot_be_read_is_held_and_the_others_are_shown(
    lone_door: Any, owner: Any
) -> None:
    damaged, whole = lone_door, replace(lone_door, number=f"B{lone_door.number[1:]}")
    offence = {"offence": {"mainOffence": "made up", "spentOn": "2090-01-01"}}
    mine = []
    for count, door in enumerate((damaged, whole), 1):
        mine.append((await door.prison.answered(door.recorded()))["client"])
        assert (await door.prison.answered(door.recorded(offence)))["type"].endswith("accepted.v1")
        await decided(door)
        await door.prison.answered(door.consent(door.hostel))
        await was_told(door.hostel, count)
    theirs = [r.event["subject"] for r in await damaged.hostel.received()]
    ask = {"clients": mine, "recipient": damaged.hostel.name, "purpose": "referral"}
    for how in ("a fact", "what a fact is", "what was said", "a day"):
        mend = await damage(owner, damaged, "a fact" if how == "a day" else how)
        if how == "a day":
            await owner.execute(*mend)
            bad = "UPDATE fact SET data = '{\"spentOn\": 5}' WHERE client_id = $1 AND category = 'offence'"
            await owner.execute(bad, mend[1])
        before = await damage_met(damaged)
        first, other = sorted(await seen(damaged.hostel, theirs), key=lambda v: theirs.index(v["client"]))
        assert await damage_met(damaged) == before + 1
        by_client = {first["client"]: first, other["client"]: other}
        reference = await owner.fetchval(
            "SELECT id FROM reference WHERE client_id = $1 AND recipient = $2", mend[1], damaged.hostel.name
        )
        assert by_client.pop(str(reference))["sections"] == [], how
        assert [s["category"] for s in by_client.popitem()[1]["sections"]] == SEEN, how
        async with damaged.prison.http() as http:
            answer = await http.post("/decisions", json=ask | {"categories": ["identity", "offence"]})
            assert answer.status_code == 200, answer.text
            assert [[p["category"] for p in v["permitted"]] for v in answer.json()["verdicts"]] == [[], ["identity"]]
            told = await http.get(f"/clients/{mine[0]}/disclosures")
            assert told.status_code == 200, told.text
        if how != "a day":
            await owner.execute(*mend)


@pytest.mark.parametrize("body", [b"abc", b""])
async def test_an_entry_that_is_too_short_is_unreadable_and_the_others_are_told(
    lone_door: Any, owner: Any, body: bytes
) -> None:
    client = UUID(await recorded(lone_door))
    await owner.execute(
        "UPDATE ledger SET body = $2 WHERE id = (SELECT max(l.id) FROM ledger l JOIN reference r USING (client_id)"
        " WHERE r.id = $1 AND kind = 'disclosure')",
        client,
        body,
    )
    token = lone_door.system.issuer.token("p", lone_door.prison.name, ["disclosures:read", "subject-access"])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=lone_door.system.urls["consent"], headers=headers, timeout=30) as http:
        answer = await http.get(f"/clients/{client}/disclosures")
        page = await http.get(f"/clients/{client}/disclosures", headers={"Accept": "text/html"})
    assert answer.status_code == page.status_code == 200, answer.text
    entries = answer.json()["entries"]
    assert [e["kind"] for e in entries if e["unreadable"]] == ["disclosure"]
    assert len(entries) > 1
    assert "tampered" in page.text or "cannot be read" in page.text


def put_in(entry: Any, explanation: Any) -> bytes:
    """The body of an entry with another explanation in it, encrypted as the door does it."""
    key, (nonce, sealed) = AESGCM(entry["key"]), (entry["body"][:12], entry["body"][12:])
    plain = key.decrypt(nonce, sealed, entry["decision"].bytes)
    start = SALT_BYTES + 4
    told = plain[start + int.from_bytes(plain[SALT_BYTES:start], "big") :]
    written = json.dumps(explanation).encode()
    together = b"".join((plain[:SALT_BYTES], len(written).to_bytes(4, "big"), written, told))
    return bytes(nonce + key.encrypt(nonce, together, entry["decision"].bytes))


DECIDED = {"kind": "disclosure", "recipient": "hostel", "purpose": "referral", "decidedOn": 1}
ITEM = {"category": "identity", "source": "prison", "basis": "consent"}
NOT_OURS: dict[str, Any] = {
    "no object": [],
    "nothing in it": {},
    "no items": DECIDED,
    "items that are none": DECIDED | {"permitted": ["identity"], "withheld": []},
    "an item of nobody": DECIDED | {"permitted": [{"category": "identity", "basis": "consent"}], "withheld": []},
    "no such category": DECIDED | {"permitted": [ITEM | {"category": "shoes"}], "withheld": []},
    "no version": DECIDED | {"permitted": [ITEM], "withheld": [], "decidedOn": None},
    "no question": DECIDED | {"permitted": [ITEM], "withheld": [], "asked": []},
    "no day": DECIDED | {"permitted": [ITEM], "withheld": [], "asked": {"spent": {"prison": "soon"}}},
}


@pytest.mark.parametrize("how", NOT_OURS)
async def test_an_entry_that_says_what_the_door_never_does_is_unreadable_and_stops_nobody(
    lone_door: Any, owner: Any, how: str
) -> None:
    """Whoever asks is answered, and erasing redacts the entries behind it."""
    door = lone_door
    client = UUID(await recorded(door))
    await decided(door)
    entries = (
        "SELECT l.*, c.key FROM ledger l JOIN client c ON c.id = l.client_id WHERE l.kind = 'disclosure'"
        " AND l.client_id = (SELECT client_id FROM reference WHERE id = $1) ORDER BY l.id"
    )
    first, *others = await owner.fetch(entries, client)
    assert others
    await owner.execute("UPDATE ledger SET body = $2 WHERE id = $1", first["id"], put_in(first, NOT_OURS[how]))
    for scopes in (["disclosures:read"], ["disclosures:read", "subject-access"]):
        token = door.system.issuer.token("p", door.prison.name, scopes)
        async with httpx.AsyncClient(
            base_url=door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}, timeout=30
        ) as http:
            answer = await http.get(f"/clients/{client}/disclosures")
        assert answer.status_code == 200, answer.text
    assert [e["entry"] for e in answer.json()["entries"] if e["unreadable"]] == [first["id"]], "to all that was told"
    erase = {"identifiers": door.identifiers, "scope": "own", "reason": "client-asked"}
    await door.prison.answered(event("erasure.requested", door.prison.name, erase))

    async def redacted() -> bool:
        _, *rows = await owner.fetch(entries, client)
        return all(one is not None and one.told is None for one in (open_entry(SimpleNamespace(**r)) for r in rows))

    await eventually_true(redacted, "what was told to be erased from the others")


# --- who was erased is nobody -----------------------------------------------------------------------------------------


async def test_of_who_was_erased_nothing_is_decided_or_entered(lone_door: Any, owner: Any) -> None:
    door = lone_door
    client, reference = await recorded(door), await reference_of(door.hostel)
    row = await client_of(owner, door)
    erase = {"identifiers": door.identifiers, "scope": "everything", "reason": "client-asked"}
    said = event("erasure.requested", door.prison.name, erase)
    await door.prison.answered(said)
    await door.prison.done(said["id"])
    entered = await owner.fetchval("SELECT count(*) FROM ledger WHERE client_id = $1", row)
    body = {"clients": [client], "recipient": door.hostel.name, "purpose": "referral", "categories": SEEN}
    async with door.prison.http() as http:
        (verdict,) = (await http.post("/decisions", json=body)).json()["verdicts"]
    assert (verdict["known"], verdict["decision"], verdict["withheld"]) == (False, None, [])
    (view,) = await seen(door.hostel, [reference])
    assert (view["sections"], view["receipt"]) == ([], None)
    async with door.prison.http() as http:
        assert (await http.get(f"/clients/{client}/disclosures")).status_code == 200
    assert await owner.fetchval("SELECT count(*) FROM ledger WHERE client_id = $1", row) == entered
