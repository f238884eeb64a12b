"""Measure the way of an event, from its intake topic through the door to a partner's topic.

What runs: real PostgreSQL (fsync on) and real Kafka on this machine, the door as one worker and one discloser, one
prison that publishes, one charity that subscribes by the clients' consent. So each event makes one reply, one decision,
one line of the ledger and one record. Beside it, in turns (A B A B ...), the raw ceiling: the same hops, transactions
and bytes with no logic (bench/ceiling.py).

Other programs on the machine change events/s and milliseconds most, the ratio when they come or go within a pair, CPU
an event (cpu_...) least. The share of the machine that others took is said with each measurement.
"""

import argparse
import asyncio
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import asyncpg
import orjson
import psutil
from confluent_kafka.admin import NewTopic

from bench.common import CHARITY, DISCLOSER, PRISON, SHARED, WORKER, Clients, Reader, Side, the_door
from bench.figures import Figures, run, say, write_page
from bench.profiled import profile
from throughgate.native.kafka import Kafka
from throughgate.native.postgres import Postgres
from throughgate.native.process import NativeError, Process
from throughgate.system import System

HERE = Path(__file__).resolve().parent


def check(records: Sequence[bytes], count: int) -> None:
    """That what was counted is what should have come: as many different events, each decided and cut."""
    ids = set()
    for value in records:
        event = orjson.loads(value)
        sections = {s["category"] for s in event["data"]["sections"]}
        if event["type"] != "throughgate.client.changed.v1" or sections != set(SHARED):
            raise NativeError(f"A record of type {event['type']} with {sorted(sections)} was not expected.")
        ids.add(event["id"])
    if len(ids) != count:
        raise NativeError(f"{count} events made {len(ids)} records.")


class Ceiling:
    """The two processes of bench/ceiling.py, with a database and topics of their own."""

    def __init__(self, system: System, record_size: int, reply_size: int) -> None:
        kafka, postgres = system.kafka, system.postgres
        topics = [NewTopic(f"ceiling.{name}", n, 1) for name, n in (("intake", 3), ("replies", 1), ("partner", 3))]
        admin = kafka.admin()
        for made in admin.create_topics(topics).values():
            made.result()
        asyncio.run(_make_database(postgres))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THROUGHGATE_")} | {
            "THROUGHGATE_DATABASE_URL": postgres.url("ceiling"),
            "THROUGHGATE_KAFKA_SERVERS": kafka.bootstrap,
            "THROUGHGATE_KAFKA_USER": kafka.admin_user,
            "THROUGHGATE_KAFKA_PASSWORD": kafka.password(kafka.admin_user),
            "THROUGHGATE_NAMESPACE": "ceiling.",
        }
        self.processes = [
            Process(
                f"ceiling {role}",
                [sys.executable, HERE / "ceiling.py", role, str(size)],
                log=system.run_dir / "logs" / f"ceiling.{role}.log",
                env=environment,
            )
            for role, size in (("intake", reply_size), ("send", record_size))
        ]
        for process in self.processes:
            process.start()

    def stop(self) -> None:
        """End both."""
        for process in self.processes:
            process.stop()


async def _make_database(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.url())
    await connection.execute("CREATE DATABASE ceiling")
    await connection.close()
    connection = await asyncpg.connect(postgres.url("ceiling"))
    identity = "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    await connection.execute(f"CREATE TABLE waiting ({identity}, key text NOT NULL, body bytea NOT NULL)")
    await connection.execute(f"CREATE TABLE sent ({identity}, waiting_id bigint NOT NULL, body bytea NOT NULL)")
    await connection.close()


class Load:
    """CPU seconds of our processes by part, and the share of the machine that everybody else takes."""

    def __init__(self, system: System, parts: Mapping[str, Callable[[], int]]) -> None:
        self._system = system
        self._parts = parts

    def now(self) -> dict[str, float]:
        """CPU seconds so far: `broker`, `postgres`, `bench`, the given parts, and of the machine `busy` and `all`."""
        found = {"broker": _cpu(self._system.kafka.pid(1)), "bench": sum(psutil.Process().cpu_times()[:2])}
        postmaster = psutil.Process(self._system.postgres.pid)
        found["postgres"] = sum(postmaster.cpu_times()[:4])  # with its children that ended
        for child in postmaster.children():
            with suppress(psutil.NoSuchProcess):
                found["postgres"] += _cpu(child.pid)
        found |= {name: _cpu(pid()) for name, pid in self._parts.items()}
        machine = psutil.cpu_times()
        found["all"] = sum(machine[:8])
        found["busy"] = found["all"] - machine.idle - getattr(machine, "iowait", 0.0)
        return found

    @contextmanager
    def measured(self) -> Iterator[dict[str, float]]:
        """Gives what was spent in the block, and `others`, a share of the machine; filled in at its end."""
        spent: dict[str, float] = {}
        before = self.now()
        yield spent
        after = self.now()
        spent |= {name: after[name] - before[name] for name in after}
        ours = sum(value for name, value in spent.items() if name not in ("all", "busy"))
        spent["others"] = max(0.0, spent["busy"] - ours) / max(spent["all"], 1e-9)


