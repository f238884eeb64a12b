"""The ledger for those who check it: public keys for everyone, leaves and heads for auditors; nothing about clients."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Query
from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import audit
from consent.service import auditing
from contracts.heads import KeyId
from contracts.merkle import to_base64url
from servicekit.access import Db
from servicekit.auth import Caller, require
from servicekit.envelope import Wire

router = APIRouter(tags=["ledger"])

PAGE = 2000
"""Entries, or heads, of one page."""

Shard = Annotated[int, Query(ge=0, le=2**31 - 1)]
After = Annotated[int, Query(ge=0, le=2**63 - 1)]
Auditor = Annotated[Caller, Depends(require("audit"))]


class LedgerKey(Wire):
    """A public key (Ed25519) that heads of the ledger were signed with."""

    id: KeyId
    public_key: str
    """32 bytes in base64url without padding."""
    since: datetime


@router.get("/ledger-keys", summary="The public keys that check the ledger")
async def keys(db: Db) -> list[LedgerKey]:
    """Open to everyone. Keep them when you join: whoever takes them anew each time trusts us each time."""
    rows = await db.run(audit.signing_keys)
    return [LedgerKey(id=row.id, public_key=to_base64url(row.public_key), since=row.since) for row in rows]


class ShardExtent(Wire):
    """How far one shard of the ledger goes."""

    shard: int
    entries: int
    newest: int
    """The sequence of its newest batch; 0 where there is none."""


class Extent(Wire):
    """How far the ledger goes."""

    shards: list[ShardExtent]
    waiting: int
    """Entries that the next cycle of the discloser will seal."""


@router.get("/ledger", summary="How far the ledger goes")
async def extent(db: Db, caller: Auditor) -> Extent:
    """Every shard that has an entry or a head."""
    rows = await db.run(audit.extent)
    signed = await db.run(audit.shards_of_heads)
    known = {n: ShardExtent(shard=n, entries=0, newest=0) for n in signed}
    known |= {
        r.shard: ShardExtent(shard=r.shard, entries=r.entries, newest=r.newest or 0)
        for r in rows
        if r.shard is not None
    }
    waiting = sum(r.entries for r in rows if r.shard is None)
    return Extent(shards=[known[n] for n in sorted(known)], waiting=waiting)


class StoredHead(Wire):
    """A head as the door keeps it. It may have been tampered with: whoever checks it reads it with care."""

    sequence: int
    head: dict[str, Any]
    sent: bool
    """Whether it is known to stand on the topic `heads`."""
    lost_at: datetime | None = None
    """Since when the entries that it sealed are lost: the database was restored, the head read back."""


@router.get("/ledger/heads", summary="The signed heads, as they are kept")
async def heads(db: Db, caller: Auditor, shard: Shard, after: After = 0) -> list[StoredHead]:
    """Those behind the one with sequence `after`, to be held against the topic `heads` and copies of it."""
    rows = await db.run(lambda session: audit.heads(session, shard, after, PAGE))
    return [
        StoredHead(sequence=row.sequence, head=orjson.loads(row.head), sent=row.sent, lost_at=row.lost_at)
        for row in rows
    ]


class Opened(Wire):
    """What became of what an entry holds, without a word of it."""

    erased: bool
    """Nobody can open it any more, because all of its client was erased, or check it, because something that its leaf
    binds was.
    """
    leaf: str | None
    """The leaf that it leads to; null where it is erased or cannot be read."""
    agrees: bool
    """Whether the columns beside it say the same as it does; of an erased one, whether they are what is left by an
    erasure whose own entry says so.
    """


class SealedEntry(Wire):
    """One entry of the ledger: its leaf and its place."""

    kind: str
    sequence: int
    position: int | None
    leaf: str
    """In base64url without padding."""
    opened: Opened | None = None


@router.get("/ledger/entries", summary="The leaves of the ledger, whole batches at a time")
async def entries(db: Db, caller: Auditor, shard: Shard, after: After = 0, open: bool = False) -> list[SealedEntry]:
    """The batches behind the one with sequence `after`, in order; nothing when there are no more.

    `open` decrypts what each entry holds, and says whether that still leads to its leaf.
    """

    async def read(session: AsyncSession) -> tuple[Sequence[Any], auditing.Left | None]:
        rows = await audit.batches(session, shard, after, PAGE, open=open)
        return rows, await auditing.left_of(session, rows) if open else None

    return await asyncio.to_thread(_entries, *await db.run(read))


def _entries(rows: Sequence[Any], left: auditing.Left | None) -> list[SealedEntry]:
    return [
        SealedEntry(
            kind=row.kind,
            sequence=row.sequence,
            position=row.position,
            leaf=to_base64url(row.leaf),
            opened=None if left is None else _opened(auditing.look_into(row, left)),
        )
        for row in rows
    ]


def _opened(content: auditing.Content) -> Opened:
    return Opened(
        erased=content.erased, leaf=None if content.leaf is None else to_base64url(content.leaf), agrees=content.agrees
    )
