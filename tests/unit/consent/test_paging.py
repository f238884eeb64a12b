"""Pages of what a caller may see, among rows that it may not see."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from consent.api.common import page_of


@dataclass(frozen=True)
class Row:
    """One row of a table, in its order."""

    id: UUID
    seen: bool


async def _pages(rows: Sequence[Row], limit: int, chunk: int) -> list[list[UUID]]:
    async def read(after: UUID | None, most: int) -> Sequence[Row]:
        assert most == chunk
        begin = 0 if after is None else next(n for n, row in enumerate(rows, 1) if row.id == after)
        return rows[begin : begin + most]

    async def show(some: Sequence[Row]) -> list[UUID]:
        return [row.id for row in some if row.seen]

    pages: list[list[UUID]] = []
    while not pages or len(pages[-1]) == limit:
        pages.append(await page_of(limit, pages[-1][-1] if pages else None, read, show, chunk))
    return pages


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 9), st.integers(1, 9))
async def test_the_pages_together_are_all_that_may_be_seen_in_order(seen: list[bool], limit: int, chunk: int) -> None:
    rows = [Row(UUID(int=n), one) for n, one in enumerate(seen)]
    pages = await _pages(rows, limit, chunk)
    assert [id for page in pages for id in page] == [row.id for row in rows if row.seen]
    assert all(len(page) == limit for page in pages[:-1]), "a shorter page is the last"
