"""A batch of the ledger that the database writes while its entries are still being decided."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from consent.repository import ledger
from consent.repository.ledger import Entry
from consent.service.ledger import AHEAD, Batch, Sealer, enter
from contracts.merkle import from_base64url, root_of

SEED = bytes(range(32))
NOW = datetime(2026, 4, 11, 9, 30, tzinfo=UTC)
COUNT = 3 * AHEAD + 7
"""Written in several parts, the last of which is not full."""


def entry(client: int, type: str) -> Entry:
    """A refusal."""
    return Entry("refusal", uuid4(), client, bytes(32), "hostel", "referral", type, NOW, ["prison"], {"type": type})


async def decided(batch: Batch, client: int, types: list[str]) -> None:
    """Entries one after the other, as a cycle makes them."""
    for type in types:
        batch.add(entry(client, type))
        await batch.write()


@pytest.fixture
async def database(database_of: Any) -> Any:
    """The door's, with one client."""
    made = await database_of("consent")
    async with made.engine.begin() as db:
        await db.execute(text("INSERT INTO client (version) VALUES (0)"))
    return made


async def test_entries_have_their_places_in_the_order_of_deciding(database: Any) -> None:
    types = [f"decided-{n}" for n in range(COUNT)]
    async with database.engine.connect() as db:
        client = await db.scalar(text("SELECT id FROM client"))
    await database.run(lambda session: enter(session, [entry(client, "left-0"), entry(client, "left-1")]))
    sealer, head = Sealer(SEED, 0, 1), None
    for _ in range(2):  # a second batch goes on behind the first
        async with database.engine.begin() as db:
            async with sealer.batch(db, head) as batch:
                await decided(batch, client, types)
                head, proofs = await batch.seal(NOW)
            assert head is not None
            rows = (
                await db.execute(
                    text("SELECT type, position, leaf FROM ledger WHERE sequence = :n ORDER BY position"),
                    {"n": head.sequence},
                )
            ).all()
        left = ["left-0", "left-1"] if head.sequence == 1 else []
        assert [(row.type, row.position) for row in rows] == [(t, n) for n, t in enumerate(left + types)]
        assert (head.size, from_base64url(head.root)) == (len(rows), root_of([row.leaf for row in rows]))
        assert len(proofs) == COUNT
    async with database.engine.begin() as db:
        assert await ledger.last_head(db, 0) == head


async def test_what_fails_while_deciding_leaves_nothing_behind_and_the_session_free(database: Any) -> None:
    async with database.engine.connect() as db:

        async def fails() -> None:
            async with db.begin(), Sealer(SEED, 0, 1).batch(db, None) as batch:
                client = (await db.execute(text("SELECT id FROM client"))).scalar_one()
                await decided(batch, client, ["decided"] * AHEAD)  # the database is writing these
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fails()
        assert await db.scalar(text("SELECT count(*) FROM ledger")) == 0
