"""Linked clients: which row means whom, entering and undoing links, and what a person is shown of them."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from sqlalchemy import text

from consent.repository.sql import Executor, arrays

T = TypeVar("T")

UNIQUE = ("NOMS", "CRN", "PNC", "CRO", "NHS")
"""Types of which one person has one number: two of a type in linked clients contradict each other."""


class Found(NamedTuple):
    """Whom an identifier means."""

    client: int
    """The client as it is now: that of the link, where clients are linked."""
    own: int
    """The row that the identifier belongs to: of linked clients that of a part. Where the link was undone and its parts
    are linked again, the client of now."""
    instead: frozenset[int] = frozenset()
    """Where the link that made this client was undone: the clients whom the identifier may mean."""

    @property
    def may_mean(self) -> frozenset[int]:
        """Every client whom it may mean."""
        return self.instead or frozenset({self.client})


class Node(NamedTuple):
    """A row of `client` as far as links go."""

    merged_into: int | None
    parts: Sequence[int]
    conflicting: bool


# --- which row means whom ---------------------------------------------------------------------------------------------

_NODES = text("SELECT id, merged_into, parts, conflicting FROM client WHERE id = ANY(:ids)")


def _near(node: Node, *, downwards: bool) -> Iterable[int]:
    if node.merged_into:
        yield node.merged_into
    if downwards or node.conflicting:
        yield from node.parts


async def _complete(db: Executor, nodes: dict[int, Node], *, downwards: bool) -> set[int]:
    """Add the clients that these were linked into; `downwards`: and the parts. Nothing to read for most clients.

    Gives the rows that stand in others and that this transaction may not see; none but for what one agency asks.
    """
    hidden: set[int] = set()
    while missing := {id for node in nodes.values() for id in _near(node, downwards=downwards)} - nodes.keys() - hidden:
        for row in await db.execute(_NODES, {"ids": sorted(missing)}):
            nodes[row.id] = Node(row.merged_into, row.parts, row.conflicting)
        hidden |= missing - nodes.keys()
    return hidden


def reaches(rows: Mapping[int, T], id: int, hidden: Collection[int], near: Callable[[T], Iterable[int]]) -> bool:
    """Whether a row leads to one that is hidden."""
    seen: set[int] = set()
    coming = [id]
    while coming:
        one = coming.pop()
        if one in hidden:
            return True
        if one not in seen:
            seen.add(one)
            coming += near(rows[one])
    return False


def _root(nodes: dict[int, Node], id: int) -> int:
    while (above := nodes[id].merged_into) is not None:
        id = above
    return id


def _instead(nodes: dict[int, Node], root: int) -> frozenset[int]:
    """The clients whom one may mean whose link was undone; none for any other."""
    parts = nodes[root].parts
    if not parts or not nodes[root].conflicting or any(nodes[p].merged_into == root for p in parts):
        return frozenset()
    roots = {_root(nodes, p) for p in parts}
    return frozenset().union(*(_instead(nodes, r) or {r} for r in roots))


async def found(db: Executor, rows: dict[int, Node]) -> dict[int, Found]:
    """Whom these rows mean now, by their id. `rows` are completed on the way.

    A row that leads to one which the asker may not see means nobody: half of a person is nobody to decide about.
    """
    asked = list(rows)
    if hidden := await _complete(db, rows, downwards=False):
        asked = [id for id in asked if not reaches(rows, id, hidden, lambda node: _near(node, downwards=False))]
    return {id: Found(_root(rows, id), id, _instead(rows, _root(rows, id))) for id in asked}


async def whom(db: Executor, ids: Collection[int]) -> dict[int, Found]:
    """Whom clients mean now, by the ids that they had."""
    if not ids:
        return {}
    rows = await db.execute(_NODES, {"ids": sorted(ids)})
    return await found(db, {row.id: Node(row.merged_into, row.parts, row.conflicting) for row in rows})


async def members(db: Executor, ids: Collection[int]) -> dict[int, tuple[int, ...]]:
    """The rows that each client is made of: itself first, then what is linked in it now."""
    if not ids:
        return {}
    nodes = {
        row.id: Node(row.merged_into, row.parts, row.conflicting)
        for row in await db.execute(_NODES, {"ids": sorted(ids)})
    }
    await _complete(db, nodes, downwards=True)

    def gather(id: int) -> Iterable[int]:
        yield id
        for part in nodes[id].parts:
            if nodes[part].merged_into == id:
                yield from gather(part)

    return {id: tuple(gather(id)) for id in ids}


# --- entering and undoing ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Link:
    """Two clients that were said to be one person."""

    id: UUID
    client: int
    """The client that was made of them."""
    parts: tuple[int, int]
    by: str
    """The agency that published it, or the person who entered it."""
    conflicting: bool
    """Whether each had a number of the same kind, when they were linked."""
    confirmed: bool
    """Whether a person said that it is one person with two numbers."""
    undone: bool


async def numbers(db: Executor, ids: Collection[int]) -> dict[int, set[tuple[str, str]]]:
    """The numbers of which one person has one each, as (type, value), by the row that they were given to."""
    gathered: dict[int, set[tuple[str, str]]] = {id: set() for id in ids}
    if ids:
        for row in await db.execute(
            text("SELECT client_id, type, value FROM identifier WHERE client_id = ANY(:ids) AND type = ANY(:types)"),
            {"ids": sorted(ids), "types": list(UNIQUE)},
        ):
            gathered[row.client_id].add((row.type, row.value))
    return gathered


async def contradict(db: Executor, rows: Mapping[int, Collection[int]]) -> bool:
    """Whether two of these clients each have a number of a kind of which one person has one. Two clients never have the
    same number, so such numbers contradict each other. A number on an undone link counts as theirs if it would mean
    them alone once they are linked.

    Args:
        rows: the rows of each client, by client.
    """
    whose = {row: client for client, some in rows.items() for row in some}
    for row, meant in (await meaning_of_undone(db, whose)).items():
        if meant <= rows.keys():
            whose[row] = min(meant) if len(meant) == 1 else row
    had = await numbers(db, whose)
    first: dict[str, int] = {}
    return any(first.setdefault(type, whose[row]) != whose[row] for row, some in had.items() for type, _ in some)


async def enter(
    db: Executor,
    id: UUID,
    parts: tuple[int, int],
    version: int,
    conflicting: bool,
    by: str,
    event_id: str | None,
    now: datetime,
) -> int:
    """Make the client of two others, whose rows the caller has locked; gives its id."""
    made = int(
        (
            await db.execute(
                text(
                    "INSERT INTO client (version, parts, conflicting) VALUES (:version, :parts, :conflicting)"
                    " RETURNING id"
                ),
                {"version": version, "parts": list(parts), "conflicting": conflicting},
            )
        ).scalar_one()
    )
    await _join(db, id, made, parts, conflicting, by, event_id, now)
    return made


async def divide(
    db: Executor,
    id: UUID,
    client: int,
    parts: tuple[int, int],
    numbers: Collection[tuple[str, str, str]],
    by: str,
    event_id: str | None,
    now: datetime,
) -> None:
    """Make a client, which the caller has locked, one that a link made of two new ones: the second gets these numbers
    of it, as (type, issuer, value), and the first all the others. What was recorded and said of it is the link's.
    """
    await db.execute(text("UPDATE client SET parts = :parts WHERE id = :id"), {"parts": list(parts), "id": client})
    await arrays(
        db,
        text(
            "UPDATE identifier SET client_id = CASE WHEN (type, issuer, value) IN (SELECT * FROM"
            " unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]), CAST(:a2 AS text[])))"
            " THEN CAST(:second AS bigint) ELSE CAST(:first AS bigint) END WHERE client_id = :client"
        ),
        numbers,
        first=parts[0],
        second=parts[1],
        client=client,
    )
    await _join(db, id, client, parts, False, by, event_id, now)


async def _join(
    db: Executor,
    id: UUID,
    made: int,
    parts: tuple[int, int],
    conflicting: bool,
    by: str,
    event_id: str | None,
    now: datetime,
) -> None:
    await db.execute(text("UPDATE client SET merged_into = :made WHERE id = ANY(:ids)"), {"made": made, "ids": parts})
    await db.execute(
        text(
            "INSERT INTO link (id, client_id, parts, linked_by, event_id, linked_at, conflicting)"
            " VALUES (:id, :made, :parts, :by, :event, :now, :conflicting)"
        ),
        {
            "id": id,
            "made": made,
            "parts": list(parts),
            "by": by,
            "event": event_id,
            "now": now,
            "conflicting": conflicting,
        },
    )


async def undo(db: Executor, link: Link, version: int, by: str, now: datetime) -> None:
    """Set the parts of a link free again, at this version. What it made denies for ever, and no clock tells of it."""
    await db.execute(
        text("UPDATE client SET merged_into = NULL, version = :version WHERE id = ANY(:ids)"),
        {"ids": list(link.parts), "version": version},
    )
    await db.execute(
        text("UPDATE client SET conflicting = true, version = :version WHERE id = :id"),
        {"id": link.client, "version": version},
    )
    await db.execute(text("DELETE FROM due WHERE client_id = :id"), {"id": link.client})
    await db.execute(
        text("UPDATE link SET unlinked_at = :now, unlinked_by = :by WHERE id = :id"),
        {"now": now, "by": by, "id": link.id},
    )


async def confirm(db: Executor, link: Link, by: str, now: datetime) -> None:
    """Enter that the contradicting numbers are one person's."""
    await db.execute(text("UPDATE client SET conflicting = false WHERE id = :id"), {"id": link.client})
    await db.execute(
        text("UPDATE link SET confirmed_at = :now, confirmed_by = :by WHERE id = :id"),
        {"now": now, "by": by, "id": link.id},
    )


