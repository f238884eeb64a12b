"""What each recipient may still hold: a model of the rules, written again from docs/reference/rules.md and slowly.

It takes from the door in which order it heard things, what is recorded and who is linked. Everything else is its own.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from contracts.leaving import RETRACTED
from support.programs import AGREED, PRISON, PROBATION, PROTECTION, End, Grant, Impose, Invoke, No, Said
from throughgate.promises import Placed


@dataclass(frozen=True)
class Heard:
    """What was said, at its place in the client's history."""

    version: int
    said: Said
    void: bool = False
    """For a consent: whether it came after a no that was said after it was given."""


def permits(history: Iterable[Heard], recipient: str, purpose: str, source: str, category: str) -> bool:
    """Whether this may leave, for a client of whom this was said."""
    heard = list(history)
    if any(_restricts(h, heard, recipient, purpose, category) for h in heard):
        return False
    for h in heard:  # for a time: a gateway between statutory agencies, an override for whom it names
        step = h.said.step
        if (
            isinstance(step, Invoke)
            and recipient in step.recipients
            and recipient != h.said.agency
            and category in step.categories
            and purpose == PROTECTION
            and (step.what == "override" or source in (PRISON, PROBATION))
            and not _ended(h, heard)
        ):
            return True
    for agreed in AGREED:
        if (
            source in agreed.sources
            and recipient in agreed.recipients
            and purpose == agreed.purpose
            and category in agreed.categories
            and (agreed.basis != "consent" or any(_opens(h, heard, recipient, purpose, category) for h in heard))
        ):
            return True
    return False


def _restricts(h: Heard, heard: list[Heard], recipient: str, purpose: str, category: str) -> bool:
    step = h.said.step
    return (
        isinstance(step, Impose)
        and step.reach.reaches(recipient, purpose, category)
        and recipient not in step.allowed
        and not _ended(h, heard)
    )


def _ended(h: Heard, heard: list[Heard]) -> bool:
    """Whether its agency ended it: a restriction afterwards; a gateway or an override also beforehand."""
    step = h.said.step
    what = "restriction" if isinstance(step, Impose) else getattr(step, "what", None)
    return any(
        isinstance(e := other.said.step, End)
        and (e.what, other.said.agency, e.number) == (what, h.said.agency, getattr(step, "number", None))
        and (e.client == getattr(step, "client", None))
        and (what != "restriction" or other.version > h.version)
        for other in heard
    )


def _opens(h: Heard, heard: list[Heard], recipient: str, purpose: str, category: str) -> bool:
    step = h.said.step
    return (
        isinstance(step, Grant)
        and not h.void
        and (recipient in step.recipients or recipient in ("referral", "matching"))
        and purpose in step.purposes
        and category in step.categories
        and h.said.agency != recipient
        and not any(
            isinstance(no := other.said.step, No)
            and no.reach.reaches(recipient, purpose, category)
            and (other.version > h.version or other.said.at >= h.said.at)
            for other in heard
        )
    )


# --- clients ----------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A client as the door keeps it: one of ours, or the one that a link made of two."""

    id: int
    parts: tuple[int, ...]
    linked_in: int | None
    told: list[tuple[int, Said]] = field(default_factory=list)
    """Version, and what was said of this row."""
    facts: dict[tuple[str, str], tuple[Any, str]] = field(default_factory=dict)
    """(source, category) to when it was recorded, and its text."""
    references: dict[str, str] = field(default_factory=dict)
    """By recipient."""
    held: bool = False
    """An agency ended what it had not begun: nothing leaves until a person has looked, and here nobody does."""


