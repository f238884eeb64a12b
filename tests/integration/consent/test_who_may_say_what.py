"""Who may say what, through the door: what an agency of the wrong kind says has no effect; none opens for itself."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.agency import Agency, consents, event, eventually_true, granted, terms, withdrawn

from throughgate.verify import WITHDRAWN


def named(door: Any, id: str, recipient: Agency, **more: Any) -> dict[str, Any]:
    """The data of an override or a gateway that holds from a minute ago for an hour."""
    now = datetime.now(UTC)
    return {
        "identifiers": door.identifiers,
        id: uuid4().hex,
        "recipients": [recipient.name],
        "purposes": ["public-protection"],
        "categories": ["identity", "risk"],
        "starts": (now - timedelta(minutes=1)).isoformat(),
        "ends": (now + timedelta(hours=1)).isoformat(),
        "reason": "made up",
    } | more


def override(door: Any, by: Agency, recipient: Agency) -> dict[str, Any]:
    review = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    data = named(door, "override", recipient, authorisedBy="u-17", approvedBy="u-18", reviewBy=review)
    return event("override.authorised", by.name, data)


def gateway(door: Any, by: Agency, recipient: Agency, basis: str) -> dict[str, Any]:
    data = named(door, "gateway", recipient, basis=basis, authorisedByRole="duty manager")
    return event("gateway.invoked", by.name, data)


async def told(agency: Agency) -> list[str]:
    """The types of what has arrived at an agency."""
    return [record.event["type"] for record in await agency.received()]


async def knows(door: Any, agency: Agency) -> None:
    """The agency has records of the client: without any it knows none by that number."""
    data = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    assert (await agency.answered(event("client.recorded", agency.name, data)))["type"].endswith("accepted.v1")


async def passed(door: Any) -> None:
    """Wait until all that was queued before has left or been refused: a withdrawal is done behind it."""
    taken_back = event("consent.withdrawn", door.prison.name, withdrawn(door.identifiers, recipients=["nobody-here"]))
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])


@pytest.mark.parametrize("basis", [None, "cja-2003-s325"])
async def test_a_charity_can_neither_authorise_an_override_nor_invoke_mappa(door: Any, basis: str | None) -> None:
    def said(by: Agency) -> dict[str, Any]:
        return gateway(door, by, door.probation, basis) if basis else override(door, by, door.mentors)

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
        gateway(door, door.hostel, door.probation, "cda-1998-s115"),
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
    assert (await told(door.hostel))[-1] == WITHDRAWN
    await door.mentors.answered(event("restriction.lifted", door.mentors.name, lifted))

    async def goes_on() -> bool:
        return (await told(door.hostel))[-1] != WITHDRAWN

    await eventually_true(goes_on, "sharing to go on")