_LINKS = "SELECT id, client_id, parts, linked_by, conflicting, confirmed_at, unlinked_at FROM link WHERE "


def _link(row: Any) -> Link:
    return Link(
        row.id,
        row.client_id,
        (row.parts[0], row.parts[1]),
        row.linked_by,
        row.conflicting,
        row.confirmed_at is not None,
        row.unlinked_at is not None,
    )


async def link(db: Executor, id: UUID) -> Link | None:
    """One link."""
    row = (await db.execute(text(_LINKS + "id = :id"), {"id": id})).one_or_none()
    return None if row is None else _link(row)


async def link_of(db: Executor, client: int) -> Link | None:
    """The link that made a client."""
    row = (await db.execute(text(_LINKS + "client_id = :id"), {"id": client})).one_or_none()
    return None if row is None else _link(row)


async def undone_of(db: Executor, rows: Collection[int]) -> list[int]:
    """The clients that links made of these rows, and of what those made, and that were undone since."""
    found = await db.execute(
        text(
            "WITH RECURSIVE undone AS ("
            " SELECT client_id FROM link WHERE parts && CAST(:ids AS bigint[]) AND unlinked_at IS NOT NULL"
            " UNION SELECT l.client_id FROM undone u JOIN link l ON u.client_id = ANY (l.parts)"
            " WHERE l.unlinked_at IS NOT NULL) SELECT client_id FROM undone"
        ),
        {"ids": sorted(rows)},
    )
    return [row.client_id for row in found]


