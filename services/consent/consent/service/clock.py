"""What the clock makes due. Nothing here denies: `decide` follows the time. It tells, takes back, and reminds.

What a consent, a gateway or an override let out is taken back when it ends; what a restriction withheld may leave. To
find out, the client's record is decided twice as of now: as it is, and as if what ended had no end and no agreement
were suspended or over. A conviction that becomes spent is taken back from those who were told (`service.convictions`).
"""

from collections.abc import Iterable, Mapping
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
    Item,
    OverrideAuthorised,
    Policy,
    Question,
    Restricted,
    SharingFact,
    acts_for,
    decide,
)
from consent.events import SOURCE
from consent.repository import aside, clients, due, queue, sharing
from consent.repository.clients import Client
from consent.repository.due import Patience
from consent.repository.queue import NOTICE, QueueRow
from consent.service import convictions, register
from consent.service.closing import close
from consent.service.desk import Cause, Desk, Owed
from consent.service.notices import retraction_row
from consent.service.register import Register
from consent.service.sections import spent_convictions
from contracts.vocabulary import SERVICE_PURPOSES, AgencyKind, Category, Purpose
from servicekit import faults
from servicekit.db import wake_after_commit
from servicekit.envelope import encode

NEVER = datetime.max.replace(tzinfo=UTC)
LATER_SECONDS = 60.0

Timed = Granted | Restricted | GatewayInvoked | OverrideAuthorised
Differing = Mapping[tuple[str, Purpose], frozenset[Category]]
"""Categories by recipient and purpose."""


# --- ends -------------------------------------------------------------------------------------------------------------


async def end_what_is_due(session: AsyncSession, limit: int) -> bool:
    """Give up to `limit` ends that have come their effect, each once. False: none is due.

    The row that makes an end due goes in the transaction of its effect, so a worker that dies repeats nothing and
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
    ids = {one.client for one in found.values() if not one.instead}
    loaded = await clients.load(session, ids, ids)
    readable = {id: client for id, client in loaded.items() if not client.damaged}
    histories = await sharing.own_histories(session, found, set())
    members = {member for client in readable.values() for member in client.members}
    spent = {row.id: (found[row.client_id].client, row.source) for row in rows if row.kind == due.CONVICTION}
    leaving = await due.leaving(session, members) if spent else set[int]()
    desk = Desk(loaded, await register.load(session), await clients.time_now(session))
    for row in rows:
        client = readable.get(found[row.client_id].client)
        said = next((f for f in histories.get(row.client_id, ()) if f.version == row.version), None)
        if client is not None and isinstance(said, Timed):
            _end(said, row, client, desk)
    for id, source in sorted(set(spent.values())):
        if id in readable:
            await convictions.take_back(session, readable[id], source, desk)
    await close(session, desk)
    again = {row for row, (id, _) in spent.items() if id in readable and not leaving.isdisjoint(readable[id].members)}
    again |= {row.id for row in rows if found[row.client_id].client in loaded.keys() - readable.keys()}
    await due.wait(session, again, LATER_SECONDS)
    await due.remove(session, {row.id for row in rows} - again)
    faults.point("clock.ended")
    return True


async def put_off(session: AsyncSession) -> None:
    """Let others go first: the end that is due first could not be told. What ended denies all the same."""
    await due.put_off(session, LATER_SECONDS)


def _end(said: Timed, row: Any, client: Client, desk: Desk) -> None:
    as_if = _instead(client.facts, said, _endless(said))
    # An own version, so that the retraction reaches what was decided just before.
    desk.say(client, Expired(0, said.asserted_by, said.version), row.event_id, row.own_id)
    withdrawal = None
    if isinstance(said, Restricted):
        again = _more(client.facts, desk.register.policy, as_if, said, client, desk).keys()
    else:
        lost = _more(as_if, desk.register.lenient, client.facts, said, client, desk)
        owed = _owed(lost, client, desk.register)
        if owed:
            withdrawal = desk.retract(client, owed, Cause(said.asserted_by, row.event_id, None), because="expired")
        again = lost.keys()  # what rests on something else comes again
    desk.offer_snapshots(client, desk.now, None, to={recipient for recipient, _ in again})
    desk.changes.queue.append(_expired(row, _end_of(said), client, desk, withdrawal))


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


def _more(one: ClientFacts, policy: Policy, other: ClientFacts, said: Timed, client: Client, desk: Desk) -> Differing:
    """What `one` permits now by this policy, and `other` by the register's does not, of what `said` reaches."""
    if isinstance(said, Restricted):
        purposes = said.scope.purposes or frozenset(Purpose)
        categories = said.scope.categories or frozenset(Category)
    else:
        purposes, categories = said.purposes, said.categories
    # Agencies that know the client count too: one may have said something that was passed on, as a provider's answer.
    sources = sorted({source for source, _ in client.sections} | client.references.keys())
    spent = dict.fromkeys(sources) | spent_convictions(
        client.sections.values()
    )  # one not told now may have left before
    found: dict[tuple[str, Purpose], frozenset[Category]] = {}
    for recipient in _reached(said, desk.register):
        items = tuple(Item(s, c) for s in sources if s != recipient.id for c in sorted(categories))
        for purpose in (p for p in sorted(purposes) if acts_for(recipient, p)):
            differing: set[Category] = set()
            for service in _services(said, recipient):
                question = Question(recipient, purpose, items, desk.now, service, spent=spent)
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
                named = (
                    agency.kind is AgencyKind.SERVICE
                    or agency.id in said.agencies
                    or (agency.area is not None and (agency.kind, agency.area) in said.kinds)
                    or any(agency.id == provider for provider, _ in said.services)
                )
            case Restricted():
                named = said.scope.recipients is None or agency.id in said.scope.recipients
            case _:
                named = agency.id in said.recipients
        if named:
            yield agency


