"""An agency that has no business with a client learns nothing of it, and can deny for no more than a few."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.agency import Agency, event, eventually, eventually_true, granted, prison_number, terms, withdrawn
from support.door import but_readings, holds, override, superuser

from consent.api.publishing import UNKNOWN_AFTER
from consent.service.holds import MOST_OPEN
from consent.service.naming import MOST_NAMED
from contracts.leaving import RETRACTED


def noms(value: str) -> dict[str, str]:
    return {"type": "NOMS", "value": value}


def about(value: str, other: str, recipient: str, authority: str) -> dict[str, dict[str, Any]]:
    """The data of one event of each kind that says something of a client who is there already, by kind. A gateway
    reaches an `authority` only.
    """
    now = datetime.now(UTC)
    whom = {"identifiers": [noms(value)]}
    named = {
        "recipients": [recipient],
        "purposes": ["public-protection"],
        "categories": ["risk"],
        "starts": (now - timedelta(minutes=1)).isoformat(),
        "ends": (now + timedelta(hours=1)).isoformat(),
        "reason": "made up",
    }
    refused = {"refusedAt": now.isoformat(), "scope": "everything"}
    return {
        "consent.granted": granted([noms(value)], [recipient], ["referral"], ["identity"]),
        "consent.refused": whom | refused,
        "consent.withdrawn": withdrawn([noms(value)]),
        "restriction.imposed": whom | {"restriction": "r-1", "kind": "victim-safety", "reason": "made up"},
        "restriction.lifted": whom | {"restriction": "r-1"},
        "gateway.invoked": whom
        | named
        | {"gateway": "g-1", "basis": "vital-interests", "authorisedByRole": "manager", "recipients": [authority]},
        "gateway.ended": whom | {"gateway": "g-1"},
        "override.authorised": whom
        | named
        | {
            "override": "o-1",
            "authorisedBy": "u-17",
            "approvedBy": "u-18",
            "reviewBy": (now + timedelta(days=1)).isoformat(),
        },
        "override.ended": whom | {"override": "o-1"},
        "override.reviewed": whom | {"override": "o-1", "reviewedBy": "u-1", "outcome": "justified"},
        "identity.linked": whom | {"sameAs": [noms(other)], "reason": "made up"},
        "identity.unlinked": whom | {"notSameAs": [noms(other)], "reason": "made up"},
        "retraction.confirmed": whom | {"retraction": str(uuid4())},
        "erasure.requested": whom | {"scope": "everything", "reason": "client-asked"},
        "referral.answered": whom | {"referral": str(uuid4()), "answer": "accepted"},
        "mentoring.offer-answered": whom | {"offer": str(uuid4()), "answer": "accepted"},
    }


KINDS = sorted(about("A1234BC", "A1234BD", "x", "y"))
OFTEN = ("event", "topic", "partition", "offset")
"""What differs between two answers of the same meaning."""


async def over_kafka(agency: Agency, body: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in (await agency.answered(body)).items() if k not in OFTEN}


async def over_http(agency: Agency, body: dict[str, Any]) -> dict[str, Any]:
    answer = await agency.post(body)
    told = {k: v for k, v in answer.json().items() if k not in OFTEN}
    if told.get("code") == "unknown-client":  # no sooner where nobody has the number, of whom nothing has to be read
        assert answer.elapsed.total_seconds() >= UNKNOWN_AFTER
    return {"status": answer.status_code, "headers": sorted(answer.headers.keys()), **told}


@pytest.mark.parametrize("kind", KINDS)
async def test_a_stranger_cannot_tell_a_client_from_nobody(door: Any, kind: str) -> None:
    second = prison_number()
    await door.prison.answered(door.recorded())
    also = {"identifiers": [noms(second)], "facts": {"risk": {"harm": "low"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, also))
    there, nobody = (
        event(kind, door.probation.name, about(value, other, door.mentors.name, door.prison.name)[kind])
        for value, other in ((door.number, second), (prison_number(), prison_number()))
    )
    answers = [await over_kafka(door.probation, body) for body in (there, nobody)]
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "unknown-client", answers
    again = [await over_http(door.probation, body | {"id": str(uuid4())}) for body in (there, nobody)]
    assert again[0] == again[1]
    assert again[0]["status"] == 404


async def test_nor_by_two_numbers_of_which_one_is_its_own_clients(door: Any) -> None:
    """The second number is another's, whom it does not know, or nobody's."""
    mine = prison_number()
    await door.prison.answered(door.recorded())
    data = {"identifiers": [noms(mine)], "facts": {"risk": {"harm": "low"}}}
    await door.hostel.answered(event("client.recorded", door.hostel.name, data))
    answers = []
    for other in (door.number, prison_number()):
        data = granted([noms(mine), noms(other)], [door.mentors.name], ["referral"], ["identity"])
        answers.append(await over_kafka(door.hostel, event("consent.granted", door.hostel.name, data)))
    assert answers[0] == answers[1]
    assert answers[0]["code"] == "unknown-client"


async def test_recording_is_the_way_in_and_does_not_tell_who_was_there(door: Any) -> None:
    await door.prison.answered(door.recorded())
    for value in (door.number, prison_number()):
        data = {"identifiers": [noms(value)], "facts": {"contact": {}}}
        answer = await over_http(door.probation, event("client.recorded", door.probation.name, data))
        assert answer["status"] == 202
        assert answer["withdrawal"] is None
        no = event("consent.withdrawn", door.probation.name, withdrawn([noms(value)]))
        assert (await door.probation.answered(no))["type"] == "throughgate.event.accepted.v1"
        assert (await door.probation.done(no["id"]))["recipients"] == []


async def test_a_strangers_no_stops_and_it_hears_no_more_of_it(door: Any) -> None:
    await permitted(door)
    no = event("consent.withdrawn", door.probation.name, withdrawn(door.identifiers))
    assert (await door.probation.answered(no))["code"] == "unknown-client"
    cut = json.dumps(no | {"id": str(uuid4())}).encode()[:-20]
    assert (await door.probation.answered(cut))["code"] == "malformed-json"
    await retracted(door)
    assert {h["reason"] for h in await holds(door, door.probation)} == {"unknown-client", "malformed-json"}
    later = door.withdrawal()
    await door.prison.answered(later)
    await door.prison.done(later["id"])  # and so all that was to be told before was told
    assert [r["type"] for r in door.probation.replies if "withdrawal.done" in r["type"]] == []


async def permitted(door: Any) -> None:
    """The hostel was sent a record of the client; the mentors were refused what was queued for them."""
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def has_it() -> bool:
        return bool(await door.hostel.received())

    await eventually_true(has_it, "the snapshot")


async def retracted(door: Any) -> None:
    async def last() -> bool:
        return bool((await door.hostel.received())[-1].event["type"] == RETRACTED)

    await eventually_true(last, "the retraction")


async def test_who_was_sent_a_record_knows_the_client_and_who_was_refused_one_does_not(door: Any) -> None:
    await permitted(door)
    for agency, kind in ((door.mentors, "rejected"), (door.hostel, "accepted")):
        no = event("consent.withdrawn", agency.name, withdrawn(door.identifiers))
        assert (await agency.answered(no))["type"] == f"throughgate.event.{kind}.v1"


# --- who recorded a guessed number ------------------------------------------------------------------------------------


async def asks_everything(door: Any, value: str, client: str) -> dict[str, Any]:
    """What a newcomer is answered of one client on every route that answers of clients, without ids and times."""
    told: dict[str, Any] = {}
    looks = {"clients": [client], "categories": ["identity", "contact", "needs.accommodation", "risk"]}
    async with door.probation.http() as http:
        for purpose in ("referral", "public-protection"):
            answer = await http.post("/views", json=looks | {"purpose": purpose})
            told[f"views {purpose}"] = answer.json()
            for other in (door.mentors, door.hostel):
                asked = looks | {"purpose": purpose, "recipient": other.name}
                told[f"decisions {purpose} {other.name}"] = (await http.post("/decisions", json=asked)).json()
        told["disclosures"] = (await http.get(f"/clients/{client}/disclosures")).json()
        told["page by page"] = (await http.get(f"/clients/{client}/disclosures?limit=3")).json()
    for kind, data in about(value, prison_number(), door.mentors.name, door.prison.name).items():
        if kind != "erasure.requested":  # of a client whom somebody protects it must be refused
            told[kind] = await over_http(door.probation, event(kind, door.probation.name, data))
    return {route: bare(answer) for route, answer in told.items()}


VARYING = {"client", "decision", "decidedAt", "entry", "withdrawal", "event", "topic", "partition", "offset"}
"""What differs between any two answers of the same meaning."""


def bare(answer: Any) -> Any:
    if isinstance(answer, dict):
        return {name: bare(value) for name, value in answer.items() if name not in VARYING}
    return [bare(one) for one in answer] if isinstance(answer, list) else answer


async def _nothing_more(door: Any) -> None:
    """The client is known, and what was queued for the newcomer was refused."""


async def _agreed_with_others(door: Any) -> None:
    await door.prison.answered(door.consent(door.hostel))


async def _said_no(door: Any) -> None:
    await door.prison.answered(door.consent(door.mentors, categories=["risk", "identity"]))
    no = door.withdrawal()
    await door.prison.answered(no)
    await door.prison.done(no["id"])


async def _refused_some(door: Any) -> None:
    data = {"identifiers": door.identifiers, "refusedAt": datetime.now(UTC).isoformat(), "scope": "listed"}
    said = event("consent.refused", door.prison.name, data | {"recipients": [{"agency": door.mentors.name}]})
    assert (await door.prison.answered(said))["type"].endswith("accepted.v1")


async def _restricted(door: Any) -> None:
    data = {"identifiers": door.identifiers, "restriction": "r-9", "kind": "victim-safety", "reason": "made up"}
    imposed = event("restriction.imposed", door.prison.name, data)
    assert (await door.prison.answered(imposed))["type"].endswith("accepted.v1")


async def _excluded(door: Any) -> None:
    data = {
        "identifiers": door.identifiers,
        "restriction": "r-9",
        "kind": "practitioner-exclusion",
        "practitioners": [{"agency": door.mentors.name, "practitioner": "u-17"}],
    }
    imposed = event("restriction.imposed", door.prison.name, data)
    assert (await door.prison.answered(imposed))["type"].endswith("accepted.v1")


async def _held(door: Any) -> None:
    bad = door.withdrawal() | {"data": {"identifiers": door.identifiers}}
    assert (await door.prison.answered(bad))["code"] == "invalid-event"


async def _linked(door: Any) -> None:
    other = [{"type": "CASE", "value": f"L-{door.number}"}]
    facts = {"identifiers": other, "facts": {"risk": {"harm": "low"}}}
    await door.prison.answered(event("client.recorded", door.prison.name, facts))
    link = {"identifiers": door.identifiers, "sameAs": other, "reason": "one and the same"}
    assert (await door.prison.answered(event("identity.linked", door.prison.name, link)))["type"].endswith("ed.v1")


async def _asked_about(door: Any) -> None:
    """Others asked whether they may tell the newcomer, and looked at what is there."""
    client = (await door.prison.answered(door.recorded()))["client"]
    body = {"clients": [client], "purpose": "referral", "categories": ["identity"]}
    async with door.prison.http() as http:
        assert (await http.post("/decisions", json=body | {"recipient": door.probation.name})).status_code == 200


KNOWN_BY = (
    _nothing_more,
    _agreed_with_others,
    _said_no,
    _refused_some,
    _restricted,
    _excluded,
    _held,
    _linked,
    _asked_about,
)


@pytest.mark.parametrize("said", KNOWN_BY, ids=lambda said: said.__name__)
async def test_who_records_a_guessed_number_learns_nothing_of_what_others_know(door: Any, said: Any) -> None:
    """Probation gets what the prison records, where there is consent, and tells the mentors on the same condition."""
    prison, probation, mentors = door.prison, door.probation, door.mentors
    wanted = [terms("referral", ["identity", "needs.accommodation", "risk"])]
    await door.operator.agree(f"in-{prison.name}", [prison.name], [probation.name], wanted)
    await door.operator.agree(f"out-{prison.name}", [probation.name], [mentors.name], wanted)
    await prison.answered(door.recorded())
    refused = event("client.recorded", prison.name, {"identifiers": door.identifiers, "facts": {"contact": {}}})
    await prison.answered(refused)
    await said(door)

    async def settled() -> bool:
        async with superuser(door) as db:
            of = "SELECT NOT EXISTS (SELECT 1 FROM queue WHERE recipient = $1)"
            return bool(await db.fetchval(of, probation.name))

    await eventually_true(settled, "what was queued for probation to be decided")
    told = []
    for nth, value in enumerate((door.number, prison_number()), 1):
        mine = {"identifiers": [noms(value)], "facts": {"risk": {"harm": "high"}}}
        reply = await probation.answered(event("client.recorded", probation.name, mine))

        async def decided(many: int = nth) -> bool:
            async with superuser(door) as db:
                of = "SELECT count(*) FROM ledger WHERE recipient = $1 AND $2 = ANY (sources)"
                return bool(await db.fetchval(of, mentors.name, probation.name) >= many)

        await eventually_true(decided, "what it recorded to be decided for the mentors")
        told.append(await asks_everything(door, value, reply["client"]))
    for route, answer in told[1].items():
        assert told[0][route] == answer, route


async def test_who_was_sent_a_record_is_told_what_else_was_withheld_and_who_imposed_is_told_why(door: Any) -> None:
    """As to a recipient: quietly. Only the agency whose restriction it is hears that it is one."""
    await permitted(door)
    reference = str((await door.hostel.received())[0].event["subject"])
    client = (await door.prison.answered(door.recorded()))["client"]
    imposed = {"identifiers": door.identifiers, "restriction": "r-9", "kind": "victim-safety", "reason": "made up"}
    await door.hostel.answered(event("restriction.imposed", door.hostel.name, imposed))
    looks = {"clients": [reference], "purpose": "referral", "categories": ["identity", "risk"]}
    async with door.hostel.http() as http:
        seen = (await http.post("/views", json=looks)).json()["views"][0]["receipt"]
        assert {(w["source"], w["rule"]) for w in seen["withheld"]} == {(door.prison.name, "not-permitted")}
        assert seen["decidedOn"] > 0
    asked = {"clients": [client], "recipient": door.mentors.name, "purpose": "referral", "categories": ["identity"]}
    async with door.prison.http() as http:
        for recipient, rule in ((door.hostel, "not-permitted"), (door.mentors, "no-consent")):
            verdict = (await http.post("/decisions", json=asked | {"recipient": recipient.name})).json()["verdicts"][0]
            assert [w["rule"] for w in verdict["withheld"]] == [rule], "only the hostel is named by its own consent"
            assert verdict["decidedOn"] is None
    mine = {"identifiers": door.identifiers, "facts": {"risk": {"harm": "low"}}}
    own = (await door.hostel.answered(event("client.recorded", door.hostel.name, mine)))["client"]
    async with door.hostel.http() as http:
        verdict = (await http.post("/decisions", json=asked | {"clients": [own]})).json()["verdicts"][0]
        assert [w["rule"] for w in verdict["withheld"]] == ["restricted"]


# --- who answers for all ----------------------------------------------------------------------------------------------


async def history(door: Any, agency: str, client: str, *more: str, accept: str = "application/json") -> httpx.Response:
    """Who was told of a client, as an agency's clerk reads it with `subject-access` and these scopes."""
    token = door.system.issuer.token("clerk", agency, ["disclosures:read", "subject-access", *more])
    headers = {"Authorization": f"Bearer {token}", "Accept": accept}
    async with httpx.AsyncClient(base_url=door.system.urls["consent"], headers=headers) as http:
        answer = await http.get(f"/clients/{client}/disclosures?limit=500")
    assert answer.status_code == 200, answer.text
    return answer


