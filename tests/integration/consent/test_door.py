"""The door over real Kafka and PostgreSQL: what comes in is answered, what leaves is cut, withdrawal is done."""

import json
import time
from typing import Any
from uuid import uuid4

from support.agency import consents, event, eventually_true, granted, read_all, terms
from support.door import but_readings, decided
from support.settled import settled

from contracts.leaving import RETRACTED
from throughgate.promises import Placed, behind_retraction


async def of_types(agency: Any, *types: str) -> list[Placed]:
    return [r for r in await agency.received() if r.event["type"].split(".", 1)[1].removesuffix(".v1") in types]


async def test_nothing_leaves_before_consent_and_only_what_is_permitted_after(door: Any) -> None:
    first = await door.prison.answered(door.recorded())
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(arrived, "the snapshot")
    await door.prison.answered(door.recorded(facts={"identity": {"givenName": "Robin", "familyName": "Changed"}}))

    async def changed() -> bool:
        return len(await door.hostel.received()) >= 2

    await eventually_true(changed, "the change")
    snapshot, change = [r.event for r in await door.hostel.received()]
    assert snapshot["type"] == "throughgate.client.snapshot.v1"
    assert [s["category"] for s in snapshot["data"]["sections"]] == ["identity", "needs.accommodation"]
    assert consents(snapshot) == [1]
    assert snapshot["data"]["receipt"]["withheld"] == [], "no agreement names contact or risk: not even their existence"
    assert change["data"]["sections"][0]["data"]["familyName"] == "Changed"
    assert snapshot["subject"] == change["subject"] != first["client"]
    assert await door.mentors.received() == [], "the client named one recipient only"


async def test_a_new_client_and_what_is_said_of_them_are_one_batch(lone_door: Any) -> None:
    door, system = lone_door, lone_door.system
    logged = system.log("consent.worker").stat().st_size
    system.stop_process("consent.worker")
    withdrawal = door.withdrawal()
    events = [
        door.recorded(),
        door.recorded({"contact": {"phone": "0113 496 0000"}}),
        door.consent(door.hostel),
        withdrawal,
    ]
    for body in events:
        await door.prison.publish(body)
    system.start_process("consent.worker")
    await door.prison.done(withdrawal["id"])
    told: dict[str, str] = {}

    async def all_answered() -> bool:
        told.update((r["data"]["event"], r["type"]) for r in door.prison.replies)
        return {body["id"] for body in events} <= told.keys()

    await eventually_true(all_answered, "the answers, which the discloser does not wait for")
    assert {told[body["id"]] for body in events[:3]} == {"throughgate.event.accepted.v1"}
    assert "event by event" not in system.log("consent.worker").read_text()[logged:]


async def test_the_ledger_says_who_was_told_what_and_why_not(door: Any) -> None:
    reply = await door.prison.answered(door.recorded())
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))

    async def sent() -> bool:
        async with door.prison.http() as http:
            answer = await http.get(f"/clients/{reply['client']}/disclosures")
        entries = answer.json()["entries"]
        return any(e["outcome"] == "sent" and e["recipient"] == door.hostel.name for e in entries)

    await eventually_true(sent, "the disclosure in the ledger")
    async with door.prison.http() as http:
        entries = (await http.get(f"/clients/{reply['client']}/disclosures")).json()["entries"]
        assert {e["recipient"] for e in entries if e["outcome"] == "refused"} >= {door.hostel.name, door.mentors.name}
        refused = next(e for e in entries if e["outcome"] == "refused" and e["recipient"] == door.hostel.name)
        assert {w["rule"] for w in refused["withheld"]} == {"no-consent", "agreement-category"}
        assert (await http.get(f"/clients/{uuid4()}/disclosures")).status_code == 404
    async with door.hostel.http() as http:
        response = await http.get(f"/clients/{reply['client']}/disclosures")
        assert response.status_code == 404, "another agency's reference means nobody"


