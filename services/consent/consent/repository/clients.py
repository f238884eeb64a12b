"""Clients: identifiers and references, finding and locking them, and all that is known of one."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.domain import ClientFacts, SharingFact
from consent.repository import links, recorded, sharing
from consent.repository.links import Found, Node
from consent.repository.sql import Executor, arrays
from servicekit.db import TryAgain


class Identifier(NamedTuple):
    """By what an agency names a client: a number, or the reference that the door gave it."""

    type: str
    """Of `contracts.vocabulary.IdentifierType`."""
    issuer: str
    """Of an agency's own number the agency, of a reference the recipient; else empty."""
    value: str

    @classmethod
    def reference(cls, recipient: str, id: UUID) -> "Identifier":
        """The reference that this recipient was given."""
        return cls("THROUGHGATE", recipient, str(id))

    @property
    def is_reference(self) -> bool:
        """Whether it is a reference, which only the door gives: no event can bring a client one that is new."""
        return self.type == "THROUGHGATE"

    @property
    def is_own(self) -> bool:
        """Whether it means a client to one agency only: its own number, or its reference."""
        return bool(self.issuer)


class Hold(NamedTuple):
    """By whose word a client, or a number that no client has, is held, and why."""

    asserted_by: str
    reason: str


@dataclass(slots=True)
class Reference:
    """The random id of a client for one recipient."""

    id: UUID
    recipient: str
    queued: bool
    client: int
    """The client that it was made for: one of the parts, where clients are linked."""
    recorded: bool = False
    """Whether the recipient recorded something of the client itself."""


@dataclass(slots=True)
class Client:
    """A client as a batch works on it. Facts and sections are loaded only where what is said about sharing changes."""

    id: int
    version: int
    references: dict[str, Reference] = field(default_factory=dict)
    """By recipient, the one under which it is told of this client."""
    former: list[Reference] = field(default_factory=list)
    """Other references by which recipients know parts of this client: they get retractions only."""
    facts: ClientFacts = field(default_factory=ClientFacts)
    sections: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    """(source, category) to the section as it leaves."""
    source_versions: dict[tuple[int, str], int] = field(default_factory=dict)
    """(member, source) to the newest version: a source that knows two of the parts numbers the events of each apart."""
    members: tuple[int, ...] = ()
    """The rows that it is made of: its own, and those of the clients linked in it."""
    erased: bool = False
    """All that was kept of it is gone: it takes nothing in any more, but confirmations of its retractions."""
    since: datetime | None = None
    """Since when the door knows it; of linked clients, all of them. None: it is made in this batch."""
    known_to: set[str] = field(default_factory=set)
    """Agencies that know it by its numbers: they recorded something of it, or a record was sent to them
    (`know_who_was_told`)."""
    holds: dict[Hold, int] = field(default_factory=dict)
    """Its open holds, to the row that each was put on."""
    damaged: frozenset[int] = frozenset()
    """Those of its rows of which something cannot be read. It is treated as held; nothing may rest on what is known."""

    def say(self, fact: SharingFact) -> None:
        """Add to the facts in memory what is said of this client, its linked parts included."""
        self.version = fact.version
        self.facts = _with(self.facts, fact)


def _with(facts: ClientFacts, fact: SharingFact) -> ClientFacts:
    parts = tuple(_with(part, fact) for part in facts.parts)
    history = () if parts else (*facts.history, fact)
    return replace(facts, history=history, version=fact.version, parts=parts)


async def find(db: Executor, keys: Collection[Identifier]) -> dict[Identifier, Found]:
    """Whom identifiers mean. A reference means somebody to the recipient that it was given to, and nobody else.

    Of a link that was undone they mean the client of now again, once its parts are linked again, and come with it.
    """
    if not keys:
        return {}
    own: dict[Identifier, int] = {}
    rows: dict[int, Node] = {}
    statement = _FIND[frozenset(key.is_reference for key in keys)]
    for type, issuer, value, id, *node in await arrays(db, statement, keys):
        own[Identifier(type, issuer, value)] = id
        rows[id] = Node(*node)
    found = await links.found(db, rows)
    for id, one in found.items():
        if len(one.instead) == 1:
            (client,) = one.instead
            found[id] = Found(client, client)
    return {key: found[id] for key, id in own.items() if id in found}


async def of_references(db: Executor, references: Collection[UUID], recipient: str | None) -> dict[UUID, int]:
    """The rows that references were given to: those of this recipient; None: of any, for a caller
    that may use all of them.
    """
    rows = await db.execute(
        text(
            "SELECT id, client_id FROM reference WHERE id = ANY(:ids)"
            " AND (CAST(:recipient AS text) IS NULL OR recipient = :recipient)"
        ),
        {"ids": list(references), "recipient": recipient},
    )
    return {row.id: row.client_id for row in rows}


