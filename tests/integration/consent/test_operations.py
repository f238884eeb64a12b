"""What waits for a person: retractions that nobody confirmed, reviews, holds, what was set aside. No SQL is needed."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource
from support.agency import event, eventually, eventually_true, read_all, without_repeats
from support.door import accepted, quiet, recorded, superuser

from consent import upkeep
from consent.service.clock import Waiting
from consent.settings import WorkerSettings
from contracts import make
from contracts.leaving import RETRACTED
from contracts.topics import read_topics
from throughgate.promises import Placed, behind_retraction


@pytest.fixture
async def admin(door: Any) -> AsyncIterator[Any]:
    """The door's database, to let time pass in it and to put things aside."""
    async with superuser(door) as connection:
        yield connection


async def withdrawn_for_the_hostel(door: Any) -> dict[str, Any]:
    """A client who consented and withdrew; gives what the prison was told when it was done."""
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    taken_back = door.withdrawal()
    await door.prison.answered(taken_back)
    return dict(await door.prison.done(taken_back["id"]))


async def hours_pass(admin: Any, withdrawal: str, hours: float) -> None:
    await admin.execute(
        "UPDATE retraction SET done_at = done_at - make_interval(secs => 3600 * $2),"
        " reminded_at = reminded_at - make_interval(secs => 3600 * $2) WHERE withdrawal_id = $1",
        withdrawal,
        hours,
    )


async def overdue(door: Any, withdrawal: str, hours: float = 24) -> dict[str, dict[str, Any]]:
    """The overdue retractions of one withdrawal, by recipient."""
    listed = await door.operator.call("GET", f"/retractions/overdue?hours={hours}&limit=1000")
    return {r["recipient"]: r for r in listed if r["withdrawal"] == withdrawal}


async def retractions(door: Any, count: int) -> list[Placed]:
    found: list[Placed] = []

    async def there() -> bool:
        found[:] = [r for r in await door.hostel.received() if r.event["type"] == RETRACTED]
        return len(found) >= count

    await eventually_true(there, f"{count} retractions")
    return found


def confirmed(agency: Any, retraction: Placed, reference: str | None = None) -> dict[str, Any]:
    known = [{"type": "THROUGHGATE", "value": reference or retraction.event["subject"]}]
    data = {"identifiers": known, "retraction": retraction.event["data"]["retraction"]}
    return event("retraction.confirmed", agency.name, data)


async def test_who_does_not_confirm_is_listed_and_reminded_with_the_same_event(door: Any, admin: Any) -> None:
    withdrawal = (await withdrawn_for_the_hostel(door))["withdrawal"]
    assert await overdue(door, withdrawal) == {}
    assert {door.hostel.name, "referral"} <= set(await overdue(door, withdrawal, hours=0))
    await hours_pass(admin, withdrawal, 25)
    first, reminder = await retractions(door, 2)
    assert reminder.event == first.event
    assert without_repeats(await door.hostel.received())[-1].offset < reminder.offset, "a partner drops it by its id"
    listed = (await overdue(door, withdrawal))[door.hostel.name]
    assert listed["reminders"] == 1
    assert listed["owner"] == "operations"
    assert (listed["because"], listed["assertedBy"]) == ("withdrawn", door.prison.name)
    assert listed["client"] == first.event["subject"]
    # consent given again: records stand before and behind the next reminder, and neither is a violation
    await door.prison.answered(door.consent(door.hostel))
    await door.prison.answered(door.recorded())
    await hours_pass(admin, withdrawal, 25)
    await retractions(door, 3)
    before = len(await door.hostel.received())
    await door.prison.answered(door.recorded())

    async def goes_on() -> bool:
        return len(await door.hostel.received()) > before

    await eventually_true(goes_on, "a record behind the reminder")
    assert behind_retraction(await door.hostel.received()) == []
    assert len([r for r in door.prison.replies if "withdrawal.done" in r["type"]]) == 1, "it is done once"


async def test_a_reminder_is_sent_once_each_time_and_not_before(door: Any, admin: Any) -> None:
    withdrawal = (await withdrawn_for_the_hostel(door))["withdrawal"]
    await hours_pass(admin, withdrawal, 3)

    async def service_reminded() -> bool:
        return bool((await overdue(door, withdrawal, hours=1))["referral"]["reminders"] == 1)

    await eventually_true(service_reminded, "the service's reminder, whose topic keeps hours only")
    await hours_pass(admin, withdrawal, 0.5)
    await admin.execute("SELECT pg_sleep(2.5)")
    listed = await overdue(door, withdrawal, hours=1)
    assert [listed[name]["reminders"] for name in (door.hostel.name, "referral")] == [0, 1]


