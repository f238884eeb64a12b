"""What is asked over HTTP holds as strictly as what leaves by itself: each of these was once a way round a rule."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from support.agency import event, eventually_true, terms
from support.door import accepted, decided, holds, recorded, reference_of, superuser

from consent.repository import sharing
from contracts.leaving import RETRACTED
from servicekit.db import Database


@pytest.fixture
async def database(door: Any) -> AsyncIterator[Any]:
    """The door's database, as its superuser."""
    async with superuser(door) as connection:
        yield connection


async def ask(door: Any, path: str, body: dict[str, Any], agency: str, **token: Any) -> httpx.Response:
    made = door.system.issuer.token("case-system", agency, ["decisions:ask", "views:read"], **token)
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=20) as http:
        return await http.post(path, json=body, headers={"Authorization": f"Bearer {made}"})


async def view(door: Any, agency: str, client: str, person: str | None = None, **body: Any) -> dict[str, Any]:
    """What is seen with a token of a person, or of a program."""
    asked = {"clients": [client], "purpose": "referral", "categories": ["identity", "needs.accommodation"]} | body
    answer = await ask(door, "/views", asked, agency, practitioner=person)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), answer.text
    found: dict[str, Any] = answer.json()["views"][0]
    return found


async def may_i(door: Any, client: str, recipient: str, *categories: str, agency: Any = None) -> dict[str, Any]:
    asked = {"clients": [client], "recipient": recipient, "purpose": "referral", "categories": categories}
    answer = await ask(door, "/decisions", asked, (agency or door.prison).name)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store"), answer.text
    found: dict[str, Any] = answer.json()["verdicts"][0]
    return found


async def exclude(door: Any, practitioner: str) -> None:
    data = {
        "identifiers": door.identifiers,
        "restriction": uuid4().hex,
        "kind": "practitioner-exclusion",
        "practitioners": [{"agency": door.hostel.name, "practitioner": practitioner}],
    }
    known = {"identifiers": door.identifiers, "facts": {"contact": {}}}  # or it could restrict nothing
    await door.probation.answered(event("client.recorded", door.probation.name, known))
    imposed = event("restriction.imposed", door.probation.name, data)
    reply = await door.probation.answered(imposed)
    assert reply["type"].endswith("accepted.v1"), reply


