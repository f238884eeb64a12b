"""What operations must look at: holds, retractions and reviews that are overdue, what was set aside."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import Field

from consent.api.common import DOOR_IS_OPEN
from consent.repository import aside as waiting
from consent.repository import due, retractions
from consent.repository import holds as stored_holds
from consent.service import aside, holds
from contracts.intake import OwnId
from contracts.vocabulary import AgencyId
from servicekit.access import Db
from servicekit.auth import OPERATOR, Caller, require
from servicekit.db import is_transient
from servicekit.envelope import StrictWire, Wire
from servicekit.problems import Problem, ProblemDetails

router = APIRouter(tags=["operations"])

CallingOperator = Annotated[Caller, Depends(require(OPERATOR))]
Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Limit = Annotated[int, Query(ge=1, le=1000)]


# --- holds ------------------------------------------------------------------------------------------------------------


class Hold(Wire):
    """Everything is denied because a stopping event could not be applied. Someone must look."""

    hold: UUID
    held: Literal["client", "number", "nobody"]
    """A client; a number that no client has yet: whoever gets it will be held; or nobody: the event has no number in
    it, or its agency named more clients than it may hold."""
    reason: str
    meaning: str
    """The reason in words."""
    asserted_by: str
    """The agency whose event it was."""
    since: datetime
    times: int
    """How often that agency's events gave this reason since; each counts here once."""
    last_at: datetime
    owner: str | None
    """Who looks at it."""


class HoldOwner(StrictWire):
    """Who looks at a hold."""

    owner: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]
    """A role, a rota or a member of staff; never the client."""


@router.get("/holds", summary="Holds that nobody has lifted yet")
async def list_holds(db: Db, caller: CallingOperator) -> list[Hold]:
    """Oldest first. Ask the agency what its event meant, then lift the hold."""
    rows = await db.run(stored_holds.unlifted)
    return [Hold.model_validate({**r._mapping, "meaning": holds.MEANINGS.get(r.reason, holds.OTHER)}) for r in rows]


@router.put("/holds/{hold}/owner", status_code=204, summary="Say who looks at a hold")
async def set_owner(hold: UUID, body: HoldOwner, db: Db, caller: CallingOperator) -> None:
    """Whoever was named before no longer does."""
    await db.run(lambda session: holds.give_to(session, hold, body.owner))


@router.delete("/holds/{hold}", status_code=204, summary="Lift a hold", dependencies=DOOR_IS_OPEN)
async def lift_hold(hold: UUID, db: Db, caller: CallingOperator) -> None:
    """The client's earlier consents stay withdrawn: sharing by consent needs a new form."""
    await db.run(lambda session: holds.lift(session, hold, caller.subject))


# --- what is overdue --------------------------------------------------------------------------------------------------


class OverdueRetraction(Wire):
    """A recipient that has not said that it stopped and erased."""

    retraction: UUID
    recipient: AgencyId
    client: UUID
    """The reference by which the recipient knows the client."""
    withdrawal: UUID
    because: str
    """Why it was taken back: `withdrawn`, `restricted`, `expired`, ..."""
    asserted_by: AgencyId | None
    """The agency whose word it was, if it was one's."""
    recorded_at: datetime
    done_at: datetime | None
    """Since when it stands in the recipient's topic. Null: it could not be sent."""
    reminders: int
    reminded_at: datetime | None
    owner: str
    """Who is to see to it (setting `alert_owner`)."""


@router.get("/retractions/overdue", summary="Who has not confirmed that it stopped and erased")
async def overdue_retractions(
    request: Request,
    db: Db,
    caller: CallingOperator,
    hours: Annotated[float, Query(ge=0, le=24 * 366)] = 24.0,
    limit: Limit = 500,
) -> list[OverdueRetraction]:
    """Those that wait for so many hours or longer, longest first."""
    rows = await db.run(lambda session: retractions.overdue(session, hours, limit))
    owner = request.app.state.settings.alert_owner
    return [OverdueRetraction.model_validate({**r._mapping, "owner": owner}) for r in rows]


