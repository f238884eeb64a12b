"""The answer to a subject access request as a page to print: who has been told what about me, when, why, on whose word.

Plain HTML without scripts or anything from elsewhere, so that it can be opened, printed and handed over as a file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from consent.api import words
from consent.domain import RULES

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_LONDON = ZoneInfo("Europe/London")
_RULES = {rule.code: rule.withholds for rule in RULES}

PARTS = {
    "told": ("What was told", ("disclosure", "view")),
    "refused": ("What was asked for and not told", ("refusal",)),
    "asked": ("Questions whether something may be told", ("consultation",)),
    "overrides": ("Decisions to share for public protection without consent", ("override",)),
    "record": ("What happened to the record itself", ("combination", "erasure")),
}
"""The parts of the page by their ids: a heading, and the kinds of entry that stand under it."""


def render(entries: Sequence[Any], names: Mapping[str, str], agency: str, now: datetime) -> str:
    """The page with all `entries` (`api.clients.LedgerEntry`), newest first; `names` are the agencies' by their ids."""
    parts = {
        id: (heading, [entry for entry in entries if entry.kind in kinds]) for id, (heading, kinds) in PARTS.items()
    }
    told: Counter[str] = Counter(
        e.recipient for e in entries if e.recipient and e.kind in PARTS["told"][1] and e.permitted
    )

    def name(id: str | None) -> str:
        return names.get(id, id) if id else "nobody in particular"

    return _TEMPLATE.render(
        parts=parts,
        told=sorted(told.items(), key=lambda pair: (-pair[1], name(pair[0]))),
        total=len(entries),
        agency=name(agency),
        now=now,
        name=name,
        details=lambda entry: [*words.details(entry.details, names)],
    )


def _when(at: datetime) -> str:
    local = at.astimezone(_LONDON)
    return f"{local.day} {local:%B %Y, %H:%M}"


def _environment() -> Environment:
    made = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "when": _when,
        "machine": lambda at: at.isoformat(),
        "purpose": lambda purpose: words.PURPOSES[purpose],
        "category": lambda category: words.CATEGORIES[category],
        "basis": words.basis,
        "outcome": lambda outcome: words.OUTCOMES[outcome],
        "rule": lambda code: _RULES.get(code, code),
    }
    return made


_TEMPLATE = _environment().get_template("page.html")
