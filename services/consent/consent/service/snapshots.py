"""Snapshots of clients to whom a change of the register newly permits something: in chunks, behind the signature."""

import math

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Policy
from consent.repository import agreements, clients
from consent.service import register
from consent.service.closing import close
from consent.service.desk import Desk
from consent.service.register import Register

LATER_SECONDS = 60.0


async def offer_next_chunk(session: AsyncSession, chunk: int) -> bool:
    """Offer the snapshots of the next `chunk` clients, of the follow-up that is due first. False: none is due.

    How far it came is written in the same transaction, so a worker that dies repeats nothing and leaves nothing out.
    """
    due = await agreements.claim_follow_up(session)
    if due is None:
        return False
    ids = await agreements.clients_of(session, due.sources, due.after, chunk)
    if not ids:
        await agreements.end_follow_up(session, due.change)
        return True
    await clients.lock(session, ids)
    # Read again behind the lock: one may have been linked with another meanwhile, which then has its turn.
    still = [id for id in await agreements.clients_of(session, due.sources, due.after, chunk) if id in ids]
    loaded = await clients.load(session, still, still)
    registered = await register.load(session)
    # What older and newer versions permit, their own follow-ups offer; a suspension stopped all of them.
    older, until = (due.version, due.version) if due.kind == "version" else (0, math.inf)
    others = [a for a in registered.agreements if a.id != due.agreement]
    versions = [a for a in registered.agreements if a.id == due.agreement]
    now = await clients.time_now(session)
    desk = Desk(loaded, Register(registered.agencies, others + [a for a in versions if a.version <= until]), now)
    before = Policy(others + [a for a in versions if a.version < older], registered.kinds)
    for client in loaded.values():
        desk.offer_snapshots(client, desk.now, None, beyond=before)
    await close(session, desk)
    await agreements.move_on(session, due.change, ids[-1])
    return True


async def put_off(session: AsyncSession) -> None:
    """Let others go first: the follow-up that is due first could not be done."""
    await agreements.postpone_follow_up(session, LATER_SECONDS)
