"""Measure one discloser alone: how many records it decides, enters in the ledger and sends in a second.

What runs: real PostgreSQL (fsync on), real Kafka, and for each measurement a fresh process of `bench/loop.py`, warm,
with the same rows in its queue: changes of 500 clients for one charity by their consent, as in bench/pipeline.py. In
turns (A B C D A B C D ...): the discloser; the bare loop, with no decision and no ledger; the discloser without its
ledger; and two shards of it.

Other programs on the machine change events/s most and CPU an event least.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack, suppress

import asyncpg

from bench.common import CHARITY, DISCLOSER, PRISON, Clients, Reader, Side, the_door
from bench.figures import Figures, run, say
from throughgate.native.process import NativeError, free_port
from throughgate.system import System

WARM_UP = 3000
COLUMNS = (
    "kind, client_id, recipient, topic, reference, type, purpose, body, requester, reference_of_requester, request,"
    " traceparent, due_at, keyed_by"
)


class Bench:
    """The door, with the discloser stopped and a copy of the rows that it is going to be given again and again."""

    def __init__(self, system: System, clients: int, events: int, stack: ExitStack) -> None:
        self._system, self._stack, self._events = system, stack, events
        made = Clients(clients)
        door = Side(system.kafka, f"intake.{PRISON}", f"partner.{CHARITY}", lambda: 0, user=PRISON)
        stack.callback(door.reader.close)
        replies = Reader(system.kafka, f"replies.{PRISON}")
        stack.callback(replies.close)
        for some in (made.recorded(clients), made.granted()):
            door.publish(some)
            replies.take(clients)
        door.reader.take(clients)  # a snapshot each
        door.publish(made.recorded(1000))
        self.size = round(sum(map(len, door.reader.take(1000))) / 1000)
        replies.take(1000)
        time.sleep(1)  # until the discloser has entered that they left
        system.stop_process(DISCLOSER)
        door.publish(made.recorded(events))
        replies.take(events)
        self._sql("CREATE TABLE bench_rows AS SELECT * FROM queue ORDER BY id")

    def _sql(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self._system.postgres.url(self._system.databases["consent"].name))
            await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def _fill(self, count: int) -> None:
        self._sql("DELETE FROM queue")
        self._sql("VACUUM queue")
        # Names of our own only.
        self._sql(f"INSERT INTO queue ({COLUMNS}) SELECT {COLUMNS} FROM bench_rows ORDER BY id LIMIT {count}")
        self._sql("ANALYZE queue")
        self._sql("CHECKPOINT")

    def measure(self, kind: str, shards: int = 1) -> tuple[float, float]:
        """Drain the queue once; gives records a second and microseconds of CPU a record."""
        self._fill(WARM_UP)
        processes = [self._start(kind, shard, shards) for shard in range(shards)]
        try:
            for process in processes:
                _line(process)
            self._fill(self._events)
            for process in processes:
                _begin(process)
            told = [json.loads(_line(process)) for process in processes]
        finally:
            for process in processes:
                with suppress(OSError):
                    process.communicate(timeout=10)
        count = sum(t["records"] for t in told)
        if count != self._events:
            raise NativeError(f"{count} of {self._events} records left.")
        return count / max(t["seconds"] for t in told), 1e6 * sum(t["cpu"] for t in told) / count

    def _start(self, kind: str, shard: int, shards: int) -> subprocess.Popen[str]:
        environment = self._system.environment(DISCLOSER) | {
            "THROUGHGATE_SHARD": str(shard),
            "THROUGHGATE_SHARDS": str(shards),
            "THROUGHGATE_SESSION_SECONDS": "600",
            "THROUGHGATE_HTTP_PORT": str(free_port()),
        }
        return subprocess.Popen(
            [sys.executable, "-m", "bench.loop", kind, str(self.size)],
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stack.enter_context(self._system.log(DISCLOSER).open("a")),
        )


def _begin(process: "subprocess.Popen[str]") -> None:
    if process.stdin is None:
        raise NativeError("The loop has no input.")
    process.stdin.write("\n")
    process.stdin.flush()


def _line(process: "subprocess.Popen[str]") -> str:
    """What it says next; what it logs meanwhile is JSON too, and is passed over."""
    while line := process.stdout.readline() if process.stdout else "":
        if line.startswith("warm") or '"records"' in line:
            return line
    raise NativeError("The loop ended; see the discloser's log.")


def measure(options: argparse.Namespace, figures: Figures) -> None:
    """Run the rounds."""
    with ExitStack() as stack:
        bench = Bench(the_door([CHARITY], stack), options.clients, options.events, stack)
        say(f"{options.rounds} rounds of {options.events} records of {bench.size} bytes.")
        for _ in range(options.rounds):
            whole, whole_cpu = bench.measure("whole")
            bare, bare_cpu = bench.measure("bare")
            unsealed, unsealed_cpu = bench.measure("unsealed")
            two, two_cpu = bench.measure("whole", shards=2)
            figures.add("disclosed", whole, "events/s")
            figures.add("disclosed_bare", bare, "events/s")
            figures.add("disclosed_vs_bare", whole / bare, "ratio")
            figures.add("disclosed_two_shards", two, "events/s")
            figures.add("disclosed_without_ledger", unsealed, "events/s")
            figures.add("ledger_cost", 1 - whole / unsealed, "ratio")
            figures.add("ledger_cost_cpu", 1 - unsealed_cpu / whole_cpu, "ratio")
            for name, cpu in (("", whole_cpu), ("_bare", bare_cpu), ("_without_ledger", unsealed_cpu)):
                figures.add(f"cpu_disclosed{name}", cpu, "us/event")
            figures.add("cpu_disclosed_two_shards", two_cpu, "us/event")
            say(
                f"  whole {whole:6.0f}/s, bare {bare:6.0f}/s, without ledger {unsealed:6.0f}/s, two shards {two:6.0f}/s"
            )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="make bench-disclose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="runs of each (%(default)s)")
    parser.add_argument("--events", type=int, default=20_000, metavar="N", help="records in each run (%(default)s)")
    parser.add_argument("--clients", type=int, default=500, metavar="N", help="clients they are about (%(default)s)")
    run(measure, parser.parse_args())


if __name__ == "__main__":
    main()
