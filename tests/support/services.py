"""Referral, matching and notifications as their tests meet them: the API on a test's database, a worker that fails."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast, get_type_hints

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from servicekit.db import Database
from servicekit.worker import Worker
from throughgate.issuer import Issuer


class OfService(Database):
    """A service's database, as one of its roles reaches it."""

    def __init__(self, role: str, url_of: Callable[[str], str]) -> None:
        """`url_of` gives the URL for a role."""
        super().__init__(url_of(role), 5, "test")
        self._url_of, self._others = url_of, dict[str, Database]()

    def as_role(self, role: str) -> Database:
        """The same database, reached as another role."""
        if role not in self._others:
            self._others[role] = Database(self._url_of(role), 5, "test")
        return self._others[role]

    async def close(self) -> None:
        """Close every connection."""
        for database in self._others.values():
            await database.close()
        await super().close()


DatabaseOf = Callable[..., Awaitable[OfService]]
Call = Callable[..., Awaitable[httpx.Response]]


def call_of(create_app: Callable[[Any], FastAPI], database: OfService, folder: Path) -> Call:
    """The API on this database: `await call("PUT", path, agency, scope, json=...)`. `folder` gets the issuer's keys."""
    issuer, nowhere = Issuer(), SecretStr("postgresql+asyncpg://nobody@localhost/nothing")
    settings = get_type_hints(create_app)["settings"]
    app = create_app(
        settings(
            database_url=nowhere,
            agency_database_url=nowhere,
            jwks=str(issuer.write_jwks(folder / "jwks.json")),
            issuer=issuer.name,
        )
    )
    app.state.database, app.state.agency_database = database.as_role("api"), database.as_role("agency")

    async def call(method: str, path: str, agency: str, *scopes: str, **options: Any) -> httpx.Response:
        token = {"Authorization": f"Bearer {issuer.token('clerk', agency, scopes)}"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as http:
            return await http.request(method, path, headers=token, **options)

    return call


async def seen_by(database: OfService, agency: str | None, table: str, *, whole: bool = False) -> list[str]:
    """The ids of the rows of a table that the database shows to this agency, around all code of the service."""
    bound = {"throughgate.agency": agency or "", "throughgate.whole": "yes" if whole else ""}
    sql = text(f"SELECT CAST(id AS text) FROM {table} ORDER BY 1")
    read = database.as_role("agency").run(lambda session: session.scalars(sql), bound=bound if agency else None)
    return list(await read)


def forgetting(monkeypatch: pytest.MonkeyPatch, repository: ModuleType, name: str) -> None:
    """Break a list of a repository: it is read as for an operator, whoever asks."""
    read = getattr(repository, name)
    monkeypatch.setattr(repository, name, lambda session, _, *given, **named: read(session, None, *given, **named))


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
