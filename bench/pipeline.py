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
import json
import os
import platform
import re
import signal
import statistics
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import NewTopic

from bench.figures import Figures, say
from throughgate.native.kafka import KAFKA_VERSION, Kafka
from throughgate.native.postgres import Postgres
from throughgate.native.process import NativeError, Process
from throughgate.system import System

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "reference" / "figures.md"
PRISON, CHARITY = "hmp-leeds", "harbour-housing"
WORKER, DISCLOSER = "consent.worker", "consent.discloser"
SHARED = ["identity", "custody-and-release", "needs.accommodation", "equality"]
"""What the agreement covers: not the risk that the prison records too, so every record is cut."""
PATIENCE = 120.0
"""Seconds without any record after which a run is given up."""


# --- events -----------------------------------------------------------------------------------------------------------


class Clients:
    """The prison's clients, each with its two numbers and the surrogate that is its Kafka key."""

    def __init__(self, count: int) -> None:
        self._numbers = [
            [
                {"type": "NOMS", "value": f"A{n % 10_000:04}{chr(65 + n // 10_000)}X"},
                {"type": "PNC", "value": f"2004/{n:07}H"},
            ]
            for n in range(count)
        ]
        self._keys = [str(uuid4()).encode() for _ in range(count)]
        self._versions = [0] * count
        self._turn = 0

    def granted(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and bytes of an event for each: the client agrees that the charity is told."""
        for key, numbers in zip(self._keys, self._numbers, strict=True):
            data = {
                "identifiers": numbers,
                "form": uuid4().hex,
                "recipients": [{"agency": CHARITY}],
                "purposes": ["referral"],
                "categories": SHARED,
                "givenAt": datetime.now(UTC),
                "how": {"formVersion": "2026-1", "witnessRole": "resettlement worker"},
            }
            yield key, _event("consent.granted", data)

    def recorded(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and bytes of `count` events with facts, client after client: 0.8 kB each, as a case system sends them."""
        for _ in range(count):
            n = self._turn = (self._turn + 1) % len(self._keys)
            self._versions[n] += 1
            facts = {
                "identity": {
                    "givenName": "Daniel",
                    "familyName": f"Example{n}",
                    "dateOfBirth": "1991-04-17",
                    "gender": "male",
                },
                "custody-and-release": {
                    "prison": "LEI",
                    "status": "sentenced",
                    "releaseDate": "2026-04-11",
                    "releaseKind": "conditional",
                },
                "needs.accommodation": {
                    "level": "urgent",
                    "summary": "No address to go to on the day of release; was staying with friends before.",
                    "area": "leeds",
                },
                "risk": {"harm": "medium"},
                "equality": {"language": "en", "interpreterNeeded": False},
            }
            data = {"identifiers": self._numbers[n], "facts": facts}
            yield self._keys[n], _event("client.recorded", data, clientversion=self._versions[n])


def _event(kind: str, data: dict[str, Any], **more: Any) -> bytes:
    return orjson.dumps(
        {
            "specversion": "1.0",
            "id": str(uuid4()),
            "source": f"/agencies/{PRISON}/case-system",
            "type": f"throughgate.{kind}.v1",
            "time": datetime.now(UTC),
            "datacontenttype": "application/json",
            "data": data,
        }
        | more
    )


# --- topics -----------------------------------------------------------------------------------------------------------


class Reader:
    """Reads one topic from now on, committed records only; in C, so that it takes little from what is measured."""

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self._topic = topic
        self._consumer = Consumer(
            kafka.client_config()
            | {"group.id": "bench", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        places = [TopicPartition(topic, p) for p in partitions]
        for place in places:
            place.offset = self._end(place)
        self._consumer.assign(places)

    def _end(self, place: TopicPartition) -> int:
        until = time.monotonic() + 15
        while True:
            try:
                return int(self._consumer.get_watermark_offsets(place, timeout=10)[1])
            except KafkaException:  # a topic made just now may have no leader yet
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def take(self, count: int) -> list[bytes]:
        """The next `count` records."""
        found: list[bytes] = []
        heard = time.monotonic()
        while len(found) < count:
            messages = self._consumer.consume(1000, timeout=0.01)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise NativeError(f"Only {len(found)} of {count} records arrived in {self._topic}.")
            found += [_value(m) for m in messages]
        return found

    def take_timed(self, count: int) -> list[tuple[float, bytes]]:
        """The next `count` records, each with the time at which it was here."""
        found: list[tuple[float, bytes]] = []
        heard = time.monotonic()
        while len(found) < count:
            message = self._consumer.poll(1.0)
            if message is not None:
                found.append((time.time(), _value(message)))
                heard = time.monotonic()
            elif time.monotonic() - heard > PATIENCE:
                raise NativeError(f"Only {len(found)} of {count} records arrived in {self._topic}.")
        return found

    def close(self) -> None:
        """Close the connection."""
        self._consumer.close()


def _value(message: Any) -> bytes:
    if message.error():
        raise KafkaException(message.error())
    value: bytes = message.value()
    return value


class Side:
    """One of the two that are compared: where its events go in and come out, and whom to stop while they are loaded."""

    def __init__(self, kafka: Kafka, intake: str, partner: str, first: Callable[[], int], user: str) -> None:
        self.reader = Reader(kafka, partner)
        self._intake = intake
        self.first = first
        config = kafka.client_config(user) | {"acks": "all", "linger.ms": 2}
        self._producer = Producer(config | {"queue.buffering.max.messages": 1_000_000})

    def publish(self, events: Iterable[tuple[bytes, bytes]]) -> None:
        """Publish and wait for the broker."""
        for key, value in events:
            self._producer.produce(self._intake, value, key=key)
        if self._producer.flush(60):
            raise NativeError(f"The broker did not take all events for {self._intake}.")

    def drain(self, events: Sequence[tuple[bytes, bytes]]) -> tuple[float, list[bytes]]:
        """Load `events` while the first process stands still; give the seconds from waking it to the last record.

        It is stopped, not ended: it is warm and has its partitions, so that no start is measured.
        """
        os.kill(self.first(), signal.SIGSTOP)
        try:
            self.publish(events)
        finally:
            begun = time.perf_counter()
            os.kill(self.first(), signal.SIGCONT)
        records = self.reader.take(len(events))
        return time.perf_counter() - begun, records

    def paced(self, clients: Clients, rate: float, seconds: float) -> list[float]:
        """Publish at a steady rate; give the milliseconds from each event's time to its record being here.

        The event's time is that of publishing it, and the record says it again in `recordedAt`.
        """
        count = int(rate * seconds)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(self.reader.take_timed, count)
            begun = time.monotonic()
            sent = 0
            while sent < count:
                due = min(count, int((time.monotonic() - begun) * rate) + 1)
                for key, value in clients.recorded(due - sent):
                    self._producer.produce(self._intake, value, key=key)
                sent = due
                self._producer.poll(0)
                time.sleep(0.001)
            self._producer.flush(30)
            arrived = reading.result()
        return sorted(1000 * (at - _recorded_at(value)) for at, value in arrived)


def _recorded_at(value: bytes) -> float:
    return datetime.fromisoformat(orjson.loads(value)["data"]["sections"][0]["recordedAt"]).timestamp()


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


# --- what runs --------------------------------------------------------------------------------------------------------


async def prepare(system: System) -> None:
    """Register the two agencies and enter the agreement between them."""
    token = system.issuer.token("operations", "operator", ["operator", "agreements:read"])
    headers = {"Authorization": f"Bearer {token}"}
    terms = {"purpose": "referral", "basis": "consent", "categories": SHARED, "subscription": True}
    agreement = {
        "id": "resettlement",
        "version": 1,
        "sources": [PRISON],
        "recipients": [CHARITY],
        "terms": [terms],
        "signatories": {PRISON: "A. Governor", CHARITY: "A. Director"},
        "starts": "2025-01-01T00:00:00Z",
        "review": "2098-01-01T00:00:00Z",
        "ends": "2099-01-01T00:00:00Z",
    }
    async with httpx.AsyncClient(base_url=system.urls["consent"], headers=headers) as http:
        for id, kind in ((PRISON, "prison"), (CHARITY, "vcs")):
            agency = {"name": id, "kind": kind, "area": "leeds"}
            (await http.put(f"/agencies/{id}", json=agency)).raise_for_status()
        (await http.post("/agreements", json=agreement)).raise_for_status()


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
        asyncio.run(prepare(system))
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


# --- profile ----------------------------------------------------------------------------------------------------------


def profile(bench: Bench, events: int, folder: Path) -> str:
    """Run the door once more with both processes under bench/sampled.py; give what they say, as text."""
    system = bench.system
    processes: dict[str, Process] = {}
    for name in (WORKER, DISCLOSER):
        system.stop_process(name)
        out = folder / f"{name}.json"
        processes[name] = Process(
            f"{name}, sampled",
            [sys.executable, HERE / "sampled.py", name, out],
            log=system.log(name),
            env=system.environment(name),
            cwd=system.run_dir,
        )
        processes[name].start()
    try:
        for name in processes:
            _wait_ready(system, name)
        bench.door.publish(bench.clients.recorded(1000))
        bench.door.reader.take(1000)
        side, batch = bench.door, list(bench.clients.recorded(events))
        side.first = lambda: processes[WORKER].pid
        for process in processes.values():
            process.kill(signal.SIGUSR2)  # begin
        seconds, _ = side.drain(batch)
        for process in processes.values():
            process.kill(signal.SIGUSR2)  # end, and write
        reports = [_report(name, folder / f"{name}.json", events, seconds) for name in processes]
    finally:
        for process in processes.values():
            process.stop()
    return f"{events} events in {seconds:.2f} s under the sampler.\n\n" + "\n".join(reports)


def _wait_ready(system: System, name: str) -> None:
    until = time.monotonic() + 60
    while True:
        with suppress(OSError), urllib.request.urlopen(system.process_url(name) + "/readyz", timeout=2) as answer:
            if answer.status == 200:
                return
        if time.monotonic() > until:
            raise NativeError(f"{name} was not ready under the sampler; see {system.log(name)}.")
        time.sleep(0.05)


def _report(name: str, path: Path, events: int, seconds: float) -> str:
    until = time.monotonic() + 10
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    found = json.loads(path.read_text())
    samples = max(1e-9, sum(found["self"].values()))
    lines = [f"{name}: {found['cpu']:.2f} s of CPU, {1e6 * found['cpu'] / events:.0f} us an event"]
    by_part: dict[str, float] = defaultdict(float)
    for place, count in found["self"].items():
        by_part[place.partition(":")[0]] += count
    collected = found["collecting"] / max(found["cpu"], 1e-9)
    lines.append(
        f"  {collected:.0%} of it in {found['collections']} garbage collections, in whichever function they began"
    )
    lines.append("  CPU by library (C code counts at the Python code that runs next)")
    lines += _shares(by_part, samples, 12)
    lines.append("  CPU by function of ours, with what it calls")
    lines += _shares(found["total"], samples, 32)
    lines.append("  CPU by function, alone")
    lines += _shares(found["self"], samples, 20)
    lines.append("  time by step, waiting included (share of the whole run; steps hold each other)")
    lines += [
        f"    {1e6 * spent / events:7.1f} us/event {spent / seconds:6.1%}  {step} ({calls} calls)"
        for step, (calls, spent) in sorted(found["steps"].items(), key=lambda item: -item[1][1])
    ]
    if found["missing"]:
        lines.append(f"    not found, so to be corrected in bench/sampled.py: {', '.join(found['missing'])}")
    return "\n".join(lines) + "\n"


def _shares(counts: Mapping[str, float], samples: float, most: int) -> list[str]:
    ranked = sorted(counts.items(), key=lambda item: -item[1])[:most]
    return [f"    {count / samples:6.1%}  {place}" for place, count in ranked]


# --- the command ------------------------------------------------------------------------------------------------------


def machine() -> str:
    """What it was measured on, in a line."""
    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    gigabytes = psutil.virtual_memory().total / 2**30
    return (
        f"{os.cpu_count()} CPUs ({model}), {gigabytes:.0f} GiB, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, Kafka {KAFKA_VERSION}"
    )


def write_page(figures: Figures) -> None:
    """Put the figures between the two marks in docs/reference/figures.md."""
    begin, end = "<!-- figures: begin -->\n", "<!-- figures: end -->"
    head, _, rest = PAGE.read_text().partition(begin)
    _, _, tail = rest.partition(end)
    table = [f"Measured on {datetime.now(UTC):%Y-%m-%d}: {machine()}.", "", "| figure | median | unit | min | max |"]
    table += ["| --- | --- | --- | --- | --- |", *(f"| `{row[0]}` | {' | '.join(row[1:])} |" for row in figures.rows())]
    PAGE.write_text(f"{head}{begin}" + "\n".join(table) + f"\n{end}{tail}")


def measure(options: argparse.Namespace, figures: Figures) -> str:
    """Run everything that the options ask for; give the profile, if any."""
    profiled = ""
    with ExitStack() as stack:
        say("Starting PostgreSQL, Kafka and the door.")
        system = System(Postgres(durable=True), Kafka(optimise=True), [PRISON, CHARITY], services=["consent"])
        stack.enter_context(system)
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
            profiled = profile(bench, options.events, system.run_dir)
    if options.starts:
        say(f"Starting the whole system {options.starts} times.")
        warm_starts(options.starts, figures)
    return profiled


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
    options, figures = _options(), Figures()
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        profiled = measure(options, figures)
    except NativeError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    say(f"Done in {time.monotonic() - begun:.0f} s on {machine()}.")
    if profiled:
        print(profiled)
    figures.print()
    if options.write:
        write_page(figures)


if __name__ == "__main__":
    main()
