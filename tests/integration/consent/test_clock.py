"""What begins and ends by the clock: an end denies at once, then it is told and taken back, by any number of workers,
once; what begins later is followed by its snapshot then.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from support import servers
from support.agency import Agency, Operator, event, eventually, eventually_true, granted, read_all, terms
from support.door import accepted, decided, superuser
from support.settled import settled

from consent import upkeep
from consent.service import clock
from contracts.leaving import RETRACTED
from servicekit.db import Database
from throughgate.promises import Placed, behind_retraction
from throughgate.system import System

SNAPSHOT = "throughgate.client.snapshot.v1"
ENDS = {"validUntil": "valid_until", "until": "until", "ends": "ends"}
BEGINS = {"validFrom": "valid_from", "starts": "starts"}
"""What an end, or a beginning, is called in an event and in the client's history."""


FOR_REFERRAL = ["identity", "needs.accommodation"]
"""Of what the prison recorded, what the agreement lets out."""


def later(after: timedelta = timedelta(hours=1)) -> str:
    return (datetime.now(UTC) + after).isoformat()


async def comes(agency: Agency, names: dict[str, str], *every: dict[str, Any]) -> datetime:
    """Move the end, or beginning, of what the agency said with these events to half a second from now, to where it is
    due; gives it.
    """
    async with superuser(agency) as db, db.transaction():
        at: datetime = await db.fetchval("SELECT clock_timestamp() + interval '0.5 s'")
        for said in every:
            (name,) = said["data"].keys() & names.keys()
            moved = await db.fetch(
                "UPDATE due SET due_at = $1 FROM sharing_fact f WHERE f.event_id = $2 AND due_at = $3"
                " AND CAST(f.body ->> $4 AS timestamptz) = $3"
                " AND (f.client_id, f.version) = (due.client_id, due.version) RETURNING due.id",
                at,
                said["id"],
                datetime.fromisoformat(said["data"][name]),
                names[name],
            )
            assert len(moved) == 1, "it is due then"
            await db.execute(
                "UPDATE sharing_fact SET body = jsonb_set(body, $1, to_jsonb($2::timestamptz)) WHERE event_id = $3",
                [names[name]],
                at,
                said["id"],
            )
    return at


async def end_comes(agency: Agency, said: dict[str, Any]) -> datetime:
    """Let the end of what the agency said with this event come; gives it."""
    return await comes(agency, ENDS, said)


def a_consent(door: Any, *recipients: dict[str, str], until: str | None, categories: Sequence[str] = ()) -> Any:
    data = granted(
        door.identifiers, [], ["referral"], list(categories) or ["identity", "needs.accommodation", "risk"]
    ) | {"recipients": list(recipients)}
    return event("consent.granted", door.prison.name, data | ({"validUntil": until} if until else {}))


async def expired(agency: Agency, of: dict[str, Any], seconds: float = 30) -> dict[str, Any]:
    """What the agency is told of the end of what it said with this event."""
    reply = await eventually(
        lambda: next((r for r in agency.replies if ".expired." in r["type"] and r["data"]["event"] == of["id"]), None),
        "the end to be told",
        seconds,
    )
    return {"type": reply["type"], **reply["data"]}


async def has(agency: Agency, type: str, count: int = 1) -> list[Placed]:
    """Wait until this many records of a type stand on the agency's topic; gives all of that type."""
    found: list[Placed] = []

    async def there() -> bool:
        found[:] = [r for r in await agency.received() if r.event["type"] == type]
        return len(found) >= count

    await eventually_true(there, f"{count} of {type} for {agency.name}")
    return found


async def stops_of_referral(door: Any, reference_of: str | None = None) -> list[dict[str, Any]]:
    """The retractions on the cleared topic of the referral service, of clients that this prison recorded."""
    user = door.hostel.connection() | {
        "sasl_plain_username": "referral",
        "sasl_plain_password": door.system.kafka.password("referral"),
    }
    await settled(door.system, ["cleared.referral"])
    records = [r.event for r in await read_all(user, f"{door.system.namespace}cleared.referral")]
    own = {r["subject"] for r in records if any(s["source"] == door.prison.name for s in r["data"].get("sections", ()))}
    return [r["data"] for r in records if r["type"] == RETRACTED and r["subject"] in own]


async def rows(door: Any, statement: str, *values: Any) -> list[Any]:
    async with superuser(door) as connection:
        return list(await connection.fetch(statement, *values))


