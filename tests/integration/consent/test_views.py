"""What is asked over HTTP holds as strictly as what leaves by itself: each of these was once a way round a rule."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from support.agency import event, eventually_true, terms

from consent.repository import sharing
from servicekit.db import Database


@pytest.fixture
async def database(door: Any) -> AsyncIterator[Any]:
    """The door's database, as its superuser."""
    connection = await asyncpg.connect(door.system.postgres.url(door.system.databases["consent"].name))
    try:
        yield connection
    finally:
        await connection.close()


async def recorded(door: Any) -> str:
    """A client whose consent the hostel has; gives the prison's reference."""
    reply = await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(arrived, "what the hostel is told")
    return str(reply["client"])


async def reference_of(agency: Any) -> str:
    return str((await agency.received())[0].event["subject"])


async def ask(door: Any, path: str, body: dict[str, Any], agency: str, **token: Any) -> httpx.Response:
    made = door.system.issuer.token("case-system", agency, ["decisions:ask", "views:read"], **token)
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=20) as http:
        return await http.post(path, json=body, headers={"Authorization": f"Bearer {made}"})


async def view(door: Any, agency: str, client: str, person: str | None = None, **body: Any) -> dict[str, Any]:
    """What is seen with a token of a person, or of a program."""
    asked = {"clients": [client], "purpose": "referral", "categories": ["identity", "needs.accommodation"]} | body
    answer = await ask(door, "/views", asked, agency, practitioner=person)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["views"][0]
    return found


async def may_i(door: Any, client: str, recipient: str, *categories: str, agency: Any = None) -> dict[str, Any]:
    asked = {"clients": [client], "recipient": recipient, "purpose": "referral", "categories": categories}
    answer = await ask(door, "/decisions", asked, (agency or door.prison).name)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["verdicts"][0]
    return found


async def exclude(door: Any, practitioner: str) -> None:
    data = {
        "identifiers": door.identifiers,
        "restriction": uuid4().hex,
        "kind": "practitioner-exclusion",
        "practitioners": [{"agency": door.hostel.name, "practitioner": practitioner}],
    }
    imposed = event("restriction.imposed", door.probation.name, data)
    reply = await door.probation.answered(imposed)
    assert reply["type"].endswith("accepted.v1"), reply


async def test_a_program_sees_nothing_of_a_client_who_excludes_one_of_its_people(door: Any) -> None:
    await recorded(door)
    reference = await reference_of(door.hostel)
    assert (await view(door, door.hostel.name, reference))["sections"], "where nobody is excluded, a program may look"
    await exclude(door, "u-17")
    by_program = await view(door, door.hostel.name, reference)
    assert by_program["sections"] == []
    assert {w["rule"] for w in by_program["receipt"]["withheld"]} == {"not-permitted"}
    assert (await view(door, door.hostel.name, reference, "u-17"))["sections"] == []
    assert len((await view(door, door.hostel.name, reference, "u-18"))["sections"]) == 2


