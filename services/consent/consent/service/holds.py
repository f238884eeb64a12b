"""Lifting a hold: a person has looked at the stopping event that could not be applied."""

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import clients, queue
from consent.service import register
from consent.service.desk import Desk
from servicekit.db import wake_after_commit
from servicekit.problems import Problem


async def lift(session: AsyncSession, id: UUID, by: str) -> None:
    """Lift a hold. The consents that it stopped stay withdrawn; who is permitted by anything else gets a snapshot.

    Raises:
        Problem: 404, there is no such hold.
    """
    client_id = await clients.held_client(session, id)
    if client_id is None:
        raise Problem("no-such-hold", "There is no such hold", "List the open ones with GET /holds.", 404)
    await clients.lock(session, [client_id])
    await clients.lift_hold(session, id, by)
    now = await clients.time_now(session)
    loaded = await clients.load(session, [client_id], [client_id])
    desk = Desk(loaded, await register.load(session), now)
    desk.offer_snapshots(loaded[client_id], now, None)
    await clients.write(session, desk.changes)
    wake_after_commit(session, queue.CHANNEL)
