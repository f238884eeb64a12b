"""A conviction that becomes spent: from that day on it is withheld, and taken back from those who were told alone."""

import signal
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.agency import Agency, event, eventually_true, granted, terms
from support.door import decided, superuser
from support.settled import settled

from contracts.leaving import RETRACTED
from contracts.vocabulary import LONDON
from throughgate.promises import behind_retraction

IDENTITY = {"givenName": "Robin", "familyName": "Fictional"}
LONG_AGO = {"spentOn": "2020-01-01"}
NEVER = {"neverSpent": True}


def on(day: date) -> dict[str, str]:
    return {"spentOn": day.isoformat()}


def today() -> date:
    return datetime.now(LONDON).date()


LATER = today() + timedelta(days=2)
"""Also for whom midnight in London comes before its test is done."""


class Convicted:
    """A client of a prison, of whom probation knows too; who may be told the convictions by an agreement."""

    def __init__(self, door: Any, database: Any) -> None:
        self.door, self.database = door, database
        self.numbers = door.identifiers

    def conviction(self, by: Agency, told: dict[str, Any]) -> dict[str, Any]:
        """The data of a conviction as an agency records it."""
        facts = {"identity": IDENTITY, "offence": {"mainOffence": f"of {by.name}", **told}}
        return {"identifiers": self.numbers, "facts": facts}

    async def record(self, by: Agency, told: dict[str, Any]) -> None:
        """Record a conviction, and wait until it is decided who is told."""
        await self.say(by, "client.recorded", self.conviction(by, told))
        await decided(self.door)

    async def say(self, by: Agency, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        """Publish; it must be accepted."""
        reply = await by.answered(event(kind, by.name, data))
        assert reply["type"].endswith("accepted.v1"), reply
        return reply

    async def consent(self, *categories: str, to: tuple[Agency, ...]) -> None:
        """Consent for referral."""
        names = [agency.name for agency in to]
        data = granted(self.numbers, names, ["referral"], ["identity", *categories])
        await self.say(self.door.prison, "consent.granted", data)

    async def due(self, source: Agency) -> list[datetime]:
        """When convictions of this source are due."""
        rows = await self.database.fetch("SELECT due_at FROM due WHERE source = $1 ORDER BY due_at", source.name)
        return [row["due_at"] for row in rows]

    async def day_comes(self, source: Agency, day: date | None = None) -> None:
        """As `move_clock`, and wait until that had its effect."""
        await self.move_clock(source, day)
        await self.settled()

    async def move_clock(self, source: Agency, day: date | None = None) -> None:
        """Move the clock to the day from which what this source recorded is spent, by moving that day to now."""
        async with self.database.transaction():
            if day is not None:
                await self.database.execute(
                    "UPDATE fact SET data = replace(data, $2, $3) WHERE source = $1 AND category = 'offence'",
                    source.name,
                    day.isoformat(),
                    today().isoformat(),
                )
            await self.database.execute("UPDATE due SET due_at = clock_timestamp() WHERE source = $1", source.name)

    async def settled(self) -> None:
        """Wait until nothing is due, and all that is queued has left."""
        names = [self.door.prison.name, self.door.probation.name]

        async def quiet() -> bool:
            return not await self.database.fetchval(
                "SELECT (SELECT count(*) FROM due WHERE source = ANY($1) AND due_at <= clock_timestamp())"
                " + (SELECT count(*) FROM queue q WHERE due_at <= clock_timestamp() AND EXISTS"
                " (SELECT 1 FROM reference r WHERE r.client_id = q.client_id AND r.recipient = ANY($1)))",
                names,
            )

        await eventually_true(quiet, "nothing to be due", 60)

    async def told(self, agency: Agency) -> list[dict[str, Any]]:
        """All that the agency got."""
        await self.settled()
        await settled(self.door.system, [f"partner.{agency.name}"])
        events = [record.event for record in await agency.received()]
        return sorted(events, key=lambda e: datetime.fromisoformat(e["time"]))

    async def stops(self, agency: Agency) -> list[dict[str, Any]]:
        """What the agency was told to erase."""
        return [e["data"] for e in await self.told(agency) if e["type"] == RETRACTED]

    async def convictions(self, agency: Agency) -> list[set[str]]:
        """Of each record that the agency got, whose convictions stand in it."""
        sections = [e["data"]["sections"] for e in await self.told(agency) if e["type"] != RETRACTED]
        return [{s["source"] for s in some if s["category"] == "offence"} for some in sections]

    async def because(self) -> list[str]:
        """Why something was taken back."""
        rows = await self.database.fetch(
            "SELECT DISTINCT w.id, w.because, w.recorded_at, w.agency FROM withdrawal w"
            " JOIN retraction r ON r.withdrawal_id = w.id WHERE r.recipient = $1 ORDER BY w.recorded_at",
            self.door.hostel.name,
        )
        return [row["because"] for row in rows]


@pytest.fixture
async def convicted(door: Any) -> AsyncIterator[Convicted]:
    """The prison and probation tell hostel, mentors, probation and the referral service convictions by consent."""
    names = [door.prison.name, door.probation.name, door.hostel.name, door.mentors.name, "referral"]
    wanted = [terms("referral", ["identity", "offence"])]
    await door.operator.agree(f"convictions-{door.prison.name}", names[:2], names[1:], wanted)
    async with superuser(door) as database:
        made = Convicted(door, database)
        yield made
        await made.settled()
        for agency in (door.hostel, door.mentors, door.probation):
            assert behind_retraction(await agency.received()) == []


async def test_it_is_taken_back_from_whoever_was_told_and_may_not_have_it_any_more(convicted: Convicted) -> None:
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.consent("offence", to=(door.hostel, door.probation))
    await convicted.consent(to=(door.mentors,))
    assert await convicted.convictions(door.hostel) == [{door.prison.name}]
    midnight = datetime.combine(LATER, time.min, LONDON).astimezone(UTC)
    assert await convicted.due(door.prison) == [midnight]
    await convicted.day_comes(door.prison, LATER)
    (stop,) = await convicted.stops(door.hostel)
    assert (stop["purposes"], stop["categories"], stop["recipients"]) == (["referral"], ["offence"], None)
    assert (stop["version"], stop["consentVersion"]) == (3, None), "behind two consents, and none was withdrawn"
    assert await convicted.because() == ["spent-conviction"]
    assert await convicted.convictions(door.hostel) == [{door.prison.name}, set()], "what is left comes again"
    assert await convicted.stops(door.probation) == [], "the responsible authority may know of it"
    assert len(await convicted.told(door.mentors)) == 1, "who was never told of it does not learn of it now"
    stopped = await convicted.database.fetch(
        "SELECT r.recipient FROM retraction r JOIN withdrawal w ON w.id = r.withdrawal_id"
        " WHERE w.because = 'spent-conviction' AND r.reference IN (SELECT id FROM reference WHERE client_id IN"
        " (SELECT client_id FROM fact WHERE source = $1)) ORDER BY 1",
        door.prison.name,
    )
    assert [row["recipient"] for row in stopped] == [door.hostel.name, "referral"], "our service loses it as well"
    assert await convicted.due(door.prison) == []
    await convicted.day_comes(door.prison)
    await convicted.record(door.prison, on(today()))
    assert len(await convicted.stops(door.hostel)) == 1, "it is taken back once, however often it is recorded"


async def test_of_two_convictions_the_other_comes_again_until_its_own_day(convicted: Convicted) -> None:
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.record(door.probation, on(LATER + timedelta(days=1)))
    await convicted.consent("offence", to=(door.hostel,))
    both = {door.prison.name, door.probation.name}
    assert await convicted.convictions(door.hostel) == [both]
    await convicted.day_comes(door.prison, LATER)
    assert await convicted.convictions(door.hostel) == [both, {door.probation.name}]
    await convicted.day_comes(door.probation, LATER + timedelta(days=1))
    assert await convicted.convictions(door.hostel) == [both, {door.probation.name}, set()]
    assert [stop["categories"] for stop in await convicted.stops(door.hostel)] == [["offence"]] * 2


async def test_what_is_recorded_by_then_counts_and_not_what_made_it_due(convicted: Convicted) -> None:
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.record(door.prison, on(LATER))
    assert len(await convicted.due(door.prison)) == 1, "a day that is recorded again is the same"
    await convicted.consent("offence", to=(door.hostel,))
    later = LATER + timedelta(days=400)
    await convicted.record(door.prison, on(later))
    assert len(await convicted.due(door.prison)) == 2
    await convicted.database.execute(
        "UPDATE due SET due_at = clock_timestamp() WHERE source = $1 AND due_at < $2",
        door.prison.name,
        datetime.combine(later, time.min, LONDON),
    )
    await convicted.settled()
    assert await convicted.due(door.prison) == [datetime.combine(later, time.min, LONDON)]
    assert await convicted.stops(door.hostel) == []
    await convicted.day_comes(door.prison, later)
    assert len(await convicted.stops(door.hostel)) == 1


@pytest.mark.parametrize(
    ("corrected", "because"), [(LONG_AGO, "spent-conviction"), ({"sentenceMonths": 10}, "spent-unknown")]
)
async def test_a_correction_by_which_it_may_not_be_told_takes_it_back_too(
    convicted: Convicted, corrected: dict[str, Any], because: str
) -> None:
    door = convicted.door
    await convicted.record(door.prison, NEVER)
    await convicted.consent("offence", to=(door.hostel,))
    assert await convicted.convictions(door.hostel) == [{door.prison.name}]
    assert await convicted.due(door.prison) == []
    await convicted.record(door.prison, corrected)
    await convicted.settled()
    (stop,) = await convicted.stops(door.hostel)
    assert stop["categories"] == ["offence"]
    assert await convicted.because() == [because]
    await convicted.record(door.prison, NEVER)
    assert (await convicted.convictions(door.hostel))[-1] == {door.prison.name}, "corrected again, it may be told again"
    await convicted.record(door.prison, corrected)
    assert len(await convicted.stops(door.hostel)) == 2


@pytest.mark.parametrize("told", [LONG_AGO, {}])
async def test_nobody_learns_of_a_conviction_that_was_never_told(convicted: Convicted, told: dict[str, Any]) -> None:
    door = convicted.door
    await convicted.record(door.prison, told)
    await convicted.consent("offence", to=(door.hostel,))
    await convicted.record(door.prison, told)
    await convicted.day_comes(door.prison)
    assert set(map(frozenset, await convicted.convictions(door.hostel))) == {frozenset()}
    assert await convicted.stops(door.hostel) == []


async def test_what_was_taken_back_before_is_not_taken_back_again(convicted: Convicted) -> None:
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.consent("offence", to=(door.hostel,))
    assert await convicted.convictions(door.hostel) == [{door.prison.name}]
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])
    await convicted.day_comes(door.prison, LATER)
    assert len(await convicted.stops(door.hostel)) == 1, "of the withdrawal alone"


