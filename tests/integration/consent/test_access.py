"""What an agency may know is held in the database as well: these tests go around the code, by the role's own login."""

from typing import Any

import asyncpg
import pytest
from support.agency import event, probation_number
from support.door import recorded, superuser


async def _as_agency(door: Any, agency: str | None, *, whole: bool = False) -> Any:
    """A connection of the role that one agency's questions run with, outside of any code of ours."""
    database = door.system.databases["consent"]
    url = door.system.postgres.url(database.name, database.agency, door.system.postgres.role_password(database.agency))
    connection = await asyncpg.connect(url)
    if agency is not None:
        await connection.execute("SELECT set_config('throughgate.agency', $1, false)", agency)
    if whole:
        await connection.execute("SELECT set_config('throughgate.whole', 'yes', false)")
    return connection


async def _told(door: Any) -> str:
    """A client of whom the hostel was told, and who withdrew; gives the prison's reference."""
    client = await recorded(door)
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])
    return client


BOUND = ("client", "reference", "fact", "sharing_fact", "withdrawal", "retraction", "ledger", "agreement", "link")
CLOSED = ("candidate", "likeness")
"""What a person is to decide of clients, and what makes them look alike: no agency's question needs it."""


async def test_a_stranger_sees_no_row_of_any_table(door: Any) -> None:
    await _told(door)
    for who in (None, "", "somebody-else"):
        connection = await _as_agency(door, who)
        try:
            for table in BOUND:
                assert await connection.fetch(f"SELECT 1 FROM {table} LIMIT 1") == [], (who, table)
        finally:
            await connection.close()


async def test_an_agency_sees_its_own_rows_and_no_others(door: Any) -> None:
    mine = await _told(door)
    other = {"identifiers": [{"type": "CASE", "value": "X-1"}], "facts": {"risk": {"harm": "low"}}}
    theirs = await door.probation.answered(event("client.recorded", door.probation.name, other))
    connection = await _as_agency(door, door.prison.name)
    try:
        recipients = {r["recipient"] for r in await connection.fetch("SELECT recipient FROM reference")}
        assert recipients == {door.prison.name}
        known = {r["client_id"] for r in await connection.fetch("SELECT client_id FROM reference")}
        for table in ("fact", "sharing_fact"):
            assert {r["client_id"] for r in await connection.fetch(f"SELECT client_id FROM {table}")} <= known
        clients = {r["id"] for r in await connection.fetch("SELECT id FROM client")}
        assert clients == known
        entries = await connection.fetch("SELECT recipient, sources FROM ledger")
        assert entries
        assert all(e["recipient"] == door.prison.name or door.prison.name in e["sources"] for e in entries)
        for reference, found in ((mine, 1), (theirs["client"], 0)):
            rows = await connection.fetch("SELECT 1 FROM reference WHERE id = $1::uuid", reference)
            assert len(rows) == found
    finally:
        await connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE client SET version = 0",
        "UPDATE client SET key = NULL",
        "DELETE FROM ledger",
        "UPDATE ledger SET body = NULL",
        "DELETE FROM sharing_fact",
        "INSERT INTO sharing_fact (client_id, version, kind, body) VALUES (1, 999, 'granted', '{}')",
        "UPDATE hold SET lifted_at = now()",
        "INSERT INTO reference SELECT gen_random_uuid(), min(client_id), asking(), true FROM reference",
        "INSERT INTO queue (kind, client_id, recipient, topic, type, body) VALUES (2, 1, 'x', 'x', 'x', '')",
        "SELECT value FROM identifier",
        "SELECT body FROM queue",
        "SELECT id FROM candidate",
        "SELECT digest FROM likeness",
        "SELECT linked_by FROM link",
        "SELECT linked_at FROM link",
        "UPDATE link SET unlinked_at = now()",
    ],
)
async def test_who_asks_can_change_nothing(door: Any, statement: str) -> None:
    connection = await _as_agency(door, door.prison.name, whole=True)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["consultation", "reading", "attempt"])
async def test_nobody_enters_a_decision_in_another_agencys_name(door: Any, kind: str) -> None:
    mine = await _told(door)
    connection = await _as_agency(door, door.prison.name)
    insert = (
        "INSERT INTO ledger (kind, decision, client_id, recipient, purpose, type, decided_at, sources, leaf)"
        " SELECT $4, gen_random_uuid(), client_id, $2, 'referral', 'x', now(), $3, '' FROM reference"
        " WHERE id = $1::uuid"
    )
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(insert, mine, door.hostel.name, [door.hostel.name], kind)
        await connection.execute("BEGIN")
        await connection.execute(insert, mine, door.hostel.name, [door.prison.name], kind)
        await connection.execute("ROLLBACK")
    finally:
        await connection.close()


@pytest.mark.parametrize("kind", ["override", "disclosure", "erasure"])
async def test_who_asks_enters_only_what_it_asked(door: Any, kind: str) -> None:
    mine = await _told(door)
    connection = await _as_agency(door, door.prison.name)
    insert = (
        "INSERT INTO ledger (kind, decision, client_id, recipient, purpose, type, decided_at, sources, leaf)"
        " SELECT $2, gen_random_uuid(), client_id, $3, 'referral', 'x', now(), '{}', '' FROM reference"
        " WHERE id = $1::uuid"
    )
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(insert, mine, kind, door.prison.name)
    finally:
        await connection.close()


