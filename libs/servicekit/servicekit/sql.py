"""Statements in text: run them, and read the time."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession


async def rows(session: AsyncSession, sql: str, **values: Any) -> Sequence[RowMapping]:
    """Run a statement, and give its rows."""
    result = await session.execute(text(sql), values)
    return result.mappings().all()


async def do(session: AsyncSession, sql: str, **values: Any) -> None:
    """Run a statement that gives no rows."""
    await session.execute(text(sql), values)


def json(value: object) -> str:
    """A value for a jsonb column."""
    return orjson.dumps(value).decode()


async def time_now(db: AsyncSession | AsyncConnection) -> datetime:
    """The database's time. Read it after locks are taken: SQL's `now()` is the time at which the transaction began."""
    at: datetime = (await db.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return at
