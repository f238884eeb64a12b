"""What the door answers of clients: may I share, what may be seen, who was told what."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import Field

from consent.api import page
from consent.api.common import MAY_LEAVE, SUBJECT_ACCESS, AgencyDb
from consent.service import asking
from contracts.facts import Short
from contracts.leaving import Obligation, Permitted, Withheld
from contracts.views import Clients, View, ViewRequest, Views
from contracts.vocabulary import AgencyId, Category, Purpose
from servicekit.access import Db
from servicekit.auth import Caller, require, scope_missing
from servicekit.envelope import StrictWire, Wire


async def _not_to_be_kept(response: Response) -> None:
    response.headers["Cache-Control"] = "no-store"


router = APIRouter(tags=["clients"], dependencies=[Depends(_not_to_be_kept)])


class MayIShare(StrictWire):
    """May I tell this recipient these categories, as my agency recorded them, for this purpose?"""

    clients: Clients
    recipient: AgencyId
    purpose: Purpose
    categories: Annotated[list[Category], Field(min_length=1)]
    service: Short | None = None
    """The one thing that the recipient offers which it would be about, where consent may name it."""


class Verdict(Wire):
    """The answer for one client; `known` is false for a reference that is not yours."""

    client: UUID
    known: bool
    decision: UUID | None = None
    decided_on: int | None = None
    """The version of what was said about sharing the client; only where something is permitted."""
    permitted: list[Permitted] = []
    withheld: list[Withheld] = []
    obligations: list[Obligation] = []


class Verdicts(Wire):
    """One verdict a client, in the order asked."""

    decided_at: datetime
    verdicts: list[Verdict]


@router.post(
    "/decisions",
    summary="May I share this, and if not, what would make it possible?",
    dependencies=MAY_LEAVE,
)
async def decisions(
    body: MayIShare, db: AgencyDb, caller: Annotated[Caller, Depends(require("decisions:ask"))]
) -> Verdicts:
    """Nothing leaves by it and nothing changes. The ledger keeps the question as a consultation, and who asked it.

    The answer says why something is withheld as far as that rests on what your agency said. Once your agency was sent a
    record of the client, it also says what rests on the word of others. Only the agency that imposed a restriction or
    an exclusion is told that it is one. What is permitted is said with its duties, the id of a practitioner among them
    from whom it is to be kept: you pass them on with what you tell.

    Ask about other recipients only: what your own agency may have, `POST /views` shows. To a practitioner whom the
    client excludes the client is not known.
    """
    answers, now = await db.run(
        lambda session: asking.may_share(
            session,
            caller.agency,
            body.clients,
            body.recipient,
            body.purpose,
            set(body.categories),
            body.service,
            caller.practitioner,
        )
    )
    return Verdicts(decided_at=now, verdicts=[_verdict(answer) for answer in answers])


def _verdict(answer: asking.Answer) -> Verdict:
    if answer.told is None:
        return Verdict(client=answer.client, known=False)
    return Verdict.model_validate({"client": answer.client, "known": True, "decision": answer.decision} | answer.told)


@router.post("/views", summary="What may be seen of up to 200 clients", dependencies=MAY_LEAVE)
async def view(body: ViewRequest, db: AgencyDb, caller: Annotated[Caller, Depends(require("views:read"))]) -> Views:
    """One decision a client, in the ledger before it is answered. Keep nothing of it: ask again to show again.

    For clients whom one of our services lists, give that service's references, and its name in `referencesOf`.

    The claim `practitioner` of the token says which person looks, by your agency's own id; without it, a program looks.
    Where a client excludes one of your practitioners, that person is answered as if there were no such client, and the
    attempt is entered; the others see something only of those sources to whom your agency undertook, in an agreement,
    to enforce exclusions (`exclusion-not-enforced`, told as `not-permitted`).

    Until your agency was sent a record of the client, the receipt of a view that shows nothing says nothing either.
    """
    answers = await db.run(
        lambda session: asking.view(
            session,
            caller.agency,
            body.clients,
            caller.practitioner,
            body.purpose,
            set(body.categories),
            body.references_of,
        )
    )
    return Views(views=[View.model_validate(a.told or {"client": a.client}) for a in answers])


class LedgerEntry(Wire):
    """One decision: what was told, or refused, to whom, when, why, on what authority. Or what else was entered."""

    entry: int
    decision: UUID
    kind: str
    """`disclosure`, `refusal`, `view`, `consultation`, `reading`, `attempt`, `override`, `combination` or `erasure`."""
    outcome: str
    """For a disclosure `sent`, `leaving` or `cancelled, may have arrived`; else what `kind` says."""
    decided_at: datetime
    recipient: str | None
    purpose: Purpose | None
    type: str
    permitted: list[Permitted]
    withheld: list[Withheld]
    linked: bool
    """Whether it was decided while the client was linked with another; that link was undone since."""
    details: dict[str, Any]
    """What else there is to say, such as who looked, or whom an override reaches and who authorised it."""
    erased: bool
    """Whether the client's key was destroyed, so that nobody can read any more what it was about."""
    unreadable: bool
    """Whether it cannot be read although it was not erased: it was tampered with, and verifying the ledger finds it."""


