"""What a bench measured, and how it says so: progress on standard error, figures on standard output."""

import statistics
import sys
from collections.abc import Iterator


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
