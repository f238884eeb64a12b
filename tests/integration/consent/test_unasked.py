"""What leaves though nobody asks: what begins tells all that it permits, and nothing leaves on terms without it."""

import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from support.agency import Agency, event, eventually_true, granted, prison_number, terms
from support.door import accepted, decided, superuser

from contracts.leaving import RETRACTED

SNAPSHOT = "throughgate.client.snapshot.v1"
CHANGED = "throughgate.client.changed.v1"
FOR_MENTORING = ["identity", "contact"]


def told(records: Sequence[Any], subject: str | None = None) -> list[tuple[str, set[str]]]:
    """Type and categories of each record, as it arrived; of one client."""
    return [
        (r.event["type"], {s["category"] for s in r.event["data"].get("sections", ())})
        for r in records
        if subject in (None, r.event["subject"])
    ]


async def arrives(agency: Agency, count: int, what: str) -> list[tuple[str, set[str]]]:
    """Wait until so many records stand on an agency's topic; gives what each tells."""

    async def look() -> bool:
        return len(await agency.received()) >= count

    await eventually_true(look, what)
    return told(await agency.received())


async def sign(door: Any, name: str, starts: datetime | None = None, **more: Any) -> str:
    """Enter an agreement by which the prison tells the mentors of mentoring, on consent; gives the change."""
    text = {
        "id": f"{name}-{door.prison.name}",
        "version": 1,
        "sources": [door.prison.name],
        "recipients": [door.mentors.name],
        "terms": [terms("mentor-matching", FOR_MENTORING)],
        "signatories": {door.prison.name: "A", door.mentors.name: "B"},
        "starts": (starts or datetime.now(UTC) - timedelta(days=1)).isoformat(),
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    return str((await door.operator.call("POST", "/agreements", text | more))["change"])


async def followed_up(door: Any, *changes: str) -> None:
    """Wait until all is queued that these changes of the register permit, and decided."""
    for change in changes:

        async def done(change: str = change) -> bool:
            status = await door.operator.call("GET", f"/agreement-changes/{change}")
            return bool(status["snapshotsQueued"])

        await eventually_true(done, "the snapshots of a change to be queued")
    await decided(door)


async def a_client(door: Any, purpose: str, recipient: Agency, categories: list[str]) -> list[dict[str, str]]:
    """A new client of the prison who agrees that a recipient is told."""
    door.number = prison_number()
    await accepted(door.prison, door.recorded())
    consent = granted(door.identifiers, [recipient.name], [purpose], categories)
    await accepted(door.prison, event("consent.granted", door.prison.name, consent))
    return list(door.identifiers)


def contact(door: Any) -> dict[str, Any]:
    return dict(door.recorded({"contact": {"phone": "made up"}}))


# --- what begins ------------------------------------------------------------------------------------------------------


async def test_two_agreements_that_begin_together_tell_all_that_they_permit(door: Any) -> None:
    await a_client(door, "mentor-matching", door.mentors, FOR_MENTORING)
    starts = datetime.now(UTC) + timedelta(seconds=2)
    changes = [await sign(door, name, starts) for name in ("a", "b")]
    found = await arrives(door.mentors, 1, "the snapshot when both begin")
    assert found[0] == (SNAPSHOT, {"identity", "contact"})
    await followed_up(door, *changes)


async def test_two_agreements_that_are_resumed_together_tell_what_was_missed(door: Any) -> None:
    await a_client(door, "mentor-matching", door.mentors, FOR_MENTORING)
    names = ["a", "b"]
    await followed_up(door, *[await sign(door, name) for name in names])
    await arrives(door.mentors, 1, "the snapshot")
    reason = {"reason": "made up"}
    for name in names:
        await door.operator.call("POST", f"/agreements/{name}-{door.prison.name}/suspension", reason)
    before = {r.event["id"] for r in await door.mentors.received()}
    await accepted(door.prison, door.recorded({"contact": {"address": "2 Nowhere Street"}}))
    await a_client(door, "mentor-matching", door.mentors, FOR_MENTORING)
    await decided(door)
    assert {r.event["id"] for r in await door.mentors.received()} == before
    worker = door.system.pid("consent.worker")
    os.kill(worker, signal.SIGSTOP)  # so that both stand in the register before it comes to the first
    try:
        for name in names:
            await door.operator.call("POST", f"/agreements/{name}-{door.prison.name}/resumption", reason)
    finally:
        os.kill(worker, signal.SIGCONT)
    missed: list[Any] = []

    async def both_clients() -> bool:
        missed[:] = [r for r in await door.mentors.received() if r.event["id"] not in before]
        return len({r.event["subject"] for r in missed}) == 2

    await eventually_true(both_clients, "what was missed, of both clients")
    assert {t for t, _ in told(missed)} == {SNAPSHOT}
    assert "2 Nowhere Street" in str([r.event for r in missed])


async def test_an_agreement_with_a_subscription_tells_also_what_could_be_asked_for_before(door: Any) -> None:
    await followed_up(door, await sign(door, "a", terms=[terms("mentor-matching", FOR_MENTORING, subscription=False)]))
    await a_client(door, "mentor-matching", door.mentors, FOR_MENTORING)
    await decided(door)
    assert await door.mentors.received() == []
    await followed_up(door, await sign(door, "b"))
    assert await arrives(door.mentors, 1, "the snapshot") == [(SNAPSHOT, {"identity", "contact"})]


async def test_a_version_with_a_subscription_tells_what_could_be_asked_for_before(door: Any) -> None:
    await followed_up(door, await sign(door, "a", terms=[terms("mentor-matching", FOR_MENTORING, subscription=False)]))
    await a_client(door, "mentor-matching", door.mentors, FOR_MENTORING)
    await followed_up(door, await sign(door, "a", version=2))
    assert await arrives(door.mentors, 1, "the snapshot") == [(SNAPSHOT, {"identity", "contact"})]
    await followed_up(door, await sign(door, "a", version=3))
    assert len(await door.mentors.received()) == 1, "by a version that says the same nothing begins"


# --- on what nothing leaves unasked -----------------------------------------------------------------------------------


async def test_what_was_agreed_without_a_subscription_leaves_when_somebody_asks(door: Any) -> None:
    on_request = terms("referral", ["identity", "contact", "risk"], subscription=False)
    signed = {door.prison.name: "A", door.hostel.name: "B"}
    change = await sign(door, "ref", terms=[on_request], recipients=[door.hostel.name], signatories=signed)
    await followed_up(door, change)
    await a_client(door, "referral", door.hostel, ["identity", "contact", "risk"])
    found = await arrives(door.hostel, 1, "the snapshot of what it subscribed")
    assert found == [(SNAPSHOT, {"identity"})]
    subscribed = f"/agreements/referral-{door.prison.name.removeprefix('prison-')}"
    await door.operator.call("POST", f"{subscribed}/suspension", {"reason": "made up"})
    reply = await accepted(door.prison, contact(door))
    await accepted(door.prison, door.recorded({"identity": {"givenName": "Robin", "familyName": "Changed"}}))
    await decided(door)
    assert len(await door.hostel.received()) == 1, "and nothing leaves while what it subscribed is suspended"
    question = {
        "clients": [reply["client"]],
        "recipient": door.hostel.name,
        "purpose": "referral",
        "categories": ["risk"],
    }
    async with door.prison.http() as http:
        answer = await http.post("/decisions", json=question)
    assert answer.is_success, answer.text
    assert [p["agreement"] for p in answer.json()["verdicts"][0]["permitted"]] == [f"ref-{door.prison.name}"]


async def test_nothing_is_queued_for_who_left_an_agreement(door: Any) -> None:
    n = door.prison.name.removeprefix("prison-")
    staying = [door.hostel.name, "referral"]
    await door.operator.agree(f"referral-{n}", [door.prison.name], staying, [terms("referral", ["identity"])], 2)
    await accepted(door.prison, door.recorded())
    await accepted(door.prison, door.consent(door.hostel, door.mentors))
    await arrives(door.hostel, 1, "the snapshot for who stayed")
    withdrawal = door.withdrawal()
    await accepted(door.prison, withdrawal)
    await door.prison.done(withdrawal["id"])
    await decided(door)
    assert await door.mentors.received() == []
    async with superuser(door) as db:
        assert await db.fetchval("SELECT count(*) FROM ledger WHERE recipient = $1", door.mentors.name) == 0


# --- for one disclosure -----------------------------------------------------------------------------------------------


def invoked(door: Any, **more: Any) -> dict[str, Any]:
    """Vital interests, by which the prison tells probation."""
    said: dict[str, Any] = door.invoked("gateway", door.prison, door.probation, basis="vital-interests", **more)
    return said


def ends(door: Any, what: str, id: str) -> dict[str, Any]:
    """What lifts a restriction, or ends a gateway, of the prison."""
    word = "lifted" if what == "restriction" else "ended"
    return event(f"{what}.{word}", door.prison.name, {"identifiers": door.identifiers, what: id})


async def test_what_has_no_effect_tells_nothing(door: Any) -> None:
    await accepted(door.prison, door.recorded())
    await accepted(door.prison, invoked(door))
    await accepted(door.prison, invoked(door, categories=["contact"], gateway="g-2"))
    data = {"identifiers": door.identifiers, "restriction": "r-1", "kind": "exclusion"}
    data["recipients"] = [{"agency": door.hostel.name}]
    await accepted(door.prison, event("restriction.imposed", door.prison.name, data))
    over = ("restriction", "r-1"), ("gateway", "g-2")
    for named in over:
        await accepted(door.prison, ends(door, *named))
    await decided(door)
    before = len(await door.probation.received())
    assert before > 2, "what has an effect is followed by what is left"
    for named in over:
        await accepted(door.prison, ends(door, *named))
    await door.prison.answered(ends(door, "restriction", "of-nothing"))
    await decided(door)
    assert len(await door.probation.received()) == before


async def test_what_was_for_one_disclosure_does_not_leave_with_another(door: Any) -> None:
    await accepted(door.prison, door.recorded())
    await accepted(door.prison, invoked(door, once=True, categories=["risk"]))
    assert await arrives(door.probation, 1, "the disclosure") == [(SNAPSHOT, {"risk"})]
    await accepted(door.prison, door.recorded({"risk": {"harm": "very-high"}}))
    await accepted(door.prison, invoked(door, categories=["contact"]))
    found = await arrives(door.probation, 2, "what another gateway lets out")
    assert found[1:] == [(SNAPSHOT, {"contact"})]
    exclusion = {"kind": "exclusion", "recipients": [{"agency": door.hostel.name}]}
    for kind, more in (("imposed", exclusion), ("lifted", {})):
        data = {"identifiers": door.identifiers, "restriction": "r-1"} | more
        await accepted(door.prison, event(f"restriction.{kind}", door.prison.name, data))
    withdrawal = door.withdrawal()
    await accepted(door.prison, withdrawal)
    await door.prison.done(withdrawal["id"])
    await decided(door)
    later = told(await door.probation.received())[2:]
    assert RETRACTED in {type for type, _ in later}
    assert all("risk" not in categories for _, categories in later)
    await accepted(door.prison, invoked(door, once=True, categories=["risk"]))

    async def anew() -> bool:
        return (SNAPSHOT, {"risk", "contact"}) in told(await door.probation.received())

    await eventually_true(anew, "it again, because it was invoked again")