class Disclosures(Wire):
    """A page of the ledger of one client, newest first. `before` for the next page is the last `entry`."""

    client: UUID
    entries: list[LedgerEntry]
    names: dict[AgencyId, str]
    """In full, of the agencies that are named."""
    whole: bool
    """Whether it is all that there is, the client's own answer; else what your agency may know."""


@router.get(
    "/clients/{client}/disclosures",
    summary="Who was told what about this client",
    response_model=Disclosures,
    responses={
        200: {
            "content": {"text/html": {}},
            "description": "JSON, or a page to print where Accept names text/html and does not prefer JSON",
        }
    },
)
async def disclosures(
    client: UUID,
    request: Request,
    db: AgencyDb,
    every: Db,
    caller: Annotated[Caller, Depends(require("disclosures:read"))],
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
) -> Any:
    """`client` is the reference under which the door told *you* of the client: a real number never stands in a URL.

    An agency sees what it was told or refused, and what became of what it recorded; until it was sent a record of the
    client, nothing that was refused of what others recorded.

    The whole answer to a subject access request takes the scope `subject-access`, and is for a prison, probation or
    police that recorded something of the client, and for the operator, by any agency's reference. Another agency with
    that scope gets what it gets without it. The page takes the scope, too, and has all that the caller may know.

    A practitioner whom the client excludes is answered as if there were no such client, and the attempt is entered.

    The ledger keeps that it was read, page by page, as a reading, and who read it: later answers have it.
    """
    whole = SUBJECT_ACCESS in caller.scopes
    as_page = page.is_wanted(request.headers.getlist("accept"))
    if as_page and not whole:
        raise scope_missing(SUBJECT_ACCESS, ", or ask for JSON")
    pages: dict[str, Any] = {} if as_page else {"limit": limit, "before": before}
    by: dict[str, Any] = {
        "whole": whole,
        "by": caller.practitioner or caller.subject,
        "practitioner": caller.practitioner,
    }
    if whole and caller.is_operator:
        told = await every.run(lambda s: asking.who_was_told(s, None, client, **by, **pages))
    else:
        told = await db.run(lambda s: asking.who_was_told(s, caller.agency, client, **by, **pages))
    if told is None:
        raise asking.NO_SUCH_CLIENT
    made = [_entry(line) for line in told.lines]
    if as_page:
        written = page.render(made, told.names, caller.agency, client, datetime.now(UTC), is_whole=told.is_whole)
        return HTMLResponse(written, headers=page.HEADERS)
    return Disclosures(client=client, entries=made, names=_named(made, told.names), whole=told.is_whole)


def _entry(line: asking.Line) -> LedgerEntry:
    row = line.row
    outcome = {"refusal": "refused"}.get(row.kind, row.kind)
    if row.kind == "disclosure":
        outcome = "cancelled, may have arrived" if row.cancelled else "leaving" if row.leaving else "sent"
    return LedgerEntry(
        entry=row.id,
        decision=row.decision,
        kind=row.kind,
        outcome=outcome,
        decided_at=row.decided_at,
        recipient=row.recipient,
        purpose=row.purpose,
        type=row.type,
        permitted=[Permitted.model_validate(p) for p in line.explanation.get("permitted", ())],
        withheld=[Withheld.model_validate(w) for w in line.explanation.get("withheld", ())],
        linked=row.linked,
        details=line.details,
        erased=row.key is None and not line.explanation,
        unreadable=row.key is not None and not line.explanation,
    )


def _named(entries: list[LedgerEntry], names: dict[str, str]) -> dict[str, str]:
    """The names of those who are named: nobody learns of others by asking about a client."""
    said = b"".join(entry.model_dump_json().encode() for entry in entries)
    return {id: name for id, name in sorted(names.items()) if f'"{id}"'.encode() in said}
