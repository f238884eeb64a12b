"""What the clock makes due. Nothing here denies: `decide` follows the time. It tells, takes back, and reminds.

A consent, a gateway or an override that begins later than it is entered is followed by its snapshot when it begins,
whatever withheld it before. What it let out is taken back when it ends; what a restriction withheld may leave. To find
out, the client's record is decided twice as of now: as it is, and as if what ended had no end and all that was ever
agreed were in force. What was withdrawn, ended or lifted before its time neither begins nor ends. A conviction that
becomes spent is taken back from those who were told (`service.convictions`).
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import (
    Agency,
    ClientFacts,
    Expired,
    GatewayInvoked,
    Granted,
    OverrideAuthorised,
    Policy,
    Restricted,
    SharingFact,
    acts_for,
    decide,
    ended,
    leaves_open,
    naming,
    not_lifted,
)
from consent.events import SOURCE
from consent.repository import aside, clients, due, queue, retractions, sharing
from consent.repository.clients import Client
from consent.repository.due import Due
from consent.repository.queue import QueueRow
from consent.repository.retractions import Patience
from consent.service import convictions, desks, losing
from consent.service.desk import Cause, Desk
from consent.service.losing import Lost
from consent.service.notices import notice, retraction_row
from consent.service.register import Register
from contracts import topic_names
from contracts.vocabulary import Category, Purpose
from servicekit import faults
from servicekit.db import wake_after_commit
from servicekit.envelope import encode
from servicekit.sql import time_now

NEVER = datetime.max.replace(tzinfo=UTC)
LATER_SECONDS = 60.0

Timed = Granted | Restricted | GatewayInvoked | OverrideAuthorised


# --- beginnings and ends ----------------------------------------------------------------------------------------------


async def tell_what_is_due(session: AsyncSession, limit: int) -> bool:
    """Give up to `limit` beginnings and ends that have come their effect, each once. False: none is due.

    The row that makes one due goes in the transaction of its effect, so a worker that dies repeats nothing and
    leaves nothing out. Several workers may do this at once. The row of a conviction stays a while where a record of
    the client is on its way: the ledger does not say yet who is told by it. So does each row of a client of whom
    something cannot be read.

    Raises:
        TryAgain: a link was made or undone meanwhile.
    """
    rows = await due.claim(session, limit)
    if not rows:
        return False
    found = await clients.lock_whole(session, {row.client_id for row in rows})
    # A client whose link was undone permits nothing, so nothing of it can end.
    desk = await desks.open(session, {one.client for one in found.values() if not one.instead})
    readable = {id: client for id, client in desk.clients.items() if not client.damaged}
    histories = (await sharing.own_histories(session, found)).found
    members = {member for client in readable.values() for member in client.members}
    spent = {row.id: (found[row.client_id].client, row.source) for row in rows if row.kind == due.CONVICTION}
    leaving = await queue.leaving(session, members) if spent else set[int]()
    offered: dict[int, set[tuple[str, Purpose]]] = defaultdict(set)
    for row in rows:
        client = readable.get(found[row.client_id].client)
        said = next((f for f in histories.get(row.client_id, ()) if f.version == row.version), None)
        if client is None or not isinstance(said, Timed) or _is_over(said, client.facts, desk):
            continue
        if isinstance(said, Restricted) or _end_of(said) <= desk.now:
            offered[client.id] |= _end(said, row, client, desk)
        else:
            offered[client.id] |= _begin(said, row, client, desk)
    for id, to in offered.items():
        desk.offer_snapshots(readable[id], None, to=to)
    for id, source in sorted(set(spent.values())):
        if id in readable:
            await convictions.take_back(session, readable[id], source, desk)
    await desks.close(session, desk)
    again = {row for row, (id, _) in spent.items() if id in readable and not leaving.isdisjoint(readable[id].members)}
    again |= {row.id for row in rows if found[row.client_id].client in desk.clients.keys() - readable.keys()}
    await due.wait(session, again, LATER_SECONDS)
    await due.remove(session, {row.id for row in rows} - again)
    faults.point("clock.ended")
    return True


async def put_off(session: AsyncSession) -> None:
    """Let others go first: what is due first could not be told. What ended denies all the same."""
    await due.put_off(session, LATER_SECONDS)


def _is_over(said: Timed, facts: ClientFacts, desk: Desk) -> bool:
    """Whether it was withdrawn, ended or lifted: nothing of it goes on in any part in whose history it stands."""
    if facts.parts:
        return all(_is_over(said, part, desk) for part in facts.parts if said in part.said)
    match said:
        case Granted():
            return not leaves_open(said, facts.history, desk.register.agencies.values(), desk.now)
        case Restricted():
            return said not in not_lifted(facts.history)
        case _:
            what = "gateway" if isinstance(said, GatewayInvoked) else "override"
            return (what, said.asserted_by, said.id) in ended(facts.history)


def _begin(
    said: Granted | GatewayInvoked | OverrideAuthorised, row: Any, client: Client, desk: Desk
) -> set[tuple[str, Purpose]]:
    """Let the end of what began fall due; gives for whom it began, whether or not something else permits the same."""
    if (ends := _end_of(said)) != NEVER:
        desk.changes.due.append(Due(row.client_id, row.kind, ends, row.version))
    if not isinstance(said, Granted) and said.once:
        desk.offer_snapshots(client, None, resting_on=said.version, once=True)
        return set()
    return {(recipient.id, purpose) for recipient in _reached(said, desk.register) for purpose in said.purposes}


def _end(said: Timed, row: Any, client: Client, desk: Desk) -> set[tuple[str, Purpose]]:
    """Tell and take back what ended; gives for whom something may leave by what goes on."""
    as_if = _instead(client.facts, said, _endless(said))
    # An own version, so that the retraction reaches what was decided just before.
    desk.say(client, Expired(0, said.asserted_by, said.version), row.event_id, row.own_id)
    withdrawal = None
    if isinstance(said, Restricted):
        again = _more(client.facts, desk.register.policy, as_if, said, client, desk)
    else:
        lost = _more(as_if, desk.register.lenient, client.facts, said, client, desk)
        owed = losing.owed(lost, (*client.references.values(), *client.former), desk.register)
        if owed:
            withdrawal = desk.retract(client, owed, Cause(said.asserted_by, row.event_id, None), because="expired")
        again = lost  # what rests on something else comes again
    desk.changes.queue.append(_expired(row, _end_of(said), client, desk, withdrawal))
    return set(again)


def _end_of(said: Timed) -> datetime:
    match said:
        case Granted():
            return said.valid_until or NEVER
        case Restricted():
            return said.until or NEVER
        case _:
            return said.ends


def _endless(said: Timed) -> Timed:
    match said:
        case Granted():
            return replace(said, valid_until=None)
        case Restricted():
            return replace(said, until=None)
        case _:
            return replace(said, ends=NEVER)


def _instead(facts: ClientFacts, said: SharingFact, other: SharingFact) -> ClientFacts:
    """These facts with something else said, in every part."""
    history = tuple(other if fact == said else fact for fact in facts.history)
    return replace(facts, history=history, parts=tuple(_instead(part, said, other) for part in facts.parts))


def _more(one: ClientFacts, policy: Policy, other: ClientFacts, said: Timed, client: Client, desk: Desk) -> Lost:
    """What `one` permits now by this policy, and `other` by the register's does not, of what `said` reaches."""
    if isinstance(said, Restricted):
        purposes = said.scope.purposes or frozenset(Purpose)
        categories = said.scope.categories or frozenset(Category)
    else:
        purposes, categories = said.purposes, said.categories
    found: dict[tuple[str, Purpose], frozenset[Category]] = {}
    for recipient in _reached(said, desk.register):
        services = client.facts.services_of(recipient.id)
        for purpose in (p for p in sorted(purposes) if acts_for(recipient, p)):
            differing: set[Category] = set()
            for question in losing.questions(client, recipient, purpose, categories, services, desk.now):
                permitted = decide(question, one, policy).permitted
                if permitted:
                    permitted -= decide(question, other, desk.register.policy).permitted
                differing |= {item.category for item in permitted}
            if differing:
                found[recipient.id, purpose] = frozenset(differing)
    return found