async def test_a_consent_that_ends_is_told_and_taken_back(door: Any) -> None:
    await door.prison.answered(door.recorded())
    consent = a_consent(door, {"agency": door.hostel.name}, until=later())
    accepted = await door.prison.answered(consent)
    await has(door.hostel, SNAPSHOT)
    await decided(door)
    end = await end_comes(door.prison, consent)
    told = await expired(door.prison, consent)
    assert told["type"] == "throughgate.consent.expired.v1"
    assert told["client"] == accepted["client"]
    assert datetime.fromisoformat(told["expiredAt"]) == end
    done = await door.prison.done(consent["id"])
    assert done["withdrawal"] == told["withdrawal"]
    assert [d["recipient"] for d in done["recipients"]] == [door.hostel.name, "referral"]
    (retraction,) = await has(door.hostel, RETRACTED)
    data = retraction.event["data"]
    assert data["purposes"] == ["referral"]
    assert data["categories"] == ["identity", "needs.accommodation"], "of risk no agreement let anything out"
    assert (data["version"], data["consentVersion"]) == (2, None), "what was decided on the consent's version goes"
    await door.prison.answered(door.recorded())
    records = await door.hostel.received()
    assert records[-1].event["type"] == RETRACTED
    assert behind_retraction(records) == []
    assert [s["recipients"] for s in await stops_of_referral(door)] == [None]
    said = await rows(
        door, "SELECT kind, version FROM sharing_fact WHERE event_id = $1 ORDER BY version", consent["id"]
    )
    assert [tuple(r) for r in said] == [("granted", 1), ("expired", 2)]


async def test_what_ends_while_its_agreement_is_suspended_is_taken_back(door: Any) -> None:
    agreement = door.prison.name.replace("prison", "referral")
    await door.prison.answered(door.recorded())
    given = a_consent(door, {"agency": door.hostel.name}, until=later())
    await door.prison.answered(given)
    told = await has(door.hostel, SNAPSHOT)
    await door.operator.call("POST", f"/agreements/{agreement}/suspension", {"reason": "We look into it."})
    await end_comes(door.prison, given)
    assert (await expired(door.prison, given))["withdrawal"]
    taken_back = await has(door.hostel, RETRACTED)
    assert {r.event["subject"] for r in taken_back} == {r.event["subject"] for r in told}
    await door.operator.call("POST", f"/agreements/{agreement}/resumption", {"reason": "It is well."})


@pytest.mark.parametrize("stays", [True, False])
async def test_what_left_under_an_older_version_of_the_agreement_is_taken_back(door: Any, stays: bool) -> None:
    """The newer one says less, or is without the recipient: that alone takes nothing back."""
    await door.prison.answered(door.recorded())
    given = a_consent(door, {"agency": door.hostel.name}, until=later())
    await door.prison.answered(given)
    await has(door.hostel, SNAPSHOT)
    recipients = [door.mentors.name, "referral", *([door.hostel.name] if stays else [])]
    categories = ["identity"] if stays else ["identity", "needs.accommodation"]
    agreement = door.prison.name.replace("prison", "referral")
    await door.operator.agree(agreement, [door.prison.name], recipients, [terms("referral", categories)], 2)
    await decided(door)
    await end_comes(door.prison, given)
    assert (await expired(door.prison, given))["withdrawal"]
    (retraction,) = await has(door.hostel, RETRACTED)
    assert retraction.event["data"]["categories"] == ["identity", "needs.accommodation"]


async def test_what_a_newer_consent_covers_is_not_taken_back(door: Any) -> None:
    await door.prison.answered(door.recorded())
    first = a_consent(door, {"agency": door.hostel.name}, until=later())
    await door.prison.answered(first)
    await has(door.hostel, SNAPSHOT)
    await door.prison.answered(a_consent(door, {"agency": door.hostel.name}, until=None, categories=["identity"]))
    await has(door.hostel, SNAPSHOT, 2)
    await end_comes(door.prison, first)
    await expired(door.prison, first)
    await door.prison.done(first["id"])
    (retraction,) = await has(door.hostel, RETRACTED)
    assert retraction.event["data"]["categories"] == ["needs.accommodation"]
    again = await has(door.hostel, SNAPSHOT, 3)
    assert [s["category"] for s in again[-1].event["data"]["sections"]] == ["identity"]
    assert behind_retraction(await door.hostel.received()) == []


