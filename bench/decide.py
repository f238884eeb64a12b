"""Measure the rules alone: the whole call of `decide` from Python, beside three peers that answer the same questions.

Peers are cedarpy (Cedar), regorus (Rego, interpreted and on its virtual machine) and pycasbin. A question is one
recipient, one purpose and 8 to 17 items; a client has 1, 5, 20 or 50 consents, and there are as many agreements. The
verdict is the set of items that may leave; before anything is measured, all must give the same one for every case.
There is no cache between facts and a decision: each call begins from the client's plain facts. What does not belong to
one client (agreements, kinds of agency) the peers have parsed and indexed beforehand, and their facts and questions
are in the form that they would be stored in. That is JSON text for them and Python objects for us, so the fastest is
measured in two more ways: both from Python objects (`..._from_facts`), and both from JSON text (`..._from_stored`).
The engines take turns (A B A B ...).

Then the store: loading one client's facts and deciding, with 100 and with 100,000 clients in a real PostgreSQL.
"""

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Sequence

from bench.figures import Figures, run, say
from bench.peers.casbin import Casbin
from bench.peers.cases import Case, Ours, OursFromStored, Peer, Verdict, make
from bench.peers.cedar import Cedar
from bench.peers.rego import Interpreter, Machine, MachineFromFacts
from bench.store import compare
from consent.domain import Policy

PEERS: tuple[type[Peer], ...] = (Machine, Interpreter, Cedar, Casbin)
ENGINES: tuple[type[Peer], ...] = (Ours, *PEERS, MachineFromFacts, OursFromStored)
POLICIES = 8
"""Different sets of agreements of each size."""
LONG_ENOUGH = 0.05
"""Seconds that one measurement of one engine takes at least."""


