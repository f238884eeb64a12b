"""Erasure leaves proof of erasure and nothing else; what is kept too long goes by itself."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.agency import Agency, event, eventually_true, granted, probation_number, terms
from support.door import accepted, but_readings, decided, override, recorded, reference_of, superuser, was_told

from consent.repository import ledger
from contracts.leaving import RETRACTED
from throughgate.promises import behind_retraction

WORDS = ("Robin", "Fictional", "Nowhere", "no fixed abode")


async def _readable(door: Any, *words: str) -> list[str]:
    """Every table of the door in which one of the words stands, whatever the column, bytes included.

    The ledger is opened for it, with the clients' keys: they stand in the same database.
    """
    async with superuser(door) as connection:
        tables = [r[0] for r in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        keys = {r["id"]: r["key"] for r in await connection.fetch("SELECT id, key FROM client")}
        found = []
        for table in tables:
            for row in await connection.fetch(f'SELECT * FROM "{table}"'):
                text = b" ".join(v if isinstance(v, bytes) else str(v).encode() for v in row.values())
                if table == "ledger" and row["body"] is not None and keys.get(row["client_id"]) is not None:
                    text += _plain(keys[row["client_id"]], row)
                if any(word.encode() in text for word in words):
                    found.append(table)
        return sorted(set(found))


def _plain(key: bytes, row: Any) -> bytes:
    """What a body of the ledger says, however it is laid out: here it is read without the code that is tested."""
    try:
        return AESGCM(key).decrypt(row["body"][:12], row["body"][12:], row["decision"].bytes)
    except InvalidTag:
        return b""  # that of an erasure, which names nobody


async def _goes(door: Any, *words: str) -> None:
    """Wait until the words stand nowhere any more: the ledger is redacted a moment after the retractions have left."""

    async def gone() -> bool:
        return await _readable(door, *words) == []

    await eventually_true(gone, "the words to be nowhere")


def erasure(door: Any, agency: Any, scope: str) -> dict[str, Any]:
    data = {"identifiers": door.identifiers, "scope": scope, "reason": "client-asked"}
    return event("erasure.requested", agency.name, data)


async def _told_of(door: Any, words: str) -> None:
    """The hostel was told these words, and nothing of the client is queued any more."""
    await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": words}}))
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    await decided(door)


async def test_everything_is_erased_and_what_is_left_is_proof(door: Any) -> None:
    await recorded(door)
    assert {"fact", "identifier"} <= set(await _readable(door, door.number, *WORDS)), "the search finds what is there"
    asked = erasure(door, door.prison, "everything")
    first = await door.prison.answered(asked)
    done = await door.prison.done(asked["id"])
    assert {d["recipient"] for d in done["recipients"]} == {door.hostel.name, door.mentors.name, "referral"}
    assert await _readable(door, door.number) == []
    async with superuser(door) as connection:
        entries = await connection.fetch(
            "SELECT kind, decision, queue_id, recipient, purpose, type, decided_at, sources, body, length(leaf) AS leaf"
            " FROM ledger WHERE client_id = (SELECT client_id FROM reference WHERE id = $1::uuid) ORDER BY id",
            first["client"],
        )
        keys = await connection.fetchval(
            "SELECT count(key) FROM client WHERE id = (SELECT client_id FROM reference WHERE id = $1::uuid)",
            first["client"],
        )
    *closed, erased = entries
    assert len(closed) > 2
    assert all(e["leaf"] == 32 for e in entries), "the leaves are left"
    said: tuple[Any, ...] = (erased["decision"], None, None, None, "erased", erased["decided_at"], [], None)
    assert {tuple(e.values())[1:-1] == said for e in closed} == {True}, "and nothing else that could be read"
    assert {e["kind"] for e in closed} == {"erased"}
    assert (erased["kind"], erased["sources"], erased["body"] is None) == ("erasure", [door.prison.name], False)
    assert keys == 0
    (entry,) = await _history(door, door.prison, first["client"])
    assert (entry["kind"], entry["details"]["erased"]) == ("erasure", "everything")
    of_hostel = str((await door.hostel.received())[0].event["subject"])
    assert await _history(door, door.hostel, of_hostel) == [], "an old reference tells a recipient nothing"
    records = await door.hostel.received()
    assert records[-1].event["type"] == RETRACTED
    assert behind_retraction(records) == []


async def _history(door: Any, agency: Agency, client: str, *scopes: str) -> list[dict[str, Any]]:
    token = door.system.issuer.token("p", agency.name, scopes or ["disclosures:read", "subject-access"])
    async with httpx.AsyncClient(
        base_url=door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}
    ) as http:
        answer = await http.get(f"/clients/{client}/disclosures")
    assert answer.status_code == 200, answer.text
    return list(but_readings(answer.json())["entries"])


async def test_what_is_entered_of_a_client_behind_its_erasure_is_closed_as_well(door: Any) -> None:
    """As by a cycle of the discloser that had begun, and read the client's key before."""
    first = await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    await decided(door)
    of_client = "client_id = (SELECT client_id FROM reference WHERE id = $1::uuid)"
    async with superuser(door) as connection:
        late = await connection.fetchrow(
            f"SELECT * FROM ledger WHERE kind = 'disclosure' AND {of_client}", first["client"]
        )
        with _discloser_stopped(door):
            asked = erasure(door, door.prison, "everything")
            await door.prison.answered(asked)
            columns = [name for name in dict(late) if name not in ("id", "shard", "sequence", "position")]
            values = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
            await connection.execute(
                f"INSERT INTO ledger ({', '.join(columns)}) VALUES ({values})", *[late[name] for name in columns]
            )
        await door.prison.done(asked["id"])

        async def closed() -> bool:
            kinds = f"SELECT array_agg(DISTINCT kind ORDER BY kind) FROM ledger WHERE {of_client}"
            return bool(await connection.fetchval(kinds, first["client"]) == ["erased", "erasure"])

        await eventually_true(closed, "it to be closed")
        erasures = f"SELECT count(*) FROM ledger WHERE kind = 'erasure' AND {of_client}"
        assert await connection.fetchval(erasures, first["client"]) == 2, "each says what it closed"


