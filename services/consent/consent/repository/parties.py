"""Parties: the agencies that take part, and our own services."""

from sqlalchemy import text

from consent.domain import Agency
from consent.repository.sql import Executor
from contracts.vocabulary import AgencyKind


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


async def names(db: Executor) -> dict[str, str]:
    """The name of each party by its id."""
    return {row.id: row.name for row in await db.execute(text("SELECT id, name FROM agency"))}


async def knows_somebody(db: Executor, agency: str) -> bool:
    """Whether a client has a reference for this agency: it recorded something, or something was queued for it."""
    return bool(
        await db.scalar(text("SELECT EXISTS (SELECT 1 FROM reference WHERE recipient = :agency)"), {"agency": agency})
    )
