"""Holds: what a stopping event that could not be applied denies, until a person has looked.

What an agency may hold is bounded where it would be cheap to deny what it has nothing to do with. Each bound's safe
direction stands with it; none leaves a client unheard whom the publisher knows.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Granted, Scope, Withdrawn
from consent.repository import aside, clients, holds, recorded
from consent.repository.changes import Changes
from consent.repository.clients import Client, Hold, Identifier
from consent.repository.sql import Executor
from consent.service import desks
from consent.service.desk import CANNOT_BE_READ, THE_DOOR, Cause, Desk
from consent.service.incoming import Damaged
from consent.service.naming import MOST_NAMED
from servicekit.problems import Problem

MEANINGS: Mapping[str, str] = {
    "malformed-json": "An event that looks like a withdrawal could not be read: it is not JSON.",
    "invalid-event": "A withdrawal or restriction did not fit its schema.",
    "unknown-type": "An event that looks like a withdrawal has a type or version that we do not know.",
    "unknown-recipient": "A withdrawal or restriction named an agency that is not registered.",
    "wrong-agency": "A withdrawal or restriction named another agency than the one it came from.",
    "not-yours-to-say": "A withdrawal or restriction came from an agency that may not publish it.",
    "time-in-future": "A withdrawal or restriction had a time that had not come yet.",
    "too-large": "An event that looks like a withdrawal was too large to be read.",
    "id-used-again": "A withdrawal or restriction came under an id that its agency had used for something else.",
    "unknown-client": "A withdrawal or restriction named a number that no client had.",
    "identifier-conflict": "A withdrawal or restriction named numbers of different clients.",
    "nothing-to-end": "The end of a gateway or of an override named an id under which its agency had begun none.",
    "agency-not-registered": "A withdrawal or restriction came from an agency that is not registered.",
    "set-aside": "A withdrawal or restriction could not be applied for a reason of our own, and was set aside.",
    "cannot-be-read": "Something that is kept of the client cannot be read. Have it mended in the database, then lift"
    " this: what was withheld meanwhile is offered then. The door's log names the row.",
    "lost-in-a-restore": "Something was retracted, or told under a reference, that the database lost in a restore; why,"
    " or of whom, nobody can tell any more.",
    "named-by-an-earlier-withdrawal": "A withdrawal or restriction named this client's number before the client was"
    " known.",
    "names-too-many": "A withdrawal or restriction named more clients than one can mean. The first are held each on"
    " their own; this holds nobody, and says that there are more.",
    "too-many-holds": "A withdrawal or restriction held nobody: its agency has no records of the client, and as many"
    " holds open as it may.",
}
"""In words why something is held, by the code with which the event was rejected."""
OTHER = "A stopping event could not be applied."

MOST_OPEN = 100
"""Holds that may be open by one agency's word before it gets no more on clients and numbers of which it has no records.