async def test_the_whole_answer_is_for_the_responsible_authority_with_a_record_and_for_the_operator(door: Any) -> None:
    prison, probation, hostel = door.prison, door.probation, door.hostel
    of_prison = (await prison.answered(door.recorded()))["client"]
    await prison.answered(door.consent(hostel))
    await eventually_true(lambda: _received(hostel), "the snapshot")
    await prison.answered(event("override.authorised", prison.name, override(door)))
    await _restricted(door)
    clients = []
    for number in (door.number, prison_number()):
        need = {"identifiers": [noms(number)], "facts": {"risk": {"harm": "low"}}}
        clients.append((await door.mentors.answered(event("client.recorded", door.mentors.name, need)))["client"])
    strange, of_nobody = clients
    whole = (await history(door, prison.name, of_prison)).json()
    assert whole["whole"]
    assert {"disclosure", "override"} <= {e["kind"] for e in whole["entries"]}
    of_hostel = str((await hostel.received())[0].event["subject"])
    for agency, client in ((door.mentors, strange), (hostel, of_hostel)):
        with_scope = but_readings((await history(door, agency.name, client)).json())
        async with agency.http() as http:
            without = but_readings((await http.get(f"/clients/{client}/disclosures?limit=500")).json())
        assert with_scope == without, "the scope opens nothing for a charity"
        assert not with_scope["whole"]
        assert {e["kind"] for e in with_scope["entries"]} <= {"disclosure", "refusal"}
        for secret in ("a threat", "staff-1", '"restricted"'):
            assert secret not in json.dumps(with_scope)
    page = (await history(door, hostel.name, of_hostel, accept="text/html")).text
    assert "It is not everything" in page
    assert "public protection without consent, newest first" not in page
    one, other = [(await history(door, door.mentors.name, client)).json() for client in (strange, of_nobody)]
    assert {e["recipient"] for e in one["entries"]} <= {door.mentors.name}
    assert bare(other["entries"]) == []
    asked = {"clients": [strange], "recipient": hostel.name, "purpose": "referral", "categories": ["risk"]}
    async with door.mentors.http() as http:
        assert (await http.post("/decisions", json=asked)).is_success
    assert "consultation" in {e["kind"] for e in (await history(door, prison.name, of_prison)).json()["entries"]}
    by_operator = (await history(door, "operator", of_hostel, "operator")).json()
    assert by_operator["whole"]
    assert {e["entry"] for e in whole["entries"]} <= {e["entry"] for e in by_operator["entries"]}
    async with superuser(door) as db:  # as the database has it, whatever the code does
        await db.execute(f'SET ROLE "{door.system.databases["consent"].name}_agency"')
        await db.execute("SELECT set_config('throughgate.whole', 'yes', false)")
        for agency, seen in ((prison, True), (probation, False), (hostel, False), (door.mentors, False)):
            await db.execute("SELECT set_config('throughgate.agency', $1, false)", agency.name)
            mine = "recipient = asking() OR asking() = ANY (sources)"
            others = await db.fetchval(f"SELECT count(*) FROM ledger WHERE NOT coalesce({mine}, false)")
            assert bool(others) == seen, agency.name


