"""The ledger and its proof: a partner and an auditor find what was tampered with, and say where."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.agency import event, eventually_true, prison_number
from support.commands import Commands
from support.door import decided, override, quiet, superuser, was_told

from contracts.heads import Head, sign_head


@pytest.fixture
def throughgate(lone_door: Any, tmp_path: Path) -> Commands:
    return Commands(lone_door.system, tmp_path)


@asynccontextmanager
async def tampered(door: Any) -> AsyncIterator[Any]:
    """A connection of a superuser, who can change everything; afterwards all is as it was."""
    await quiet(door)  # or a head that leaves meanwhile would wait again for ever afterwards: a reading makes one, too
    async with superuser(door) as db:
        await db.execute(
            "CREATE TABLE kept_ledger AS SELECT * FROM ledger; CREATE TABLE kept_head AS SELECT * FROM head"
        )
        await db.execute("CREATE TABLE kept_client AS SELECT id, key FROM client")
        try:
            yield db
        finally:
            await db.execute(
                "DELETE FROM ledger WHERE id <= (SELECT max(id) FROM kept_ledger) OR leaf = sha256('y');"
                " INSERT INTO ledger OVERRIDING SYSTEM VALUE SELECT * FROM kept_ledger;"
                " DELETE FROM head WHERE (shard, sequence) IN (SELECT shard, sequence FROM kept_head);"
                " INSERT INTO head SELECT * FROM kept_head;"
                " UPDATE client c SET key = k.key FROM kept_client k WHERE k.id = c.id;"
                " DROP TABLE kept_ledger, kept_head, kept_client"
            )


async def told(door: Any, count: int = 1) -> None:
    """The hostel was told something once more, and all of it is sealed and sent."""
    await door.prison.answered(door.recorded())
    await decided(door)
    if count == 1:
        await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel, count)
    await quiet(door)


# --- as a partner -----------------------------------------------------------------------------------------------------


async def test_a_partner_checks_its_topic_with_public_keys(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    await lone_door.prison.answered(lone_door.withdrawal())
    await quiet(lone_door)
    code, said = await throughgate("verify", "--as", lone_door.hostel.name)
    assert code == 0, said
    assert "2 records, 0 of them repeats: 1 receipts recomputed up to their signed heads, 1 retractions" in said
    assert "signed heads of shard 0, from 1 to" in said
    assert "All of it holds." in said


async def test_who_may_not_read_a_topic_is_told_so(lone_door: Any, throughgate: Commands) -> None:
    code, said = await throughgate("tail", f"intake.{lone_door.prison.name}", "--no-follow")  # it may write there
    assert code == 1
    assert "may not read" in said
    assert "TOPIC_AUTHORIZATION_FAILED" in said


@pytest.fixture
async def exported(lone_door: Any, throughgate: Commands, tmp_path: Path) -> dict[str, Path]:
    """What a partner keeps: its topic, the heads, the keys. Nothing else is needed to check it."""
    await told(lone_door)
    await told(lone_door, 2)
    await lone_door.prison.answered(lone_door.withdrawal())
    await quiet(lone_door)
    kept = {"records": tmp_path / "records", "heads": tmp_path / "heads", "keys": tmp_path / "keys"}
    for name, topic in (("records", f"partner.{lone_door.hostel.name}"), ("heads", "heads")):
        code, said = await throughgate("tail", topic, "--no-follow", "--as", lone_door.hostel.name)
        assert code == 0
        kept[name].write_text(said)
    async with httpx.AsyncClient() as http:  # nobody needs a token for it
        kept["keys"].write_bytes((await http.get(f"{lone_door.system.urls['consent']}/ledger-keys")).content)
    return kept


async def check(throughgate: Commands, kept: dict[str, Path]) -> tuple[int, str]:
    files = [f"--{name}={path}" for name, path in kept.items()]
    return await throughgate("verify", *files, env={"THROUGHGATE_CONSENT_URL": "http://127.0.0.1:9"})


async def test_it_checks_files_with_nothing_running(exported: dict[str, Path], throughgate: Commands) -> None:
    code, said = await check(throughgate, exported)
    assert code == 0, said
    assert "3 records" in said


def _alter(path: Path, change: Any) -> None:
    """Change the lines of a file, each read as JSON."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


