"""Statements over arrays: one round trip for a whole batch."""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

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


class Write(NamedTuple):
    """A statement that enters or changes rows, over rows as `arrays` takes them. It has no RETURNING."""

    statement: TextClause
    rows: Collection[Sequence[Any]]


async def at_once(db: Executor, writes: Sequence[Write]) -> list[int]:
    """Run writes as one statement, a round trip for all of them; gives how many rows each wrote.

    Each sees the database as it was before all of them, so no two may change the same row: one of them would be lost.
    Foreign keys are checked behind the last of them.
    """
    some = [(n, write) for n, write in enumerate(writes) if write.rows]
    counts = [0] * len(writes)
    if some:
        parameters = {
            f"w{n}_a{column}": list(values)
            for n, write in some
            for column, values in enumerate(zip(*write.rows, strict=True))
        }
        statement = _together(tuple((n, write.statement.text) for n, write in some))
        (row,) = await db.execute(statement, parameters)
        for (n, _), count in zip(some, row, strict=True):
            counts[n] = count
    return counts


_COLUMN = re.compile(r":a(?=\d)")


@lru_cache(maxsize=500)
def _together(numbered: tuple[tuple[int, str], ...]) -> TextClause:
    """Parts of one statement. A part runs when it is counted, so they run in this order."""
    parts = ", ".join(f"w{n} AS ({_COLUMN.sub(f':w{n}_a', part)} RETURNING 1)" for n, part in numbered)
    counts = ", ".join(f"(SELECT count(*) FROM w{n})" for n, _ in numbered)  # noqa: S608 # our own names only
    return text(f"WITH {parts} SELECT {counts}")
