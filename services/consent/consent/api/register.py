"""Parties and the agreements between them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import Field, model_validator

from consent.api.common import Db
from consent.domain import Agency, Agreement, Terms
from consent.repository import parties
from consent.service import agreements
from contracts.vocabulary import AgencyId, AgencyKind, Area, Basis, Category, Purpose
from servicekit.auth import Caller, require
from servicekit.envelope import NO_NUL, Moment, StrictWire, Wire

router = APIRouter(tags=["register"])


class AgencyBody(StrictWire):
    """A party."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    kind: AgencyKind
    area: Area | None = None


@router.put("/agencies/{agency}", status_code=204, summary="Register an agency")
async def put_agency(
    agency: Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{1,40}$")],
    body: AgencyBody,
    db: Db,
    caller: Annotated[Caller, Depends(require("operator"))],
) -> None:
    """Its topics and users are made by `throughgate provision`."""
    await db.run(lambda session: agreements.register_agency(session, Agency(agency, body.kind, body.area), body.name))


class TermsBody(StrictWire):
    """What the agreement allows for one purpose."""

    purpose: Purpose
    basis: Basis
    categories: Annotated[list[Category], Field(min_length=1)]
    subscription: bool = False


class AgreementBody(StrictWire):
    """One version of an information-sharing agreement. What is not named is not agreed."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,60}$")]
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    sources: Annotated[list[AgencyId], Field(min_length=1)]
    recipients: Annotated[list[AgencyId], Field(min_length=1)]
    terms: Annotated[list[TermsBody], Field(min_length=1)]
    signatories: dict[AgencyId, Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]]
    starts: Moment
    review: Moment
    ends: Moment

    @model_validator(mode="after")
    def _dates_in_order(self) -> "AgreementBody":
        if not self.starts < self.review <= self.ends:
            raise ValueError("an agreement starts, is reviewed and ends, in this order")
        if len({t.purpose for t in self.terms}) < len(self.terms):
            raise ValueError("each purpose stands once")
        return self


@router.post("/agreements", status_code=201, summary="Enter a signed version of an agreement")
async def sign(
    body: AgreementBody, db: Db, caller: Annotated[Caller, Depends(require("agreements:write"))]
) -> dict[str, Any]:
    """A change is a new version; decisions keep pointing at the version that they rested on."""
    agreement = Agreement(
        body.id,
        body.version,
        frozenset(body.sources),
        frozenset(body.recipients),
        {t.purpose: Terms(t.basis, frozenset(t.categories), t.subscription) for t in body.terms},
        body.starts,
        body.ends,
    )
    await db.run(lambda session: agreements.sign(session, agreement, body.signatories, body.review))
    return {"id": body.id, "version": body.version}


class AgreementSummary(Wire):
    """An agreement in one version."""

    id: str
    version: int
    sources: list[AgencyId]
    recipients: list[AgencyId]
    terms: list[TermsBody]
    starts: datetime
    ends: datetime


@router.get("/agreements", summary="Agreements to which you are a party")
async def list_agreements(
    db: Db, caller: Annotated[Caller, Depends(require("agreements:read"))]
) -> list[AgreementSummary]:
    """Every version, oldest first."""
    found = await db.run(parties.agreements)
    return [
        AgreementSummary(
            id=a.id,
            version=a.version,
            sources=sorted(a.sources),
            recipients=sorted(a.recipients),
            terms=[
                TermsBody(purpose=p, basis=t.basis, categories=sorted(t.categories), subscription=t.subscription)
                for p, t in a.terms.items()
            ],
            starts=a.starts,
            ends=a.ends,
        )
        for a in found
        if caller.agency in a.sources | a.recipients or "operator" in caller.scopes
    ]
