"""Through the real door: a partner's record holds the values of the permitted category and no other."""

import json
import random
from typing import Any

import pytest
from support.agency import event, eventually_true, granted, terms
from support.door import decided

from contracts.facts import FIELDS

LEVELS = ["urgent", "soon", "later", "met"] * 3
FACTS: dict[str, dict[str, Any]] = {
    **{
        category: {"level": level, "summary": f"Zqsummary {category}", "area": f"Zqarea {category}"}
        for category, level in zip((c for c in FIELDS if c.startswith("needs.")), LEVELS, strict=False)
    },
    "identity": {"givenName": "Zqgiven", "familyName": "Zqfamily", "dateOfBirth": "1961-01-11", "gender": "non-binary"},
    "contact": {"address": "1 Zqstreet", "postcode": "ZQ9 9ZZ", "phone": "07700900999", "email": "zq@example.org"},
    "custody-and-release": {
        "prison": "QZX",
        "status": "recalled",
        "releaseDate": "2039-02-12",
        "releaseKind": "end-of-recall",
    },
    "offence": {
        "mainOffence": "Zqoffence",
        "sentenceMonths": 1177,
        "sentenceEnds": "2061-03-13",
        "adultWhenConvicted": True,
        "neverSpent": True,
        "spentOn": "2077-04-14",
    },
    "risk": {"harm": "very-high", "considerations": "Zqconsiderations"},
    "health": {"conditions": "Zqconditions", "medication": "Zqmedication"},
    "family": {"summary": "Zqsummary of the family"},
    "equality": {"language": "Zqlanguage", "faith": "Zqfaith", "interpreterNeeded": True},
}
SHARED = {True, "urgent", "soon", "later", "met"}
"""Values that stand in more than one field: they tell nothing about where something came from."""


def values(category: str) -> set[str]:
    """As they stand in JSON, with what is around them: a proof may hold any letters and digits."""
    return {f": {json.dumps(v)}" for v in FACTS[category].values() if v not in SHARED}


def test_every_field_of_every_category_has_a_value_here() -> None:
    assert {category: set(data) for category, data in FACTS.items()} == {c: set(f) for c, f in FIELDS.items()}
    everything = [value for category in FACTS for value in values(category)]
    assert len(everything) == len(set(everything))


@pytest.mark.parametrize("category", ["identity", "contact", "health", "needs.sex-work", "offence"])
async def test_consent_to_one_category_lets_out_its_values_only(door: Any, category: str) -> None:
    purpose = "mentor-matching"
    name = f"cut-{door.prison.name}-{random.randrange(10**9)}"
    await door.operator.agree(name, [door.prison.name], [door.mentors.name], [terms(purpose, list(FACTS))])
    await door.prison.answered(door.recorded(facts=FACTS))
    await decided(door)
    given = granted(door.identifiers, [door.mentors.name], [purpose], [category])
    await door.prison.answered(event("consent.granted", door.prison.name, given))

    async def arrived() -> bool:
        return len(await door.mentors.received()) >= 1

    await eventually_true(arrived, "the snapshot")
    (record,) = await door.mentors.received()
    assert [(s["category"], s["data"]) for s in record.event["data"]["sections"]] == [(category, FACTS[category])]
    text = json.dumps(record.event)
    told = {value for other in FACTS for value in values(other) if value in text}
    assert told == values(category)
    assert door.number not in text
