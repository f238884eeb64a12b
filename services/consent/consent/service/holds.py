"""Holds: what a stopping event that could not be applied denies, until a person has looked."""

from collections.abc import Mapping
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import aside, clients, queue
from consent.service import register
from consent.service.desk import Desk
from servicekit.db import wake_after_commit
from servicekit.problems import Problem

MEANINGS: Mapping[str, str] = {
    "malformed-json": "An event that looks like a withdrawal could not be read: it is not JSON.",
    "invalid-event": "A withdrawal or restriction did not fit its schema.",
    "unknown-type": "An event that looks like a withdrawal has a type or version that we do not know.",
    "wrong-agency": "A withdrawal or restriction named another agency than the one it came from.",
    "not-yours-to-say": "A withdrawal or restriction came from an agency that may not publish it.",
    "time-in-future": "A withdrawal or restriction had a time that had not come yet.",
    "too-large": "An event that looks like a withdrawal was too large to be read.",
    "id-used-again": "A withdrawal or restriction came under an id that its agency had used for something else.",
    "unknown-client": "A withdrawal or restriction named a number that no client had.",
    "identifier-conflict": "A withdrawal or restriction named numbers of different clients.",
    "agency-not-registered": "A withdrawal or restriction came from an agency that is not registered.",
    "set-aside": "A withdrawal or restriction could not be applied for a reason of our own, and was set aside.",
    "named-by-an-earlier-withdrawal": "A withdrawal or restriction named this client's number before the client was"
    " known.",
}
"""In words why something is held, by the code with which the event was rejected."""
OTHER = "A stopping event could not be applied."

NO_SUCH_HOLD = Problem("no-such-hold", "There is no such hold", "List the open ones with GET /holds.", 404)


async def lift(session: AsyncSession, id: UUID, by: str) -> None:
    """Lift a hold. The consents that it stopped stay withdrawn; who is permitted by anything else gets a snapshot.

    The hold of a number that no client has is forgotten, and the number with it.

    Raises:
        Problem: 404, there is no such hold.
        TryAgain: the client was linked, or its link undone, meanwhile.
    """
    client_id = await clients.held_client(session, id)
    if client_id is not None:
        await _lift(session, id, client_id, by)
    else:
        await clients.lock_numbers(session, exclusive=True)  # nobody is to get the number at this moment
        if not await aside.forget_held_number(session, id):
            raise NO_SUCH_HOLD
    await aside.enter(session, by, "hold-lifted", str(id))


async def _lift(session: AsyncSession, id: UUID, client_id: int, by: str) -> None:
    found = (await clients.lock_whole(session, [client_id]))[client_id]
    await clients.lift_hold(session, id, by)
    now = await clients.time_now(session)
    loaded = await clients.load(session, found.may_mean, found.may_mean)
    desk = Desk(loaded, await register.load(session), now)
    for client in loaded.values():
        desk.offer_snapshots(client, now, None)
    await clients.write(session, desk.changes)
    wake_after_commit(session, queue.CHANNEL)


async def give_to(session: AsyncSession, id: UUID, owner: str) -> None:
    """Enter who looks at a hold.

    Raises:
        Problem: 404, there is no such hold.
    """
    if not await aside.set_owner(session, id, owner):
        raise NO_SUCH_HOLD