async def test_an_end_that_changes_nothing_takes_nothing_back(door: Any) -> None:
    await door.prison.answered(door.recorded())
    first = a_consent(door, {"agency": door.hostel.name}, until=later())
    await door.prison.answered(first)
    await door.prison.answered(a_consent(door, {"agency": door.hostel.name}, until=None))
    await end_comes(door.prison, first)
    assert (await expired(door.prison, first))["withdrawal"] is None
    withdrawn_before = a_consent(door, {"agency": door.hostel.name}, until=later())
    await door.prison.answered(withdrawn_before)
    taken_back = door.withdrawal(categories=["identity", "needs.accommodation"])  # of risk nothing may leave anyway
    await door.prison.answered(taken_back)
    await door.prison.done(taken_back["id"])
    await end_comes(door.prison, withdrawn_before)
    assert (await expired(door.prison, withdrawn_before))["withdrawal"] is None
    await door.prison.answered(door.recorded())
    assert len(await has(door.hostel, RETRACTED)) == 1, "of the withdrawal alone"


async def test_a_kind_of_agency_is_those_who_are_of_it_now_and_services_stop_telling_them(door: Any) -> None:
    await door.prison.answered(door.recorded())
    everyone = a_consent(door, {"kind": "vcs", "area": "leeds"}, until=later())
    await door.prison.answered(everyone)
    await has(door.mentors, SNAPSHOT)
    await has(door.hostel, SNAPSHOT)
    await door.prison.answered(a_consent(door, {"agency": door.hostel.name}, until=None))
    await decided(door)
    await end_comes(door.prison, everyone)
    await expired(door.prison, everyone)
    done = await door.prison.done(everyone["id"])
    assert [d["recipient"] for d in done["recipients"]] == [door.mentors.name, "referral"], (
        "the hostel keeps what it has"
    )
    assert [s["recipients"] for s in await stops_of_referral(door)] == [[door.mentors.name]]
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded())

    async def goes_on() -> bool:
        return len(await door.hostel.received()) > before

    await eventually_true(goes_on, "the hostel's next record")
    assert (await door.mentors.received())[-1].event["type"] == RETRACTED


@pytest.mark.parametrize("kind", ["gateway", "override"])
async def test_a_gateway_and_an_override_that_end_take_back_what_they_let_out(door: Any, kind: str) -> None:
    await door.prison.answered(door.recorded())
    recipient = door.probation if kind == "gateway" else door.hostel
    data = {
        "identifiers": door.identifiers,
        kind: f"{kind}-1",
        "recipients": [recipient.name],
        "purposes": ["public-protection"],
        "categories": ["identity", "risk"],
        "starts": later(timedelta()),
        "ends": later(),
        "reason": "made up",
    }
    name = "gateway.invoked"
    if kind == "gateway":
        data |= {"basis": "vital-interests", "authorisedByRole": "duty manager"}
    else:
        name = "override.authorised"
        staff = {"authorisedBy": "duty-governor", "approvedBy": "head-of-safety"}
        data |= staff | {"reviewBy": later(timedelta(days=2))}
    said = event(name, door.prison.name, data)
    await door.prison.answered(said)
    await has(recipient, SNAPSHOT)
    await end_comes(door.prison, said)
    told = await expired(door.prison, said)
    assert (told["type"], told["kind"], told["id"]) == ("throughgate.sharing.expired.v1", kind, f"{kind}-1")
    done = await door.prison.done(said["id"])
    assert [d["recipient"] for d in done["recipients"]] == [recipient.name]
    (retraction,) = await has(recipient, RETRACTED)
    assert retraction.event["data"]["categories"] == ["identity", "risk"]
    assert retraction.event["data"]["version"] == 2
    assert behind_retraction(await recipient.received()) == []


