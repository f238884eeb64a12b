"""A no names whom a consent can name; and the end of what nobody began, which stops all the same."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.agency import event, eventually_true, terms
from support.commands import Commands
from support.door import accepted, holds, recorded

from contracts.leaving import RETRACTED
from throughgate.promises import behind_retraction

ACCEPTED, REJECTED = "throughgate.event.accepted.v1", "throughgate.event.rejected.v1"
CHARITIES = [{"kind": "vcs", "area": "leeds"}]


async def rules(door: Any, client: str, recipient: str, purpose: str = "referral", **more: Any) -> dict[str, str]:
    """Of what the prison may tell a recipient, by category: the rule that withholds it, or the basis of a permit."""
    body = {"clients": [client], "recipient": recipient, "purpose": purpose, "categories": ["identity"]}
    async with door.prison.http() as http:
        answer = await http.post("/decisions", json=body | more)
        assert answer.status_code == 200, answer.text
    verdict = answer.json()["verdicts"][0]
    return {p["category"]: p["basis"] for p in verdict["permitted"]} | {
        w["category"]: w["rule"] for w in verdict["withheld"]
    }


async def retracted(door: Any, agency: Any) -> list[dict[str, Any]]:
    """The data of the retractions that stand on an agency's topic."""
    records = await agency.received()
    assert behind_retraction(records) == []
    return [r.event["data"] for r in records if r.event["type"] == RETRACTED]


# --- whom a no names --------------------------------------------------------------------------------------------------


async def test_a_withdrawal_reaches_a_kind_of_agency_in_an_area_and_who_comes_to_it_later(door: Any) -> None:
    client = (await door.prison.answered(door.recorded()))["client"]
    given = door.consent(door.probation)
    given["data"]["recipients"] += CHARITIES
    await door.prison.answered(given)
    for agency in (door.hostel, door.mentors):

        async def told(agency: Any = agency) -> bool:
            return bool(await agency.received())

        await eventually_true(told, "the snapshot")
    taken_back = door.withdrawal(recipients=CHARITIES)
    assert (await door.prison.answered(taken_back))["type"] == ACCEPTED
    done = await door.prison.done(taken_back["id"])
    assert {d["recipient"] for d in done["recipients"]} == {door.hostel.name, door.mentors.name, "referral"}
    for agency in (door.hostel, door.mentors):
        assert [r["recipients"] for r in await retracted(door, agency)] == [None], "it does not say who else is meant"
    late = f"late-{uuid4().hex[:8]}"
    await door.operator.register(**{late.replace("-", "_"): "vcs"})
    await door.operator.agree(f"late-{late}", [door.prison.name], [late], [terms("referral", ["identity"])])
    assert await rules(door, client, late) == {"identity": "consent-withdrawn"}
    await door.prison.answered(door.consent(door.probation))
    await door.operator.agree(f"p-{late}", [door.prison.name], [door.probation.name], [terms("referral", ["identity"])])
    assert await rules(door, client, door.probation.name) == {"identity": "consent"}, "whom it does not name goes on"


async def test_a_withdrawal_for_a_kind_that_nobody_is_of_yet_is_kept_for_who_comes(door: Any) -> None:
    client = await recorded(door)
    area = f"hull{uuid4().hex[:6]}"
    given = door.consent()
    given["data"]["recipients"] = [{"kind": "health", "area": area}]
    assert (await door.prison.answered(given))["type"] == ACCEPTED
    assert (await door.prison.answered(door.withdrawal(recipients=given["data"]["recipients"])))["type"] == ACCEPTED
    late = f"late-{uuid4().hex[:8]}"
    await door.operator.call("PUT", f"/agencies/{late}", {"name": late, "kind": "health", "area": area})
    await door.operator.agree(f"late-{late}", [door.prison.name], [late], [terms("referral", ["identity"])])
    assert await rules(door, client, late) == {"identity": "consent-withdrawn"}
    assert await holds(door, door.prison, door.probation) == []


