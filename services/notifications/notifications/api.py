"""The notifications API: states and references, never a client's data, so no date of release either."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints

from contracts.leaving import Withheld
from contracts.vocabulary import AgencyId
from notifications import service
from notifications.domain import PlanReason, PlanState, StepName, StepState
from servicekit.auth import Caller, require
from servicekit.envelope import Moment, StrictWire, Wire

router = APIRouter(tags=["notifications"])
clock_router = APIRouter(tags=["clock"])
"""Only where the clock is adjustable."""

Limit = Annotated[int, Query(ge=1, le=200)]
Prison = Annotated[str, StringConstraints(pattern=r"^([A-Z]{3}|\*)$")]


def _within(caller: Caller) -> str | None:
    """The agency that the caller is held to: its own; None for an operator, who is held to none."""
    return None if "operator" in caller.scopes else caller.agency


class PartnerBody(StrictWire):
    """Whose releases an agency meets, and which steps it is told of."""

    prisons: list[Prison]
    """Prison codes, or `*` for any. Empty: the agency is told of nothing any more."""
    steps: Annotated[list[StepName], Field(min_length=1)] = list(StepName)


class PlanLine(Wire):
    """A release plan as it stands."""

    id: UUID
    client: UUID
    state: PlanState
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


class PlanDetail(Wire):
    """A release plan with those of its steps that you may see."""

    id: UUID
    client: UUID
    state: PlanState
    reason: PlanReason | None
    steps: list[StepLine]
    created_at: datetime
    changed_at: datetime


class ClockBody(StrictWire):
    """The time that it is to be now."""

    now: Moment


@router.put("/gate-partners/{agency}", status_code=204, summary="Write whose releases an agency meets")
async def put_partner(
    agency: AgencyId, body: PartnerBody, request: Request, caller: Annotated[Caller, Depends(require("plans:write"))]
) -> None:
    prisons, steps = sorted(set(body.prisons)), sorted(set(body.steps))
    await request.app.state.database.run(
        lambda session: service.put_partner(session, agency, prisons, steps, within=_within(caller))
    )


@router.get("/plans", summary="Your agency's release plans, newest first")
async def get_plans(
    request: Request,
    caller: Annotated[Caller, Depends(require("plans:read"))],
    client: UUID | None = None,
    limit: Limit = 100,
) -> list[PlanLine]:
    rows = await request.app.state.database.run(
        lambda session: service.plans(session, client, limit, within=_within(caller))
    )
    return [PlanLine.model_validate(dict(row)) for row in rows]


@router.get("/plans/{id}", summary="One release plan with its steps")
async def get_plan(id: UUID, request: Request, caller: Annotated[Caller, Depends(require("plans:read"))]) -> PlanDetail:
    row, steps = await request.app.state.database.run(lambda session: service.plan(session, id, within=_within(caller)))
    values: dict[str, Any] = dict(row) | {"steps": [dict(step) for step in steps]}
    return PlanDetail.model_validate(values)


@clock_router.put("/clock", summary="Set the clock: for demonstrations and tests")
async def put_clock(body: ClockBody, request: Request, _: Annotated[Caller, Depends(require("operator"))]) -> ClockBody:
    now = await request.app.state.database.run(lambda session: service.set_clock(session, body.now))
    return ClockBody(now=now)
