"""The life of an agreement: proposed, signed by every party, in force by its dates, suspended, left.

Versions are never changed. Whatever happens is a change with a number and an id: what it ends has ended once every
shard of the discloser saw it (`status`), and what it begins is offered in the background (`service.snapshots`).
"""

import calendar
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Agreement
from consent.repository import agreements, queue, shards
from consent.repository.agreements import Change, Signature, Version
from consent.service import register
from contracts.agreements import AgreementText, minimum_standard
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind
from servicekit.auth import OPERATOR, Caller
from servicekit.db import wake_after_commit
from servicekit.problems import Problem
from servicekit.sql import time_now

# --- who may see and do what ------------------------------------------------------------------------------------------


def sees(caller: Caller, version: Version) -> bool:
    """Whether the caller may know of it: a party, the agency that proposed it, or the operator."""
    return caller.is_operator or caller.agency in version.parties or caller.agency == version.proposed_by


def _acting(caller: Caller, versions: Sequence[Version], concerned: Collection[Version]) -> str:
    """In whose name the caller acts: as a party to one of the versions `concerned`, else as the operator.

    Raises:
        Problem: 404, it is neither; 409, it was a party and is one no longer.
    """
    if any(caller.agency in v.parties for v in concerned):
        return caller.agency
    if versions and caller.is_operator:
        return OPERATOR
    if any(caller.agency in v.parties for v in versions):
        raise Problem(
            "no-longer-a-party",
            "Your agency is no longer a party to this agreement",
            "What you say of it would have no effect. To share under it again, its parties sign a version with you.",
            409,
        )
    raise no_such_agreement()


def _living(versions: Sequence[Version], now: datetime) -> Sequence[Version]:
    """The versions under which something may be shared, now or later; none when the agreement is over."""
    agreements = [v.agreement for v in versions]
    over = ("superseded", "expired")
    return [v for v in versions if register.state(v.agreement, agreements, now) not in over]


def _concerned(versions: Sequence[Version], now: datetime) -> Sequence[Version]:
    """The versions whose parties have a say: those that live; the newest, also when it is over."""
    return [*_living(versions, now), *versions[-1:]]


def _parties(versions: Collection[Version]) -> frozenset[str]:
    return frozenset[str]().union(*(v.parties for v in versions))


def _refuse_if_over(newest: Version, now: datetime) -> None:
    if newest.agreement.ends <= now:
        raise Problem(
            "agreement-over",
            "This agreement is over",
            "Nothing is shared under it. To share again, propose its next version.",
            409,
        )


def no_such_agreement() -> Problem:
    """What a stranger is told, whether or not there is one."""
    return Problem(
        "no-such-agreement",
        "There is no such agreement",
        "List those to which your agency is a party with GET /agreements.",
        404,
    )


def signers(
    draft: Version, versions: Sequence[Version], kinds: Mapping[str, AgencyKind], now: datetime
) -> frozenset[str]:
    """Who must sign a draft: its parties, and those of each version before it that is in force or to come."""
    parties = draft.parties | _parties(_living(versions, now))
    return frozenset(p for p in parties if kinds.get(p) is not AgencyKind.SERVICE)


async def open_drafts(
    session: AsyncSession, id: str | None, versions: Collection[Version], now: datetime
) -> list[tuple[Version, frozenset[str]]]:
    """Drafts that can still be signed, of one agreement or of all, each with who has yet to sign it."""
    kinds = (await register.load(session)).kinds
    found = []
    for draft in await agreements.drafts(session, agreement=id):
        before = [v for v in versions if v.agreement.id == draft.agreement.id]
        found.append((draft, signers(draft, before, kinds, now) - draft.signatures.keys()))
    return found


# --- entering, proposing, signing -------------------------------------------------------------------------------------