async def test_a_withdrawal_of_one_service_leaves_what_rests_on_the_agency(door: Any) -> None:
    client = await recorded(door)
    hostel = door.hostel.name
    beds = [{"agency": hostel, "service": "beds"}]
    before = len(await door.hostel.received())
    taken_back = door.withdrawal(recipients=beds)
    assert (await door.prison.answered(taken_back))["type"] == ACCEPTED
    await door.prison.done(taken_back["id"])
    assert await rules(door, client, hostel, service="beds") == {"identity": "consent-withdrawn"}
    assert await rules(door, client, hostel, service="meals") == {"identity": "consent"}
    assert await rules(door, client, hostel) == {"identity": "consent"}

    async def told_what_is_left() -> bool:
        return [r.event["type"] for r in (await door.hostel.received())[before:]][-2:] == [
            RETRACTED,
            "throughgate.client.snapshot.v1",
        ]

    await eventually_true(told_what_is_left, "the retraction, and what is left")
    assert len(await retracted(door, door.hostel)) == 1


@pytest.mark.parametrize("named", ["vcs@leeds", "{}/beds", "{}"])
async def test_the_command_withdraws_for_whom_it_is_told(door: Any, tmp_path: Path, named: str) -> None:
    client = await recorded(door)
    recipient = named.format(door.hostel.name)
    code, said = await Commands(door.system, tmp_path)("withdraw", door.prison.name, client, "--recipient", recipient)
    assert code == 0, said
    assert f"partner.{door.hostel.name}" in said
    assert "recipients that you may know of; for all others too" in said
    assert await rules(door, client, door.hostel.name, service="beds") == {"identity": "consent-withdrawn"}
    other = "consent" if recipient.endswith("/beds") else "consent-withdrawn"
    assert await rules(door, client, door.hostel.name, service="meals") == {"identity": other}


async def test_the_command_does_not_say_that_it_reached_nobody_where_others_were_told(
    door: Any, tmp_path: Path
) -> None:
    await recorded(door)
    known = {"identifiers": door.identifiers, "facts": {"contact": {}}}
    reply = await accepted(door.probation, event("client.recorded", door.probation.name, known))
    code, said = await Commands(door.system, tmp_path)("withdraw", door.probation.name, reply["client"])
    assert code == 0, said
    assert "is done for everyone" in said
    assert "Nobody that you may know of was ever sent or queued anything of this client." in said
    assert len(await retracted(door, door.hostel)) == 1


async def test_a_restriction_names_the_same_and_reaches_what_is_about_no_service(door: Any) -> None:
    client = await recorded(door)
    for recipients, service, rule in (
        ([{"agency": door.hostel.name, "service": "beds"}], "beds", "restricted"),
        ([{"agency": door.hostel.name, "service": "beds"}], "meals", "consent"),
        ([{"agency": door.hostel.name, "service": "beds"}], None, "restricted"),
        (CHARITIES, "meals", "restricted"),
    ):
        own_id = uuid4().hex
        data = {"identifiers": door.identifiers, "restriction": own_id, "kind": "exclusion", "recipients": recipients}
        imposed = event("restriction.imposed", door.prison.name, data)
        assert (await door.prison.answered(imposed))["type"] == ACCEPTED
        more = {"service": service} if service else {}
        assert await rules(door, client, door.hostel.name, **more) == {"identity": rule}, (recipients, service)
        lifted = {"identifiers": door.identifiers, "restriction": own_id}
        await door.prison.answered(event("restriction.lifted", door.prison.name, lifted))


async def test_a_no_that_names_an_agency_that_nobody_registered_holds_the_client(door: Any) -> None:
    client = await recorded(door)
    await door.prison.answered(door.consent(door.mentors))
    said = await door.prison.answered(door.withdrawal(recipients=[{"agency": "nobody-at-all", "service": "beds"}]))
    assert (said["type"], said["code"]) == (REJECTED, "unknown-recipient")
    for agency in (door.hostel.name, door.mentors.name):
        assert await rules(door, client, agency) == {"identity": "consent-withdrawn"}, "for everybody"
    assert [h["reason"] for h in await holds(door, door.prison, door.probation)] == ["unknown-recipient"]


