"""Opening entries of the ledger for an auditor: whether what they hold is what was sealed, and not what it says."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import audit, ledger
from consent.repository.ledger import CLOSED


@dataclass(frozen=True, slots=True)
class Content:
    """What became of an entry's body since it was written."""

    erased: bool
    """The client's key was destroyed, or something that its leaf binds was erased. The leaf still stands, but nobody
    can tell any more whether what is left is what was sealed.
    """
    leaf: bytes | None
    """The leaf that the body leads to; None where it cannot be read."""
    agrees: bool
    """Whether the row says of the entry what its body says, or, of one without a body, what its erasure left of it; and
    of a link, whether it is kept as it was made. Not its place, which the head's root binds.
    """


def look_into(row: Any, left: "Left") -> Content:
    """Open the body of a row of `repository.audit.batches`. `left`: what `left_of` gives for it."""
    try:
        opened = ledger.open(row)
    except ledger.Unreadable:
        return Content(erased=False, leaf=None, agrees=False)
    if opened is None:
        return Content(erased=True, leaf=None, agrees=left.closed(row))
    agrees = _agrees(row, opened.explanation) and (row.key is not None or row.id in left.sound)
    agrees = agrees and (row.kind != "combination" or _is_linked(opened.explanation, left.links))
    if opened.is_redacted:
        return Content(erased=agrees, leaf=None, agrees=agrees)
    return Content(erased=False, leaf=opened.leaf.hash, agrees=agrees)


def _agrees(row: Any, explanation: Mapping[str, Any]) -> bool:
    """Whether the columns say what was sealed, all of them: one that says more is as wrong as one that says less."""
    sealed = [explanation.get(name) for name in ("row", "kind", "decision", "queue", "recipient", "purpose", "type")]
    columns = [row.client_id, row.kind, str(row.decision), row.queue_id, row.recipient, row.purpose, row.type]
    at = row.decided_at.isoformat()
    return columns == sealed and at == explanation.get("decidedAt") and list(row.sources) == _sources(explanation)


def _sources(explanation: Mapping[str, Any]) -> Any:
    if "permitted" not in explanation:
        return explanation.get("sources")
    return sorted({item["source"] for item in (*explanation["permitted"], *explanation["withheld"])})


def _is_linked(explanation: Mapping[str, Any], links: Mapping[str, Any]) -> bool:
    """Whether the link of which an entry tells, if any, is still kept as it was made or undone: by it the entries of
    its client are found for the answer of who was told.
    """
    if "link" not in explanation:
        return True
    link = links.get(explanation["link"])
    if link is None or link.parts != explanation.get("parts", link.parts):
        return False
    is_one_of_them = explanation["row"] in (link.client_id, *link.parts)
    return is_one_of_them and bool(link.undone if explanation["what"] == "unlinked" else link.holds)


# --- clients of whom everything was erased ----------------------------------------------------------------------------


def seal_of(leaves: Iterable[bytes]) -> dict[str, Any]:
    """What an erasure's entry says of the entries that it closed: how many, and a hash over their leaves in order."""
    some = list(leaves)
    return {"entries": len(some), "leaves": hashlib.sha256(b"".join(some)).hexdigest()}


@dataclass(frozen=True, slots=True)
class Left:
    """What erasures of everything left of some clients, and their links."""

    sound: frozenset[int]
    """Entries by id: those of erasures that closed what stands there now, and what these closed."""
    at: Mapping[tuple[int, UUID], datetime]
    """When, by client row and decision."""
    links: Mapping[str, Any]
    """Those of `repository.audit.links`, by id."""

    def closed(self, row: Any) -> bool:
        """Whether an entry that cannot be opened stands as an erasure left it, and says nothing."""
        columns = [row.kind, row.queue_id, row.recipient, row.purpose, row.type, row.body, list(row.sources)]
        at = self.at.get((row.client_id, row.decision))
        return row.id in self.sound and row.decided_at == at and columns == CLOSED


async def left_of(session: AsyncSession, rows: Sequence[Any]) -> Left:
    """What is left of those clients of these rows (`repository.audit.batches`) who have no key; and the links of those
    that were combined or parted.
    """
    left = await audit.of_erased(session, {row.client_id for row in rows if row.key is None})
    closed: dict[tuple[int, UUID], list[Any]] = defaultdict(list)
    for row in left:
        if row.kind == "erased":
            closed[row.client_id, row.decision].append(row)
    sound: set[int] = set()
    at: dict[tuple[int, UUID], datetime] = {}
    for row in left:
        if row.kind == "erasure" and (sealed := _sealed(row)) is not None:
            found = _as_sealed(closed[row.client_id, row.decision], sealed)
            if found is not None:
                sound |= {row.id, *found}
                at[row.client_id, row.decision] = row.decided_at
    links = await audit.links(session, {row.client_id for row in rows if row.kind == "combination"})
    return Left(frozenset(sound), at, {str(link.id): link for link in links})


def _sealed(row: Any) -> Any:
    """What the entry of an erasure of everything seals of those that it closed; None: it is none, or was altered."""
    try:
        opened = ledger.open(row)
    except ledger.Unreadable:
        return None
    if opened is None or opened.leaf.hash != row.leaf or opened.explanation.get("row") != row.client_id:
        return None
    return opened.explanation.get("closed")


def _as_sealed(rows: Sequence[Any], sealed: Any) -> set[int] | None:
    """The entries that an erasure closed, without one that was put among them. None: nobody can tell which."""
    if seal_of(row.leaf for row in rows) == sealed:
        return {row.id for row in rows}
    for n in range(len(rows)):
        others = [*rows[:n], *rows[n + 1 :]]
        if seal_of(row.leaf for row in others) == sealed:
            return {row.id for row in others}
    return None
