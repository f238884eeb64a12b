"""The ledger: every decision that was made about a client, sealed so that nobody can change it unnoticed.

A body is readable with the client's key only, and its salt stands in it: when the key is destroyed, the leaf is left,
and nothing can be found out from it. Where only something of what was told is erased, the hashes that lead to the leaf
stand in the body in place of it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import ValidationError
from sqlalchemy import text

from consent.repository.sql import Executor, Write, arrays
from contracts.heads import Head
from contracts.merkle import write
from contracts.proof import SALT_BYTES, Leaf, hashes_of, leaf_of, leaf_of_hashes

_NONCE_BYTES, _HASH_BYTES = 12, 32
NOTHING_TOLD = b"null"
_ERASED = b"\0"
"""Stands in a body before the hash of what was told, in place of it: no JSON begins so."""

OPEN_KEY = bytes(32)
"""Not secret: for the entry that says that a client was erased. It names nobody, and has to be readable without the
client's key, or nothing could lead to its leaf.
"""


@dataclass(slots=True)
class Entry:
    """One line of the ledger before it is written."""

    kind: str
    """`disclosure`, `refusal`, `cancelled`, `view`, `consultation`, `override`, `combination` or `erasure`."""
    decision: UUID
    client_id: int
    key: bytes | None
    """The client's key, or `OPEN_KEY`; None when it is destroyed, and then no body is kept."""
    recipient: str | None
    purpose: str | None
    type: str
    """The type of the record that left; for other kinds, of what it is about."""
    decided_at: datetime
    sources: Sequence[str]
    explanation: dict[str, Any]
    """All that there is to say, as plain JSON (`contracts.merkle.canonical`)."""
    told: bytes = NOTHING_TOLD
    """The event that left or was answered, in canonical JSON, without its proof: that follows from its place."""
    queue_id: int | None = None


class Written(NamedTuple):
    """An entry as it is stored, but for its place: bytes only, for there are many of them in a batch."""

    columns: tuple[Any, ...]
    leaf: Leaf
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The body of an entry."""

    salt: bytes
    written: bytes
    """Its explanation in canonical JSON."""
    told: bytes | None
    """What left without its proof, byte for byte; `NOTHING_TOLD`. None: it was erased."""
    hashes: tuple[bytes, bytes]
    """Of what was told, and of the explanation, as `contracts.proof.hashes_of`."""
    is_redacted: bool = False
    """Whether something of the explanation was erased: nobody can tell any more whether the rest is what was sealed."""

    @property
    def explanation(self) -> dict[str, Any]:
        """Raises ValueError: somebody put something else there."""
        explanation = orjson.loads(self.written)
        if not isinstance(explanation, dict):
            raise ValueError("no explanation")
        return explanation

    @property
    def leaf(self) -> Leaf:
        """The leaf that it leads to."""
        return leaf_of_hashes(self.salt, *self.hashes)


def write_down(entry: Entry) -> Written:
    """Hash an entry, and encrypt its body with AES-256-GCM under the client's key, bound to its decision."""
    drawn, written = os.urandom(SALT_BYTES + _NONCE_BYTES), write(entry.explanation)
    salt, nonce = drawn[:SALT_BYTES], drawn[SALT_BYTES:]
    body = None
    if entry.key is not None:
        body = _encrypt(entry.key, entry.decision, nonce, salt, written, entry.told)
    columns = (
        entry.kind,
        entry.decision,
        entry.queue_id,
        entry.client_id,
        entry.recipient,
        entry.purpose,
        entry.type,
        entry.decided_at,
        " ".join(entry.sources),
    )
    return Written(columns, leaf_of(salt, entry.told, written), body)


def _encrypt(key: bytes, decision: UUID, nonce: bytes, salt: bytes, written: bytes, told: bytes) -> bytes:
    plain = b"".join((salt, len(written).to_bytes(4, "big"), written, told))
    return nonce + AESGCM(key).encrypt(nonce, plain, decision.bytes)


