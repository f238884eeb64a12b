"""The reference pages name every stable code and every term that the code has, and no term that it has not."""

import ast
import itertools
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from consent import domain as door
from consent.api import publishing
from consent.service import telling
from contracts import make, vocabulary
from contracts.fields import FieldKind
from throughgate.system import PROCESSES

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


def problems(path: Path) -> Iterator[tuple[str, int]]:
    """Code and status of every `Problem` that a file makes with both of them spelt out."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Call(ast.Name("Problem"), [ast.Constant(str(code)), _, _]):
                yield code, 400
            case ast.Call(ast.Name("Problem"), [ast.Constant(str(code)), _, _, ast.Constant(int(status))]):
                yield code, status


def statuses() -> dict[str, int]:
    """The status of each code, as the page says."""
    return {row[0].strip("`"): int(row[1]) for row in table("errors.md", "code") if row[1].isdigit()}


def test_every_problem_has_the_status_of_the_page() -> None:
    made = [(str(path.relative_to(ROOT)), *problem) for path in SOURCES for problem in problems(path)]
    assert {"malformed-json", "too-many-holds"} <= {code for _, code, _ in made}, "the pattern finds them"
    page = statuses()
    assert [(path, code, status) for path, code, status in made if page[code] != status] == []


def test_a_rejection_over_http_has_the_status_of_the_page() -> None:
    page = statuses()
    published = (make.REFERENCE / "errors.md").read_text().split("## When an event is published\n")[1].split("\n## ")[0]
    codes = {*publishing.STATUS, *re.findall(r"^\| `([^`]+)`", published, re.MULTILINE)}
    assert {code: publishing.STATUS.get(code, 422) for code in codes} == {code: page[code] for code in codes}


TERMS: dict[str, type[StrEnum]] = {
    "Kinds of agency": vocabulary.AgencyKind,
    "Identifiers": vocabulary.IdentifierType,
    "Categories": vocabulary.Category,
    "Fields that are no category": FieldKind,
    "Purposes": vocabulary.Purpose,
    "Lawful bases": vocabulary.Basis,
    "Restrictions": vocabulary.RestrictionKind,
}


@pytest.mark.parametrize("heading", TERMS)
def test_the_vocabulary_explains_every_term_and_no_other(heading: str) -> None:
    section = (make.REFERENCE / "vocabulary.md").read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `([^`]+)`", section, re.MULTILINE)) == {term.value for term in TERMS[heading]}


def table(page: str, first_column: str) -> list[list[str]]:
    """The cells of every row of the page's tables whose first column is called this."""
    lines = (make.REFERENCE / page).read_text().splitlines()
    rows = []
    for n, line in enumerate(lines):
        if line.startswith(f"| {first_column} |"):
            below = itertools.takewhile(lambda row: row.startswith("| "), lines[n + 2 :])
            rows += [[cell.strip() for cell in row.strip("|").split("|")] for row in below]
    assert all(row[-1] for row in rows), "each row ends with a reason"
    return rows


def codes(terms: type[StrEnum], some: frozenset[Any]) -> str:
    """Terms as the pages name them, in the order of the vocabulary."""
    return ", ".join(f"`{term.value}`" for term in terms if term in some)


def kinds(some: frozenset[vocabulary.AgencyKind]) -> str:
    """Kinds of agency as the pages name them."""
    every = frozenset(vocabulary.AgencyKind) - {vocabulary.AgencyKind.SERVICE}
    return "every agency" if some == every else codes(vocabulary.AgencyKind, some) or "nobody"


def test_the_rules_are_those_of_the_page_in_the_same_order() -> None:
    assert table("rules.md", "rule") == [
        [f"`{rule.code}`", rule.withholds, rule.remedy, rule.source, rule.told] for rule in door.RULES
    ]


def test_what_is_told_where_nothing_can_be_decided_is_on_the_page() -> None:
    assert table("rules.md", "reason") == [[f"`{r.code}`", r.withholds, r.remedy, r.source] for r in door.BEFORE]


def test_no_reason_is_told_that_is_not_on_the_page() -> None:
    """A reason is told with its remedy, which stands in the tables. Only what is told quietly has words of its own."""
    by_hand = [path.name for path in SOURCES if re.search(r'"rule":\s*"', path.read_text())]
    assert by_hand == []
    made_up = door.Withheld(door.Item("prison", vocabulary.Category.RISK), "made-up")
    with pytest.raises(KeyError):
        telling.withheld(door.Decision(withheld=(made_up,)))
    assert f"`{telling.QUIETLY[0]}`" in (make.REFERENCE / "rules.md").read_text()


def test_the_gateways_are_those_of_the_page() -> None:
    every = frozenset(vocabulary.Category)
    assert table("rules.md", "basis") == [
        [
            f"`{basis.value}`",
            kinds(gateway.sources),
            kinds(gateway.recipients),
            codes(vocabulary.Purpose, gateway.purposes),
            "all" if gateway.categories == every else codes(vocabulary.Category, gateway.categories),
            gateway.law,
        ]
        for basis, gateway in door.GATEWAYS.items()
    ]


def test_the_obligations_are_those_of_the_page() -> None:
    known = get_args(get_type_hints(door.Obligation)["code"])
    assert [row[0] for row in table("rules.md", "obligation")] == [f"`{code}`" for code in known]


def test_who_may_say_what_is_as_the_page_says() -> None:
    assert [row[:2] for row in table("who-may-say-what.md", "event")] == [
        [f"`{type}`", kinds(who)] for type, who in door.ASSERTS.items()
    ]


def test_who_may_invoke_which_gateway_is_as_the_page_says() -> None:
    def lets_out(gateway: Any) -> str:
        if not gateway.invoked_by:
            return "-"
        return "what it recorded itself" if gateway.own_only else "what any of its sources recorded"

    assert [row[:3] for row in table("who-may-say-what.md", "basis")] == [
        [f"`{basis.value}`", kinds(gateway.invoked_by), lets_out(gateway)] for basis, gateway in door.GATEWAYS.items()
    ]


def test_the_page_of_settings_is_made_and_tells_of_every_process() -> None:
    page = make.made()[make.REFERENCE / "settings.md"]
    assert [kind.module for kind in PROCESSES if f"`{kind.module}`" not in page] == []
    row = next(line for line in page.splitlines() if line.startswith("| `THROUGHGATE_SIGNING_KEY`"))
    assert row.split(" | ")[1:3] == ["secret", "has to be given"]
