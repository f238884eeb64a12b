"""What the door tells of a client: who was told what."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query

from consent.api.common import Db
from consent.repository import views
from contracts.leaving import Permitted, Withheld
from contracts.vocabulary import AgencyId, Purpose
from servicekit.auth import Caller, require
from servicekit.envelope import Wire
from servicekit.problems import Problem

router = APIRouter(tags=["clients"])

SUBJECT_ACCESS = "subject-access"


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


@router.get("/clients/{client}/disclosures", summary="Who was told what about this client")
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
