"""A client of whom the door has told something, an override, and the door's database from behind.

`door` is what the fixtures of tests/integration/consent give.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from support.agency import Agency, eventually_true


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
    await door.prison.answered(door.consent(door.hostel))
    await was_told(door.hostel)
    return str(reply["client"])


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