async def test_who_undertook_to_others_to_enforce_exclusions_may_be_told(door: Any) -> None:
    """The agency that asks is no party to the agreement in which the recipient undertook it."""
    client = await recorded(door)
    await exclude(door, "u-17")
    refused = await may_i(door, client, door.hostel.name, "identity")
    assert [w["rule"] for w in refused["withheld"]] == ["exclusion-not-enforced"]
    id = f"others-{door.hostel.name}"
    signed = {
        "id": id,
        "version": 1,
        "sources": [door.probation.name],
        "recipients": [door.hostel.name],
        "terms": [terms("referral", ["identity"])],
        "enforces": [door.hostel.name],
        "signatories": {door.probation.name: "A", door.hostel.name: "B"},
        "starts": "2026-01-01T00:00:00Z",
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await door.operator.call("POST", "/agreements", signed)
    permitted = await may_i(door, client, door.hostel.name, "identity")
    assert [p["category"] for p in permitted["permitted"]] == ["identity"]
    assert "u-17" in {o["practitioner"] for o in permitted["obligations"]}
    async with door.prison.http() as http:
        assert id not in (await http.get("/agreements")).text, "of what others agreed it learns nothing else"
    await door.operator.call("POST", f"/agreements/{id}/suspension", {"reason": "made up"})
    refused = await may_i(door, client, door.hostel.name, "identity")
    assert [w["rule"] for w in refused["withheld"]] == ["exclusion-not-enforced"]


async def test_it_does_not_say_yes_to_a_spent_conviction(door: Any) -> None:
    prison, hostel = door.prison, door.hostel
    wanted = terms("referral", ["identity", "offence"])
    await door.operator.agree(f"offences-{prison.name}", [prison.name], [hostel.name], [wanted])
    facts = {
        "identity": {"givenName": "Robin", "familyName": "Fictional"},
        "offence": {"mainOffence": "theft", "spentOn": "2020-01-01"},
    }
    client = (await prison.answered(door.recorded(facts)))["client"]
    await prison.answered(door.consent(hostel, categories=["identity", "offence"]))
    verdict = await may_i(door, client, hostel.name, "identity", "offence")
    assert [p["category"] for p in verdict["permitted"]] == ["identity"]
    assert [w["rule"] for w in verdict["withheld"]] == ["spent-conviction"]


async def test_nobody_asks_about_itself_why_it_may_not(door: Any) -> None:
    await recorded(door)
    reference = await reference_of(door.hostel)
    body = {"clients": [reference], "recipient": door.hostel.name, "purpose": "referral", "categories": ["identity"]}
    answer = await ask(door, "/decisions", body, door.hostel.name)
    assert (answer.status_code, answer.json()["code"]) == (422, "ask-for-others")


async def test_no_view_is_answered_after_a_suspension_that_it_was_decided_without(door: Any, database: Any) -> None:
    await recorded(door)
    reference = await reference_of(door.hostel)
    path = f"/agreements/referral-{door.prison.name.removeprefix('prison-')}/suspension"
    async with database.transaction():
        await database.execute("LOCK TABLE ledger IN SHARE MODE")  # a view decides, and cannot enter it yet
        looking = asyncio.create_task(view(door, door.hostel.name, reference))

        async def decided() -> Any:
            return await database.fetchval(
                "SELECT true FROM pg_locks WHERE NOT granted AND relation = 'ledger'::regclass"
            )

        await eventually_true(decided, "the view to be decided", 5)
        suspending = asyncio.create_task(door.operator.call("POST", path, {"reason": "made up"}))
        await asyncio.sleep(0.7)
        assert not suspending.done()
    assert (await looking)["sections"], "it came before"
    await suspending
    assert (await view(door, door.hostel.name, reference))["sections"] == []


async def test_whoever_one_of_our_services_shows_something_is_told_to_erase_it(door: Any, database: Any) -> None:
    prison, probation = door.prison, door.probation
    look_only = terms("referral", ["needs.accommodation"], subscription=False)
    await door.operator.agree(f"look-{prison.name}", [prison.name], [probation.name], [look_only])
    client = (await prison.answered(door.recorded()))["client"]
    await prison.answered(door.consent(probation))
    of = "SELECT r.id FROM reference r JOIN reference o USING (client_id) WHERE o.id = $1::uuid AND r.recipient = $2"
    reference = await database.fetchval(of, client, "referral")
    assert await database.fetchval(of, client, probation.name) is None
    for practitioner in ("p-1", "p-2"):
        shown = await view(door, "referral", str(reference), viewer=probation.name, practitioner=practitioner)
        assert [s["category"] for s in shown["sections"]] == ["needs.accommodation"]
    assert len(await database.fetch(of, client, probation.name)) == 1
    taken_back = door.withdrawal()
    await prison.answered(taken_back)
    done = await prison.done(taken_back["id"])
    assert probation.name in {r["recipient"] for r in done["recipients"]}


# --- after a link is undone -------------------------------------------------------------------------------------------


class Linked:
    """Two clients of the prison that were said to be one person."""

    def __init__(self, door: Any) -> None:
        self.door = door
        self.other = [{"type": "CASE", "value": f"L-{door.number}"}]
        self.client = ""
        """The prison's reference of the first."""

    async def say(self, kind: str, data: dict[str, Any], agency: Any = None) -> dict[str, Any]:
        who = agency or self.door.prison
        said = event(kind, who.name, data)
        reply: dict[str, Any] = await who.answered(said)
        assert reply["type"].endswith("accepted.v1"), reply
        return reply

    async def undo(self) -> None:
        data = {"identifiers": self.door.identifiers, "notSameAs": self.other, "reason": "a mistake"}
        await self.say("identity.unlinked", data)


@pytest.fixture
async def linked(door: Any) -> Linked:
    made = Linked(door)
    made.client = (await door.prison.answered(door.recorded()))["client"]
    await made.say("client.recorded", {"identifiers": made.other, "facts": {"risk": {"harm": "low"}}})
    await made.say(
        "identity.linked", {"identifiers": door.identifiers, "sameAs": made.other, "reason": "one and the same"}
    )
    return made


async def test_who_knows_only_what_an_undone_link_made_gets_an_answer(linked: Linked, database: Any) -> None:
    """It may see neither part, so there is nobody left to decide about."""
    door = linked.door
    mine = {"identifiers": door.identifiers, "facts": {"risk": {"harm": "low"}}}
    client = (await linked.say("client.recorded", mine, door.probation))["client"]
    assert (await may_i(door, client, door.hostel.name, "risk", agency=door.probation))["known"] is True
    await linked.undo()
    async with asyncio.timeout(10):
        verdict = await may_i(door, client, door.hostel.name, "risk", agency=door.probation)
        assert verdict["known"] is False
        assert (await view(door, door.probation.name, client))["receipt"] is None
        async with door.probation.http() as http:
            assert (await http.get(f"/clients/{client}/disclosures")).status_code == 404
    row = await database.fetchval("SELECT client_id FROM reference WHERE id = $1", UUID(client))
    names = door.system.databases["consent"]
    password = door.system.postgres.role_password(names.agency)
    url = door.system.postgres.url(names.name, names.agency, password).replace("postgresql://", "postgresql+asyncpg://")
    held = Database(url, 1, "test")
    try:
        async with asyncio.timeout(10):
            known = await held.run(lambda s: sharing.known(s, [row]), bound={"throughgate.agency": door.probation.name})
        assert known == {}
    finally:
        await held.close()


async def test_the_client_learns_what_was_told_while_a_link_held(linked: Linked) -> None:
    door = linked.door
    whole = door.system.issuer.token("p", door.prison.name, ["disclosures:read", "subject-access"])
    asked = (await may_i(door, linked.client, door.hostel.name, "identity"))["decision"]
    await linked.undo()
    own = (await may_i(door, linked.client, door.hostel.name, "identity"))["decision"]
    for token in (whole, door.prison.token):
        async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=20) as http:
            headers = {"Authorization": f"Bearer {token}"}
            answer = await http.get(f"/clients/{linked.client}/disclosures", headers=headers)
        assert answer.status_code == 200, answer.text
        marked = {e["decision"]: e["linked"] for e in answer.json()["entries"]}
        assert marked[asked] is True
        assert marked[own] is False
