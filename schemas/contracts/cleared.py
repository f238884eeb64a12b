"""What each of our services keeps of a client who is cleared for it, and what a retraction does to that.

Pure: no I/O, no clock. `contracts.cleared_rows` has the statements, `contracts.door` the conversation that fills it.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from contracts.vocabulary import Category


@dataclass(frozen=True, slots=True)
class Section:
    """One category of one client as one agency recorded it, cut to the fields that the service needs."""

    source: str
    category: Category
    recorded_at: datetime
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stop:
    """What a retraction takes back from one of our services (`contracts.leaving.WithdrawnData`)."""

    version: int
    """Of what was said about sharing: nothing that was decided on an older one counts any more."""
    categories: frozenset[Category] | None = None
    """None: every category."""
    recipients: frozenset[str] | None = None
    """Agencies that the service no longer tells; it keeps its facts. None: it is the service that stops and erases."""

    def takes(self, category: Category) -> bool:
        """Whether it reaches what is of this category."""
        return self.categories is None or category in self.categories

    def reaches(self, agency: str | None) -> bool:
        """Whether it reaches what this agency was told, or asked to be told; None: what nobody was told yet."""
        return self.recipients is None or agency in self.recipients


@dataclass(slots=True)
class Client:
    """What one service keeps of one client. Only ever changed by whoever holds the client's row lock."""

    reference: UUID
    tombstone: int | None = None
    """The version of the latest retraction. It is kept for ever."""
    avoided: set[str] = field(default_factory=set)
    """Agencies that retractions named to the service: they are to be told no more, as far as it knows."""
    sections: dict[tuple[str, Category], Section] = field(default_factory=dict)
    changed: set[tuple[str, Category]] = field(default_factory=set)
    """Of which sections the rows are to be written, or erased where the section is gone."""
    erased: set[Category] = field(default_factory=set)
    """Of which categories the service erases, with the sections, what it worked out from them."""
    stopped: bool = False
    """Whether the tombstone is to be written."""

    def covered(self, decided_on: int) -> bool:
        """Whether a record that was decided on this version is from before the tombstone."""
        return self.tombstone is not None and decided_on < self.tombstone

    def heard(self, decided_on: int) -> None:
        """A record came that was decided on this version. Avoided agencies may be told again if more was said since."""
        if self.tombstone is None or decided_on > self.tombstone:
            self.avoided.clear()

    def keep(self, *sections: Section) -> None:
        """Take sections in, in their order, each in the place of what came before of its category from its source.

        Their times do not matter: they are by the source's clock, which may have been wrong. The door goes by arrival,
        too, and what it sends under one key comes in that order.
        """
        kept = {(section.source, section.category): section for section in sections}
        self.sections |= kept
        self.changed |= kept.keys()

    def forget(self, stop: Stop, told: Collection[Category]) -> None:
        """Keep the tombstone, and erase the sections that are taken back.

        A retraction for other recipients erases nothing here: these are avoided from now on, if it takes any of the
        categories by which they are `told`. A retraction of everything also forgets whom earlier ones named.
        """
        self.tombstone = max(stop.version, self.tombstone or 0)
        self.stopped = True
        if stop.recipients is not None:
            if any(stop.takes(category) for category in told):
                self.avoided |= stop.recipients
            return
        if stop.categories is None:
            self.avoided.clear()
        self.erased |= {category for category in Category if stop.takes(category)}
        for key in [key for key in self.sections if stop.takes(key[1])]:
            del self.sections[key]
            self.changed.add(key)
