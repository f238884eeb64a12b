"""One shard's discloser as `bench/disclose.py` measures it: `python -m bench.loop KIND SIZE`.

KIND is `whole`, the discloser as it is; `unsealed`, the same without the ledger (no leaves, no tree, no signature, no
encryption, no rows); or `bare`, the same session, claim, Kafka transaction and removal with no decision and no ledger:
it sends SIZE bytes for each row. A line on standard input begins; the line on standard output says how many records
left, in how many seconds, with how many of CPU.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import uvloop

from consent.discloser import Discloser
from consent.repository import queue
from consent.repository.ledger import Entry
from consent.repository.sql import Executor, at_once
from consent.service.disclosing import Cycle, Leaving, Sent
from consent.service.ledger import Batch, Sealer
from consent.settings import DiscloserSettings
from contracts.heads import Head
from servicekit import run, telemetry
from servicekit.db import create_engine


class NoBatch(Batch):
    """Writes nothing down."""

    def add(self, entry: Entry) -> int:
        """Nothing."""
        return 0

    async def write(self) -> None:
        """Nothing."""

    async def seal(self, now: datetime) -> tuple[Head | None, list[bytes]]:
        """No proof."""
        return None, [b"null"]


class Unsealed(Sealer):
    """No ledger."""

    @asynccontextmanager
    async def batch(self, db: Executor, before: Head | None) -> AsyncIterator[Batch]:
        """Nothing is read, nothing written."""
        yield NoBatch(db, b"", 0, None, [])


class Bare(Discloser):
    """Claims, sends, removes."""

    filler = b""

    async def _decide(self, paused: list[str], only: Collection[int] | None) -> Cycle:
        async with self._db.begin():
            await at_once(self._db, [queue.removing([leaving.row.id for leaving, _ in self._sent.leaving])])
            settings = self._settings
            rows = await queue.claim(self._db, settings.shard, settings.shards, settings.batch, paused, only)
        self._sent = Sent()
        return Cycle(len(rows), datetime.now(UTC), [Leaving(row, self.filler) for row in rows])


async def drain(discloser: Discloser) -> int:
    """Cycle until nothing is left; gives how many records left."""
    count = 0
    while await discloser.cycle():
        count += len(discloser._sent.leaving)
    return count


async def main(kind: str, size: int) -> None:
    """Take the shard over, warm up with what is queued, then measure what is queued by the time that a line comes."""
    settings = DiscloserSettings()
    telemetry.set_up(settings, "consent-bench")
    run._spare_the_collector()
    engine = create_engine(settings.database_url.get_secret_value(), 1, "bench", settings.session())
    Bare.filler = b"." * size
    async with engine.connect() as connection:
        discloser = (Bare if kind == "bare" else Discloser)(settings, connection, asyncio.Event())
        if kind == "unsealed":
            discloser._sealer = Unsealed(settings.seed, settings.shard, settings.shards)
        await discloser.take_over()
        await drain(discloser)
        print("warm", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            begun, spent = time.perf_counter(), time.process_time()
            count = await drain(discloser)
            told = {"records": count, "seconds": time.perf_counter() - begun, "cpu": time.process_time() - spent}
            print(json.dumps(told), flush=True)
        await discloser.close()
    await engine.dispose()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
