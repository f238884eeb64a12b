"""Publishing without Kafka, and following what stops sharing until it is done."""

import asyncio
import time
from datetime import datetime
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Request, Response

from consent.api.common import DOOR_IS_OPEN, AgencyDb
from consent.repository import retractions
from consent.service.intake import refuse, take_in
from consent.service.notices import REJECTED
from consent.service.reading import Arrival
from consent.service.stopping import is_stopping
from contracts.replies import AcceptedData
from contracts.vocabulary import AgencyId
from servicekit.access import Db
from servicekit.auth import Caller, require
from servicekit.db import Database, is_transient
from servicekit.envelope import Wire
from servicekit.problems import Problem, ProblemDetails

router = APIRouter(tags=["publishing"])

STATUS = {
    "ended-already": 409,
    "malformed-json": 400,
    "wrong-agency": 403,
    "agency-not-registered": 403,
    "not-yours-to-say": 403,
    "unknown-client": 404,
    "unknown-retraction": 404,
    "nothing-to-end": 404,
    "nothing-to-review": 404,
    "no-such-link": 404,
    "identifier-conflict": 409,
    "id-used-again": 409,
    "told-apart": 409,
    "still-restricted": 409,
    "linked-further": 409,
    "too-large": 413,
    "too-many-holds": 429,
    "set-aside": 500,
}
"""HTTP status of a rejection; 422 for the others. The stored answer, which every repetition gets again, has none."""

UNKNOWN_AFTER = 0.5
"""Seconds after which somebody reads `unknown-client`. A number that the door has takes longer to look into than one
that it does not have; who has no business with the client is not to tell one from the other by a clock.
"""


@router.post(
    "/events",
    status_code=202,
    summary="Publish one event",
    dependencies=DOOR_IS_OPEN,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/cloudevents+json": {"schema": {"type": "object"}}}}
    },
    responses={
        202: {"description": "Accepted: it has its effect, whatever crashes"},
        409: {"model": ProblemDetails, "description": "The id was used for other content, or identifiers conflict"},
        413: {"model": ProblemDetails, "description": "Too large"},
        503: {"model": ProblemDetails, "description": "Closed after a restore: nothing leaves; publish it again later"},
    },
)
async def publish(
    request: Request, response: Response, db: Db, caller: Annotated[Caller, Depends(require("events:write"))]
) -> AcceptedData:
    """The same events as on `intake.<agency>`, one at a time. The same event again gets its first answer again."""
    headers = request.headers
    arrival = Arrival(
        caller.agency, await request.body(), traceparent=headers.get("traceparent"), type=headers.get("ce-type")
    )
    begun = time.monotonic()
    answer = await _take_in(db, arrival)
    reply = orjson.loads(answer)
    data = reply["data"]
    if reply["type"] == REJECTED:
        if data["code"] == "unknown-client":
            await asyncio.sleep(begun + UNKNOWN_AFTER - time.monotonic())
        raise Problem(data["code"], data["title"], data["detail"], STATUS.get(data["code"], 422))
    if data.get("withdrawal"):
        response.headers["Location"] = f"/withdrawals/{data['withdrawal']}"
    return AcceptedData.model_validate(data)


async def _take_in(db: Database, arrival: Arrival) -> bytes:
    """Take one event in. One that was to stop sharing stops it even when it fails for a reason of our own."""
    try:
        return (await db.run(lambda session: take_in(session, [arrival])))[0]
    except Exception as error:
        if is_transient(error) or not is_stopping(arrival.value, arrival.type):
            raise
        return await db.run(lambda session: refuse(session, arrival))


class RetractionStatus(Wire):
    """Where one recipient's retraction stands."""

    recipient: AgencyId
    topic: str | None
    partition: int | None
    offset: int | None
    done_at: datetime | None
    acknowledged_at: datetime | None


class WithdrawalStatus(Wire):
    """A withdrawal; it is done when every recipient's retraction is committed in its topic.

    `recipients` are those that your agency may know of: itself, whom it tells what it recorded of the client by an
    agreement in force, and whom its own consent, gateway or override named. `doneAt` is true of all the others as well,
    who are neither named nor counted. `withdrawal.done` can be read in your replies a moment before it is entered here.
    """

    withdrawal: UUID
    event: str
    recorded_at: datetime
    done_at: datetime | None
    recipients: list[RetractionStatus]


@router.get("/withdrawals/{withdrawal}", summary="How far a withdrawal is")
async def withdrawal_status(
    withdrawal: UUID, db: AgencyDb, caller: Annotated[Caller, Depends(require("events:write"))]
) -> WithdrawalStatus:
    """Only for the agency that published it; for anybody else it does not exist."""
    found = await db.run(lambda session: retractions.withdrawal(session, withdrawal, caller.agency))
    if found is None:
        raise Problem(
            "no-such-withdrawal", "There is no such withdrawal", "Use the id from the answer to your event.", 404
        )
    row, recipients = found
    return WithdrawalStatus(
        withdrawal=row.id,
        event=row.event_id,
        recorded_at=row.recorded_at,
        done_at=row.done_at,
        recipients=[RetractionStatus.model_validate(r, from_attributes=True) for r in recipients],
    )