async def test_when_a_restriction_ends_what_it_withheld_may_leave(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await decided(door)
    await door.prison.answered(door.consent(door.hostel, door.mentors))
    await has(door.hostel, SNAPSHOT)
    await has(door.mentors, SNAPSHOT)
    restriction = event(
        "restriction.imposed",
        door.prison.name,
        {
            "identifiers": door.identifiers,
            "restriction": "r-1",
            "kind": "exclusion",
            "recipients": [{"agency": door.hostel.name}],
            "until": later(),
            "reason": "made up",
        },
    )
    reply = await door.prison.answered(restriction)
    assert "accepted" in reply["type"], reply
    await has(door.hostel, RETRACTED)
    told = len(await door.mentors.received())
    await end_comes(door.prison, restriction)
    ended = await expired(door.prison, restriction)
    assert (ended["kind"], ended["withdrawal"]) == ("restriction", None)
    await has(door.hostel, SNAPSHOT, 2)
    assert behind_retraction(await door.hostel.received()) == []
    assert len(await door.mentors.received()) == told, "whom it did not reach hears nothing"


def stopping(door: Any, what: str, said: dict[str, Any]) -> dict[str, Any]:
    """What withdraws the client's consents, or ends or lifts what the prison said with this event."""
    if what == "consent":
        withdrawal: dict[str, Any] = door.withdrawal()
        return withdrawal
    word = "lifted" if what == "restriction" else "ended"
    data = {"identifiers": door.identifiers, what: said["data"][what]}
    return event(f"{what}.{word}", door.prison.name, data)


def an_exclusion(door: Any, recipient: Agency, **more: Any) -> dict[str, Any]:
    data = {"identifiers": door.identifiers, "restriction": "r-1", "kind": "exclusion", "reason": "made up"}
    return event("restriction.imposed", door.prison.name, data | {"recipients": [{"agency": recipient.name}]} | more)


@pytest.mark.parametrize("what", ["consent", "gateway", "override", "restriction"])
async def test_what_was_over_before_its_end_does_not_end_again(door: Any, what: str) -> None:
    await accepted(door.prison, door.recorded())
    if what == "consent":
        said = a_consent(door, {"agency": door.hostel.name}, until=later())
    elif what == "restriction":
        said = an_exclusion(door, door.hostel, until=later())
    else:
        said = door.invoked(what, door.prison, door.probation)
    await accepted(door.prison, said)
    await accepted(door.prison, stopping(door, what, said))
    await end_comes(door.prison, said)
    await nothing_due(door, said)
    assert await rows(door, "SELECT 1 FROM sharing_fact WHERE kind = 'expired' AND event_id = $1", said["id"]) == []


async def nothing_due(door: Any, said: dict[str, Any]) -> None:
    """Wait until the clock came by, and all that it queued of the client is decided."""
    waits = "SELECT 1 FROM due JOIN sharing_fact f USING (client_id, version) WHERE f.event_id = $1"

    async def gone() -> bool:
        return await rows(door, waits, said["id"]) == []

    await eventually_true(gone, "what is due to be told")
    await decided(door)


# --- beginnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "in_the_way"),
    [
        ("consent", "nothing"),
        ("consent", "no record"),
        ("consent", "a restriction"),
        ("consent", "a suspension"),
        ("gateway", "no record"),
        ("gateway", "a restriction"),
    ],
)
async def test_what_begins_later_is_followed_by_a_snapshot_whatever_was_in_its_way_before(
    door: Any, what: str, in_the_way: str
) -> None:
    reason = {"reason": "made up"}
    agreement = f"/agreements/{door.prison.name.replace('prison', 'referral')}"
    await accepted(door.prison, door.recorded({"contact": {"phone": "made up"}} if in_the_way == "no record" else None))
    if what == "consent":
        recipient, expected = door.hostel, {"identity", "needs.accommodation"}
        said = a_consent(door, {"agency": recipient.name}, until=later(timedelta(hours=2)))
        said["data"]["validFrom"] = later()
    else:
        recipient, expected = door.probation, {"identity", "risk"}
        said = door.invoked(what, door.prison, recipient, starts=later(), ends=later(timedelta(hours=2)))
    restriction = an_exclusion(door, recipient)
    if in_the_way == "a restriction":
        await accepted(door.prison, restriction)
    if in_the_way == "a suspension":
        await door.operator.call("POST", f"{agreement}/suspension", reason)
    await accepted(door.prison, said)
    if in_the_way == "no record":
        for _ in range(2):
            await accepted(door.prison, door.recorded())
    if in_the_way == "a restriction":
        await accepted(door.prison, stopping(door, "restriction", restriction))
    if in_the_way == "a suspension":
        await door.operator.call("POST", f"{agreement}/resumption", reason)

        async def offered() -> bool:
            return await rows(door, "SELECT 1 FROM agreement_follow_up WHERE due_at <= now()") == []

        await eventually_true(offered, "what the resumption makes possible again")  # else that brings the snapshot
    await decided(door)
    assert [r for r in await recipient.received() if r.event["type"] != RETRACTED] == []
    await comes(door.prison, BEGINS, said)
    await has(recipient, SNAPSHOT)
    await decided(door)
    (snapshot,) = await has(recipient, SNAPSHOT)
    assert {s["category"] for s in snapshot.event["data"]["sections"]} == expected
    await end_comes(door.prison, said)
    assert (await expired(door.prison, said))["withdrawal"], "its end falls due when it begins"


