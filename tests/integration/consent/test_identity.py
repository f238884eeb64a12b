"""The same person under several numbers: a link keeps the strictest consent and retracts, and can be undone."""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.agency import (
    Agency,
    consents,
    event,
    eventually_true,
    granted,
    prison_number,
    probation_number,
    read_all,
    terms,
    withdrawn,
)
from support.door import accepted, superuser

from consent.repository.queue import RETRACTIONS
from contracts.leaving import RETRACTED
from servicekit.db import listening
from throughgate.promises import Placed, behind_retraction

Numbers = list[dict[str, str]]

SNAPSHOT = "throughgate.client.snapshot.v1"
FACTS = {
    "identity": {"givenName": "Robin", "familyName": "Fictional"},
    "needs.accommodation": {"level": "urgent", "summary": "no fixed abode"},
}


class Two:
    """Two clients of one prison: A under a prison number, B under a probation number."""

    def __init__(self, door: Any, connection: Any) -> None:
        self.door, self.database = door, connection
        self.a: Numbers = door.identifiers
        self.b: Numbers = [{"type": "CRN", "value": probation_number()}]
        self.tag = uuid4().hex[:8]

    async def say(self, kind: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Publish as the prison; it must be accepted."""
        reply: dict[str, Any] = await self.door.prison.answered(event(kind, self.door.prison.name, data, **more))
        assert reply["type"].endswith("accepted.v1"), reply
        return reply

    async def record(self, who: Numbers, tag: str = "", facts: Any = None, **more: Any) -> dict[str, Any]:
        """Facts of a client, in which `tag` can be found again."""
        mine = facts or {**FACTS, "identity": {"givenName": "Robin", "familyName": tag or self.tag}}
        return await self.say("client.recorded", {"identifiers": who, "facts": mine}, **more)

    async def grant(self, who: Numbers, *recipients: Agency) -> dict[str, Any]:
        """Consent to referral."""
        names = [r.name for r in recipients]
        return await self.say("consent.granted", granted(who, names, ["referral"], ["identity", "needs.accommodation"]))

    async def withdraw(self, who: Numbers, **scope: Any) -> None:
        """A withdrawal, and wait until it is done."""
        taken_back = event("consent.withdrawn", self.door.prison.name, withdrawn(who, **scope))
        await self.door.prison.answered(taken_back)
        await self.door.prison.done(taken_back["id"])

    async def link(self, one: Numbers | None = None, other: Numbers | None = None, **more: Any) -> dict[str, Any]:
        """Say that they are one person, and wait until every retraction stands."""
        data = {"identifiers": one or self.a, "sameAs": other or self.b, "reason": "fingerprints"}
        said = event("identity.linked", self.door.prison.name, data, **more)
        reply: dict[str, Any] = await self.door.prison.answered(said)
        assert reply["type"].endswith("accepted.v1"), reply
        if reply.get("withdrawal"):
            await self.door.prison.done(said["id"])
        return reply

    async def unlink(self, one: Numbers | None = None, other: Numbers | None = None) -> None:
        """Say that they are not, and wait until every retraction stands."""
        data = {"identifiers": one or self.a, "notSameAs": other or self.b, "reason": "a clerk's mistake"}
        said = event("identity.unlinked", self.door.prison.name, data)
        reply = await self.door.prison.answered(said)
        assert reply["type"].endswith("accepted.v1"), reply
        await self.door.prison.done(said["id"])

    async def erase(self, who: Numbers) -> None:
        """All that is kept of a client, and wait until every retraction stands."""
        asked = event(
            "erasure.requested",
            self.door.prison.name,
            {"identifiers": who, "scope": "everything", "reason": "client-asked"},
        )
        assert (await self.door.prison.answered(asked))["type"].endswith("accepted.v1")
        await self.door.prison.done(asked["id"])

    async def quiet(self) -> None:
        """Wait until all that was queued has left or was refused."""
        names = [x.name for x in (self.door.prison, self.door.hostel, self.door.mentors)]

        async def empty() -> bool:
            return not await self.database.fetchval(
                "SELECT count(*) FROM queue WHERE due_at <= clock_timestamp() AND (recipient = ANY($1) OR client_id IN"
                " (SELECT client_id FROM reference WHERE recipient = ANY($1)))",
                names,
            )

        await eventually_true(empty, "the queue to be empty", 60)

    async def told(self, agency: Agency) -> list[Placed]:
        """All that an agency got, when the queue is empty. What is committed can be read a moment later."""
        await self.quiet()
        found: list[Placed] = await agency.received()
        while True:
            await asyncio.sleep(0.3)
            again: list[Placed] = await agency.received()
            if len(again) == len(found):
                return found
            found = again

    async def new(self, agency: Agency, before: list[Placed]) -> list[dict[str, Any]]:
        """What it got since."""
        places = {(r.partition, r.offset) for r in before}
        return [r.event for r in await self.told(agency) if (r.partition, r.offset) not in places]

    async def owed(self, because: str) -> list[tuple[str, dict[str, Any]]]:
        """Recipients and what each was told by the prison's stops for this reason, those told of everything first."""
        rows = await self.database.fetch(
            "SELECT r.recipient, r.body FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id"
            " WHERE w.because = $1 AND w.agency = $2",
            because,
            self.door.prison.name,
        )
        said = [(row["recipient"], json.loads(row["body"])["data"]) for row in rows]
        return sorted(said, key=lambda one: (one[0], one[1]["recipients"] is not None))

    async def api(self, method: str, path: str, body: Any = None, agency: str = "operator") -> httpx.Response:
        """A person asks the door: the operator's, or one of an agency."""
        scopes = ["identity", "operator"] if agency == "operator" else ["identity"]
        token = self.door.system.issuer.token("a-person", agency, scopes)
        async with httpx.AsyncClient(base_url=self.door.system.urls["consent"], timeout=30) as http:
            return await http.request(method, path, json=body, headers={"Authorization": f"Bearer {token}"})

    async def candidates(self) -> list[dict[str, Any]]:
        """Open candidates that the prison may see."""
        return list((await self.api("GET", "/candidates", agency=self.door.prison.name)).json())

    async def links(self) -> list[dict[str, Any]]:
        """Links that the prison may see."""
        return list((await self.api("GET", "/links", agency=self.door.prison.name)).json())


@pytest.fixture
async def two(door: Any) -> AsyncIterator[Two]:
    """Two clients. Behind every test: nothing stands behind a retraction, in any topic."""
    async with superuser(door) as connection:
        made = Two(door, connection)
        yield made
        await made.quiet()
        for agency in (door.hostel, door.mentors):
            assert behind_retraction(await agency.received()) == []
        user = {"sasl_plain_username": "referral", "sasl_plain_password": door.system.kafka.password("referral")}
        cleared = await read_all(door.hostel.connection() | user, f"{door.system.namespace}cleared.referral")
        # a service that is only told to whom it may say no more goes on itself
        own = [r for r in cleared if r.event["data"].get("recipients") is None]
        assert behind_retraction(own) == []


def disclosures(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [e for e in events if "receipt" in e["data"]]


def names(events: list[dict[str, Any]]) -> set[str]:
    sections = (s for e in disclosures(events) for s in e["data"]["sections"])
    return {s["data"]["familyName"] for s in sections if s["category"] == "identity"}


def subjects(events: list[dict[str, Any]], kind: str) -> set[str]:
    return {e["subject"] for e in events if e["type"] == kind}


async def test_a_link_keeps_the_strictest_consent_and_retracts_what_becomes_denied(two: Two) -> None:
    hostel, mentors = two.door.hostel, two.door.mentors
    await two.record(two.a, "Ash")
    await two.record(two.b, "Birch")
    await two.grant(two.a, hostel, mentors)
    await two.grant(two.b, hostel, mentors)
    await two.withdraw(two.b, recipients=[{"agency": hostel.name}])
    at_hostel, at_mentors = await two.told(hostel), await two.told(mentors)
    await two.link()
    linked = await two.new(hostel, at_hostel)
    assert subjects(linked, RETRACTED) == {r.event["subject"] for r in at_hostel}, "under every key that it had"
    assert disclosures(linked) == [], "B withdrew, so A's consent no longer opens anything for the hostel"
    merged = await two.new(mentors, at_mentors)
    keys = {r.event["data"]["sections"][0]["data"]["familyName"]: r.event["subject"] for r in at_mentors}
    assert subjects(merged, RETRACTED) == {keys["Birch"]}, "A's key goes on and loses nothing, B's ends"
    assert subjects(merged, SNAPSHOT) == {keys["Ash"]}
    owed = await two.owed("linked")
    assert all(said["categories"] is None for _, said in owed)
    at_referral = [said["recipients"] for recipient, said in owed if recipient == "referral"]
    assert at_referral == [None, [hostel.name]], "under A's key it goes on, and tells the hostel no more"
    before = await two.told(hostel)
    await two.record(two.a, "Changed")
    assert await two.new(hostel, before) == []
    assert "Changed" in names(await two.new(mentors, at_mentors))
    await two.grant(two.b, hostel)
    again = await two.new(hostel, before)
    older = {r.event["subject"] for r in at_hostel if "Ash" in names([r.event])}
    assert subjects(again, SNAPSHOT) == older, "under the key that goes on"
    assert names(again) == {"Changed"}


async def test_a_link_takes_back_what_was_told_before_the_agreement_was_suspended(two: Two) -> None:
    hostel, agreement = two.door.hostel, two.door.prison.name.replace("prison", "referral")
    await two.record(two.a, "Ash")
    await two.record(two.b, "Birch")
    await two.grant(two.a, hostel)
    before = await two.told(hostel)
    assert names([r.event for r in before]) == {"Ash"}
    await two.door.operator.call("POST", f"/agreements/{agreement}/suspension", {"reason": "We look into it."})
    await two.link()
    assert subjects(await two.new(hostel, before), RETRACTED) >= {r.event["subject"] for r in before}
    await two.door.operator.call("POST", f"/agreements/{agreement}/resumption", {"reason": "It is well."})
    assert disclosures(await two.new(hostel, before)) == []


async def test_where_one_was_never_asked_it_takes_a_new_consent(two: Two) -> None:
    hostel = two.door.hostel
    await two.record(two.a)
    await two.grant(two.a, hostel)
    await two.record(two.b)
    before = await two.told(hostel)
    linking: dict[str, Any] = {"id": uuid4().hex, "time": datetime.now(UTC).isoformat()}
    first = await two.link(**linking)
    events = await two.new(hostel, before)
    assert subjects(events, RETRACTED) >= {before[0].event["subject"]}, "B was never asked"
    assert disclosures(events) == []
    before = await two.told(hostel)
    assert await two.link(**linking) == first, "the same event again gets the same answer"
    await two.link()  # and a new event that says the same changes nothing
    assert await two.new(hostel, before) == []
    await two.grant(two.b, hostel)
    await two.record(two.a, "Open")
    events = await two.new(hostel, before)
    assert "Open" in names(events)
    assert len({e["subject"] for e in events}) == 1
    (link,) = await two.links()
    assert not link["needsDecision"]
    await two.withdraw(two.a)
    before = await two.told(hostel)
    assert before[-1].event["type"] == RETRACTED or RETRACTED in {r.event["type"] for r in before}
    await two.record(two.b, "Closed")
    assert await two.new(hostel, before) == [], "a withdrawal under either number stops for the linked client"
    kinds = await two.database.fetch("SELECT kind FROM ledger WHERE kind = 'combination'")
    assert kinds, "combining records is entered in the ledger"


async def test_what_was_recorded_since_a_link_counts_whatever_time_it_bears(two: Two) -> None:
    await two.record(two.a, "before")
    await two.record(two.b, "before")
    await two.link()
    earlier = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()  # the clock of the source went fast before
    await two.record(two.a, "corrected", time=earlier)
    await two.quiet()
    await two.grant(two.b, two.door.hostel)
    told = [r.event for r in await two.told(two.door.hostel) if r.event["type"] == SNAPSHOT][-1]
    names = [s["data"]["familyName"] for s in told["data"]["sections"] if s["category"] == "identity"]
    assert names == ["corrected"]


async def test_what_was_queued_for_a_part_leaves_with_what_was_recorded_since_the_link(two: Two) -> None:
    prison, hostel = two.door.prison, two.door.hostel
    agreement = {
        "id": f"later-{prison.name}",
        "version": 1,
        "sources": [prison.name],
        "recipients": [hostel.name],
        "terms": [terms("mentor-matching", ["identity"])],
        "signatories": {prison.name: "A", hostel.name: "B"},
        "starts": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }
    await two.door.operator.call("POST", "/agreements", agreement)
    for who in (two.a, two.b):  # a snapshot that is due when the agreement begins stands under each part
        await two.record(who, "before")
        await two.say("consent.granted", granted(who, [hostel.name], ["mentor-matching"], ["identity"]))
    await two.link()
    earlier = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    await two.record(two.a, "corrected", time=earlier)
    await two.quiet()
    rows = await two.database.fetch(
        "SELECT client_id FROM identifier WHERE value = ANY($1)", [who[0]["value"] for who in (two.a, two.b)]
    )
    parts = [row["client_id"] for row in rows]
    async with two.database.transaction():  # the day comes
        await two.database.execute("UPDATE agreement SET starts = clock_timestamp() WHERE id = $1", agreement["id"])
        moved = await two.database.execute(
            "UPDATE queue SET due_at = clock_timestamp() WHERE client_id = ANY($1) AND recipient = $2",
            parts,
            hostel.name,
        )
    assert moved == "UPDATE 2"
    names = {
        s["data"]["familyName"]
        for r in await two.told(hostel)
        for s in r.event["data"].get("sections", ())
        if s["category"] == "identity"
    }
    assert names == {"corrected"}


async def test_undoing_a_link_gives_back_the_earlier_consent_and_nothing_of_what_was_given_since(two: Two) -> None:
    hostel, mentors = two.door.hostel, two.door.mentors
    await two.record(two.a, "Ash")
    await two.grant(two.a, hostel)
    key = (await two.told(hostel))[0].event["subject"]
    await two.record(two.b, "Birch")
    await two.link()
    await two.grant(two.b, hostel, mentors)
    await two.record(two.a, "Together")
    at_hostel, at_mentors = await two.told(hostel), await two.told(mentors)
    assert "Together" in names([r.event for r in at_mentors])
    await two.unlink()
    apart = await two.new(hostel, at_hostel)
    assert subjects(apart, RETRACTED) >= {key}
    assert names(apart) == {"Ash"}, "A's own consent from before, and what was recorded of A before"
    assert subjects(apart, SNAPSHOT) == {key}
    gone = await two.new(mentors, at_mentors)
    assert subjects(gone, RETRACTED) == {r.event["subject"] for r in at_mentors}
    assert disclosures(gone) == [], "what was given while they were linked permits for neither"
    at_mentors = await two.told(mentors)
    at_hostel = await two.told(hostel)
    await two.record(two.b, "Beech")
    await two.record(two.a, "Alder")
    assert await two.new(mentors, at_mentors) == []
    assert names(await two.new(hostel, at_hostel)) == {"Alder"}
    assert await two.candidates() == []
    (link,) = await two.links()
    assert link["unlinkedAt"], "the wrong link is history"


async def test_the_retraction_of_an_undone_link_joins_the_running_cycle(two: Two) -> None:
    """The discloser hears that a retraction waits, not only that something does: that is for the next cycle."""
    for who in (two.a, two.b):
        await two.record(who)
        await two.grant(who, two.door.hostel)
    await two.link()
    await two.quiet()
    system = two.door.system
    async with listening(system.postgres.url(system.databases["consent"].name), RETRACTIONS) as (heard,):
        await two.unlink()
        async with asyncio.timeout(10):
            await heard.wait()


async def test_what_was_stopped_while_linked_stays_stopped_for_both(two: Two) -> None:
    hostel, mentors = two.door.hostel, two.door.mentors
    await two.record(two.a, "Ash")
    await two.record(two.b, "Birch")
    await two.grant(two.a, hostel, mentors)
    await two.grant(two.b, hostel, mentors)
    await two.link()
    await two.withdraw(two.a, recipients=[{"agency": hostel.name}])
    await two.unlink()
    at_hostel, at_mentors = await two.told(hostel), await two.told(mentors)
    await two.record(two.a, "Alder")
    await two.record(two.b, "Beech")
    assert await two.new(hostel, at_hostel) == [], "the withdrawal reaches both: nobody knows whom it meant"
    assert names(await two.new(mentors, at_mentors)) == {"Alder", "Beech"}
    late = granted(two.a, [hostel.name], ["referral"], ["identity"]) | {"givenAt": "2026-01-01T00:00:00Z"}
    await two.say("consent.granted", late)
    assert await two.new(hostel, at_hostel) == [], "and cannot be lifted by a consent given before it"
    await two.grant(two.a, hostel)
    assert names(await two.new(hostel, at_hostel)) == {"Alder"}


async def _unreviewed(two: Two) -> list[str]:
    """The prison's overrides that are listed as not reviewed."""
    listed = (await two.api("GET", "/overrides/overdue")).json()
    return [o["override"] for o in listed if o["agency"] == two.door.prison.name]


async def _override(two: Two, id: str, who: Numbers) -> None:
    """An override that is to be reviewed since an hour ago."""
    now = datetime.now(UTC)
    named = {"override": id, "identifiers": who}
    times = {"starts": now - timedelta(hours=2), "ends": now + timedelta(hours=1), "reviewBy": now - timedelta(hours=1)}
    told = {name: at.isoformat() for name, at in times.items()}
    await accepted(two.door.prison, two.door.invoked("override", two.door.prison, two.door.hostel, **named, **told))


async def _review(two: Two, id: str, who: Numbers) -> None:
    data = {"identifiers": who, "override": id, "reviewedBy": "staff-3", "outcome": "justified"}
    await two.say("override.reviewed", data)


@pytest.mark.parametrize("by", ["a", "b"])
async def test_an_override_of_an_undone_link_is_reviewed_under_either_number(two: Two, by: str) -> None:
    await two.record(two.a)
    await two.record(two.b)
    await _override(two, "o-1", two.b)
    await _review(two, "o-1", two.b)
    await two.link()
    await _override(two, "o-1", two.a)
    assert await _unreviewed(two) == ["o-1"], "the review of an earlier one of that name is not its own"
    await two.unlink()
    assert await _unreviewed(two) == ["o-1"]
    await _override(two, "o-2", two.a)
    await _review(two, "o-2", two.a)
    assert await _unreviewed(two) == ["o-1"], "that was another one's"
    await _review(two, "o-1", two.a if by == "a" else two.b)
    assert await _unreviewed(two) == []


async def test_an_override_of_a_part_is_reviewed_while_it_is_linked_and_not_by_the_other_parts_own(two: Two) -> None:
    await two.record(two.a)
    await two.record(two.b)
    await _override(two, "o-1", two.a)
    await _override(two, "o-1", two.b)
    await _review(two, "o-1", two.b)
    await two.link()
    assert await _unreviewed(two) == ["o-1"], "of B alone"
    await _review(two, "o-1", two.b)
    assert await _unreviewed(two) == []


async def test_a_number_learnt_while_linked_stays_with_the_part_it_came_with(two: Two) -> None:
    hostel = two.door.hostel
    case = {"type": "CASE", "value": uuid4().hex}
    both = {"type": "CASE", "value": uuid4().hex}
    await two.record(two.a, "Ash", clientversion=7)
    await two.record(two.b, "Birch", clientversion=3)
    await two.grant(two.b, hostel)
    await two.link()
    await two.record([*two.b, case], "Together", clientversion=4)
    await two.record([*two.a, *two.b, both], "Together", clientversion=8)
    held = await two.database.fetchval("SELECT count(*) FROM source_version WHERE clientversion = 8")
    assert held == 2, "the newest version of each of the two that the event named"
    await two.unlink()
    before = await two.told(hostel)
    await two.record([case], "Beech", clientversion=9)
    assert names(await two.new(hostel, before)) == {"Beech"}, "it came with B's number, so it is B's"
    prison = two.door.prison
    answer = await prison.answered(event("client.recorded", prison.name, {"identifiers": [both], "facts": FACTS}))
    assert answer["code"] == "identifier-conflict", "it came with both, so nobody knows whose it is"
    taken_back = event("consent.withdrawn", prison.name, withdrawn([both]))
    assert (await prison.answered(taken_back))["code"] == "identifier-conflict"
    before = await two.told(hostel)
    assert before[-1].event["type"] == RETRACTED or RETRACTED in [r.event["type"] for r in before]
    await two.record(two.b, "Denied", clientversion=10)
    assert await two.new(hostel, before) == [], "a stop that may mean either stops both"


async def test_a_number_that_came_with_both_means_them_again_once_a_person_links_them_again(two: Two) -> None:
    hostel, prison = two.door.hostel, two.door.prison
    both = [{"type": "CASE", "value": uuid4().hex}]
    one, other = (await two.record(two.a))["client"], (await two.record(two.b))["client"]
    await two.link()
    await two.record([*two.a, *two.b, *both])
    await two.unlink()
    recorded = event("client.recorded", prison.name, {"identifiers": [*two.a, *both], "facts": FACTS})
    assert (await prison.answered(recorded))["code"] == "identifier-conflict"
    told = {"clients": [one, other], "reason": "the same photograph"}
    assert (await two.api("POST", "/links", told)).status_code == 201
    assert (await two.record([*two.a, *both], "Again"))["client"] == (await two.record(two.b, "Again"))["client"]
    await two.grant(both, hostel)
    before = await two.told(hostel)
    assert "Again" in names([r.event for r in before])
    await two.withdraw(both)
    assert RETRACTED in {e["type"] for e in await two.new(hostel, before)}
    holds = "SELECT count(*) FROM hold WHERE asserted_by = $1 AND lifted_at IS NULL"
    assert await two.database.fetchval(holds, prison.name) == 0, "it named one client: nobody has to look"
    data = {"identifiers": both, "scope": "everything", "reason": "client-asked"}
    await two.say("erasure.requested", data)
    left = await two.database.fetchval("SELECT count(*) FROM identifier WHERE value = $1", both[0]["value"])
    assert left == 0, "it is of nobody else"


async def test_what_an_agency_records_again_after_a_link_was_undone_may_have_its_old_version(two: Two) -> None:
    hostel = two.door.hostel
    await two.record(two.a, "Ash", clientversion=4)
    await two.record(two.b, "Birch", clientversion=2)
    await two.grant(two.a, hostel)
    await two.link()
    await two.record(two.a, "Together", clientversion=5)
    await two.unlink()
    before = await two.told(hostel)
    await two.record(two.a, "Again", clientversion=5)
    assert names(await two.new(hostel, before)) == {"Again"}
    await two.record(two.a, "Old", clientversion=4)
    assert "Old" not in names(await two.new(hostel, before)), "what is older is history as before"


async def _stands_in_line(two: Two, locker: Any) -> None:
    """Wait until a transaction of the door waits for what this one has locked."""

    async def waits() -> bool:
        asked = "SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))"
        return bool(await two.database.fetchval(asked, locker.get_server_pid()))

    await eventually_true(waits, "the door to wait for the lock")


LOCK = "SELECT 1 FROM client WHERE id = $1 FOR UPDATE"


@pytest.mark.parametrize("kind", ["client.recorded", "erasure.requested"])
async def test_what_is_written_of_a_part_is_locked_before_the_client_that_it_is_linked_in(two: Two, kind: str) -> None:
    """In the order in which linking locks them: two that lock in different orders wait for each other."""
    await two.record(two.a)
    await two.record(two.b)
    await two.link()
    part = await two.database.fetchval("SELECT client_id FROM identifier WHERE value = $1", two.a[0]["value"])
    linked = await two.database.fetchval("SELECT merged_into FROM client WHERE id = $1", part)
    data = {"facts": FACTS} if kind == "client.recorded" else {"scope": "own", "reason": "client-asked"}
    more = {"clientversion": 1} if kind == "client.recorded" else {}
    async with superuser(two.door) as other:
        async with other.transaction():
            await other.execute(LOCK, part)
            said = asyncio.create_task(two.say(kind, {"identifiers": two.a, **data}, **more))
            await _stands_in_line(two, other)
            await other.execute(f"{LOCK} NOWAIT", linked)
        await said


@pytest.mark.parametrize("kind", ["identity.linked", "identity.unlinked", "erasure.requested"])
async def test_what_stands_behind_a_link_or_an_erasure_has_a_transaction_of_its_own(two: Two, kind: str) -> None:
    """It would lock clients a second time, out of order."""
    door, system = two.door, two.door.system
    await two.record(two.a)
    await two.record(two.b)
    rows = [
        await two.database.fetchval("SELECT client_id FROM identifier WHERE value = $1", who[0]["value"])
        for who in (two.a, two.b)
    ]
    about: dict[str, dict[str, Any]] = {
        "identity.linked": {"sameAs": two.b, "reason": "x"},
        "identity.unlinked": {"notSameAs": two.b, "reason": "x"},
        "erasure.requested": {"scope": "own", "reason": "client-asked"},
    }
    events = [
        event(kind, door.prison.name, {"identifiers": two.b, **about[kind]}),
        event("client.recorded", door.prison.name, {"identifiers": two.a, "facts": FACTS}),
    ]
    async with superuser(door) as other, other.transaction():
        system.stop_process("consent.worker")
        try:
            for one in events:
                await door.prison.publish(one)
            await other.execute(LOCK, min(rows))
        finally:
            system.start_process("consent.worker")
        await _stands_in_line(two, other)
        await other.execute(f"{LOCK} NOWAIT", max(rows))

    async def answered() -> bool:
        return {e["id"] for e in events} <= {r["data"]["event"] for r in door.prison.replies}

    await eventually_true(answered, "both answers")


async def test_contradicting_numbers_disclose_nothing_until_a_person_confirms(two: Two) -> None:
    hostel = two.door.hostel
    two.b = [{"type": "NOMS", "value": two.a[0]["value"][:5] + "XX"}]
    await two.record(two.a, "Ash")
    await two.record(two.b, "Birch")
    await two.grant(two.a, hostel)
    await two.grant(two.b, hostel)
    prison = two.door.prison
    third = [*two.a, {"type": "NOMS", "value": two.a[0]["value"][:5] + "ZZ"}]
    answer = await prison.answered(event("client.recorded", prison.name, {"identifiers": third, "facts": FACTS}))
    assert answer["code"] == "identifier-conflict", "no event gives a client a second prison number"
    before = await two.told(hostel)
    await two.link()
    events = await two.new(hostel, before)
    assert subjects(events, RETRACTED) == {r.event["subject"] for r in before}
    await two.record(two.a, "Denied")
    await two.grant(two.a, hostel)
    assert disclosures(await two.new(hostel, before)) == []
    (link,) = await two.links()
    assert link["needsDecision"]
    waits = "/links?needsDecision=true"
    assert (await two.api("GET", waits, agency=prison.name)).json() == [link]
    before = await two.told(hostel)
    assert (await two.api("PUT", f"/links/{link['link']}/confirmation", agency=prison.name)).status_code == 204
    assert (await two.api("PUT", f"/links/{link['link']}/confirmation")).json()["code"] == "nothing-to-confirm"
    assert (await two.api("GET", waits, agency=prison.name)).json() == []
    confirmed = await two.new(hostel, before)
    assert names(confirmed) == {"Denied"}
    assert consents(disclosures(confirmed)[0])


async def test_a_number_that_came_up_under_a_link_that_was_undone_counts_once_they_are_linked_again(two: Two) -> None:
    """Whose it was nobody could say meanwhile; of one person it is one, whichever part it came up with."""
    prison, (number,) = two.door.prison, two.a
    kept, second, third = ({"type": "NOMS", "value": number["value"][:5] + end} for end in ("QQ", "XX", "ZZ"))
    two.a, two.b, c = ([{"type": "CASE", "value": f"{n}-{number['value']}"}] for n in "abc")
    for who in (two.a, two.b, c):
        await two.record(who)
    await two.link()
    await two.record([*two.a, *two.b, kept])
    await two.unlink()

    async def answer(*who: dict[str, str]) -> str:
        data = {"identifiers": list(who), "facts": FACTS}
        reply = await prison.answered(event("client.recorded", prison.name, data))
        return str(reply.get("code", "accepted"))

    assert await answer(kept) == "identifier-conflict", "it may be either's"
    (link,) = await two.links()
    body = {"clients": [(await two.record(who))["client"] for who in (two.a, two.b)], "reason": "they are, after all"}
    assert (await two.api("POST", "/links", body)).status_code == 201
    assert await answer(kept) == "accepted"
    assert await answer(*two.a, second) == "identifier-conflict", "a second one"
    # nor is another client with one of its own linked as if there were no doubt
    assert await answer(*c, third) == "accepted"
    await two.link(two.a, c)
    newest, *_ = await two.links()
    assert newest["link"] != link["link"]
    assert newest["needsDecision"]


async def test_numbers_contradict_that_only_the_link_brings_together(two: Two) -> None:
    """The number of an undone link may be either's. Of both together it is one more than the other."""
    (number,) = two.a
    kept, second = ({"type": "NOMS", "value": number["value"][:5] + end} for end in ("QQ", "XX"))
    two.a, two.b = ([{"type": "CASE", "value": f"{n}-{number['value']}"}] for n in "ab")
    for who in (two.a, two.b):
        await two.record(who)
    await two.link()
    await two.record([*two.a, *two.b, kept])
    await two.unlink()
    await two.record([*two.a, second])
    body = {"clients": [(await two.record(who))["client"] for who in (two.a, two.b)], "reason": "they are, after all"}
    assert (await two.api("POST", "/links", body)).status_code == 201
    newest, *_ = await two.links()
    assert newest["needsDecision"]


async def test_a_link_of_links_and_undoing_it_in_order(two: Two) -> None:
    hostel = two.door.hostel
    c: Numbers = [{"type": "PNC", "value": f"2004/{random.randint(1000000, 9999999)}H"}]
    for who, name in ((two.a, "Ash"), (two.b, "Birch"), (c, "Cedar")):
        await two.record(who, name)
        await two.grant(who, hostel)
    first = {next(iter(names([r.event]))): r.event["subject"] for r in await two.told(hostel)}
    await two.link(two.b, c)
    await two.link(two.a, c)
    before = await two.told(hostel)
    await two.record(c, "All")
    assert subjects(await two.new(hostel, before), "throughgate.client.changed.v1") == {first["Ash"]}
    links = await two.links()
    assert (await two.api("DELETE", f"/links/{links[-1]['link']}")).json()["code"] == "linked-further"
    before = await two.told(hostel)
    await two.unlink(two.a, two.b)
    events = await two.new(hostel, before)
    assert {e["subject"] for e in events if e["type"] == SNAPSHOT} == {first["Ash"], first["Birch"]}
    assert names(events) == {"Ash", "Cedar"}, "of B and C the newest from before the second link"
    assert (await two.api("DELETE", f"/links/{links[-1]['link']}", agency=two.door.prison.name)).status_code == 204
    before = await two.told(hostel)
    await two.withdraw(two.b)
    await two.record(c, "Chestnut")
    assert names(await two.new(hostel, before)) == {"Chestnut"}
    again = {"identifiers": two.a, "sameAs": c, "reason": "a late copy"}
    answer = await two.door.prison.answered(event("identity.linked", two.door.prison.name, again))
    assert answer["code"] == "told-apart"


def _recorded(agency: Agency, who: Numbers, name: str, **identity: str) -> dict[str, Any]:
    facts = {"identity": {"givenName": "Robin", "familyName": name} | identity}
    return event("client.recorded", agency.name, {"identifiers": who, "facts": facts})


async def test_numbers_of_two_clients_in_one_event_make_a_candidate(two: Two) -> None:
    hostel, prison = two.door.hostel, two.door.prison
    await two.record(two.a, "Ash")
    await two.record(two.b, "Birch")
    await two.grant(two.a, hostel)
    before = await two.told(hostel)
    data = {"identifiers": [*two.a, *two.b], "facts": {"identity": {"givenName": "R", "familyName": "Both"}}}
    assert (await prison.answered(event("client.recorded", prison.name, data)))["code"] == "identifier-conflict"
    assert await two.new(hostel, before) == []
    (candidate,) = await two.candidates()
    assert candidate["because"] == "identifier-conflict"
    assert sorted(c["identifierTypes"] for c in candidate["clients"]) == [["CRN"], ["NOMS"]]
    path = f"/candidates/{candidate['candidate']}/decision"
    body = {"decision": "same", "reason": "the photographs match"}
    assert (await two.api("POST", path, body, agency=hostel.name)).json()["code"] == "not-yours-to-say"
    assert (await two.api("POST", path, body, agency=two.door.probation.name)).json()["code"] == "no-such-candidate"
    made = (await two.api("POST", path, body, agency=prison.name)).json()["link"]
    assert subjects(await two.new(hostel, before), RETRACTED) >= {before[0].event["subject"]}
    assert await two.candidates() == []
    assert (await two.api("DELETE", f"/links/{made}", agency=two.door.probation.name)).json()["code"] == "no-such-link"
    assert (await two.api("DELETE", f"/links/{made}", agency=prison.name)).status_code == 204
    await prison.answered(event("client.recorded", prison.name, data))
    assert await two.candidates() == [], "a pair that was told apart is not proposed again"


async def test_who_knows_neither_of_two_clients_decides_nothing_of_them(two: Two) -> None:
    """To name the numbers of both in one event, which is refused, is not to know them."""
    probation = two.door.probation
    for who in (two.a, two.b):
        await two.record(who)
    both = {"identifiers": [*two.a, *two.b], "facts": {"identity": {"givenName": "R", "familyName": "Both"}}}
    assert (await probation.answered(event("client.recorded", probation.name, both)))["code"] == "identifier-conflict"
    (candidate,) = await two.candidates()
    path, same = f"/candidates/{candidate['candidate']}/decision", {"decision": "same", "reason": "so they say"}

    async def seen() -> list[str]:
        listed = (await two.api("GET", "/candidates", agency=probation.name)).json()
        return [one["candidate"] for one in listed]

    async def decides(agency: str) -> Any:
        return (await two.api("POST", path, same, agency=agency)).json()

    assert await seen() == []
    assert (await decides(probation.name))["code"] == "no-such-candidate"
    await probation.answered(_recorded(probation, two.a, "One"))
    assert await seen() == [], "it knows one of the two"
    await probation.answered(_recorded(probation, two.b, "Other"))
    assert await seen() == [candidate["candidate"]]
    made = (await decides(probation.name))["link"]
    listed = (await two.api("GET", "/links", agency=probation.name)).json()
    assert [link["link"] for link in listed] == [made], "whoever decided may see what it did, and undo it"
    assert (await decides(probation.name))["code"] == "decided-already"
    assert (await decides("operator"))["code"] == "decided-already"
    assert (await decides(two.door.prison.name))["code"] == "decided-already"
    assert (await two.api("DELETE", f"/links/{made}", agency=probation.name)).status_code == 204
    assert "different people" in (await decides(probation.name))["title"]


async def test_who_knows_neither_does_not_learn_that_a_candidate_was_decided(two: Two) -> None:
    for who in (two.a, two.b):
        await two.record(who)
    prison, both = two.door.prison, {"identifiers": [*two.a, *two.b], "facts": FACTS}
    await prison.answered(event("client.recorded", prison.name, both))
    (candidate,) = await two.candidates()
    path, apart = f"/candidates/{candidate['candidate']}/decision", {"decision": "different", "reason": "two brothers"}
    assert (await two.api("POST", path, apart, agency=prison.name)).status_code == 200
    assert (await two.api("POST", path, apart, agency=prison.name)).status_code == 409
    assert (await two.api("POST", path, apart, agency=two.door.probation.name)).json()["code"] == "no-such-candidate"


async def test_the_same_name_and_date_of_birth_make_a_candidate(two: Two) -> None:
    prison, probation = two.door.prison, two.door.probation
    born = {"dateOfBirth": "1990-02-03"}
    name = "".join(random.choices("bcdfghklmnpqrst", k=12))
    one = await two.record(two.a, facts={"identity": {"givenName": "Zoë", "familyName": f"O'{name}"} | born})
    other = await two.record(two.b, facts={"identity": {"givenName": "ZOE", "familyName": f"O {name.title()}"} | born})
    (candidate,) = await two.candidates()
    assert candidate["because"] == "same-details"
    seen = {k["client"] for c in candidate["clients"] for k in c["knownBy"]}
    assert seen == {one["client"], other["client"]}
    assert (await two.api("GET", "/candidates", agency=probation.name)).json() == []
    body = {"decision": "different", "reason": "two brothers"}
    path = f"/candidates/{candidate['candidate']}/decision"
    assert (await two.api("POST", path, body, agency=prison.name)).json() == {"link": None}
    await two.record(two.b, facts={"identity": {"givenName": "Zoe", "familyName": f"O{name}"} | born})
    assert await two.candidates() == []
    pair = {"clients": [one["client"], other["client"]], "reason": "it was one after all"}
    assert (await two.api("POST", "/links", pair, agency=probation.name)).json()["code"] == "no-such-client"
    assert (await two.api("POST", "/links", pair)).status_code == 201
    assert (await two.api("POST", "/links", pair)).status_code == 201, "again: the same link"
    assert len(await two.links()) == 1
    who = event("client.recorded", prison.name, {"identifiers": two.b, "facts": FACTS})
    assert (await prison.answered(who))["client"] == one["client"], "one client, one reference"


async def test_who_was_erased_is_linked_with_nobody(two: Two) -> None:
    prison, hostel = two.door.prison, two.door.hostel
    old = (await two.record(two.a))["client"]
    await two.erase(two.a)
    live = (await two.record(two.b, "Birch"))["client"]
    await two.grant(two.b, hostel)
    before = await two.told(hostel)
    erased: Numbers = [{"type": "THROUGHGATE", "value": old}]
    reason = {"reason": "so they say"}
    for one, other in ((erased, two.b), (two.b, erased)):
        for kind, named in (("linked", "sameAs"), ("unlinked", "notSameAs")):
            said = event(f"identity.{kind}", prison.name, {"identifiers": one, named: other} | reason)
            assert (await prison.answered(said))["code"] == "unknown-client", kind
    assert (await two.api("POST", "/links", {"clients": [old, live]} | reason)).json()["code"] == "no-such-client"
    both = event("client.recorded", prison.name, {"identifiers": [*erased, *two.b], "facts": FACTS})
    assert (await prison.answered(both))["code"] == "unknown-client"
    assert await two.candidates() == [], "nobody is asked whether they are one"
    await two.record(two.b, "Beech")
    assert names(await two.new(hostel, before)) == {"Beech"}, "it goes on"


async def test_a_link_of_who_was_erased_leads_to_nothing(two: Two) -> None:
    second: Numbers = [{"type": "NOMS", "value": prison_number()}]
    references = [[{"type": "THROUGHGATE", "value": (await two.record(who))["client"]}] for who in (two.a, second)]
    await two.link(other=second)
    (link,) = await two.links()
    assert link["needsDecision"]
    await two.erase(two.a)
    assert await two.links() == [], "nobody is asked to confirm it"
    path = f"/links/{link['link']}"
    assert (await two.api("PUT", f"{path}/confirmation")).json()["code"] == "no-such-link"
    assert (await two.api("DELETE", path)).json()["code"] == "no-such-link"
    for kind, named in (("linked", "sameAs"), ("unlinked", "notSameAs")):
        data = {"identifiers": references[0], named: references[1], "reason": "so they say"}
        said = await two.door.prison.answered(event(f"identity.{kind}", two.door.prison.name, data))
        assert said["code"] == "unknown-client", kind


async def test_candidates_and_links_come_in_pages_that_neither_repeat_nor_leave_out(two: Two) -> None:
    prison = two.door.prison
    people: list[dict[str, Any]] = []
    for _ in range(5):
        both = []
        for type in ("NOMS", "CRN"):
            both.append({"type": type, "value": prison_number() if type == "NOMS" else probation_number()})
            await two.record([both[-1]])
        people.append({"identifiers": both[:1], "sameAs": both[1:], "reason": "made up"})
        data = {"identifiers": both, "facts": {"identity": {"givenName": "R", "familyName": "Both"}}}
        assert (await prison.answered(event("client.recorded", prison.name, data)))["code"] == "identifier-conflict"

    async def pages(path: str, name: str, agency: str, then: Any = None) -> list[str]:
        found: list[str] = []
        while True:
            behind = f"&after={found[-1]}" if found else ""
            page = (await two.api("GET", f"{path}?limit=2{behind}", agency=agency)).json()
            assert len(page) <= 2
            found += [one[name] for one in page]
            if len(page) < 2:
                return found
            if then is not None:
                await then(page[0][name])

    every = [c["candidate"] for c in await two.candidates()]
    assert len(every) == 5
    assert await pages("/candidates", "candidate", prison.name) == every, "oldest first, each once"
    assert await pages("/candidates", "candidate", two.door.probation.name) == []
    assert set(every) <= set(await pages("/candidates", "candidate", "operator"))

    async def decides(id: str) -> None:
        body = {"decision": "different", "reason": "made up"}
        assert (await two.api("POST", f"/candidates/{id}/decision", body, agency=prison.name)).status_code == 200

    assert await pages("/candidates", "candidate", prison.name, decides) == every, "deciding on the way skips nobody"
    for one in people:
        pair = [(await two.record(one[side]))["client"] for side in ("identifiers", "sameAs")]
        await two.api("POST", "/links", {"clients": pair, "reason": "made up"}, agency=prison.name)
    links = [one["link"] for one in await two.links()]
    assert len(links) == 5
    assert await pages("/links", "link", prison.name) == links

    async def undoes(id: str) -> None:
        assert (await two.api("DELETE", f"/links/{id}", agency=prison.name)).status_code == 204

    assert await pages("/links", "link", prison.name, undoes) == links, "undoing on the way moves nothing"
    assert (await two.api("GET", "/links?limit=0")).status_code == 422
    assert (await two.api("GET", "/links?after=x")).status_code == 422


async def waiting(two: Two, count: int) -> None:
    """Wait until so many transactions wait for a lock."""

    async def as_many() -> bool:
        await two.database.execute("SELECT pg_stat_clear_snapshot()")
        found = await two.database.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(found >= count)

    await eventually_true(as_many, f"{count} transactions to wait for a lock")


async def test_who_waited_for_the_lock_sees_the_link(two: Two) -> None:
    door = two.door
    await two.record(two.a, facts={"risk": {"harm": "low"}})
    await two.record(two.b, "Birch")
    await two.grant(two.a, door.mentors)
    await two.grant(two.b, door.mentors)
    before = await two.told(door.mentors)
    linking = event("identity.linked", door.prison.name, {"identifiers": two.a, "sameAs": two.b, "reason": "x"})
    taken_back = event("consent.withdrawn", door.prison.name, withdrawn(two.a))
    async with two.database.transaction():
        await two.database.execute(
            "SELECT 1 FROM client WHERE id = (SELECT client_id FROM identifier WHERE value = $1) FOR UPDATE",
            two.a[0]["value"],
        )
        link = asyncio.create_task(door.prison.post(linking))
        await waiting(two, 1)
        withdrawal = asyncio.create_task(door.prison.post(taken_back))
        await waiting(two, 2)
    assert [(await link).status_code, (await withdrawal).status_code] == [202, 202]
    await door.prison.done(taken_back["id"])
    events = await two.new(door.mentors, before)
    assert subjects(events, RETRACTED) == {r.event["subject"] for r in before}, "A's number means the linked client"
    before = await two.told(door.mentors)
    await two.record(two.b, "Denied")
    assert await two.new(door.mentors, before) == []


async def test_two_links_of_one_client_at_once_become_one_client(two: Two) -> None:
    door = two.door
    c: Numbers = [{"type": "PNC", "value": f"2004/{random.randint(1000000, 9999999)}H"}]
    for who in (two.a, two.b, c):
        await two.record(who)
    said = [
        event("identity.linked", door.prison.name, {"identifiers": two.a, "sameAs": other, "reason": "x"})
        for other in (two.b, c)
    ]
    async with two.database.transaction():
        await two.database.execute(
            "SELECT 1 FROM client WHERE id = (SELECT client_id FROM identifier WHERE value = $1) FOR UPDATE",
            two.a[0]["value"],
        )
        tasks = []
        for n, one in enumerate(said):
            tasks.append(asyncio.create_task(door.prison.post(one)))
            await waiting(two, n + 1)
    assert [(await task).status_code for task in tasks] == [202, 202]
    assert len({(await two.record(who))["client"] for who in (two.a, two.b, c)}) == 1


async def test_links_withdrawals_and_facts_at_once(two: Two) -> None:
    door, hostel = two.door, two.door.hostel
    pairs: list[tuple[Numbers, Numbers]] = [
        (
            [{"type": "CRO", "value": f"{random.randint(1, 999999)}/{n:02}A"}],
            [{"type": "PNC", "value": f"{2000 + n}/{random.randint(1000000, 9999999)}H"}],
        )
        for n in range(8)
    ]
    for pair in pairs:
        for who in pair:
            await two.record(who, "Before")
            await two.grant(who, hostel)

    def recorded(who: Numbers) -> dict[str, Any]:
        facts = {"identity": {"givenName": "Robin", "familyName": "During"}}
        return event("client.recorded", door.prison.name, {"identifiers": who, "facts": facts})

    said: list[dict[str, Any]] = []
    for n, (one, other) in enumerate(pairs):
        data = {"identifiers": one, "sameAs": other, "reason": "x"}
        said += [recorded(who) for who in (one, other, one, other)]
        said.append(event("identity.linked", door.prison.name, data))
        if n % 2:
            said.append(event("consent.withdrawn", door.prison.name, withdrawn(other)))
    random.shuffle(said)
    over_kafka, by_http = said[::2], said[1::2]
    answers, responses = await asyncio.gather(
        asyncio.gather(*(door.prison.answered(one, key=one["id"]) for one in over_kafka)),
        asyncio.gather(*(door.prison.post(one) for one in by_http)),
    )
    assert [a for a in answers if not a["type"].endswith("accepted.v1")] == []
    assert [r.text for r in responses if r.status_code != 202] == []
    before = await two.told(hostel)
    for n, (one, other) in enumerate(pairs):
        assert (await two.record(one, f"After-{n}"))["client"] == (await two.record(other, f"After-{n}"))["client"]
    assert names(await two.new(hostel, before)) == {f"After-{n}" for n in range(0, 8, 2)}, "those nobody withdrew"


async def test_a_record_that_was_decided_before_the_link_stands_before_the_retraction(two: Two) -> None:
    door, hostel = two.door, two.door.hostel
    await two.record(two.a, "Before")
    await two.record(two.b, "Other")
    await two.grant(two.a, hostel)
    before = await two.told(hostel)
    system, name = door.system, "consent.discloser"
    system.stop_process(name)
    await two.record(two.a, "Decided")  # it waits in the queue
    system.start_process(name, {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"})

    async def stopped() -> bool:
        status = Path(f"/proc/{system.pid(name)}/status").read_text()
        return "State:\tT" in status

    await eventually_true(stopped, "the discloser to have decided, and stopped before it sends")
    data = {"identifiers": two.a, "sameAs": two.b, "reason": "x"}
    linking = event("identity.linked", door.prison.name, data)
    assert (await door.prison.post(linking)).status_code == 202
    assert await hostel.received() == before
    system.kill(name, signal.SIGCONT)
    await door.prison.done(linking["id"])
    events = await two.new(hostel, before)
    key = before[0].event["subject"]
    assert [e["type"].split(".")[2] for e in events if e["subject"] == key] == ["changed", "withdrawn"]
    assert names(events) == {"Decided"}


async def test_who_may_say_who_is_one_person(two: Two) -> None:
    hostel, prison = two.door.hostel, two.door.prison
    await two.record(two.a)
    data = {"identifiers": two.a, "sameAs": two.b, "reason": "so they say"}
    assert (await hostel.answered(event("identity.linked", hostel.name, data)))["code"] == "not-yours-to-say"
    assert (await prison.answered(event("identity.linked", prison.name, data)))["code"] == "unknown-client"
    data = {"identifiers": two.a, "notSameAs": two.a, "reason": "nonsense"}
    assert (await prison.answered(event("identity.unlinked", prison.name, data)))["code"] == "no-such-link"


async def _same_client(two: Two, *numbers: dict[str, str]) -> bool:
    values = [number["value"] for number in numbers]
    rows = await two.database.fetch("SELECT client_id FROM identifier WHERE value = ANY($1)", values)
    assert len(rows) == len(values)
    return len({row["client_id"] for row in rows}) == 1


async def test_who_may_not_link_joins_no_two_numbers_by_a_record(two: Two) -> None:
    """A charity's typing error: the number of somebody whom nobody has recorded yet, beside a prison number."""
    prison, probation, hostel = two.door.prison, two.door.probation, two.door.hostel
    await two.record(two.a, "Adam")
    answer = await hostel.answered(_recorded(hostel, [*two.a, *two.b], "Adam"))
    assert answer["type"].endswith("accepted.v1"), answer
    assert answer["notAttached"] == ["CRN"]
    assert (await probation.answered(_recorded(probation, two.b, "Brian")))["type"].endswith("accepted.v1")
    assert not await _same_client(two, *two.a, *two.b)
    consent = event("consent.granted", probation.name, granted(two.b, [hostel.name], ["referral"], ["identity"]))
    assert (await probation.answered(consent))["type"].endswith("accepted.v1")
    assert names([r.event for r in await two.told(hostel)]) == set(), "Adam never agreed"
    answer = await hostel.answered(_recorded(hostel, [*two.a, *two.b], "Adam"))
    assert answer["code"] == "identifier-conflict", "by now a person is to look"
    (pair,) = [c for c in (await two.api("GET", "/candidates")).json() if _knows(c, prison.name, probation.name)]
    assert pair["because"] == "identifier-conflict"


def _knows(candidate: dict[str, Any], *agencies: str) -> bool:
    return set(agencies) <= {k["agency"] for side in candidate["clients"] for k in side["knownBy"]}


async def test_of_numbers_that_nobody_has_the_first_makes_the_client_of_who_may_not_link(two: Two) -> None:
    probation, hostel = two.door.probation, two.door.hostel
    case = {"type": "CASE", "value": uuid4().hex}
    answer = await hostel.answered(_recorded(hostel, [*two.a, *two.b, case], "Robin"))
    assert answer["notAttached"] == ["CRN"]
    assert await _same_client(two, *two.a, case), "an agency's own number is its own"
    assert (await probation.answered(_recorded(probation, two.b, "Other")))["type"].endswith("accepted.v1")
    assert not await _same_client(two, *two.a, *two.b)
    answer = await hostel.answered(_recorded(hostel, [two.a[0], case], "Robin"))
    assert "notAttached" not in answer
    prison = await two.record([*two.a, {"type": "PNC", "value": f"2004/{random.randint(1000000, 9999999)}H"}])
    assert "notAttached" not in prison, "whoever may link may add a number"


async def test_who_may_not_link_finds_the_client_by_any_of_its_numbers(two: Two) -> None:
    """In whatever order its system lists them: the record joins the client, the new number does not."""
    hostel = two.door.hostel
    await two.record(two.b, "Brian")
    nhs = {"type": "NHS", "value": "9434765919"}
    answer = await hostel.answered(_recorded(hostel, [nhs, *two.b], "Brian"))
    assert answer["notAttached"] == ["NHS"]
    assert not await two.database.fetchval("SELECT count(*) FROM identifier WHERE value = $1", nhs["value"])
    over_http = (await hostel.post(_recorded(hostel, [nhs, *two.b], "Brian"))).json()
    assert over_http["notAttached"] == ["NHS"]
    consent = event("consent.granted", hostel.name, granted([nhs, *two.b], [hostel.name], ["referral"], ["identity"]))
    assert (await hostel.answered(consent))["code"] == "unknown-client", "it names a number that nobody has"


async def test_an_own_case_takes_one_number_of_who_may_not_link(two: Two) -> None:
    hostel = two.door.hostel
    case = {"type": "CASE", "value": uuid4().hex}
    assert "notAttached" not in await hostel.answered(_recorded(hostel, [case], "Robin"))
    assert "notAttached" not in await hostel.answered(_recorded(hostel, [case, *two.a], "Robin"))
    assert await _same_client(two, *two.a, case)
    answer = await hostel.answered(_recorded(hostel, [case, *two.b], "Robin"))
    assert answer["notAttached"] == ["CRN"], "it has one"
    answer = await hostel.answered(_recorded(hostel, [*two.b, case], "Robin"))
    assert answer["notAttached"] == ["CRN"], "its own number finds the client, wherever it stands"


async def test_a_number_that_a_client_got_by_mistake_is_taken_off(two: Two) -> None:
    prison, probation, hostel, mentors = two.door.prison, two.door.probation, two.door.hostel, two.door.mentors
    await two.record([*two.a, *two.b], "Adam", clientversion=7)  # the prison's mistake: the second is Brian's
    await two.grant(two.a, hostel, mentors)
    await two.withdraw(two.a, recipients=[{"agency": mentors.name}])
    at_hostel = await two.told(hostel)
    wrong = {"identifiers": two.b, "notSameAs": two.a, "reason": "a typing error"}
    unlinked = event("identity.unlinked", probation.name, wrong)
    assert (await probation.answered(unlinked))["code"] == "unknown-client", "it knows neither"
    await probation.answered(_recorded(probation, two.b, "Brian"))
    unlinked = event("identity.unlinked", probation.name, wrong)
    assert (await probation.answered(unlinked))["type"].endswith("accepted.v1")
    await probation.done(unlinked["id"])
    assert not await _same_client(two, *two.a, *two.b)
    events = await two.new(hostel, at_hostel)
    assert subjects(events, RETRACTED) == {r.event["subject"] for r in at_hostel}
    assert disclosures(events[-1:]) == [], "nobody knows who consented"
    at_hostel, at_mentors = await two.told(hostel), await two.told(mentors)
    await two.record(two.a, "Alder", clientversion=7)
    await two.record(two.b, "Beech", clientversion=1)
    assert await two.new(hostel, at_hostel) == [], "what permitted meanwhile permits for neither"
    late = [mentors.name], ["referral"], ["identity"]
    for who in (two.a, two.b):
        await two.say("consent.granted", granted(who, *late) | {"givenAt": "2026-01-01T00:00:00Z"})
    assert await two.new(mentors, at_mentors) == [], "what stopped meanwhile stops for both"
    await two.grant(two.a, hostel)
    events = await two.new(hostel, at_hostel)
    assert names(events) == {"Alder"}
    assert subjects(events, SNAPSHOT).isdisjoint({r.event["subject"] for r in at_hostel}), "another reference"
    (link,) = await two.links()
    assert link["unlinkedAt"], "it is history like any link that was undone"
    linked = event("identity.linked", prison.name, {"identifiers": two.a, "sameAs": two.b, "reason": "the same error"})
    assert (await prison.answered(linked))["code"] == "told-apart"


async def test_the_operator_takes_a_number_off_too(two: Two) -> None:
    case = {"type": "CASE", "value": uuid4().hex}
    old = (await two.record([*two.a, *two.b, case], "Adam"))["client"]
    wrong = {"identifiers": two.a, "notSameAs": two.b, "reason": "a typing error"}
    assert (await two.api("POST", "/unlinks", wrong, agency=two.door.prison.name)).status_code == 403
    nobody = wrong | {"notSameAs": [{"type": "CRN", "value": probation_number()}]}
    assert (await two.api("POST", "/unlinks", nobody)).json()["code"] == "no-such-link"
    assert (await two.api("POST", "/unlinks", wrong | {"notSameAs": two.a})).json()["code"] == "no-such-link"
    assert (await two.api("POST", "/unlinks", wrong)).status_code == 204
    assert (await two.api("POST", "/unlinks", wrong)).json()["code"] == "no-such-link"
    assert await _same_client(two, *two.a, case), "only those that it named"
    assert not await _same_client(two, *two.a, *two.b)
    prison = two.door.prison
    by_old = _recorded(prison, [{"type": "THROUGHGATE", "value": old}], "Adam")
    assert (await prison.answered(by_old))["code"] == "identifier-conflict", "whom it means nobody knows"


async def test_a_number_is_taken_off_a_part_once_the_link_is_undone(two: Two) -> None:
    court: Numbers = [{"type": "CRO", "value": f"{random.randint(1, 999999)}/77A"}]
    await two.record([*two.a, *court])
    await two.record(two.b)
    await two.link()
    wrong = {"identifiers": two.a, "notSameAs": court, "reason": "a typing error"}
    assert (await two.api("POST", "/unlinks", wrong)).json()["code"] == "linked-further"
    await two.unlink()
    assert (await two.api("POST", "/unlinks", wrong)).status_code == 204
    assert not await _same_client(two, *two.a, *court)
    no = event("consent.withdrawn", two.door.prison.name, withdrawn(two.a))
    assert (await two.door.prison.answered(no))["code"] == "unknown-client", "nobody recorded anything of either since"
    await two.record(two.a)
    await two.withdraw(two.a)
