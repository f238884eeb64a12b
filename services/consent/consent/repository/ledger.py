"""The ledger: every decision that was made about a client, sealed so that nobody can change it unnoticed.

A body is readable with the client's key only, and its salt stands in it: when the key is destroyed, the leaf is left,
and nothing can be found out from it. Where only something of what was told is erased, the hashes that lead to the leaf
stand in the body in place of it.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import AwareDatetime, ValidationError
from sqlalchemy import text

from consent.repository.sql import Executor, Write, arrays
from contracts.heads import Head
from contracts.leaving import Permitted, Withheld
from contracts.merkle import write
from contracts.proof import SALT_BYTES, Leaf, hashes_of, leaf_of, leaf_of_hashes, place_for_proof, with_proof
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import Wire

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
    """`disclosure`, `refusal`, `cancelled`, `view`, `consultation`, `reading`, `attempt`, `override`, `combination` or
    `erasure`.
    What was written becomes `erased` with all that is kept of the client.
    """
    decision: UUID
    client_id: int
    key: bytes | None
    """The client's key, or `OPEN_KEY`; None: not looked up yet (`with_keys`)."""
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


DECISIONS = frozenset({"disclosure", "refusal", "view", "consultation"})
"""The kinds of entry that answer a question about sharing."""
TOLD = frozenset({"disclosure", "view"})
"""Those of them that hold what was told, if anything was."""


class _Asked(Wire):
    service: str | None = None
    spent: dict[str, date | None] = {}
    about: list[tuple[str, Category]] = []
    items: list[tuple[str, Category]] = []
    once: list[int] = []


class _Explanation(Wire):
    """What those who read entries rely on, where it is there. An explanation says more."""

    kind: str
    by: str | None = None
    decided_on: int = 0
    permitted: list[Permitted] = []
    withheld: list[Withheld] = []
    asked: _Asked = _Asked()
    starts: AwareDatetime | None = None
    ends: AwareDatetime | None = None
    review_by: AwareDatetime | None = None


class _OfDecision(_Explanation):
    """What they rely on to be there."""

    recipient: str
    purpose: Purpose
    decided_on: int
    permitted: list[Permitted]
    withheld: list[Withheld]


class _Section(Wire):
    source: str
    category: str
    recorded_at: AwareDatetime


class _Told(Wire):
    """What was told: an answer holds its sections itself, an event in its `data`."""

    sections: list[_Section] = []
    data: "_Told | None" = None


class Unreadable(Exception):
    """What stands in the body of an entry is nothing that the door writes: somebody changed or shortened it, or it is
    another entry's. Verifying the ledger finds it; whoever else meets it goes on in the direction that is safe there.
    """


@dataclass(frozen=True, slots=True)
class Opened:
    """The body of an entry."""

    salt: bytes
    explanation: dict[str, Any]
    """As `Entry.explanation`, with all that its readers rely on."""
    told: bytes | None
    """What left without its proof, byte for byte; `NOTHING_TOLD`. None: it was erased."""
    hashes: tuple[bytes, bytes]
    """Of what was told, and of the explanation, as `contracts.proof.hashes_of`."""
    is_redacted: bool = False
    """Whether something of the explanation was erased: nobody can tell any more whether the rest is what was sealed."""

    @property
    def leaf(self) -> Leaf:
        """The leaf that it leads to."""
        return leaf_of_hashes(self.salt, *self.hashes)

    def recorded(self) -> dict[tuple[str, str], datetime]:
        """By source and category, when the sections that were told were recorded: of what left or was shown.

        Raises:
            Unreadable: what was told is nothing that the door tells.
        """
        try:
            told = _Told.model_validate_json(self.told or b"{}", strict=True, by_alias=True, by_name=False)
        except ValidationError as error:
            raise Unreadable from error
        return {(s.source, s.category): s.recorded_at for s in (told.data or told).sections}

    def proven(self, proof: bytes) -> bytes:
        """What was told to a partner, with its proof, as it left.

        Raises:
            Unreadable: it has no place for one.
        """
        told = self.told or NOTHING_TOLD
        try:
            receipt = write(orjson.loads(told)["data"]["receipt"])
            return with_proof(told, place_for_proof(told, receipt), proof)
        except (LookupError, TypeError, ValueError) as error:
            raise Unreadable from error


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