async def test_what_is_queued_of_a_client_behind_its_erasure_is_dropped_and_not_entered(door: Any) -> None:
    """Nothing of it could leave, and an entry would name a recipient of somebody of whom nothing is kept."""
    await recorded(door)
    reference = await reference_of(door.hostel)
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    entries = "SELECT count(*) FROM ledger WHERE client_id = (SELECT client_id FROM reference WHERE id = $1::uuid)"
    async with superuser(door) as connection:
        before = await connection.fetchval(entries, reference)
        id = await connection.fetchval(
            "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at, keyed_by)"
            " SELECT 2, client_id, recipient, 'partner.' || recipient, id, 'throughgate.client.snapshot.v1',"
            " 'referral', '{}', clock_timestamp(), client_id FROM reference WHERE id = $1::uuid RETURNING queue.id",
            reference,
        )

        async def gone() -> bool:
            return not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM queue WHERE id = $1)", id)

        await eventually_true(gone, "the row to be dropped")
        assert await connection.fetchval(entries, reference) == before


async def test_the_entry_of_an_erasure_leads_to_its_leaf_for_an_auditor(lone_door: Any) -> None:
    await recorded(lone_door)
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
    words = f"a room near Lane {door.number}"
    await _told_of(door, words)
    assert await _readable(door, words) == ["fact", "ledger"], "the search finds what was told"
    asked = erasure(door, door.prison, scope)
    answer = await door.prison.post(asked)
    assert answer.is_success, answer.text
    await door.prison.done(asked["id"])
    await _goes(door, words, *([door.number] if scope == "everything" else []))


async def _own_erased(door: Any, words: str) -> None:
    """The hostel was told the words, and then the prison had its own records erased."""
    await _told_of(door, words)
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await _goes(door, words)


_CLIENT = "(SELECT client_id FROM identifier WHERE value = $1)"
_STOP = f"(SELECT id FROM withdrawal WHERE because = 'erased' AND client_id = {_CLIENT})"


async def test_what_is_decided_before_an_erasure_and_entered_after_it_is_redacted_as_well(door: Any) -> None:
    """As when a cycle of the discloser had begun: until the retractions have left the ledger is looked at again."""
    words = f"a room near Lane {door.number}"
    await _told_of(door, words)
    late = f"SELECT id, body FROM ledger WHERE kind = 'disclosure' AND client_id = {_CLIENT}"
    waiting = f"SELECT due_at > clock_timestamp() FROM ledger_erasure WHERE client_id = {_CLIENT}"
    async with superuser(door) as connection:
        entries = await connection.fetch(late, door.number)
        with _discloser_stopped(door):
            await door.prison.answered(erasure(door, door.prison, "own"))
            await _goes(door, words)

            async def looked_at_once() -> bool:
                return bool(await connection.fetchval(waiting, door.number))

            await eventually_true(looked_at_once, "it to wait for the retractions")
            for entry in entries:
                await connection.execute("UPDATE ledger SET body = $2 WHERE id = $1", entry["id"], entry["body"])
            assert await _readable(door, words) == ["ledger"]
        await _goes(door, words)

        async def done() -> bool:
            return await connection.fetchval(waiting, door.number) is None

        await eventually_true(done, "it to wait no more")


