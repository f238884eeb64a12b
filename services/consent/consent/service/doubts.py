"""What a discloser that was interrupted may have sent: decided and in the ledger, but not known to have left."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from consent.repository import ledger, queue
from consent.repository.sql import Executor
from contracts.heads import Head
from contracts.merkle import ProofError
from contracts.proof import Leaf, proofs_again


@dataclass(frozen=True, slots=True)
class Doubt:
    """A row that may have left: what the ledger says of it."""

    decision: UUID
    explanation: dict[str, Any] | None
    """None when the ledger's entry cannot be opened, or what left was erased meanwhile: anything may have left."""
    record: bytes = b""
    """What would have left, to the byte."""


async def doubts(db: Executor, shard: int, shards: int) -> dict[int, Doubt]:
    """The rows of a shard that are in doubt, by queue id.

    A row of a client of whom everything was erased meanwhile is not among them: it went with the rest.
    """
    batches: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in await queue.in_doubt(db, shard, shards):
        batches[row.shard, row.sequence].append(row)
    found = {}
    for (shard_then, sequence), rows in batches.items():
        head, leaves = await ledger.batch(db, shard_then, sequence)
        found.update(_in_batch(rows, head, leaves))
    return found


def _in_batch(rows: Sequence[Any], head: Head | None, hashes: Sequence[bytes]) -> dict[int, Doubt]:
    """Make the record from its entry and its place again. An entry that was changed meanwhile gives none."""
    leaves = [Leaf(hash, "", "") for hash in hashes]
    opened, found = {}, {row.id: Doubt(row.decision, None) for row in rows}
    if head is None:
        return found
    for row in rows:
        with suppress(ledger.Unreadable):  # it must not stop the shard
            entry = ledger.open(row)
            if entry is not None and row.position in range(len(leaves)):
                opened[row.id], leaves[row.position] = entry, entry.leaf
    try:
        proofs = proofs_again(head, leaves)
    except ProofError:
        return found
    for row in rows:
        if row.id in opened:
            with suppress(ledger.Unreadable):
                found[row.id] = _doubt(row, opened[row.id], proofs[row.position])
    return found


def _doubt(row: Any, entry: ledger.Opened, proof: bytes) -> Doubt:
    if entry.told is None:  # it was erased, and nothing that was may leave again
        return Doubt(row.decision, None)
    record = entry.proven(proof) if queue.is_partners(row.topic) else entry.told
    return Doubt(row.decision, entry.explanation, record)