async def enter(
    session: AsyncSession, agreement: Agreement, signatories: Mapping[str, str], review: datetime
) -> Change:
    """Enter a version that was signed on paper.

    Raises:
        Problem: 422, a party is not registered or has not signed, or who signed is none; 409, the version is not the
            next one.
    """
    await agreements.lock(session)
    versions = await agreements.versions(session, agreement.id)
    version = Version(agreement, review, {agency: Signature(name) for agency, name in signatories.items()})
    registered = await _check_text(session, version, versions)
    if unsigned := signers(version, [], registered.kinds, agreement.starts) - signatories.keys():
        raise Problem(
            "signature-missing",
            "Not every party has signed",
            f"Give a signatory for each of: {', '.join(sorted(unsigned))}.",
            422,
        )
    now = await time_now(session)
    if strangers := signatories.keys() - signers(version, versions, registered.kinds, now):
        raise Problem(
            "signatory-no-party",
            "Somebody has signed who is no party",
            f"Leave out whoever is neither a party nor was one so far: {', '.join(sorted(strangers))}.",
            422,
        )
    current = versions[-1].agreement.version if versions else 0
    if agreement.version != current + 1:
        raise Problem(
            "version-conflict",
            "This is not the agreement's next version",
            f"The newest version is {current}: read it, and send version {current + 1}.",
            409,
        )
    return await _enter(session, versions, version, OPERATOR)


async def propose(session: AsyncSession, caller: Caller, id: str | None, text: AgreementText) -> UUID:
    """Enter a draft: of the next version of an agreement, or without `id` of a new one. Gives the draft's id.

    Only the operator chooses the id of a new agreement, so that nobody finds out by trying which there are.

    Raises:
        Problem: 404 or 409, the caller is no party of that agreement; 422, the text cannot be.
    """
    now = await time_now(session)
    versions = [] if id is None else await agreements.versions(session, id)
    newest = versions[-1] if versions else None
    if newest is not None:
        _acting(caller, versions, _concerned(versions, now))
    elif id is not None and not caller.is_operator:
        raise no_such_agreement()
    number = 1 if newest is None else newest.agreement.version + 1
    agreement = register.agreement_of(id or f"agreement-{uuid4().hex[:12]}", number, text)
    draft_id = uuid4()
    draft = Version(agreement, text.review, {}, draft_id, caller.agency)
    if not caller.is_operator and caller.agency not in draft.parties:
        raise _not_a_party()
    registered = await _check_text(session, draft, versions)
    if agreement.ends <= now or not signers(draft, [], registered.kinds, now):
        raise Problem(
            "nothing-to-sign",
            "There is nothing to sign in this",
            "Give it an end that is still to come, and an agency among its parties.",
            422,
        )
    await agreements.add_draft(session, draft, now)
    return draft_id


@dataclass(frozen=True, slots=True)
class Signed:
    """What became of a draft by a signature."""

    draft: Version
    missing: frozenset[str]
    """Who has not signed yet."""
    change: Change | None
    """Once nobody is missing: that it became a version."""


async def sign(session: AsyncSession, caller: Caller, id: UUID, name: str, role: str) -> Signed:
    """Sign a draft for the caller's agency. The last signature makes it the next version. The same again: no change.

    Raises:
        Problem: 404, the caller may not know of it; 403, it is no party; 409, the draft was overtaken or is too old, or
            somebody else signed for the agency.
    """
    await agreements.lock(session)
    draft = next(iter(await agreements.drafts(session, id=id)), None)
    if draft is None:
        raise no_such_agreement()
    versions = await agreements.versions(session, draft.agreement.id)
    newest = versions[-1] if versions else None
    now = await time_now(session)
    registered = await register.load(session)
    done = next((v for v in versions if v.draft == id), None)
    before = [v for v in versions if v.agreement.version < draft.agreement.version]
    needed = signers(draft, before, registered.kinds, now)
    if caller.agency not in needed | draft.signatures.keys():
        raise _not_a_party() if sees(caller, draft) else no_such_agreement()
    signed = draft.signatures.get(caller.agency)
    if done is not None:
        _refuse_another(signed, name, role)
        changes = await agreements.changes(session, draft.agreement.id)
        made = next(c for c in changes if c.kind == "version" and c.version == done.agreement.version)
        return Signed(draft, frozenset(), made)
    if (
        draft.agreement.version != (1 if newest is None else newest.agreement.version + 1)
        or draft.agreement.ends <= now
    ):
        raise Problem(
            "draft-closed",
            "This draft cannot be signed any more",
            "Another version was signed first, or its end has passed. Propose it anew on the newest version.",
            409,
        )
    _refuse_another(signed, name, role)
    if signed is None:
        await agreements.add_signature(session, id, caller.agency, Signature(name, role, now))
    (draft,) = await agreements.drafts(session, id=id)
    missing = needed - draft.signatures.keys()
    change = None if missing else await _enter(session, versions, draft, caller.agency)
    return Signed(draft, missing, change)


