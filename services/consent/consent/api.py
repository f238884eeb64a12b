"""HTTP of the door: publishing without Kafka, following a withdrawal, who was told what, the register."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import Field, model_validator

from consent.domain import Agency, Agreement, Terms
from consent.repository import parties, views
from consent.service import agreements, holds
from consent.service.intake import refuse, take_in
from consent.service.reading import Arrival, is_stopping
from contracts.leaving import Withheld
from contracts.replies import AcceptedData
from contracts.vocabulary import AgencyId, AgencyKind, Area, Basis, Category, Purpose
from servicekit.auth import Caller, require
from servicekit.db import Database, is_transient
from servicekit.envelope import NO_NUL, Moment, StrictWire, Wire
from servicekit.problems import Problem, ProblemDetails

router = APIRouter()

SUBJECT_ACCESS = "subject-access"

STATUS = {
    "malformed-json": 400,
    "wrong-agency": 403,
    "agency-not-registered": 403,
    "unknown-client": 404,
    "identifier-conflict": 409,
    "id-used-again": 409,
    "too-large": 413,
    "set-aside": 500,
}
"""HTTP status of a rejection; 422 for the others."""


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


Db = Annotated[Database, Depends(_database)]


@router.post(
    "/events",
    status_code=202,
    tags=["publishing"],
    summary="Publish one event",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/cloudevents+json": {"schema": {"type": "object"}}}}
    },
    responses={
        202: {"description": "Accepted: it has its effect, whatever crashes"},
        409: {"model": ProblemDetails, "description": "The id was used for other content, or identifiers conflict"},
        413: {"model": ProblemDetails, "description": "Too large"},
    },
)
async def publish(
    request: Request, response: Response, db: Db, caller: Annotated[Caller, Depends(require("events:write"))]
) -> AcceptedData:
    """The same events as on `intake.<agency>`, one at a time. The same event again gets its first answer again."""
    arrival = Arrival(caller.agency, await request.body(), traceparent=request.headers.get("traceparent"))
    answer = await _take_in(db, arrival)
    reply = orjson.loads(answer)
    data = reply["data"]
    if reply["type"] == "throughgate.event.rejected.v1":
        raise Problem(data["code"], data["title"], data["detail"], STATUS.get(data["code"], 422))
    if data.get("withdrawal"):
        response.headers["Location"] = f"/withdrawals/{data['withdrawal']}"
    return AcceptedData.model_validate(data)


async def _take_in(db: Database, arrival: Arrival) -> bytes:
    """Take one event in. One that was to stop sharing stops it even when it fails for a reason of our own."""
    try:
        return (await db.run(lambda session: take_in(session, [arrival])))[0]
    except Exception as error:
        if is_transient(error) or not is_stopping(arrival.value):
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
    """A withdrawal; it is done when every recipient's retraction is committed in its topic."""

    withdrawal: UUID
    event: str
    recorded_at: datetime
    done_at: datetime | None
    recipients: list[RetractionStatus]


@router.get("/withdrawals/{withdrawal}", tags=["publishing"], summary="How far a withdrawal is")
async def withdrawal_status(
    withdrawal: UUID, db: Db, caller: Annotated[Caller, Depends(require("events:write"))]
) -> WithdrawalStatus:
    """Only for the agency that published it; for anybody else it does not exist."""
    found = await db.run(lambda session: views.withdrawal(session, withdrawal, caller.agency))
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
        recipients=[
            RetractionStatus(
                recipient=r.recipient,
                topic=r.topic,
                partition=r.partition,
                offset=r.offset,
                done_at=r.done_at,
                acknowledged_at=r.acknowledged_at,
            )
            for r in recipients
        ],
    )


class Permitted(Wire):
    """One category of one source that was permitted, and what that rests on."""

    category: Category
    source: AgencyId
    agreement: str
    version: int
    basis: Basis
    consent: int | None


class LedgerEntry(Wire):
    """One decision: what was told, or refused, to whom, when, why, on what authority."""

    entry: int
    decision: UUID
    outcome: str
    """`sent`, `leaving`, `refused`, or `cancelled, may have arrived`."""
    decided_at: datetime
    recipient: AgencyId
    purpose: Purpose
    type: str
    permitted: list[Permitted]
    withheld: list[Withheld]


class Disclosures(Wire):
    """A page of the ledger of one client, newest first. `before` for the next page is the last `entry`."""

    client: UUID
    entries: list[LedgerEntry]


@router.get("/clients/{client}/disclosures", tags=["clients"], summary="Who was told what about this client")
async def disclosures(
    client: UUID,
    db: Db,
    caller: Annotated[Caller, Depends(require("disclosures:read"))],
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Disclosures:
    """`client` is the reference under which the door told *you* of the client: a real number never stands in a URL.

    An agency sees what it was told or refused, and what became of what it recorded; the whole answer to a subject
    access request takes the scope `subject-access`.
    """

    async def read(session: Any) -> Any:
        number = await views.client_of(session, client, caller.agency)
        agency = None if SUBJECT_ACCESS in caller.scopes else caller.agency
        return None if number is None else await views.disclosures(session, number, agency, limit, before)

    rows = await db.run(read)
    if rows is None:
        raise Problem(
            "no-such-client", "There is no such client", "Use the client reference from the answer to your event.", 404
        )
    return Disclosures(client=client, entries=[_entry(row) for row in rows])


def _entry(row: Any) -> LedgerEntry:
    explanation = orjson.loads(row.explanation)
    if row.kind == "refusal":
        outcome = "refused"
    elif row.cancelled:
        outcome = "cancelled, may have arrived"
    else:
        outcome = "leaving" if row.leaving else "sent"
    return LedgerEntry(
        entry=row.id,
        decision=row.decision,
        outcome=outcome,
        decided_at=row.decided_at,
        recipient=row.recipient,
        purpose=row.purpose,
        type=row.type,
        permitted=[Permitted.model_validate(p) for p in explanation["permitted"]],
        withheld=[Withheld.model_validate(w) for w in explanation["withheld"]],
    )


class AgencyBody(StrictWire):
    """A party."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    kind: AgencyKind
    area: Area | None = None


@router.put("/agencies/{agency}", status_code=204, tags=["register"], summary="Register an agency")
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


@router.post("/agreements", status_code=201, tags=["register"], summary="Enter a signed version of an agreement")
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


@router.get("/agreements", tags=["register"], summary="Agreements to which you are a party")
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


class Hold(Wire):
    """A client for whom everything is denied because a stopping event could not be applied. Someone must look."""

    hold: UUID
    reason: str
    asserted_by: str
    since: datetime


@router.get("/holds", tags=["operations"], summary="Holds that nobody has lifted yet")
async def list_holds(db: Db, caller: Annotated[Caller, Depends(require("operator"))]) -> list[Hold]:
    """Oldest first. Ask the agency what its event meant, then lift the hold."""
    rows = await db.run(views.holds)
    return [Hold(hold=r.id, reason=r.reason, asserted_by=r.asserted_by, since=r.since) for r in rows]


@router.delete("/holds/{hold}", status_code=204, tags=["operations"], summary="Lift a hold")
async def lift_hold(hold: UUID, db: Db, caller: Annotated[Caller, Depends(require("operator"))]) -> None:
    """The client's earlier consents stay withdrawn: sharing by consent needs a new form."""
    await db.run(lambda session: holds.lift(session, hold, caller.subject))
