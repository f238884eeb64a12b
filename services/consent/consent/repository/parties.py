"""Parties and the agreements between them."""

from collections.abc import Mapping
from datetime import datetime

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


async def add_agreement(db: Executor, agreement: Agreement, signatories: Mapping[str, str], review: datetime) -> None:
    """Enter a version of an agreement; versions are never changed."""
    terms = {
        purpose.value: {
            "basis": t.basis.value,
            "categories": sorted(c.value for c in t.categories),
            "subscription": t.subscription,
        }
        for purpose, t in agreement.terms.items()
    }
    await db.execute(
        text(
            "INSERT INTO agreement (id, version, sources, recipients, terms, signatories, starts, review, ends) VALUES"
            " (:id, :version, :sources, :recipients, CAST(:terms AS jsonb), CAST(:signatories AS jsonb),"
            " :starts, :review, :ends)"
        ),
        {
            "id": agreement.id,
            "version": agreement.version,
            "sources": sorted(agreement.sources),
            "recipients": sorted(agreement.recipients),
            "terms": orjson.dumps(terms).decode(),
            "signatories": orjson.dumps(dict(signatories)).decode(),
            "starts": agreement.starts,
            "review": review,
            "ends": agreement.ends,
        },
    )


async def agreements(db: Executor) -> list[Agreement]:
    """Every version of every agreement, in force or not: `decide` chooses by the dates."""
    rows = await db.execute(
        text(
            "SELECT id, version, sources, recipients, terms::text AS terms, starts, ends FROM agreement"
            " ORDER BY id, version"
        )
    )
    return [
        Agreement(
            row.id,
            row.version,
            frozenset(row.sources),
            frozenset(row.recipients),
            {
                Purpose(purpose): Terms(Basis(t["basis"]), frozenset(map(Category, t["categories"])), t["subscription"])
                for purpose, t in orjson.loads(row.terms).items()
            },
            row.starts,
            row.ends,
        )
        for row in rows
    ]