async def enforces(door: Any, agency: Any, towards: Any) -> str:
    """An agreement in which an agency undertakes to another to enforce exclusions; gives its id."""
    id = f"{towards.name}-{agency.name}"
    signed = {
        "id": id,
        "version": 1,
        "sources": [towards.name],
        "recipients": [agency.name],
        "terms": [terms("referral", ["identity"])],
        "enforces": [agency.name],
        "signatories": {towards.name: "A", agency.name: "B"},
        "starts": "2026-01-01T00:00:00Z",
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await door.operator.call("POST", "/agreements", signed)
    return id


async def test_nobody_of_an_agency_sees_a_client_who_excludes_one_of_its_people_until_it_signs(door: Any) -> None:
    await recorded(door)
    reference = await reference_of(door.hostel)
    assert (await view(door, door.hostel.name, reference))["sections"], "where nobody is excluded, a program may look"
    await exclude(door, "u-17")
    people = (None, "u-17", "U-17", "u-17 ", "u-18")
    for person in people:
        seen = await view(door, door.hostel.name, reference, person)
        assert seen["sections"] == [], person
        if person in (None, "u-18"):
            assert {w["rule"] for w in seen["receipt"]["withheld"]} == {"not-permitted"}
        else:
            assert seen["receipt"] is None, "to the one who is excluded there is no such client"
    await enforces(door, door.hostel, door.prison)
    seen_by = [person for person in people if (await view(door, door.hostel.name, reference, person))["sections"]]
    assert seen_by == [None, "u-18"], "however the excluded one writes its id"


async def test_enforcing_exclusions_is_undertaken_to_those_who_tell(door: Any) -> None:
    """What the recipient undertook to others does not count for what the prison recorded."""
    client = await recorded(door)
    await exclude(door, "u-17")
    refused = await may_i(door, client, door.hostel.name, "identity")
    assert [w["rule"] for w in refused["withheld"]] == ["not-permitted"], "probation imposed it, not who asks"
    others = await enforces(door, door.hostel, door.probation)
    refused = await may_i(door, client, door.hostel.name, "identity")
    assert [w["rule"] for w in refused["withheld"]] == ["not-permitted"]
    async with door.prison.http() as http:
        assert others not in (await http.get("/agreements")).text
    id = await enforces(door, door.hostel, door.prison)
    permitted = await may_i(door, client, door.hostel.name, "identity")
    assert [p["category"] for p in permitted["permitted"]] == ["identity"]
    assert "u-17" in {o["practitioner"] for o in permitted["obligations"]}
    await door.operator.call("POST", f"/agreements/{id}/suspension", {"reason": "made up"})
    refused = await may_i(door, client, door.hostel.name, "identity")
    assert [w["rule"] for w in refused["withheld"]] == ["not-permitted"]


async def test_a_no_to_one_leaves_what_the_client_agreed_to_for_another_in_either_order(door: Any) -> None:
    """One interview: the client agrees to both on one form, and says no to the hostel."""
    client = (await door.prison.answered(door.recorded()))["client"]
    consent = door.consent(door.mentors, door.hostel)
    told = {"identifiers": door.identifiers, "refusedAt": consent["data"]["givenAt"], "scope": "listed"}
    refusal = event("consent.refused", door.prison.name, told | {"recipients": [{"agency": door.hostel.name}]})
    await door.prison.answered(refusal)
    await door.prison.answered(consent)
    assert (await may_i(door, client, door.mentors.name, "identity"))["permitted"]
    for replayed in (None, consent | {"id": str(uuid4())}):
        if replayed:
            await door.prison.answered(replayed)
        verdict = await may_i(door, client, door.hostel.name, "identity")
        assert [w["rule"] for w in verdict["withheld"]] == ["consent-refused"]
    assert (await may_i(door, client, door.mentors.name, "identity"))["permitted"], "the form is not used up by a copy"
    await door.prison.answered(door.withdrawal())
    old = door.consent(door.mentors)
    old["data"]["givenAt"] = consent["data"]["givenAt"]
    await door.prison.answered(old)
    assert (await may_i(door, client, door.mentors.name, "identity"))["permitted"] == []


@pytest.mark.parametrize(
    ("told", "rule"),
    [
        ({"spentOn": "2020-01-01"}, "spent-conviction"),
        ({}, "spent-unknown"),
        ({"sentenceMonths": 10}, "spent-unknown"),
        ({"neverSpent": True}, None),
    ],
)
async def test_it_does_not_say_yes_to_a_conviction_that_is_or_may_be_spent(
    door: Any, told: dict[str, Any], rule: str | None
) -> None:
    prison, hostel = door.prison, door.hostel
    wanted = terms("referral", ["identity", "offence"])
    await door.operator.agree(f"offences-{prison.name}", [prison.name], [hostel.name], [wanted])
    facts = {
        "identity": {"givenName": "Robin", "familyName": "Fictional"},
        "offence": {"mainOffence": "theft", **told},
    }
    client = (await prison.answered(door.recorded(facts)))["client"]
    await prison.answered(door.consent(hostel, categories=["identity", "offence"]))
    verdict = await may_i(door, client, hostel.name, "identity", "offence")
    assert [p["category"] for p in verdict["permitted"]] == ["identity", *(["offence"] if rule is None else [])]
    assert [w["rule"] for w in verdict["withheld"]] == ([] if rule is None else [rule])

    async def sent() -> bool:
        return bool(await hostel.received())

    await eventually_true(sent, "the snapshot")
    data = (await hostel.received())[0].event["data"]
    assert ("offence" in {s["category"] for s in data["sections"]}) == (rule is None)
    assert data["receipt"]["withheld"] == [], "that there may be a spent conviction is told to nobody else"


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

        await eventually_true(decided, "the view to be decided")
        suspending = asyncio.create_task(door.operator.call("POST", path, {"reason": "made up"}))
        await asyncio.sleep(0.7)
        assert not suspending.done()
    assert (await looking)["sections"], "it came before"
    await suspending
    assert (await view(door, door.hostel.name, reference))["sections"] == []


async def test_of_whom_a_service_lists_those_are_shown_whom_the_viewer_knows(door: Any, database: Any) -> None:
    client = await recorded(door)
    of = "SELECT r.id FROM reference r JOIN reference o USING (client_id) WHERE o.id = $1::uuid AND r.recipient = $2"
    listed = str(await database.fetchval(of, client, "referral"))
    own = await view(door, door.hostel.name, await reference_of(door.hostel))
    shown = await view(door, door.hostel.name, listed, referencesOf="referral")
    assert shown["sections"] == own["sections"] != []
    assert shown["client"] == listed
    nobody: dict[str, Any] = {"sections": [], "receipt": None}
    for agency, reference, of_service in (
        (door.probation.name, listed, "referral"),  # nobody ever told it of the client
        (door.hostel.name, listed, "matching"),
        (door.hostel.name, listed, None),
        (door.hostel.name, client, "referral"),
        (door.hostel.name, str(uuid4()), "referral"),
    ):
        found = await view(door, agency, reference, referencesOf=of_service)
        assert found == {"client": reference} | nobody, "whoever is not known is as nobody"


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
    held = Database(door.system.postgres.role_url(names.name, names.agency), 1, "test")
    try:
        async with asyncio.timeout(10):
            known = await held.run(lambda s: sharing.known(s, [row]), bound={"throughgate.agency": door.probation.name})
        assert known.found == {}
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


async def test_an_excluded_practitioner_knows_no_such_client(door: Any) -> None:
    """Neither who was told of the client, nor what might be shared: though the agency keeps it away itself."""
    mine = await recorded(door)
    reference = await reference_of(door.hostel)
    await exclude(door, "j.smith@hostel.example")
    await enforces(door, door.hostel, door.prison)

    async def told(agency: str, of: str, *scopes: str, person: str | None = None) -> httpx.Response:
        token = door.system.issuer.token("case-system", agency, ["disclosures:read", *scopes], practitioner=person)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=20, headers=headers) as http:
            return await http.get(f"/clients/{of}/disclosures")

    asked = {"clients": [reference], "recipient": door.mentors.name, "purpose": "referral", "categories": ["identity"]}
    for person, status in (("J.Smith@hostel.example", 404), ("u-18", 200), (None, 200)):
        verdict = await ask(door, "/decisions", asked, door.hostel.name, practitioner=person)
        assert verdict.json()["verdicts"][0]["known"] is (status == 200)
        assert (await told(door.hostel.name, reference, person=person)).status_code == status, person
        assert ((await view(door, door.hostel.name, reference, person))["receipt"] is not None) is (status == 200)
    operator = await told("operations", reference, "operator", "subject-access", person="j.smith@hostel.example")
    assert operator.status_code == 200, "the id is the hostel's own: it says nothing of the operator's people"

    by = {"by": "J.Smith@hostel.example"}
    for entries in (await told(door.hostel.name, reference), await told(door.prison.name, mine, "subject-access")):
        attempts = [(e["recipient"], e["details"]) for e in entries.json()["entries"] if e["kind"] == "attempt"]
        assert attempts == [(door.hostel.name, by | {"what": what}) for what in ("view", "reading", "consultation")]


