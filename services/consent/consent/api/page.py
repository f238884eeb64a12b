"""The answer to a subject access request as a page to print: who has been told what about me, when, why, on whose word.

Plain HTML without scripts or anything from elsewhere, so that it can be opened, printed and handed over as a file.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from consent.api import words
from consent.domain import RULES
from consent.repository.ledger import TOLD
from contracts.vocabulary import Purpose

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
OPERATOR = "the operator of the system"
_RULES = {rule.code: rule.withholds for rule in RULES}

PARTS = {
    "told": ("What was told", tuple(TOLD)),
    "refused": ("What was asked for and not told", ("refusal",)),
    "asked": ("Questions whether something may be told", ("consultation",)),
    "overrides": ("Decisions to share for public protection without consent", ("override",)),
    "readings": ("Who looked at who was told, or tried to", ("reading", "attempt")),
    "record": ("What happened to the record itself", ("combination", "erasure")),
}
"""The parts of the page by their ids: a heading, and the kinds of entry that stand under it."""


def is_wanted(accept: Sequence[str]) -> bool:
    """Whether headers Accept name a page, and do not want JSON more: JSON says more than the client gets."""
    worth: dict[str, float] = {}
    for one in ",".join(accept).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        with suppress(ValueError):
            worth[kind] = float(next((p[2:] for p in parameters if p.startswith("q=")), 1))
    html = worth.get("text/html", worth.get("text/*", 0))
    json = worth.get("application/json", worth.get("application/*", worth.get("*/*", 0)))
    return html > 0 and html >= json


def render(
    entries: Sequence[Any],
    names: Mapping[str, str],
    agency: str,
    client: UUID,
    now: datetime,
    *,
    is_whole: bool = True,
) -> str:
    """The page with all `entries` (`api.clients.LedgerEntry`), newest first; `names` are the agencies' by their ids.

    Whose it is, it says by the reference that was asked for, and by a name that is filled in by hand: the door gives
    none. Who answers and is no agency is the operator.

    `is_whole`: whether they are all that there are; else what `agency` may know, and the page says so.
    """
    parts: dict[str, tuple[str, list[Any]]] = {
        id: (heading, [entry for entry in entries if _kind(entry) in kinds]) for id, (heading, kinds) in PARTS.items()
    }
    told: Counter[str] = Counter(entry.recipient for entry in parts["told"][1] if entry.recipient)

    def name(id: str | None) -> str:
        return names.get(id, id) if id else "nobody in particular"

    return _TEMPLATE.render(
        parts=parts,
        told=sorted(told.items(), key=lambda pair: (-pair[1], name(pair[0]))),
        total=len(entries),
        is_whole=is_whole,
        agency=names.get(agency, OPERATOR),
        client=client,
        now=now,
        name=name,
        who=lambda entry: (
            [name(id) for id in _said(entry.recipient, entry.details, "recipients")]
            or [OPERATOR] * (entry.kind in PARTS["readings"][1])
        ),
        why=lambda entry: [words.PURPOSES[Purpose(one)] for one in _said(entry.purpose, entry.details, "purposes")],
        details=lambda entry: [*words.details(entry.kind, entry.details, names)],
    )


def _kind(entry: Any) -> str:
    """The kind under which it is listed. A person who looked and was shown nothing was told nothing. Where nobody can
    read what was shown, it counts as told.
    """
    can_be_read = not (entry.erased or entry.unreadable)
    return "refusal" if entry.kind == "view" and can_be_read and not entry.permitted else str(entry.kind)


def _said(one: str | None, details: Mapping[str, Any], several: str) -> Sequence[str]:
    """What an entry is about: one thing, or those that an override names."""
    found: Sequence[str] = details.get(several, ()) if one is None else (one,)
    return found


def _outcome(entry: Any) -> str:
    if entry.kind in PARTS["overrides"][1] + PARTS["record"][1]:
        return words.ENTERED.get(entry.details.get("what"), words.OUTCOMES[entry.outcome])
    if entry.kind != "view":
        return words.OUTCOMES[entry.outcome]
    if entry.erased or entry.unreadable:
        return "Looked up on a screen. Nobody can read any more what was shown, or whether anything was."
    return "Shown on a screen." if entry.permitted else "Looked up on a screen; nothing was shown."


def _environment() -> Environment:
    made = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "when": words.when,
        "machine": lambda at: at.isoformat(),
        "category": lambda category: words.CATEGORIES[category],
        "basis": words.basis,
        "outcome": _outcome,
        "rule": lambda code: _RULES.get(code, code),
    }
    return made


_TEMPLATE = _environment().get_template("page.html")
