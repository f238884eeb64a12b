"""The matching API: states and references; a client's data only as the door shows it to whoever asks."""

from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints

from contracts.facts import Short
from contracts.leaving import Withheld
from contracts.views import ClientLine, Showing
from contracts.vocabulary import AgencyId, Area, Pathway
from matching import events, repository, service
from matching.domain import Actor, Reason, State
from servicekit.access import AgencyDb, Db
from servicekit.auth import Caller, require
from servicekit.envelope import Date, StrictWire, Wire

router = APIRouter(tags=["matching"])


Limit = Annotated[int, Query(ge=1, le=200)]
Prison = Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")]


class VolunteerBody(StrictWire):
    """A volunteer as the scheme registers them: no name, only what the rules ask about."""

    scheme: AgencyId
    """The agency that the volunteer belongs to, and that is told of the offer."""
    areas: list[Area] = []
    languages: list[Short] = []
    gender: Literal["female", "male", "non-binary"] | None = None
    approved: bool
    available: bool
    dbs_level: Literal["basic", "standard", "enhanced"] | None = None
    dbs_expires: Date | None = None
    prison_clearances: list[Prison] = []
    training: list[Short] = []
    """Such as `core` and `high-risk`."""
    experience_months: Annotated[int, Field(ge=0, le=1200)] = 0
    interviewed_by_public_protection: bool = False
    caseload_limit: Annotated[int, Field(ge=0, le=100)] = 1
    pathways: list[Pathway] = []
    """Pathways of which the volunteer has experience."""


class VolunteerLine(Wire):
    """A volunteer as they stand."""

    id: UUID
    scheme: AgencyId
    approved: bool
    available: bool
    dbs_expires: date | None
    caseload: int
    caseload_limit: int


class HistoryLine(Wire):
    """A state that a match came to, who moved it there, and why."""

    at: datetime
    state: State
    by: Actor
    reason: Reason | None


class MatchLine(ClientLine):
    """A match as it stands: its id is the offer's. To its scheme without `explanation` and `withheld`: an offer does
    not tell it the facts behind them.
    """

    id: UUID
    volunteer: UUID
    scheme: AgencyId
    state: State
    reason: Reason | None
    expires_at: datetime
    created_at: datetime
    changed_at: datetime
    explanation: dict[str, Any]
    """What spoke for the pair, and the rules that it passed."""
    withheld: list[Withheld]
    """Of a denial: the rules, and what would make sharing possible."""
    history: list[HistoryLine]


class RoundDone(Wire):
    """What a round did for the clients of whom your agency assessed the risk; for an operator, for all.

    `barred` is for an operator only, else null: the rules look at what several agencies recorded.
    """

    ran: bool
    """False: another round was running."""
    offers: list[UUID]
    unmatched: int
    """How many clients still wait."""
    barred: dict[UUID, dict[str, int]] | None
    """Which clients these are, and how many volunteers each rule barred for them."""


@router.put("/volunteers/{id}", status_code=204, summary="Write one volunteer")
async def put_volunteer(
    id: UUID, body: VolunteerBody, db: Db, caller: Annotated[Caller, Depends(require("volunteers:write"))]
) -> None:
    await db.run(lambda session: service.put_volunteer(session, id, body.model_dump(), within=caller.within))


@router.get("/volunteers", summary="Your agency's volunteers with their caseloads")
async def get_volunteers(
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("matches:read"))],
    limit: Limit = 100,
    after: UUID | None = None,
) -> list[VolunteerLine]:
    """By scheme. `after` for the next page is the last `id`; a page with fewer than `limit` is the last."""
    rows = await db.run(lambda session: repository.listed_volunteers(session, caller.within, limit, after))
    return [VolunteerLine.model_validate(dict(row)) for row in rows]


@router.get("/matches", summary="Your agency's matches, newest first")
async def get_matches(
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("matches:read"))],
    showing: Annotated[Showing, Depends()],
    client: UUID | None = None,
    state: State | None = None,
    limit: Limit = 100,
    after: UUID | None = None,
) -> list[MatchLine]:
    """`after` for the next page is the last `id`; a page with fewer than `limit` is the last."""
    rows = await db.run(
        lambda session: repository.matches(session, caller.within, client=client, state=state, limit=limit, after=after)
    )
    return await showing.beside(events.DOOR.service, [MatchLine.model_validate(dict(row)) for row in rows])


@router.post("/rounds", summary="Run one round now")
async def post_round(db: Db, caller: Annotated[Caller, Depends(require("rounds:run"))]) -> RoundDone:
    await db.run(service.expire)
    done = (await db.run(service.run_round)).seen_by(caller.within)
    barred = done.unmatched if caller.within is None else None
    return RoundDone(ran=done.ran, offers=done.offers, unmatched=len(done.unmatched), barred=barred)