def _cpu(pid: int) -> float:
    return sum(psutil.Process(pid).cpu_times()[:2])


class Bench:
    """Everything started and warm: the door and the ceiling, on one PostgreSQL and one Kafka."""

    def __init__(self, system: System, clients: int, stack: ExitStack) -> None:
        self.system = system
        self.clients = Clients(clients)
        self._others = Clients(clients)  # the ceiling's, so that the door sees no gap in its clients' versions
        self.door = Side(
            system.kafka, f"intake.{PRISON}", f"partner.{CHARITY}", lambda: system.pid(WORKER), user=PRISON
        )
        stack.callback(self.door.reader.close)
        replies = Reader(system.kafka, f"replies.{PRISON}")
        stack.callback(replies.close)
        self.door.publish(self.clients.recorded(clients))  # known, but nothing may be told yet
        self._accepted(replies.take(clients))
        self.door.publish(self.clients.granted())
        self._accepted(replies.take(clients))
        self.door.reader.take(clients)  # a snapshot each
        self.door.publish(self.clients.recorded(1000))
        records, answers = self.door.reader.take(1000), self._accepted(replies.take(1000))
        self.record_size = round(statistics.mean(map(len, records)))
        self.reply_size = round(statistics.mean(map(len, answers)))
        self.ceiling_processes = Ceiling(system, self.record_size, self.reply_size)
        stack.callback(self.ceiling_processes.stop)
        first, second = self.ceiling_processes.processes
        self.ceiling = Side(
            system.kafka, "ceiling.intake", "ceiling.partner", lambda: first.pid, user=system.kafka.admin_user
        )
        stack.callback(self.ceiling.reader.close)
        self.ceiling.publish(self._others.recorded(1000))
        self.ceiling.reader.take(1000)
        self.load = Load(
            system,
            {
                "worker": lambda: system.pid(WORKER),
                "discloser": lambda: system.pid(DISCLOSER),
                "ceiling": lambda: first.pid,
                "ceiling2": lambda: second.pid,
            },
        )

    @staticmethod
    def _accepted(replies: list[bytes]) -> list[bytes]:
        for reply in replies:
            if b'"throughgate.event.accepted.v1"' not in reply:
                raise NativeError(f"The door answered {orjson.loads(reply)['data']}.")
        return replies

    def pair(self, events: int, figures: Figures) -> None:
        """One run through the door and one over the same hops with no logic."""
        spent: dict[str, dict[str, float]] = {}
        rates: dict[str, float] = {}
        for name, side, clients in (("door", self.door, self.clients), ("ceiling", self.ceiling, self._others)):
            batch = list(clients.recorded(events))
            with self.load.measured() as spent[name]:
                seconds, records = side.drain(batch)
            rates[name] = events / seconds
            if name == "door":
                check(records, events)
        figures.add("pipeline_events", rates["door"], "events/s")
        figures.add("ceiling_events", rates["ceiling"], "events/s")
        figures.add("pipeline_vs_ceiling", rates["door"] / rates["ceiling"], "ratio")
        for part in ("worker", "discloser", "postgres", "broker"):
            figures.add(f"cpu_{part}", 1e6 * spent["door"][part] / events, "us/event")
        for part in ("postgres", "broker"):
            figures.add(f"cpu_{part}_ceiling", 1e6 * spent["ceiling"][part] / events, "us/event")
        python = spent["ceiling"]["ceiling"] + spent["ceiling"]["ceiling2"]
        figures.add("cpu_python_ceiling", 1e6 * python / events, "us/event")
        say(
            f"  door {rates['door']:6.0f} events/s (others had {spent['door']['others']:.0%} of the machine),"
            f" ceiling {rates['ceiling']:6.0f} ({spent['ceiling']['others']:.0%}),"
            f" ratio {rates['door'] / rates['ceiling']:.2f}"
        )

    def latency(self, rate: float, seconds: float, figures: Figures) -> None:
        """From the time of publishing to the time at which a partner has the record."""
        with self.load.measured() as spent:
            found = self.door.paced(self.clients, rate, seconds)
        cuts = statistics.quantiles(found, n=100)
        figures.add("pipeline_latency_p50", cuts[49], "ms")
        figures.add("pipeline_latency_p99", cuts[98], "ms")
        say(
            f"  p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, most {found[-1]:.1f} ms"
            f" (others had {spent['others']:.0%} of the machine)"
        )


