"""What the rules need to know of the content of sections, and how a record is cut to what was permitted."""

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time
from typing import Any

from consent.domain import Decision
from contracts.facts import FIELDS, spent_on
from contracts.vocabulary import LONDON, Category

OFFENCE = Category.OFFENCE.value


def spent_convictions(sections: Iterable[Mapping[str, Any]]) -> dict[str, date | None]:
    """By source, from which day the conviction in its offence section is spent, None where it never is; a source is
    left out where that cannot be told."""
    found: dict[str, date | None] = {}
    for section in sections:
        if section["category"] == OFFENCE:
            day = spent_on(section["data"])
            if day is not None or section["data"].get("neverSpent"):
                found[section["source"]] = day
    return found


def withheld_from(offence: Mapping[str, Any], now: datetime) -> datetime | None:
    """When a conviction with these fields begins to be withheld: the first moment, in London, of the day from which it
    is spent; `now` where that cannot be told. None: never.
    """
    if offence.get("neverSpent"):
        return None
    day = spent_on(offence)
    return now if day is None else datetime.combine(day, time.min, LONDON).astimezone(UTC)


def cut(sections: Iterable[Mapping[str, Any]], decision: Decision) -> list[Mapping[str, Any]]:
    """The permitted sections, each with the fields that its category has, taken over one by one: what no permit and no
    contract names cannot be among them. A field of an older contract stays behind, even if it is stored.
    """
    permitted = decision.permitted  # a category is the string that it is stored as
    return [_section(s) for s in sections if (s["source"], s["category"]) in permitted]


def _section(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    fields = FIELDS[stored["category"]]
    return {
        "category": stored["category"],
        "source": stored["source"],
        "recordedAt": stored["recordedAt"],
        "data": {name: value for name, value in stored["data"].items() if name in fields},
    }
