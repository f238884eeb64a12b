"""What is said about sharing has its effect through the door: restrictions, exclusions, gateways, and what is left."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from support.agency import Agency, event, eventually_true, terms

from throughgate.verify import WITHDRAWN, behind_retraction


def restriction(door: Any, **more: Any) -> dict[str, Any]:
    data = {"identifiers": door.identifiers, "restriction": uuid4().hex} | more
    return event("restriction.imposed", door.probation.name, data)


def categories(record: dict[str, Any]) -> list[str]:
    return [s["category"] for s in record["data"].get("sections", ())]


async def last(agency: Agency, look: Any, what: str) -> dict[str, Any]:
    """The last record that arrived, once it is as expected."""
    found: dict[str, Any] = {}

    async def there() -> bool:
        records = await agency.received()
        if records:
            found.clear()
            found.update(records[-1].event)
        return bool(records) and bool(look(records[-1].event))

    await eventually_true(there, what)
    assert behind_retraction(await agency.received()) == []
    return found


async def _told(door: Any, *agencies: Agency) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(*agencies, categories=["identity", "needs.accommodation"]))
    for agency in agencies:
        await last(agency, categories, "the snapshot")


async def test_a_restriction_beats_consent_until_it_is_lifted(door: Any) -> None:
    await _told(door, door.hostel, door.mentors)
    imposed = restriction(door, kind="exclusion", recipients=[door.hostel.name])
    await door.probation.answered(imposed)
    done = await door.probation.done(imposed["id"])
    assert {d["recipient"] for d in done["recipients"]} == {door.hostel.name, "referral"}
    await door.prison.answered(door.recorded())
    await last(door.mentors, lambda e: e["type"] == "throughgate.client.changed.v1", "the change for others")
    assert (await door.hostel.received())[-1].event["type"] == WITHDRAWN
    other = {"identifiers": door.identifiers, "restriction": imposed["data"]["restriction"]}
    await door.prison.answered(event("restriction.lifted", door.prison.name, other))
    await door.prison.answered(door.recorded())
    assert (await door.hostel.received())[-1].event["type"] == WITHDRAWN, "only who imposed it lifts it"
    await door.probation.answered(event("restriction.lifted", door.probation.name, other))
    await last(door.hostel, categories, "what is permitted again")


async def test_one_category_may_be_restricted_and_the_rest_goes_on(door: Any) -> None:
    await _told(door, door.hostel)
    await door.probation.answered(restriction(door, kind="victim-safety", categories=["needs.accommodation"]))
    left = await last(door.hostel, lambda e: categories(e) == ["identity"], "the rest, behind the retraction")
    told = left["data"]["receipt"]["withheld"]
    assert [w["rule"] for w in told] == ["not-permitted"], "that it is a restriction is not told"


async def test_an_excluded_practitioner_is_an_obligation_and_who_has_not_signed_gets_nothing(door: Any) -> None:
    await _told(door, door.hostel)
    people = [{"agency": door.hostel.name, "practitioner": "u-17"}]
    await door.probation.answered(restriction(door, kind="practitioner-exclusion", practitioners=people))
    await last(door.hostel, lambda e: e["type"] == WITHDRAWN, "the retraction")
    await door.prison.answered(door.recorded())
    await last(door.hostel, lambda e: e["type"] == WITHDRAWN, "nothing, for it has not signed to enforce it")
    signed = {
        "id": f"enforces-{door.hostel.name}",
        "version": 1,
        "sources": [door.prison.name],
        "recipients": [door.hostel.name],
        "terms": [terms("referral", ["identity"])],
        "enforces": [door.hostel.name],
        "signatories": {door.prison.name: "A", door.hostel.name: "B"},
        "starts": "2026-01-01T00:00:00Z",
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await door.operator.call("POST", "/agreements", signed)
    again = await last(door.hostel, categories, "what it may have once it has signed")
    kept = [o["practitioner"] for o in again["data"]["receipt"]["obligations"] if o["code"] == "keep-from-practitioner"]
    assert kept == ["u-17"]


async def test_withdrawing_consent_leaves_what_a_gateway_lets_out(door: Any) -> None:
    await _told(door, door.hostel)
    now = datetime.now(UTC)
    data = {
        "identifiers": door.identifiers,
        "gateway": uuid4().hex,
        "basis": "cda-1998-s115",
        "recipients": [door.probation.name],
        "purposes": ["public-protection"],
        "categories": ["identity", "risk"],
        "starts": (now - timedelta(minutes=1)).isoformat(),
        "ends": (now + timedelta(hours=1)).isoformat(),
        "authorisedBy": "duty manager",
        "reason": "made up",
    }
    await door.prison.answered(event("gateway.invoked", door.prison.name, data))
    await last(door.probation, lambda e: categories(e) == ["identity", "risk"], "what the gateway lets out")
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    done = await door.prison.done(taken_back["id"])
    assert door.probation.name in {d["recipient"] for d in done["recipients"]}
    await last(door.probation, lambda e: categories(e) == ["identity", "risk"], "it again, behind the retraction")
    ended = {"identifiers": door.identifiers, "gateway": data["gateway"]}
    await door.prison.answered(event("gateway.ended", door.prison.name, ended))
    await last(door.probation, lambda e: e["type"] == WITHDRAWN, "the retraction when the gateway is ended")
