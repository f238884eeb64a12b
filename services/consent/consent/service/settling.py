"""Whom the events of a batch are about: their clients are found, locked, found again, and made where they are new.

What the publisher may not know of is unknown to it: its event is answered as if there were no such client.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import combinations

from sqlalchemy.ext.asyncio import AsyncSession

from consent.events import STOPPING_TYPES
from consent.repository import aside, clients, erasure, links
from consent.repository.clients import Client, IdentifierKey
from consent.repository.links import Found
from consent.service import erasing, reading, register
from consent.service.cases import CONFLICT, UNKNOWN_CLIENT, Case, Damaged, may_not
from consent.service.desk import BY_THE_DOOR, Cause, Desk
from contracts.intake import (
    ClientRecorded,
    ConsentRefused,
    ConsentWithdrawn,
    ErasureRequested,
    RestrictionImposed,
    RetractionConfirmed,
)
from servicekit.db import TryAgain
from servicekit.problems import Problem

NEEDS_NOTHING = ConsentWithdrawn | ConsentRefused | RestrictionImposed
"""What stops by its own words, whatever else is known of the client: it also stops if something cannot be read.

The end of a gateway or of an override needs more: whom it reaches was said when that began.
"""


async def open_desk(session: AsyncSession, cases: Sequence[Case]) -> Desk:
    """Find or make the clients of the batch, lock them, and read what the batch needs of them.

    Raises:
        Damaged: what an event rests on cannot be read.
        TryAgain: a number changed hands, or a link was made or undone, meanwhile.
    """
    named = {id(case): _named(case) for case in cases}
    keys = set().union(*named.values())
    known = await clients.find(session, keys)
    if not all(map(clients.is_reference, keys - known.keys())):
        # A withdrawal for a number that nobody has yet and the event that brings the number must see each other.
        await clients.lock_numbers(session, exclusive=any(case.changes_sharing for case in cases))
    whom = {client for found in known.values() for client in {found.client} | found.instead}
    rows = whom | {found.own for found in known.values()}  # what refers to a row locks it as well: in the same order
    if any(isinstance(case.event, ErasureRequested) for case in cases):
        await clients.lock_whole(session, rows)
    else:
        await clients.lock(session, rows)
    if keys and await clients.find(session, keys) != known:
        raise TryAgain  # a number changed hands, or a link was made or undone, while we waited for a lock
    registered = await register.load(session)
    now = await clients.time_now(session)
    suspected = {
        client
        for case in cases
        if case.changes_sharing
        for key in named[id(case)]
        if key in known
        for client in known[key].may_mean
    }
    desk = Desk(await clients.load(session, whom, suspected), registered, now)
    await _look_up_who_was_told(session, cases, known, desk)
    await _settle_clients(session, cases, known, desk)
    if stopping := [case for case in cases if case.denies_unapplied]:
        nobodys = {key for case in stopping for key in case.keys if key not in desk.known}
        desk.held_numbers = await clients.held_numbers(session, nobodys)
        desk.open_holds = await aside.open_holds(session, {case.arrival.agency for case in stopping})
    return desk


def _named(case: Case) -> set[IdentifierKey]:
    """The numbers to look up for an event: for one that stops sharing, all that stand anywhere in it."""
    if case.event is not None and case.event.type in STOPPING_TYPES:
        return set(reading.meant_by(case.arrival.value, case.arrival.agency, case.keys)[0])
    return set(case.keys)


def knows(
    agency: str, key: IdentifierKey, found: Mapping[IdentifierKey, Found], known_to: Mapping[int, set[str]]
) -> bool:
    """Whether an agency may know that a client has this identifier: by its own number or reference, or because it
    recorded something of the client or was sent a record.

    Of whom it does not know, every answer is the same as if there were no such client.
    """
    if key not in found:
        return False
    return bool(key[1]) or any(agency in known_to.get(client, ()) for client in found[key].may_mean)


async def _look_up_who_was_told(
    session: AsyncSession, cases: Sequence[Case], known: Mapping[IdentifierKey, Found], desk: Desk
) -> None:
    """Look up who was sent a record, where a publisher recorded nothing itself; nothing to read for most batches."""
    asked = {
        (client, case.arrival.agency)
        for case in cases
        if not isinstance(case.event, ClientRecorded)
        for key in _named(case)
        if key in known and not key[1]
        for client in known[key].may_mean
        if case.arrival.agency not in desk.clients[client].known_to
    }
    if asked:
        whom = {client for client, _ in asked}
        await clients.know_who_was_told(session, [desk.clients[id] for id in whom], {agency for _, agency in asked})


async def _settle_clients(
    session: AsyncSession, cases: Sequence[Case], known: dict[IdentifierKey, Found], desk: Desk
) -> None:
    """Say for each event which client it is about; make clients and give them identifiers for recorded facts."""
    settling = _Settling(known, desk, await _numbers(session, cases, known, desk))
    for case in cases:
        if case.problem is not None:
            continue
        if problem := settling.objection(case):
            case.reject(problem)
        else:
            settling.assign(case)
    await settling.make_newcomers(session, cases)
    desk.known = {key: found.may_mean for key, found in known.items()}
    await _apply_what_was_said_before(session, [key for key, _, _ in desk.changes.identifiers], known, desk)


class _Settling:
    """The clients of a batch's events, one event after the other: each knows the numbers that those before it brought.

    A client that the batch makes is numbered downwards from -1, in `known` too, until all new rows are made at once.
    """

    def __init__(self, known: dict[IdentifierKey, Found], desk: Desk, numbers: dict[int, dict[str, int]]) -> None:
        self._known, self._desk, self._numbers = known, desk, numbers
        self._known_to = {id: client.known_to for id, client in desk.clients.items()}
        self._newcomers: list[int] = []
        self._linked: list[tuple[IdentifierKey, int, str]] = []

    def objection(self, case: Case) -> Problem | None:
        """Why an event cannot be about the client whom it names, if so. Several clients whom one names may be one
        person: somebody is to decide.

        Raises:
            Damaged: what it rests on cannot be read.
        """
        if problem := may_not(case, self._desk.register.agencies):
            return problem
        event, found = case.event, self._found(case)
        if not isinstance(event, ClientRecorded) and not _knows_all(case, self._known, self._known_to):
            return UNKNOWN_CLIENT
        undone = any(self._known[key].instead for key in case.keys if key in self._known)
        if len(found) > 1 or (undone and not isinstance(event, RetractionConfirmed)):
            if not undone:
                _propose(case, self._known, self._desk)
            return CONFLICT
        if problem := self._forbidden(case, found):
            return problem
        if isinstance(event, ClientRecorded):
            return self._cannot_grow(case, found)
        return None if found else UNKNOWN_CLIENT

    def _forbidden(self, case: Case, found: Collection[int]) -> Problem | None:
        """What is known of the client that forbids it; of one whom this batch makes, nothing is."""
        if isinstance(case.event, RetractionConfirmed):
            return None
        met = [self._desk.clients[id] for id in found if id in self._desk.clients]
        if any(client.erased for client in met):
            return UNKNOWN_CLIENT
        if any(client.damaged for client in met) and not isinstance(case.event, NEEDS_NOTHING):
            raise Damaged
        if isinstance(case.event, ErasureRequested):
            agency, now = case.arrival.agency, self._desk.now
            if any(erasing.is_protected(case.event, agency, client, now) for client in met):
                return erasing.STILL_RESTRICTED
        return None

    def _cannot_grow(self, case: Case, found: Collection[int]) -> Problem | None:
        """Why no client may get the numbers that are new in what is recorded, if so."""
        unknown = self._unknown(case)
        if any(map(clients.is_reference, unknown)):
            return UNKNOWN_CLIENT
        had = [self._numbers.get(client, {}) for client in found]
        return CONFLICT if _contradicts(had[0] if had else {}, unknown) else None

    def assign(self, case: Case) -> None:
        """Say whom an event is about to which there is no `objection`; what is recorded may be of a new client."""
        found, unknown, agency = self._found(case), self._unknown(case), case.arrival.agency
        rows = frozenset(self._known[key].own for key in case.keys if key in self._known)
        if not found:
            found = {-1 - len(self._newcomers)}
            self._newcomers += found
        (client,) = found
        case.client, case.rows = client, rows or frozenset(found)
        if not isinstance(case.event, ClientRecorded):
            return
        self._known_to.setdefault(client, set()).add(agency)
        # A number stays with the part through which it came, and so with one client when the link is undone.
        row = next(iter(rows)) if len(rows) == 1 else client
        had = self._numbers.setdefault(client, {})
        for key in unknown:
            self._known[key] = Found(client, row)
            self._linked.append((key, row, agency))
            had[key[0]] = had.get(key[0], 0) + 1

    async def make_newcomers(self, session: AsyncSession, cases: Sequence[Case]) -> None:
        """Make the rows of the new clients, and put their numbers wherever those stood that were counted downwards."""
        made = dict(zip(self._newcomers, await clients.make(session, len(self._newcomers)), strict=True))
        for nth, number in made.items():
            self._desk.clients[number] = Client(number, 0, members=(number,), known_to=self._known_to[nth])
        for case in cases:
            if case.client is not None:
                case.client = made.get(case.client, case.client)
                case.rows = frozenset(made.get(row, row) for row in case.rows)
        for key, found in self._known.items():
            whom = made.get(found.client, found.client)
            self._known[key] = found._replace(client=whom, own=made.get(found.own, found.own))
        self._desk.changes.identifiers = [(key, made.get(row, row), agency) for key, row, agency in self._linked]

    def _found(self, case: Case) -> set[int]:
        return {self._known[key].client for key in case.keys if key in self._known}

    def _unknown(self, case: Case) -> list[IdentifierKey]:
        return [key for key in case.keys if key not in self._known]


async def _apply_what_was_said_before(
    session: AsyncSession, new: Sequence[IdentifierKey], known: Mapping[IdentifierKey, Found], desk: Desk
) -> None:
    """Hold, or begin with a no, the client of a number that is new: a stop, or an erasure, may have named it before."""
    for key, agency in await clients.take_held_numbers(session, new):
        desk.hold(desk.clients[known[key].client], "named-by-an-earlier-withdrawal", Cause(agency, None, None))
    erased: dict[int, datetime] = {}
    for key, at in (await erasure.erased_before(session, new)).items():
        erased[known[key].client] = max(at, erased.get(known[key].client, at))
    for number, at in sorted(erased.items()):  # erasing everything was a no as well: only consent given since counts
        desk.say_no(desk.clients[number], at, BY_THE_DOOR, because="erased")


def _knows_all(case: Case, known: Mapping[IdentifierKey, Found], known_to: Mapping[int, set[str]]) -> bool:
    """Whether a publisher knows whom it names; only a number of its own may be new."""
    agency = case.arrival.agency
    mine = [key for key in case.keys if knows(agency, key, known, known_to)]
    return bool(mine) and all(key in mine or key[1] for key in case.keys)


async def _numbers(
    session: AsyncSession, cases: Sequence[Case], known: Mapping[IdentifierKey, Found], desk: Desk
) -> dict[int, dict[str, int]]:
    """How many numbers of each kind those clients have who are about to get another; nothing to read for most."""
    telling = [c for c in cases if isinstance(c.event, ClientRecorded) and any(key not in known for key in c.keys)]
    if not any(key not in known and key[0] in links.UNIQUE for case in telling for key in case.keys):
        return {}
    growing = {known[key].client for case in telling for key in case.keys if key in known}
    whose = {row: client for client in growing for row in desk.clients[client].members}
    for row, meant in (await links.meaning_of_undone(session, whose)).items():
        if len(meant) == 1:  # of a link whose parts are linked again
            (whose[row],) = meant
    counted: dict[int, dict[str, int]] = {client: {} for client in growing}
    for row, numbers in (await links.numbers(session, whose)).items():
        counts = counted[whose[row]]
        for type, _ in numbers:
            counts[type] = counts.get(type, 0) + 1
    return counted


def _contradicts(had: Mapping[str, int], unknown: Sequence[IdentifierKey]) -> bool:
    """Whether a client would get a second number of a kind of which one person has one."""
    types = [type for type, _, _ in unknown if type in links.UNIQUE]
    return len(types) > len(set(types)) or any(had.get(type) for type in types)


def _propose(case: Case, known: Mapping[IdentifierKey, Found], desk: Desk) -> None:
    """The clients that one event named may be one person: somebody is to decide."""
    named = {known[key].client: known[key].own for key in case.keys if key in known}
    desk.changes.candidates += [(a, b, case.arrival.agency) for a, b in combinations(named.values(), 2)]
