"""Entering decisions in the ledger: sealed at once by the discloser, or left for it to seal in its next cycle."""

from collections.abc import Sequence
from datetime import datetime

from consent.repository import ledger
from consent.repository.ledger import Entry, Written
from consent.repository.sql import Executor
from contracts.heads import Head
from contracts.proof import Leaf, seal

UNSEALED_AT_ONCE = 2000


class Sealer:
    """The one writer of a shard's batches."""

    def __init__(self, seed: bytes, shard: int, shards: int) -> None:
        self._seed, self._shard, self._shards = seed, shard, shards

    async def seal(
        self, db: Executor, before: Head | None, entries: Sequence[Written], now: datetime
    ) -> tuple[Head | None, list[bytes]]:
        """Seal these entries, behind those that others left, as one batch.

        Gives its head, None where there was nothing to seal, and the proof of each of these entries.
        """
        waiting = await ledger.unsealed(db, self._shard, self._shards, UNSEALED_AT_ONCE)
        if not entries and not waiting:
            return None, []
        leaves = [Leaf(e.leaf, "", "") for e in waiting] + [e.leaf for e in entries]
        head, proofs = seal(self._seed, before, leaves, shard=self._shard, at=now)
        await ledger.add_head(db, head)
        await ledger.place(db, waiting, head)
        await ledger.enter(db, entries, head, first=len(waiting))
        return head, proofs[len(waiting) :]


async def enter(db: Executor, entries: Sequence[Entry]) -> None:
    """Enter decisions that were made elsewhere than in the discloser. They count from the commit on."""
    await ledger.enter(db, [ledger.write_down(entry) for entry in entries])