@contextmanager
def _discloser_stopped(door: Any) -> Iterator[None]:
    door.system.stop_process("consent.discloser")
    try:
        yield
    finally:
        door.system.start_process("consent.discloser")


async def test_what_is_told_after_an_erasure_stays_in_the_ledger(door: Any) -> None:
    await _own_erased(door, f"a room near Lane {door.number}")
    again = f"a bed near Lane {door.number}"
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": again}}))
    await was_told(door.hostel, before + 1)
    async with superuser(door) as connection:  # as if one of the retractions of the erasure had waited until now
        await connection.execute(
            "INSERT INTO ledger_erasure (client_id, withdrawal_id, source)"
            f" SELECT client_id, id, $2 FROM withdrawal WHERE id = {_STOP}",
            door.number,
            door.prison.name,
        )

        async def redacted() -> bool:
            return not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM ledger_erasure)")

        await eventually_true(redacted, "the ledger to be looked at")
    assert await _readable(door, again) == ["fact", "ledger"]


async def test_what_was_shown_is_redacted_and_cannot_be_guessed_from_its_hash(door: Any) -> None:
    words = f"a room near Lane {door.number}"
    await _told_of(door, words)
    asked = {
        "clients": [await reference_of(door.hostel)],
        "purpose": "referral",
        "categories": ["needs.accommodation"],
    }
    async with door.hostel.http() as http:
        answer = await http.post("/views", json=asked)
    assert words in answer.text
    entries = f"SELECT l.*, c.key FROM ledger l JOIN client c ON c.id = l.client_id WHERE client_id = {_CLIENT}"
    async with superuser(door) as connection:
        (shown,) = [row for row in await connection.fetch(entries, door.number) if row["kind"] == "view"]
        opened = ledger.open(SimpleNamespace(**shown))
        assert opened is not None
        assert opened.told is not None
        told = json.loads(opened.told)
        assert told["sections"][0]["data"]["summary"] == words
        erased = erasure(door, door.prison, "own")
        await door.prison.answered(erased)
        await door.prison.done(erased["id"])
        await _goes(door, words)
        await _goes(door, told["id"])  # without it nobody can try what the rest was
        (shown,) = [row for row in await connection.fetch(entries, door.number) if row["kind"] == "view"]
        assert b'"needs.accommodation"' in _plain(shown["key"], shown), "that it was shown, and on what grounds"


