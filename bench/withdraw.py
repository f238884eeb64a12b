"""Measure withdrawals under load: how long until each is done, and whether anything stands behind a retraction.

What runs: real PostgreSQL (fsync on), real Kafka, the door as one worker and one discloser, a prison that publishes and
four charities that subscribe by the clients' consent: each change makes four records, so that the discloser has the
most to do. While it discloses, clients withdraw and consent again, at random.

At full load the publisher sends as fast as the discloser goes, with so many records on their way at most; at half load
it sends at half of that rate, at light load at a tenth of it: still more than a country's prisons have to say. A
withdrawal's time runs from before it is published until its publisher has read `withdrawal.done`, which says that its
four retractions are committed (`withdraw_ack_...`), or until the last charity has read its retraction
(`withdraw_read_...`).
"""

import argparse
import gc
import random
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import orjson
from confluent_kafka import Producer

from bench.common import PRISON, SHARED, Reader, consumer, the_door
from bench.figures import Figures, run, say
from contracts.leaving import RETRACTED
from throughgate.native.kafka import Kafka
from throughgate.native.process import NativeError
from throughgate.promises import Placed, behind_retraction
from throughgate.system import System

CHARITIES = [f"charity-{n}" for n in range(4)]
PATIENCE = 60.0
LOADS = {"full": 1.0, "half": 0.5, "light": 0.1}
"""Parts of what the discloser can do, in turns."""
AGAIN_SECONDS = 0.5
"""After this a client who withdrew consents again."""


class Follower:
    """Reads a topic in a thread of its own, from its beginning, and remembers when each record was here.

    What is in a record is read after the clock: hundreds of thousands of parsed ones made the collector of garbage stop
    this process, and with it every clock in it, for most of a second.
    """

    def __init__(self, kafka: Kafka, topic: str) -> None:
        self.found: list[tuple[float, int, int, bytes]] = []
        """When, partition, offset, value."""
        self._consumer, places = consumer(kafka, topic, **{"fetch.wait.max.ms": 5})
        self._consumer.assign(places)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            first = self._consumer.poll(0.1)
            for message in () if first is None else (first, *self._consumer.consume(500, timeout=0)):
                value = message.value()
                if message.error() is None and value is not None:
                    self.found.append((time.monotonic(), message.partition() or 0, message.offset() or 0, value))

    def told(self, type: str) -> Iterator[tuple[float, Placed]]:
        """The events of one type."""
        name = type.encode()
        for at, partition, offset, value in list(self.found):
            if name in value:
                placed = Placed(partition, offset, orjson.loads(value))
                if placed.event["type"] == type:
                    yield at, placed

    def stop(self) -> None:
        """Read no more."""
        self._ended.set()
        self._thread.join()
        self._consumer.close()


