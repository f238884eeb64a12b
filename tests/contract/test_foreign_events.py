"""Real prison and probation events, as their systems publish them, given to the intake as they are."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from consent.service.stopping import is_stopping
from contracts.intake import Identifier, read
from contracts.vocabulary import IdentifierType
from servicekit.problems import where

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "data" / "hmpps"
FILES = sorted(FOLDER.rglob("*.json"))
NAMES = {
    "nomsNumber",
    "prisonerNumber",
    "prisonerId",
    "offenderNo",
    "offenderIdDisplay",
    "nomsId",
    "prisonNumber",
}
IDENTIFIER: TypeAdapter[Any] = TypeAdapter(Identifier)

pytestmark = pytest.mark.skipif(not FILES, reason=f"the folder of real events is not here: {FOLDER}")


def test_each_is_refused_with_a_clear_sentence() -> None:
    for path in FILES:
        raw = path.read_bytes()
        with pytest.raises(ValidationError) as caught:
            read(raw)
        sentence = where(caught.value)
        assert sentence.startswith("the event "), path
        for value in texts(json.loads(raw)):
            assert value not in sentence, path


def test_none_of_them_is_taken_for_a_stop() -> None:
    assert [path.name for path in FILES if is_stopping(path.read_bytes())] == []


def texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from texts(value)
    elif isinstance(node, str) and len(node) > 4:
        yield node


def noms_numbers(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "NOMS" and "value" in node:
            yield str(node["value"])
        for key, value in node.items():
            if key in NAMES:
                yield str(value)
            yield from noms_numbers(value)
    elif isinstance(node, list):
        for value in node:
            yield from noms_numbers(value)


def test_their_prison_numbers_are_taken_where_they_are_well_formed() -> None:
    found = {number for path in FILES for number in noms_numbers(json.loads(path.read_bytes()))}
    good = {number for number in found if re.fullmatch("[A-Z][0-9]{4}[A-Z]{2}", number)}
    assert len(good) > 30
    for number in good:
        identifier = IDENTIFIER.validate_json(json.dumps({"type": "NOMS", "value": number}))
        assert (identifier.type, identifier.value) == (IdentifierType.NOMS, number)
    for number in found - good:
        with pytest.raises(ValidationError):
            IDENTIFIER.validate_json(json.dumps({"type": "NOMS", "value": number}))
