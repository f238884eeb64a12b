"""Agreements over HTTP: entered, proposed, signed, suspended, left; and whether what they ended has ended."""

from collections.abc import Collection
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from consent.api.common import AgencyDb
from consent.domain import Agreement
from consent.repository import agreements as stored
from consent.repository.agreements import Change, Signature, Version
from consent.service import agreements
from consent.service.register import agreement_of, state
from contracts.agreements import (
    AgreementId,
    AgreementTemplate,
    AgreementTerms,
    AgreementText,
    Readable,
    minimum_standard,
)
from contracts.vocabulary import AgencyId
from servicekit.access import Db
from servicekit.auth import OPERATOR, Caller, require, scope_missing
from servicekit.envelope import StrictWire, Wire
from servicekit.sql import time_now

router = APIRouter(tags=["agreements"])

Reader = Annotated[Caller, Depends(require("agreements:read", OPERATOR))]
Signatory = Annotated[Caller, Depends(require("agreements:sign"))]


async def _party_or_operator(caller: Reader) -> Caller:
    if not caller.scopes & {"agreements:sign", OPERATOR}:
        raise scope_missing("agreements:sign")
    return caller


Acting = Annotated[Caller, Depends(_party_or_operator)]
Line = Annotated[Readable, Field(min_length=1, max_length=200)]


class ChangeBody(Wire):
    """Something that happened to an agreement: `GET /agreement-changes/{change}` says when it has taken effect."""

    change: UUID
    agreement: str
    kind: str
    """`version`, `suspended` or `resumed`."""
    version: int
    by: str
    """The agency, or `operator`."""
    reason: str | None
    at: datetime
    effective_at: datetime


class ChangeStatus(ChangeBody):
    """How far a change has come."""

    done: bool
    """Nothing leaves any more that was decided without this change: every shard has decided with it, and has sent or
    aborted what it decided before."""
    waiting_for: list[int] | None
    """The shards of the discloser that are not so far; null when none ever ran."""
    snapshots_queued: bool
    """All that the change newly permits is queued."""


def _change(change: Change) -> ChangeBody:
    return ChangeBody(change=change.id, **_fields(change))


def _fields(change: Change) -> dict[str, object]:
    names = ("agreement", "kind", "version", "by", "reason", "at", "effective_at")
    return {name: getattr(change, name) for name in names}


def _accepted(response: Response, change: Change) -> ChangeBody:
    response.headers["Location"] = f"/agreement-changes/{change.id}"
    return _change(change)


# --- reading ----------------------------------------------------------------------------------------------------------


class State(StrEnum):
    """What a version of an agreement is."""

    DRAFT = "draft"
    NOT_BEGUN = "not-begun"
    IN_FORCE = "in-force"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


class SignatoryBody(Wire):
    """Who signed for an agency. On paper: with neither role nor time."""

    agency: AgencyId
    name: str
    role: str | None
    signed_at: datetime | None


class AgreementVersion(Wire):
    """An agreement in one version, or a draft of one."""

    id: str
    version: int
    """For a draft, the version that it would be."""
    state: State
    sources: list[AgencyId]
    recipients: list[AgencyId]
    terms: list[AgreementTerms]
    enforces: list[AgencyId]
    signatories: list[SignatoryBody]
    missing_signatures: list[AgencyId]
    """Who has yet to sign a draft."""
    starts: datetime
    review: datetime
    review_overdue: bool
    ends: datetime
    suspended_from: datetime | None
    draft: UUID | None
    """Under which it is, or was, signed; null for one that was signed on paper."""
    proposed_by: str | None