def test_reminders_come_well_before_a_topic_forgets() -> None:
    kept = {topic.kind: topic.retention_ms / 3_600_000 for topic in read_topics(make.SCHEMAS / "topics")}
    fields = WorkerSettings.model_fields
    assert fields["reminder_hours"].default <= kept["partner"] / 2
    assert fields["service_reminder_hours"].default <= kept["cleared"] / 2


async def test_only_the_recipient_confirms_its_own_retraction(door: Any, admin: Any) -> None:
    withdrawal = (await withdrawn_for_the_hostel(door))["withdrawal"]
    (retraction,) = await retractions(door, 1)
    assert (await door.mentors.answered(confirmed(door.mentors, retraction)))["code"] == "unknown-client"
    known = await door.mentors.answered(
        event(
            "client.recorded", door.mentors.name, {"identifiers": door.identifiers, "facts": {"risk": {"harm": "low"}}}
        )
    )
    of_another = await door.mentors.answered(confirmed(door.mentors, retraction, known["client"]))
    data = {"identifiers": door.identifiers, "retraction": retraction.event["data"]["retraction"]}
    by_the_publisher = await door.prison.answered(event("retraction.confirmed", door.prison.name, data))
    of_none = confirmed(door.hostel, retraction)
    of_none["data"]["retraction"] = str(uuid4())
    borrowed = confirmed(door.mentors, retraction)  # the hostel's reference, beside a number that it knows itself
    borrowed["data"]["identifiers"] = [*door.identifiers, *borrowed["data"]["identifiers"]]
    answers = [of_another, by_the_publisher, await door.hostel.answered(of_none), await door.mentors.answered(borrowed)]
    assert {(a.get("code"), a.get("detail")) for a in answers} == {("unknown-retraction", answers[0].get("detail"))}
    assert (await door.hostel.post(of_none | {"id": uuid4().hex})).status_code == 404
    assert door.hostel.name in await overdue(door, withdrawal, hours=0)
    for _ in range(2):
        reply = await door.hostel.answered(confirmed(door.hostel, retraction))
        assert reply["type"].endswith("accepted.v1"), "who confirms once more is told the same"
    assert door.hostel.name not in await overdue(door, withdrawal, hours=0)
    await hours_pass(admin, withdrawal, 100)

    async def service_reminded() -> bool:
        return bool((await overdue(door, withdrawal, hours=0))["referral"]["reminders"] > 0)

    await eventually_true(service_reminded, "the reminders of that hour")
    assert len(await retractions(door, 1)) == 1, "who confirmed is not reminded"


async def test_a_partner_without_kafka_confirms_over_http(door: Any) -> None:
    withdrawal = (await withdrawn_for_the_hostel(door))["withdrawal"]
    (retraction,) = await retractions(door, 1)
    answer = await door.hostel.post(confirmed(door.hostel, retraction))
    assert answer.status_code == 202, answer.text
    assert door.hostel.name not in await overdue(door, withdrawal, hours=0)


async def test_a_service_acknowledges_on_its_requests_topic(door: Any) -> None:
    withdrawal = (await withdrawn_for_the_hostel(door))["withdrawal"]
    listed = (await overdue(door, withdrawal, hours=0))["referral"]
    user = door.hostel.connection() | {
        "sasl_plain_username": "referral",
        "sasl_plain_password": door.system.kafka.password("referral"),
    }
    body = event("retraction.acknowledged", "", {"client": listed["client"], "retraction": listed["retraction"]})
    body["source"] = "/services/referral"
    producer = AIOKafkaProducer(**user)
    await producer.start()
    try:
        topic = f"{door.system.namespace}requests.referral"
        await producer.send_and_wait(topic, json.dumps(body).encode(), key=listed["client"].encode())
    finally:
        await producer.stop()

    async def acknowledged() -> bool:
        return "referral" not in await overdue(door, withdrawal, hours=0)

    await eventually_true(acknowledged, "the acknowledgement")


