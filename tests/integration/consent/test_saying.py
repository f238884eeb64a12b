"""What is said about sharing has its effect through the door: restrictions, exclusions, gateways, and what is left."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.agency import Agency, event, eventually_true, probation_number, terms
from support.door import accepted, superuser

from contracts.leaving import RETRACTED
from throughgate.promises import behind_retraction


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
    known = {"identifiers": door.identifiers, "facts": {"contact": {}}}  # or it could restrict nothing
    await door.probation.answered(event("client.recorded", door.probation.name, known))
    for agency in agencies:
        await last(agency, categories, "the snapshot")


async def test_a_restriction_beats_consent_until_it_is_lifted(door: Any) -> None:
    await _told(door, door.hostel, door.mentors)
    imposed = restriction(door, kind="exclusion", recipients=[{"agency": door.hostel.name}])
    await door.probation.answered(imposed)
    done = await door.probation.done(imposed["id"])
    assert done["recipients"] == [], "it tells none of them anything, so it does not learn who was told"
    await door.prison.answered(door.recorded())
    await last(door.mentors, lambda e: e["type"] == "throughgate.client.changed.v1", "the change for others")
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED
    other = {"identifiers": door.identifiers, "restriction": imposed["data"]["restriction"]}
    await door.prison.answered(event("restriction.lifted", door.prison.name, other))
    await door.prison.answered(door.recorded())
    assert (await door.hostel.received())[-1].event["type"] == RETRACTED, "only who imposed it lifts it"
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
    await last(door.hostel, lambda e: e["type"] == RETRACTED, "the retraction")
    await door.prison.answered(door.recorded())
    await last(door.hostel, lambda e: e["type"] == RETRACTED, "nothing, for it has not signed to enforce it")
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
        "authorisedByRole": "duty manager",
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
    await last(door.probation, lambda e: e["type"] == RETRACTED, "the retraction when the gateway is ended")


# --- what is recorded while a gateway or an override is in force ------------------------------------------------------

CHANGED = "throughgate.client.changed.v1"
SNAPSHOT = "throughgate.client.snapshot.v1"


def invoked(door: Any, kind: str, **more: Any) -> tuple[Agency, dict[str, Any]]:
    """Whom it names, and a gateway or an override of the prison that holds for an hour."""
    recipient: Agency = door.probation if kind == "gateway" else door.hostel
    return recipient, door.invoked(kind, door.prison, recipient, **more)


async def changes_decided(door: Any, recipient: Agency) -> int:
    """How many changes were queued for a recipient for public protection: each stands in the ledger, sent or not."""
    async with superuser(door) as database:

        async def nothing_waits() -> bool:
            return not await database.fetchval(
                "SELECT EXISTS (SELECT 1 FROM queue WHERE recipient = $1 AND due_at <= clock_timestamp())",
                recipient.name,
            )

        await eventually_true(nothing_waits, "the queue to be empty")
        count = "SELECT count(*) FROM ledger WHERE recipient = $1 AND type = $2 AND purpose = 'public-protection'"
        return int(await database.fetchval(count, recipient.name, CHANGED))


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_what_is_recorded_meanwhile_follows(door: Any, kind: str) -> None:
    await accepted(door.prison, door.recorded())
    recipient, said = invoked(door, kind)
    await accepted(door.prison, said)
    await last(recipient, lambda e: categories(e) == ["identity", "risk"], "the snapshot")
    await accepted(door.prison, door.recorded({"risk": {"harm": "high"}, "contact": {"phone": "made up"}}))
    change = await last(recipient, lambda e: e["type"] == CHANGED, "the change")
    assert [(s["category"], s["data"]["harm"]) for s in change["data"]["sections"]] == [("risk", "high")]
    await accepted(door.prison, door.recorded({"contact": {"phone": "made up too"}}))
    assert await changes_decided(door, recipient) == 1, "nothing is queued of what it does not name"
    data = {"identifiers": door.identifiers, "facts": {"risk": {"harm": "low"}}}
    await accepted(door.mentors, event("client.recorded", door.mentors.name, data))
    only_its_own = kind == "gateway"  # of s.115; an override names categories, of whatever source
    assert await changes_decided(door, recipient) == (1 if only_its_own else 2)
    await accepted(recipient, event("client.recorded", recipient.name, data))
    assert await changes_decided(door, recipient) == (1 if only_its_own else 2), "nobody is told its own"
    over = event(f"{kind}.ended", door.prison.name, {"identifiers": door.identifiers, kind: said["data"][kind]})
    await accepted(door.prison, over)
    await last(recipient, lambda e: e["type"] == RETRACTED, "the retraction")
    await accepted(door.prison, door.recorded({"risk": {"harm": "low"}}))
    assert await changes_decided(door, recipient) == (1 if only_its_own else 2), "nothing more when it has ended"


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_what_was_for_one_disclosure_is_told_once(door: Any, kind: str) -> None:
    await accepted(door.prison, door.recorded())
    recipient, once = invoked(door, kind, once=True)
    await accepted(door.prison, once)
    await last(recipient, lambda e: categories(e) == ["identity", "risk"], "the snapshot")
    await accepted(door.prison, door.recorded())
    assert await changes_decided(door, recipient) == 0
    await accepted(door.prison, invoked(door, kind)[1])
    await accepted(door.prison, door.recorded())
    assert await changes_decided(door, recipient) == 1, "one for good goes beside it"


async def test_what_is_recorded_before_it_begins_follows_then(door: Any) -> None:
    await accepted(door.prison, door.recorded({"contact": {"phone": "made up"}}))
    starts = datetime.now(UTC) + timedelta(minutes=30)
    recipient, said = invoked(door, "gateway", starts=starts.isoformat())
    await accepted(door.prison, said)
    await accepted(door.prison, door.recorded({"risk": {"harm": "high"}}))
    assert await recipient.received() == []
    async with superuser(door) as db, db.transaction():  # half an hour passes
        soon = await db.fetchval("SELECT clock_timestamp() + interval '0.5 s'")
        assert await db.execute("UPDATE due SET due_at = $1 WHERE due_at = $2", soon, starts) == "UPDATE 1"
        begins = "UPDATE sharing_fact SET body = jsonb_set(body, '{starts}', to_jsonb($1::timestamptz))"
        assert await db.execute(f"{begins} WHERE event_id = $2", soon, said["id"]) == "UPDATE 1"
    told = await last(recipient, lambda e: e["type"] == SNAPSHOT, "what was recorded, as it is by then")
    assert [s["category"] for s in told["data"]["sections"]] == ["risk"]
    assert datetime.fromisoformat(told["data"]["receipt"]["decidedAt"]) >= soon


@pytest.mark.parametrize("of_both", [True, False])
async def test_what_is_recorded_of_linked_clients_follows_where_it_may_for_each(door: Any, of_both: bool) -> None:
    other = [{"type": "CRN", "value": probation_number()}]
    for identifiers in (door.identifiers, other):
        data = {"identifiers": identifiers, "facts": {"risk": {"harm": "low"}}}
        await accepted(door.prison, event("client.recorded", door.prison.name, data))
        recipient, said = invoked(door, "gateway", identifiers=identifiers)
        if of_both or identifiers is other:
            await accepted(door.prison, said)
    link = {"identifiers": door.identifiers, "sameAs": other, "reason": "fingerprints"}
    await accepted(door.prison, event("identity.linked", door.prison.name, link))
    await accepted(door.prison, door.recorded({"risk": {"harm": "high"}}))
    assert await changes_decided(door, recipient) == (1 if of_both else 0)