def _version(version: Version, state: State, now: datetime, missing: Collection[str] = ()) -> AgreementVersion:
    a = version.agreement
    return AgreementVersion(
        id=a.id,
        version=a.version,
        state=state,
        sources=sorted(a.sources),
        recipients=sorted(a.recipients),
        terms=[
            AgreementTerms(
                purpose=p,
                basis=t.basis,
                categories=sorted(t.categories),
                subscription=t.subscription,
                own_word=t.own_word,
            )
            for p, t in a.terms.items()
        ],
        enforces=sorted(a.enforces),
        signatories=[_signatory(agency, s) for agency, s in sorted(version.signatures.items())],
        missing_signatures=sorted(missing),
        starts=a.starts,
        review=version.review,
        review_overdue=state in (State.IN_FORCE, State.SUSPENDED) and version.review <= now,
        ends=a.ends,
        suspended_from=a.suspended_from,
        draft=version.draft,
        proposed_by=version.proposed_by,
    )


def _signatory(agency: str, s: Signature) -> SignatoryBody:
    return SignatoryBody(agency=agency, name=s.name, role=s.role, signed_at=s.signed_at)


async def _visible(session: AsyncSession, caller: Caller, id: str | None) -> list[AgreementVersion]:
    now = await time_now(session)
    versions = await stored.versions(session, id)
    by_id: dict[str, list[Agreement]] = {}
    for v in versions:
        by_id.setdefault(v.agreement.id, []).append(v.agreement)
    found = [
        _version(v, State(state(v.agreement, by_id[v.agreement.id], now)), now)
        for v in versions
        if agreements.sees(caller, v)
    ]
    for draft, missing in await agreements.open_drafts(session, id, versions, now):
        if agreements.sees(caller, draft) or caller.agency in missing:
            found.append(_version(draft, State.DRAFT, now, missing))
    return sorted(found, key=lambda v: (v.id, v.version))


@router.get("/agreements", summary="Agreements to which you are a party, and drafts that wait for signatures")
async def list_agreements(db: AgencyDb, caller: Reader) -> list[AgreementVersion]:
    """Every version, oldest first, each with its state. Of an agreement of others nobody learns that it exists."""
    return await db.run(lambda session: _visible(session, caller, None))


class AgreementHistory(Wire):
    """An agreement with all that happened to it."""

    id: str
    versions: list[AgreementVersion]
    changes: list[ChangeBody]


@router.get("/agreements/{agreement}", summary="An agreement with its versions, drafts and changes")
async def show_agreement(agreement: AgreementId, db: AgencyDb, caller: Reader) -> AgreementHistory:
    """Those versions to which you are a party, and what happened while you were; the operator sees all."""

    async def read(session: AsyncSession) -> AgreementHistory:
        versions = await _visible(session, caller, agreement)
        if not versions:
            raise agreements.no_such_agreement()
        mine = {v.version for v in versions if v.state is not State.DRAFT}
        changes = await stored.changes(session, agreement)
        return AgreementHistory(
            id=agreement,
            versions=versions,
            changes=[_change(c) for c in changes if c.version in mine or c.by == caller.agency],
        )

    return await db.run(read)


@router.get("/agreement-template", summary="The minimum standard that every agency can sign")
async def template(caller: Reader) -> AgreementTemplate:
    """Sign it with `POST /agreement-template/signatures`."""
    return minimum_standard()


@router.get("/agreement-changes/{change}", summary="How far a change of an agreement has come")
async def change_status(change: UUID, db: AgencyDb, caller: Reader) -> ChangeStatus:
    """Ask until it is `done`: from then on nothing leaves that was decided without this change."""
    found = await db.run(lambda session: agreements.status(session, caller, change))
    return ChangeStatus(
        change=found.change.id,
        **_fields(found.change),
        done=found.done,
        waiting_for=None if found.waiting_for is None else list(found.waiting_for),
        snapshots_queued=found.snapshots_queued,
    )


# --- changing ---------------------------------------------------------------------------------------------------------


class PaperBody(AgreementText):
    """One version of an information-sharing agreement that every party has signed on paper."""

    id: AgreementId
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]
    signatories: dict[AgencyId, Line]


