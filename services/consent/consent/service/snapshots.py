"""Snapshots of the clients of an agreement that begins, is resumed or says something new: in chunks, behind the change.

They go to whom it tells something by what is new in it, also where something else permits the same. That may begin, or
be resumed, at this moment as well, or may let it leave on request only, and a snapshot too many does no harm.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import why_not_in_force
from consent.repository import agreements, clients, recorded
from consent.service import desks
from consent.service.register import Register
from contracts.vocabulary import Purpose

LATER_SECONDS = 60.0


async def offer_next_chunk(session: AsyncSession, chunk: int) -> bool:
    """Offer the snapshots of the next `chunk` clients, of the follow-up that is due first. False: none is due.

    How far it came is written in the same transaction, so a worker that dies repeats nothing and leaves nothing out.
    """
    due = await agreements.claim_follow_up(session)
    if due is None:
        return False
    ids = await recorded.by(session, due.sources, due.after, chunk)
    if not ids:
        await agreements.end_follow_up(session, due.change)
        return True
    await clients.lock(session, ids)
    # Read again behind the lock: one may have been linked with another meanwhile, which then has its turn.
    still = [id for id in await recorded.by(session, due.sources, due.after, chunk) if id in ids]
    desk = await desks.open(session, still)
    begins = _begins(due, desk.register, desk.now)
    for client in desk.clients.values():
        to = {whom for source, _ in client.sections for whom in begins.get(source, ())}
        desk.offer_snapshots(client, None, to=to)
    await desks.close(session, desk)
    await agreements.move_on(session, due.change, ids[-1])
    return True


def _begins(due: Any, registered: Register, now: datetime) -> Mapping[str, set[tuple[str, Purpose]]]:
    """By source the recipients and purposes for which something begins: those of which the version does not say the
    same as the one before it, if that is in force. After a suspension all of them. Later versions have follow-ups of
    their own.
    """
    versions = (a for a in registered.agreements if a.id == due.agreement and a.starts <= now)
    older = sorted((a for a in versions if a.version <= due.version), key=lambda a: a.version)
    if not older:
        return {}
    version, before = older[-1], older[-2] if len(older) > 1 and due.kind == "version" else None
    if before is not None and why_not_in_force(before, now) is not None:
        before = None
    found: dict[str, set[tuple[str, Purpose]]] = {}
    for source in version.sources:
        begins = found[source] = set()
        told = before if before is not None and source in before.sources else None
        for recipient in version.recipients - {source}:
            said = told.terms if told is not None and recipient in told.recipients else {}
            new = {p: terms for p, terms in version.terms.items() if said.get(p) != terms}
            begins |= {(recipient, p) for p, terms in new.items() if registered.policy.tell_unasked(terms)}
        for recipient in version.enforces - {source}:
            if told is None or recipient not in told.enforces:
                begins |= {(recipient, purpose) for purpose in Purpose}  # whatever an exclusion withheld from it
    return found


async def put_off(session: AsyncSession) -> None:
    """Let others go first: the follow-up that is due first could not be done."""
    await agreements.postpone_follow_up(session, LATER_SECONDS)
