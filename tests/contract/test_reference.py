"""The reference pages name every stable code and every term that the code has, and no term that it has not."""

import importlib.util
import re
from enum import StrEnum

import pytest

from contracts import make, vocabulary

ROOT = make.SCHEMAS.parent
CODE = re.compile(r'(?:\bProblem\(|\brespond\(\s*\d{3},)\s*"([a-z][a-z0-9-]+)"')
SOURCES = sorted(
    path for room in ("libs", "services") for path in (ROOT / room).rglob("*.py") if "test" not in path.name
)


def named(page: str) -> set[str]:
    """The codes in the first column of the page's tables."""
    rows = (line for line in (make.REFERENCE / page).read_text().splitlines() if line.startswith("| `"))
    return {code for row in rows for code in re.findall(r"`([^`]+)`", row.split(" | ")[0])}


def test_every_code_of_a_problem_is_explained() -> None:
    used = {code: path for path in SOURCES for code in CODE.findall(path.read_text())}
    assert {"too-large", "scope-missing"} <= used.keys(), "the pattern finds codes"
    missing = {code: str(path.relative_to(ROOT)) for code, path in used.items() if code not in named("errors.md")}
    assert missing == {}, "add a row to docs/reference/errors.md"


@pytest.mark.parametrize("name", ["AgencyKind", "Purpose", "Basis", "Category", "IdentifierType"])
def test_every_term_is_explained(name: str) -> None:
    terms: type[StrEnum] = getattr(vocabulary, name)
    assert {term.value for term in terms} - named("vocabulary.md") == set()


def test_vocabulary_explains_no_term_that_is_not_there() -> None:
    kinds = (
        vocabulary.AgencyKind,
        vocabulary.Purpose,
        vocabulary.Basis,
        vocabulary.Category,
        vocabulary.IdentifierType,
    )
    known = {term.value for kind in kinds for term in kind}
    page = (make.REFERENCE / "vocabulary.md").read_text()
    before_rules = set(re.findall(r"^\| `([^`]+)`", page.split("## Rules that withhold")[0], re.MULTILINE))
    assert before_rules - known == set()


def test_every_rule_that_withholds_is_explained() -> None:
    if importlib.util.find_spec("consent") is None or importlib.util.find_spec("consent.domain") is None:
        pytest.skip("consent is not installed here")
    rules = set(importlib.import_module("consent.domain").REMEDIES)
    page = (make.REFERENCE / "vocabulary.md").read_text()
    assert set(re.findall(r"^\| `([^`]+)`", page.split("## Rules that withhold")[1], re.MULTILINE)) == rules
