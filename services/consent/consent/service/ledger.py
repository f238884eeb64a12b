"""Entering decisions in the ledger: sealed at once by the discloser, or left for it to seal in its next cycle."""

import os
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

from consent.repository import ledger
from consent.repository.ledger import Entry
from consent.repository.sql import Executor
from contracts.heads import Head
from contracts.proof import SALT_BYTES, Leaf, leaf_of, seal

UNSEALED_AT_ONCE = 2000


class Sealer:
    """The one writer of a shard's batches."""

    def __init__(self, seed: bytes, shard: int, shards: int) -> None:
        self._seed, self._shard, self._shards = seed, shard, shards

    async def seal(
        self, db: Executor, before: Head | None, entries: Sequence[Entry], now: datetime
    ) -> tuple[Head | None, list[bytes | None]]:
        """Seal these entries, behind those that others left, as one batch.

        Gives its head, None where there was nothing to seal, and for each entry the bytes that leave for it: the event
        as told, with its proof where it has a receipt and goes to a partner.
        """
        waiting = await ledger.unsealed(db, self._shard, self._shards, UNSEALED_AT_ONCE)
        if not entries and not waiting:
            return None, []
        salts = [os.urandom(SALT_BYTES) for _ in entries]
        leaves = [leaf_of(salt, e.told, e.explanation) for salt, e in zip(salts, entries, strict=True)]
        others = [Leaf(e.leaf, "", "") for e in waiting]
        head, proofs = seal(self._seed, before, others + leaves, shard=self._shard, at=now)
        records = [_record(e, proof) for e, proof in zip(entries, proofs[len(others) :], strict=True)]
        await ledger.add_head(db, head)
        await ledger.place(db, waiting, head)
        bodies = _bodies(entries, salts, records)
        await ledger.enter(db, entries, leaves, bodies, head, first=len(others))
        return head, records


async def enter(db: Executor, entries: Sequence[Entry]) -> None:
    """Enter decisions that were made elsewhere than in the discloser. They count from the commit on."""
    salts = [os.urandom(SALT_BYTES) for _ in entries]
    leaves = [leaf_of(salt, e.told, e.explanation) for salt, e in zip(salts, entries, strict=True)]
    records = [None if e.told is None else orjson.dumps(e.told) for e in entries]
    await ledger.enter(db, entries, leaves, _bodies(entries, salts, records))


def _record(entry: Entry, proof: dict[str, Any]) -> bytes | None:
    if entry.told is None:
        return None
    if not entry.proved:
        return orjson.dumps(entry.told)
    data = entry.told["data"]
    return orjson.dumps({**entry.told, "data": {**data, "receipt": {**data["receipt"], "proof": proof}}})


def _bodies(entries: Sequence[Entry], salts: Sequence[bytes], records: Sequence[bytes | None]) -> list[bytes | None]:
    return [
        None if e.key is None else ledger.encrypt(e.key, e.decision, salt, e.explanation, record)
        for e, salt, record in zip(entries, salts, records, strict=True)
    ]