async def test_withdrawal_is_done_for_each_recipient_and_nothing_follows(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel, door.mentors))
    taken_back = door.withdrawal()
    accepted = await door.prison.answered(taken_back)
    done = await door.prison.done(taken_back["id"])
    assert [d["recipient"] for d in done["recipients"]] == [door.hostel.name, door.mentors.name, "referral"]
    for agency in (door.hostel, door.mentors):
        records = await agency.received()
        place = next(d for d in done["recipients"] if d["recipient"] == agency.name)
        there = next(r for r in records if (r.partition, r.offset) == (place["partition"], place["offset"]))
        assert there.event["type"] == RETRACTED
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.recorded())
    async with door.prison.http() as http:
        status = (await http.get(f"/withdrawals/{accepted['withdrawal']}")).json()
        assert status["doneAt"]
        assert all(r["doneAt"] for r in status["recipients"])
    async with door.hostel.http() as http:
        assert (await http.get(f"/withdrawals/{accepted['withdrawal']}")).status_code == 404
    for agency in (door.hostel, door.mentors):
        records = await agency.received()
        assert behind_retraction(records) == []
        assert records[-1].event["type"] == RETRACTED


async def test_consent_given_again_works_and_a_replayed_form_does_not(door: Any) -> None:
    await door.prison.answered(door.recorded())
    first = door.consent(door.hostel)
    await door.prison.answered(first)
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])
    before = len(await door.hostel.received())
    # the old form, under a new id
    await door.prison.answered(event("consent.granted", door.prison.name, first["data"]))
    await door.prison.answered(door.recorded())
    late = granted(door.identifiers, [door.hostel.name], ["referral"], ["identity"]) | {
        "givenAt": first["data"]["givenAt"]
    }
    # a new form, signed before the withdrawal
    await door.prison.answered(event("consent.granted", door.prison.name, late))
    await door.prison.answered(door.recorded())
    assert len(await door.hostel.received()) == before
    await door.prison.answered(door.consent(door.hostel))

    async def again() -> bool:
        return len(await door.hostel.received()) > before

    await eventually_true(again, "the snapshot of the new consent")
    records = await door.hostel.received()
    assert consents(records[-1].event) == [5]
    assert behind_retraction(records) == []


async def test_a_scoped_withdrawal_stops_only_what_it_names(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel, door.mentors))
    taken_back = door.withdrawal(recipients=[{"agency": door.hostel.name}])
    await door.prison.answered(taken_back)
    done = await door.prison.done(taken_back["id"])
    assert [d["recipient"] for d in done["recipients"]] == [door.hostel.name, "referral"]
    await decided(door)
    await settled(door.system, ["cleared.referral"])
    [told] = [r.event["data"] for r in await _cleared(door, "referral") if r.event["type"] == RETRACTED]
    assert told["recipients"] == [door.hostel.name], "the service keeps its facts, and is told whom to tell no more"
    before = len(await door.mentors.received())
    await door.prison.answered(door.recorded())

    async def changed() -> bool:
        return len(await door.mentors.received()) > before

    await eventually_true(changed, "the change for the recipient that was not named")
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED
    assert [r.event["data"]["recipients"] for r in await of_types(door.hostel, "client.withdrawn")] == [None]


async def test_what_rests_on_statute_goes_on_after_a_withdrawal(door: Any) -> None:
    statute = terms("release-notification", ["identity", "custody-and-release"], "oma-2007-s14")
    await door.operator.agree(f"custody-{door.prison.name}", [door.prison.name], [door.probation.name], [statute])
    await door.operator.agree(f"custody-vcs-{door.prison.name}", [door.prison.name], [door.hostel.name], [statute])
    await door.prison.answered(door.recorded())
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])
    await door.prison.answered(door.recorded())

    async def arrived() -> bool:
        return len(await of_types(door.probation, "client.changed")) >= 2

    await eventually_true(arrived, "the change by statute")
    types = [r.event["type"] for r in await door.probation.received()]
    behind = types[types.index(RETRACTED) :]
    assert "throughgate.client.changed.v1" in behind, "what rests on statute goes on"
    assert all(consents(r.event) == [] for r in await of_types(door.probation, "client.changed"))
    assert await of_types(door.hostel, "client.changed", "client.snapshot") == [], "a charity is no listed body"


async def test_an_agreement_that_begins_later_brings_a_snapshot(door: Any) -> None:
    await door.prison.answered(door.recorded())
    statute = terms("release-notification", ["identity"], "oma-2007-s14")
    await door.operator.agree(f"custody-{door.prison.name}", [door.prison.name], [door.probation.name], [statute])

    async def arrived() -> bool:
        return [r.event["type"] for r in await door.probation.received()] == ["throughgate.client.snapshot.v1"]

    await eventually_true(arrived, "the snapshot")