def open(row: Any) -> Opened | None:
    """The body of a ledger row: `kind`, `decision` and `body`, with its client's `key`. None: that key was destroyed.

    Raises:
        Unreadable: it is nothing that `write_down` or `without_told` made.
    """
    is_open = row.key is None and row.kind == "erasure" and row.body is not None
    if row.key is None and not is_open:
        return None
    try:
        return _opened(OPEN_KEY if is_open else bytes(row.key), row.decision, row.body, row.kind)
    except (InvalidTag, TypeError, ValueError) as error:  # no body at all, too short a one, no JSON, not that JSON
        raise Unreadable from error


def _opened(key: bytes, decision: UUID, body: bytes, kind: str) -> Opened:
    plain = AESGCM(key).decrypt(body[:_NONCE_BYTES], body[_NONCE_BYTES:], decision.bytes)
    start = SALT_BYTES + 4
    end = start + int.from_bytes(plain[SALT_BYTES:start], "big")
    salt, written, told = plain[:SALT_BYTES], plain[start:end], plain[end:]
    shape = _OfDecision if kind in DECISIONS else _Explanation
    shape.model_validate_json(written, strict=True, by_alias=True, by_name=False)
    explanation = orjson.loads(written)
    if not told.startswith(_ERASED):
        return Opened(salt, explanation, told, hashes_of(salt, told, written))
    hash, untold = told[1 : 1 + _HASH_BYTES], told[1 + _HASH_BYTES :]
    hashes = hash, untold or hashes_of(salt, b"", written)[1]
    return Opened(salt, explanation, None, hashes, is_redacted=bool(untold))


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


CLOSED: list[Any] = ["erased", None, None, None, "erased", None, []]
"""Kind, queue row, recipient, purpose, type, body and sources of an entry of a client of whom everything was erased.
Its decision and time are those of the erasure that closed it.
"""


async def close(db: Executor, client: int, erasure: UUID, at: datetime) -> list[bytes]:
    """Blank the entries of a client row whose key was destroyed, all that are not blank yet; gives their leaves.

    Args:
        erasure: the decision of the erasure's own entry, which is to say what it closed.
    """
    rows = await db.execute(
        text("SELECT closed FROM close_ledger(:client, :erasure, :at)"),
        {"client": client, "erasure": erasure, "at": at},
    )
    return [row.closed for row in rows]


CANCELLED = (
    "EXISTS (SELECT 1 FROM ledger n WHERE n.queue_id = l.queue_id AND n.kind = 'cancelled' AND n.decision = l.decision)"
)
"""Of an entry `l`: whether it was cancelled, so that what it decided does not count as sent."""
WAS_TO_LEAVE = f"l.kind = 'disclosure' AND NOT {CANCELLED}"
"""Of an entry `l`: whether its record was to leave, and that was not cancelled."""


async def of_client(
    db: Executor,
    clients: Collection[int],
    linked: Collection[int],
    agency: str | None,
    limit: int | None,
    before: int | None,
) -> Sequence[Any]:
    """The ledger of a client, all its `clients` rows, newest first, with what is known of each entry's leaving.

    `linked`: clients of undone links that it was part of; their entries are marked. With `agency`, only what was told,
    or refused, to that agency or of what that agency recorded. No `limit`: all.
    """
    result = await db.execute(
        text(
            "SELECT l.id, l.kind, l.decision, l.recipient, l.purpose, l.type, l.decided_at, l.body, c.key,"  # noqa: S608 # ours
            " l.shard, l.sequence, l.position, EXISTS (SELECT 1 FROM queue q WHERE q.id = l.queue_id) AS leaving,"
            f" {CANCELLED} AS cancelled, l.client_id = ANY(CAST(:linked AS bigint[])) AS linked"
            " FROM ledger l JOIN client c ON c.id = l.client_id"
            " WHERE l.client_id = ANY(CAST(:clients AS bigint[]) || CAST(:linked AS bigint[]))"
            " AND (CAST(:before AS bigint) IS NULL OR l.id < :before)"
            " AND (CAST(:agency AS text) IS NULL OR l.recipient = :agency OR :agency = ANY(l.sources))"
            " AND l.kind NOT IN ('cancelled', 'erased') ORDER BY l.id DESC LIMIT :limit"
        ),
        {"clients": list(clients), "linked": list(linked), "agency": agency, "limit": limit, "before": before},
    )
    return result.all()


async def answers_for(db: Executor, client: int) -> bool:
    """Whether the asker may give this client's whole answer: the same function rules which rows it can read."""
    found: bool = (await db.execute(text("SELECT answers_for(:client)"), {"client": client})).scalar_one()
    return found


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