async def meaning_of_undone(db: Executor, rows: Collection[int]) -> dict[int, frozenset[int]]:
    """Those clients (`undone_of`), each with whom its numbers may mean now: one, where its parts are linked again."""
    return {row: one.may_mean for row, one in (await whom(db, await undone_of(db, rows))).items()}


# --- what a person is shown -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Side:
    """One client of a pair, as far as a person needs it: no name, no number."""

    rows: tuple[int, ...]
    types: tuple[str, ...]
    """Which kinds of number it has."""
    known_by: tuple[tuple[str, UUID], ...]
    """Agencies, services left out, each with its reference."""
    recorded_by: frozenset[str]
    """Agencies that recorded something of it."""


async def sides(db: Executor, ids: Collection[int]) -> dict[int, Side]:
    """What may be shown of clients, by id, with what is linked in them."""
    rows = await members(db, ids)
    every = sorted({member for some in rows.values() for member in some})
    types: dict[int, set[str]] = {id: set() for id in every}
    known: dict[int, list[tuple[str, UUID]]] = {id: [] for id in every}
    recorded: dict[int, set[str]] = {id: set() for id in every}
    for row in await db.execute(
        text("SELECT DISTINCT client_id, type FROM identifier WHERE client_id = ANY(:ids)"), {"ids": every}
    ):
        types[row.client_id].add(row.type)
    for row in await db.execute(
        text(
            "SELECT r.client_id, r.recipient, r.id, r.recorded FROM reference r JOIN agency a ON a.id = r.recipient"
            " WHERE r.client_id = ANY(:ids) AND a.kind <> 'service'"
        ),
        {"ids": every},
    ):
        known[row.client_id].append((row.recipient, row.id))
        if row.recorded:
            recorded[row.client_id].add(row.recipient)
    return {
        id: Side(
            some,
            tuple(sorted({t for m in some for t in types[m]})),
            tuple(sorted({k for m in some for k in known[m]}, key=lambda k: (k[0], str(k[1])))),
            frozenset().union(*(recorded[m] for m in some)),
        )
        for id, some in rows.items()
    }


async def every_link(db: Executor, after: UUID | None, limit: int, *, waiting: bool) -> Sequence[Any]:
    """Links behind the one with id `after`, newest first; undone ones are history and among them, those of clients of
    whom everything was erased are not. `waiting`: only those that wait for a person."""
    result = await db.execute(
        text(
            "SELECT id, client_id, parts, linked_by, linked_at, conflicting, confirmed_at, unlinked_at FROM link"
            " WHERE (NOT :waiting OR (conflicting AND confirmed_at IS NULL AND unlinked_at IS NULL))"
            " AND EXISTS (SELECT 1 FROM client c WHERE c.id = client_id AND c.key IS NOT NULL)"
            " AND (CAST(:after AS uuid) IS NULL"
            " OR (linked_at, id) < (SELECT l.linked_at, l.id FROM link l WHERE l.id = :after))"
            " ORDER BY linked_at DESC, id DESC LIMIT :limit"
        ),
        {"waiting": waiting, "after": after, "limit": limit},
    )
    return result.all()
