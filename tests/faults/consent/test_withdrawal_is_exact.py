"""Promise 2: once a withdrawal is done for a recipient, nothing that rests on what was withdrawn leaves for it."""

import asyncio
import random
import signal
from typing import Any

from support.agency import consents, eventually
from support.faults import stands_still
from support.load import retractions

from consent.repository.queue import RETRACTIONS
from servicekit.db import listening
from throughgate.promises import behind_retraction


async def check(scene: Any) -> None:
    """Every withdrawal is done, its retractions stand where it says, and behind none of them stands a record."""
    for person in scene.load.people:
        for withdrawal in person.withdrawals:
            done = await scene.prison.done(withdrawal, 60)
            assert {d["recipient"] for d in done["recipients"]} == {p.name for p in scene.partners}
    for partner in scene.partners:
        records = await partner.received()
        assert behind_retraction(records) == []
        places = {(r.partition, r.offset) for r in retractions(records)}
        told = {
            (d["partition"], d["offset"])
            for reply in scene.prison.replies
            if "withdrawal.done" in reply["type"]
            for d in reply["data"]["recipients"]
            if d["recipient"] == partner.name
        }
        assert told <= places
        assert _unretracted(records) == []


def _unretracted(records: list[Any]) -> list[Any]:
    """Records that rest on a consent that was withdrawn by the last retraction of their client, and stand behind it."""
    withdrawn = [r for r in retractions(records) if r.event["data"]["consentVersion"] is not None]
    last = {r.event["subject"]: r for r in withdrawn}
    return [
        r
        for r in records
        if "receipt" in r.event["data"]
        and (retraction := last.get(r.event["subject"])) is not None
        and any(version <= retraction.event["data"]["consentVersion"] for version in consents(r.event))
        and (r.partition, r.offset) > (retraction.partition, retraction.offset)
    ]


async def test_under_full_load(scene: Any) -> None:
    await scene.load.introduce()
    assert await scene.load.storm(4, withdrawals_a_second=50) == 200
    await check(scene)


async def test_while_the_discloser_is_killed_again_and_again(scene: Any) -> None:
    await scene.load.introduce()

    async def kill() -> None:
        for _ in range(4):
            await asyncio.sleep(random.uniform(0.5, 1.5))
            scene.system.kill("consent.discloser")

    await asyncio.gather(scene.load.storm(5, withdrawals_a_second=20), kill())
    await check(scene)


async def test_a_stopped_discloser_that_wakes_cannot_send(scene: Any) -> None:
    """Stopped between deciding and sending, replaced, and woken after the withdrawal was done."""
    person = scene.load.people[0]
    await scene.load.send(person, scene.load.consent(person))
    await scene.load.send(person, scene.load.change(person), scene.load.consent(person))
    await scene.load.settle()
    await scene.everyone_has(1)
    await scene.nothing_waits()  # or what the old one had not entered as sent would stop the new one before it is ready
    scene.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"})
    stopped = scene.system.pid("consent.discloser")
    scene.system.wait_ready()
    await scene.load.send(person, scene.load.change(person))
    await scene.load.settle()
    await stands_still(stopped)
    standby = scene.standby()
    try:
        await scene.load.send(person, scene.load.withdrawal(person))
        await scene.load.settle()
        await scene.prison.done(person.withdrawals[0], 40)
        scene.system.kill("consent.discloser", signal.SIGCONT)
        await eventually(lambda: scene.system.pid("consent.discloser") != stopped or None, "the woken one to end", 30)
        await check(scene)
    finally:
        standby.stop()


async def test_who_only_has_rows_on_their_way_gets_a_retraction(scene: Any) -> None:
    """The first record ever for a recipient was decided and not yet sent when the client withdrew: the retraction
    leaves behind it in the same Kafka transaction, and the publisher is told with it.
    """
    person = scene.load.people[0]
    await scene.load.send(person, scene.load.change(person))
    await scene.load.settle()
    await eventually(lambda: scene.prison.replies or None, "the client to be known")
    await scene.nothing_waits()  # or the change would leave by the consent
    patient = {"THROUGHGATE_SESSION_SECONDS": "60"}  # the one that is stopped is to go on, not to be replaced
    scene.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"} | patient)
    stopped = scene.system.pid("consent.discloser")
    scene.system.wait_ready()
    await scene.load.send(person, scene.load.consent(person))
    await scene.load.settle()
    await stands_still(stopped)
    async with listening(scene.system.postgres.url(scene.system.databases["consent"].name), RETRACTIONS) as (told,):
        await scene.load.send(person, scene.load.withdrawal(person))
        await scene.load.settle()
        await asyncio.wait_for(told.wait(), 60)  # the one that is stopped has it to read, too
    scene.system.kill("consent.discloser", signal.SIGCONT)
    await check(scene)
    for partner in scene.partners:
        record, retraction = await partner.received()
        assert record.event["type"] == "throughgate.client.snapshot.v1"
        assert retraction.event["type"] == "throughgate.client.withdrawn.v1"
        assert (record.partition, record.offset + 1) == (retraction.partition, retraction.offset), "no marker between"
    assert len([reply for reply in scene.prison.replies if "withdrawal.done" in reply["type"]]) == 1
