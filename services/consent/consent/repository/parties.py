"""Parties and the agreements between them, as decisions read them."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text

from consent.domain import Agency, Agreement, Terms
from consent.repository.sql import Executor
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose


async def put_agency(db: Executor, agency: Agency, name: str) -> None:
    """Enter or change a party."""
    await db.execute(
        text(
            "INSERT INTO agency (id, kind, area, name) VALUES (:id, :kind, :area, :name)"
            " ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, area = excluded.area, name = excluded.name"
        ),
        {"id": agency.id, "kind": agency.kind.value, "area": agency.area, "name": name},
    )


async def agencies(db: Executor) -> dict[str, Agency]:
    """Every party by id."""
    rows = await db.execute(text("SELECT id, kind, area FROM agency"))
    return {row.id: Agency(row.id, AgencyKind(row.kind), row.area) for row in rows}


async def knows_somebody(db: Executor, agency: str) -> bool:
    """Whether a client has a reference for this agency: it recorded something, or something was queued for it."""
    return bool(
        await db.scalar(text("SELECT EXISTS (SELECT 1 FROM reference WHERE recipient = :agency)"), {"agency": agency})
    )


async def add_agreement(
    db: Executor, agreement: Agreement, signatories: Mapping[str, Any], review: datetime, draft: UUID | None = None
) -> None:
    """Enter a version of an agreement; versions are never changed. `draft` is what was signed, if that was here."""
    await db.execute(
        text(
            "INSERT INTO agreement (id, version, sources, recipients, terms, enforces, signatories, starts, review,"
            " ends, draft) VALUES (:id, :version, :sources, :recipients, CAST(:terms AS jsonb), :enforces,"
            " CAST(:signatories AS jsonb), :starts, :review, :ends, :draft)"
        ),
        columns(agreement)
        | {"signatories": orjson.dumps(dict(signatories)).decode(), "review": review, "draft": draft},
    )


def columns(agreement: Agreement) -> dict[str, Any]:
    """What a version says, by the columns that the tables of versions and of drafts share."""
    return {
        "id": agreement.id,
        "version": agreement.version,
        "sources": sorted(agreement.sources),
        "recipients": sorted(agreement.recipients),
        "terms": orjson.dumps(
            {
                purpose.value: {
                    "basis": t.basis.value,
                    "categories": sorted(c.value for c in t.categories),
                    "subscription": t.subscription,
                    "ownWord": t.own_word,
                }
                for purpose, t in agreement.terms.items()
            }
        ).decode(),
        "enforces": sorted(agreement.enforces),
        "starts": agreement.starts,
        "ends": agreement.ends,
    }


def agreement_of(row: Any, suspended_from: datetime | None = None) -> Agreement:
    """A version, or what a draft would make one, from those columns."""
    return Agreement(
        row.id,
        row.version,
        frozenset(row.sources),
        frozenset(row.recipients),
        {
            Purpose(purpose): Terms(
                Basis(t["basis"]),
                frozenset(map(Category, t["categories"])),
                t["subscription"],
                t.get("ownWord", False),
            )
            for purpose, t in orjson.loads(row.terms).items()
        },
        row.starts,
        row.ends,
        frozenset(row.enforces),
        suspended_from,
    )


SUSPENDED_FROM = (
    "(SELECT min(s.at) FROM (SELECT DISTINCT ON (c.by) c.by, c.kind, c.at FROM agreement_change c"
    " WHERE c.agreement = a.id AND c.kind <> 'version' ORDER BY c.by, c.number DESC) s"
    " WHERE s.kind = 'suspended' AND (s.by = 'operator' OR s.by = ANY(a.sources || a.recipients))) AS suspended_from"
)
"""Since when a version `a` is suspended: the first suspension, by a party of it or the operator, that the same has not
resumed since."""


async def agreements(db: Executor) -> list[Agreement]:
    """Every version of every agreement, in force or not: `decide` chooses by the dates."""
    rows = await db.execute(
        text(
            "SELECT id, version, sources, recipients, terms::text AS terms, enforces, starts, ends,"  # noqa: S608 # ours
            f" {SUSPENDED_FROM} FROM agreement a ORDER BY id, version"
        )
    )
    return [agreement_of(row, row.suspended_from) for row in rows]


async def undertakings(db: Executor) -> list[Agreement]:
    """Of agreements that the asker may not see, who undertook to enforce exclusions and when; they permit nothing."""
    rows = await db.execute(text("SELECT id, version, enforces, starts, ends, suspended_from FROM undertakings()"))
    return [
        Agreement(
            row.id,
            row.version,
            frozenset(),
            frozenset(),
            {},
            row.starts,
            row.ends,
            frozenset(row.enforces),
            row.suspended_from,
        )
        for row in rows
    ]