@pytest.mark.parametrize("undone", [False, True])
async def test_what_was_told_of_a_linked_client_is_redacted_as_well(door: Any, undone: bool) -> None:
    words, reason = f"a room near Lane {door.number}", f"fingerprints of {door.number}"
    other = [{"type": "CRN", "value": probation_number()}]
    await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": words}}))
    risk = {"identifiers": other, "facts": {"risk": {"harm": "low"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, risk))
    same = {"identifiers": door.identifiers, "sameAs": other, "reason": reason}
    linked = await door.prison.answered(event("identity.linked", door.prison.name, same))
    assert linked["type"].endswith("accepted.v1"), linked
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    assert await _readable(door, reason) == ["ledger"], "why they were linked stands under the client's key alone"
    if undone:
        apart = {"identifiers": door.identifiers, "notSameAs": other, "reason": "not the same"}
        unlinked = await door.prison.answered(event("identity.unlinked", door.prison.name, apart))
        assert unlinked["type"].endswith("accepted.v1"), unlinked
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await _goes(door, words)
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await _goes(door, door.number, words, reason)


async def test_what_was_told_of_two_is_redacted_when_all_of_one_is_erased_and_the_link_was_undone(door: Any) -> None:
    words = f"a room near Lane {door.number}"
    other = [{"type": "CRN", "value": probation_number()}]
    await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": words}}))
    risk = {"identifiers": other, "facts": {"risk": {"harm": "low"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, risk))
    both = {"identifiers": door.identifiers, "reason": "made up"}
    await door.prison.answered(event("identity.linked", door.prison.name, both | {"sameAs": other}))
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    meanwhile = f"a bed near Lane {door.number}"
    await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": meanwhile}}))
    await was_told(door.hostel, 2)
    reason = f"he says that {door.number} is his"
    apart = both | {"notSameAs": other, "reason": reason}
    await door.prison.answered(event("identity.unlinked", door.prison.name, apart))
    left = (await door.prison.answered(event("client.recorded", door.prison.name, risk)))["client"]
    assert await _combinations(door, left) == [("linked", "made up"), ("unlinked", reason)], "each once"
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await _goes(door, words, meanwhile, reason)
    assert await _combinations(door, left) == [("linked", None), ("unlinked", None)]


async def test_a_number_that_could_be_of_either_goes_when_both_are_erased(door: Any) -> None:
    """Whose it was, nobody can say after the link was undone; of nobody, it is to be kept of nobody."""
    other, doubtful = ([{"type": "CRN", "value": probation_number()}], [{"type": "CASE", "value": f"D-{door.number}"}])
    await accepted(door.prison, door.recorded({"risk": {"harm": "low"}}))
    risk = {"identifiers": other, "facts": {"risk": {"harm": "low"}}}
    await accepted(door.prison, event("client.recorded", door.prison.name, risk))
    both = {"identifiers": door.identifiers, "reason": "made up"}
    await accepted(door.prison, event("identity.linked", door.prison.name, both | {"sameAs": other}))
    whole = risk | {"identifiers": [*door.identifiers, *other, *doubtful]}
    await accepted(door.prison, event("client.recorded", door.prison.name, whole))
    await accepted(door.prison, event("identity.unlinked", door.prison.name, both | {"notSameAs": other}))
    ask = {"scope": "everything", "reason": "client-asked"}
    for numbers in (door.identifiers, other):
        assert await _readable(door, doubtful[0]["value"]) == ["identifier"], "it may be the other's"
        await accepted(door.prison, event("erasure.requested", door.prison.name, ask | {"identifiers": numbers}))
    await _goes(door, door.number, doubtful[0]["value"])
    await accepted(door.prison, event("client.recorded", door.prison.name, risk | {"identifiers": doubtful}))


async def _combinations(door: Any, client: str) -> list[tuple[str, str | None]]:
    """What was combined or parted and why, as the prison may tell the client, the oldest first."""
    entries = [e["details"] for e in await _history(door, door.prison, client) if e["kind"] == "combination"]
    return [(one["what"], one.get("reason")) for one in reversed(entries)]


async def test_why_two_were_told_apart_goes_with_either_and_the_rest_of_the_other_stays(door: Any) -> None:
    prison, words, reason = door.prison, f"a bed near Lane {door.number}", f"{door.number} has a brother"
    other = [{"type": "CRN", "value": probation_number()}]
    told = {"identifiers": other, "facts": {"needs.accommodation": {"level": "soon", "summary": words}}}
    one = (await prison.answered(door.recorded()))["client"]
    left = (await prison.answered(event("client.recorded", prison.name, told)))["client"]
    consent = granted(other, [door.hostel.name], ["referral"], ["needs.accommodation"])
    await prison.answered(event("consent.granted", prison.name, consent))
    await was_told(door.hostel)
    threat = override(door, reason="a threat by the other") | {"identifiers": other}
    await prison.answered(event("override.authorised", prison.name, threat))
    both = {"identifiers": [*door.identifiers, *other], "facts": told["facts"]}
    assert (await prison.answered(event("client.recorded", prison.name, both)))["code"] == "identifier-conflict"
    token = door.system.issuer.token("a-person", prison.name, ["identity"])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], headers=headers) as http:
        (pair,) = (await http.get("/candidates")).json()
        decision = {"decision": "different", "reason": reason}
        answer = await http.post(f"/candidates/{pair['candidate']}/decision", json=decision)
    assert answer.status_code == 200, answer.text
    assert await _readable(door, reason) == ["ledger"]
    for client in (one, left):
        assert await _combinations(door, client) == [("told-apart", reason)]
        seen = await _history(door, prison, client, "disclosures:read")
        assert "combination" not in {e["kind"] for e in seen}, "who knows one of the two does not learn of the other"
    asked = erasure(door, prison, "everything")
    await prison.answered(asked)
    await prison.done(asked["id"])
    await _goes(door, reason)
    assert await _combinations(door, left) == [("told-apart", None)]
    assert "ledger" in await _readable(door, words)
    assert "ledger" in await _readable(door, threat["reason"])


async def test_what_an_erasure_entered_stays_when_its_row_is_erased_once_more(door: Any) -> None:
    """As where an erased client was linked with another, which is refused."""
    client = (await door.prison.answered(door.recorded()))["client"]
    asked = erasure(door, door.prison, "everything")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    again = (await door.prison.answered(door.recorded()))["client"]
    row, other = (f"(SELECT client_id FROM reference WHERE id = ${n}::uuid)" for n in (1, 2))
    entered = f"SELECT decision, body FROM ledger WHERE kind = 'erasure' AND client_id = {row}"
    async with superuser(door) as connection:
        before = await connection.fetch(entered, client)
        await connection.execute(f"UPDATE client SET parts = ARRAY[{row}] WHERE id = {other}", client, again)
        await connection.execute(f"UPDATE client SET merged_into = {other} WHERE id = {row}", client, again)
        asked = erasure(door, door.prison, "everything")
        await door.prison.answered(asked)
        await door.prison.done(asked["id"])
        assert await connection.fetch(entered, client) == before


