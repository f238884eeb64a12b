"""What many tests of the door do: record a client, wait until all is decided or told, look into the database.

`door` is what the fixtures of tests/integration/consent give.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from support.agency import Agency, eventually_true
from support.settled import settled


@asynccontextmanager
async def superuser(door: Any) -> AsyncIterator[Any]:
    """A connection to the door's database that may do anything."""
    connection = await asyncpg.connect(door.system.postgres.url(door.system.databases["consent"].name))
    try:
        yield connection
    finally:
        await connection.close()


async def recorded(door: Any) -> str:
    """A client whose consent the hostel has, and who was told of it; gives the prison's reference."""
    reply = await door.prison.answered(door.recorded())
    await decided(door)
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    return str(reply["client"])


def but_readings(told: dict[str, Any]) -> dict[str, Any]:
    """What the door answers of who was told, without who looked at it: the test itself does, each time."""
    return told | {"entries": [entry for entry in told["entries"] if entry["kind"] != "reading"]}


async def accepted(agency: Agency, said: dict[str, Any]) -> dict[str, Any]:
    """Publish an event that must be accepted; gives the reply."""
    reply = await agency.answered(said)
    assert reply["type"].endswith("accepted.v1"), reply
    return reply


async def holds(door: Any, *agencies: Agency) -> list[dict[str, Any]]:
    """The open holds by the word of these agencies."""
    names = [agency.name for agency in agencies]
    return [hold for hold in await door.operator.call("GET", "/holds") if hold["assertedBy"] in names]


async def decided(door: Any) -> None:
    """Wait until nothing of the client is queued: what is said next opens nothing of what was recorded before.

    Who records and then passes on a consent gets a change besides the snapshot, where the discloser is slow.
    """
    async with superuser(door) as db:

        async def nothing_queued() -> bool:
            return not await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM queue JOIN identifier USING (client_id)"
                " WHERE value = $1 AND due_at <= clock_timestamp() AND set_aside IS NULL)",
                door.number,
            )

        await eventually_true(nothing_queued, "what is queued of the client to be decided")


async def quiet(door: Any) -> None:
    """Wait until all that the door decided is sealed and sent, with every head, and can be read."""
    async with superuser(door) as db:

        async def nothing_waits() -> bool:
            return not await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM ledger WHERE sequence IS NULL) OR EXISTS (SELECT 1 FROM head"
                " WHERE NOT sent) OR EXISTS (SELECT 1 FROM queue WHERE due_at <= now() AND set_aside IS NULL)"
            )

        await eventually_true(nothing_waits, "all to be sealed and sent", 40)
    partners = [f"partner.{agency.name}" for agency in (door.probation, door.hostel, door.mentors)]
    await settled(door.system, ["heads", "cleared.referral", *partners])


async def was_told(agency: Agency, count: int = 1) -> None:
    """Wait until an agency was told so often."""

    async def arrived() -> bool:
        return len(await agency.received()) >= count

    await eventually_true(arrived, f"what {agency.name} is told")


async def reference_of(agency: Agency) -> str:
    """The reference under which an agency was first told of a client."""
    return str((await agency.received())[0].event["subject"])


def override(door: Any, reason: str = "a threat was made") -> dict[str, Any]:
    """The data of an override from now on: the mentors are told of the client's risk for a week."""
    now = datetime.now(UTC)
    return {
        "identifiers": door.identifiers,
        "override": "o-1",
        "recipients": [door.mentors.name],
        "purposes": ["public-protection"],
        "categories": ["risk"],
        "starts": now.isoformat(),
        "ends": (now + timedelta(days=7)).isoformat(),
        "reviewBy": (now + timedelta(days=3)).isoformat(),
        "authorisedBy": "staff-1",
        "approvedBy": "staff-2",
        "reason": reason,
    }
