"""What a batch writes goes to the database as one statement: nothing of it may be lost for that."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from support.agency import prison_number

from consent.repository import clients
from consent.repository.changes import Changes
from consent.repository.clients import Identifier, Reference
from servicekit.db import Database, TryAgain


@pytest.fixture
async def session(door: Any) -> AsyncIterator[AsyncSession]:
    """A transaction on the door's database that is never committed."""
    database = Database(door.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"], 1, "test")
    try:
        async with AsyncSession(database.engine) as opened:
            yield opened
    finally:
        await database.close()


@pytest.mark.parametrize(
    ("queued", "recorded"), [(True, True), (True, False), (False, True)], ids=["both", "queued", "recorded"]
)
async def test_a_reference_gets_both_marks_in_one_batch(
    queued: bool, recorded: bool, door: Any, session: AsyncSession
) -> None:
    """Without `queued` no retraction would be owed; without `recorded` an agency would not know its own client."""
    (client,) = await clients.make(session, 1)
    known = Reference(uuid4(), door.hostel.name, False, client)
    await Changes(references=[known]).write(session)
    marks = Changes(first_queued=[known.id] * queued, first_recorded=[known.id] * recorded)
    await marks.write(session)
    reference = (await clients.load(session, [client], ()))[client].references[door.hostel.name]
    assert (reference.queued, reference.recorded) == (queued, recorded)


async def test_who_comes_second_with_a_number_or_an_event_begins_anew(door: Any, session: AsyncSession) -> None:
    """Each is told, however much else was written beside it."""
    client, other = await clients.make(session, 2)
    number = Identifier("NOMS", "", prison_number())
    event = (door.prison.name, str(uuid4()), b"digest", b"answer")
    await Changes(identifiers=[(number, client, door.prison.name)], taken_in=[event]).write(session)
    facts = {(other, door.prison.name, "risk"): (datetime.now(UTC), "{}")}
    free = Identifier("NOMS", "", prison_number())
    for late in (
        Changes(identifiers=[(n, other, door.prison.name) for n in (free, number)], facts=facts),
        Changes(taken_in=[(door.prison.name, str(uuid4()), b"digest", b"answer"), event], facts=facts),
    ):
        inner = await session.begin_nested()
        with pytest.raises(TryAgain):
            await late.write(session)
        await inner.rollback()
    await Changes(identifiers=[(free, other, door.prison.name)], facts=facts).write(session)
    assert await session.scalar(text("SELECT count(*) FROM fact WHERE client_id = :id"), {"id": other}) == 1


async def test_a_withdrawal_of_a_known_client_waits_for_nobody_who_brings_numbers(
    door: Any, session: AsyncSession
) -> None:
    """Its own id looks like a reference that nobody has, and stands in it; no event could bring that."""
    await door.prison.answered(door.recorded())
    await clients.lock_numbers(session, exclusive=False)
    assert (await door.prison.answered(door.withdrawal()))["type"] == "throughgate.event.accepted.v1"