class Clients:
    """The clients of one run, as the door has them at its end."""

    def __init__(self, rows: dict[int, Row]) -> None:
        self.rows = rows

    @classmethod
    async def load(cls, db: Any, numbers: list[dict[str, str]], published: dict[str, Said]) -> "Clients":
        """Read them: who is who, in which order things were heard, and what is recorded."""
        ours = await db.fetch(
            "SELECT client_id FROM identifier WHERE value = ANY($1::text[])", [n["value"] for n in numbers]
        )
        ids = [r["client_id"] for r in ours]
        found = await db.fetch("SELECT id, parts, merged_into FROM client WHERE id = ANY($1) OR parts && $1", ids)
        rows = {r["id"]: Row(r["id"], tuple(r["parts"]), r["merged_into"]) for r in found}
        wanted = list(rows)
        for r in await db.fetch(
            "SELECT client_id, version, event_id FROM sharing_fact WHERE client_id = ANY($1) ORDER BY version", wanted
        ):
            said = published[r["event_id"]]
            if isinstance(said.step, Grant | No | Impose | Invoke | End):  # not what the door copied when it unlinked
                rows[r["client_id"]].told.append((r["version"], said))
        for r in await db.fetch(
            "SELECT client_id, source, category, recorded_at, data FROM fact WHERE client_id = ANY($1)", wanted
        ):
            rows[r["client_id"]].facts[r["source"], r["category"]] = (r["recorded_at"], text_of(json.loads(r["data"])))
        for r in await db.fetch("SELECT client_id, recipient, id FROM reference WHERE client_id = ANY($1)", wanted):
            rows[r["client_id"]].references[r["recipient"]] = str(r["id"])
        for r in await db.fetch("SELECT client_id FROM hold WHERE client_id = ANY($1)", wanted):
            rows[r["client_id"]].held = True
        return cls(rows)

    def now(self) -> list[Row]:
        """Clients as they are now: no parts of a link that holds, no links that were undone."""
        return [r for r in self.rows.values() if r.linked_in is None and not self._undone(r)]

    def _undone(self, row: Row) -> bool:
        return bool(row.parts) and not self._members(row)[1:]

    def _members(self, row: Row) -> list[Row]:
        return [row, *(self.rows[p] for p in sorted(row.parts) if self.rows[p].linked_in == row.id)]

    def _root(self, row: Row) -> Row:
        return row if row.linked_in is None else self.rows[row.linked_in]

    def _own(self, row: Row) -> list[Heard]:
        """What was said of a row; what stopped while a link of it held, and was undone, stops it too."""
        told = list(row.told)
        for link in self.rows.values():
            if row.id in link.parts and self._undone(link):
                heard = [Heard(version, said) for version, said in link.told]
                for h in heard:
                    step = h.said.step
                    if (
                        isinstance(step, No)
                        or (isinstance(step, Impose) and not _ended(h, heard))
                        or (isinstance(step, End) and step.what != "restriction")
                    ):
                        told.append((h.version, h.said))
        return [Heard(version, said) for version, said in sorted(told, key=lambda t: t[0])]

    def histories(self, root: Row) -> list[list[Heard]]:
        """One history a part: what leaves must be permitted by each of them."""
        if self._undone(root):
            return []
        parts = [_judged(self._own(part)) for part in self._members(root)[1:]]
        before = [h for part in parts for h in part]
        since = _judged(self._own(root), before)
        return [part + since for part in parts] or [since]

    def may_hold(self, row: Row, recipient: str, purpose: str, source: str, category: str) -> bool:
        """Whether the recipient may hold this of a client, under whichever reference this row has there."""
        root = self._root(row)
        histories = [] if any(member.held for member in self._members(root)) else self.histories(root)
        return bool(histories) and all(permits(h, recipient, purpose, source, category) for h in histories)

    def reference(self, root: Row, recipient: str) -> str | None:
        """Under which the recipient is told of a client: that of its oldest row."""
        known = sorted((r.id, r.references[recipient]) for r in self._members(root) if recipient in r.references)
        return known[0][1] if known else None

    def told(self) -> Iterator[str]:
        """Who is who, and what was said of each, for a person who looks at a failure."""
        for row in self.rows.values():
            yield f"client {row.id}, linked in {row.linked_in}:"
            for version, said in row.told:
                yield f"  {version} {said.agency} {said.step}"

    def facts(self, root: Row) -> dict[tuple[str, str], str]:
        """(source, category) to the newest text."""
        newest: dict[tuple[str, str], tuple[Any, str]] = {}
        for row in self._members(root):
            for kind, recorded in row.facts.items():
                if kind not in newest or recorded[0] > newest[kind][0]:
                    newest[kind] = recorded
        return {kind: text for kind, (_, text) in newest.items()}


def _judged(history: list[Heard], before: Iterable[Heard] = ()) -> list[Heard]:
    """Void are consents that came after a no to everything which was said later than they were given."""
    noes = [h for h in before if _is_to_everything(h.said.step)]
    judged = []
    for h in history:
        void = isinstance(h.said.step, Grant) and any(no.said.at >= h.said.at for no in noes)
        judged.append(replace(h, void=void))
        if _is_to_everything(h.said.step):
            noes.append(h)
    return judged


def _is_to_everything(step: object) -> bool:
    return isinstance(step, No) and not step.reach.lists


def text_of(data: dict[str, Any]) -> str:
    """The text that a section was made with."""
    return str(data.get("familyName") or data.get("summary") or data.get("considerations"))


# --- topics -----------------------------------------------------------------------------------------------------------


def covers(record: Placed, purpose: str, category: str) -> bool:
    """Whether a record is a retraction that tells its reader to erase this."""
    data = record.event["data"]
    return (
        record.event["type"] == RETRACTED
        and purpose in data["purposes"]
        and (data["categories"] is None or category in data["categories"])
        and data.get("recipients") is None
    )


def differences(clients: Clients, recipient: str, topic: dict[str, list[Placed]]) -> Iterator[str]:
    """Where a recipient's topic differs from what the model says. `topic`: by reference, in the topic's order."""
    for row in clients.rows.values():
        stands = topic.get(row.references.get(recipient, ""), [])
        for n, record in enumerate(stands):
            for section in record.event["data"].get("sections", ()):
                asked = record.event["data"]["purpose"], section["source"], section["category"]
                if not clients.may_hold(row, recipient, *asked) and not any(
                    covers(later, asked[0], asked[2]) for later in stands[n + 1 :]
                ):
                    version = record.event["data"]["receipt"]["decidedOn"]
                    yield f"{recipient} still holds {asked} of client {row.id}, decided on version {version}"
    for root in clients.now():
        reference = clients.reference(root, recipient)
        stands = topic.get(reference or "", [])
        for agreed in (a for a in AGREED if recipient in a.recipients):
            for (source, category), text in clients.facts(root).items():
                if source not in agreed.sources or source == recipient or category not in agreed.categories:
                    continue
                if not clients.may_hold(root, recipient, agreed.purpose, source, category):
                    continue
                held = _last_told(stands, agreed.purpose, source, category)
                if held != text:
                    what = "nothing" if held is None else "something older"
                    yield f"{recipient} has {what} of {agreed.purpose, source, category} of client {root.id}"


def _last_told(stands: list[Placed], purpose: str, source: str, category: str) -> str | None:
    last = None
    for record in stands:
        if covers(record, purpose, category):
            last = None
        elif record.event["data"].get("purpose") == purpose:
            for section in record.event["data"].get("sections", ()):
                if (section["source"], section["category"]) == (source, category):
                    last = text_of(section["data"])
    return last
