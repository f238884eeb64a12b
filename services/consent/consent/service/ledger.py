"""Entering decisions in the ledger: sealed at once by the discloser, or left for it to seal in its next cycle."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import ledger, queue
from consent.repository.ledger import NOTHING_TOLD, Entry, Unsealed, Written
from consent.repository.sql import Executor
from contracts.heads import Head
from contracts.proof import Leaf, seal
from servicekit.db import wake_after_commit

UNSEALED_AT_ONCE = 2000
AHEAD = 250
"""So many entries are given to the database at once, while more are decided."""
LOOK_AFTER = 25
"""After so many decisions the event loop gets a turn, in which the database is given more of them, and in which it is
learnt that a retraction waits."""


class Sealer:
    """The one writer of a shard's batches."""

    def __init__(self, seed: bytes, shard: int, shards: int) -> None:
        self._seed, self._shard, self._shards = seed, shard, shards

    @asynccontextmanager
    async def batch(self, db: Executor, before: Head | None) -> AsyncIterator["Batch"]:
        """A batch behind the shard's last head; the entries that others left come first in it. Until `seal`, the caller
        runs no statement on `db`: the batch writes through it meanwhile.
        """
        waiting = await ledger.unsealed(db, self._shard, self._shards, UNSEALED_AT_ONCE)
        batch = Batch(db, self._seed, self._shard, before, waiting)
        try:
            yield batch
        finally:
            await batch.written()


class Batch:
    """The entries of one cycle. The database writes them while others are still being decided."""

    def __init__(self, db: Executor, seed: bytes, shard: int, before: Head | None, waiting: Sequence[Unsealed]) -> None:
        self._db, self._seed, self._shard, self._before, self._waiting = db, seed, shard, before, waiting
        self._entries: list[Written] = []
        self._begun = 0
        self._writing: asyncio.Task[None] | None = None

    def add(self, entry: Entry) -> int:
        """Give an entry its place; gives which of these it is."""
        self._entries.append(ledger.write_down(entry))
        return len(self._entries) - 1

    async def write(self) -> None:
        """Let the database go on writing, and whoever else waits. Called behind each decision; seldom does anything."""
        ahead = len(self._entries) - self._begun
        if ahead >= AHEAD:
            await self._write()
        elif not ahead % LOOK_AFTER:
            await asyncio.sleep(0)

    async def _write(self) -> None:
        await self.written()
        entries, first = self._entries[self._begun :], len(self._waiting) + self._begun
        sequence = self._before.sequence + 1 if self._before else 1
        self._begun = len(self._entries)
        self._writing = asyncio.create_task(ledger.enter(self._db, entries, (self._shard, sequence, first)))
        await asyncio.sleep(0)  # it begins

    async def written(self) -> None:
        """Wait until nothing is being written: the session is free again."""
        writing, self._writing = self._writing, None
        if writing is not None:
            await writing

    async def seal(self, now: datetime) -> tuple[Head | None, list[bytes]]:
        """Gives its head, None where there was nothing to seal, and the proof of each entry that was added."""
        if not self._entries and not self._waiting:
            return None, []
        await self._write()
        leaves = [Leaf(e.leaf, "", "") for e in self._waiting] + [e.leaf for e in self._entries]
        head, proofs = seal(self._seed, self._before, leaves, shard=self._shard, at=now)
        await self.written()
        await ledger.add_head(self._db, head)
        await ledger.place(self._db, self._waiting, head)
        return head, proofs[len(self._waiting) :]


def new_entry(
    *,
    kind: str,
    decision: UUID,
    client: int,
    key: bytes | None,
    type: str,
    at: datetime,
    sources: Sequence[str],
    more: Mapping[str, Any],
    recipient: str | None = None,
    purpose: str | None = None,
    told: bytes = NOTHING_TOLD,
    queue_id: int | None = None,
) -> Entry:
    """A line of the ledger: what stands in its columns is said by its explanation, too, and so is sealed. The sources
    of what was permitted or withheld stand there with it.

    Args:
        client: its row.
        more: what else there is to say of this kind, as plain JSON.
    """
    explanation: dict[str, Any] = {"kind": kind, "decision": str(decision), "decidedAt": at.isoformat(), "type": type}
    explanation["row"] = client
    if recipient is not None:
        explanation |= {"recipient": recipient, "purpose": purpose}
    if queue_id is not None:
        explanation["queue"] = queue_id
    if "permitted" not in more:
        explanation["sources"] = [*sources]
    explanation |= more
    return Entry(kind, decision, client, key, recipient, purpose, type, at, sources, explanation, told, queue_id)


async def enter(session: AsyncSession, entries: Sequence[Entry]) -> None:
    """Enter what was decided elsewhere than in the discloser, and wake that. An entry counts from the commit on."""
    if entries:
        await ledger.enter(session, [ledger.write_down(entry) for entry in entries])
        wake_after_commit(session, queue.CHANNEL)
