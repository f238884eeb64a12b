"""The notifications API: states and references; a client's data, the date of release too, only as the door shows it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import Field, StringConstraints

from contracts.leaving import Withheld
from contracts.views import ClientLine, Showing
from contracts.vocabulary import AgencyId
from notifications import events, repository, service
from notifications.domain import PlanReason, PlanState, StepName, StepState
from servicekit.access import AgencyDb, Db
from servicekit.auth import OPERATOR, Caller, require
from servicekit.envelope import Moment, StrictWire, Wire

router = APIRouter(tags=["notifications"])
clock_router = APIRouter(tags=["clock"])
"""Only where the clock is adjustable."""

Limit = Annotated[int, Query(ge=1, le=200)]
Prison = Annotated[str, StringConstraints(pattern=r"^([A-Z]{3}|\*)$")]


class PartnerBody(StrictWire):
    """Whose releases an agency meets, and which steps it is told of."""

    prisons: list[Prison]
    """Prison codes, or `*` for any. Empty: the agency is told of nothing any more."""
    steps: Annotated[list[StepName], Field(min_length=1)] = list(StepName)


class PlanLine(ClientLine):
    """A release plan as it stands. Where it rests on another agency's record, you see the steps that you were told:
    `state` and `reason` are null, and `changedAt` is when the last of these steps was sent to you.
    """

    id: UUID
    state: PlanState | None
    reason: PlanReason | None
    steps: dict[StepState, int]
    """How many of the steps that you may see are in each state."""
    created_at: datetime
    changed_at: datetime


class StepLine(Wire):
    """A step as it stands."""

    id: UUID
    name: StepName
    recipient: AgencyId
    state: StepState
    withheld: list[Withheld]
    changed_at: datetime


class PlanDetail(ClientLine):
    """A release plan with those of its steps that you may see; the rest as in the list."""

    id: UUID
    state: PlanState | None
    reason: PlanReason | None
    steps: list[StepLine]
    created_at: datetime
    changed_at: datetime


class ClockBody(StrictWire):
    """The time that it is to be now."""

    now: Moment


@router.put("/gate-partners/{agency}", status_code=204, summary="Write whose releases an agency meets")
async def put_partner(
    agency: AgencyId, body: PartnerBody, db: Db, caller: Annotated[Caller, Depends(require("plans:write"))]
) -> None:
    prisons, steps = sorted(set(body.prisons)), sorted(set(body.steps))
    await db.run(lambda session: service.put_partner(session, agency, prisons, steps, within=caller.within))


@router.get("/plans", summary="Your agency's release plans, newest first")
async def get_plans(
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("plans:read"))],
    showing: Annotated[Showing, Depends()],
    client: UUID | None = None,
    limit: Limit = 100,
    after: UUID | None = None,
) -> list[PlanLine]:
    """`after` for the next page is the last `id`; a page with fewer than `limit` is the last."""
    rows = await db.run(
        lambda session: repository.plans(session, caller.within, client=client, limit=limit, after=after)
    )
    return await showing.beside(events.DOOR.service, [PlanLine.model_validate(dict(row)) for row in rows])


@router.get("/plans/{id}", summary="One release plan with its steps")
async def get_plan(
    id: UUID,
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("plans:read"))],
    showing: Annotated[Showing, Depends()],
) -> PlanDetail:
    row, steps = await db.run(lambda session: service.plan(session, id, within=caller.within))
    values: dict[str, Any] = dict(row) | {"steps": [dict(step) for step in steps]}
    return (await showing.beside(events.DOOR.service, [PlanDetail.model_validate(values)]))[0]


@clock_router.put("/clock", summary="Set the clock: for demonstrations and tests")
async def put_clock(body: ClockBody, db: Db, _: Annotated[Caller, Depends(require(OPERATOR))]) -> ClockBody:
    now = await db.run(lambda session: service.set_clock(session, body.now))
    return ClockBody(now=now)