async def test_of_two_that_begin_at_once_there_is_one_snapshot_and_none_of_what_was_withdrawn_before(door: Any) -> None:
    await accepted(door.prison, door.recorded())
    consents = [a_consent(door, {"agency": door.hostel.name}, until=None, categories=[c]) for c in FOR_REFERRAL]
    begins = {"validFrom": later()}
    withdrawn = a_consent(door, {"agency": door.mentors.name}, until=None)
    for said in (*consents, withdrawn):
        said["data"] |= begins
        await accepted(door.prison, said)
    await accepted(door.prison, door.withdrawal(recipients=[{"agency": door.mentors.name}]))
    await comes(door.prison, BEGINS, withdrawn, *consents)
    for said in (withdrawn, *consents):
        await nothing_due(door, said)
    (snapshot,) = await has(door.hostel, SNAPSHOT)
    assert {s["category"] for s in snapshot.event["data"]["sections"]} == set(FOR_REFERRAL)
    assert SNAPSHOT not in {r.event["type"] for r in await door.mentors.received()}
    asked = "SELECT 1 FROM ledger WHERE recipient = $1 AND type = $2"
    assert await rows(door, asked, door.mentors.name, SNAPSHOT) == []


async def test_a_worker_that_dies_on_the_way_tells_it_once(make_system: Callable[..., System]) -> None:
    system = make_system(["prison", "hostel"], ["consent"])
    operator = Operator(system)
    await operator.register(prison="prison", hostel="vcs")
    await operator.agree("referral", ["prison"], ["hostel"], [terms("referral", ["identity"])])
    system.start_process("consent.worker", {"THROUGHGATE_FAULT": "clock.ended:kill:1"})
    async with Agency(system, "prison") as prison, Agency(system, "hostel") as hostel:
        identifiers = [{"type": "NOMS", "value": "A1234BC"}]
        facts = {"identity": {"givenName": "Robin", "familyName": "Fictional"}}
        await prison.answered(event("client.recorded", "prison", {"identifiers": identifiers, "facts": facts}))
        data = granted(identifiers, ["hostel"], ["referral"], ["identity"])
        consent = event("consent.granted", "prison", data | {"validUntil": later()})
        first = system.pid("consent.worker")
        await prison.answered(consent)
        await has(hostel, SNAPSHOT)
        await end_comes(prison, consent)
        await expired(prison, consent, 60)  # a worker that was killed counts as a member of its group for a while
        assert system.pid("consent.worker") != first, "the worker was killed before it had committed"
        await prison.done(consent["id"])
        await asyncio.sleep(1.5)  # a second time would come by now
        assert len(await has(hostel, RETRACTED)) == 1
        assert sum(".expired." in r["type"] for r in prison.replies) == 1


# --- the use case alone, on a database --------------------------------------------------------------------------------

REGISTER = """
INSERT INTO agency (id, kind, name) VALUES ('prison', 'prison', 'P'), ('hostel', 'vcs', 'H');
INSERT INTO agreement (id, version, sources, recipients, terms, signatories, starts, review, ends) VALUES ('a', 1,
    '{prison}', '{hostel}', '{"referral": {"basis": "consent", "categories": ["identity"], "subscription": true}}',
    '{}', '2026-01-01', '2029-01-01', '2030-01-01');
"""
GRANT = """{"version": 1, "asserted_by": "prison", "recipients": {"agencies": ["hostel"]}, "purposes": ["referral"],
    "categories": ["identity"], "given_at": "2026-01-01T00:00:00Z", "valid_until": "2026-01-02T00:00:00Z"}"""


@pytest.fixture
async def database(database_of: Callable[..., Awaitable[Database]]) -> Database:
    """An empty database of the door, reached with the worker's role."""
    return await database_of("consent")


@pytest.fixture
async def admin(database: Database, address: Any) -> AsyncIterator[Any]:
    """The same database, with a prison, a hostel and an agreement, for looking and preparing."""
    connection = await asyncpg.connect(servers.RunningPostgres(address).url(str(database.engine.url.database)))
    await connection.execute(REGISTER)
    yield connection
    await connection.close()


