"""The same person under several numbers: what a person is to decide, links, and undoing them.

No name, number or address stands in a path, a query or an answer: a client is named by references, which are random.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from consent.api.common import DOOR_IS_OPEN, page_of
from consent.domain import may_assert
from consent.repository import candidates, clients, links, parties
from consent.repository.links import Side
from consent.service import identity, naming
from consent.service.identity import Act
from consent.service.incoming import NOT_YOURS_TO_SAY
from contracts.facts import Text
from contracts.intake import IdentityUnlinkedData
from contracts.vocabulary import AgencyId, IdentifierType
from servicekit.access import Db
from servicekit.auth import OPERATOR, Caller, require
from servicekit.envelope import StrictWire, Wire
from servicekit.problems import Problem

router = APIRouter(tags=["identity"])

Deciding = Annotated[Caller, Depends(require("identity"))]
Limit = Annotated[int, Query(ge=1, le=500)]


async def _may_decide(session: AsyncSession, caller: Caller) -> None:
    """The operator decides, and agencies of the kinds that may publish a link."""
    if caller.is_operator:
        return
    agency = (await parties.agencies(session)).get(caller.agency)
    if agency is None or not may_assert("throughgate.identity.linked.v1", agency.kind):
        raise NOT_YOURS_TO_SAY


class Known(Wire):
    """By whom a client is known, and how that agency names it to the door."""

    agency: AgencyId
    client: UUID


class ClientSide(Wire):
    """One of two clients: which kinds of number it has and who knows it. An agency sees its own reference only."""

    identifier_types: list[IdentifierType]
    known_by: list[Known]


def _told(side: Side, caller: Caller) -> ClientSide:
    seen = [Known(agency=a, client=r) for a, r in side.known_by if caller.is_operator or a == caller.agency]
    return ClientSide(identifier_types=[IdentifierType(t) for t in side.types], known_by=seen)


def _sees_candidate(caller: Caller, pair: Collection[Side]) -> bool:
    """An agency sees a pair when it recorded something of both clients. One that knows only one would learn that there
    is another; and to name the numbers of both in one event, which is refused, is not to know them.
    """
    return caller.is_operator or all(caller.agency in side.recorded_by for side in pair)


def _sees_link(caller: Caller, by: str, pair: Collection[Side]) -> bool:
    """An agency sees a link that it published, and those of clients whom it knows both: it may have to undo them."""
    known = all(caller.agency in {a for a, _ in side.known_by} for side in pair)
    return caller.is_operator or by == caller.agency or known


# --- candidates -------------------------------------------------------------------------------------------------------


class Candidate(Wire):
    """Two clients that may be one person: a person is to decide."""

    candidate: UUID
    because: Literal["identifier-conflict", "same-details"]
    """One event named both; or family name, given name and date of birth are the same."""
    found_at: datetime
    clients: list[ClientSide]


@router.get("/candidates", summary="Clients that may be one person")
async def list_candidates(db: Db, caller: Deciding, limit: Limit = 100, after: UUID | None = None) -> list[Candidate]:
    """Oldest first. Those of whom your agency recorded something, of each of the two.

    `after` for the next page is the last `candidate`; a page with fewer than `limit` is the last.
    """

    async def show(session: AsyncSession, rows: Sequence[Any]) -> list[Candidate]:
        pairs = await _pairs(session, rows, caller)
        return [
            Candidate(
                candidate=row.id,
                because=row.because,
                found_at=row.found_at,
                clients=[_told(side, caller) for side in pairs[row.id]],
            )
            for row in rows
            if row.id in pairs
        ]

    async def work(session: AsyncSession) -> list[Candidate]:
        await _may_decide(session, caller)
        await candidates.compare(session)
        return await page_of(
            limit,
            after,
            lambda behind, most: candidates.open_pairs(session, behind, most),
            lambda rows: show(session, rows),
        )

    return await db.run(work)


async def _pairs(session: AsyncSession, rows: Sequence[Any], caller: Caller) -> dict[UUID, tuple[Side, Side]]:
    """The two clients of each candidate as they are now, where they are still two and the caller may see them."""
    found = await links.whom(session, {id for row in rows for id in (row.one, row.other)})
    sides = await links.sides(session, {one.client for one in found.values()})
    pairs = {}
    for row in rows:
        one, other = found[row.one], found[row.other]
        if one.client != other.client and not one.instead and not other.instead:
            pair = sides[one.client], sides[other.client]
            if _sees_candidate(caller, pair):
                pairs[row.id] = pair
    return pairs


NO_SUCH_CANDIDATE = Problem(
    "no-such-candidate", "There is no such candidate", "List those that are open with GET /candidates.", 404
)


def _decided(decision: str) -> Problem:
    return Problem(
        "decided-already",
        f"It was decided that they are {'one person' if decision == 'same' else 'different people'}",
        "If that was wrong, a person undoes the link (GET /links, DELETE /links/ID), or links them (POST /links).",
        409,
    )


class CandidateDecision(StrictWire):
    """What a person decided."""

    decision: Literal["same", "different"]
    reason: Text


class LinkMade(Wire):
    """A link, where one was made."""

    link: UUID | None


@router.post(
    "/candidates/{candidate}/decision", summary="Decide whether two clients are one person", dependencies=DOOR_IS_OPEN
)
async def decide_candidate(candidate: UUID, body: CandidateDecision, db: Db, caller: Deciding) -> LinkMade:
    """`same` links them: only what is permitted for both leaves. `different`: they are not proposed again."""

    async def work(session: AsyncSession) -> LinkMade:
        await _may_decide(session, caller)
        row = await candidates.pair(session, candidate)
        if row is None:
            raise NO_SUCH_CANDIDATE
        if row.decision is not None and _sees_candidate(
            caller, (await links.sides(session, (row.one, row.other))).values()
        ):
            raise _decided(row.decision)
        if row.decision is not None or not await _pairs(session, [row], caller):
            raise NO_SUCH_CANDIDATE
        act = Act(caller.subject, body.reason)
        outcome = await identity.decide_candidate(session, row, body.decision, act)
        return LinkMade(link=outcome.link if outcome else None)

    return await db.run(work)


# --- links ------------------------------------------------------------------------------------------------------------


class LinkSummary(Wire):
    """Two clients that are known as one person; or were, until it was undone."""

    link: UUID
    linked_at: datetime
    clients: list[ClientSide]
    needs_decision: bool
    """They have different numbers of the same kind, and nothing leaves until a person confirms or undoes the link."""
    confirmed_at: datetime | None
    unlinked_at: datetime | None


@router.get("/links", summary="Clients that are known as one person")
async def list_links(
    db: Db,
    caller: Deciding,
    limit: Limit = 100,
    after: UUID | None = None,
    waiting: Annotated[bool, Query(alias="needsDecision")] = False,
) -> list[LinkSummary]:
    """Newest first. Links that were undone are history and among them.

    `needsDecision`: only those that wait for a person. `after` for the next page is the last `link`; a page with fewer
    than `limit` is the last.
    """

    async def show(session: AsyncSession, rows: Sequence[Any]) -> list[LinkSummary]:
        sides = await links.sides(session, {part for row in rows for part in row.parts})
        return [
            LinkSummary(
                link=row.id,
                linked_at=row.linked_at,
                clients=[_told(sides[part], caller) for part in row.parts],
                needs_decision=row.conflicting and row.confirmed_at is None and row.unlinked_at is None,
                confirmed_at=row.confirmed_at,
                unlinked_at=row.unlinked_at,
            )
            for row in rows
            if _sees_link(caller, row.linked_by, [sides[part] for part in row.parts])
        ]

    async def work(session: AsyncSession) -> list[LinkSummary]:
        await _may_decide(session, caller)
        return await page_of(
            limit,
            after,
            lambda behind, most: links.every_link(session, behind, most, waiting=waiting),
            lambda rows: show(session, rows),
        )

    return await db.run(work)


class LinkBody(StrictWire):
    """Two clients that are one person, by the references that the door gave; the operator may use anyone's."""

    clients: Annotated[list[UUID], Field(min_length=2, max_length=2)]
    reason: Text