async def erased_of(db: Executor, ids: Collection[int]) -> set[int]:
    """Those of these clients of whom all that was kept is gone."""
    rows = await db.execute(text("SELECT id FROM client WHERE id = ANY(:ids) AND key IS NULL"), {"ids": list(ids)})
    return {row.id for row in rows}


async def resolve(db: Executor, keys: Collection[Identifier]) -> dict[Identifier, int]:
    """The clients behind identifiers, as `find` says: of a linked client, the one that the link made."""
    return {key: found.client for key, found in (await find(db, keys)).items()}


_ASKED = (
    "SELECT t, i, v, c.id, c.merged_into, c.parts, c.conflicting"
    " FROM unnest(CAST(:a0 AS text[]), CAST(:a1 AS text[]), CAST(:a2 AS text[])) AS r(t, i, v)"
)
_BY_NUMBER = f"{_ASKED} JOIN identifier ON type = t AND issuer = i AND value = v JOIN client c ON c.id = client_id"
_BY_REFERENCE = (
    f"{_ASKED} JOIN reference f ON f.id = CASE WHEN t = 'THROUGHGATE' THEN CAST(v AS uuid) END AND recipient = i"
    " JOIN client c ON c.id = client_id"
)
_FIND = {
    frozenset({False}): text(_BY_NUMBER),  # a caller that asks for references only may have no right to see numbers
    frozenset({True}): text(_BY_REFERENCE),
    frozenset({False, True}): text(f"{_BY_NUMBER} UNION ALL {_BY_REFERENCE}"),
}
"""By whether there are numbers and references among what is asked."""


async def lock(db: Executor, ids: Collection[int]) -> None:
    """Lock clients in the order of their ids. What the lock protects is read in later statements, never in this one."""
    if ids:
        await db.execute(text("SELECT 1 FROM client WHERE id = ANY(:ids) ORDER BY id FOR UPDATE"), {"ids": sorted(ids)})


async def hold_still(db: Executor, ids: Collection[int]) -> None:
    """As `lock`, for a role that may only read and has no right to lock rows itself.

    Readers wait for one another, too: if they were let in together, a withdrawal would wait for as long as more come.
    """
    if ids:
        await db.execute(text("SELECT hold_still(:ids)"), {"ids": sorted(ids)})


async def lock_whole(db: Executor, ids: Collection[int]) -> dict[int, Found]:
    """Lock the clients that these rows mean now, with all rows that are, or were, linked in them; gives whom each row
    means. All in one statement: a transaction that took one after the other could deadlock with another.

    Raises:
        TryAgain: a link was made or undone while we waited.
    """
    found = await links.whom(db, ids)
    rows = await links.members(db, {client for one in found.values() for client in one.may_mean})
    every = {member for some in rows.values() for member in some}
    await lock(db, every.union(await links.undone_of(db, every)))
    if await links.whom(db, ids) != found:
        raise TryAgain
    return found


NUMBERS = 7_400
"""Advisory lock around numbers that no client has yet."""


async def lock_numbers(db: Executor, *, exclusive: bool) -> None:
    """Keep apart who gives a number to a client and who stops a number that nobody has; until the commit."""
    function = "pg_advisory_xact_lock" if exclusive else "pg_advisory_xact_lock_shared"
    await db.execute(text(f"SELECT {function}(:lock)"), {"lock": NUMBERS})  # one of two constants


async def make(db: Executor, count: int) -> list[int]:
    """Make clients."""
    if not count:
        return []
    result = await db.execute(
        text("INSERT INTO client (version) SELECT 0 FROM generate_series(1, :n) RETURNING id"), {"n": count}
    )
    return sorted(row.id for row in result)


async def know_who_was_told(db: Executor, clients: Collection[Client], agencies: Collection[str]) -> None:
    """Enter in `known_to` which of these agencies a record of these clients was sent to.

    Only what was sent counts: a recipient for whom something was queued and refused does not know whom it was about.
    """
    whose = {member: client for client in clients for member in client.members}
    for member, agency in await sent_to(db, whose, agencies):
        whose[member].known_to.add(agency)


async def sent_to(db: Executor, clients: Collection[int], agencies: Collection[str]) -> set[tuple[int, str]]:
    """Of which of these rows of clients a record was sent to which of these agencies: (row, agency)."""
    if not clients or not agencies:
        return set()
    rows = await db.execute(
        text(
            "SELECT DISTINCT client_id, recipient FROM ledger WHERE client_id = ANY(:clients)"
            " AND recipient = ANY(:agencies) AND kind = 'disclosure'"
        ),
        {"clients": sorted(clients), "agencies": sorted(agencies)},
    )
    return {(row.client_id, row.recipient) for row in rows}