async def test_the_day_on_which_a_conviction_is_spent_goes_with_it(lone_door: Any) -> None:
    door, day = lone_door, f"20{random.randint(40, 99)}-07-0{random.randint(1, 9)}"
    wanted = [terms("referral", ["identity", "offence"])]
    await door.operator.agree(f"offences-{door.prison.name}", [door.prison.name], [door.hostel.name], wanted)
    await door.prison.answered(door.recorded({"offence": {"mainOffence": "made up", "spentOn": day}}))
    await decided(door)
    await door.prison.answered(door.consent(door.hostel, categories=["offence"]))
    await was_told(door.hostel)
    assert {"fact", "ledger"} <= set(await _readable(door, day))
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await _goes(door, day)
    token = door.system.issuer.token("auditor", "operator", ["audit"])
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], headers=headers) as http:
        entries = (await http.get("/ledger/entries?shard=0&open=true")).json()
    told = [e for e in entries if e["kind"] == "disclosure"]
    assert told[-1]["opened"] == {"erased": True, "leaf": None, "agrees": True}, "it is not said to be as it was sealed"


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
    async with superuser(door) as connection:
        hold = await connection.fetchval(
            "SELECT h.id FROM hold h JOIN identifier USING (client_id) WHERE value = $1 AND lifted_at IS NULL",
            door.number,
        )
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
    async with superuser(door) as connection:  # a year on, the digests are deleted and the client is known for long
        await connection.execute("UPDATE erased_number SET erased_at = erased_at - interval '366 days'")
        _run(door)
        assert await connection.fetchval("SELECT count(*) FROM erased_number") == 0
    again = erasure(door, door.prison, "everything")
    await door.prison.answered(again)
    await door.prison.done(again["id"])
    async with superuser(door) as connection:
        await connection.execute("DELETE FROM erased_number")
    await door.prison.answered(door.recorded())
    await door.prison.answered(very_late)
    await door.prison.answered(door.consent(door.mentors))

    async def told() -> bool:
        return any(r.event["type"].startswith("throughgate.client.snapshot") for r in await door.mentors.received())

    await eventually_true(told, "what was agreed since permits")
    assert {r.event["type"] for r in (await door.hostel.received())[before:]} <= {RETRACTED}


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
    async with superuser(door) as connection:
        await connection.execute("UPDATE agreement SET starts = starts - interval '2 hours' WHERE id = $1", agreement)
        await connection.execute(
            "UPDATE queue SET due_at = due_at - interval '2 hours' WHERE recipient = $1 AND kind = 2",
            door.probation.name,
        )


async def test_what_is_erased_does_not_leave_behind_its_retraction(door: Any) -> None:
    agreement = await _subscribes_later(door, door.probation)
    words = f"a room near Lane {door.number}"
    need = {"needs.accommodation": {"level": "soon", "summary": words}}
    await door.prison.answered(door.recorded(need))
    await door.prison.answered(door.consent(door.probation))
    section = {"source": door.prison.name, "category": "needs.accommodation", "recordedAt": datetime.now(UTC)}
    body = orjson.dumps({"sections": [section | {"data": need["needs.accommodation"]}]}).decode()
    async with superuser(door) as connection:  # as what was queued before the agreement came to begin later
        waits = "UPDATE queue SET type = $2, body = $3 WHERE recipient = $1 AND kind = 2"
        await connection.execute(waits, door.probation.name, "throughgate.client.changed.v1", body)
    assert "queue" in await _readable(door, words)
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    in_queue = await _readable(door, words)
    await _hour_passes(door, agreement)

    async def nothing_waits() -> bool:
        return await _waiting(door) == []

    await eventually_true(nothing_waits, "the row to be decided")
    assert [r.event["type"] for r in await door.probation.received()] == [RETRACTED]
    assert "queue" not in in_queue, "nor could it be read while it waited"


async def _waiting(door: Any) -> list[Any]:
    async with superuser(door) as connection:
        return list(
            await connection.fetch("SELECT id, body FROM queue WHERE recipient = $1 AND kind = 2", door.probation.name)
        )


