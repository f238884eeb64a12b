"""What the rules need to know of the content of sections, and how a record is cut to what was permitted."""

from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

from consent.domain import Decision
from contracts.facts import spent_on
from contracts.vocabulary import Category


def spent_convictions(sections: Iterable[Mapping[str, Any]]) -> dict[str, date]:
    """By source, from which day the conviction in its offence section is spent, where that can be told."""
    found = {}
    for section in sections:
        if section["category"] == Category.OFFENCE.value:
            day = spent_on(section["data"])
            if day is not None:
                found[section["source"]] = day
    return found


def cut(sections: Iterable[Mapping[str, Any]], decision: Decision) -> list[Mapping[str, Any]]:
    """The permitted sections, taken over one by one: what no permit names cannot be among them."""
    permitted = {(p.item.source, p.item.category.value) for p in decision.permits}
    return [s for s in sections if (s["source"], s["category"]) in permitted]