async def test_a_no_to_our_own_services_as_a_kind_holds_the_client(door: Any) -> None:
    """Nobody can register as one, so it would stop nothing for ever."""
    client = await recorded(door)
    said = await door.prison.answered(door.withdrawal(recipients=[{"kind": "service", "area": "leeds"}]))
    assert (said["type"], said["code"]) == (REJECTED, "invalid-event")
    assert await rules(door, client, door.hostel.name) == {"identity": "consent-withdrawn"}
    given = door.consent()
    given["data"]["recipients"] = [{"kind": "service", "area": "leeds"}]
    assert (await door.prison.answered(given))["code"] == "invalid-event"
    assert [h["times"] for h in await holds(door, door.prison)] == [1], "a consent holds nobody"


# --- the end of what nobody began -------------------------------------------------------------------------------------


BASES = {"gateway": "cja-2003-s325", "override": "public-protection-override"}


def invoked(door: Any, kind: str) -> Any:
    """A gateway or an override of the probation service for the prison."""
    basis = {"basis": BASES[kind]} if kind == "gateway" else {}
    return door.invoked(kind, door.probation, door.prison, **{kind: "S115-x"}, **basis)


def ended(door: Any, kind: str, own_id: str, agency: Any) -> dict[str, Any]:
    return event(f"{kind}.ended", agency.name, {"identifiers": door.identifiers, kind: own_id})


def recorded_by_probation(door: Any) -> dict[str, Any]:
    data = {"identifiers": door.identifiers, "facts": {"risk": {"harm": "high"}}}
    return event("client.recorded", door.probation.name, data)


async def known_to_both(door: Any) -> str:
    """A client whom both know; gives the probation service's reference."""
    await door.prison.answered(door.recorded())
    return str((await door.probation.answered(recorded_by_probation(door)))["client"])


async def told_of_the_risk(door: Any, client: str) -> str:
    """The basis on which the probation service may tell the prison of the risk, or the rule that withholds it."""
    body = {"clients": [client], "recipient": door.prison.name, "purpose": "public-protection", "categories": ["risk"]}
    async with door.probation.http() as http:
        answer = await http.post("/decisions", json=body)
        assert answer.status_code == 200, answer.text
    (verdict,) = answer.json()["verdicts"]
    return str([*(p["basis"] for p in verdict["permitted"]), *(w["rule"] for w in verdict["withheld"])][0])


