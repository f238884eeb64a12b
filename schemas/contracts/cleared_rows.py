"""The rows in which each of our services keeps its cleared clients: every statement on `client` and `section`.

The tables are each service's own, made by its migrations, in its own database; it adds columns of its own to `client`.
What they have in common is `client (reference, tombstone, withdrawn_at, avoided)` and `section (client, source,
category, recorded_at, data)`. Why SQL stands here and not in each service's repository:
docs/adr/0006-what-services-share.md.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.cleared import Client, Section
from contracts.vocabulary import Category
from servicekit.sql import do, json, rows

C = TypeVar("C", bound=Client)


async def make(session: AsyncSession, references: Collection[UUID]) -> None:
    """Make the rows of those clients who are new."""
    await do(
        session,
        """
        INSERT INTO client (reference) SELECT r FROM unnest(CAST(:references AS uuid[])) AS r ORDER BY r
        ON CONFLICT DO NOTHING
        """,
        references=sorted(references),
    )


async def lock(session: AsyncSession, references: Collection[UUID], *, skip_locked: bool = False) -> list[UUID]:
    """Lock the clients' rows in sorted order; gives those that were locked.

    Args:
        skip_locked: leave out those whom somebody else works on, and do not wait for them.
    """
    sql = "SELECT reference FROM client WHERE reference = ANY(:wanted) ORDER BY reference FOR NO KEY UPDATE"
    found = await session.scalars(text(sql + (" SKIP LOCKED" if skip_locked else "")), {"wanted": sorted(references)})
    return list(found)


async def read(session: AsyncSession, wanted: Sequence[UUID], made: Callable[[RowMapping], C]) -> dict[UUID, C]:
    """The clients with their sections, as of now. The lock is taken before, by a statement of its own.

    Args:
        made: makes the service's client of its row, with what only this service keeps there.
    """
    found: dict[UUID, C] = {}
    for row in await rows(session, "SELECT * FROM client WHERE reference = ANY(:wanted)", wanted=wanted):
        client = found[row.reference] = made(row)
        client.tombstone, client.avoided = row.tombstone, set(row.avoided)
    for row in await rows(
        session,
        "SELECT client, source, category, recorded_at, data FROM section WHERE client = ANY(:wanted)",
        wanted=wanted,
    ):
        section = Section(row.source, Category(row.category), row.recorded_at, row.data)
        found[row.client].sections[section.source, section.category] = section
    return found


async def save(session: AsyncSession, clients: Collection[Client]) -> None:
    """Write tombstones and who is avoided, erase the sections that are gone, write those that were kept."""
    stopped = [client for client in clients if client.tombstone is not None]
    if stopped:
        await do(
            session,
            """
            UPDATE client SET tombstone = r.tombstone, avoided = r.avoided,
                withdrawn_at = CASE WHEN r.now THEN clock_timestamp() ELSE client.withdrawn_at END
            FROM (
                SELECT c AS reference, t AS tombstone, CAST(a AS jsonb) AS avoided, n AS now
                FROM unnest(CAST(:references AS uuid[]), CAST(:tombstones AS int[]), CAST(:avoided AS text[]),
                    CAST(:now AS boolean[])) AS rows(c, t, a, n)
            ) AS r
            WHERE client.reference = r.reference AND (r.now OR client.avoided <> r.avoided)
            """,
            references=[client.reference for client in stopped],
            tombstones=[client.tombstone for client in stopped],
            avoided=[json(sorted(client.avoided)) for client in stopped],
            now=[client.stopped for client in stopped],
        )
    changed = [(client, key) for client in clients for key in client.changed]
    gone = [(client.reference, *key) for client, key in changed if key not in client.sections]
    if gone:
        await do(
            session,
            """
            DELETE FROM section USING unnest(CAST(:clients AS uuid[]), CAST(:sources AS text[]),
                CAST(:categories AS text[])) AS r(c, s, k)
            WHERE section.client = r.c AND section.source = r.s AND section.category = r.k
            """,
            clients=[client for client, _, _ in gone],
            sources=[source for _, source, _ in gone],
            categories=[category for _, _, category in gone],
        )
    kept = [(client.reference, client.sections[key]) for client, key in changed if key in client.sections]
    if kept:
        await do(
            session,
            """
            INSERT INTO section (client, source, category, recorded_at, data)
            SELECT c, s, k, t, CAST(d AS jsonb)
            FROM unnest(CAST(:clients AS uuid[]), CAST(:sources AS text[]), CAST(:categories AS text[]),
                CAST(:times AS timestamptz[]), CAST(:data AS text[])) AS r(c, s, k, t, d)
            ON CONFLICT (client, source, category)
            DO UPDATE SET recorded_at = excluded.recorded_at, data = excluded.data
            """,
            clients=[client for client, _ in kept],
            sources=[section.source for _, section in kept],
            categories=[section.category for _, section in kept],
            times=[section.recorded_at for _, section in kept],
            data=[json(section.data) for _, section in kept],
        )


async def erase(session: AsyncSession, client: UUID, version: int | None) -> None:
    """Erase a client's sections and keep the tombstone, whatever else is wrong; also of a client not known yet."""
    await do(
        session,
        """
        INSERT INTO client (reference, tombstone, withdrawn_at) VALUES (:client, :version, clock_timestamp())
        ON CONFLICT (reference) DO UPDATE SET tombstone = GREATEST(client.tombstone, excluded.tombstone),
            withdrawn_at = excluded.withdrawn_at, avoided = '[]'
        """,
        client=client,
        version=version,
    )
    await do(session, "DELETE FROM section WHERE client = :client", client=client)