async def test_what_an_agreement_that_is_over_let_out_is_taken_back(convicted: Convicted) -> None:
    """What was told lawfully stays when an agreement is suspended; not when the conviction is spent."""
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.consent("offence", to=(door.hostel,))
    assert await convicted.convictions(door.hostel) == [{door.prison.name}]
    agreement = f"convictions-{door.prison.name}"
    await door.operator.call("POST", f"/agreements/{agreement}/suspension", {"reason": "made up"})
    await convicted.day_comes(door.prison, LATER)
    assert [stop["categories"] for stop in (await convicted.stops(door.hostel))][-1:] == [["offence"]]


async def test_another_reason_to_withhold_it_does_not_hide_that_it_is_spent(convicted: Convicted) -> None:
    """The hostel undertook to keep a practitioner away; nothing is taken back when that undertaking is suspended."""
    door = convicted.door
    enforcing = f"exclusions-{door.prison.name}"
    await door.operator.call(
        "POST",
        "/agreements",
        {
            "id": enforcing,
            "version": 1,
            "sources": [door.prison.name],
            "recipients": [door.hostel.name],
            "terms": [terms("referral", ["identity"])],
            "enforces": [door.hostel.name],
            "signatories": {door.prison.name: "A", door.hostel.name: "B"},
            "starts": "2026-01-01T00:00:00Z",
            "review": "2029-06-01T00:00:00Z",
            "ends": "2030-01-01T00:00:00Z",
        },
    )
    exclusion = {
        "identifiers": convicted.numbers,
        "restriction": "x-1",
        "kind": "practitioner-exclusion",
        "practitioners": [{"agency": door.hostel.name, "practitioner": "u-17"}],
        "reason": "made up",
    }
    await convicted.record(door.prison, on(LATER))
    await convicted.say(door.prison, "restriction.imposed", exclusion)
    await convicted.consent("offence", to=(door.hostel,))
    assert (await convicted.convictions(door.hostel))[-1] == {door.prison.name}
    before = len(await convicted.stops(door.hostel))
    await door.operator.call("POST", f"/agreements/{enforcing}/suspension", {"reason": "made up"})
    await convicted.day_comes(door.prison, LATER)
    assert [stop["categories"] for stop in (await convicted.stops(door.hostel))[before:]] == [["offence"]]