async def test_a_service_gets_nothing_for_another_services_purpose(door: Any) -> None:
    both = [terms("referral", ["identity"]), terms("release-notification", ["identity"])]
    await door.operator.agree(f"both-{door.prison.name}", [door.prison.name], ["referral", "notifications"], both)
    await door.prison.answered(door.recorded())
    data = granted(door.identifiers, [door.hostel.name], ["release-notification"], ["identity"])
    reply = await door.prison.answered(event("consent.granted", door.prison.name, data))

    async def notified() -> bool:
        return {e["recipient"] for e in await _sent(door, reply["client"])} == {"notifications"}

    await eventually_true(notified, "the one service that acts for the purpose")


async def test_a_withdrawal_for_one_purpose_reaches_only_its_service(door: Any) -> None:
    both = [terms("referral", ["identity"]), terms("release-notification", ["identity"])]
    await door.operator.agree(f"both-{door.prison.name}", [door.prison.name], ["referral", "notifications"], both)
    await door.prison.answered(door.recorded())
    data = granted(door.identifiers, [door.hostel.name], ["referral", "release-notification"], ["identity"])
    await door.prison.answered(event("consent.granted", door.prison.name, data))
    taken_back = door.withdrawal(purposes=["release-notification"])
    await door.prison.answered(taken_back)
    done = await door.prison.done(taken_back["id"])
    assert "notifications" in {d["recipient"] for d in done["recipients"]}
    assert "referral" not in {d["recipient"] for d in done["recipients"]}


async def test_next_years_version_of_an_agreement_does_not_stop_this_years(door: Any) -> None:
    version = {
        "id": f"referral-{door.prison.name.removeprefix('prison-')}",
        "version": 2,
        "sources": [door.prison.name],
        "recipients": [door.hostel.name],
        "terms": [terms("referral", ["identity"])],
        "signatories": {door.prison.name: "A", door.hostel.name: "B"},
        "starts": "2029-01-01T00:00:00Z",
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await door.operator.call("POST", "/agreements", version)
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(arrived, "the snapshot under the version in force")
    assert (await door.hostel.received())[0].event["data"]["receipt"]["permitted"][0]["agreementVersion"] == 1


async def test_an_agency_sees_of_the_ledger_what_concerns_it(door: Any) -> None:
    mine = await door.prison.answered(door.recorded())
    facts = {"risk": {"harm": "low"}}
    data = {"identifiers": door.identifiers, "facts": facts}
    theirs = await door.probation.answered(event("client.recorded", door.probation.name, data))

    async def refused() -> bool:
        return bool(await _entries(door.prison, mine["client"]))

    await eventually_true(refused, "the refusals in the ledger")
    assert await _entries(door.probation, theirs["client"]) == [], "what the prison recorded is not probation's to see"


async def _entries(agency: Any, client: str) -> list[dict[str, Any]]:
    async with agency.http() as http:
        told = (await http.get(f"/clients/{client}/disclosures")).json()
    return list(but_readings(told)["entries"])


async def _cleared(door: Any, service: str) -> list[Placed]:
    """What stands on one of our services' topics about this test's client."""
    user = {"sasl_plain_username": service, "sasl_plain_password": door.system.kafka.password(service)}
    records = await read_all(door.hostel.connection() | user, f"{door.system.namespace}cleared.{service}")
    known = {r.event["subject"] for r in records if _mentions(r.event["data"], door.prison.name)}
    return [r for r in records if r.event["subject"] in known]


def _mentions(data: dict[str, Any], source: str) -> bool:
    return any(s["source"] == source for s in data.get("sections", ()))


async def _sent(door: Any, client: str) -> list[dict[str, Any]]:
    return [e for e in await _entries(door.prison, client) if e["outcome"] == "sent"]


async def test_an_event_is_kept_from_when_it_came(door: Any) -> None:
    """Whatever its publisher's clock says: what is eight days old, and mirrored, would be deleted before it is read."""
    topic = f"{door.system.namespace}intake.{door.prison.name}"
    old = time.time() - 8 * 24 * 3600
    said = json.dumps(door.recorded()).encode()
    written = await door.prison.producer.send_and_wait(topic, said, timestamp_ms=int(1000 * old))
    assert written.timestamp > 1000 * (old + 7 * 24 * 3600)
