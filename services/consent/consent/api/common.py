"""What every route of the door needs: its database, by either of two roles.

`AgencyDb` is for what one agency asks: row-level security holds the transaction to what that agency may know, whatever
the code does. `Db` is for what changes something, which always concerns several agencies, and for operations.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import restoring
from consent.service.restoring import CLOSED
from servicekit.auth import OPERATOR, Caller
from servicekit.db import Database

T = TypeVar("T")

SUBJECT_ACCESS = "subject-access"
"""The scope of an agency that answers a client's question "who was told what?" for everybody."""


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db = Annotated[Database, Depends(_database)]


async def _door_is_open(db: Db) -> None:
    if not await db.run(restoring.is_open):
        raise CLOSED


OPEN = [Depends(_door_is_open)]
"""The dependency of every route that changes something of a client: after a restore it waits as the worker does, for
the client could get a version that was used before. Until then it raises the Problem 503, `closed-after-a-restore`.
"""


async def may_leave(db: Db) -> None:
    """A dependency of what tells something of a client: after a restore it waits as the discloser does.

    Raises:
        Problem: 503, `closed-after-a-restore`.
    """
    if not await db.run(restoring.may_leave):
        raise CLOSED


class Bound:
    """The database as the agency that calls may see it."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def run(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in one transaction that is held to the caller's agency; without a caller it sees nothing."""
        caller: Caller = self._request.state.caller
        database: Database = self._request.app.state.agency_database
        whole = "yes" if caller.scopes & {SUBJECT_ACCESS, OPERATOR} else ""
        return await database.run(work, bound={"throughgate.agency": caller.agency, "throughgate.whole": whole})


AgencyDb = Annotated[Bound, Depends(Bound)]


async def page_of(
    limit: int,
    after: UUID | None,
    read: Callable[[UUID | None, int], Awaitable[Sequence[Any]]],
    show: Callable[[Sequence[Any]], Awaitable[list[T]]],
    chunk: int = 500,
) -> list[T]:
    """So many entries that the caller may see, behind the one with id `after`; fewer, when there are no more.

    `read` gives rows behind an id, at most so many; `show` what the caller may see of them. As that may be little, rows
    are read by the chunk.
    """
    found: list[T] = []
    while len(found) < limit:
        rows = await read(after, chunk)
        found += await show(rows)
        if len(rows) < chunk:
            break
        after = rows[-1].id
    return found[:limit]