async def test_an_override_is_listed_until_somebody_reviews_it(door: Any, admin: Any) -> None:
    await door.prison.answered(door.recorded())
    now = datetime.now(UTC)
    data = {
        "identifiers": door.identifiers,
        "override": "ovr-1",
        "recipients": [door.hostel.name],
        "purposes": ["public-protection"],
        "categories": ["risk"],
        "starts": (now - timedelta(days=2)).isoformat(),
        "ends": (now + timedelta(days=2)).isoformat(),
        "reviewBy": (now + timedelta(hours=1)).isoformat(),
        "authorisedBy": "duty-governor",
        "approvedBy": "head-of-safety",
        "reason": "made up",
    }
    await door.prison.answered(event("override.authorised", door.prison.name, data))

    async def listed() -> Any:
        found = await door.operator.call("GET", "/overrides/overdue")
        return [o for o in found if o["agency"] == door.prison.name]

    assert await listed() == [], "its time has not come"
    await admin.execute(
        "UPDATE sharing_fact SET body = jsonb_set(body, '{review_by}', to_jsonb(clock_timestamp()))"
        " WHERE kind = 'override-authorised' AND asserted_by = $1",
        door.prison.name,
    )
    assert [o["override"] for o in await listed()] == ["ovr-1"]
    review = {"identifiers": door.identifiers, "override": "ovr-1", "reviewedBy": "staff-1", "outcome": "justified"}
    reply = await door.prison.answered(event("override.reviewed", door.prison.name, review))
    assert "accepted" in reply["type"], reply
    assert await listed() == []


async def test_a_number_that_no_client_has_is_held_and_let_go_without_being_named(door: Any, admin: Any) -> None:
    await door.prison.answered(door.withdrawal())
    held = await door.operator.call("GET", "/holds")
    (hold,) = [h for h in held if h["assertedBy"] == door.prison.name]
    assert (hold["held"], hold["reason"], hold["owner"]) == ("number", "unknown-client", None)
    assert "no client had" in hold["meaning"]
    assert door.number not in json.dumps(held)
    await door.operator.call("PUT", f"/holds/{hold['hold']}/owner", {"owner": "duty desk"})
    (hold,) = [h for h in await door.operator.call("GET", "/holds") if h["hold"] == hold["hold"]]
    assert hold["owner"] == "duty desk"
    await door.operator.call("DELETE", f"/holds/{hold['hold']}")
    assert await admin.fetchval("SELECT count(*) FROM held_identifier WHERE value = $1", door.number) == 0
    done = await admin.fetchrow("SELECT by, action, about FROM intervention WHERE about = $1", hold["hold"])
    assert tuple(done) == ("operations", "hold-lifted", hold["hold"])
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return bool(await door.hostel.received())

    await eventually_true(arrived, "what the client consented to")


async def test_a_held_number_becomes_a_held_client_with_an_owner(door: Any) -> None:
    await door.prison.answered(door.withdrawal())
    await door.prison.answered(door.recorded())
    (hold,) = [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name]
    assert (hold["held"], hold["reason"]) == ("client", "named-by-an-earlier-withdrawal")
    await door.operator.call("PUT", f"/holds/{hold['hold']}/owner", {"owner": "A. Caseworker"})
    (again,) = [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name]
    assert again["owner"] == "A. Caseworker"
    await door.operator.call("DELETE", f"/holds/{hold['hold']}")
    assert [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name] == []
    with pytest.raises(AssertionError, match="no-such-hold"):
        await door.operator.call("PUT", f"/holds/{hold['hold']}/owner", {"owner": "A. Caseworker"})


BAD_ROW = (
    "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at, keyed_by)"
    " SELECT 2, client_id, recipient, 'partner.' || recipient, id, 'throughgate.client.changed.v1', 'referral',"
    " 'no json', clock_timestamp(), client_id FROM reference WHERE recipient = $1 RETURNING queue.id"
)


async def aside(door: Any, way: str, id: int) -> dict[str, Any] | None:
    listed = await door.operator.call("GET", "/set-aside")
    return next((s for s in listed if (s["way"], s["id"]) == (way, id)), None)