@router.post("/links", status_code=201, summary="Make one client of two", dependencies=DOOR_IS_OPEN)
async def make_link(body: LinkBody, db: Db, caller: Deciding) -> LinkMade:
    """Only what is permitted for both leaves from now on; recipients are told to erase what is not."""

    async def work(session: AsyncSession) -> LinkMade:
        await _may_decide(session, caller)
        agency = None if caller.is_operator else caller.agency
        found = await clients.of_references(session, body.clients, agency)
        if len(found) < 2 or await clients.erased_of(session, found.values()):
            raise Problem(
                "no-such-client",
                "There is no such client",
                "Use two references from answers to your events, or from GET /candidates.",
                404,
            )
        one, other = (found[reference] for reference in body.clients)
        outcome = await identity.link(session, [one], [other], Act(caller.subject, body.reason))
        if outcome.link is None:
            raise identity.ONE_CLIENT
        return LinkMade(link=outcome.link)

    return await db.run(work)


@router.post("/unlinks", status_code=204, summary="Numbers of one client are two people's", dependencies=DOOR_IS_OPEN)
async def unlink(body: IdentityUnlinkedData, db: Db, caller: Annotated[Caller, Depends(require(OPERATOR))]) -> None:
    """As `throughgate.identity.unlinked.v1`, which an agency publishes, for the operator: undoes the link, or takes the
    numbers `notSameAs` off the client that got them by mistake.
    """

    async def work(session: AsyncSession) -> None:
        one, other = (naming.identifiers_of(some, caller.agency) for some in (body.identifiers, body.not_same_as))
        found = await clients.find(session, {*one, *other})
        if not found.keys() >= {*one, *other}:
            raise identity.NO_SUCH_LINK
        await identity.unlink_between(session, one, other, found, Act(caller.subject, body.reason))

    await db.run(work)


async def _may_touch(session: AsyncSession, link: UUID, caller: Caller) -> None:
    await _may_decide(session, caller)
    known = await links.link(session, link)
    if known is None or not _sees_link(caller, known.by, (await links.sides(session, known.parts)).values()):
        raise identity.NO_SUCH_LINK


@router.delete("/links/{link}", status_code=204, summary="Undo a link", dependencies=DOOR_IS_OPEN)
async def undo_link(link: UUID, db: Db, caller: Deciding) -> None:
    """What was said while it held permits nothing for either client; what it stopped stays stopped for both."""

    async def work(session: AsyncSession) -> None:
        await _may_touch(session, link, caller)
        await identity.unlink(session, link, Act(caller.subject, "undone by a person"))

    await db.run(work)


@router.put(
    "/links/{link}/confirmation",
    status_code=204,
    summary="One person has two numbers of a kind",
    dependencies=DOOR_IS_OPEN,
)
async def confirm_link(link: UUID, db: Db, caller: Deciding) -> None:
    """Until this is said, nothing of two clients that have different numbers of the same kind leaves."""

    async def work(session: AsyncSession) -> None:
        await _may_touch(session, link, caller)
        await identity.confirm(session, link, caller.subject)

    await db.run(work)
