"""Statements over arrays: one round trip for a whole batch."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

Executor = AsyncSession | AsyncConnection


def insert_of(table: str, columns: str, types: str, tail: str = "") -> TextClause:
    """An INSERT of arrays that keeps their order."""
    names = [c.strip() for c in columns.split(",")]
    casts = ", ".join(f"CAST(:a{n} AS {t.strip()}[])" for n, t in enumerate(types.split(",")))
    return text(
        f"INSERT INTO {table} ({columns}) SELECT {columns} FROM unnest({casts})"  # noqa: S608 # our own names only
        f" WITH ORDINALITY AS r({', '.join(names)}, nth)"
        f" ORDER BY nth {tail}"
    )


async def arrays(db: Executor, statement: TextClause, rows: Collection[Sequence[Any]], **same: Any) -> Any:
    """Run a statement over rows given as one array a column: `:a0`, `:a1` and so on; `same` is that for all of them."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return await db.execute(statement, {f"a{n}": column for n, column in enumerate(columns)} | same)
