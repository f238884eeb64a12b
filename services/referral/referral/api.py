"""The referral API: states and references; a client's data only as the door shows it to whoever asks."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Header, Query
from pydantic import Field, model_validator

from contracts.facts import Short
from contracts.leaving import Withheld
from contracts.views import ClientLine, Showing
from contracts.vocabulary import AgencyId, Area, Category, Pathway
from referral import events, repository, service
from referral.domain import Actor, Reason, State
from servicekit.access import AgencyDb, Db
from servicekit.auth import Caller, require
from servicekit.envelope import Date, StrictWire, Wire
from servicekit.telemetry import well_formed

router = APIRouter(tags=["referral"])


Age = Annotated[int, Field(ge=0, le=120)]
Limit = Annotated[int, Query(ge=1, le=200)]


class ServiceBody(StrictWire):
    """One line of the directory, by the names of HSDS."""

    name: Short
    organization: AgencyId
    """The agency that provides it, and is told of its referrals."""
    pathways: Annotated[list[Pathway], Field(min_length=1)]
    area: Area | None = None
    minimum_age: Age | None = None
    maximum_age: Age | None = None
    status: Literal["active", "inactive"] = "active"
    capacity: Annotated[int, Field(ge=0, le=100_000)]
    assured_date: Date | None = None

    @model_validator(mode="after")
    def _ages_in_order(self) -> "ServiceBody":
        if self.minimum_age is not None and self.maximum_age is not None and self.minimum_age > self.maximum_age:
            raise ValueError("minimum age above maximum age")
        return self


class ServiceLine(ServiceBody):
    """One line of the directory as it stands."""

    id: UUID
    held: int
    """Places that open referrals hold."""


class ReferralBody(StrictWire):
    """A practitioner's referral, for a need that the practitioner's own agency recorded; an operator's for any."""

    client: UUID
    """The reference of the client for the referral service, as its referrals show it."""
    pathway: Pathway
    service: UUID


class ReferralMade(Wire):
    """The referral that was made; the door decides now whether its provider may be told."""

    id: UUID
    state: State = State.AWAITING


class ReferralLine(ClientLine):
    """A referral as it stands. To its provider without `follows`."""

    id: UUID
    pathway: Category | None
    """Null, as `service` is, where it is closed and sharing of the need was taken back."""
    service: UUID | None
    state: State
    follows: UUID | None
    """The referral that came to nothing before this one was made."""
    respond_by: datetime
    created_at: datetime
    changed_at: datetime


class HistoryLine(Wire):
    """A state that a referral came to, who moved it there, and why."""

    at: datetime
    state: State
    by: Actor
    reason: Reason | None


class Eligibility(Wire):
    """Why a service was or was not eligible."""

    service: UUID
    eligible: bool
    reasons: list[str]


class ReferralDetail(ReferralLine):
    """A referral with its history and its reasons. To its provider as it was sent: with the history from then on, and
    without `follows`, `withheld` and `eligibility`, for a referral does not tell it the facts behind them.
    """

    history: list[HistoryLine]
    withheld: list[Withheld]
    """Of the last denial: the rules, and what would make sharing possible."""
    eligibility: list[Eligibility]


@router.put("/services/{id}", status_code=204, summary="Write one line of the directory")
async def put_service(
    id: UUID, body: ServiceBody, db: Db, caller: Annotated[Caller, Depends(require("directory:write"))]
) -> None:
    await db.run(lambda session: service.put_service(session, id, body.model_dump(), within=caller.within))


@router.get("/services", summary="The directory")
async def get_services(
    db: Db,
    _: Annotated[Caller, Depends(require("referrals:read"))],
    pathway: Category | None = None,
    limit: Limit = 100,
    after: UUID | None = None,
) -> list[ServiceLine]:
    """By name, with the places that referrals of all agencies hold.

    `after` for the next page is the last `id`; a page with fewer than `limit` is the last.
    """
    rows = await db.run(lambda session: repository.services(session, pathway, limit, after))
    return [ServiceLine.model_validate(dict(row)) for row in rows]


@router.post("/referrals", status_code=201, summary="Refer a client to a service")
async def post_referral(
    body: ReferralBody,
    db: Db,
    caller: Annotated[Caller, Depends(require("referrals:write"))],
    traceparent: Annotated[str | None, Header()] = None,
) -> ReferralMade:
    trace = well_formed(traceparent)
    made = await db.run(
        lambda session: service.refer(session, body.client, body.pathway, body.service, trace, within=caller.within)
    )
    return ReferralMade(id=made)


@router.get("/referrals", summary="Your agency's referrals, newest first")
async def get_referrals(
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("referrals:read"))],
    showing: Annotated[Showing, Depends()],
    client: UUID | None = None,
    state: State | None = None,
    limit: Limit = 100,
    after: UUID | None = None,
) -> list[ReferralLine]:
    """`after` for the next page is the last `id`; a page with fewer than `limit` is the last."""
    rows = await db.run(
        lambda session: repository.referrals(
            session, caller.within, client=client, state=state, limit=limit, after=after
        )
    )
    return await showing.beside(events.DOOR.service, [ReferralLine.model_validate(dict(row)) for row in rows])


@router.get("/referrals/{id}", summary="One referral with its history")
async def get_referral(
    id: UUID,
    db: AgencyDb,
    caller: Annotated[Caller, Depends(require("referrals:read"))],
    showing: Annotated[Showing, Depends()],
) -> ReferralDetail:
    row, history = await db.run(lambda session: service.referral(session, id, within=caller.within))
    values: dict[str, Any] = dict(row) | {"history": [dict(line) for line in history]}
    return (await showing.beside(events.DOOR.service, [ReferralDetail.model_validate(values)]))[0]