async def clients_whose_consent_ended(admin: Any, count: int) -> list[int]:
    made = []
    for n in range(count):
        client = await admin.fetchval("INSERT INTO client (version) VALUES (1) RETURNING id")
        await admin.execute(
            "INSERT INTO sharing_fact (client_id, version, kind, asserted_by, event_id, own_id, body, recorded_at)"
            " VALUES ($1, 1, 'granted', 'prison', $2, $2, $3, now())",
            client,
            f"event-{n}",
            GRANT,
        )
        await admin.execute("INSERT INTO reference VALUES ($1, $2, 'hostel', true)", uuid4(), client)
        await admin.execute("INSERT INTO fact VALUES ($1, 'prison', 'identity', now(), '{}')", client)
        await admin.execute(
            "INSERT INTO due (client_id, version, kind, due_at) VALUES ($1, 1, 'consent', now())", client
        )
        made.append(client)
    return made


async def test_any_number_of_workers_tell_each_end_once(database: Database, admin: Any) -> None:
    made = await clients_whose_consent_ended(admin, 60)

    async def worker() -> int:
        batches = 0
        while await database.run(lambda session: clock.tell_what_is_due(session, 7)):
            batches += 1
        return batches

    batches = await asyncio.gather(worker(), worker(), worker(), worker())
    assert sum(1 for n in batches if n) >= 2, "they shared the work"
    assert await admin.fetchval("SELECT count(*) FROM due") == 0
    for kind in ("SELECT client_id FROM sharing_fact WHERE kind = 'expired'", "SELECT client_id FROM withdrawal"):
        assert sorted(r[0] for r in await admin.fetch(kind)) == made
    assert await admin.fetchval("SELECT count(*) FROM queue WHERE type = 'throughgate.consent.expired.v1'") == 60


async def test_an_end_for_a_client_of_whom_something_cannot_be_read_waits_and_the_batch_goes_on(
    database: Database, admin: Any
) -> None:
    bad, *others = await clients_whose_consent_ended(admin, 5)
    mend = "UPDATE fact SET data = $2 WHERE client_id = $1"
    await admin.execute(mend, bad, "[]")
    assert await database.run(lambda session: clock.tell_what_is_due(session, 50))
    assert [r[0] for r in await admin.fetch("SELECT client_id FROM withdrawal ORDER BY client_id")] == others
    left = await admin.fetch("SELECT client_id, due_at > clock_timestamp() AS later FROM due")
    assert [tuple(r) for r in left] == [(bad, True)]
    held = await admin.fetch("SELECT client_id, asserted_by, reason, times FROM hold")
    assert [tuple(h) for h in held] == [(bad, "throughgate", "cannot-be-read", 1)]
    for _ in range(2):
        await admin.execute("UPDATE due SET due_at = clock_timestamp()")
        assert await database.run(lambda session: clock.tell_what_is_due(session, 50))
    assert await admin.fetchval("SELECT times FROM hold") == 1, "it is put on once"
    await admin.execute(mend, bad, "{}")
    await admin.execute("UPDATE due SET due_at = clock_timestamp()")
    assert await database.run(lambda session: clock.tell_what_is_due(session, 50))
    assert await admin.fetchval("SELECT count(*) FROM due") == 0
    assert await admin.fetchval("SELECT count(*) FROM sharing_fact WHERE kind = 'expired'") == 5


async def test_an_end_that_cannot_be_told_holds_up_nobody_else(database: Database, admin: Any) -> None:
    bad, *others = await clients_whose_consent_ended(admin, 5)
    await admin.execute("UPDATE sharing_fact SET body = '{}' WHERE client_id = $1", bad)
    await upkeep.all_in_batches(database, clock.tell_what_is_due, clock.put_off)
    assert await admin.fetchval("SELECT count(*) FROM due") == 5, "the door is closed until a discloser has compared"
    await admin.execute("INSERT INTO opened (incarnation) SELECT incarnation()")
    await upkeep.all_in_batches(database, clock.tell_what_is_due, clock.put_off)
    left = await admin.fetch("SELECT client_id, due_at > clock_timestamp() AS later FROM due")
    assert [tuple(r) for r in left] == [(bad, True)]
    ended = await admin.fetch("SELECT client_id FROM sharing_fact WHERE kind = 'expired' ORDER BY client_id")
    assert [r[0] for r in ended] == others