async def test_an_override_of_which_the_review_cannot_be_read_is_listed_with_the_others(door: Any, admin: Any) -> None:
    """It must not keep the others from being seen, and somebody is to look at it."""
    await door.prison.answered(door.recorded())
    for id in ("ovr-1", "ovr-2"):
        await accepted(door.prison, door.invoked("override", door.prison, door.hostel, override=id))
    for id, review_by in (("ovr-1", "clock_timestamp()"), ("ovr-2", "'no time'::text")):
        await admin.execute(
            f"UPDATE sharing_fact SET body = jsonb_set(body, '{{review_by}}', to_jsonb({review_by}))"
            " WHERE kind = 'override-authorised' AND asserted_by = $1 AND own_id = $2",
            door.prison.name,
            id,
        )
    found = [o for o in await door.operator.call("GET", "/overrides/overdue") if o["agency"] == door.prison.name]
    assert [(o["override"], o["reviewBy"] is None) for o in found] == [("ovr-2", True), ("ovr-1", False)]
    await admin.execute(
        "UPDATE sharing_fact SET body = '[]' WHERE asserted_by = $1 AND own_id = 'ovr-2'", door.prison.name
    )
    again = [o for o in await door.operator.call("GET", "/overrides/overdue") if o["agency"] == door.prison.name]
    assert again == found


async def test_what_was_set_aside_can_be_read_page_by_page(door: Any, admin: Any) -> None:
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel, door.mentors))
    both = (door.hostel, door.mentors)
    mine = [f"leaving/{await admin.fetchval(BAD_ROW, agency.name)}" for agency in both]
    topic = f"{door.system.namespace}requests.referral"
    mine += [f"arrived/{await put_aside(admin, topic, b'no json')}" for _ in both]

    async def page(after: str | None = None, limit: int = 500) -> list[str]:
        behind = f"&after={after}" if after else ""
        rows = await door.operator.call("GET", f"/set-aside?limit={limit}{behind}")
        return [f"{row['way']}/{row['id']}" for row in rows]

    async def listed() -> bool:
        return set(mine) <= set(await page())

    await eventually_true(listed, "the rows to be set aside")
    every, found = await page(), await page(limit=1)
    while (more := await page(found[-1], limit=1)) and len(found) < len(every):
        found += more
    assert (found, more) == (every, [])
    assert [one for one in every if one in mine] == mine, "what is leaving comes first"
    assert [one for one in await page(mine[0]) if one in mine] == mine[1:]
    for one in mine:
        await door.operator.call("POST", f"/set-aside/{one}/discard", {"reason": "made up"})


async def test_a_row_that_was_set_aside_is_tried_again_or_discarded(door: Any, admin: Any) -> None:
    await door.prison.answered(door.recorded())
    bad = await admin.fetchval(BAD_ROW, door.hostel.name)
    await door.prison.answered(door.consent(door.hostel))

    async def listed() -> bool:
        found = await aside(door, "leaving", bad)
        return found is not None and found["waiting"] > 0

    await eventually_true(listed, "the row, with what waits behind it")
    found = await aside(door, "leaving", bad)
    assert found is not None
    assert (found["reason"], found["type"]) == ("JSONDecodeError", "throughgate.client.changed.v1")
    assert await door.hostel.received() == []
    assert await door.operator.call("POST", f"/set-aside/leaving/{bad}/retry") == {"outcome": "queued"}
    await eventually_true(listed, "the row to be set aside again")
    await door.operator.call("POST", f"/set-aside/leaving/{bad}/discard", {"reason": "cannot be read"})

    async def left() -> bool:
        return bool(await door.hostel.received())

    await eventually_true(left, "what waited behind it")
    done = await admin.fetch("SELECT action, reason FROM intervention WHERE about = $1 ORDER BY id", f"leaving/{bad}")
    assert [tuple(d) for d in done] == [("retried", None), ("discarded", "cannot be read")]
    with pytest.raises(AssertionError, match="not-set-aside"):
        await door.operator.call("POST", f"/set-aside/leaving/{bad}/retry")


def limit(door: Any, agency: Any, bytes: int) -> None:
    """How large a record may be on an agency's topic."""
    entry = ConfigEntry("max.message.bytes", str(bytes), incremental_operation=AlterConfigOpType.SET)
    topic = f"{door.system.namespace}partner.{agency.name}"
    changed = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    kafka = door.system.kafka.admin()
    kafka.incremental_alter_configs([changed])[changed].result()