class OverdueReview(Wire):
    """A public-protection override that somebody must review."""

    override: OwnId
    """The agency's own id of it."""
    agency: AgencyId
    authorised_at: datetime
    review_by: datetime | None
    """Null: what is kept of the override cannot be read, so a person is to look at it."""


@router.get("/overrides/overdue", summary="Overrides whose review is overdue")
async def overdue_reviews(db: Db, caller: CallingOperator) -> list[OverdueReview]:
    """Until the agency publishes `throughgate.override.reviewed.v1`, also when the override has ended."""
    reviews = await db.run(due.unreviewed)
    return [
        OverdueReview(override=r.override, agency=r.agency, authorised_at=r.authorised_at, review_by=r.review_by)
        for r in reviews
    ]


# --- what was set aside -----------------------------------------------------------------------------------------------


class SetAside(Wire):
    """Something that stopped nobody else and waits for a person."""

    way: aside.Way
    """`leaving`: a row that could not be sent; `arrived`: an event that could not be applied."""
    id: int
    topic: str
    partition: int | None
    """Where the event stands; null for what is leaving."""
    offset: int | None
    type: str | None
    """Of the record; null for an event, which may have none."""
    reason: str
    """The class of the error."""
    since: datetime
    """When it was set aside; of what is leaving, when it was due."""
    waiting: int
    """Records for the same recipient and client that wait behind it."""


class Retried(Wire):
    """What became of it."""

    outcome: str
    """`queued`, `accepted`, or the code with which the event is rejected now."""


class Discarded(StrictWire):
    """Why it is given up."""

    reason: Annotated[str, Field(pattern=r"^[^\x00-\x1f]{3,500}$")]
    """Kept for ever: nothing that tells who the client is."""


@router.get("/set-aside", summary="What could be neither sent nor applied")
async def list_set_aside(
    db: Db,
    caller: CallingOperator,
    limit: Limit = 500,
    after: Annotated[str | None, Query(pattern=r"^(leaving|arrived)/[0-9]{1,18}$")] = None,
) -> list[SetAside]:
    """What is leaving, then what arrived, each oldest first. Mend the cause, then try it again; or discard it.

    `after` for the next page is `way` and `id` of the last, as `leaving/7`; a page with fewer than `limit` is the last.
    """
    way, _, id = (after or "").partition("/")
    rows = await db.run(lambda session: waiting.set_aside(session, limit, (way, int(id)) if after else None))
    return [SetAside.model_validate(r, from_attributes=True) for r in rows]


@router.post(
    "/set-aside/{way}/{id}/retry",
    summary="Try again what was set aside",
    dependencies=DOOR_IS_OPEN,
    responses={409: {"model": ProblemDetails, "description": "It failed again, or was erased"}},
)
async def retry(way: aside.Way, id: Id, request: Request, db: Db, caller: CallingOperator) -> Retried:
    """A record is decided anew when it leaves. An event is applied now, and its publisher is answered."""
    namespace = request.app.state.settings.namespace
    try:
        outcome = await db.run(lambda session: aside.retry(session, way, id, caller.subject, namespace))
    except Problem:
        raise
    except Exception as error:
        if is_transient(error):
            raise
        raise Problem(
            "retry-failed",
            "It failed again",
            f"It stays set aside ({type(error).__name__}). Mend the cause first, or discard it.",
            409,
        ) from None
    return Retried(outcome=outcome)


@router.post(
    "/set-aside/{way}/{id}/discard", status_code=204, summary="Give up what was set aside", dependencies=DOOR_IS_OPEN
)
async def discard(way: aside.Way, id: Id, body: Discarded, db: Db, caller: CallingOperator) -> None:
    """Who did it and why is kept. What waited behind a record may leave."""
    await db.run(lambda session: aside.discard(session, way, id, caller.subject, body.reason))