async def test_the_responsible_authority_answers_of_whom_it_recorded_something_and_of_nobody_else(door: Any) -> None:
    """Probation was told of the client, and recorded nothing itself: then it answers for itself."""
    prison, probation = door.prison, door.probation
    wanted = [terms("referral", ["identity", "needs.accommodation"])]
    await door.operator.agree(f"told-{prison.name}", [prison.name], [probation.name], wanted)
    await prison.answered(door.recorded())
    await prison.answered(door.consent(probation))
    await eventually_true(lambda: _received(probation), "the snapshot")
    await prison.answered(event("override.authorised", prison.name, override(door)))
    reference = str((await probation.received())[0].event["subject"])
    told = (await history(door, probation.name, reference)).json()
    assert not told["whole"]
    assert {e["recipient"] for e in told["entries"]} == {probation.name}
    data = {"identifiers": door.identifiers, "facts": {"risk": {"harm": "low"}}}
    await probation.answered(event("client.recorded", probation.name, data))
    told = (await history(door, probation.name, reference)).json()
    assert told["whole"]
    assert "override" in {e["kind"] for e in told["entries"]}


async def _received(agency: Agency) -> bool:
    return bool(await agency.received())


# --- who is named to the publisher of a stop --------------------------------------------------------------------------


async def named(agency: Agency, stop: dict[str, Any]) -> list[str]:
    """The recipients named in the notice that it is done, and by its status, which must not differ."""
    reply = await agency.answered(stop)
    notice = await agency.done(stop["id"])
    async with agency.http() as http:
        status = (await http.get(f"/withdrawals/{reply['withdrawal']}")).json()
    assert status["doneAt"]
    places = [{k: r[k] for k in ("recipient", "topic", "partition", "offset", "doneAt")} for r in status["recipients"]]
    assert places == [r | {"doneAt": s["doneAt"]} for r, s in zip(notice["recipients"], places, strict=True)]
    return [place["recipient"] for place in places]


