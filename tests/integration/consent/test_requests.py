"""What a service of ours is told when it asks for what cannot be decided."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from aiokafka import AIOKafkaProducer
from support.agency import event, eventually_true, read_all
from support.door import recorded, superuser

from consent.domain import BEFORE


async def test_a_request_about_nobody_or_for_nobody_is_denied_with_its_reason(door: Any) -> None:
    await recorded(door)
    async with superuser(door) as db:
        known = await db.fetchval(
            "SELECT r.id FROM reference r JOIN identifier USING (client_id) WHERE value = $1"
            " AND recipient = 'referral'",
            door.number,
        )
    user = door.hostel.connection() | {
        "sasl_plain_username": "referral",
        "sasl_plain_password": door.system.kafka.password("referral"),
    }

    async def told(client: str, recipient: str) -> list[dict[str, str]]:
        data = {
            "request": str(uuid4()),
            "client": client,
            "recipient": recipient,
            "origin": door.prison.name,
            "about": ["needs.accommodation"],
            "message": {
                "referral": str(uuid4()),
                "service": str(uuid4()),
                "pathway": "needs.accommodation",
                "respondBy": (datetime.now(UTC) + timedelta(days=5)).isoformat(),
            },
        }
        async with AIOKafkaProducer(**user) as producer:
            asked = event("referral.requested", "", data) | {"source": "/services/referral"}
            await producer.send_and_wait(f"{door.system.namespace}requests.referral", json.dumps(asked).encode())
        settled: list[dict[str, Any]] = []

        async def is_settled() -> bool:
            cleared = await read_all(user, f"{door.system.namespace}cleared.referral")
            settled[:] = [r.event["data"] for r in cleared if r.event["data"].get("request") == data["request"]]
            return bool(settled)

        await eventually_true(is_settled, "the service to be told")
        assert settled[0]["outcome"] == "denied"
        return list(settled[0]["withheld"])

    section = {"category": "needs.accommodation", "source": door.prison.name}
    no_client, no_recipient = ({"rule": reason.code, "remedy": reason.remedy} for reason in BEFORE)
    assert await told(str(uuid4()), door.hostel.name) == [section | no_client]
    assert await told(str(known), "nobody") == [section | no_recipient]
