"""What agencies recorded of clients, as sections, beside what rules their sharing."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import orjson
from prometheus_client import Counter
from sqlalchemy import text

from consent.repository import sharing
from consent.repository.sharing import Read, SharingState
from consent.repository.sql import Executor
from contracts.facts import FIELDS, spent_on
from contracts.vocabulary import Category

log = logging.getLogger(__name__)

DAMAGED = Counter(
    "throughgate_damaged", "Clients treated as held, and records taken back, because what is kept cannot be read."
)


async def facts_of(
    db: Executor, ids: Collection[int], with_sections: Collection[int]
) -> tuple[dict[int, SharingState], dict[int, list[dict[str, Any]]], set[int]]:
    """What rules the sharing of clients, the sections of some of them, and the rows of which something that was read
    here cannot be read. Their clients are held, for it may have been a no; the rows stand in the log, and are counted.
    """
    if not ids:
        return {}, {}, set()
    read = await sharing.known(db, ids)
    known = read.found
    wanted = {id: known[id] for id in known.keys() & set(with_sections)}
    told = await sections(db, wanted)
    damaged = {*read.damaged, *told.damaged}
    for row in sorted(damaged):
        log.error("client row %d is treated as held: what is kept of it cannot be read", row)
        DAMAGED.inc()
    for id, client in known.items():
        if not damaged.isdisjoint(client.members):
            known[id] = replace(client, facts=replace(client.facts, held=True))
    return known, told.found, damaged


async def sections(db: Executor, known: Mapping[int, SharingState]) -> Read[list[dict[str, Any]]]:
    """All that was recorded of each client, as sections in a fixed order; of linked clients the newest of each kind,
    which is what was recorded since the last of their links, whatever time it bears.
    """
    if not known:
        return Read({}, {})
    members = {member for one in known.values() for member in one.members}
    rows: dict[int, list[Any]] = {}
    for row in await db.execute(
        text(
            "SELECT client_id, source, category, recorded_at, data FROM fact WHERE client_id = ANY(:ids)"
            " ORDER BY client_id, source, category"
        ),
        {"ids": sorted(members)},
    ):
        rows.setdefault(row.client_id, []).append(row)
    found: dict[int, list[dict[str, Any]]] = {}
    damaged: dict[int, Exception] = {}
    for id, one in known.items():
        newest: dict[tuple[str, str], Any] = {}
        for row in (row for member in one.members for row in rows.get(member, ())):
            other = newest.get((row.source, row.category))
            since_linked = row.client_id == one.id or (other is not None and other.client_id == one.id)
            if other is None or (row.client_id == one.id if since_linked else row.recorded_at > other.recorded_at):
                newest[row.source, row.category] = row
        found[id] = []
        for _, row in sorted(newest.items()):
            try:
                found[id].append(section(row.source, row.category, row.recorded_at, _fields(row)))
            except (ValueError, TypeError) as why:
                damaged.setdefault(row.client_id, why)
    return Read(found, damaged)


def _fields(row: Any) -> dict[str, Any]:
    """What was recorded in one category.

    Raises:
        ValueError, TypeError: it cannot be read: nothing that was taken in looks so.
    """
    data = orjson.loads(row.data)
    if row.category not in FIELDS or not isinstance(data, dict):
        raise ValueError("no fields of a category")
    if row.category == Category.OFFENCE:
        spent_on(data)  # from which day it is withheld
    return data


def section(source: str, category: str, recorded_at: datetime, data: Mapping[str, Any]) -> dict[str, Any]:
    """A section in the form in which it leaves (`contracts.facts.Section`), as plain JSON."""
    return {"category": category, "source": source, "recordedAt": recorded_at.isoformat(), "data": data}


async def by(db: Executor, sources: Sequence[str], after: int, limit: int) -> list[int]:
    """Clients of whom one of `sources` recorded something, by id; linked ones as the client that they are part of."""
    rows = await db.execute(
        text(
            "SELECT id FROM client c WHERE id > :after AND merged_into IS NULL AND (parts <> '{}' OR EXISTS"
            " (SELECT 1 FROM fact f WHERE f.client_id = c.id AND f.source = ANY(:sources))) ORDER BY id LIMIT :limit"
        ),
        {"sources": list(sources), "after": after, "limit": limit},
    )
    return [row.id for row in rows]
