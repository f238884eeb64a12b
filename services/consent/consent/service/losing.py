"""What recipients may not be told any more, because something ended or clients were linked, and who is told so."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime

from consent.domain import Agency, Item, Question
from consent.repository.clients import Client, Reference
from consent.service.notices import Owed
from consent.service.register import Register
from consent.service.sections import spent_convictions
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Category, Purpose

Lost = Mapping[tuple[str, Purpose], frozenset[Category]]
"""Categories by recipient and purpose."""


def questions(
    client: Client,
    recipient: Agency,
    purpose: Purpose,
    categories: Iterable[Category],
    services: Iterable[str],
    at: datetime,
) -> Iterator[Question]:
    """What to ask of all that may have left of these categories: for the recipient as a whole, then for each of these
    services of it.

    Agencies that know the client count too: one may have said something that was passed on, as a provider's answer. A
    conviction of which it cannot be told whether it is spent counts as one that never is: it may have left before.
    """
    sources = sorted(({source for source, _ in client.sections} | client.references.keys()) - {recipient.id})
    items = tuple(Item(source, category) for source in sources for category in sorted(categories))
    spent = dict.fromkeys(sources) | spent_convictions(client.sections.values())
    for service in (None, *sorted(services)):
        yield Question(recipient, purpose, items, at, service, spent=spent)


def owed(lost: Lost, references: Iterable[Reference], registered: Register) -> list[Owed]:
    """The retractions of what was lost, under those of these references under which anything was ever sent or queued.

    One of our services that may go on itself stops telling those who may not be told any more.
    """
    found: list[Owed] = []
    for reference in references:
        if not reference.queued:
            continue
        recipient = registered.agencies[reference.recipient]
        by_categories: dict[frozenset[Category], list[Purpose]] = {}
        for (id, purpose), categories in lost.items():
            if id == recipient.id:
                by_categories.setdefault(categories, []).append(purpose)
        found += [Owed(reference, sorted(purposes), categories) for categories, purposes in by_categories.items()]
        if recipient.kind is AgencyKind.SERVICE:
            purpose = SERVICE_PURPOSES[recipient.id]
            own = lost.get((recipient.id, purpose), frozenset())
            others = {id: c for (id, p), c in lost.items() if p is purpose and id != recipient.id and not c <= own}
            if others:
                categories = frozenset[Category]().union(*others.values())
                found.append(Owed(reference, [purpose], categories, frozenset(others)))
    return found