async def test_a_record_that_says_something_else_is_found(exported: dict[str, Path], throughgate: Commands) -> None:
    def change(lines: list[Any]) -> None:
        first = next(line for line in lines if "receipt" in line["event"]["data"])
        first["event"]["data"]["receipt"]["permitted"][0]["basis"] = "vital-interests"

    _alter(exported["records"], change)
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "the record or its data.receipt.proof is not what was sealed" in said


async def test_a_record_behind_its_retraction_is_found(exported: dict[str, Path], throughgate: Commands) -> None:
    def change(lines: list[Any]) -> None:
        last = max(line["offset"] for line in lines)
        lines.append(next(line for line in lines if "receipt" in line["event"]["data"]) | {"offset": last + 1})

    _alter(exported["records"], change)
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "it stands behind the retraction at offset" in said


async def test_a_head_that_is_missing_is_found(exported: dict[str, Path], throughgate: Commands) -> None:
    _alter(exported["heads"], lambda lines: lines.pop(1))
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "follows 1: what is between them is missing" in said


async def test_two_readings_of_one_record_are_refused(exported: dict[str, Path], throughgate: Commands) -> None:
    text = exported["records"].read_text()
    exported["records"].write_text(text.replace('"data":', '"data":{},"data":', 1))
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "has a name twice in one object" in said


async def test_two_records_under_one_id_are_found(exported: dict[str, Path], throughgate: Commands) -> None:
    def change(lines: list[Any]) -> None:
        first, second = (line for line in lines if "receipt" in line["event"]["data"])
        second["event"]["id"] = first["event"]["id"]

    _alter(exported["records"], change)
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "its id stood before on a record that says otherwise" in said


async def test_two_records_at_one_place_are_found(exported: dict[str, Path], throughgate: Commands) -> None:
    """Which of them stands behind a retraction would depend on the order of the file."""

    def change(lines: list[Any]) -> None:
        lines[1] |= {"partition": lines[0]["partition"], "offset": lines[0]["offset"]}

    _alter(exported["records"], change)
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "another record has this place" in said


async def test_a_key_of_somebody_else_checks_nothing(
    exported: dict[str, Path], throughgate: Commands, tmp_path: Path
) -> None:
    exported["keys"].write_text(json.dumps([{"publicKey": "A" * 43, "id": "x"}]))
    code, said = await check(throughgate, exported)
    assert code == 1
    assert "which is not among those given" in said


# --- as an auditor ----------------------------------------------------------------------------------------------------


async def audit(throughgate: Commands, door: Any, *options: str) -> tuple[int, str]:
    return await throughgate("verify", "--ledger", "--as", door.hostel.name, *options)


