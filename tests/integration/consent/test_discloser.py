"""What must not stop the others: a row that cannot be read, a record too large, a topic that is missing."""

import json
from typing import Any

import asyncpg
from confluent_kafka.admin import NewTopic
from support.agency import eventually_true


async def _admin(door: Any) -> Any:
    return await asyncpg.connect(door.system.postgres.url(door.system.databases["consent"].name))


async def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_leave(door: Any) -> None:
    await door.prison.answered(door.recorded())
    connection = await _admin(door)
    try:
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
    finally:
        await connection.close()


async def test_a_missing_topic_holds_up_nobody_else(door: Any) -> None:
    topic = f"{door.system.namespace}partner.{door.mentors.name}"
    admin = door.system.kafka.admin()
    admin.delete_topics([topic])[topic].result()
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
    connection = await _admin(door)
    try:
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
    finally:
        await connection.close()