async def test_what_waits_for_a_person_loses_what_is_erased_and_keeps_the_rest(door: Any) -> None:
    await door.prison.answered(door.recorded())
    now, source, other = datetime.now(UTC).isoformat(), door.prison.name, door.mentors.name
    words = f"Lane {door.number}"
    sections = [
        {"source": of, "category": "contact", "recordedAt": now, "data": {"address": f"{words}, for {of}"}}
        for of in (source, other)
    ]
    request = {"about": [[other, "contact"]], "sections": sections, "message": {"note": "as before"}}
    async with superuser(door) as connection:
        try:
            said_again = {"about": [[source, "contact"]], "sections": [], "message": {"note": f"{words}, for {source}"}}
            for body in (json.dumps(request), json.dumps(said_again), f"not JSON, but {words}, for {source}"):
                await connection.execute(
                    "INSERT INTO queue (kind, client_id, keyed_by, recipient, topic, reference, type, purpose, body,"
                    " requester, reference_of_requester, request, due_at, set_aside) SELECT 2, client_id, client_id,"
                    " $2, 'partner.' || $2, gen_random_uuid(), 'throughgate.referral.made.v1', 'referral', $3,"
                    " 'referral', gen_random_uuid(), gen_random_uuid(), now(), 'for a test' FROM identifier"
                    " WHERE value = $1",
                    door.number,
                    door.probation.name,
                    body,
                )
            await door.prison.answered(erasure(door, door.prison, "own"))
            assert await _readable(door, f"for {source}") == []
            left = {row["body"] for row in await _waiting(door)}
            assert [json.loads(body) for body in sorted(left, key=len)] == [
                {},
                {"sections": []},
                request | {"sections": sections[1:]},
            ]
        finally:
            await connection.execute("DELETE FROM queue WHERE set_aside = 'for a test'")


async def test_who_was_erased_is_a_stranger_afterwards(door: Any) -> None:
    await recorded(door)
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
    await _goes(door, "a room kept for a week")

    async def goes_on() -> bool:
        last = (await door.mentors.received())[-1].event
        return last["type"] != RETRACTED and {s["source"] for s in last["data"]["sections"]} == {door.prison.name}

    await eventually_true(goes_on, "what the prison recorded goes on behind the retraction")
    assert behind_retraction(await door.mentors.received()) == []


async def test_what_is_recorded_again_after_an_erasure_may_have_its_old_version(door: Any) -> None:
    await door.prison.answered(door.recorded(clientversion=3))
    asked = erasure(door, door.prison, "own")
    await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    await door.prison.answered(door.recorded({"identity": {"givenName": "Old", "familyName": "Name"}}, clientversion=2))
    await door.prison.answered(door.recorded({"identity": {"givenName": "New", "familyName": "Name"}}, clientversion=3))
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))

    async def told_again() -> bool:
        return any(r.event["data"].get("sections") for r in await door.hostel.received())

    await eventually_true(told_again, "what was recorded again")
    told = [s["data"] for r in await door.hostel.received() for s in r.event["data"].get("sections", ())]
    assert [data["givenName"] for data in told if "givenName" in data] == ["New"], "an older version stays history"


def _run(door: Any, **settings: str) -> str:
    """The run that erases what is overdue; gives what it says."""
    environment = os.environ | door.system.environment("consent.worker") | settings
    return subprocess.run(
        [sys.executable, "-m", "consent.retention"], env=environment, check=True, capture_output=True, text=True
    ).stdout


async def test_what_is_kept_too_long_is_erased_by_a_run(door: Any) -> None:
    old = (datetime.now(UTC) - timedelta(days=800)).isoformat()
    told, kept = f"a room near Lane {door.number}", f"Of {door.number}"
    facts = {
        "needs.accommodation": {"level": "soon", "summary": told},
        "identity": {"givenName": "Robin", "familyName": kept},
    }
    await door.prison.answered(door.recorded(facts, time=old))
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    assert await _readable(door, told) == ["fact", "ledger"]
    assert "of 1 clients" in _run(door)
    await _goes(door, told)  # needs are kept for two years
    assert "fact" in await _readable(door, kept), "identity is kept for six"
    assert "of 0 clients" in _run(door)


async def test_what_was_told_and_then_replaced_goes_when_its_period_is_over(lone_door: Any) -> None:
    """It stands in no section any more that could fall due. What was told since stays, and who was told of what."""
    door = lone_door
    words, newer = f"a room near Lane {door.number}", f"a bed near Lane {door.number}"
    await _told_of(door, words)
    entries = f"SELECT l.*, c.key FROM ledger l JOIN client c ON c.id = l.client_id WHERE l.client_id = {_CLIENT}"
    async with superuser(door) as connection:
        before = len(await door.hostel.received())
        await connection.execute("UPDATE ledger SET decided_at = decided_at - interval '150 days'")
        await door.prison.answered(door.recorded({"needs.accommodation": {"level": "soon", "summary": newer}}))
        await was_told(door.hostel, before + 1)
        await decided(door)
        assert "ledger" in await _readable(door, words)
        longer = '{"needs.accommodation": 160, "contact": 140}'
        assert "of 0 clients" in _run(door, THROUGHGATE_RETENTION_DAYS=longer)
        assert "ledger" in await _readable(door, words), "it is not so old yet"
        assert "of 0 clients" in _run(door, THROUGHGATE_RETENTION_DAYS='{"needs.accommodation": 140}')
        assert await _readable(door, words) == [], "another category had that period before"
        assert {"fact", "ledger"} <= set(await _readable(door, newer))
        told = [e for e in await connection.fetch(entries, door.number) if e["kind"] == "disclosure"]
        assert all(b'"needs.accommodation"' in _plain(e["key"], e) for e in told)
        opened = [ledger.open(SimpleNamespace(**e)) for e in told]
        assert [one.leaf.hash for one in opened if one] == [e["leaf"] for e in told], "each leads to its leaf"