def _refuse_another(signed: Signature | None, name: str, role: str) -> None:
    """Refuse a second signature for an agency: its first stands. The same one is the same request, sent again."""
    if signed is not None and (signed.name, signed.role) != (name, role):
        raise Problem(
            "already-signed",
            "Somebody else has signed for your agency",
            "That signature stands, and a second one is not needed. GET /agreements names who signed.",
            409,
        )


async def accede(session: AsyncSession, caller: Caller, name: str, role: str) -> Change:
    """Sign the minimum standard: the next version of that agreement has the caller's agency among its parties.

    An agency that signs agrees to share with every agency that signs later. The agreement runs from its first
    signature; an agency that joins later joins until its end. The same signature again changes nothing.

    Raises:
        Problem: 422, the agency is not registered; 409, what the others signed is not this text, or has not begun, or
            somebody else signed for the agency.
    """
    await agreements.lock(session)
    template = minimum_standard()
    registered = await register.load(session)
    if registered.kinds.get(caller.agency, AgencyKind.SERVICE) is AgencyKind.SERVICE:
        raise _not_registered({caller.agency})
    now = await time_now(session)
    versions = await agreements.versions(session, template.id)
    newest = versions[-1] if versions else None
    signed = {caller.agency: Signature(name, role, now)}
    members = frozenset({caller.agency})
    review, ends = _review_and_end(now)
    number = 1 if newest is None else newest.agreement.version + 1
    if newest is not None and newest.agreement.ends > now:
        others = newest.agreement.sources & newest.agreement.recipients
        if caller.agency in others:
            _refuse_another(newest.signatures.get(caller.agency), name, role)
            changes = await agreements.changes(session, template.id)
            return [c for c in changes if c.kind == "version"][-1]
        if not _says_the_template(newest.agreement) or newest.agreement.starts > now:
            raise Problem(
                "template-changed",
                "The others have not signed this text",
                "What is signed differs from the template or has yet to begin. Ask the operator which text holds.",
                409,
            )
        signed |= {agency: s for agency, s in newest.signatures.items() if agency in others}
        members |= others
        review, ends = newest.review, newest.agreement.ends
    version = Version(_minimum_standard(number, members, now, ends), review, signed)
    return await _enter(session, versions, version, caller.agency)


def _minimum_standard(version: int, members: frozenset[str], starts: datetime, ends: datetime) -> Agreement:
    """What the template says between these members."""
    template = minimum_standard()
    return Agreement(
        template.id,
        version,
        members,
        members | SERVICE_PURPOSES.keys(),
        register.terms_of(template.terms),
        starts,
        ends,
        members if template.enforces else frozenset(),
    )


def _review_and_end(starts: datetime) -> tuple[datetime, datetime]:
    """When the minimum standard is reviewed and ends whose first signature is of then."""
    template = minimum_standard()
    return months_after(starts, template.review_months), months_after(starts, template.months)


def _says_the_template(agreement: Agreement) -> bool:
    """Whether its parties all tell, are told and undertake what the template says: but for the dates."""
    members = agreement.sources - SERVICE_PURPOSES.keys()
    same = _minimum_standard(agreement.version, members, agreement.starts, agreement.ends)
    return replace(agreement, suspended_from=None) == same


