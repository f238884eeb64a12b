"""What a discloser that was interrupted may have sent: decided and in the ledger, but not known to have left."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag

from consent.repository import ledger, queue
from consent.repository.sql import Executor
from contracts.heads import Head
from contracts.merkle import ProofError, write
from contracts.proof import Leaf, place_for_proof, proofs_again, with_proof


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
        try:
            opened[row.id] = entry = ledger.decrypt(row.key, row.decision, row.body)
            leaves[row.position] = entry.leaf
        except _DAMAGED:  # it must not stop the shard
            continue
    try:
        proofs = proofs_again(head, leaves)
    except (ProofError, *_DAMAGED):
        return found
    for row in rows:
        if row.id in opened:
            try:
                found[row.id] = _doubt(row, opened[row.id], proofs[row.position])
            except _DAMAGED:
                continue
    return found


_DAMAGED = (InvalidTag, AttributeError, LookupError, ValueError, TypeError)
"""What may be raised when an entry is opened that somebody changed or shortened."""


def _doubt(row: Any, entry: ledger.Opened, proof: bytes) -> Doubt:
    if entry.told is None:
        raise LookupError("it was erased, and nothing that was may leave again")
    record = entry.told
    if queue.is_partners(row.topic):
        receipt = write(orjson.loads(entry.told)["data"]["receipt"])
        record = with_proof(entry.told, place_for_proof(entry.told, receipt), proof)
    return Doubt(row.decision, entry.explanation, record)
