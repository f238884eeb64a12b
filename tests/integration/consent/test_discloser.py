"""What must not stop the others: a row, a client or an entry that cannot be read, a record too large, a topic that is
missing. And what must wait, or be taken back.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from sqlalchemy import text
from support.agency import eventually_true
from support.commands import Commands
from support.door import decided, quiet, superuser
from support.faults import stands_still
from support.topics import delete_topic

from consent.events import CHANGED, SNAPSHOT
from consent.repository import ledger, queue
from consent.repository.queue import QueueRow
from consent.service.disclosing import decide_cycle
from consent.service.ledger import Sealer
from contracts.leaving import RETRACTED
from throughgate.promises import behind_retraction


async def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_leave(door: Any) -> None:
    await door.prison.answered(door.recorded())
    await decided(door)
    async with superuser(door) as connection:
        bad = await connection.fetchval(
            "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at,"
            " keyed_by)"
            " SELECT 2, client_id, recipient, 'partner.' || recipient, id, 'throughgate.client.changed.v1', 'referral',"
            " 'no json', clock_timestamp(), client_id FROM reference WHERE recipient = $1 RETURNING queue.id",
            door.mentors.name,
        )
        await door.prison.answered(door.consent(door.hostel, door.mentors))

        async def others_left() -> bool:
            return len(await door.hostel.received()) >= 1

        await eventually_true(others_left, "the others' records")
        assert await connection.fetchval("SELECT set_aside FROM queue WHERE id = $1", bad) == "JSONDecodeError"
        assert await door.mentors.received() == [], "what is behind it for the same client and recipient waits"
        await door.prison.answered(door.withdrawal())

        async def retracted() -> bool:
            return len(await door.mentors.received()) == 1

        await eventually_true(retracted, "the retraction, which never waits")
        await connection.execute("DELETE FROM queue WHERE id = $1", bad)


async def test_a_missing_topic_holds_up_nobody_else(door: Any) -> None:
    topic = f"{door.system.namespace}partner.{door.mentors.name}"
    admin = door.system.kafka.admin()
    await delete_topic(admin, topic)
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel, door.mentors))

    async def other_left() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(other_left, "the record of the recipient whose topic is there", 40)
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result()

    async def came_late() -> bool:
        return len(await door.mentors.received()) >= 1

    await eventually_true(came_late, "the record that waited", 40)


async def test_a_record_too_large_for_the_topic_is_set_aside(door: Any) -> None:
    await door.prison.answered(door.consent(door.hostel))  # unknown client: rejected, and not what is tested
    large = "x" * 1900
    facts = {"needs.accommodation": {"level": "urgent", "summary": large}}
    await door.prison.answered(door.recorded(facts))
    await door.prison.answered(door.consent(door.hostel))

    async def arrived() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(arrived, "the snapshot")
    async with superuser(door) as connection:
        section = {"category": "identity", "source": door.prison.name, "recordedAt": "2026-01-01T00:00:00Z"}
        body = json.dumps({"sections": [section | {"data": {"givenName": "x" * 1_100_000}}]})
        await connection.execute(
            "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at,"
            " keyed_by)"
            " SELECT 2, client_id, recipient, 'partner.' || recipient, id, 'throughgate.client.changed.v1', 'referral',"
            " $2, clock_timestamp(), client_id FROM reference WHERE recipient = $1",
            door.hostel.name,
            body,
        )
        await connection.execute("NOTIFY queue")

        async def aside() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM queue WHERE set_aside = 'ValueError'"))

        await eventually_true(aside, "the row to be set aside")
        await connection.execute("DELETE FROM queue WHERE set_aside IS NOT NULL")


@pytest.mark.parametrize("kind", ["partner", "replies"])
async def test_a_topic_that_may_not_be_written_holds_up_no_other(lone_door: Any, kind: str) -> None:
    """It was taken away while a cycle was under way, which a retraction then joined: no record of that is to blame."""
    door, system = lone_door, lone_door.system
    topic, told = (
        (f"partner.{door.mentors.name}", [door.hostel, door.mentors])
        if kind == "partner"
        else (f"replies.{door.prison.name}", [door.hostel])
    )
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(*told))
    await quiet(door)
    system.stop_process("consent.discloser")
    for _ in range(RECORDS):
        await door.prison.answered(door.recorded())
    async with superuser(door) as connection:
        await connection.execute(
            "DELETE FROM queue WHERE topic LIKE 'cleared.%'"
        )  # else a failed cycle is split by topic
        patient = {"THROUGHGATE_SESSION_SECONDS": "60"}
        system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"} | patient)
        await stands_still(door.system.pid("consent.discloser"))
        pid, logged = system.pid("consent.discloser"), system.log("consent.discloser").stat().st_size
        heads = await connection.fetchval("SELECT count(*) FROM head")
        withdrawal = door.withdrawal()
        await door.prison.answered(withdrawal)
        with _forbidden(system, topic):
            system.kill("consent.discloser", signal.SIGCONT)

            async def retracted() -> bool:
                return any(r.event["type"] == RETRACTED for r in await door.hostel.received())

            await eventually_true(retracted, "the retraction that may leave", 40)
            await _logged(door, logged, f"topic {topic} does not exist or may not be written")
            assert system.pid("consent.discloser") == pid, "it took itself for replaced"
            assert await connection.fetchval("SELECT count(*) FROM head") - heads < RECORDS, "row by row"
    await door.prison.done(withdrawal["id"], 60)
    for recipient in told:
        assert behind_retraction(await recipient.received()) == []
    assert "topic heads" not in system.log("consent.discloser").read_text()[logged:]


RECORDS = 30
"""On their way to one recipient."""


# --- the topic of the heads -------------------------------------------------------------------------------------------


@contextmanager
def _forbidden(system: Any, topic: str) -> Iterator[None]:
    """The discloser may not write a topic for a while."""
    rule = (
        ResourceType.TOPIC,
        f"{system.namespace}{topic}",
        ResourcePatternType.LITERAL,
        "User:consent-discloser",
        "*",
    )
    denied, admin = (*rule, AclOperation.WRITE, AclPermissionType.DENY), system.kafka.admin()
    admin.create_acls([AclBinding(*denied)])[AclBinding(*denied)].result()
    while not admin.describe_acls(AclBindingFilter(*denied)).result(timeout=10):
        time.sleep(0.01)  # the controller has it; the broker, which decides by it, a moment later
    try:
        yield
    finally:
        admin.delete_acls([AclBindingFilter(*denied)])[AclBindingFilter(*denied)].result()


@pytest.mark.parametrize("fault", ["missing", "forbidden"])
async def test_where_heads_cannot_be_written_the_shard_waits(lone_door: Any, fault: str) -> None:
    """No record, recipient or topic is blamed for it, and no producer is made anew without a pause."""
    door, system = lone_door, lone_door.system
    topic, admin = f"{system.namespace}heads", system.kafka.admin()
    forbidden = ExitStack()
    await door.prison.answered(door.recorded())
    await quiet(door)
    logged = system.log("consent.discloser").stat().st_size
    if fault == "missing":
        await delete_topic(admin, topic)
    else:
        forbidden.enter_context(_forbidden(system, "heads"))
    system.start_process("consent.discloser")  # which knows nothing of the topics yet
    async with superuser(door) as connection:
        try:
            await _queue(connection, door, {"sections": []})  # refused: nothing leaves but a head
            await _logged(door, logged, "topic heads does not exist or may not be written")
            await door.prison.answered(door.consent(door.hostel))
            await asyncio.sleep(8)  # in which it is tried once or twice more, with records
            said = system.log("consent.discloser").read_text()[logged:]
            assert said.count("cannot be sent") <= 6, "a hot loop"
            assert "topic partner." not in said
            assert "set aside" not in said
            assert await connection.fetchval("SELECT count(*) FROM queue WHERE set_aside IS NOT NULL") == 0
            assert await door.hostel.received() == []
        finally:
            forbidden.close()
            if fault == "missing":
                system.provision_kafka()

    async def left() -> bool:
        return len(await door.hostel.received()) == 1

    await eventually_true(left, "the record that waited", 40)
    await quiet(door)


async def test_heads_of_a_shard_that_is_gone_are_published(lone_door: Any, tmp_path: Path) -> None:
    await lone_door.prison.answered(lone_door.recorded())
    await lone_door.prison.answered(lone_door.consent(lone_door.hostel))
    await quiet(lone_door)
    async with superuser(lone_door) as connection:
        await connection.execute(
            "INSERT INTO head (shard, sequence, head) SELECT 5, sequence, jsonb_set(head, '{shard}', '5') FROM head"
            " ORDER BY sequence LIMIT 1"
        )
        lone_door.system.start_process("consent.discloser")

        async def sent() -> bool:
            return bool(await connection.fetchval("SELECT sent FROM head WHERE shard = 5"))

        await eventually_true(sent, "the head of the shard that is gone")
    tail = Commands(lone_door.system, tmp_path)
    _, said = await tail("tail", "heads", "--no-follow", "--as", lone_door.hostel.name)
    assert [json.loads(line)["event"]["data"]["shard"] for line in said.splitlines()].count(5) == 1


# --- what is kept and cannot be read ----------------------------------------------------------------------------------

DAMAGES = [
    """UPDATE sharing_fact SET body = '{"version": "no"}' WHERE client_id = $1""",
    "UPDATE sharing_fact SET kind = 'granted', body = '[]' WHERE client_id = $1",
    "UPDATE fact SET data = 'no json' WHERE client_id = $1 AND category = 'contact'",
]


@pytest.mark.parametrize("damage", DAMAGES, ids=["what was said", "its kind", "a fact"])
async def test_a_client_of_whom_something_cannot_be_read_is_held_and_the_others_leave(
    lone_door: Any, damage: str
) -> None:
    damaged, other = lone_door, replace(lone_door, number=f"B{lone_door.number[1:]}")
    for door, count in ((damaged, 1), (other, 2)):
        await door.prison.answered(door.recorded())
        await door.prison.answered(door.consent(door.hostel))
        await _received(door, count)
    logged = damaged.system.log("consent.discloser").stat().st_size
    async with superuser(damaged) as connection:
        client = await connection.fetchval("SELECT client_id FROM identifier WHERE value = $1", damaged.number)
        await connection.execute(damage, client)
        row = await _queue(connection, damaged, {}, SNAPSHOT)
        await other.prison.answered(other.recorded({"needs.accommodation": {"level": "later"}}))
        await _received(other, 3)
        await quiet(damaged)
        entry = await connection.fetchrow(
            "SELECT l.*, key FROM ledger l JOIN client c ON c.id = l.client_id WHERE queue_id = $1", row
        )
        assert entry["kind"] == "refusal"
        opened = ledger.open(SimpleNamespace(**entry))
        assert opened is not None
        assert {w["rule"] for w in opened.explanation["withheld"]} == {"held"}
        await _logged(damaged, logged, f"client row {client} is treated as held")


# An erasure, which the worker redacts in the ledger.
_ERASED = (
    "WITH w AS (INSERT INTO withdrawal (id, client_id, version, because, recorded_at, done_at)"
    " SELECT gen_random_uuid(), client_id, 1000, 'erased', now(), now() FROM ledger WHERE queue_id = ANY($1)"
    " LIMIT 1 RETURNING id, client_id)"
    " INSERT INTO ledger_erasure (client_id, withdrawal_id) SELECT client_id, id FROM w"
)


async def _nothing_to_redact(connection: Any) -> bool:
    return not await connection.fetchval("SELECT EXISTS (SELECT 1 FROM ledger_erasure)")


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger SET body = '\\x00' WHERE queue_id = ANY($1)",
        "DELETE FROM head WHERE (shard, sequence) IN (SELECT shard, sequence FROM ledger WHERE queue_id = ANY($1))",
        _ERASED,
    ],
    ids=["its body", "its head", "what was erased"],
)
async def test_what_may_have_left_and_cannot_be_read_is_taken_back_and_decided_again(
    lone_door: Any, damage: str
) -> None:
    door = lone_door
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await _received(door, 1)
    section = _ACCOMMODATION | {"source": door.prison.name}
    async with superuser(door) as connection:
        async with _cut(door):
            async with connection.transaction():
                rows = [await _queue(connection, door, {"sections": [section]}) for _ in range(2)]
            await stands_still(door.system.pid("consent.discloser"))
            assert await connection.execute(damage, rows) not in ("UPDATE 0", "DELETE 0", "INSERT 0 0")
            await eventually_true(partial(_nothing_to_redact, connection), "the ledger to be redacted")
        await quiet(door)
        found = "SELECT count(*) FROM ledger WHERE kind = 'cancelled' AND queue_id = ANY($1)"
        assert await connection.fetchval(found, rows) == 2
    events = await _in_order(door)
    types = [event["type"] for event in events]
    one, two = (n for n, type in enumerate(types) if type == RETRACTED)
    assert two == one + 1, "what leaves between the two would be lost"
    for n in (one, two):
        told = {name: events[n]["data"][name] for name in ("purposes", "categories", "consentVersion")}
        assert told == {"purposes": ["referral"], "categories": None, "consentVersion": None}
    anew = types[two + 1 :]
    assert (anew.count("throughgate.client.changed.v1"), anew[-1]) == (2, SNAPSHOT)


@pytest.mark.parametrize(("type", "behind"), [(CHANGED, SNAPSHOT), ("throughgate.referral.sent.v1", RETRACTED)])
async def test_taking_back_what_may_have_left_does_not_say_that_a_consent_was_withdrawn(
    lone_door: Any, type: str, behind: str
) -> None:
    """A message may not leave any more, for one of two categories; the other is still shared on the same consent."""
    door = lone_door
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await _received(door, 1)
    sections = [(await _in_order(door))[0]["data"]["sections"][0], _ACCOMMODATION | {"source": door.prison.name}]
    about = [[door.prison.name, section["category"]] for section in sections]
    assert about[0] == [door.prison.name, "identity"]
    async with superuser(door) as connection:
        async with _cut(door):
            await _queue(connection, door, {"sections": sections, "about": about}, type)
            await stands_still(door.system.pid("consent.discloser"))
            await door.prison.answered(door.withdrawal(categories=["needs.accommodation"]))
        await quiet(door)
    types = [event["type"] for event in await _in_order(door)]
    assert types.count(RETRACTED) == 2, "of the withdrawal, and of what may have left"
    assert types[-1] == behind, "what is left of a record is offered anew, and nobody who got a message gets a record"
    assert behind_retraction(await door.hostel.received()) == []


# --- what these tests share -------------------------------------------------------------------------------------------

_ACCOMMODATION = {
    "category": "needs.accommodation",
    "recordedAt": "2026-01-01T00:00:00+00:00",
    "data": {"level": "later"},
}


async def _queue(connection: Any, door: Any, body: Any, type: str = "throughgate.client.changed.v1") -> int:
    """A record for the hostel; gives its row."""
    id = await connection.fetchval(
        "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at, keyed_by)"
        " SELECT 2, i.client_id, $1, 'partner.' || $1, coalesce(r.id, gen_random_uuid()), $3, 'referral', $4,"
        " clock_timestamp(), i.client_id FROM identifier i"
        " LEFT JOIN reference r ON r.client_id = i.client_id AND r.recipient = $1 WHERE i.value = $2"
        " RETURNING queue.id",
        door.hostel.name,
        door.number,
        type,
        json.dumps(body),
    )
    await connection.execute("NOTIFY queue")
    return int(id)


async def test_a_cycle_is_cut_short_for_a_retraction_that_waits(database_of: Any) -> None:
    database, waits = await database_of("consent", "owner"), asyncio.Event()
    async with database.engine.begin() as db:
        client = await db.scalar(text("INSERT INTO client (version) VALUES (0) RETURNING id"))
        await db.execute(text("INSERT INTO agency (id, kind, name) VALUES ('hostel', 'vcs', 'Hostel')"))
        to = client, "hostel", "partner.hostel", uuid4(), CHANGED, "referral", '{"sections": []}'
        await queue.add(db, [QueueRow(queue.RECORD, *to, datetime.now(UTC))] * 3 * queue.BESIDE)

    async def refused() -> int:
        async with database.engine.connect() as db:
            rows = await queue.claim(db, 0, 1, 3 * queue.BESIDE, [], None)
            cycle = await decide_cycle(db, rows, {}, Sealer(bytes(32), 0, 1), None, waits)
            assert cycle.claimed == 3 * queue.BESIDE
            await db.rollback()
        return len(cycle.refused)

    assert await refused() == 3 * queue.BESIDE
    waits.set()
    assert await refused() == queue.BESIDE, "some leave all the same; the others stay in the queue"


async def _received(door: Any, count: int) -> None:
    async def arrived() -> bool:
        return len(await door.hostel.received()) >= count

    await eventually_true(arrived, f"{count} records", 40)


async def _in_order(door: Any) -> list[dict[str, Any]]:
    return [record.event for record in await door.hostel.received()]


async def _logged(door: Any, start: int, words: str) -> None:
    async def said() -> bool:
        return words in door.system.log("consent.discloser").read_text()[start:]

    await eventually_true(said, f"the discloser to say: {words}", 90)


@asynccontextmanager
async def _cut(door: Any) -> AsyncIterator[None]:
    """The discloser stands still behind the first commit of a decision; afterwards it is killed and starts again."""
    await quiet(door)
    door.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"})
    yield
    door.system.kill("consent.discloser")