async def test_an_exclusion_does_not_tell_an_agency_that_others_know_the_client(door: Any) -> None:
    """The ids of its own people are for an agency to choose: it could try them with a number that it made up."""
    await recorded(door)
    mine = (await door.probation.answered(event("client.recorded", door.probation.name, door.recorded()["data"])))[
        "client"
    ]
    people = [{"agency": door.probation.name, "practitioner": "m-5"}]
    data = {"identifiers": door.identifiers, "restriction": "px-1", "kind": "practitioner-exclusion"}
    imposed = event("restriction.imposed", door.prison.name, data | {"practitioners": people, "reason": "made up"})
    await accepted(door.prison, imposed)
    asked = {"clients": [mine], "recipient": door.mentors.name, "purpose": "referral", "categories": ["risk"]}
    answers = []
    for person in ("m-4", "m-5"):
        token = door.system.issuer.token("staff", door.probation.name, ["disclosures:read"], practitioner=person)
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=door.system.urls["consent"], timeout=20, headers=headers) as http:
            told = await http.get(f"/clients/{mine}/disclosures")
        verdict = await ask(door, "/decisions", asked, door.probation.name, practitioner=person)
        kinds = {entry["kind"] for entry in told.json().get("entries", ())}
        answers.append((told.status_code, "attempt" in kinds, verdict.json()["verdicts"][0]["known"]))
    assert answers == [(200, False, True)] * 2


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_what_began_while_a_link_held_is_ended_after_it(linked: Linked, kind: str) -> None:
    door = linked.door
    await door.probation.answered(event("client.recorded", door.probation.name, door.recorded()["data"]))
    named = {kind: "own-1"} | ({"basis": "cja-2003-s325"} if kind == "gateway" else {})
    await accepted(door.probation, door.invoked(kind, door.probation, door.prison, **named))
    await linked.undo()
    await door.probation.answered(event("client.recorded", door.probation.name, door.recorded()["data"]))
    ended = event(f"{kind}.ended", door.probation.name, {"identifiers": door.identifiers, kind: "own-1"})
    reply = await door.probation.answered(ended)
    assert reply["type"].endswith("accepted.v1"), reply
    assert await holds(door, door.prison, door.probation) == []
    other = event(f"{kind}.ended", door.probation.name, {"identifiers": door.identifiers, kind: "own-2"})
    assert (await door.probation.answered(other))["code"] == "nothing-to-end"