def _reached(said: Timed, registered: Register) -> Iterable[Agency]:
    """The recipients that it names, as the register has them now; our services act for whomever a consent names."""
    for agency in registered.agencies.values():
        match said:
            case Granted():
                named = bool(naming([said], agency, None)) or said.recipients.name_any_of(agency)
            case Restricted():
                named = said.scope.recipients is None or said.scope.recipients.name_any_of(agency)
            case _:
                named = agency.id in said.recipients
        if named:
            yield agency


def _expired(row: Any, at: datetime, client: Client, desk: Desk, withdrawal: UUID | None) -> QueueRow:
    """Tell the agency that said it that it has ended, and what is retracted by that."""
    reference = desk.reference(client, row.asserted_by, queued=False)
    data = {
        "event": row.event_id,
        "client": str(reference.id),
        "expiredAt": at.isoformat(),
        "withdrawal": None if withdrawal is None else str(withdrawal),
    }
    type = "throughgate.consent.expired.v1"
    if row.kind != "consent":
        type = "throughgate.sharing.expired.v1"
        data |= {"kind": row.kind, "id": row.own_id}
    envelope = encode(type, SOURCE, data, time=desk.now)
    topic = topic_names.replies(row.asserted_by)
    return notice(client.id, row.asserted_by, topic, reference.id, type, envelope, desk.now)


# --- reminders --------------------------------------------------------------------------------------------------------


async def remind(session: AsyncSession, patience: Patience, limit: int) -> bool:
    """Queue retractions again that nobody acknowledged in time: the same event, with its id. False: none is due."""
    found = await retractions.to_remind(session, patience, limit)
    if not found:
        return False
    await clients.lock(session, {row.client_id for row in found})  # whoever queues for a client does
    rows = await retractions.to_remind(session, patience, limit, [row.id for row in found])
    now = await time_now(session)
    await queue.add(
        session,
        [
            retraction_row(row, row.client_id, row.topic, now, traceparent=row.traceparent, keyed_by=row.keyed_by)
            for row in rows
        ],
    )
    await retractions.reminded(session, [row.id for row in rows])
    faults.point("clock.reminded")
    wake_after_commit(session, queue.CHANNEL)
    return True


# --- what waits for a person ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much waits for a person."""

    retractions: int
    reviews: int
    holds: int
    set_aside: int


async def waiting(session: AsyncSession, overdue_hours: float) -> Waiting:
    """Count it; a retraction does after so many hours without an acknowledgement."""
    overdue = await retractions.overdue_count(session, overdue_hours)
    return Waiting(overdue, await due.count_unreviewed(session), *await aside.counts(session))
