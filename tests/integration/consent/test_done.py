"""When a publisher is told that its withdrawal is done: with the last of its retractions, and where each stands."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from confluent_kafka.admin import NewTopic
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from support.agency import eventually_true, read_all
from support.door import quiet
from support.faults import stands_still
from support.topics import delete_topic

from consent.repository import retractions
from consent.repository.retractions import RetractionRow
from consent.repository.sql import at_once
from consent.service.disclosing import Leaving, Sent, finish_cycle
from consent.service.notices import DONE, retraction_row
from contracts.leaving import RETRACTED
from servicekit.db import RETRYABLE, sqlstate


async def test_a_publisher_is_told_with_the_retractions_and_again_under_the_same_id(lone_door: Any) -> None:
    """The discloser stands still as soon as the retractions are committed, and does not come to enter it."""
    door = lone_door
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel, door.mentors))
    await quiet(door)
    door.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.sent:stop:1"})
    withdrawal = door.withdrawal()
    await door.prison.answered(withdrawal)
    await stands_still(door.system.pid("consent.discloser"))
    told = await door.prison.done(withdrawal["id"], entered=False)
    assert _places(told, door.hostel.name, door.mentors.name) == {
        (r.name, *await _stands(r)) for r in (door.hostel, door.mentors)
    }
    door.system.kill("consent.discloser")
    await quiet(door)
    first, again = await _told(door, withdrawal)
    assert first["id"] == again["id"], "whoever drops repeated ids is told once"
    async with door.prison.http() as http:
        status = (await http.get(f"/withdrawals/{told['withdrawal']}")).json()
    assert _times(status) == _times(again["data"]), "there is one time at which it was done"


async def test_retractions_do_not_wait_for_the_topic_of_replies(lone_door: Any) -> None:
    door = lone_door
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await quiet(door)
    topic = f"{door.system.namespace}replies.{door.prison.name}"
    admin = door.system.kafka.admin()
    await delete_topic(admin, topic)
    withdrawal = door.withdrawal()
    await door.prison.publish(withdrawal)

    async def retracted() -> bool:
        return any(record.event["type"] == RETRACTED for record in await door.hostel.received())

    await eventually_true(retracted, "the retraction", 40)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()

    async def told() -> bool:
        return bool(await _told(door, withdrawal))

    await eventually_true(told, "the word that it is done", 60)
    (notice,) = await _told(door, withdrawal)
    assert _places(notice["data"], door.hostel.name) == {(door.hostel.name, *await _stands(door.hostel))}


async def _told(door: Any, withdrawal: dict[str, Any]) -> list[dict[str, Any]]:
    """What its publisher was told of it, as often as it stands in its topic."""
    replies = await read_all(door.prison.connection(), f"{door.system.namespace}replies.{door.prison.name}", 1)
    return [r.event for r in replies if r.event["type"] == DONE and r.event["data"]["event"] == withdrawal["id"]]


def _places(told: dict[str, Any], *recipients: str) -> set[tuple[str, int, int]]:
    return {(r["recipient"], r["partition"], r["offset"]) for r in told["recipients"] if r["recipient"] in recipients}


def _times(told: dict[str, Any]) -> dict[str, datetime]:
    return {r["recipient"]: datetime.fromisoformat(r["doneAt"]) for r in told["recipients"]}


async def _stands(recipient: Any) -> tuple[int, int]:
    """Where its first retraction stands."""
    return next((r.partition, r.offset) for r in await recipient.received() if r.event["type"] == RETRACTED)


async def test_a_withdrawal_whose_retractions_pass_two_disclosers_at_once_is_done(database_of: Any) -> None:
    database = await database_of("consent")
    withdrawal, ids = uuid4(), [uuid4(), uuid4()]
    async with database.engine.begin() as db:
        client = await db.scalar(text("INSERT INTO client (version) VALUES (0) RETURNING id"))
        await db.execute(
            text(
                "INSERT INTO withdrawal (id, client_id, version, agency, event_id, recorded_at)"
                " VALUES (:id, :client, 1, 'prison', 'e', clock_timestamp())"
            ),
            {"id": withdrawal, "client": client},
        )
        for id in ids:
            await db.execute(
                text(
                    "INSERT INTO retraction (id, withdrawal_id, recipient, reference, body, named)"
                    " VALUES (:id, :withdrawal, 'hostel', :id, '{}', true)"
                ),
                {"id": id, "withdrawal": withdrawal},
            )
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")
    async with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            await connection.scalar(text("SELECT count(*) FROM retraction"))  # from here on it sees nothing new
        assert await _placed(one, ids[0], ("partner.hostel", 0, 1)) == []
        await one.commit()
        with pytest.raises(DBAPIError) as failed:
            await _placed(two, ids[1], ("partner.hostel", 1, 1))
        assert sqlstate(failed.value) in RETRYABLE
        await two.rollback()
        assert await retractions.done_with(two, [ids[0]]) == [], "the other is missing"
        (last,) = await retractions.done_with(two, [ids[1]])
        assert last.id == withdrawal
        retraction, topic = RetractionRow(ids[1], withdrawal, "hostel", ids[1], "{}"), "partner.hostel"
        row = retraction_row(retraction, client, topic, datetime.now(UTC), traceparent=None, keyed_by=client)
        await finish_cycle(two, Sent([(Leaving(row, b"{}"), (topic, 1, 1))]))
        queued = await two.scalar(text("SELECT body FROM queue WHERE client_id = :id"), {"id": client})
        await two.commit()
    notice = json.loads(queued)
    assert (notice["type"], _places(notice["data"], "hostel")) == (DONE, {("hostel", 0, 1), ("hostel", 1, 1)})


async def _placed(db: AsyncConnection, retraction: UUID, place: tuple[str, int, int]) -> Sequence[Any]:
    await at_once(db, [retractions.placing({retraction: place})])
    return await retractions.done_by(db, [retraction])