async def test_a_publisher_is_told_of_recipients_that_it_may_know_of(door: Any) -> None:
    await permitted(door)
    everyone = {door.hostel.name, door.mentors.name, "referral"}
    stop = event("consent.withdrawn", door.hostel.name, withdrawn(door.identifiers))
    assert await named(door.hostel, stop) == [door.hostel.name], "it learns of itself"
    probing = withdrawn(
        door.identifiers, recipients=[{"agency": r} for r in (door.mentors.name, door.hostel.name, "referral")]
    )
    asked = event("consent.withdrawn", door.hostel.name, probing)
    assert await named(door.hostel, asked) == [door.hostel.name], "to list them in the stop changes nothing"
    assert set(await named(door.prison, door.withdrawal())) == everyone, "it tells them what it recorded"
    async with superuser(door) as connection:  # as the database has it, whatever the code does
        await connection.execute(f'SET ROLE "{door.system.databases["consent"].name}_agency"')
        for agency, seen in ((door.hostel, {door.hostel.name}), (door.prison, everyone)):
            await connection.execute("SELECT set_config('throughgate.agency', $1, false)", agency.name)
            assert {r["recipient"] for r in await connection.fetch("SELECT recipient FROM retraction")} == seen


async def test_who_recorded_the_consent_is_told_of_whom_it_named(door: Any) -> None:
    await permitted(door)
    facts = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    await door.probation.answered(event("client.recorded", door.probation.name, facts))
    agreed = granted(door.identifiers, [door.mentors.name], ["referral"], ["identity"])
    await door.probation.answered(event("consent.granted", door.probation.name, agreed))
    stop = event("consent.withdrawn", door.probation.name, withdrawn(door.identifiers))
    assert await named(door.probation, stop) == [door.mentors.name]


