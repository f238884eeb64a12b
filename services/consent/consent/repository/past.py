"""What past decisions were made on: the ledger's questions, and histories, agreements and links as they were then."""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import text

from consent.domain import Agreement, ClientFacts, SharingFact
from consent.repository import agreements, sharing
from consent.repository.ledger import CANCELLED, DECISIONS
from consent.repository.sql import Executor
from servicekit.auth import OPERATOR

_DECISIONS = text(
    "SELECT l.id, l.kind, l.decision, l.client_id, l.decided_at, l.body, c.key FROM ledger l"  # noqa: S608 # a constant
    " JOIN client c ON c.id = l.client_id WHERE l.id > :after AND l.decided_at >= :since"
    f" AND l.kind = ANY(:kinds) AND NOT {CANCELLED} ORDER BY l.id LIMIT :limit"
)


async def decisions(db: Executor, since: datetime, after: int, limit: int) -> Sequence[Any]:
    """Decisions about sharing from `since` on, by the order of their entries; one that was made anew counts once."""
    bound = {"kinds": sorted(DECISIONS), "since": since, "after": after, "limit": limit}
    return (await db.execute(_DECISIONS, bound)).all()


class Histories:
    """What was said of clients, to be read as it was at a version."""

    def __init__(self, parts: Mapping[int, Sequence[int]], said: Mapping[int, tuple[SharingFact, ...]]) -> None:
        self._parts = parts
        self._said = said

    def at(self, client: int, version: int, *, held: bool, conflicting: bool) -> ClientFacts:
        """The facts of a client at one of its versions; for a linked client, of each part with what was said since.

        A part that is free again by now had no later version while it was linked, so what was said of it since does
        not count.
        """
        return sharing.facts_from(
            client,
            self._parts.__getitem__,
            lambda id: tuple(f for f in self._said.get(id, ()) if f.version <= version),
            held=held,
            version=version,
            conflicting=conflicting,
        )


async def histories(db: Executor, clients: Collection[int]) -> Histories:
    """The histories of clients and of those that were linked in them."""
    parts: dict[int, Sequence[int]] = {}
    wanted = set(clients)
    while wanted:
        rows = await db.execute(text("SELECT id, parts FROM client WHERE id = ANY(:ids)"), {"ids": sorted(wanted)})
        parts |= {row.id: row.parts for row in rows}
        wanted = {part for some in parts.values() for part in some} - parts.keys()
    return Histories(parts, (await sharing.own_histories(db, parts)).whole())


class PastRegister:
    """Every version of every agreement, to be read as the register was at a time."""

    def __init__(
        self, versions: Sequence[tuple[datetime, Agreement]], stops: Sequence[tuple[datetime, str, str, str]]
    ) -> None:
        self._versions = versions
        """When each was entered."""
        self._stops = stops
        """When, by whom and of which agreement each suspension and its end was, in order."""
        self._turns = sorted({at for at, _ in versions} | {at for at, *_ in stops})
        self._read: dict[int, list[Agreement]] = {}

    def at(self, at: datetime) -> list[Agreement]:
        """The agreements as they were known at this time."""
        turn = bisect_right(self._turns, at)
        if turn not in self._read:
            self._read[turn] = [
                replace(a, suspended_from=self._suspended(a, at)) for entered, a in self._versions if entered <= at
            ]
        return self._read[turn]

    def _suspended(self, agreement: Agreement, at: datetime) -> datetime | None:
        """As `agreements.every` reads it: the first of those that stood then."""
        standing: dict[str, datetime] = {}
        for when, by, id, kind in self._stops:
            if id == agreement.id and when <= at:
                standing.pop(by, None)
                if kind == "suspended" and by in {OPERATOR, *agreement.sources, *agreement.recipients}:
                    standing[by] = when
        return min(standing.values(), default=None)


async def register(db: Executor) -> PastRegister:
    """The register with its history."""
    entered = {
        (row.id, row.version): row.signed_at
        for row in await db.execute(text("SELECT id, version, signed_at FROM agreement"))
    }
    stops = await db.execute(
        text("SELECT at, by, agreement, kind FROM agreement_change WHERE kind <> 'version' ORDER BY number")
    )
    return PastRegister(
        [(entered[a.id, a.version], a) for a in await agreements.every(db)],
        [(row.at, row.by, row.agreement, row.kind) for row in stops],
    )