_AGO = "interval '7 years'"
_MOVED = (
    f"UPDATE client SET made_at = made_at - {_AGO} WHERE id = {_CLIENT}",
    f"UPDATE fact SET recorded_at = recorded_at - {_AGO} WHERE client_id = {_CLIENT}",
    f"UPDATE sharing_fact SET recorded_at = recorded_at - {_AGO} WHERE client_id = {_CLIENT}",
    f"UPDATE ledger SET decided_at = decided_at - {_AGO} WHERE client_id = {_CLIENT}",
)


async def _seven_years_pass(door: Any) -> None:
    """The clock moves on, by moving what was back."""
    async with superuser(door) as connection:
        for statement in _MOVED:
            await connection.execute(statement, door.number)


async def test_of_whom_nothing_is_left_nothing_is_kept_for_ever(door: Any) -> None:
    await recorded(door)
    await _seven_years_pass(door)
    assert "of 1 clients" in _run(door)
    assert {"identifier"} <= set(await _readable(door, door.number)), "the sections go first, and all are told"

    async def told() -> bool:
        return bool((await door.hostel.received())[-1].event["type"] == RETRACTED)

    await eventually_true(told, "the retraction")
    assert "of 0 clients" in _run(door), "the last that was told is not long ago"
    same = {"identifiers": door.identifiers, "restriction": "r-1"}
    stands = same | {"kind": "victim-safety", "reason": "a threat"}
    for kind, data, erased in (("imposed", stands, 0), ("lifted", same, 1)):
        said = await door.prison.answered(event(f"restriction.{kind}", door.prison.name, data))
        assert said["type"].endswith("accepted.v1"), said
        await _seven_years_pass(door)
        assert f"of {erased} clients" in _run(door), "what protects whoever has the number is kept"
    await _goes(door, door.number)
    async with superuser(door) as connection:
        left = await connection.fetch("SELECT kind, sources FROM ledger WHERE kind = 'erasure' AND body IS NOT NULL")
    assert left, "and that it went is entered"
    again = await door.prison.answered(door.recorded())
    assert again["type"].endswith("accepted.v1"), "the number begins anew"


# --- the worker does it once a day ------------------------------------------------------------------------------------


async def _finished(door: Any) -> float:
    """When the last run came to its end, by the worker's gauge."""
    async with httpx.AsyncClient() as http:
        told = (await http.get(f"{door.system.process_url('consent.worker')}/metrics")).text
    name = "throughgate_retention_finished_timestamp_seconds"
    return float(next(line for line in told.splitlines() if line.startswith(f"{name} ")).split()[1])


async def test_a_worker_erases_what_is_overdue_once_a_day(lone_door: Any) -> None:
    door = lone_door
    door.system.start_process("consent.worker", {"THROUGHGATE_COUNT_SECONDS": "0.2"})
    words = f"Of {door.number}"
    old = (datetime.now(UTC) - timedelta(days=800)).isoformat()
    async with superuser(door) as connection:
        risk = {"harm": "low", "considerations": words}
        await door.prison.answered(door.recorded({"risk": risk}, time=old))
        due = "SELECT next_at FROM retention_run"
        before = await connection.fetchval(due)
        assert timedelta(hours=23) < before - datetime.now(UTC) < timedelta(hours=25), "it ran when the door began"
        await asyncio.sleep(2)
        assert await _readable(door, words) == ["fact"], "it is not due"
        async with connection.transaction():
            await connection.execute("UPDATE retention_run SET next_at = now(), finished_at = 'epoch'")
        await _goes(door, words)

        async def again_tomorrow() -> bool:
            return bool(await connection.fetchval(due) > before)

        await eventually_true(again_tomorrow, "the run to come to its end")

        async def told() -> bool:
            return datetime.now(UTC).timestamp() - await _finished(door) < 60

        await eventually_true(told, "the gauge to say so")
        assert await connection.fetchval("SELECT after FROM retention_run") == 0