# --- suspending, resuming, leaving ------------------------------------------------------------------------------------


async def suspend(session: AsyncSession, caller: Caller, id: str, reason: str) -> Change:
    """Stop all sharing under an agreement from now on. The same again changes nothing.

    Raises:
        Problem: 404, the caller is neither a party nor the operator; 409, it is a party no longer, the agreement is
            over, or it has suspended it for another reason.
    """
    await agreements.lock(session)
    versions = await agreements.versions(session, id)
    now = await time_now(session)
    by = _acting(caller, versions, _concerned(versions, now))
    _refuse_if_over(versions[-1], now)
    if mine := (await _suspensions(session, id)).get(by):
        if mine.reason != reason:
            raise Problem(
                "already-suspended",
                "You have suspended this agreement already",
                "It is suspended until you resume it. GET /agreements/{id} shows since when and why.",
                409,
            )
        return mine
    return await _change(session, versions[-1].agreement, "suspended", by, reason, now, now)


async def resume(session: AsyncSession, caller: Caller, id: str, reason: str) -> Change:
    """Take back a suspension. The agreement is in force again when nobody else's is left.

    Raises:
        Problem: 404, the caller is neither a party nor the operator; 409, it is a party no longer, the agreement is
            over, or it has not suspended it.
    """
    await agreements.lock(session)
    versions = await agreements.versions(session, id)
    now = await time_now(session)
    by = _acting(caller, versions, _concerned(versions, now))
    _refuse_if_over(versions[-1], now)
    if by not in await _suspensions(session, id):
        raise Problem(
            "not-suspended",
            "You have not suspended this agreement",
            "Each party takes back its own suspension: ask the one that GET /agreements/{id} names.",
            409,
        )
    change = await _change(session, versions[-1].agreement, "resumed", by, reason, now, now)
    sources = frozenset[str]().union(*(v.agreement.sources for v in versions if v.agreement.ends > now))
    if sources:
        await agreements.add_follow_up(session, change, sources)
    return change


async def leave(session: AsyncSession, caller: Caller, id: str, reason: str) -> Change:
    """Take the caller's agency out of an agreement, at once and alone: the next version is without it.

    Where nobody is left to tell or to be told, the next version ends now. The operator ends the agreement as a whole.

    Raises:
        Problem: 404, the caller is neither a party nor the operator; 409, it is a party no longer, the agreement is
            over, or its newest version has yet to begin.
    """
    await agreements.lock(session)
    versions = await agreements.versions(session, id)
    now = await time_now(session)
    by = _acting(caller, versions, _concerned(versions, now))
    newest = versions[-1]
    _refuse_if_over(newest, now)
    old = newest.agreement
    if old.starts >= now:
        raise Problem(
            "not-begun",
            "The newest version of this agreement has yet to begin",
            "Suspend the agreement, and propose a new version.",
            409,
        )
    sources, recipients = old.sources - {by}, old.recipients - {by}
    new = replace(old, version=old.version + 1, suspended_from=None)
    if by == OPERATOR or not sources or not any(recipients - {source} for source in sources):
        new = replace(new, ends=now)
    else:
        new = replace(new, sources=sources, recipients=recipients, enforces=old.enforces - {by}, starts=now)
    signatures = {agency: s for agency, s in newest.signatures.items() if agency in new.sources | new.recipients}
    return await _enter(session, versions, Version(new, newest.review, signatures), by, reason)


# --- what became of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Status:
    """How far a change has come."""

    change: Change
    waiting_for: tuple[int, ...] | None
    """Shards of the discloser that may still send what was decided before it; None when no discloser ever ran."""
    snapshots_queued: bool
    """Whether all that it newly permits is queued."""

    @property
    def done(self) -> bool:
        """Whether nothing leaves any more that was decided without it."""
        return self.waiting_for == ()