def without_told(key: bytes, decision: UUID, opened: Opened, explanation: dict[str, Any]) -> bytes:
    """The body of an entry once more, without what was told, and with this in place of its explanation.

    It leads to the same leaf.
    """
    told, untold = opened.hashes
    written = write(explanation)
    if hashes_of(opened.salt, b"", written)[1] == untold:
        untold = b""  # it follows from the explanation
    tail = _ERASED + told + untold
    return _encrypt(key, decision, os.urandom(_NONCE_BYTES), opened.salt, written, tail)


def key_of(row: Any) -> bytes | None:
    """What opens the body of a ledger row with its client's `key`; None when nobody can."""
    if row.key is None and row.kind == "erasure" and row.body is not None:
        return OPEN_KEY
    return None if row.key is None else bytes(row.key)


def decrypt(key: bytes, decision: UUID, body: bytes) -> Opened:
    """The body that `write_down` or `without_told` made.

    Raises:
        InvalidTag: it was changed, or is another entry's.
        ValueError: it is too short to be one.
    """
    plain = AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], decision.bytes)
    start = SALT_BYTES + 4
    end = start + int.from_bytes(plain[SALT_BYTES:start], "big")
    salt, written, told = plain[:SALT_BYTES], plain[start:end], plain[end:]
    if not told.startswith(_ERASED):
        return Opened(salt, written, told, hashes_of(salt, told, written))
    hash, untold = told[1 : 1 + _HASH_BYTES], told[1 + _HASH_BYTES :]
    return Opened(salt, written, None, (hash, untold or hashes_of(salt, b"", written)[1]), is_redacted=bool(untold))


_ENTER = text(
    "INSERT INTO ledger (kind, decision, queue_id, client_id, recipient, purpose, type, decided_at, sources, leaf,"
    " body, shard, sequence, position) SELECT k, d, q, c, r, p, t, a, string_to_array(s, ' '), l, b,"
    " CAST(:shard AS int), CAST(:sequence AS bigint),"
    " CAST(:first AS int) + nth - 1 FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS uuid[]), CAST(:a2 AS bigint[]),"
    " CAST(:a3 AS bigint[]), CAST(:a4 AS text[]), CAST(:a5 AS text[]), CAST(:a6 AS text[]),"
    " CAST(:a7 AS timestamptz[]),"
    " CAST(:a8 AS text[]), CAST(:a9 AS bytea[]), CAST(:a10 AS bytea[])) WITH ORDINALITY"
    " AS r(k, d, q, c, r, p, t, a, s, l, b, nth) ORDER BY nth"
)


async def enter(db: Executor, entries: Sequence[Written], place: tuple[int, int, int] | None = None) -> None:
    """Append to the ledger, in order; sealed ones from their first `place` on: shard, sequence, position."""
    if not entries:
        return
    shard, sequence, first = place or (None, None, None)
    await arrays(
        db,
        _ENTER,
        [(*columns, leaf.hash, body) for columns, leaf, body in entries],
        shard=shard,
        sequence=sequence,
        first=first,
    )


async def with_keys(db: Executor, entries: Sequence[Entry]) -> list[Entry]:
    """The same entries with their clients' keys."""
    rows = await db.execute(
        text("SELECT id, key FROM client WHERE id = ANY(:ids)"), {"ids": sorted({e.client_id for e in entries})}
    )
    keys = {row.id: row.key for row in rows}
    return [replace(e, key=keys[e.client_id]) for e in entries]


@dataclass(frozen=True, slots=True)
class Unsealed:
    """An entry that another process made, which waits for its place."""

    id: int
    leaf: bytes


_READABLE = text(
    "SELECT l.id, l.decision, l.kind, l.decided_at, l.body, c.key FROM ledger l JOIN client c ON c.id = l.client_id"
    " WHERE l.client_id = :client AND l.id > :after AND l.body IS NOT NULL AND c.key IS NOT NULL"
    " AND l.kind <> 'erasure' ORDER BY l.id LIMIT :limit FOR UPDATE OF l"
)


async def readable(db: Executor, client: int, after: int, limit: int) -> Sequence[Any]:
    """The entries of one client row that can be opened, by their order, behind the one with id `after`. Not those of
    erasures: they say nothing that was ever recorded. Locked, for two workers may each redact one body.
    """
    return (await db.execute(_READABLE, {"client": client, "after": after, "limit": limit})).all()