async def test_of_several_workers_one_does_it(lone_door: Any) -> None:
    door, words = lone_door, f"Of {lone_door.number}"
    old = (datetime.now(UTC) - timedelta(days=800)).isoformat()
    await door.prison.answered(door.recorded({"risk": {"harm": "low", "considerations": words}}, time=old))
    async with superuser(door) as connection:
        await connection.execute("UPDATE retention_run SET next_at = now() + interval '1 s'")
        async with connection.transaction():  # as another worker does in a batch of its own
            await connection.execute("SELECT 1 FROM retention_run FOR UPDATE")
            await asyncio.sleep(4)
            assert await _readable(door, words) == ["fact"], "it is another's turn"
            waiting = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            assert await connection.fetchval(waiting) == 0, "and nobody does the same work and waits to enter it"
        await _goes(door, words)


async def test_one_that_cannot_be_erased_holds_up_nobody_else(lone_door: Any) -> None:
    door, words = lone_door, f"Of {lone_door.number}"
    damaged = replace(door, number=f"B{door.number[1:]}")
    old = (datetime.now(UTC) - timedelta(days=800)).isoformat()
    for one in (damaged, door):
        risk = {"harm": "low", "considerations": f"Of {one.number}"}
        await door.prison.answered(one.recorded({"risk": risk}, time=old))
    async with superuser(door) as connection:
        try:
            damage = f"UPDATE fact SET data = $2 || data WHERE client_id = {_CLIENT}"
            await connection.execute(damage, damaged.number, "no JSON")
            await connection.execute("UPDATE retention_run SET next_at = now()")
            await _goes(door, words)
            assert await _readable(door, f"Of {damaged.number}") == ["fact"]
        finally:
            await connection.execute(f"DELETE FROM fact WHERE client_id = {_CLIENT}", damaged.number)


async def test_an_old_copy_that_a_link_hides_is_erased_as_well(door: Any) -> None:
    old = (datetime.now(UTC) - timedelta(days=400)).isoformat()
    second = [{"type": "CRN", "value": f"X{door.number[1:5]}{len(door.number)}0"}]
    await door.prison.answered(door.recorded({"contact": {"address": f"Old Lane {door.number}"}}, time=old))
    newer = {"identifiers": second, "facts": {"contact": {"address": f"New Lane {door.number}"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, newer))
    same = {"identifiers": door.identifiers, "sameAs": second, "reason": "fingerprints"}
    linked = await door.prison.answered(event("identity.linked", door.prison.name, same))
    assert linked["type"].endswith("accepted.v1"), linked
    assert "of 1 clients" in _run(door)
    await _goes(door, f"Old Lane {door.number}")
    assert "fact" in await _readable(door, f"New Lane {door.number}"), "the newer copy is kept"


async def test_what_could_not_be_applied_goes_with_the_client_whatever_it_names_it_by(lone_door: Any) -> None:
    """By a number, by what the agency or one of our services was told to name it by; what is of others stays."""
    door = lone_door
    client = (await door.prison.answered(door.recorded()))["client"]
    by_reference, by_another = ([{"type": "THROUGHGATE", "value": value}] for value in (client, str(uuid4())))
    async with superuser(door) as connection:
        ours = await connection.fetchval(
            "SELECT id FROM reference WHERE recipient = 'referral' ORDER BY client_id DESC"
        )
        waiting = [
            ("intake." + door.prison.name, {"identifiers": door.identifiers}),
            ("intake." + door.prison.name, {"identifiers": by_reference}),
            ("requests.referral", {"subject": str(ours)}),
            ("intake." + door.prison.name, {"identifiers": by_another}),
            ("intake." + door.hostel.name, {"identifiers": by_reference}),
        ]
        await connection.executemany(
            'INSERT INTO set_aside (topic, partition, "offset", reason, value) VALUES ($1, 0, $2, $3, $4)',
            [(topic, n, "ForATest", json.dumps({"data": named}).encode()) for n, (topic, named) in enumerate(waiting)],
        )
        await door.prison.answered(erasure(door, door.prison, "everything"))
        left = await connection.fetch(
            "SELECT \"offset\" FROM set_aside WHERE value IS NOT NULL AND reason = 'ForATest'"
        )
        assert {row[0] for row in left} == {3, 4}, "another's reference names nobody to this agency"


async def test_what_could_not_be_applied_is_not_kept_longer_than_the_shortest_period(lone_door: Any) -> None:
    door = lone_door
    async with superuser(door) as connection:
        await connection.executemany(
            'INSERT INTO set_aside (topic, partition, "offset", reason, value, set_aside_at)'
            " VALUES ('intake.nobody', 0, $1, 'ForATest', 'words', now() - make_interval(days => $2))",
            [(1, 364), (2, 366)],
        )
        await connection.execute("UPDATE retention_run SET next_at = now()")

        async def left() -> bool:
            rows = await connection.fetch(
                "SELECT \"offset\" FROM set_aside WHERE topic = 'intake.nobody' AND value IS NOT NULL"
            )
            return {row[0] for row in rows} == {1}

        await eventually_true(left, "the daily run to erase the older")
