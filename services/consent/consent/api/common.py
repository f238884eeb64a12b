"""What several routes of the door need: the database as an agency may see it, whether the door is open, pages."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends

from consent.repository import restoring
from consent.service.restoring import CLOSED
from servicekit.access import Bound, Db

T = TypeVar("T")

SUBJECT_ACCESS = "subject-access"
"""The scope of an agency that answers a client's question "who was told what?" for everybody."""


async def _door_is_open(db: Db) -> None:
    if not await db.run(restoring.is_open):
        raise CLOSED


DOOR_IS_OPEN = [Depends(_door_is_open)]
"""The dependency of every route that changes something of a client: after a restore it waits as the worker does, for
the client could get a version that was used before. Until then it raises the Problem 503, `closed-after-a-restore`.
"""


async def _may_leave(db: Db) -> None:
    if not await db.run(restoring.may_leave):
        raise CLOSED


MAY_LEAVE = [Depends(_may_leave)]
"""That of every route that tells something of a client: it waits as the discloser does, with the same Problem."""


class _Bound(Bound):
    for_all = Bound.for_all | {SUBJECT_ACCESS}


AgencyDb = Annotated[_Bound, Depends(_Bound)]


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
