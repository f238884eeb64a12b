"""Who may say what, through the door: what an agency of the wrong kind says has no effect; none opens for itself."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from support.agency import Agency, consents, event, eventually_true, granted, terms, withdrawn

from consent.service.holds import OTHER
from contracts.leaving import RETRACTED


async def told(agency: Agency) -> list[str]:
    """The types of what has arrived at an agency."""
    return [record.event["type"] for record in await agency.received()]


async def knows(door: Any, agency: Agency) -> None:
    """The agency has records of the client: without any it knows none by that number."""
    data = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    assert (await agency.answered(event("client.recorded", agency.name, data)))["type"].endswith("accepted.v1")


async def passed(door: Any) -> None:
    """Wait until all that was queued before has left or been refused: a withdrawal is done behind it."""
    of_nobody_told = withdrawn(door.identifiers, recipients=[{"agency": door.prison.name}])
    taken_back = event("consent.withdrawn", door.prison.name, of_nobody_told)
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])


@pytest.mark.parametrize("basis", [None, "cja-2003-s325"])
async def test_a_charity_can_neither_authorise_an_override_nor_invoke_mappa(door: Any, basis: str | None) -> None:
    def said(by: Agency) -> Any:
        return (
            door.invoked("gateway", by, door.probation, basis=basis)
            if basis
            else door.invoked("override", by, door.mentors)
        )

    recipient = door.probation if basis else door.mentors
    await door.prison.answered(door.recorded())
    reply = await door.hostel.answered(said(door.hostel))
    assert reply["type"] == "throughgate.event.rejected.v1"
    assert reply["code"] == "not-yours-to-say"
    await passed(door)
    assert await told(recipient) == []
    assert (await door.prison.answered(said(door.prison)))["type"] == "throughgate.event.accepted.v1"

    async def has_arrived() -> bool:
        return bool(await told(recipient))

    await eventually_true(has_arrived, "what the prison may say to have its effect")


async def test_a_charity_tells_of_serious_harm_what_it_recorded_itself(door: Any) -> None:
    facts = {"identity": {"givenName": "Robin", "familyName": "Fictional"}, "risk": {"harm": "high"}}
    data = {"identifiers": door.identifiers, "facts": facts}
    await door.prison.answered(door.recorded())
    for said in (
        event("client.recorded", door.hostel.name, data),
        door.invoked("gateway", door.hostel, door.probation, basis="cda-1998-s115"),
    ):
        assert (await door.hostel.answered(said))["type"] == "throughgate.event.accepted.v1"

    async def has_arrived() -> bool:
        return bool(await told(door.probation))

    await eventually_true(has_arrived, "what the charity tells")
    sections = [s for record in await door.probation.received() for s in record.event["data"]["sections"]]
    assert {(s["source"], s["category"]) for s in sections} == {
        (door.hostel.name, "identity"),
        (door.hostel.name, "risk"),
    }


async def test_a_recipients_own_word_opens_no_permit_for_itself(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await knows(door, door.hostel)
    own = event(
        "consent.granted",
        door.hostel.name,
        granted(door.identifiers, [door.hostel.name, door.mentors.name], ["referral"], ["identity"]),
    )
    assert (await door.hostel.answered(own))["type"] == "throughgate.event.accepted.v1"

    async def others_have_it() -> bool:
        return bool(await told(door.mentors))

    await eventually_true(others_have_it, "the charity's word to count for another")
    await door.prison.answered(door.recorded())
    await passed(door)
    assert await told(door.hostel) == []
    await door.prison.answered(door.consent(door.hostel))

    async def has_it() -> bool:
        return bool(await told(door.hostel))

    await eventually_true(has_it, "the prison's word to count")
    assert {v for record in await door.hostel.received() for v in consents(record.event)} == {3}


async def test_own_word_counts_where_the_agreement_says_so(door: Any) -> None:
    says = terms("referral", ["identity"]) | {"ownWord": True}
    await door.operator.agree(f"own-{door.prison.name}", [door.prison.name], [door.hostel.name], [says])
    await door.prison.answered(door.recorded())
    await knows(door, door.hostel)
    data = granted(door.identifiers, [door.hostel.name], ["referral"], ["identity"])
    await door.hostel.answered(event("consent.granted", door.hostel.name, data))

    async def has_it() -> bool:
        return bool(await told(door.hostel))

    await eventually_true(has_it, "the recipient's own word to count")


UNREGISTERED = "harbor-housing"
"""Nobody: the agency is written otherwise."""


def stops(door: Any) -> dict[str, dict[str, Any]]:
    """The data of one stop of each kind that names recipients, all but one of whom are registered."""
    whom = {"identifiers": door.identifiers}
    now = datetime.now(UTC).isoformat()
    named = {"recipients": [{"agency": door.hostel.name}, {"agency": UNREGISTERED}]}
    excluded = {"agency": UNREGISTERED, "practitioner": "u-17"}
    return {
        "consent.withdrawn": withdrawn(door.identifiers, **named),
        "consent.refused": whom | named | {"refusedAt": now, "scope": "listed"},
        "restriction.imposed": whom | named | {"restriction": "r-1", "kind": "exclusion"},
        "restriction.imposed of a practitioner": whom
        | {"restriction": "r-1", "kind": "practitioner-exclusion", "practitioners": [excluded]},
    }


async def shared(door: Any) -> None:
    """The mentors, whom no stop of this file names, were sent a record."""
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.mentors))

    async def has_it() -> bool:
        return bool(await told(door.mentors))

    await eventually_true(has_it, "the first record")


async def stopped(door: Any, code: str) -> None:
    """The client is held for everybody, and somebody is told why."""

    async def retracted() -> bool:
        return (await told(door.mentors))[-1] == RETRACTED

    await eventually_true(retracted, "the retraction")
    held = [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name]
    assert [(h["held"], h["reason"]) for h in held] == [("client", code)]
    assert held[0]["meaning"] != OTHER


@pytest.mark.parametrize("kind", stops(SimpleNamespace(identifiers=[], hostel=SimpleNamespace(name="x"))))
async def test_a_stop_for_an_agency_that_nobody_registered_stops_for_everybody(door: Any, kind: str) -> None:
    await shared(door)
    answer = await door.prison.answered(event(kind.split(" ")[0], door.prison.name, stops(door)[kind]))
    assert answer.get("code") == "unknown-recipient", answer
    assert UNREGISTERED not in answer["detail"]
    assert door.number not in answer["detail"]
    await stopped(door, "unknown-recipient")


async def test_a_restriction_that_ended_before_it_was_said_stops_for_everybody(door: Any) -> None:
    await shared(door)
    data = {
        "identifiers": door.identifiers,
        "restriction": "r-1",
        "kind": "victim-safety",
        "until": "2025-01-01T00:00:00Z",
    }
    answer = await door.prison.answered(event("restriction.imposed", door.prison.name, data))
    assert answer.get("code") == "invalid-event", answer
    assert "data.until must lie after time" in answer["detail"]
    await stopped(door, "invalid-event")


async def test_a_restriction_that_ended_on_its_way_is_history(door: Any) -> None:
    """What arrives late, or is read again after a restore, or a case system tells of its past."""
    await shared(door)
    data = {
        "identifiers": door.identifiers,
        "restriction": "r-1",
        "kind": "victim-safety",
        "until": "2025-01-02T00:00:00Z",
    }
    said = event("restriction.imposed", door.prison.name, data, time="2025-01-01T00:00:00Z")
    assert (await door.prison.answered(said))["type"] == "throughgate.event.accepted.v1"
    await door.prison.done(said["id"])
    assert [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name] == []


@pytest.mark.parametrize("what", ["consent", "gateway", "override"])
async def test_nor_is_anything_permitted_to_an_agency_that_nobody_registered(door: Any, what: str) -> None:
    """It would open nothing, and its publisher would think that it had told somebody. It holds nobody either."""
    await door.prison.answered(door.recorded())
    nobody: Any = SimpleNamespace(name=UNREGISTERED)
    said = {
        "consent": door.consent(nobody, door.hostel),
        "gateway": door.invoked("gateway", door.prison, nobody, basis="cda-1998-s115"),
        "override": door.invoked("override", door.prison, nobody),
    }[what]
    assert (await door.prison.answered(said)).get("code") == "unknown-recipient"
    assert [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name] == []
    named = {"name": "Made up", "kind": "health", "area": "leeds"}
    await door.operator.call("PUT", f"/agencies/{UNREGISTERED}-{door.prison.name}", named)
    again = json.loads(json.dumps(said).replace(UNREGISTERED, f"{UNREGISTERED}-{door.prison.name}"))
    answer = await door.prison.answered(again | {"id": uuid4().hex})
    assert answer["type"] == "throughgate.event.accepted.v1", "the same form, the same own id: nothing was used up"


async def test_whom_limited_access_allows_need_not_be_registered(door: Any) -> None:
    await shared(door)
    data = {"identifiers": door.identifiers, "restriction": "r-1", "kind": "limited-access", "allowed": [UNREGISTERED]}
    said = event("restriction.imposed", door.prison.name, data)
    assert (await door.prison.answered(said))["type"] == "throughgate.event.accepted.v1"
    await door.prison.done(said["id"])
    assert (await told(door.mentors))[-1] == RETRACTED, "it denies more, never less"


async def test_anyone_may_stop_and_only_who_stopped_lifts(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def has_it() -> bool:
        return bool(await told(door.hostel))

    await eventually_true(has_it, "the first record")
    await knows(door, door.mentors)
    stop = {"identifiers": door.identifiers, "restriction": "r1", "kind": "victim-safety"}
    imposed = event("restriction.imposed", door.mentors.name, stop)
    await door.mentors.answered(imposed)
    await door.mentors.done(imposed["id"])
    lifted = {"identifiers": door.identifiers, "restriction": "r1"}
    await door.prison.answered(event("restriction.lifted", door.prison.name, lifted))
    await door.prison.answered(door.recorded())
    await passed(door)
    assert (await told(door.hostel))[-1] == RETRACTED
    await door.mentors.answered(event("restriction.lifted", door.mentors.name, lifted))

    async def goes_on() -> bool:
        return (await told(door.hostel))[-1] != RETRACTED

    await eventually_true(goes_on, "sharing to go on")


async def test_what_would_open_nothing_is_not_accepted(door: Any) -> None:
    """Its publisher would think that it had told somebody: with a life at stake."""
    await door.prison.answered(door.recorded())
    a_life = {"basis": "vital-interests"}
    for said, code, where in (
        (door.invoked("gateway", door.prison, door.hostel, **a_life), "gateway-does-not-reach", "recipients"),
        (
            door.invoked("gateway", door.prison, door.probation, **a_life, purposes=["release-notification"]),
            "gateway-does-not-reach",
            "purposes",
        ),
        (
            door.invoked("gateway", door.prison, door.probation, **a_life, categories=["risk", "needs.abuse"]),
            "gateway-does-not-reach",
            "categories",
        ),
        (door.invoked("override", door.prison, door.prison), "own-word", "agency"),
    ):
        answer = await door.prison.answered(said)
        assert (answer.get("code"), where in answer.get("detail", "")) == (code, True), answer
    for said in (
        door.invoked("gateway", door.prison, door.probation, **a_life),
        door.invoked("override", door.prison, door.hostel),
    ):
        assert (await door.prison.answered(said))["type"].endswith("accepted.v1")