async def test_nobody_enters_anything_of_a_client_it_does_not_know(door: Any) -> None:
    other = {"identifiers": [{"type": "CASE", "value": "X-2"}], "facts": {"risk": {"harm": "low"}}}
    theirs = await door.probation.answered(event("client.recorded", door.probation.name, other))
    known = await _as_agency(door, door.probation.name)
    stranger = await _as_agency(door, door.prison.name)
    insert = (
        "INSERT INTO ledger (kind, decision, client_id, recipient, purpose, type, decided_at, sources, leaf)"
        " VALUES ('view', gen_random_uuid(), $1, asking(), 'referral', 'x', now(), '{}', '')"
    )
    try:
        client = await known.fetchval("SELECT client_id FROM reference WHERE id = $1::uuid", theirs["client"])
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await stranger.execute(insert, client)
        await known.execute("BEGIN")
        await known.execute(insert, client)
        await known.execute("ROLLBACK")
    finally:
        await known.close()
        await stranger.close()


async def test_who_looks_waits_for_others_who_look(door: Any) -> None:
    """So that a withdrawal has its turn: it would wait for all who look if these were let in together."""
    await _told(door)
    one, other = await _as_agency(door, door.prison.name), await _as_agency(door, door.hostel.name)
    hold = "SELECT hold_still((SELECT array_agg(client_id) FROM reference WHERE recipient = asking()))"
    try:
        await one.execute("BEGIN")
        await one.execute(hold)
        await other.execute("SET lock_timeout = '300ms'")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await other.execute(hold)
    finally:
        await one.close()
        await other.close()


async def _linked(door: Any) -> str:
    """Two clients of the prison who look alike and are linked, and an event that named both; gives their reference."""
    born = {"givenName": "Robin", "familyName": f"Fictional {door.number}", "dateOfBirth": "1990-02-03"}
    other = [{"type": "CRN", "value": probation_number()}]
    references = []
    for identifiers in (door.identifiers, other):
        data = {"identifiers": identifiers, "facts": {"identity": born}}
        references.append((await door.prison.answered(event("client.recorded", door.prison.name, data)))["client"])
    both = {"identifiers": [*door.identifiers, *other], "facts": {"identity": born}}
    await door.prison.answered(event("client.recorded", door.prison.name, both))
    link = {"identifiers": door.identifiers, "sameAs": other, "reason": "fingerprints"}
    reply = await door.prison.answered(event("identity.linked", door.prison.name, link))
    assert reply["type"].endswith("accepted.v1"), reply
    return str(references[0])


async def test_of_links_an_agency_sees_those_of_its_clients_and_who_was_made_of_whom(door: Any) -> None:
    mine = await _linked(door)
    seeing, stranger = await _as_agency(door, door.prison.name), await _as_agency(door, door.probation.name)
    try:
        client = await seeing.fetchval("SELECT client_id FROM reference WHERE id = $1::uuid", mine)
        (link,) = await seeing.fetch("SELECT client_id, parts, unlinked_at FROM link WHERE $1 = ANY (parts)", client)
        assert link["unlinked_at"] is None
        assert await stranger.fetch("SELECT client_id FROM link") == []
    finally:
        await seeing.close()
        await stranger.close()


@pytest.mark.parametrize("table", CLOSED)
async def test_even_a_mistaken_grant_shows_no_row_of_what_a_person_is_to_decide(door: Any, table: str) -> None:
    await _linked(door)
    database = door.system.databases["consent"]
    async with superuser(door) as connection:
        await connection.execute(f"BEGIN; GRANT SELECT ON {table} TO {database.agency}")
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") > 0
        await connection.execute(f"SET LOCAL ROLE {database.agency}")
        await connection.execute("SELECT set_config('throughgate.agency', $1, true)", door.prison.name)
        await connection.execute("SELECT set_config('throughgate.whole', 'yes', true)")
        assert await connection.fetch(f"SELECT * FROM {table}") == []
        await connection.execute("ROLLBACK")


async def test_row_level_security_is_forced_and_the_roles_own_nothing(door: Any) -> None:
    name = door.system.databases["consent"].name
    async with superuser(door) as connection:
        forced = await connection.fetch("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")
        assert {*BOUND, *CLOSED} <= {r["relname"] for r in forced}
        owners = await connection.fetch(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'",
        )
        assert [o["tableowner"] for o in owners] == [f"{name}_owner"]
        bypassing = await connection.fetch(
            "SELECT rolname FROM pg_roles WHERE rolname LIKE $1 AND (rolbypassrls OR rolsuper)", f"{name}%"
        )
        assert bypassing == []


async def test_existence_is_not_revealed_by_any_route(door: Any) -> None:
    mine = await _told(door)
    body = {"clients": [mine], "purpose": "referral", "categories": ["identity"]}
    async with door.hostel.http() as http:
        assert (await http.get(f"/clients/{mine}/disclosures")).status_code == 404
        assert (await http.get(f"/withdrawals/{mine}")).status_code == 404
        views = (await http.post("/views", json=body)).json()
        assert views == {"views": [{"client": mine, "sections": [], "receipt": None}]}
        verdicts = await http.post("/decisions", json=body | {"recipient": door.mentors.name})
        assert verdicts.json()["verdicts"][0]["known"] is False