The safe direction: what it says of a client whom it knows is always held, whatever else is open. Of strangers it can
make no more than so many wait for a person; each further one is told, to the agency and to operations. Two workers at
once may let a few more pass.
"""

NAMES_TOO_MANY = Problem(
    "names-too-many",
    "The event names more clients than it can be about",
    f"It could not be applied. Nothing leaves for the first {MOST_NAMED} numbers in it until operations, who were told,"
    " have looked. Send one event a client, with that client's numbers only.",
    422,
)
UNTIL = "have looked"
HELD = f" It was to stop sharing: nothing leaves for whoever it names until operations, who were told, {UNTIL}."
"""What a publisher has to know besides: sending it again, corrected, lifts no hold."""
TOO_MANY_HOLDS = Problem(
    "too-many-holds",
    "Too much is held already by your agency's word",
    "It stopped nothing for clients of whom your agency has no records; operations were told. Publish"
    " throughgate.client.recorded.v1 first, then send a new event with a new id, or ask operations.",
    429,
)

log = logging.getLogger(__name__)

NO_SUCH_HOLD = Problem("no-such-hold", "There is no such hold", "List the open ones with GET /holds.", 404)


async def lift(session: AsyncSession, id: UUID, by: str) -> None:
    """Lift a hold. The consents that it stopped stay withdrawn; who is permitted by anything else gets a snapshot.

    The hold of a number that no client has is forgotten, and the number with it.

    Raises:
        Problem: 404, there is no such hold; `Damaged`, what is kept of the client cannot be read.
        TryAgain: the client was linked, or its link undone, meanwhile.
    """
    hold = await holds.find(session, id)
    if hold is None:
        await clients.lock_numbers(session, exclusive=True)  # nobody is to get the number at this moment
        if not await holds.forget_number(session, id):
            raise NO_SUCH_HOLD
    elif hold.client_id is None:
        await holds.lift(session, id, by)
    else:
        await _lift(session, id, hold.client_id, by)
    await aside.record_intervention(session, by, "hold-lifted", str(id))


async def _lift(session: AsyncSession, id: UUID, client_id: int, by: str) -> None:
    found = (await clients.lock_whole(session, [client_id]))[client_id]
    hold = await holds.find(session, id)  # it may have been lifted, or repeated, while we waited
    if hold is None:
        raise NO_SUCH_HOLD
    await holds.lift(session, id, by)
    desk = await desks.open(session, found.may_mean)
    # what an undone link left stands on its own row
    *_, damaged = await recorded.facts_of(session, {client_id}, {client_id})
    if damaged or any(client.damaged for client in desk.clients.values()):
        raise Damaged
    for client in desk.clients.values():
        if hold.times > 1 and hold.asserted_by != THE_DOOR and _agreed_since(client, hold.last_at):
            desk.say_no(client, hold.last_at, Cause(hold.asserted_by, None, None), because="held")
        desk.offer_snapshots(client, None)
    await desks.close(session, desk)


async def hold_damaged(db: Executor, rows: Collection[int]) -> None:
    """Put clients of whom something cannot be read before a person; they are denied anyway.

    Waits for nobody. A client whose row is locked has its turn when it is met again.
    """
    unheld = await holds.lock_unheld(db, rows, CANNOT_BE_READ)
    *_, damaged = await recorded.facts_of(db, unheld, unheld)  # once more, for it may have been mended since
    changes = Changes()
    changes.holds.update((row, CANNOT_BE_READ) for row in damaged)
    await changes.write(db)


def _agreed_since(client: Client, until: datetime) -> bool:
    """Whether the client consented behind the last no to everything and before a time: a repeated no takes that back.

    A consent that came behind the repetition goes with it. That is the safe direction, and rare.
    """
    said = client.facts.said
    no = max((f.version for f in said if isinstance(f, Withdrawn) and f.scope == Scope()), default=0)
    return any(isinstance(f, Granted) and f.void is None and f.version > no and f.given_at <= until for f in said)


def deny(desk: Desk, keys: Sequence[Identifier], names_more: bool, problem: Problem, cause: Cause) -> Problem:
    """A stopping event that cannot be applied stops anyway, for every client that it may mean, and someone is told.

    Args:
        names_more: whether there are more numbers in it than `keys`.
        problem: why it cannot be applied.

    Returns:
        What its publisher is told. The answer does not say whether a number that the publisher does not know belongs to
        a client. There is one exception: an agency that has as many holds open as it may can tell whether one more
        number belongs to a client whom it holds already. Counting numbers, not clients, would close that gap, but then
        a case system that repeats itself would use up its room.
    """
    agency = cause.said_by
    known, strange = set[int](), set[int]()
    for key in keys:
        whom = desk.known.get(key, frozenset())
        (known if key.is_own else strange).update(whom)
    known |= {number for number in strange if agency in desk.clients[number].known_to}
    for number in sorted(known):
        desk.hold(desk.clients[number], problem.code, cause)
    hold = Hold(agency, problem.code)
    held, refused = bool(known), False
    for number in sorted(strange - known):
        client = desk.clients[number]
        if _has_room(desk, agency, hold in client.holds):
            desk.hold(client, problem.code, cause)
            held = True
        else:
            refused = True
    for key in keys:
        if key not in desk.known and not key.is_reference:
            if _has_room(desk, agency, (key, hold) in desk.held_numbers):
                desk.held_numbers.add((key, hold))
                desk.changes.held_identifiers[key, hold] += 1
                held = True
            else:
                refused = True
    if held:
        log.error("a stopping event of %s could not be applied (%s): held; see GET /holds", agency, problem.code)
    elif not refused:  # nothing in it names a client: only a person can find out whom it means
        log.error("a stopping event of %s stopped nobody (%s); see GET /holds", agency, problem.code)
        desk.changes.holds[None, hold] += 1
    for bound, exceeded in ((TOO_MANY_HOLDS, refused), (NAMES_TOO_MANY, names_more)):
        if exceeded:
            log.error("a stopping event of %s is not held in full (%s); see GET /holds", agency, bound.code)
            desk.changes.holds[None, Hold(agency, bound.code)] += 1
            problem = bound
    if held and UNTIL not in problem.detail:  # others say so in words of their own
        return Problem(problem.code, problem.title, problem.detail + HELD, problem.status)
    return problem


def _has_room(desk: Desk, agency: str, is_open: bool) -> bool:
    if is_open:
        return True
    desk.open_holds[agency] = desk.open_holds.get(agency, 0) + 1
    return desk.open_holds[agency] <= MOST_OPEN


async def give_to(session: AsyncSession, id: UUID, owner: str) -> None:
    """Enter who looks at a hold.

    Raises:
        Problem: 404, there is no such hold.
    """
    if not await holds.set_owner(session, id, owner):
        raise NO_SUCH_HOLD