async def test_where_nobody_can_read_what_was_told_it_may_have_been_the_conviction(convicted: Convicted) -> None:
    door = convicted.door
    damage = "UPDATE ledger SET body = set_byte(body, 20, get_byte(body, 20) # 1) WHERE id = $1"  # twice mends it
    await convicted.record(door.prison, on(LATER))
    await convicted.consent("offence", to=(door.hostel,))
    assert await convicted.convictions(door.hostel) == [{door.prison.name}]
    entry = await convicted.database.fetchval(
        "SELECT id FROM ledger WHERE kind = 'disclosure' AND recipient = $1", door.hostel.name
    )
    await convicted.database.execute(damage, entry)
    try:
        await convicted.day_comes(door.prison, LATER)
    finally:
        await convicted.database.execute(damage, entry)
    (stop,) = await convicted.stops(door.hostel)
    assert stop["categories"] == ["offence"]


async def test_who_looked_at_it_is_told_as_well(convicted: Convicted) -> None:
    door = convicted.door
    await door.operator.agree(
        f"looking-{door.prison.name}",
        [door.prison.name],
        [door.mentors.name],
        [terms("mentor-matching", ["offence"], subscription=False)],
    )
    await convicted.record(door.prison, on(LATER))
    await convicted.consent(to=(door.mentors,))
    data = granted(convicted.numbers, [door.mentors.name], ["mentor-matching"], ["offence"])
    await convicted.say(door.prison, "consent.granted", data)
    assert await convicted.convictions(door.mentors) == [set()]
    (record,) = await convicted.told(door.mentors)
    async with door.mentors.http() as http:
        asked = {"clients": [record["subject"]], "purpose": "mentor-matching", "categories": ["offence"]}
        (seen,) = (await http.post("/views", json=asked)).json()["views"]
    assert [s["category"] for s in seen["sections"]] == ["offence"]
    await convicted.day_comes(door.prison, LATER)
    (stop,) = await convicted.stops(door.mentors)
    assert (stop["purposes"], stop["categories"]) == (["mentor-matching"], ["offence"])