class Referral:
    """What the referral service asked for and could not be sent, for the hostel's topic took small records only."""

    def __init__(self, door: Any, admin: Any) -> None:
        self.door, self.admin, self.request = door, admin, str(uuid4())
        self.service = {
            "sasl_plain_username": "referral",
            "sasl_plain_password": door.system.kafka.password("referral"),
        }
        self.row = 0

    async def ask(self) -> str:
        """Ask, and wait until its row is set aside; gives the client's reference for the prison."""
        client = await recorded(self.door)
        reference = await self.admin.fetchval(
            "SELECT r.id FROM reference r JOIN identifier USING (client_id)"
            " WHERE value = $1 AND recipient = 'referral'",
            self.door.number,
        )
        message = {
            "referral": str(uuid4()),
            "service": str(uuid4()),
            "pathway": "needs.accommodation",
            "respondBy": (datetime.now(UTC) + timedelta(days=5)).isoformat(),
        }
        data = {
            "request": self.request,
            "client": str(reference),
            "recipient": self.door.hostel.name,
            "origin": self.door.prison.name,
            "about": ["needs.accommodation"],
            "message": message,
        }
        limit(self.door, self.door.hostel, 300)
        async with AIOKafkaProducer(**self.door.hostel.connection() | self.service) as producer:
            asked = event("referral.requested", "", data) | {"source": "/services/referral"}
            await producer.send_and_wait(f"{self.door.system.namespace}requests.referral", json.dumps(asked).encode())
        assert await self.set_aside() == "MessageSizeTooLargeError", "it was decided, and failed as it was sent"
        limit(self.door, self.door.hostel, 1_048_588)
        return client

    async def set_aside(self) -> str:
        """Why its row is set aside, once it is."""
        row: Any = None

        async def is_set_aside() -> bool:
            nonlocal row
            row = await self.admin.fetchrow("SELECT id, set_aside FROM queue WHERE request = $1::uuid", self.request)
            return bool(row and row["set_aside"])

        await eventually_true(is_set_aside, "the row that cannot be sent", 40)
        self.row = row["id"]
        return str(row["set_aside"])

    async def outcomes(self) -> list[str]:
        """What the service was told of it."""
        topic = f"{self.door.system.namespace}cleared.referral"
        told = without_repeats(await read_all(self.door.hostel.connection() | self.service, topic))
        return [r.event["data"]["outcome"] for r in told if r.event["data"].get("request") == self.request]

    async def is_settled(self) -> bool:
        return bool(await self.outcomes())


async def test_who_asked_for_a_row_that_is_discarded_is_told_no_and_it_does_not_count_as_sent(
    door: Any, admin: Any
) -> None:
    referral = Referral(door, admin)
    client = await referral.ask()

    async def told() -> list[str]:
        token = door.system.issuer.token("p", door.prison.name, ["disclosures:read", "subject-access"])
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=door.system.urls["consent"], headers=headers) as http:
            entries = (await http.get(f"/clients/{client}/disclosures")).json()["entries"]
        return [e["outcome"] for e in entries if e["type"] == "throughgate.referral.sent.v1"]

    assert await told() == ["leaving"]
    await door.operator.call("POST", f"/set-aside/leaving/{referral.row}/discard", {"reason": "too large"})
    assert await told() == ["cancelled, may have arrived"]
    await eventually_true(referral.is_settled, "the service to be told")
    assert await referral.outcomes() == ["denied"]
    await quiet(door)
    entry = await admin.fetchrow("SELECT sequence FROM ledger WHERE queue_id = $1 AND kind = 'cancelled'", referral.row)
    assert entry["sequence"] is not None, "it is sealed"


async def test_who_asked_for_a_row_that_cannot_be_read_is_told_what_became_of_it_once(door: Any, admin: Any) -> None:
    referral = Referral(door, admin)
    await referral.ask()
    body = await admin.fetchval("SELECT body FROM queue WHERE id = $1", referral.row)
    await admin.execute("UPDATE queue SET body = '{' WHERE id = $1", referral.row)
    await door.operator.call("POST", f"/set-aside/leaving/{referral.row}/retry")
    assert await referral.set_aside() == "JSONDecodeError"
    await admin.execute("UPDATE queue SET body = $2 WHERE id = $1", referral.row, body)
    await door.operator.call("POST", f"/set-aside/leaving/{referral.row}/retry")
    await eventually_true(referral.is_settled, "the service to be told")
    await quiet(door)
    assert await referral.outcomes() == ["sent"]


async def put_aside(admin: Any, topic: str, value: bytes) -> int:
    return int(
        await admin.fetchval(
            'INSERT INTO set_aside (topic, partition, "offset", reason, value) VALUES ($1, 0, $2, $3, $4) RETURNING id',
            topic,
            uuid4().int % 2**62,
            "KeyError",
            value,
        )
    )


