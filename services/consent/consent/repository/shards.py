"""What the discloser's shards have seen of the register, so that the end of an agreement can be acknowledged."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text

from consent.repository.sql import Executor

_SAW = text(
    "INSERT INTO discloser_shard (shard, shards, seen, reached, at)"
    " SELECT CAST(:shard AS int), CAST(:shards AS int), n.seen, n.reached, clock_timestamp() FROM"
    " (SELECT coalesce((SELECT max(number) FROM agreement_change), 0) AS seen,"
    " (SELECT max(effective_at) FROM agreement_change WHERE effective_at <= clock_timestamp()) AS reached) n"
    " WHERE NOT EXISTS (SELECT 1 FROM discloser_shard d WHERE d.shard = :shard AND d.shards = :shards"
    " AND d.seen = n.seen AND d.reached IS NOT DISTINCT FROM n.reached)"
    " ON CONFLICT (shard) DO UPDATE SET shards = excluded.shards, seen = excluded.seen, reached = excluded.reached,"
    " at = excluded.at"
)


LOCK = 7_300
"""Advisory lock of shard 0; the next shard's is one higher."""


async def try_lock(db: Executor, shard: int) -> bool:
    """Take the shard's lock for this session, if nobody has it."""
    return bool(await db.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": LOCK + shard}))


async def keep_session(db: Executor) -> None:
    """Keep the session from ending for being idle, and with it the lock. Fails when it is lost."""
    await db.execute(text("SELECT 1"))


async def enter_number(db: Executor, shard: int, shards: int) -> None:
    """Enter that this shard runs as one of so many. What it has seen of the register stays."""
    await db.execute(
        text(
            "INSERT INTO discloser_shard (shard, shards, seen, at) VALUES (:shard, :shards, 0, clock_timestamp())"
            " ON CONFLICT (shard) DO UPDATE SET shards = excluded.shards, at = excluded.at"
        ),
        {"shard": shard, "shards": shards},
    )


async def saw_register(db: Executor, shard: int, shards: int) -> None:
    """Enter up to which change of the register this cycle decides. Writes nothing when nothing changed.

    The first call of a cycle's transaction, which begins when all that was decided before is sent or aborted: so once
    it is committed, nothing leaves any more that was decided without these changes.
    """
    await db.execute(_SAW, {"shard": shard, "shards": shards})


async def each(db: Executor) -> Sequence[Any]:
    """Each shard with the newest change that it has seen (`seen`), and the newest time of effect that had come."""
    return (await db.execute(text("SELECT shard, shards, seen, reached, at FROM discloser_shard ORDER BY shard"))).all()
