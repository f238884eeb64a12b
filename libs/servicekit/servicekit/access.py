"""By which role a route reaches its service's database.

`AgencyDb` is for what one agency asks: row-level security holds the transaction to what that agency may know, whatever
the code does. `Db` is for what changes something, which always concerns several agencies, and for operations.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar, TypeVar

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession

from servicekit.auth import OPERATOR, Caller
from servicekit.db import Database

T = TypeVar("T")


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db = Annotated[Database, Depends(_database)]


class Bound:
    """The database as the agency that calls may see it."""

    for_all: ClassVar[frozenset[str]] = frozenset({OPERATOR})
    """The scopes of those who may be shown every agency's rows."""

    def __init__(self, request: Request) -> None:
        self._request = request

    async def run(self, work: Callable[[AsyncSession], Awaitable[T]]) -> T:
        """Run `work` in one transaction that is held to the caller's agency; without a caller it sees nothing."""
        caller: Caller = self._request.state.caller
        database: Database = self._request.app.state.agency_database
        whole = "yes" if caller.scopes & self.for_all else ""
        return await database.run(work, bound={"throughgate.agency": caller.agency, "throughgate.whole": whole})


AgencyDb = Annotated[Bound, Depends(Bound)]