async def test_of_linked_clients_each_key_and_after_unlinking_nothing_twice(convicted: Convicted) -> None:
    door = convicted.door
    other = [{"type": "CRN", "value": f"X{door.number[1:5]}55"}]
    both = {"identifiers": convicted.numbers, "reason": "made up"}
    await convicted.record(door.prison, on(LATER))
    await convicted.say(door.prison, "client.recorded", {"identifiers": other, "facts": {"identity": IDENTITY}})
    await convicted.consent("offence", to=(door.hostel,))
    for_other = granted(other, [door.hostel.name], ["referral"], ["identity", "offence"])
    await convicted.say(door.prison, "consent.granted", for_other)
    await convicted.say(door.prison, "identity.linked", both | {"sameAs": other})
    before = len(await convicted.stops(door.hostel))
    assert {door.prison.name} in (await convicted.convictions(door.hostel))[-1:]
    await convicted.day_comes(door.prison, LATER)
    stops = await convicted.stops(door.hostel)
    assert [stop["categories"] for stop in stops[before:]] == [["offence"]] * 2, "under each key that the client had"
    assert (await convicted.convictions(door.hostel))[-1] == set()
    await convicted.say(door.prison, "identity.unlinked", both | {"notSameAs": other})
    before = len(await convicted.stops(door.hostel))
    await convicted.record(door.prison, on(today()))
    assert len(await convicted.stops(door.hostel)) == before, "unlinking took everything back already"


