"""Referral, matching and notifications as their tests meet them: the API on a test's database, a worker that fails."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import httpx
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from servicekit.db import Database
from servicekit.worker import Worker
from throughgate.issuer import Issuer

DatabaseOf = Callable[[str], Awaitable[Database]]
Call = Callable[..., Awaitable[httpx.Response]]


def call_of(create_app: Callable[[Any], FastAPI], settings: type[Any], database: Database, folder: Path) -> Call:
    """The API on this database: `await call("PUT", path, agency, scope, json=...)`. `folder` gets the issuer's keys."""
    issuer = Issuer()
    app = create_app(
        settings(
            database_url=SecretStr("postgresql+asyncpg://nobody@localhost/nothing"),
            jwks=str(issuer.write_jwks(folder / "jwks.json")),
            issuer=issuer.name,
        )
    )
    app.state.database = database

    async def call(method: str, path: str, agency: str, *scopes: str, **options: Any) -> httpx.Response:
        token = {"Authorization": f"Bearer {issuer.token('clerk', agency, scopes)}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
            return await http.request(method, path, headers=token, **options)

    return call


async def by_pages(page: Callable[..., Awaitable[list[str]]]) -> list[str]:
    """The ids of a list that is read in pages of two: `await page(limit=2, after=...)` gives those of one."""
    found = await page(limit=2)
    while more := await page(limit=2, after=found[-1]):
        found += more
    return found


async def sorted_by_an_index(database: Database, table: str) -> bool:
    """Whether the newest rows of a table can be read in their order, however many there are, without sorting any."""

    async def explain(session: AsyncSession) -> str:
        await session.execute(text("SET LOCAL enable_seqscan = off"))
        await session.execute(text("SET LOCAL enable_bitmapscan = off"))
        plan = f"EXPLAIN SELECT id FROM {table} ORDER BY created_at DESC, id DESC LIMIT 100"
        return "\n".join(await session.scalars(text(plan)))

    return "Sort" not in await database.run(explain)


async def outbox(database: Database) -> Sequence[Any]:
    """The rows of a service's outbox, which is emptied."""

    async def read(session: AsyncSession) -> Sequence[Any]:
        rows = (await session.execute(text("SELECT * FROM outbox ORDER BY id"))).all()
        await session.execute(text("DELETE FROM outbox"))
        return rows

    return await database.run(read)


async def take_poisoned(database: Database, service: ModuleType, *records: Any) -> None:
    """Let a worker take these records while the service's normal path fails."""

    async def fails(*given: Any) -> None:
        raise ValueError("poison")

    await Worker(database, cast(Any, None), service.events.DOOR.applying(fails, fails), poison=service.poison).take(
        records
    )