# --- cheap denial -----------------------------------------------------------------------------------------------------


async def test_one_event_denies_for_a_few_numbers_and_says_that_it_named_more(door: Any) -> None:
    many = [noms(prison_number()) for _ in range(3 * MOST_NAMED)]
    body = event("consent.withdrawn", door.mentors.name, {"identifiers": many})
    answer = await door.mentors.answered(body)
    assert answer["code"] == "names-too-many"
    found = await holds(door, door.mentors)
    assert sorted(h["held"] for h in found) == ["nobody", *["number"] * MOST_NAMED]
    (alert,) = [h for h in found if h["held"] == "nobody"]
    await door.operator.call("PUT", f"/holds/{alert['hold']}/owner", {"owner": "duty desk"})
    await door.operator.call("DELETE", f"/holds/{alert['hold']}")
    assert {h["held"] for h in await holds(door, door.mentors)} == {"number"}


async def test_the_client_whom_a_withdrawal_is_about_is_held_however_much_else_it_names(door: Any) -> None:
    await permitted(door)
    junk = " ".join(prison_number() for _ in range(5 * MOST_NAMED))
    data = {"note": junk, "identifiers": door.identifiers, "more": junk}
    body = event("consent.withdrawn", door.prison.name, data)
    answer = await door.prison.answered({"note": junk} | body | {"more": junk})
    assert answer["code"] == "names-too-many"
    await retracted(door)