async def test_the_ledger_is_as_it_was_sealed(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    for options in ((), ("--open",)):
        code, said = await audit(throughgate, lone_door, *options)
        assert code == 0, said
        assert "entries of the ledger recomputed in" in said


_ONE = "(SELECT id FROM ledger WHERE kind = 'disclosure' AND recipient LIKE 'hostel%' ORDER BY id DESC LIMIT 1)"

_PUT_IN = (
    "INSERT INTO ledger (kind, decision, client_id, recipient, purpose, type, decided_at, sources, leaf, shard,"
    " sequence, position) SELECT kind, gen_random_uuid(), client_id, recipient, purpose, type, decided_at, sources,"
    f" sha256('y'), shard, sequence, position FROM ledger WHERE id = {_ONE}"
)
TAMPERING = {
    "leaf": (f"UPDATE ledger SET leaf = sha256('x') WHERE id = {_ONE}", "its leaf was altered"),
    "taken out": (f"DELETE FROM ledger WHERE id = {_ONE}", "the entry is missing"),
    "put in": (_PUT_IN, "an entry was put in after the batch was sealed"),
}
OPENED = {
    "body": (f"UPDATE ledger SET body = set_byte(body, 40, get_byte(body, 40) # 1) WHERE id = {_ONE}", "not what was"),
    "body gone": (f"UPDATE ledger SET body = NULL WHERE id = {_ONE}", "not what was sealed"),
    "recipient": (f"UPDATE ledger SET recipient = 'mentors-0' WHERE id = {_ONE}", "not what was sealed"),
    "time": (f"UPDATE ledger SET decided_at = decided_at + interval '1 s' WHERE id = {_ONE}", "not what was sealed"),
    "sources": (f"UPDATE ledger SET sources = '{{}}' WHERE id = {_ONE}", "not what was sealed"),
    "another client": (
        f"UPDATE ledger SET client_id = (SELECT min(id) FROM client WHERE id <> client_id) WHERE id = {_ONE}",
        "not what was sealed",
    ),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_one_entry_that_was_tampered_with_is_named(what: str, lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    statement, finding = TAMPERING[what]
    async with superuser(lone_door) as db:
        place = await db.fetchrow(f"SELECT shard, sequence, position FROM ledger WHERE id = {_ONE}")
    async with tampered(lone_door) as db:
        await db.execute(statement)
        code, said = await audit(throughgate, lone_door)
    assert code == 1, said
    assert f"Shard {place[0]}, batch {place[1]}, position {place[2]}: {finding}" in said
    assert said.count("Shard 0,") == 1, "the others are as they were"


@pytest.mark.parametrize("what", OPENED)
async def test_what_an_entry_holds_is_checked_when_it_is_opened(
    what: str, lone_door: Any, throughgate: Commands
) -> None:
    await told(lone_door)
    async with superuser(lone_door) as db:
        place = await db.fetchrow(f"SELECT shard, sequence, position FROM ledger WHERE id = {_ONE}")
    async with tampered(lone_door) as db:
        await db.execute(OPENED[what][0])
        assert (await audit(throughgate, lone_door))[0] == 0, "the leaves are as they were"
        code, said = await audit(throughgate, lone_door, "--open")
    assert code == 1, said
    assert f"Shard {place[0]}, batch {place[1]}, position {place[2]}: what it holds" in said
    assert said.count("Shard 0,") == 1, "the others are as they were"


async def test_a_client_whose_key_is_copied_to_another_hides_nothing(lone_door: Any, throughgate: Commands) -> None:
    """What is moved to the other can be opened there: but it says of whom it was."""
    await told(lone_door)
    other = {"identifiers": [{"type": "CASE", "value": f"K-{lone_door.number}"}], "facts": {"risk": {"harm": "low"}}}
    reference = (await lone_door.prison.answered(event("client.recorded", lone_door.prison.name, other)))["client"]
    await quiet(lone_door)
    async with tampered(lone_door) as db:
        of_other = "(SELECT client_id FROM reference WHERE id = $1::uuid)"
        await db.execute(
            f"UPDATE client SET key = c.key FROM ledger l JOIN client c ON c.id = l.client_id WHERE l.id = {_ONE}"
            f" AND client.id = {of_other}",
            reference,
        )
        place = await db.fetchrow(f"SELECT shard, sequence, position FROM ledger WHERE id = {_ONE}")
        await db.execute(f"UPDATE ledger SET client_id = {of_other} WHERE id = {_ONE}", reference)
        code, said = await audit(throughgate, lone_door, "--open")
    assert code == 1, said
    assert f"Shard {place[0]}, batch {place[1]}, position {place[2]}: what it holds" in said


BESIDE = {
    "disclosure": ("kind = 'refusal'", "type = 'x'", "purpose = 'release-notification'", "queue_id = NULL"),
    "override": ("recipient = 'mentors-0'", "sources = '{mentors-0}'", "purpose = 'referral'", "queue_id = 1"),
}


async def test_every_column_beside_an_entry_is_sealed(lone_door: Any, throughgate: Commands) -> None:
    """One that says nothing as well: an override has no recipient of its own."""
    await told(lone_door)
    await lone_door.prison.answered(event("override.authorised", lone_door.prison.name, override(lone_door)))
    await quiet(lone_door)
    for kind, columns in BESIDE.items():
        for column in columns:
            async with tampered(lone_door) as db:
                last = f"(SELECT max(id) FROM ledger WHERE kind = '{kind}')"
                assert await db.execute(f"UPDATE ledger SET {column} WHERE id = {last}") == "UPDATE 1"
                code, said = await audit(throughgate, lone_door, "--open")
            assert code == 1, (kind, column, said)
            assert "what it holds, or what is kept beside it, is not what was sealed" in said, (kind, column)


async def erased(door: Any) -> str:
    """Somebody who was told of is erased, all of it; gives the prison's reference."""
    number, door.number = door.number, prison_number()
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded())
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel, before + 1)
    data = {"identifiers": door.identifiers, "scope": "everything", "reason": "client-asked"}
    asked = event("erasure.requested", door.prison.name, data)
    reply = await door.prison.answered(asked)
    await door.prison.done(asked["id"])
    async with superuser(door) as db:

        async def finished() -> bool:
            return not await db.fetchval("SELECT EXISTS (SELECT 1 FROM ledger_erasure)")

        await eventually_true(finished, "the erasure to be finished")
    await quiet(door)
    door.number = number
    return str(reply["client"])


_ERASED = "(SELECT client_id FROM reference WHERE id = $1::uuid)"
_CLOSED = f"(SELECT max(id) FROM ledger WHERE kind = 'erased' AND client_id = {_ERASED})"
_AMONG_THEM = (
    "UPDATE ledger l SET client_id = e.client_id, kind = 'erased', decision = e.decision, queue_id = NULL, body = NULL,"
    " recipient = NULL, purpose = NULL, type = 'erased', decided_at = e.decided_at, sources = '{}'"
    f" FROM ledger e WHERE e.id = {_CLOSED} AND l.id = {_ONE}"
)
HIDING = {
    "key destroyed": f"UPDATE client SET key = NULL WHERE id = (SELECT client_id FROM ledger WHERE id = {_ONE})",
    "moved to an erased client": f"UPDATE ledger SET client_id = {_ERASED} WHERE id = {_ONE}",
    "made one of those that were closed": _AMONG_THEM,
    "an erased one moved away": (
        f"UPDATE ledger SET client_id = (SELECT client_id FROM ledger WHERE id = {_ONE}) WHERE id = {_CLOSED}"
    ),
    "the erasure moved": (
        f"UPDATE ledger SET client_id = (SELECT client_id FROM ledger WHERE id = {_ONE})"
        f" WHERE kind = 'erasure' AND client_id = {_ERASED}"
    ),
    "an erased one told of": f"UPDATE ledger SET recipient = 'mentors-0' WHERE id = {_CLOSED}",
    "an erased one of another kind": f"UPDATE ledger SET kind = 'refusal' WHERE id = {_CLOSED}",
    "an erased one of another time": f"UPDATE ledger SET decided_at = now() WHERE id = {_CLOSED}",
}


async def test_erasure_leaves_proof_and_is_no_fault_and_nothing_else_counts_as_erased(
    lone_door: Any, throughgate: Commands
) -> None:
    await told(lone_door)
    gone = await erased(lone_door)
    code, said = await audit(throughgate, lone_door, "--open")
    assert code == 0, said
    assert " of them erased with their leaves standing" in said
    assert _counted_as_erased(said) > 0
    for how, statement in HIDING.items():
        async with tampered(lone_door) as db:
            arguments = [gone] if "$1" in statement else []
            assert await db.execute(statement, *arguments) == "UPDATE 1", how
            leaves, said = await audit(throughgate, lone_door)
            code, opened = await audit(throughgate, lone_door, "--open")
        assert leaves == 0, said
        assert code == 1, (how, opened)
        assert "position" in opened, how
    async with tampered(lone_door) as db:  # that one alone is named
        place = await db.fetchrow(f"SELECT shard, sequence, position FROM ledger WHERE id = {_ONE}")
        await db.execute(_AMONG_THEM, gone)
        code, said = await audit(throughgate, lone_door, "--open")
    assert f"Shard {place[0]}, batch {place[1]}, position {place[2]}: nobody can open it" in said
    assert said.count("Shard 0,") == 1


async def test_what_was_cut_from_an_entry_is_no_fault_and_the_entry_still_says_who_was_told(
    lone_door: Any, throughgate: Commands, tmp_path: Path
) -> None:
    prison, hostel = lone_door.prison, lone_door.hostel
    words = f"a room near Lane {lone_door.number}"
    reply = await prison.answered(lone_door.recorded({"needs.accommodation": {"level": "soon", "summary": words}}))
    await prison.answered(lone_door.consent(hostel))
    await was_told(hostel)
    await quiet(lone_door)
    before = (await throughgate.who_was_told(reply["client"], prison))["entries"]
    erased_before = _counted_as_erased((await audit(throughgate, lone_door, "--open"))[1])
    own = {"identifiers": lone_door.identifiers, "scope": "own", "reason": "client-asked"}
    asked = event("erasure.requested", prison.name, own)
    await prison.answered(asked)
    await prison.done(asked["id"])
    async with superuser(lone_door) as db:

        async def redacted() -> bool:
            return not await db.fetchval("SELECT EXISTS (SELECT 1 FROM ledger_erasure)")

        await eventually_true(redacted, "the ledger to be redacted")
    await quiet(lone_door)
    code, said = await audit(throughgate, lone_door, "--open")
    assert code == 0, said
    assert _counted_as_erased(said) == erased_before, "each still leads to its leaf"
    assert (await throughgate("verify", "--as", hostel.name))[0] == 0
    after = (await throughgate.who_was_told(reply["client"], prison))["entries"]
    assert [e for e in after if e["kind"] != "erasure"] == before
    assert ["needs.accommodation"] in [[p["category"] for p in entry["permitted"]] for entry in before]
    page = tmp_path / "page.html"
    code, said = await throughgate("who-was-told", reply["client"], "--as", prison.name, "--page", page)
    assert code == 0, said
    async with tampered(lone_door) as db:
        await db.execute(f"UPDATE ledger SET body = set_byte(body, 40, get_byte(body, 40) # 1) WHERE id = {_ONE}")
        assert (await audit(throughgate, lone_door, "--open"))[0] == 1, "what is left of it is sealed as before"


def _counted_as_erased(said: str) -> int:
    found = re.search(r"opened, (\d+) of them erased", said)
    assert found, said
    return int(found[1])


_MADE = "(SELECT id FROM link WHERE unlinked_at IS NULL)"
_UNDONE = "(SELECT id FROM link WHERE unlinked_at IS NOT NULL)"
LINKS = {
    "taken out": f"DELETE FROM link WHERE id = {_UNDONE}",
    "not undone": f"UPDATE link SET unlinked_at = NULL WHERE id = {_UNDONE}",
    "of others": f"UPDATE link SET parts = ARRAY[-1, -2] WHERE id = {_UNDONE}",
    "one part of another": f"UPDATE link SET parts[2] = -1 WHERE id = {_UNDONE}",
    "of other parts": f"UPDATE link SET parts = ARRAY[-1, -2] WHERE id = {_MADE}",
    "one part set free": (
        f"UPDATE client SET merged_into = NULL WHERE id = (SELECT parts[1] FROM link WHERE id = {_MADE})"
    ),
    "without parts": f"UPDATE client SET parts = '{{}}' WHERE id = (SELECT client_id FROM link WHERE id = {_MADE})",
    "other parts everywhere": (
        f"WITH l AS (UPDATE link SET parts = ARRAY[-1, -2] WHERE id = {_MADE} RETURNING client_id), p AS (UPDATE client"
        " SET merged_into = NULL WHERE merged_into = (SELECT client_id FROM l)) UPDATE client SET parts = ARRAY[-1, -2]"
        " WHERE id = (SELECT client_id FROM l)"
    ),
}


async def test_a_link_that_is_not_kept_as_it_was_made_is_found(lone_door: Any, throughgate: Commands) -> None:
    """Without it, what was told while it held would be missing from the answer of who was told, and nobody saw it."""
    prison = lone_door.prison
    await told(lone_door)
    first, second = ([{"type": "CASE", "value": f"{n}-{lone_door.number}"}] for n in "KL")
    for numbers in (first, second):
        data = {"identifiers": numbers, "facts": {"risk": {"harm": "low"}}}
        await prison.answered(event("client.recorded", prison.name, data))
    for kind, more in (
        ("linked", {"sameAs": first}),
        ("unlinked", {"notSameAs": first}),
        ("linked", {"sameAs": second}),
    ):
        data = {"identifiers": lone_door.identifiers, "reason": "fingerprints", **more}
        asked = event(f"identity.{kind}", prison.name, data)
        reply = await prison.answered(asked)
        assert reply["type"].endswith("accepted.v1"), reply
        await prison.done(asked["id"])
    await quiet(lone_door)
    for what, statement in LINKS.items():
        async with superuser(lone_door) as db:
            await db.execute(
                "CREATE TABLE kept_link AS SELECT * FROM link; CREATE TABLE kept_rows AS SELECT * FROM client"
            )
            try:
                await db.execute(statement)
                code, said = await audit(throughgate, lone_door, "--open")
            finally:
                await db.execute(
                    "DELETE FROM link; INSERT INTO link SELECT * FROM kept_link; UPDATE client c SET parts = k.parts,"
                    " merged_into = k.merged_into FROM kept_rows k WHERE k.id = c.id; DROP TABLE kept_link, kept_rows"
                )
        assert code == 1, (what, said)
        assert "what it holds, or what is kept beside it, is not what was sealed" in said, what
    assert (await audit(throughgate, lone_door, "--open"))[0] == 0


async def test_a_batch_that_is_gone_is_named(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    async with tampered(lone_door) as db:
        sequence = await db.fetchval("SELECT max(sequence) FROM head")
        await db.execute("DELETE FROM ledger WHERE sequence = $1", sequence)
        await db.execute("DELETE FROM head WHERE sequence = $1", sequence)
        code, said = await audit(throughgate, lone_door)
    assert code == 1
    assert f"Ledger, shard 0, batch {sequence}: its head is missing, and was published." in said


async def test_a_forged_head_is_named(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    async with tampered(lone_door) as db:
        sequence = await db.fetchval("SELECT max(sequence) FROM head")
        await db.execute("UPDATE head SET head = jsonb_set(head, '{total}', '999999') WHERE sequence = $1", sequence)
        code, said = await audit(throughgate, lone_door)
    assert code == 1
    assert f"Head {sequence} of shard 0 does not carry a good signature" in said


async def test_a_fork_that_was_signed_with_the_doors_own_key_is_named(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    async with tampered(lone_door) as db:
        heads = [
            Head.model_validate_json(row["head"])
            for row in await db.fetch("SELECT head FROM head WHERE shard = 0 ORDER BY sequence DESC LIMIT 2")
        ]
        leaf = await db.fetchval("SELECT leaf FROM ledger WHERE shard = 0 AND sequence = $1 LIMIT 1", heads[0].sequence)
        forged = sign_head(
            lone_door.system.signing_key, heads[1], shard=0, root=leaf[::-1], size=heads[0].size, at=datetime.now(UTC)
        )
        value = forged.model_dump_json(by_alias=True)
        await db.execute("UPDATE head SET head = $1::jsonb WHERE sequence = $2", value, forged.sequence)
        code, said = await audit(throughgate, lone_door)
    assert code == 1
    assert f"batch {forged.sequence}: its head is not the one that was published." in said


async def test_an_entry_where_no_batch_can_be_is_found(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    async with tampered(lone_door) as db:
        await db.execute(f"UPDATE ledger SET sequence = -1 WHERE id = {_ONE}")
        code, said = await audit(throughgate, lone_door)
    assert code == 1
    assert "the entry is missing" in said
    assert "1 entries have a shard or a batch that cannot be" in said


async def test_only_an_auditor_may_ask(lone_door: Any) -> None:
    async with lone_door.hostel.http() as http:
        for path in ("/ledger", "/ledger/heads?shard=0", "/ledger/entries?shard=0"):
            answer = await http.get(path)
            assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")


async def test_what_an_auditor_gets_names_nobody(lone_door: Any) -> None:
    await told(lone_door)
    token = lone_door.system.issuer.token("auditor", "operator", ["audit"])
    async with httpx.AsyncClient(
        base_url=lone_door.system.urls["consent"], headers={"Authorization": f"Bearer {token}"}
    ) as http:
        answer = (await http.get("/ledger/entries?shard=0&open=true")).json()
    for entry in answer:
        for leaf in (entry, entry["opened"]):  # any word may stand in its letters
            del leaf["leaf"]
    found = json.dumps(answer)
    for word in ("Robin", lone_door.number, "hostel", "prison", "risk"):
        assert word not in found


# --- overrides --------------------------------------------------------------------------------------------------------


async def test_an_override_is_entered_and_sealed(lone_door: Any, throughgate: Commands) -> None:
    await told(lone_door)
    prison = lone_door.prison
    answer = await prison.answered(event("override.authorised", prison.name, override(lone_door)))
    assert answer["type"].endswith("accepted.v1"), answer
    same = {"identifiers": lone_door.identifiers, "override": "o-1"}
    reviewed = same | {"reviewedBy": "staff-3", "outcome": "not-justified"}
    await prison.answered(event("override.reviewed", prison.name, reviewed))
    await prison.answered(event("override.ended", prison.name, same))
    await quiet(lone_door)
    code, said = await throughgate("who-was-told", answer["client"], "--as", prison.name, "--json")
    assert code == 0, said
    entries = [e for e in json.loads(said)["entries"] if e["kind"] == "override"]
    assert [e["details"]["what"] for e in entries] == ["ended", "reviewed", "authorised"]
    assert entries[2]["details"]["reason"] == "a threat was made"
    assert entries[2]["details"]["recipients"] == [lone_door.mentors.name]
    assert (await audit(throughgate, lone_door, "--open"))[0] == 0
