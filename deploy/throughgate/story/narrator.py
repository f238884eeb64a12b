"""Shows the story while it plays: with colours and a spinner on a terminal, as plain lines elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.status import Status
from rich.table import Table


class Narrator:
    """Tells of steps, and of facts in them."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0
        self._status: Status | None = None

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step. It is told before what happens in it, and its time behind."""
        self._number += 1
        self.console.print(f"\n[bold]{self._number:>2}  {escape(title)}[/bold]")
        begun = time.monotonic()
        try:
            if self.console.is_terminal:
                with self.console.status("", spinner="dots") as self._status:
                    yield
            else:
                yield
        except BaseException:
            self.console.print("    [red]✗ not as it must be[/red]")
            raise
        finally:
            self._status = None
        self.console.print(f"    [green]✓[/green] [dim]{time.monotonic() - begun:.1f} s[/dim]")

    def fact(self, text: str) -> None:
        """Something that was seen."""
        self.console.print(f"    [cyan]·[/cyan] {escape(text)}", soft_wrap=not self.console.is_terminal)

    def aside(self, text: str) -> None:
        """Something that happens meanwhile."""
        self.console.print(f"    [yellow]![/yellow] {escape(text)}")

    def waiting(self, text: str) -> None:
        """What is waited for now; an empty text for nothing."""
        if self._status is not None:
            self._status.update(f"[dim]{escape(text)}[/dim]" if text else "")

    def heading(self, text: str) -> None:
        """A part of the end."""
        self.console.print(f"\n[bold]{escape(text)}[/bold]")

    def line(self, text: str = "") -> None:
        """A plain line."""
        self.console.print(escape(text), soft_wrap=not self.console.is_terminal)

    def table(self, *columns: str, rows: list[tuple[str, ...]]) -> None:
        """A small table."""
        table = Table(*columns, box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        self.console.print(Padding(table, (0, 0, 0, 4)))