@pytest.mark.parametrize("kind", ["gateway", "override"])
@pytest.mark.parametrize("whose", ["a wrong id", "another agency", "before it began"])
async def test_the_end_of_what_this_agency_did_not_begin_denies_until_a_person_looked(
    door: Any, kind: str, whose: str
) -> None:
    client = await known_to_both(door)
    begun = invoked(door, kind)
    if whose != "before it began":
        assert (await door.probation.answered(begun))["type"] == ACCEPTED
        assert await told_of_the_risk(door, client) == BASES[kind]
    publisher = door.prison if whose == "another agency" else door.probation
    own_id = "s115-x" if whose == "a wrong id" else "S115-x"
    said = await publisher.answered(ended(door, kind, own_id, publisher))
    assert (said["type"], said.get("code")) == (REJECTED, "nothing-to-end")
    (hold,) = await holds(door, door.prison, door.probation)
    assert (hold["held"], hold["reason"], hold["assertedBy"]) == ("client", "nothing-to-end", publisher.name)
    if whose == "before it began":
        assert (await door.probation.answered(begun))["type"] == ACCEPTED
    assert await told_of_the_risk(door, client) in ("not-permitted", "no-agreement")
    await door.operator.call("DELETE", f"/holds/{hold['hold']}")
    after = "no-agreement" if whose == "before it began" else BASES[kind]
    assert await told_of_the_risk(door, client) == after, "what was ended under its own id stays ended"


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_to_end_again_what_ended_holds_nobody(door: Any, kind: str) -> None:
    await known_to_both(door)
    await door.probation.answered(invoked(door, kind))
    for _ in range(2):
        stop = ended(door, kind, "S115-x", door.probation)
        assert (await door.probation.answered(stop))["type"] == ACCEPTED
        await door.probation.done(stop["id"])
    assert await holds(door, door.prison, door.probation) == []


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_what_begins_under_an_id_whose_own_has_ended_is_rejected(door: Any, kind: str) -> None:
    """It would open nothing: who authorised it must not take the recipient for told."""
    client = await known_to_both(door)
    await accepted(door.probation, invoked(door, kind))
    await accepted(door.probation, ended(door, kind, "S115-x", door.probation))
    again = await door.probation.answered(invoked(door, kind))
    assert (again["type"], again.get("code")) == (REJECTED, "ended-already")
    assert await holds(door, door.prison, door.probation) == []
    assert await told_of_the_risk(door, client) == "no-agreement"


async def test_a_stop_that_does_not_fit_says_that_it_stopped_everything(door: Any) -> None:
    await known_to_both(door)
    said = event("consent.withdrawn", door.prison.name, {"identifiers": door.identifiers, "scope": "some"})
    answer = await door.prison.answered(said)
    assert answer["code"] == "invalid-event"
    assert "nothing leaves for whoever it names until operations, who were told, have looked" in answer["detail"]


async def test_to_lift_a_restriction_that_is_not_there_is_rejected_and_holds_nobody(door: Any) -> None:
    await known_to_both(door)
    lifted = {"identifiers": door.identifiers, "restriction": "r-1"}
    said = await door.prison.answered(event("restriction.lifted", door.prison.name, lifted))
    assert (said["type"], said["code"]) == (REJECTED, "nothing-to-end")
    assert await holds(door, door.prison, door.probation) == []


@pytest.mark.parametrize("whose", ["a wrong id", "another agency", "before it was authorised"])
async def test_the_review_of_what_this_agency_did_not_authorise_is_rejected_and_holds_nobody(
    door: Any, whose: str
) -> None:
    await known_to_both(door)
    authorised = door.invoked("override", door.probation, door.prison, override="ovr-1")
    if whose != "before it was authorised":
        assert (await door.probation.answered(authorised))["type"] == ACCEPTED
    publisher = door.prison if whose == "another agency" else door.probation
    data = {"identifiers": door.identifiers, "override": "ovr-1", "reviewedBy": "staff-3", "outcome": "justified"}
    data |= {"override": "OVR-1"} if whose == "a wrong id" else {}
    said = await publisher.answered(event("override.reviewed", publisher.name, data))
    assert (said["type"], said.get("code")) == (REJECTED, "nothing-to-review")
    assert await holds(door, door.prison, door.probation) == []
    if whose == "before it was authorised":
        assert (await door.probation.answered(authorised))["type"] == ACCEPTED
    for ended_first in (False, True):
        if ended_first:
            await accepted(door.probation, ended(door, "override", "ovr-1", door.probation))
        right = event("override.reviewed", door.probation.name, data | {"override": "ovr-1"})
        assert (await door.probation.answered(right))["type"] == ACCEPTED


async def test_a_review_right_behind_what_it_reviews_is_accepted(door: Any) -> None:
    await known_to_both(door)
    authorised = door.invoked("override", door.probation, door.prison, override="ovr-1")
    data = {"identifiers": door.identifiers, "override": "ovr-1", "reviewedBy": "staff-3", "outcome": "justified"}
    await door.probation.publish(authorised)
    await accepted(door.probation, event("override.reviewed", door.probation.name, data))