async def test_a_stop_does_not_tell_what_else_is_known(door: Any) -> None:
    """That there is something of a category that no agreement lets the hostel see can itself be sensitive."""
    await recorded(door)
    reference, every = await reference_of(door.hostel), ["identity", "needs.accommodation", "contact", "risk"]
    assert (await view(door, door.hostel.name, reference, categories=every))["receipt"]["withheld"] == []
    for categories, told in ((["risk"], []), (["risk", "contact", "needs.accommodation"], ["needs.accommodation"])):
        data = {
            "identifiers": door.identifiers,
            "restriction": uuid4().hex,
            "kind": "exclusion",
            "recipients": [{"agency": door.hostel.name}],
            "categories": categories,
        }
        imposed = event("restriction.imposed", door.prison.name, data)
        await door.prison.answered(imposed)
        done = await door.prison.done(imposed["id"])
        assert {d["recipient"] for d in done["recipients"]} == {"referral"} | ({door.hostel.name} if told else set())
        seen = await view(door, door.hostel.name, reference, categories=every)
        assert [(w["category"], w["rule"]) for w in seen["receipt"]["withheld"]] == [(c, "not-permitted") for c in told]
        before = len(await door.hostel.received())
        await door.prison.answered(door.recorded())
        await decided(door)
        records = [r.event["data"] for r in await door.hostel.received()][before:]
        assert [[w["category"] for w in r["receipt"]["withheld"]] for r in records] == [told]
    retractions = [r.event["data"] for r in await door.hostel.received() if r.event["type"] == RETRACTED]
    assert [r["categories"] for r in retractions] == [["needs.accommodation"]]