async def rewrite(db: Executor, bodies: Mapping[int, bytes]) -> None:
    """Give these entries other bodies, but for those that lost theirs meanwhile. What is sealed is their leaves."""
    if bodies:
        await arrays(
            db,
            text(
                "UPDATE ledger SET body = b FROM unnest(CAST(:a0 AS bigint[]), CAST(:a1 AS bytea[])) AS r(i, b)"
                " WHERE id = i AND body IS NOT NULL"
            ),
            list(bodies.items()),
        )


async def unsealed(db: Executor, shard: int, shards: int, limit: int) -> list[Unsealed]:
    """Entries of this shard's clients that have no place yet, oldest first."""
    rows = await db.execute(
        text(
            "SELECT id, leaf FROM ledger WHERE sequence IS NULL AND client_id % :shards = :shard ORDER BY id LIMIT :n"
        ),
        {"shard": shard, "shards": shards, "n": limit},
    )
    return [Unsealed(row.id, row.leaf) for row in rows]


async def place(db: Executor, entries: Sequence[Unsealed], head: Head) -> None:
    """Give these entries the first places of a batch."""
    if entries:
        await db.execute(
            text(
                "UPDATE ledger SET shard = :shard, sequence = :sequence, position = nth - 1"
                " FROM unnest(CAST(:ids AS bigint[])) WITH ORDINALITY AS r(i, nth) WHERE id = i AND sequence IS NULL"
            ),
            {"shard": head.shard, "sequence": head.sequence, "ids": [e.id for e in entries]},
        )


async def add_head(db: Executor, head: Head) -> None:
    """Keep the head of a batch."""
    await db.execute(
        text("INSERT INTO head (shard, sequence, head) VALUES (:shard, :sequence, CAST(:head AS jsonb))"),
        {"shard": head.shard, "sequence": head.sequence, "head": head.model_dump_json(by_alias=True)},
    )


async def batch(db: Executor, shard: int, sequence: int) -> tuple[Head | None, list[bytes]]:
    """The head of a sealed batch, None where it is gone or damaged, and its leaves, by their places."""
    head = await db.scalar(
        text("SELECT head::text FROM head WHERE shard = :shard AND sequence = :sequence"),
        {"shard": shard, "sequence": sequence},
    )
    rows = await db.execute(
        text("SELECT leaf FROM ledger WHERE shard = :shard AND sequence = :sequence ORDER BY position"),
        {"shard": shard, "sequence": sequence},
    )
    leaves = [row.leaf for row in rows]
    try:
        return Head.model_validate_json(head or ""), leaves
    except ValidationError:
        return None, leaves


async def last_head(db: Executor, shard: int) -> Head | None:
    """The newest head of a shard."""
    found = await db.scalar(
        text("SELECT head::text FROM head WHERE shard = :shard ORDER BY sequence DESC LIMIT 1"), {"shard": shard}
    )
    return None if found is None else Head.model_validate_json(found)


async def unsent_heads(db: Executor, shard: int, shards: int) -> list[Head]:
    """A shard's heads that are not known to be in their topic, in order; for shard 0 also those of shards that are gone
    since there are only `shards`.
    """
    rows = await db.execute(
        text(
            "SELECT head::text AS head FROM head WHERE NOT sent"
            " AND (shard = :shard OR (:shard = 0 AND shard >= :shards)) ORDER BY shard, sequence"
        ),
        {"shard": shard, "shards": shards},
    )
    return [Head.model_validate_json(row.head) for row in rows]


_HEADS_SENT = text(
    "UPDATE head SET sent = true FROM unnest(CAST(:a0 AS int[]), CAST(:a1 AS bigint[])) AS r(s, n)"
    " WHERE shard = s AND sequence = n"
)


def sending(heads: Collection[Head]) -> Write:
    """Enter that these heads are in their topic."""
    return Write(_HEADS_SENT, [(h.shard, h.sequence) for h in heads])


async def add_signing_key(db: Executor, id: str, public_key: bytes) -> None:
    """Keep a public key for those who verify."""
    await db.execute(
        text("INSERT INTO signing_key (id, public_key) VALUES (:id, :key) ON CONFLICT DO NOTHING"),
        {"id": id, "key": public_key},
    )
