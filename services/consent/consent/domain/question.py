"""What is asked of the rules, and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Literal, NamedTuple

from consent.domain.facts import Agency
from consent.domain.table import REMEDIES
from contracts.vocabulary import Basis, Category, Purpose


class Item(NamedTuple):
    """One category as one agency recorded it: the unit that is permitted or withheld."""

    source: str
    category: Category


@dataclass(frozen=True, slots=True)
class Question:
    """May these items of one client go to this recipient for this purpose at this time?"""

    recipient: Agency
    purpose: Purpose
    items: tuple[Item, ...]
    at: datetime
    service: str | None = None
    """The one thing that the recipient offers which the record is about, where it is about one."""
    practitioner: str | None = None
    """Who will read it, by the recipient's own id, where the door shows it to one person; else None."""
    spent: Mapping[str, date | None] = field(default_factory=dict)
    """By source: from which day the conviction in its offence section is spent, None for one that never is. Of a source
    that is not here it cannot be told."""
    asked: bool = True
    """Whether somebody asks for it. Where nobody does, terms without a subscription do not count, nor does what was
    invoked for another disclosure.
    """
    once: frozenset[int] = frozenset()
    """The versions of what was invoked for one disclosure, where this is that disclosure."""


class Withheld(NamedTuple):
    """Why one item is withheld, and what would make it possible."""

    item: Item
    rule: str
    anyway: str | None = None
    """The rule that would withhold it if a hold, a restriction or what else is told quietly did not come first."""

    @property
    def remedy(self) -> str:
        """What would make it possible."""
        return REMEDIES[self.rule]


class Permit(NamedTuple):
    """Why one item may leave: under an agreement, or by a gateway or an override invoked for this client."""

    item: Item
    basis: Basis
    agreement: str | None = None
    agreement_version: int | None = None
    consent: int | None = None
    """The version of the client's consent, where it rests on consent."""
    invoked: int | None = None
    """The version at which the gateway or the override was entered, where it rests on one."""


@dataclass(frozen=True, slots=True)
class Obligation:
    """What the recipient must do with what it gets."""

    code: Literal["no-onward-sharing", "erase-on-retraction", "keep-from-practitioner"]
    practitioner: str | None = None
    """The recipient's own id of the person who must not see it."""


class Decision(NamedTuple):
    """The answer, item by item, with everything that it rests on."""

    permits: tuple[Permit, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    obligations: tuple[Obligation, ...] = ()

    @property
    def permitted(self) -> frozenset[Item]:
        """The items that may leave."""
        return frozenset([p.item for p in self.permits])

    @property
    def consents(self) -> list[int]:
        """The consent versions that the permits rest on, in order."""
        return sorted({p.consent for p in self.permits if p.consent is not None})
