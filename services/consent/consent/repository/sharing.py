"""What was said about sharing a client's record: an append-only history, read as the facts that a decision needs."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import text

from consent.domain import (
    ClientFacts,
    Ended,
    Expired,
    GatewayInvoked,
    Granted,
    OverrideAuthorised,
    OverrideReviewed,
    Restricted,
    SharingFact,
    Withdrawn,
)
from consent.repository import links
from consent.repository.sql import Executor, Write, arrays

KINDS: dict[str, type[SharingFact]] = {
    "granted": Granted,
    "withdrawn": Withdrawn,
    "expired": Expired,
    "restricted": Restricted,
    "gateway-invoked": GatewayInvoked,
    "override-authorised": OverrideAuthorised,
    "override-reviewed": OverrideReviewed,
    "ended": Ended,
}
_KIND_OF = {cls: kind for kind, cls in KINDS.items()}
_STORED: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(cls) for kind, cls in KINDS.items()}


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Read(Generic[T]):
    """What was read, by client, but for what cannot be read."""

    found: dict[int, T]
    damaged: dict[int, Exception]
    """The rows of which something is left out, and why it cannot be read. For their clients the caller must deny."""

    def whole(self) -> dict[int, T]:
        """What was found, for a caller that cannot go on without all of it.

        Raises:
            ValueError, LookupError, TypeError: something cannot be read.
        """
        for why in self.damaged.values():
            raise why
        return self.found


@dataclass(frozen=True, slots=True)
class Said:
    """One row of the history on its way into the table."""

    client: int
    fact: SharingFact
    event_id: str
    own_id: str | None
    """The publisher's own id of it: the form of a consent, or the id of a restriction, gateway or override."""
    details: str
    """JSON of what else was told of it, such as how a consent was given; no decision reads it."""
    at: datetime


@dataclass(frozen=True, slots=True)
class SharingState:
    """What is known for deciding about one client."""

    id: int
    """The client's own row: that of the linked client, where it is part of one."""
    key: bytes | None
    """Of the client's entries in the ledger; None when it was destroyed."""
    facts: ClientFacts
    members: tuple[int, ...]
    """The rows that this client is made of: its own, and those of the clients linked in it."""


_APPEND = text(
    "INSERT INTO sharing_fact (client_id, version, kind, asserted_by, event_id, own_id, body, details, recorded_at)"
    " SELECT c, v, k, a, e, o, CAST(b AS jsonb), CAST(d AS jsonb), t FROM unnest(CAST(:a0 AS bigint[]),"
    " CAST(:a1 AS int[]), CAST(:a2 AS text[]), CAST(:a3 AS text[]), CAST(:a4 AS text[]), CAST(:a5 AS text[]),"
    " CAST(:a6 AS text[]), CAST(:a7 AS text[]), CAST(:a8 AS timestamptz[])) AS r(c, v, k, a, e, o, b, d, t)"
)


def appending(said: Sequence[Said]) -> Write:
    """Add to the histories. The caller holds the clients' locks, so versions rise by one."""
    return Write(
        _APPEND,
        [
            (
                s.client,
                s.fact.version,
                _KIND_OF[type(s.fact)],
                s.fact.asserted_by,
                s.event_id,
                s.own_id,
                _STORED[_KIND_OF[type(s.fact)]].dump_json(s.fact).decode(),
                s.details,
                s.at,
            )
            for s in said
        ],
    )


_CLIENTS = text(
    "SELECT id, key, version, merged_into, parts, conflicting, EXISTS"
    " (SELECT 1 FROM hold h WHERE h.client_id = c.id AND h.lifted_at IS NULL) AS held"
    " FROM client c WHERE id = ANY(:ids)"
)


class _Client(NamedTuple):
    """What that gives, by name: the driver's own rows take twenty times as long to read one."""

    id: int
    key: bytes | None
    version: int
    merged_into: int | None
    parts: list[int]
    conflicting: bool
    held: bool


_HISTORIES = text(
    "SELECT client_id, kind, body::text AS body FROM sharing_fact WHERE client_id = ANY(:ids)"
    " ORDER BY client_id, version"
)


