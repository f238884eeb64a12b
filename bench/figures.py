"""What a bench measured, and how it says so: progress on standard error, figures on standard output."""

import argparse
import os
import platform
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil

from throughgate.native.kafka import KAFKA_VERSION
from throughgate.native.process import NativeError

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "figures.md"


class Figures:
    """What was measured: by name a unit and one value a round."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, list[float]]] = {}

    def add(self, name: str, value: float, unit: str) -> None:
        """Add one round's value."""
        self._found.setdefault(name, (unit, []))[1].append(value)

    def values(self, name: str) -> list[float]:
        """The values so far."""
        return self._found[name][1]

    def median(self, name: str) -> float:
        """The middle of the values so far."""
        return statistics.median(self.values(name))

    def rows(self) -> Iterator[tuple[str, str, str, str, str]]:
        """Name, median, unit, least, greatest."""
        for name, (unit, values) in self._found.items():
            shown = (_number(v, unit) for v in (statistics.median(values), min(values), max(values)))
            median, least, greatest = shown
            yield name, median, unit, least, greatest

    def print(self) -> None:
        """One line a figure."""
        sys.stderr.flush()
        for name, value, unit, least, greatest in self.rows():
            print(f"figure {name} {value} {unit} min={least} max={greatest}")


def _number(value: float, unit: str) -> str:
    return f"{value:.2f}" if unit in ("ratio", "s") else f"{value:.1f}" if unit in ("ms", "us") else f"{value:.0f}"


def say(text: str) -> None:
    """A line of progress, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def run(measure: Callable[[argparse.Namespace, Figures], None], options: argparse.Namespace) -> Figures:
    """A bench as a command: measure, and print the figures."""
    figures, begun = Figures(), time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        measure(options, figures)
    except NativeError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit("Stopped.") from None
    say(f"Done in {time.monotonic() - begun:.0f} s on {machine()}.")
    figures.print()
    return figures


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