async def test_a_stop_repeated_under_its_id_is_one_hold_and_takes_back_what_was_agreed_meanwhile(door: Any) -> None:
    await permitted(door)
    bad = door.withdrawal() | {"data": {"identifiers": door.identifiers}}
    assert (await door.prison.answered(bad))["code"] == "invalid-event"
    await retracted(door)
    await door.prison.answered(door.consent(door.hostel))
    for n in range(3):
        await door.prison.post(bad | {"id": str(uuid4()), "time": f"2026-01-0{n + 1}T00:00:00Z"})
    (hold,) = [h for h in await holds(door, door.prison) if h["held"] == "client"]
    assert hold["times"] == 4
    records = await door.hostel.received()
    assert len([r for r in records if r.event["type"] == RETRACTED]) == 1, "each repetition only counts"
    await door.operator.call("DELETE", f"/holds/{hold['hold']}")
    await door.prison.answered(door.recorded())
    passed = door.withdrawal(recipients=[{"agency": door.prison.name}])
    await door.prison.answered(passed)
    await door.prison.done(passed["id"])
    assert {r.event["type"] for r in (await door.hostel.received())[len(records) :]} <= {RETRACTED}


async def test_an_agency_holds_no_more_strangers_than_it_may_and_its_own_clients_always(door: Any) -> None:
    def junk(count: int) -> dict[str, Any]:
        identifiers = [noms(prison_number()) for _ in range(count)]
        return event("consent.withdrawn", door.mentors.name, {"identifiers": identifiers})

    facts = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    await door.mentors.answered(event("client.recorded", door.mentors.name, facts))
    for _ in range(MOST_OPEN // 10):
        assert (await door.mentors.answered(junk(10) | {"time": "never"}))["code"] == "invalid-event"
    for body in (junk(1), junk(1)):
        answer = await door.mentors.answered(body)
        assert answer["code"] == "too-many-holds"
    refused = await door.mentors.post(junk(1))
    assert refused.status_code == 429
    found = await holds(door, door.mentors)
    assert sorted({h["held"] for h in found}) == ["nobody", "number"]
    assert len([h for h in found if h["held"] == "number"]) == MOST_OPEN
    assert [h["times"] for h in found if h["held"] == "nobody"] == [3]
    own = event("consent.withdrawn", door.mentors.name, {"identifiers": door.identifiers})
    assert (await door.mentors.answered(own))["code"] == "invalid-event"
    assert [h["held"] for h in await holds(door, door.mentors)].count("client") == 1


async def test_a_number_held_by_two_agencies_is_held_until_both_are_answered(door: Any) -> None:
    for agency in (door.mentors, door.prison):
        no = event("consent.withdrawn", agency.name, withdrawn(door.identifiers))
        assert (await agency.answered(no))["code"] == "unknown-client"
    (junk,) = await holds(door, door.mentors)
    await door.operator.call("DELETE", f"/holds/{junk['hold']}")
    await door.prison.answered(door.recorded())
    (hold,) = await holds(door, door.prison)
    assert (hold["held"], hold["reason"]) == ("client", "named-by-an-earlier-withdrawal")
    async with superuser(door) as connection:
        left = await connection.fetchval("SELECT count(*) FROM held_identifier WHERE value = $1", door.number)
    assert left == 0, "the client is held, and the number is not kept a second time"


async def test_a_reply_of_operations_tells_the_same(door: Any) -> None:
    """An event that was set aside and is tried again goes the same way."""
    await door.prison.answered(door.recorded())
    async with superuser(door) as connection:
        for value in (door.number, prison_number()):
            data = {"identifiers": [noms(value)], "retraction": str(uuid4())}
            body = event("retraction.confirmed", door.probation.name, data)
            id = await connection.fetchval(
                'INSERT INTO set_aside (topic, partition, "offset", reason, value) VALUES ($1, 0, $2, $3, $4)'
                " RETURNING id",
                f"{door.system.namespace}intake.{door.probation.name}",
                uuid4().int % 2**62,
                "KeyError",
                json.dumps(body).encode(),
            )
            outcome = await door.operator.call("POST", f"/set-aside/arrived/{id}/retry")
            assert outcome == {"outcome": "unknown-client"}
            reply = await eventually(
                lambda of=body["id"]: next((r for r in door.probation.replies if r["data"]["event"] == of), None),  # type: ignore[misc]
                "the answer to its publisher",
            )
            assert reply["data"]["code"] == "unknown-client"