def memory(system: System, figures: Figures, without: tuple[str, ...] = ()) -> None:
    """What each process keeps resident; `without` are the beginnings of names to leave out."""
    for name, size in sorted(system.memory().items()):
        if not name.startswith(without):
            figures.add("memory_" + re.sub(r"\W", "_", name), size / 1e6, "MB")


def warm_starts(count: int, figures: Figures) -> None:
    """Start the whole, all services with fresh servers, again and again; the first does not count."""
    for n in range(count + 1):
        system = System(Postgres(), Kafka(), [PRISON, CHARITY])
        begun = time.perf_counter()
        system.start()
        seconds = time.perf_counter() - begun
        try:
            say(f"  {seconds:.2f} s{' (a warm-up)' if n == 0 else ''}")
            if n:
                figures.add("warm_start", seconds, "s")
                memory(system, figures, without=("consent", "kafka", "postgres"))  # those were seen under load
        finally:
            system.stop()


def measure(options: argparse.Namespace, figures: Figures) -> None:
    """Run everything that the options ask for."""
    with ExitStack() as stack:
        system = the_door([CHARITY], stack)
        bench = Bench(system, options.clients, stack)
        size = len(next(Clients(1).recorded(1))[1])
        say(
            f"{options.clients} clients agreed. An event has {size} bytes, a record {bench.record_size},"
            f" a reply {bench.reply_size}."
        )
        say("Warming up both with one run.")
        bench.pair(options.events, Figures())
        say(f"{options.pairs} pairs, {options.events} events in each run.")
        for _ in range(options.pairs):
            bench.pair(options.events, figures)
            memory(system, figures)
        if options.seconds > 0:
            rate = figures.median("pipeline_events") / 2
            say(f"Latency at half of that, {rate:.0f} events/s, {options.pairs} times {options.seconds:g} s.")
            for _ in range(options.pairs):
                bench.latency(rate, options.seconds, figures)
        if options.profile:
            say("Once more under a sampler.")
            print(profile(system, bench.door, bench.clients, options.events))
    if options.starts:
        say(f"Starting the whole system {options.starts} times.")
        warm_starts(options.starts, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-pipeline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Through make: make bench-pipeline ARGS='--pairs 1 --starts 0 --seconds 0 --profile'\n"
        "Progress goes to standard error; the last lines, on standard output, are\n"
        "  figure NAME MEDIAN UNIT min=LEAST max=GREATEST\n"
        "See docs/reference/figures.md for what each figure means.",
    )
    parser.add_argument(
        "--pairs", type=int, default=5, metavar="N", help="runs of each of the two, in turns (%(default)s)"
    )
    parser.add_argument("--events", type=int, default=15_000, metavar="N", help="events in each run (%(default)s)")
    parser.add_argument("--clients", type=int, default=500, metavar="N", help="clients they are about (%(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=6.0, metavar="S", help="length of each latency run; 0: none (%(default)g)"
    )
    parser.add_argument(
        "--starts", type=int, default=5, metavar="N", help="warm starts of the whole system; 0: none (%(default)s)"
    )
    parser.add_argument(
        "--profile", action="store_true", help="at the end, say where worker and discloser spend their time"
    )
    parser.add_argument("--write", action="store_true", help="put the figures into docs/reference/figures.md too")
    options = parser.parse_args()
    if options.pairs < 1 or options.clients < 1 or options.events < options.clients or options.starts < 0:
        parser.error("--pairs and --clients are at least 1, --events at least --clients, --starts at least 0.")
    return options


def main() -> None:
    """Measure and print."""
    options = _options()
    figures = run(measure, options)
    if options.write:
        write_page(figures)


if __name__ == "__main__":
    main()