async def test_an_event_that_was_set_aside_has_its_effect_when_it_is_tried_again(door: Any, admin: Any) -> None:
    body = door.recorded()
    id = await put_aside(admin, f"{door.system.namespace}intake.{door.prison.name}", json.dumps(body).encode())
    assert (await aside(door, "arrived", id) or {})["reason"] == "KeyError"
    assert await door.operator.call("POST", f"/set-aside/arrived/{id}/retry") == {"outcome": "accepted"}
    assert await aside(door, "arrived", id) is None

    def told() -> dict[str, Any] | None:
        return next((r for r in door.prison.replies if r["data"]["event"] == body["id"]), None)

    reply = await eventually(told, "the answer to its publisher")
    assert reply["type"] == "throughgate.event.accepted.v1"
    again = await door.prison.answered(door.recorded())
    assert again["client"] == reply["data"]["client"]


async def test_an_event_that_fails_again_stays_until_it_is_discarded(door: Any, admin: Any) -> None:
    id = await put_aside(admin, f"{door.system.namespace}requests.referral", b"no json")
    with pytest.raises(AssertionError, match=r"retry-failed.*ValidationError"):
        await door.operator.call("POST", f"/set-aside/arrived/{id}/retry")
    assert await aside(door, "arrived", id) is not None
    await admin.execute("UPDATE set_aside SET value = NULL WHERE id = $1", id)
    with pytest.raises(AssertionError, match="event-erased"):
        await door.operator.call("POST", f"/set-aside/arrived/{id}/retry")
    await door.operator.call("POST", f"/set-aside/arrived/{id}/discard", {"reason": "nobody sent it"})
    assert await aside(door, "arrived", id) is None


@asynccontextmanager
async def losing_every_race(admin: Any, agency: str) -> AsyncIterator[None]:
    """Whoever takes in an event of this agency meanwhile finds that another transaction was first."""
    name = f"lost_{uuid4().hex}"
    await admin.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    only = f"FOR EACH ROW WHEN (NEW.agency = '{agency}')"
    await admin.execute(f"CREATE TRIGGER {name} BEFORE INSERT ON intake {only} EXECUTE FUNCTION {name}()")
    try:
        yield
    finally:
        await admin.execute(f"DROP FUNCTION {name} CASCADE")


async def test_a_withdrawal_that_loses_every_race_holds_nobody_and_is_taken_when_it_is_sent_again(
    door: Any, admin: Any
) -> None:
    await door.prison.answered(door.recorded())
    said = door.withdrawal()
    async with losing_every_race(admin, door.prison.name):
        answer = await door.prison.post(said)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    again = await door.prison.post(said)
    assert again.status_code == 202, again.text
    assert again.json()["withdrawal"]
    assert [h for h in await door.operator.call("GET", "/holds") if h["assertedBy"] == door.prison.name] == []


ROUTES = [
    ("GET", "/retractions/overdue"),
    ("GET", "/overrides/overdue"),
    ("GET", "/holds"),
    ("PUT", "/holds/00000000-0000-4000-8000-000000000001/owner"),
    ("DELETE", "/holds/00000000-0000-4000-8000-000000000001"),
    ("GET", "/set-aside"),
    ("POST", "/set-aside/leaving/1/retry"),
    ("POST", "/set-aside/arrived/1/discard"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_only_the_operator_sees_and_does_it(door: Any, method: str, path: str) -> None:
    async with door.prison.http() as http:
        answer: httpx.Response = await http.request(method, path, json={"owner": "x", "reason": "xxx"})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")


async def test_what_waits_is_counted_in_metrics(door: Any) -> None:
    async with httpx.AsyncClient() as http:
        told = (await http.get(f"{door.system.process_url('consent.worker')}/metrics")).text
    for name in ("retractions_overdue", "override_reviews_overdue", "holds", "set_aside_waiting"):
        assert f"\nthroughgate_{name} " in told


def test_an_alert_has_an_owner_and_counts_and_comes_when_there_is_more(caplog: pytest.LogCaptureFixture) -> None:
    upkeep.tell("the duty desk", Waiting(0, 0, 0, 0), Waiting(3, 0, 1, 0))
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "for the duty desk to see to: 3 retractions are not confirmed: GET /retractions/overdue",
        "for the duty desk to see to: 1 holds are not lifted: GET /holds",
    ]
    caplog.clear()
    upkeep.tell("the duty desk", Waiting(3, 0, 1, 0), Waiting(3, 0, 0, 0))
    assert caplog.records == []
    assert upkeep.OVERDUE._value.get() == 3
