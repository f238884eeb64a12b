"""Opening entries of the ledger for an auditor: whether what they hold is what was sealed, and not what it says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag

from consent.repository import ledger

_COLUMNS = ("kind", "decision", "recipient", "purpose", "type")
"""What stands in the body as well, under the same names."""


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
    """Whether the row says of the entry what its body says. Not its place, which the head's root binds."""


def look_into(row: Any) -> Content:
    """Open the body of a row of `repository.audit.batches`."""
    key = ledger.key_of(row)
    if key is None:
        return Content(erased=True, leaf=None, agrees=True)
    try:
        opened = ledger.decrypt(key, row.decision, row.body)
        leaf = None if opened.is_redacted else opened.leaf.hash
        return Content(opened.is_redacted, leaf, _agrees(row, opened.explanation))
    except (InvalidTag, LookupError, ValueError, TypeError, AttributeError):  # whatever bytes somebody put there
        return Content(erased=False, leaf=None, agrees=False)


def _agrees(row: Any, explanation: Mapping[str, Any]) -> bool:
    named = {name: str(value) for name in _COLUMNS if (value := explanation.get(name)) is not None}
    if named != {name: str(getattr(row, name)) for name in named}:
        return False
    if row.decided_at.isoformat() != explanation.get("decidedAt"):
        return False
    items = [*explanation.get("permitted", ()), *explanation.get("withheld", ())]
    return "permitted" not in explanation or {item["source"] for item in items} == set(row.sources)
