"""Promise 3: an accepted event is never lost and has its effect once, wherever a process is killed."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from support.agency import eventually, eventually_true, without_repeats
from support.door import superuser
from support.load import texts
from support.settled import settled

POINTS = [
    ("consent.worker", "worker.applied"),
    ("consent.worker", "worker.committed"),
    ("consent.worker", "worker.answered"),
    ("consent.worker", "worker.offsets"),
    ("consent.discloser", "discloser.decided"),
    ("consent.discloser", "discloser.claimed"),
    ("consent.discloser", "discloser.sending"),
    ("consent.discloser", "discloser.sent"),
]


@pytest.mark.parametrize(("process", "point"), POINTS, ids=[point for _, point in POINTS])
async def test_killed_at(scene: Any, process: str, point: str) -> None:
    """Kill -9 at the second passage of the point, under load; then compare three ledgers with the oracle."""
    load = scene.load
    await load.introduce()
    await _answers(scene, 2 * len(load.people))
    scene.system.start_process(process, {"THROUGHGATE_FAULT": f"{point}:kill:2"})
    killed = scene.system.pid(process)
    scene.system.wait_ready()
    sent = 0
    while scene.system.pid(process) == killed or sent < 1000:
        for person in load.people:
            await load.send(person, load.change(person))
            sent += 1
        await load.settle()
        await asyncio.sleep(0.05)  # so that the load lasts until the fault strikes
        assert sent < 30_000, "the fault never struck"
    await _answers(scene, 2 * len(load.people) + sent)
    await _check(scene, sent)


async def _answers(scene: Any, count: int) -> None:
    await eventually(lambda: len(scene.prison.replies) >= count or None, f"{count} answers", 90)


async def _check(scene: Any, sent: int) -> None:
    people = scene.load.people
    answers = Counter(reply["data"]["event"] for reply in scene.prison.replies)
    assert set(answers.values()) == {1}, "one answer an event, repeated ids dropped"
    assert {reply["type"] for reply in scene.prison.replies} == {"throughgate.event.accepted.v1"}
    async with superuser(scene) as connection:
        facts = await connection.fetch(
            "SELECT data::json ->> 'summary' FROM fact WHERE category = 'needs.accommodation'"
        )
        assert sorted(row[0] for row in facts) == sorted(person.changes[-1] for person in people)
        assert await connection.fetchval("SELECT count(*) FROM intake") == sent + 2 * len(people)
        assert await connection.fetchval("SELECT count(*) FROM client") == len(people)

        async def empty() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM queue")

        await eventually_true(empty, "the queue to be empty", 90)
    await settled(scene.system, [f"partner.{partner.name}" for partner in scene.partners])
    for partner in scene.partners:
        got = texts(without_repeats(await partner.received()))
        place = {text: n for n, text in enumerate(got)}
        assert len(got) == len(place), "no effect twice"
        for person in people:
            wanted = person.changes[1:]  # the first was before consent: it came in the snapshot
            assert [t for t in wanted if t not in place] == [], "nothing lost"
            assert sorted(wanted, key=place.__getitem__) == wanted, "in order"
