"""Whom the events of a batch are about: their clients are found, locked, found again, and made where they are new.

What the publisher may not know of is unknown to it: its event is answered as if there were no such client.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import combinations

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import may_assert
from consent.repository import clients, erasure, holds, links
from consent.repository.clients import Client, Identifier
from consent.repository.links import Found
from consent.service import desks, erasing, naming
from consent.service.desk import BY_THE_DOOR, Cause, Desk
from consent.service.incoming import CONFLICT, UNKNOWN_CLIENT, Damaged, Incoming, may_not
from contracts.intake import (
    STOPPING_TYPES,
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


async def open_desk(session: AsyncSession, batch: Sequence[Incoming]) -> Desk:
    """Find or make the clients of the batch, lock them, and read what the batch needs of them.

    Raises:
        Damaged: what an event rests on cannot be read.
        TryAgain: a number changed hands, or a link was made or undone, meanwhile.
    """
    named = {incoming: _named(incoming) for incoming in batch}
    keys = set().union(*named.values())
    known = await clients.find(session, keys)
    if not all(key.is_reference for key in keys - known.keys()):
        # A withdrawal for a number that nobody has yet and the event that brings the number must see each other.
        await clients.lock_numbers(session, exclusive=any(incoming.changes_sharing for incoming in batch))
    whom = {client for found in known.values() for client in {found.client} | found.instead}
    rows = whom | {found.own for found in known.values()}  # what refers to a row locks it as well: in the same order
    if any(isinstance(incoming.event, ErasureRequested) for incoming in batch):
        await clients.lock_whole(session, rows)
    else:
        await clients.lock(session, rows)
    if keys and await clients.find(session, keys) != known:
        raise TryAgain  # a number changed hands, or a link was made or undone, while we waited for a lock
    suspected = {
        client
        for incoming in batch
        if incoming.changes_sharing
        for key in named[incoming]
        if key in known
        for client in known[key].may_mean
    }
    desk = await desks.open(session, whom, suspected)
    await _look_up_who_was_told(session, named, known, desk)
    await _find_clients(session, batch, known, desk)
    if stopping := [incoming for incoming in batch if incoming.denies_unapplied]:
        nobodys = {key for incoming in stopping for key in incoming.keys if key not in desk.known}
        desk.held_numbers = await holds.of_numbers(session, nobodys)
        desk.open_holds = await holds.count_open(session, {incoming.arrival.agency for incoming in stopping})
    return desk


def _named(incoming: Incoming) -> set[Identifier]:
    """The numbers to look up for an event: for one that stops sharing, all that stand anywhere in it."""
    if incoming.event is not None and incoming.event.type in STOPPING_TYPES:
        return set(naming.meant_by(incoming.arrival.value, incoming.arrival.agency, incoming.keys)[0])
    return set(incoming.keys)


def knows(agency: str, key: Identifier, found: Mapping[Identifier, Found], known_to: Mapping[int, set[str]]) -> bool:
    """Whether an agency may know that a client has this identifier: by its own number or reference, or because it
    recorded something of the client or was sent a record.

    Of whom it does not know, every answer is the same as if there were no such client.
    """
    if key not in found:
        return False
    return key.is_own or any(agency in known_to.get(client, ()) for client in found[key].may_mean)


async def _look_up_who_was_told(
    session: AsyncSession,
    named: Mapping[Incoming, set[Identifier]],
    known: Mapping[Identifier, Found],
    desk: Desk,
) -> None:
    """Look up who was sent a record, where a publisher recorded nothing itself; nothing to read for most batches."""
    asked = {
        (client, incoming.arrival.agency)
        for incoming, keys in named.items()
        if not isinstance(incoming.event, ClientRecorded)
        for key in keys
        if key in known and not key.is_own
        for client in known[key].may_mean
        if incoming.arrival.agency not in desk.clients[client].known_to
    }
    if asked:
        whom = {client for client, _ in asked}
        await clients.know_who_was_told(session, [desk.clients[id] for id in whom], {agency for _, agency in asked})


async def _find_clients(
    session: AsyncSession, batch: Sequence[Incoming], known: dict[Identifier, Found], desk: Desk
) -> None:
    """Say for each event which client it is about; make clients and give them identifiers for recorded facts."""
    finding = _Finding(known, desk, await _numbers(session, batch, known, desk))
    for incoming in batch:
        if incoming.problem is not None:
            continue
        if problem := finding.objection(incoming):
            incoming.reject(problem)
        else:
            finding.assign(incoming)
    await finding.make_newcomers(session, batch)
    desk.known = {key: found.may_mean for key, found in known.items()}
    await _apply_what_was_said_before(session, [key for key, _, _ in desk.changes.identifiers], known, desk)


class _Finding:
    """The clients of a batch's events, one event after the other: each knows the numbers that those before it brought.

    A client that the batch makes is numbered downwards from -1, in `known` too, until all new rows are made at once.
    """

    def __init__(self, known: dict[Identifier, Found], desk: Desk, numbers: dict[int, dict[str, int]]) -> None:
        self._known, self._desk, self._numbers = known, desk, numbers
        self._known_to = {id: client.known_to for id, client in desk.clients.items()}
        self._newcomers: list[int] = []
        self._linked: list[tuple[Identifier, int, str]] = []

    def objection(self, incoming: Incoming) -> Problem | None:
        """Why an event cannot be about the client whom it names, if so. Several clients whom one names may be one
        person: somebody is to decide.

        Raises:
            Damaged: what it rests on cannot be read.
        """
        if problem := may_not(incoming, self._desk.register.agencies):
            return problem
        event, found = incoming.event, self._found(incoming)
        if not isinstance(event, ClientRecorded) and not _knows_all(incoming, self._known, self._known_to):
            return UNKNOWN_CLIENT
        met = [self._desk.clients[id] for id in found if id in self._desk.clients]
        if any(client.erased for client in met) and not isinstance(event, RetractionConfirmed):
            return UNKNOWN_CLIENT
        undone = any(self._known[key].instead for key in incoming.keys if key in self._known)
        if len(found) > 1 or (undone and not isinstance(event, RetractionConfirmed)):
            if not undone:
                _propose(incoming, self._known, self._desk)
            return CONFLICT
        if problem := self._forbidden(incoming, met):
            return problem
        if isinstance(event, ClientRecorded):
            return self._cannot_grow(incoming, found)
        return None if found else UNKNOWN_CLIENT

    def _forbidden(self, incoming: Incoming, met: Collection[Client]) -> Problem | None:
        """What is known of the client that forbids it; of one whom this batch makes, nothing is."""
        if isinstance(incoming.event, RetractionConfirmed):
            return None
        if any(client.damaged for client in met) and not isinstance(incoming.event, NEEDS_NOTHING):
            raise Damaged
        if isinstance(incoming.event, ErasureRequested):
            agency, now = incoming.arrival.agency, self._desk.now
            if any(erasing.is_protected(incoming.event, agency, client, now) for client in met):
                return erasing.STILL_RESTRICTED
        return None

    def _cannot_grow(self, incoming: Incoming, found: Collection[int]) -> Problem | None:
        """Why no client may get the numbers that are new in what is recorded, if so."""
        unknown = self._unknown(incoming)
        if any(key.is_reference for key in unknown):
            return UNKNOWN_CLIENT
        had = [self._numbers.get(client, {}) for client in found]
        return CONFLICT if _contradicts(had[0] if had else {}, unknown) else None

    def assign(self, incoming: Incoming) -> None:
        """Say whom an event is about to which there is no `objection`; what is recorded may be of a new client."""
        found, unknown, agency = self._found(incoming), self._unknown(incoming), incoming.arrival.agency
        rows = frozenset(self._known[key].own for key in incoming.keys if key in self._known)
        if not found:
            found = {-1 - len(self._newcomers)}
            self._newcomers += found
        (client,) = found
        incoming.client, incoming.rows = client, rows or frozenset(found)
        if not isinstance(incoming.event, ClientRecorded):
            return
        self._known_to.setdefault(client, set()).add(agency)
        # A number stays with the part through which it came, and so with one client when the link is undone.
        row = next(iter(rows)) if len(rows) == 1 else client
        had = self._numbers.setdefault(client, {})
        attached = unknown if self._may_link(agency) else _at_most_one(unknown, had)
        incoming.not_attached = [key.type for key in unknown if key not in attached]
        for key in attached:
            self._known[key] = Found(client, row)
            self._linked.append((key, row, agency))
            had[key.type] = had.get(key.type, 0) + 1

    async def make_newcomers(self, session: AsyncSession, batch: Sequence[Incoming]) -> None:
        """Make the rows of the new clients, and put their numbers wherever those stood that were counted downwards."""
        made = dict(zip(self._newcomers, await clients.make(session, len(self._newcomers)), strict=True))
        for nth, number in made.items():
            self._desk.clients[number] = Client(number, 0, members=(number,), known_to=self._known_to[nth])
        for incoming in batch:
            if incoming.client is not None:
                incoming.client = made.get(incoming.client, incoming.client)
                incoming.rows = frozenset(made.get(row, row) for row in incoming.rows)
        for key, found in self._known.items():
            whom = made.get(found.client, found.client)
            self._known[key] = found._replace(client=whom, own=made.get(found.own, found.own))
        self._desk.changes.identifiers = [(key, made.get(row, row), agency) for key, row, agency in self._linked]

    def _may_link(self, agency: str) -> bool:
        return may_assert("throughgate.identity.linked.v1", self._desk.register.agencies[agency].kind)

    def _found(self, incoming: Incoming) -> set[int]:
        return {self._known[key].client for key in incoming.keys if key in self._known}

    def _unknown(self, incoming: Incoming) -> list[Identifier]:
        return [key for key in incoming.keys if key not in self._known]


async def _apply_what_was_said_before(
    session: AsyncSession, new: Sequence[Identifier], known: Mapping[Identifier, Found], desk: Desk
) -> None:
    """Hold, or begin with a no, the client of a number that is new: a stop, or an erasure, may have named it before."""
    for key, agency in await holds.take_off_numbers(session, new):
        desk.hold(desk.clients[known[key].client], "named-by-an-earlier-withdrawal", Cause(agency, None, None))
    erased: dict[int, datetime] = {}
    for key, at in (await erasure.erased_before(session, new)).items():
        erased[known[key].client] = max(at, erased.get(known[key].client, at))
    for number, at in sorted(erased.items()):  # erasing everything was a no as well: only consent given since counts
        desk.say_no(desk.clients[number], at, BY_THE_DOOR, because="erased")


def _knows_all(incoming: Incoming, known: Mapping[Identifier, Found], known_to: Mapping[int, set[str]]) -> bool:
    """Whether a publisher knows whom it names; only a number of its own may be new."""
    agency = incoming.arrival.agency
    mine = [key for key in incoming.keys if knows(agency, key, known, known_to)]
    return bool(mine) and all(key in mine or key.is_own for key in incoming.keys)


async def _numbers(
    session: AsyncSession, batch: Sequence[Incoming], known: Mapping[Identifier, Found], desk: Desk
) -> dict[int, dict[str, int]]:
    """How many numbers of each kind those clients have who are about to get another; nothing to read for most."""
    telling = [c for c in batch if isinstance(c.event, ClientRecorded) and any(key not in known for key in c.keys)]
    if not any(key not in known and key.type in links.UNIQUE for incoming in telling for key in incoming.keys):
        return {}
    growing = {known[key].client for incoming in telling for key in incoming.keys if key in known}
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


def _contradicts(had: Mapping[str, int], unknown: Sequence[Identifier]) -> bool:
    """Whether a client would get a second number of a kind of which one person has one."""
    types = [key.type for key in unknown if key.type in links.UNIQUE]
    return len(types) > len(set(types)) or any(had.get(type) for type in types)


def _at_most_one(unknown: Sequence[Identifier], had: Mapping[str, int]) -> list[Identifier]:
    """Which new numbers an agency may give to a client that may not say who is one person: its own, and of those by
    which others find the client too the first that it lists, if the client has none. With two, it would have made one
    client of whoever records the one and whoever records the other, and no link would stand that can be undone.
    """
    shared = [key for key in unknown if not key.is_own]
    kept = [] if had else shared[:1]
    return [key for key in unknown if key.is_own or key in kept]


def _propose(incoming: Incoming, known: Mapping[Identifier, Found], desk: Desk) -> None:
    """The clients that one event named may be one person: somebody is to decide."""
    named = {known[key].client: known[key].own for key in incoming.keys if key in known}
    desk.changes.candidates += combinations(named.values(), 2)