def _services(said: Timed, recipient: Agency) -> list[str | None]:
    """For which named services of the recipient to ask, besides for the agency as a whole (None)."""
    named = said.services if isinstance(said, Granted) else ()
    return [None, *sorted(service for provider, service in named if provider == recipient.id)]


def _owed(lost: Differing, client: Client, registered: Register) -> list[Owed]:
    """The retractions of what is no longer permitted, for everyone who was ever sent or queued anything of the client.

    One of our services that may go on itself stops telling those who may not be told any more.
    """
    owed: list[Owed] = []
    for reference in [*client.references.values(), *client.former]:
        if not reference.queued:
            continue
        recipient = registered.agencies[reference.recipient]
        by_categories: dict[frozenset[Category], list[Purpose]] = {}
        for (id, purpose), categories in lost.items():
            if id == recipient.id:
                by_categories.setdefault(categories, []).append(purpose)
        owed += [Owed(reference, sorted(purposes), categories) for categories, purposes in by_categories.items()]
        if recipient.kind is AgencyKind.SERVICE:
            purpose = SERVICE_PURPOSES[recipient.id]
            own = lost.get((recipient.id, purpose), frozenset())
            others = {id: c for (id, p), c in lost.items() if p is purpose and id != recipient.id and not c <= own}
            if others:
                categories = frozenset[Category]().union(*others.values())
                owed.append(Owed(reference, [purpose], categories, frozenset(others)))
    return owed


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
    return QueueRow(
        NOTICE,
        client.id,
        row.asserted_by,
        f"replies.{row.asserted_by}",
        reference.id,
        type,
        None,
        encode(type, SOURCE, data, time=desk.now).decode(),
        desk.now,
    )


# --- reminders --------------------------------------------------------------------------------------------------------


async def remind(session: AsyncSession, patience: Patience, limit: int) -> bool:
    """Queue retractions again that nobody acknowledged in time: the same event, with its id. False: none is due."""
    found = await due.to_remind(session, patience, limit)
    if not found:
        return False
    await clients.lock(session, {row.client_id for row in found})  # whoever queues for a client does
    rows = await due.to_remind(session, patience, limit, [row.id for row in found])
    now = await clients.time_now(session)
    await queue.add(
        session,
        [
            retraction_row(
                row.client_id,
                row.recipient,
                row.topic,
                row.reference,
                row.id,
                row.body,
                now,
                row.traceparent,
                row.keyed_by,
            )
            for row in rows
        ],
    )
    await due.reminded(session, [row.id for row in rows])
    faults.point("clock.reminded")
    wake_after_commit(session, queue.CHANNEL)
    return True


# --- what waits for a person ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Review:
    """An override that somebody must look at."""

    override: str
    agency: str
    authorised_at: datetime
    review_by: datetime | None
    """None: it cannot be read."""


async def overdue_reviews(session: AsyncSession) -> list[Review]:
    """Overrides whose time for a review has passed and that nobody has reviewed since, oldest first."""
    rows = await due.unreviewed(session)
    return [Review(row.own_id, row.asserted_by, row.recorded_at, row.review_by) for row in rows]


@dataclass(frozen=True, slots=True)
class Waiting:
    """How much waits for a person."""

    retractions: int
    reviews: int
    holds: int
    set_aside: int


async def waiting(session: AsyncSession, overdue_hours: float) -> Waiting:
    """Count it; a retraction does after so many hours without an acknowledgement."""
    retractions = await due.overdue_count(session, overdue_hours)
    return Waiting(retractions, len(await overdue_reviews(session)), *await aside.counts(session))
