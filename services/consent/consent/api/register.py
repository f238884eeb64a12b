"""The agencies that take part."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import Field

from consent.domain import Agency
from consent.service import register
from contracts.vocabulary import AgencyId, AgencyKind, Area
from servicekit.access import Db
from servicekit.auth import OPERATOR, Caller, require
from servicekit.envelope import NO_NUL, StrictWire

router = APIRouter(tags=["register"])


class AgencyBody(StrictWire):
    """A party."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    kind: AgencyKind
    area: Area | None = None


@router.put("/agencies/{agency}", status_code=204, summary="Register an agency")
async def put_agency(
    agency: AgencyId,
    body: AgencyBody,
    db: Db,
    caller: Annotated[Caller, Depends(require(OPERATOR))],
) -> None:
    """Its topics and users are made by `throughgate provision`."""
    await db.run(lambda session: register.register_agency(session, Agency(agency, body.kind, body.area), body.name))