@router.post("/agreements", status_code=202, summary="Enter a version that was signed on paper")
async def enter(
    body: PaperBody, response: Response, db: Db, caller: Annotated[Caller, Depends(require(OPERATOR))]
) -> ChangeBody:
    """A change is a new version; decisions keep pointing at the version that they rested on.

    For the operator alone, who has seen the paper: a party proposes a draft, and each signs for itself.
    """
    agreement = agreement_of(body.id, body.version, body)
    change = await db.run(lambda session: agreements.enter(session, agreement, body.signatories, body.review))
    return _accepted(response, change)


class DraftBody(AgreementText):
    """What a draft says. With `agreement` it is the next version of that one, else a new agreement."""

    agreement: AgreementId | None = None


class DraftMade(Wire):
    """Where a draft is signed."""

    draft: UUID


@router.post("/agreement-drafts", status_code=201, summary="Propose a new agreement, or a version of one")
async def propose(body: DraftBody, db: Db, caller: Acting) -> DraftMade:
    """Every party signs it for itself, whoever proposed it too; so does every party of what is in force or to come."""
    return DraftMade(draft=await db.run(lambda session: agreements.propose(session, caller, body.agreement, body)))


class SignatureBody(StrictWire):
    """Who signs. The agency is that of the token."""

    name: Line
    role: Line


class SignedBody(Wire):
    """What became of a draft by a signature."""

    agreement: str
    version: int
    missing_signatures: list[AgencyId]
    change: ChangeBody | None
    """Once nobody is missing: that it became a version of the agreement."""


@router.post(
    "/agreement-drafts/{draft}/signatures",
    summary="Sign a draft for your agency",
    responses={202: {"model": SignedBody, "description": "It was the last signature: the version is in the register"}},
)
async def sign(draft: UUID, body: SignatureBody, response: Response, db: Db, caller: Signatory) -> SignedBody:
    """The last signature makes it the next version of the agreement, in force by its dates."""
    signed = await db.run(lambda session: agreements.sign(session, caller, draft, body.name, body.role))
    if signed.change is not None:
        response.status_code = 202
        _accepted(response, signed.change)
    return SignedBody(
        agreement=signed.draft.agreement.id,
        version=signed.draft.agreement.version,
        missing_signatures=sorted(signed.missing),
        change=None if signed.change is None else _change(signed.change),
    )


@router.post("/agreement-template/signatures", status_code=202, summary="Sign the minimum standard for your agency")
async def accede(body: SignatureBody, response: Response, db: Db, caller: Signatory) -> ChangeBody:
    """Your agency then tells, and is told by, everyone else who has signed it, each client's consent provided."""
    change = await db.run(lambda session: agreements.accede(session, caller, body.name, body.role))
    return _accepted(response, change)


class ReasonBody(StrictWire):
    """Why. Every party reads it: it names no client."""

    reason: Annotated[Readable, Field(min_length=1, max_length=1000)]


@router.post("/agreements/{agreement}/suspension", status_code=202, summary="Suspend an agreement at once")
async def suspend(agreement: AgreementId, body: ReasonBody, response: Response, db: Db, caller: Acting) -> ChangeBody:
    """Nothing is shared under it until you resume it."""
    return _accepted(response, await db.run(lambda s: agreements.suspend(s, caller, agreement, body.reason)))


@router.post("/agreements/{agreement}/resumption", status_code=202, summary="Take back your suspension")
async def resume(agreement: AgreementId, body: ReasonBody, response: Response, db: Db, caller: Acting) -> ChangeBody:
    """In force again when no other suspension is left; then recipients get what they missed as snapshots."""
    return _accepted(response, await db.run(lambda s: agreements.resume(s, caller, agreement, body.reason)))


@router.post("/agreements/{agreement}/departure", status_code=202, summary="Leave an agreement at once")
async def leave(agreement: AgreementId, body: ReasonBody, response: Response, db: Db, caller: Acting) -> ChangeBody:
    """The next version is without your agency; it ends the agreement where nobody else is left, or for the operator."""
    return _accepted(response, await db.run(lambda s: agreements.leave(s, caller, agreement, body.reason)))
