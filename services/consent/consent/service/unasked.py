"""What a changed policy permits that nobody could ask before it: the questions that it adds, put to what is recorded.

Past questions show nothing of a recipient, a purpose or a category that was in no agreement then. So they are asked of
every client as it stands today, as a signature would have it (`Desk.offer_snapshots`). Nothing is written.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from consent.domain import Agency, Item, Policy, Question, decide
from consent.repository import recorded, sharing
from consent.repository.sharing import SharingState
from consent.repository.sql import Executor
from consent.service.sections import spent_convictions
from contracts.vocabulary import Category, Purpose

Shown = tuple[int, str, str]
"""A client's row, a recipient, a category."""
CLIENTS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class NewQuestions:
    """The questions that a change adds."""

    recipients: Collection[tuple[str, Purpose]]
    """Who may be told something for a purpose by what changes."""
    sources: Collection[str]
    """Whose sections that may be."""
    at: datetime
    before: Policy
    changed: Policy


@dataclass
class Possible:
    """What may be told to a recipient of one category, and could not be before."""

    recipient: str
    category: str
    clients: int
    """Of how many."""


async def newly_possible(
    db: Executor, new: NewQuestions, agencies: Mapping[str, Agency], known_already: Collection[Shown]
) -> tuple[int, list[Possible]]:
    """How many clients were asked about, and what came of it.

    Args:
        known_already: what past questions show of this change.
    """
    looked_at, after = 0, 0
    found: Counter[tuple[str, str]] = Counter()
    while new.recipients and (ids := await recorded.by(db, sorted(new.sources), after, CLIENTS_AT_ONCE)):
        after = ids[-1]
        known = await sharing.known(db, ids)
        sections = await recorded.sections(db, known.found)
        damaged = known.damaged.keys() | sections.damaged.keys()
        for id, client in known.found.items():
            looked_at += bool(sections.found[id])
            if damaged.isdisjoint(client.members):  # of whom something cannot be read, nothing leaves
                found.update(_of(client, sections.found[id], new, agencies, known_already))
    return looked_at, [Possible(*whom, count) for whom, count in sorted(found.items())]


def _of(
    client: SharingState,
    sections: Sequence[Mapping[str, str]],
    new: NewQuestions,
    agencies: Mapping[str, Agency],
    known_already: Collection[Shown],
) -> set[tuple[str, str]]:
    """Recipients and categories of one client, each once, from however many sources and for whatever purposes."""
    items = [Item(s["source"], Category(s["category"])) for s in sections]
    spent = spent_convictions(sections)
    found: set[tuple[str, str]] = set()
    for id, purpose in new.recipients:
        for service in (None, *client.facts.services_of(id)):  # consent may name one service of an agency only
            others = tuple(item for item in items if item.source != id)
            for asked in (True, False):  # what could be asked for before may leave by itself now
                question = Question(agencies[id], purpose, others, new.at, service, spent=spent, asked=asked)
                permitted = decide(question, client.facts, new.changed).permitted
                if permitted:
                    permitted -= decide(question, client.facts, new.before).permitted
                found.update((id, item.category.value) for item in permitted)
    return {
        (recipient, category)
        for recipient, category in found
        if not any((row, recipient, category) in known_already for row in client.members)
    }