class Bench:
    """Everything started; the publisher and those who read."""

    def __init__(self, system: System, clients: int, stack: ExitStack) -> None:
        self._numbers = [{"type": "NOMS", "value": f"A{n % 10_000:04}{chr(65 + n // 10_000)}X"} for n in range(clients)]
        self._keys = [uuid4().hex.encode() for _ in range(clients)]
        config = system.kafka.client_config(PRISON) | {"acks": "all", "linger.ms": 1}
        self._producer = Producer(config | {"queue.buffering.max.messages": 1_000_000})
        answers = Reader(system.kafka, f"replies.{PRISON}")
        stack.callback(answers.close)
        for n in range(clients):
            self._change(n)
            self._consent(n)
        self._producer.flush(30)
        answers.take(2 * clients)
        self.replies = Follower(system.kafka, f"replies.{PRISON}")
        self.partners = [Follower(system.kafka, f"partner.{name}") for name in CHARITIES]
        for follower in (self.replies, *self.partners):
            stack.callback(follower.stop)
        self._withdrawals: dict[str, float] = {}
        """By event id, when it was published."""

    def _publish(self, n: int, kind: str, data: dict[str, Any]) -> str:
        id = str(uuid4())
        now = time.time()
        body = {
            "specversion": "1.0",
            "id": id,
            "source": f"/agencies/{PRISON}",
            "type": f"throughgate.{kind}.v1",
            "time": _iso(now),
            "data": {"identifiers": [self._numbers[n]], **data},
        }
        self._producer.produce(f"intake.{PRISON}", orjson.dumps(body), key=self._keys[n])
        self._producer.poll(0)
        return id

    def _change(self, n: int) -> None:
        need = {"level": "urgent", "summary": "No address to go to on the day of release.", "area": "leeds"}
        names = {"givenName": "Daniel", "familyName": f"Example{n}"}
        self._publish(n, "client.recorded", {"facts": {"identity": names, "needs.accommodation": need}})

    def _consent(self, n: int) -> None:
        consent = {
            "form": uuid4().hex,
            "recipients": [{"agency": c} for c in CHARITIES],
            "purposes": ["referral"],
            "categories": SHARED,
            "givenAt": _iso(time.time()),
            "how": {"formVersion": "2026-1"},
        }
        self._publish(n, "consent.granted", consent)

    def load(self, seconds: float, rate: float | None, window: int, withdrawals: float) -> tuple[float, list[str]]:
        """Publish for so long, at `rate` records a second or with at most `window` on their way; withdraw meanwhile.
        No garbage is collected until all is done.

        Gives the records a second that the charities got, and the ids of the withdrawals.
        """
        gc.collect()
        gc.disable()
        begun, already = time.monotonic(), self._received()
        sent, asked, made = 0, 0, []
        due_again: list[tuple[float, int]] = []
        out: set[int] = set()
        while (now := time.monotonic()) < begun + seconds:
            room = (now - begun) * rate - sent if rate else window - (sent - (self._received() - already))
            for _ in range(max(0, min(200, int(room) // len(CHARITIES)))):
                self._change(_one_of(self._keys, out))
                sent += len(CHARITIES)
            while asked < (now - begun) * withdrawals:
                asked += 1
                n = _one_of(self._keys, out)
                out.add(n)
                at = time.monotonic()
                id = self._publish(n, "consent.withdrawn", {"scope": "everything", "withdrawnAt": _iso(time.time())})
                self._withdrawals[id] = at
                made.append(id)
                due_again.append((now + AGAIN_SECONDS, n))
            while due_again and due_again[0][0] <= now:
                _, n = due_again.pop(0)
                out.discard(n)
                self._consent(n)
            self._producer.poll(0)
            time.sleep(0.001)
        disclosed = (self._received() - already) / (time.monotonic() - begun)
        for _, n in due_again:
            self._consent(n)
        self._producer.flush(30)
        self._wait(made)
        gc.enable()
        return disclosed, made

    def _received(self) -> int:
        return sum(len(partner.found) for partner in self.partners)

    def _done(self) -> Iterator[tuple[str, float, dict[str, Any]]]:
        for at, reply in self.replies.told("throughgate.withdrawal.done.v1"):
            yield reply.event["data"]["event"], at, reply.event["data"]

    def _wait(self, made: list[str]) -> None:
        until = time.monotonic() + PATIENCE
        while not set(made) <= {id for id, _, _ in self._done()}:
            if time.monotonic() > until:
                raise NativeError("A withdrawal was not done.")
            time.sleep(0.05)
        quiet, before = 0, -1  # and until all that is queued has left
        while quiet < 20:
            quiet, before = (quiet + 1 if self._received() == before else 0), self._received()
            time.sleep(0.05)

    def times(self, made: list[str]) -> tuple[list[float], list[float]]:
        """Milliseconds of each withdrawal until its publisher knew, and until the last charity had read it."""
        read: dict[tuple[str, int, int], float] = {}
        for name, partner in zip(CHARITIES, self.partners, strict=True):
            for at, record in partner.told(RETRACTED):
                read[f"partner.{name}", record.partition, record.offset] = at
        wanted = set(made)
        acknowledged, erased = [], []
        for id, at, data in self._done():
            if id in wanted:
                acknowledged.append(1000 * (at - self._withdrawals[id]))
                places = [(d["topic"], d["partition"], d["offset"]) for d in data["recipients"]]
                erased.append(1000 * (max(read[place] for place in places) - self._withdrawals[id]))
        return acknowledged, erased

    def behind(self) -> int:
        """Records that stand behind a retraction and must not, over all topics."""
        return sum(
            len(behind_retraction(Placed(p, o, orjson.loads(value)) for _, p, o, value in partner.found))
            for partner in self.partners
        )


def _one_of(keys: list[bytes], out: set[int]) -> int:
    """A client who has not just withdrawn."""
    while (n := random.randrange(len(keys))) in out:
        pass
    return n


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1e6):06}Z"


def measure(options: argparse.Namespace, figures: Figures) -> None:
    """Run the rounds: full, half, light, full, half, light."""
    with ExitStack() as stack:
        bench = Bench(the_door(CHARITIES, stack), options.clients, stack)
        say("Warming up.")
        bench.load(3, None, options.window, options.withdrawals)
        withdrawn = 0
        for _ in range(options.rounds):
            capacity = 0.0
            for name, part in LOADS.items():
                rate = None if name == "full" else capacity * part
                disclosed, made = bench.load(options.seconds, rate, options.window, options.withdrawals)
                capacity = capacity or disclosed
                withdrawn += len(made)
                figures.add(f"disclosed_{name}_load", disclosed, "events/s")
                for what, values in zip(("ack", "read"), bench.times(made), strict=True):
                    cuts = statistics.quantiles(values, n=100)
                    suffix = "" if name == "half" else f"_{name}"
                    figures.add(f"withdraw_{what}{suffix}_p50", cuts[49], "ms")
                    figures.add(f"withdraw_{what}{suffix}_p99", cuts[98], "ms")
                    if what == "ack":
                        say(f"  {name}: {disclosed:.0f} events/s, p50 {cuts[49]:.0f} ms, p99 {cuts[98]:.0f} ms")
        found = bench.behind()
        figures.add("withdrawals", withdrawn, "events")
        figures.add("disclosed_after_ack", found, "events")


def main() -> None:
    """Measure and print. Ends with status 1 when anything stands behind a retraction."""
    parser = argparse.ArgumentParser(
        prog="make bench-withdraw", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of full, half and light load (%(default)s)")
    parser.add_argument("--seconds", type=float, default=6.0, metavar="S", help="of each load (%(default)g)")
    parser.add_argument("--clients", type=int, default=400, metavar="N", help="clients (%(default)s)")
    parser.add_argument("--window", type=int, default=4000, metavar="N", help="records on their way (%(default)s)")
    parser.add_argument("--withdrawals", type=float, default=20, metavar="N", help="a second (%(default)g)")
    if run(measure, parser.parse_args()).median("disclosed_after_ack"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
