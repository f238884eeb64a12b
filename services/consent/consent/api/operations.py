"""What operations must look at."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends

from consent.api.common import Db
from consent.repository import views
from consent.service import holds
from servicekit.auth import Caller, require
from servicekit.envelope import Wire

router = APIRouter(tags=["operations"])


class Hold(Wire):
    """A client for whom everything is denied because a stopping event could not be applied. Someone must look."""

    hold: UUID
    reason: str
    asserted_by: str
    since: datetime


@router.get("/holds", summary="Holds that nobody has lifted yet")
async def list_holds(db: Db, caller: Annotated[Caller, Depends(require("operator"))]) -> list[Hold]:
    """Oldest first. Ask the agency what its event meant, then lift the hold."""
    rows = await db.run(views.holds)
    return [Hold(hold=r.id, reason=r.reason, asserted_by=r.asserted_by, since=r.since) for r in rows]


@router.delete("/holds/{hold}", status_code=204, summary="Lift a hold")
async def lift_hold(hold: UUID, db: Db, caller: Annotated[Caller, Depends(require("operator"))]) -> None:
    """The client's earlier consents stay withdrawn: sharing by consent needs a new form."""
    await db.run(lambda session: holds.lift(session, hold, caller.subject))