async def load(db: Executor, ids: Collection[int], with_facts: Collection[int]) -> dict[int, Client]:
    """Clients with their references; those in `with_facts` with all that rules their sharing. Read after the lock.

    So are those for whom a gateway or an override has not ended: its recipients are to get what is recorded.
    `ids` are clients as they are now (`find`), not parts of others. A recipient that knows several parts of a linked
    client goes on under the reference of the oldest of them; its others are `former`.
    """
    if not ids:
        return {}
    rows, members = await _rows(db, ids)
    clients = {id: _made_of(id, some, rows) for id, some in members.items()}
    invoked = {id for id, some in members.items() if any(rows[member].invoked for member in some)}
    if invoked or with_facts:
        await _add_facts(db, clients, invoked.union(with_facts))
    return clients


async def _rows(db: Executor, ids: Collection[int]) -> tuple[dict[int, Any], dict[int, tuple[int, ...]]]:
    """The rows of clients and of those that are linked in them, and which of them each client is made of."""
    rows = {row.id: row for row in await db.execute(_ROWS, {"ids": list(ids)})}
    members: dict[int, tuple[int, ...]] = {id: (id,) for id in rows}
    if linked := [id for id, row in rows.items() if row.parts]:
        members |= await links.members(db, linked)
        others = {member for id in linked for member in members[id]} - rows.keys()
        rows |= {row.id: row for row in await db.execute(_ROWS, {"ids": sorted(others)})} if others else {}
    return rows, members


def _made_of(id: int, members: tuple[int, ...], rows: Mapping[int, Any]) -> Client:
    """A client with what its rows say: all but the facts."""
    made_at = [rows[member].made_at for member in members if not rows[member].parts] or [rows[id].made_at]
    client = Client(id, rows[id].version, members=members, erased=rows[id].erased, since=max(made_at))
    for member in sorted(members):
        for reference_id, recipient, queued, has_recorded in rows[member].given:
            reference = Reference(reference_id, recipient, queued, member, has_recorded)
            if has_recorded:
                client.known_to.add(recipient)
            if client.references.setdefault(recipient, reference) is not reference:
                client.former.append(reference)
        for source, version in rows[member].source_versions:
            client.source_versions[member, source] = version
    return client


async def _add_facts(db: Executor, clients: Mapping[int, Client], ids: Collection[int]) -> None:
    """Add to some of these clients what rules their sharing, and to all of them their open holds if one of those is
    held.
    """
    known, found, damaged = await recorded.facts_of(db, ids, ids)
    for id in ids:
        client = clients[id]
        client.facts = known[id].facts
        client.sections = {(s["source"], s["category"]): s for s in found[id]}
        client.damaged = frozenset(damaged.intersection(client.members))
    if any(known[id].facts.held for id in ids):
        whose = {member: client for client in clients.values() for member in client.members}
        for row in await db.execute(_OPEN_HOLDS, {"ids": list(whose)}):
            whose[row.client_id].holds[Hold(row.asserted_by, row.reason)] = row.client_id


_ROWS = text(
    "SELECT c.id, c.version, c.parts, c.key IS NULL AS erased, c.made_at, ARRAY(SELECT ROW("  # noqa: S608 # ours
    "r.id, r.recipient, r.queued, r.recorded) FROM reference r WHERE r.client_id = c.id) AS given, ARRAY(SELECT ROW("
    "v.source, v.clientversion) FROM source_version v WHERE v.client_id = c.id) AS source_versions,"
    f" {sharing.INVOKED} AS invoked FROM client c WHERE c.id = ANY(:ids)"
)
"""A row for each client, for a batch has hundreds of references."""
_OPEN_HOLDS = text("SELECT client_id, asserted_by, reason FROM hold WHERE client_id = ANY(:ids) AND lifted_at IS NULL")


async def recipient_of(db: Executor, reference: UUID) -> str | None:
    """The agency or service whose reference of a client this is; None: nobody's."""
    recipient: str | None = await db.scalar(text("SELECT recipient FROM reference WHERE id = :id"), {"id": reference})
    return recipient


async def own_references(db: Executor, named: Collection[UUID], service: str) -> dict[UUID, UUID]:
    """The asker's own references, by those that one of our services named: of clients whom the asker knows already."""
    rows = await db.execute(
        text("SELECT named, own FROM own_references(:named, :service)"), {"named": list(named), "service": service}
    )
    return {row.named: row.own for row in rows}
