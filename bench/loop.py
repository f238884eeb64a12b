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
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import uvloop

from consent.discloser import Discloser, DiscloserSettings
from consent.repository import queue
from consent.repository.ledger import Written
from consent.service import disclosing
from consent.service.disclosing import Cycle, Leaving
from consent.service.ledger import Sealer
from contracts.heads import Head
from contracts.proof import Leaf
from servicekit import run, telemetry
from servicekit.db import create_engine


class Unsealed(Sealer):
    """Writes nothing down."""

    async def seal(
        self, db: Any, before: Head | None, entries: Sequence[Written], now: datetime
    ) -> tuple[Head | None, list[bytes]]:
        """No proof."""
        return None, [b"null"] * len(entries)


class Bare(Discloser):
    """Claims, sends, removes."""

    filler = b""

    async def _decide(self, paused: list[str], only: Collection[int] | None) -> Cycle:
        async with self._db.begin():
            await queue.remove(self._db, [leaving.row.id for leaving, _ in self._sent])
            settings = self._settings
            rows = await queue.claim(self._db, settings.shard, settings.shards, settings.batch, paused, only)
        self._sent = []
        return Cycle(len(rows), [Leaving(row, self.filler) for row in rows])


async def drain(discloser: Discloser) -> int:
    """Cycle until nothing is left; gives how many records left."""
    count = 0
    while await discloser.cycle():
        count += len(discloser._sent)
    return count


async def main(kind: str, size: int) -> None:
    """Take the shard over, warm up with what is queued, then measure what is queued by the time that a line comes."""
    settings = DiscloserSettings()
    telemetry.set_up(settings, "bench")
    run._spare_the_collector()
    engine = create_engine(settings.database_url.get_secret_value(), 1, "bench", settings.session())
    Bare.filler = b"." * size
    async with engine.connect() as connection:
        discloser = (Bare if kind == "bare" else Discloser)(settings, connection)
        if kind == "unsealed":
            vars(disclosing)["write_down"] = lambda entry: Written((), Leaf(b"", "", ""), None)
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