async def test_when_it_is_erased_the_day_goes_as_well(convicted: Convicted) -> None:
    door = convicted.door
    await convicted.record(door.prison, on(LATER))
    await convicted.record(door.probation, on(LATER))
    data = {"identifiers": convicted.numbers, "scope": "own", "reason": "client-asked"}
    await convicted.say(door.prison, "erasure.requested", data)
    assert await convicted.due(door.prison) == []
    assert len(await convicted.due(door.probation)) == 1
    await convicted.say(door.probation, "erasure.requested", data | {"scope": "everything"})
    assert await convicted.due(door.probation) == []


async def test_who_is_told_at_that_very_moment_is_told_to_erase_it_too(convicted: Convicted) -> None:
    """The discloser decided before the day and commits behind the clock: nobody could see whom it tells."""
    door = convicted.door
    await convicted.say(
        door.prison, "client.recorded", {"identifiers": convicted.numbers, "facts": {"identity": IDENTITY}}
    )
    await decided(door)
    await convicted.consent("offence", to=(door.hostel,))
    assert await convicted.convictions(door.hostel) == [set()]
    system, name = door.system, "consent.discloser"
    system.stop_process(name)
    await convicted.say(door.prison, "client.recorded", convicted.conviction(door.prison, on(LATER)))  # it is queued
    # Stopped inside its transaction it is idle: its session has to last.
    system.start_process(name, {"THROUGHGATE_FAULT": "discloser.decided:stop:1", "THROUGHGATE_SESSION_SECONDS": "120"})

    async def stopped() -> bool:
        return "State:\tT" in Path(f"/proc/{system.pid(name)}/status").read_text()

    async def looked_at() -> bool:
        return (await convicted.due(door.prison))[0] > datetime.now(UTC)

    try:
        await eventually_true(stopped, "the discloser to have decided, and stopped before it commits")
        await convicted.move_clock(door.prison, LATER)
        await eventually_true(looked_at, "it to be looked at, and put off")
        assert (await convicted.due(door.prison))[0] > datetime.now(UTC) + timedelta(seconds=30)
    finally:
        system.kill(name, signal.SIGCONT)
    assert await convicted.convictions(door.hostel) == [set(), {door.prison.name}]
    assert await convicted.stops(door.hostel) == []
    await convicted.day_comes(door.prison)
    assert [stop["categories"] for stop in await convicted.stops(door.hostel)] == [["offence"]]
    assert await convicted.due(door.prison) == []
