"""Whoever queues for a client, and whoever withdraws, locks the client's row first, so that no recipient is missed.

Here a withdrawal is held just before its commit while another process takes in the first fact that the partners may
ever see: were it queued meanwhile, it would leave by the consent that still counts, and no retraction would follow it.
"""

import asyncio
import json
import signal
from typing import Any

from support.agency import event, withdrawn
from support.faults import stands_still
from support.load import PARTNERS
from support.settled import settled


async def test_what_is_recorded_while_a_withdrawal_commits_waits_for_it(scene: Any) -> None:
    load, person = scene.load, scene.load.people[0]
    unseen = event(
        "client.recorded", "hmp-leeds", {"identifiers": person.identifiers, "facts": {"risk": {"harm": "low"}}}
    )
    assert "accepted" in (await scene.prison.answered(unseen))["type"]
    assert "accepted" in (await scene.prison.answered(load.consent(person)))["type"]
    await scene.all_is_taken_in()  # or the fault would strike where the new one is given the consent again
    scene.system.start_process("consent.worker", {"THROUGHGATE_FAULT": "worker.applied:stop:1"})
    withdrawal = event("consent.withdrawn", "hmp-leeds", withdrawn(person.identifiers))
    await scene.prison.publish(withdrawal)
    await stands_still(scene.system.pid("consent.worker"), 60)
    async with scene.prison.http() as http:
        recording = asyncio.create_task(http.post("/events", content=json.dumps(load.change(person))))
        await asyncio.sleep(2)  # in which it would be queued, decided and sent, if nothing held it up
        scene.system.kill("consent.worker", signal.SIGCONT)
        assert (await recording).status_code == 202
    await scene.prison.done(withdrawal["id"], 60)
    await asyncio.sleep(2)
    await settled(scene.system, [f"partner.{name}" for name in PARTNERS])
    for partner in scene.partners:
        stands = [record.event["type"] for record in await partner.received()]
        assert stands == [], "it rests on a consent that was withdrawn, and no retraction stands behind it"