async def status(session: AsyncSession, caller: Caller, id: UUID) -> Status:
    """How far a change has come.

    Raises:
        Problem: 404, there is none that the caller may know of.
    """
    change = await agreements.change(session, id)
    if change is None:
        raise no_such_agreement()
    versions = await agreements.versions(session, change.agreement)
    _acting(caller, versions, versions)
    seen = {row.shard: row for row in await shards.each(session)}
    waiting: tuple[int, ...] | None = None
    if seen:
        newest = max(seen.values(), key=lambda row: row.at)  # all run with the same number; older rows are of before
        waiting = tuple(
            n
            for n in range(newest.shards)
            if n not in seen
            or seen[n].shards != newest.shards
            or seen[n].seen < change.number
            or seen[n].reached is None
            or seen[n].reached < change.effective_at
        )
    return Status(change, waiting, await agreements.followed_up(session, change.number))


async def _suspensions(session: AsyncSession, id: str) -> Mapping[str, Change]:
    """By whose they are, the suspensions that have not been taken back."""
    last = {c.by: c for c in await agreements.changes(session, id) if c.kind != "version"}
    return {by: c for by, c in last.items() if c.kind == "suspended"}


async def _check_text(session: AsyncSession, version: Version, versions: Sequence[Version]) -> register.Register:
    registered = await register.load(session)
    if missing := version.parties - registered.agencies.keys():
        raise _not_registered(missing)
    agreement = version.agreement
    if agreement.id == minimum_standard().id:
        dates = [_review_and_end(agreement.starts), *((v.review, v.agreement.ends) for v in versions[-1:])]
        if not _says_the_template(agreement) or (version.review, agreement.ends) not in dates:
            raise Problem(
                "not-the-template",
                "This id belongs to the minimum standard",
                "Take another id, or what GET /agreement-template says as it stands: whoever signs it is among sources,"
                " recipients and enforces, our services are recipients, and review and end are so many months"
                " after it starts, or those of the version before.",
                422,
            )
    return registered


async def _enter(
    session: AsyncSession, versions: Sequence[Version], version: Version, by: str, reason: str | None = None
) -> Change:
    """Enter the version that follows on `versions`. A suspension does not outlive the agreement, nor that whoever made
    it is a party: who signs again begins anew.
    """
    now = await time_now(session)
    agreement, living = version.agreement, _living(versions, now)
    still = _parties(living) | ({OPERATOR} if living else set())
    still -= {by} - _parties([version])  # who leaves
    for whose in sorted((await _suspensions(session, agreement.id)).keys() - still):
        ended = "Whoever suspended it had left, or it was over."
        await _change(session, versions[-1].agreement, "resumed", whose, ended, now, now)
    await agreements.add_version(session, version)
    effective = now if agreement.ends <= now else max(now, agreement.starts)
    change = await _change(session, agreement, "version", by, reason, now, effective)
    if agreement.ends > now:
        await agreements.add_follow_up(session, change, agreement.sources)
    return change


async def _change(
    session: AsyncSession,
    agreement: Agreement,
    kind: str,
    by: str,
    reason: str | None,
    at: datetime,
    effective: datetime,
) -> Change:
    change = await agreements.add_change(session, agreement, kind, by, reason, at, effective)
    wake_after_commit(session, queue.CHANNEL)
    return change


def _not_a_party() -> Problem:
    return Problem(
        "not-a-party", "Your agency is not a party to it", "Only those who share under an agreement sign it.", 403
    )


def _not_registered(missing: Collection[str]) -> Problem:
    return Problem(
        "party-not-registered",
        "A party is not registered",
        f"Register these agencies first with PUT /agencies: {', '.join(sorted(missing))}.",
        422,
    )


def months_after(at: datetime, months: int) -> datetime:
    """The same day so many months on, or the last day of that month."""
    years, month = divmod(at.month - 1 + months, 12)
    year = at.year + years
    return at.replace(year=year, month=month + 1, day=min(at.day, calendar.monthrange(year, month + 1)[1]))