async def known(db: Executor, ids: Collection[int]) -> Read[SharingState]:
    """The facts of each client by id. One that was linked has the facts of the client that it is linked in; one that is
    not there is left out.

    Without those of whom this transaction may not see every row: what a hidden row forbids would be missed.
    """
    rows: dict[int, _Client] = {}
    wanted, hidden = set(ids), set[int]()
    while wanted:  # once for clients that were never linked
        for row in map(_Client._make, await db.execute(_CLIENTS, {"ids": sorted(wanted)})):
            rows[row.id] = row
        hidden |= wanted - rows.keys()
        wanted = {part for row in rows.values() for part in _near(row)} - rows.keys() - hidden
    complete = rows.keys() & set(ids)
    if hidden:
        complete = {id for id in complete if not links.reaches(rows, id, hidden, _near)}
    histories = await own_histories(db, rows)
    found: dict[int, SharingState] = {}
    for id in complete:
        root = id
        while into := rows[root].merged_into:
            root = into
        if root not in found:
            found[root] = _known(root, rows, histories.found)
        found[id] = found[root]
    return Read(found, histories.damaged)


def _near(row: _Client) -> Iterable[int]:
    return (row.merged_into, *row.parts) if row.merged_into else row.parts


def _known(root: int, rows: dict[int, _Client], histories: dict[int, tuple[SharingFact, ...]]) -> SharingState:
    def parts(id: int) -> list[int]:
        return [part for part in rows[id].parts if rows[part].merged_into == id]  # no longer when that was undone

    def made_of(id: int) -> list[int]:
        return [id, *(member for part in parts(id) for member in made_of(part))]

    members = made_of(root)
    facts = facts_from(
        root,
        parts,
        lambda id: histories.get(id, ()),
        held=any(rows[id].held for id in members),
        version=rows[root].version,
        conflicting=any(rows[id].conflicting for id in members),
    )
    return SharingState(root, rows[root].key, facts, tuple(members))


def facts_from(
    client: int,
    parts: Callable[[int], Sequence[int]],
    said: Callable[[int], tuple[SharingFact, ...]],
    *,
    held: bool,
    version: int,
    conflicting: bool,
) -> ClientFacts:
    """The facts of a client by what was said of its row; of a linked one those of each part, with what was said since
    of what it is linked in.
    """

    def histories(id: int, since: tuple[SharingFact, ...]) -> list[tuple[SharingFact, ...]]:
        history = said(id) + since
        return [one for part in parts(id) for one in histories(part, history)] or [history]

    each = tuple(ClientFacts(history, held, version, conflicting) for history in histories(client, ()))
    return each[0] if len(each) == 1 else ClientFacts((), held, version, conflicting, each)


async def own_histories(db: Executor, ids: Collection[int]) -> Read[tuple[SharingFact, ...]]:
    """What was said of these rows themselves, without that of parts; oldest first."""
    gathered: dict[int, list[SharingFact]] = {}
    damaged: dict[int, Exception] = {}
    for client, kind, body in await db.execute(_HISTORIES, {"ids": sorted(ids)}):  # by name would cost a third more
        try:
            gathered.setdefault(client, []).append(_STORED[kind].validate_json(body))
        except (ValueError, KeyError) as why:
            damaged.setdefault(client, why)
    return Read({id: tuple(facts) for id, facts in gathered.items()}, damaged)


INVOKED = (
    "EXISTS (SELECT 1 FROM sharing_fact f WHERE f.client_id = c.id"
    " AND f.kind IN ('gateway-invoked', 'override-authorised')"
    # Where the end cannot be read, the facts are: there it counts as damage, here it would fail the batch.
    " AND CASE WHEN pg_input_is_valid(f.body ->> 'ends', 'timestamptz')"
    " THEN CAST(f.body ->> 'ends' AS timestamptz) > clock_timestamp() ELSE true END)"
)
"""Whether there is a gateway or an override for a row `c` that the clock has not ended."""


async def was_begun(db: Executor, clients: Collection[int], agency: str, kind: str, own_id: str) -> bool:
    """Whether an agency said something of this kind under this id of one of these clients; it may have ended since."""
    found = await db.scalar(
        text(
            "SELECT EXISTS (SELECT 1 FROM sharing_fact WHERE client_id = ANY(:clients) AND kind = :kind"
            " AND asserted_by = :agency AND own_id = :own_id)"
        ),
        {"clients": sorted(clients), "agency": agency, "kind": kind, "own_id": own_id},
    )
    return bool(found)


async def forms_seen(db: Executor, forms: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which (agency, form number) opened a permit, or tried to, before; also for a client who was erased since."""
    if not forms:
        return set()
    result = await arrays(
        db,
        text(
            "SELECT a, f FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[])) AS r(a, f) WHERE EXISTS"
            " (SELECT 1 FROM sharing_fact WHERE asserted_by = a AND own_id = f AND kind = 'granted') OR EXISTS"
            " (SELECT 1 FROM used_form u WHERE u.asserted_by = a AND u.form = sha256(convert_to(f, 'UTF8')))"
        ),
        list(forms),
    )
    return {(row.a, row.f) for row in result}