class Race:
    """All engines on the cases of one size."""

    def __init__(self, size: int, sets: Sequence[tuple[Policy, Sequence[Case]]]) -> None:
        self.size = size
        self._cases = [case for _, cases in sets for case in cases]
        self._calls: dict[str, list[Callable[[], Verdict]]] = {engine.name: [] for engine in ENGINES}
        for policy, cases in sets:
            for engine in ENGINES:
                peer = engine(policy)
                self._calls[engine.name] += [peer.prepare(case) for case in cases]
        self._repeats: dict[str, int] = {}

    def agree(self) -> float:
        """Assert that every engine gives the same verdict in every case; the share of items that may leave."""
        permitted = asked = 0
        for n, case in enumerate(self._cases):
            verdicts: dict[str, Verdict] = {name: calls[n]() for name, calls in self._calls.items()}
            ours = verdicts[Ours.name]
            permitted, asked = permitted + len(ours), asked + len(case.question.items)
            for name, verdict in verdicts.items():
                if verdict != ours:
                    raise SystemExit(f"{name} differs in case {n} of size {self.size}: {verdict ^ ours}")
        return permitted / asked

    def warm_up(self, only: int) -> None:
        """Measure on `only` cases, the same of each engine; find out how often each must run to be measured well."""
        for name, calls in self._calls.items():
            calls[:] = calls[:: len(calls) // only][:only]
            self._repeats[name] = max(1, round(LONG_ENOUGH / _seconds(calls, 1)))

    def run(self, figures: Figures) -> None:
        """One round: each engine once."""
        spent = {
            name: 1e6 * _seconds(calls, self._repeats[name]) / len(calls) / self._repeats[name]
            for name, calls in self._calls.items()
        }
        for name, value in spent.items():
            figures.add(f"{name}_us_{self.size}", value, "us")
        ours, fastest = spent[Ours.name], min(spent[peer.name] for peer in PEERS)
        figures.add(f"decide_vs_fastest_peer_{self.size}", fastest / ours, "ratio")
        figures.add(f"decide_vs_regorus_from_facts_{self.size}", spent[MachineFromFacts.name] / ours, "ratio")
        stored = spent[Machine.name] / spent[OursFromStored.name]
        figures.add(f"decide_vs_regorus_from_stored_{self.size}", stored, "ratio")


def _seconds(calls: Sequence[Callable[[], Verdict]], repeats: int) -> float:
    gc.collect()
    gc.disable()
    try:
        begun = time.perf_counter()
        for _ in range(repeats):
            for call in calls:
                call()
        return time.perf_counter() - begun
    finally:
        gc.enable()


def race(options: argparse.Namespace, figures: Figures) -> None:
    """Check that all agree, then measure in turns."""
    races = []
    for size in options.sizes:
        sets = [make(size, options.checks // POLICIES, f"{options.seed}/{n}") for n in range(POLICIES)]
        found = Race(size, sets)
        share = found.agree()
        say(f"{size} consents and agreements: all agree in {options.checks} cases; {share:.0%} of the items may leave.")
        found.warm_up(options.cases)
        races.append(found)
    say(f"{options.rounds} rounds, {options.cases} cases of each size.")
    for n in range(options.rounds):
        for found in races:
            found.run(figures)
        ratios = ", ".join(
            f"{size}: {figures.values(f'decide_vs_fastest_peer_{size}')[-1]:.1f}" for size in options.sizes
        )
        say(f"  round {n + 1}: the fastest peer takes this many times as long: {ratios}")
    worst = min(options.sizes, key=lambda size: figures.median(f"decide_vs_fastest_peer_{size}"))
    for value in figures.values(f"decide_vs_fastest_peer_{worst}"):
        figures.add("decide_vs_fastest_peer", value, "ratio")
    say(f"Nearest to a peer with {worst} consents and agreements: `decide_vs_fastest_peer` is the ratio there.")


def store(options: argparse.Namespace, figures: Figures) -> None:
    """The same decision with few and with many clients in the store."""
    say(f"Filling two databases, with {options.few} and with {options.many} clients.")
    for few, many in asyncio.run(compare(options.few, options.many, options.rounds, options.decisions)):
        figures.add("decide_store_few", few, "us")
        figures.add("decide_store_many", many, "us")
        figures.add("decide_store", many / few, "ratio")
        say(f"  median of {options.decisions} loads and decisions: {few:.0f} us and {many:.0f} us, {many / few:.2f}")


def _sizes(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-decide",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Through make: make bench-decide ARGS='--sizes 50 --rounds 9 --many 0'\n"
        "Progress goes to standard error; the last lines, on standard output, are\n"
        "  figure NAME MEDIAN UNIT min=LEAST max=GREATEST\n"
        "where NAME is ENGINE_us_SIZE (microseconds a call), decide_vs_fastest_peer_SIZE (how many times as long the\n"
        "fastest peer takes), decide_vs_regorus_from_facts_SIZE and _from_stored_SIZE (the same with the same input\n"
        "on both sides: objects, JSON text), decide_vs_fastest_peer (that of the worst size), decide_store_few,\n"
        "decide_store_many and decide_store (the two loads and decisions, and the one divided by the other).",
    )
    add = parser.add_argument
    add("--sizes", type=_sizes, default=[1, 5, 20, 50], metavar="N,N", help="consents, and agreements (1,5,20,50)")
    add("--rounds", type=int, default=7, metavar="N", help="turns of all engines (%(default)s)")
    add("--cases", type=int, default=40, metavar="N", help="cases of each size that are measured (%(default)s)")
    add("--checks", type=int, default=400, metavar="N", help="cases in which all must agree first (%(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="another seed makes other cases (%(default)s)")
    add("--few", type=int, default=100, metavar="N", help="clients in the small store (%(default)s)")
    add("--many", type=int, default=100_000, metavar="N", help="clients in the large store; 0: no store (%(default)s)")
    add("--decisions", type=int, default=300, metavar="N", help="loads and decisions a round and store (%(default)s)")
    options = parser.parse_args()
    if min(options.rounds, options.cases, options.few, options.decisions, *options.sizes) < 1:
        parser.error("--sizes, --rounds, --cases, --few and --decisions are at least 1.")
    if options.checks < options.cases or options.checks % POLICIES:
        parser.error(f"--checks is at least --cases (what is measured is checked first) and a multiple of {POLICIES}.")
    return options


def measure(options: argparse.Namespace, figures: Figures) -> None:
    """Run everything that the options ask for."""
    race(options, figures)
    if options.many:
        store(options, figures)


if __name__ == "__main__":
    run(measure, _options())
