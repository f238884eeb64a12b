"""A discloser that is stopped between claim and send, replaced by another, and woken: it must not send, and nothing is
lost by it. Its session ended (`idle_session_timeout`), its producer is fenced, so it ends.
"""

import asyncio
import signal
from collections import Counter
from typing import Any

import pytest
from support.agency import eventually, eventually_true, without_repeats
from support.faults import stands_still
from support.load import retractions
from support.settled import settled

from contracts.leaving import RETRACTED
from throughgate.native.process import Process
from throughgate.promises import Placed, behind_retraction

POINTS = ("discloser.decided", "discloser.claimed", "discloser.written", "discloser.sending")


@pytest.mark.parametrize("point", POINTS)
async def test_stopped_replaced_and_woken(scene: Any, point: str) -> None:
    """Half of the clients withdraw while the first one stands still, with records of all of them in hand."""
    load, people = scene.load, scene.load.people
    await load.introduce()
    await scene.everyone_has(len(people))
    scene.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": f"{point}:stop:1"})
    stopped = scene.system.pid("consent.discloser")
    for person in people:
        await load.send(person, load.change(person))
    await load.settle()
    await stands_still(stopped)
    second = scene.standby()
    try:
        for person in people[::2]:
            await load.send(person, load.withdrawal(person), load.change(person))
        await load.settle()
        for person in people[::2]:
            await scene.prison.done(person.withdrawals[0], 60)
        await scene.nothing_waits()
        await settled(scene.system, [f"partner.{partner.name}" for partner in scene.partners])
        before = {partner.name: await partner.received() for partner in scene.partners}
        scene.system.kill("consent.discloser", signal.SIGCONT)
        await _ended_and_started_again(scene, stopped, second)
        await asyncio.sleep(2)  # in which one that is not fenced would send
        for partner in scene.partners:
            records = await partner.received()
            assert behind_retraction(records) == []
            assert records == before[partner.name], "the woken one sent something"
            await _every_decision_left_once_or_was_cancelled(scene, partner.name, records)
            _all_got_what_is_permitted(scene, records)
    finally:
        second.stop()


async def test_stopped_and_woken_when_there_are_more_shards(scene: Any) -> None:
    """The only shard stands still with records of everyone in hand; half of the clients are another shard's by then."""
    load, people = scene.load, scene.load.people
    await load.introduce()
    await scene.everyone_has(len(people))
    scene.system.start_process("consent.discloser", {"THROUGHGATE_FAULT": "discloser.claimed:stop:1"})
    stopped = scene.system.pid("consent.discloser")
    for person in people:
        await load.send(person, load.change(person))
    await load.settle()
    await stands_still(stopped)
    second = scene.standby(1, 2)
    try:
        for person in people:
            await load.send(person, load.withdrawal(person))
        await load.settle()

        async def done() -> bool:
            waiting = (
                "SELECT 1 FROM client c WHERE id % 2 = 1 AND NOT EXISTS"
                " (SELECT 1 FROM withdrawal w WHERE w.client_id = c.id AND done_at IS NOT NULL)"
            )
            return not await scene.fetch(waiting)

        await eventually_true(done, "the withdrawals of the second shard's clients", 60)
        await settled(scene.system, [f"partner.{partner.name}" for partner in scene.partners])
        assert all([retractions(await partner.received()) for partner in scene.partners])
        scene.system.kill("consent.discloser", signal.SIGCONT)
        await eventually(lambda: scene.system.pid("consent.discloser") != stopped or None, "the woken one to end", 30)
        await asyncio.sleep(2)  # in which one that is not fenced would send
        for partner in scene.partners:
            assert behind_retraction(await partner.received()) == []
    finally:
        second.stop()


async def _ended_and_started_again(scene: Any, stopped: int, second: Process) -> None:
    await eventually(lambda: scene.system.pid("consent.discloser") != stopped or None, "the woken one to end", 30)
    assert second.running, "the woken one fenced the one that replaced it"


async def _every_decision_left_once_or_was_cancelled(scene: Any, recipient: str, records: list[Placed]) -> None:
    left = Counter(r.event["data"]["receipt"]["decision"] for r in without_repeats(records) if _told(r))
    found = await scene.fetch("SELECT kind, decision FROM ledger WHERE recipient = $1", recipient)
    entered = {str(row["decision"]) for row in found if row["kind"] == "disclosure"}
    cancelled = {str(row["decision"]) for row in found if row["kind"] == "cancelled"}
    assert set(left.values()) <= {1}
    assert left.keys() <= entered
    assert entered - left.keys() <= cancelled, "decided, never sent, and nobody says so"


def _all_got_what_is_permitted(scene: Any, records: list[Placed]) -> None:
    """Of who withdrew a retraction is the last word; the others' newest change is there."""
    words: dict[str, list[Placed]] = {}
    for record in records:
        words.setdefault(record.event["subject"], []).append(record)
    last = [stands[-1] for stands in words.values()]
    assert len(words) == len(scene.load.people)
    people = scene.load.people
    assert len([r for r in last if r.event["type"] == RETRACTED]) == len(people[::2]) == len(_subjects(records))
    newest = {s["data"].get("summary") for r in last if _told(r) for s in r.event["data"]["sections"]} - {None}
    assert newest == {person.changes[-1] for person in people[1::2]}


def _subjects(records: list[Placed]) -> set[str]:
    return {record.event["subject"] for record in retractions(records)}


def _told(record: Placed) -> bool:
    return "receipt" in record.event["data"]
