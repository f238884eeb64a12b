"""After a restore: what stands in the topics and the database does not know. Retractions stop again; the chain goes on.

What stands in a topic was in the database first, committed. So where a head or a retraction stands there that the
database does not know, the database was put back behind it, and nothing may leave before that is read back.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Scope, Withdrawn
from consent.repository import audit, clients, ledger, restoring, retractions
from consent.repository.clients import Client
from consent.repository.restoring import Restore
from consent.repository.retractions import RetractionRow, StopRow
from consent.repository.sql import Executor, at_once
from consent.service import desks, register
from consent.service.desk import BY_THE_DOOR, RESTORED, Desk
from consent.service.notices import ACCEPTED, DONE
from contracts import topic_names
from contracts.heads import Head, check_chain
from contracts.leaving import HEADS, RETRACTED, ClientWithdrawn
from contracts.merkle import ProofError
from contracts.vocabulary import Category, Purpose
from servicekit.problems import Problem

CLOSED = Problem(
    "closed-after-a-restore",
    "The door is closed",
    "Its database was restored or started again and has not been compared with the topics yet. Ask again in a few"
    " seconds; if it stays closed, its operator has to read back what the database has lost.",
    503,
)

MARGIN = timedelta(seconds=10)
"""By how much the clocks of the database and of the discloser may differ: so much more of the topics is read."""
KEPT = timedelta(hours=6)
"""For how long each topic that is read back keeps its records at least (`schemas/topics`)."""
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class CannotRestore(Exception):
    """What was read back does not fit; a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Retracted:
    """A retraction as it stands in a topic."""

    id: UUID
    version: int
    by_consent: bool
    """Whether it says that a consent was withdrawn; else something that it does not name ended."""
    purposes: frozenset[Purpose]
    categories: frozenset[Category] | None
    at: datetime
    body: str
    place: tuple[str, int, int]
    """Topic without namespace, partition, offset."""


@dataclass(slots=True)
class UnderReference:
    """What stands in a recipient's topic under one reference."""

    recipient: str
    reference: UUID
    version: int = 0
    """The newest version that anything there names. None of them may be given to something else."""
    retractions: list[Retracted] = field(default_factory=list)


@dataclass(slots=True)
class Published:
    """What stands in the topics."""

    heads: dict[tuple[int, int], Head] = field(default_factory=dict)
    references: dict[UUID, UnderReference] = field(default_factory=dict)
    accepted: set[tuple[str, str]] = field(default_factory=set)
    """Publisher and id of the events that were accepted."""
    done: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    """By withdrawal, publisher and id of the event behind it, where a publisher was told that it is done."""

    def add(self, records: Iterable[Any], namespace: str) -> None:
        """Read more records, of the topics that `is_ours` names.

        Raises:
            CannotRestore: one is none that the door wrote.
        """
        for record in records:
            kind, recipient = topic_names.parts(record.topic, namespace)
            try:
                if kind == topic_names.HEADS:
                    head = HEADS.validate_json(record.value).data
                    self.heads[head.shard, head.sequence] = head
                elif kind == "replies":
                    self._add_reply(recipient, record.value)
                else:
                    place = record.topic.removeprefix(namespace), record.partition, record.offset
                    self._add(recipient, place, record.value)
            except (ValueError, LookupError, TypeError):
                where = f"{record.topic}, partition {record.partition}, offset {record.offset}"
                raise CannotRestore(f"What stands in {where} is nothing that the door wrote.") from None

    def _add_reply(self, agency: str, value: bytes) -> None:
        reply = orjson.loads(value)
        type, event = reply["type"], (agency, reply["data"]["event"] or "")
        if type == ACCEPTED:  # it promises something, as `DONE` does
            self.accepted.add(event)
        elif type == DONE:
            self.done[UUID(reply["data"]["withdrawal"])] = event

    def _add(self, recipient: str, place: tuple[str, int, int], value: bytes) -> None:
        event = orjson.loads(value)
        reference = UUID(event["subject"])
        under = self.references.setdefault(reference, UnderReference(recipient, reference))
        if event["type"] != RETRACTED:
            under.version = max(under.version, event["data"].get("receipt", {}).get("decidedOn", 0))
            return
        read = ClientWithdrawn.model_validate(event)
        data = read.data
        under.version = max(under.version, data.version)
        under.retractions.append(
            Retracted(
                data.retraction,
                data.version,
                data.consent_version is not None,
                frozenset(data.purposes),
                None if data.categories is None else frozenset(data.categories),
                read.time,
                value.decode(),
                place,
            )
        )


def is_ours(namespace: str) -> Callable[[str], bool]:
    """Gives a function that says whether the door publishes to a topic what must not be forgotten."""
    kinds = tuple(namespace + name("") for name in (topic_names.partner, topic_names.cleared, topic_names.replies))
    return lambda topic: topic == namespace + topic_names.HEADS or topic.startswith(kinds)


async def known_until(db: Executor) -> datetime:
    """When the newest head that the database knows was sealed: what is missing left after it."""
    heads = await restoring.newest_heads(db)
    return max((datetime.fromisoformat(head.at) for head in heads), default=BEGINNING)


async def is_behind(db: Executor, records: Sequence[Any], namespace: str) -> bool:
    """Whether one of these records is a head, a retraction or a promise to a publisher that the database does not know.

    Not every promise that is lost comes back: an event that was published over HTTP stands in no topic. So promises of
    before the last restore was read do not count any more. From then until the door opened none was made.
    """
    read_at, published = await restoring.last_read(db), Published()
    published.add((r for r in records if _may_be_missing(r, namespace, read_at)), namespace)
    if await restoring.missing_heads(db, published.heads.values()):
        return True
    ids = {retraction.id for under in published.references.values() for retraction in under.retractions}
    return bool(await restoring.missing_retractions(db, ids) or await missing_promises(db, published))


def _may_be_missing(record: Any, namespace: str, read_at: datetime | None) -> bool:
    kind, _ = topic_names.parts(record.topic, namespace)
    if kind == "replies":
        return read_at is None or record.timestamp > read_at.timestamp() * 1000
    return kind == topic_names.HEADS or RETRACTED.encode() in record.value


async def missing_promises(db: Executor, published: Published) -> set[tuple[str, str]]:
    """Publisher and id of the events that were accepted or done, and of which this database knows nothing.

    An event that could not be applied and stopped all the same is in no inbox; its withdrawal is known.
    """
    lost = await restoring.missing_withdrawals(db, published.done.keys())
    return await restoring.missing_events(db, published.accepted | {published.done[id] for id in lost})


@dataclass(frozen=True, slots=True)
class TakenBack:
    """What became of the references of one part."""

    retractions: int = 0
    """That the database did not know."""
    holds: int = 0

    def __add__(self, other: "TakenBack") -> "TakenBack":
        return TakenBack(self.retractions + other.retractions, self.holds + other.holds)


async def take_back(db: AsyncSession, restore: Restore, some: Sequence[UnderReference]) -> TakenBack:
    """Let every retraction that the database does not know stop again, under the clients' locks.

    A withdrawal of consent is one again, for all recipients: whom else it reached cannot be seen, where nobody had been
    told anything. Of any other retraction nobody can tell what it rested on: it holds its client. A reference that the
    database does not know gets a client of its own, of whom nothing is known; it is held, and its recipient is told to
    erase what it has, for nobody could tell it any more when the person behind it withdraws.

    May be done again: what is known by then is left alone.

    Raises:
        CannotRestore: a recipient is not registered.
        TryAgain: a link was made or undone meanwhile.
    """
    registered = await register.load(db)
    if strangers := sorted({under.recipient for under in some} - registered.agencies.keys()):
        raise CannotRestore(
            f"Not registered any more: {', '.join(strangers)}. Register them again (PUT /agencies/ID), then run this"
            " again."
        )
    owners = await clients.of_references(db, [under.reference for under in some], None)
    nameless = [under for under in some if under.reference not in owners]
    made = await clients.make(db, len(nameless))
    given = [(under.reference, client, under.recipient) for under, client in zip(nameless, made, strict=True)]
    await restoring.add_references(db, given)
    owners |= {reference: client for reference, client, _ in given}
    whom = await clients.lock_whole(db, set(owners.values()))
    missing = await restoring.missing_retractions(db, {r.id for under in some for r in under.retractions})
    meant = {client for found in whom.values() for client in found.may_mean}
    desk = await desks.open(db, meant)
    by_client: dict[int, list[UnderReference]] = {}
    for under in some:
        for client in whom[owners[under.reference]].may_mean:
            by_client.setdefault(client, []).append(under)
    for id, those in sorted(by_client.items()):
        stops = [r for under in those for r in under.retractions if r.id in missing]
        _stop(desk, desk.clients[id], those, stops, is_nameless=id in made)
    places = {}
    for under in some:
        for one in (r for r in under.retractions if r.id in missing and r.id not in places):
            places[one.id] = one.place
            _enter(desk, min(whom[owners[under.reference]].may_mean), under, one)
    await desks.close(db, desk)
    await at_once(db, [retractions.placing(places)])
    await retractions.done_by(db, places)
    await restoring.add_nameless(db, restore, sum(bool(under.retractions) for under in nameless))
    return TakenBack(len(missing), len(desk.changes.holds))


def _stop(
    desk: Desk, client: Client, known_under: Sequence[UnderReference], stops: Sequence[Retracted], *, is_nameless: bool
) -> None:
    ids = {one.reference for one in known_under}
    for reference in (*client.references.values(), *client.former):
        if reference.id in ids and not reference.queued:  # something was, after all
            reference.queued = True
            desk.changes.first_queued.append(reference.id)
    newest = max(one.version for one in known_under)
    if newest > client.version:  # two things of one version would be taken for one another
        client.version = newest
        desk.changes.versions[client.id] = newest
    if not stops and not is_nameless:
        return
    withdrawn = [one for one in stops if one.by_consent]
    scope, consent_version = Scope(), None
    if withdrawn:
        scope = _scope(withdrawn)
        no = desk.say(
            client, Withdrawn(0, RESTORED.asserted_by, max(one.at for one in withdrawn), scope), f"restore/{uuid4()}"
        )
        consent_version = no.version
    else:
        desk.next_version(client)
    if is_nameless or len(withdrawn) < len(stops):
        # It reaches everything, and names no consent: when it is lifted, what was not withdrawn may leave again.
        scope, consent_version = Scope(), None
        if RESTORED not in client.holds:
            desk.changes.holds[client.id, RESTORED] = 1
    desk.stop(client, scope, BY_THE_DOOR, because="restored", consent_version=consent_version)


def _scope(withdrawn: Sequence[Retracted]) -> Scope:
    categories: frozenset[Category] | None = frozenset()
    for one in withdrawn:
        categories = None if categories is None or one.categories is None else categories | one.categories
    return Scope(None, frozenset(purpose for one in withdrawn for purpose in one.purposes), categories)


def _enter(desk: Desk, client: int, under: UnderReference, one: Retracted) -> None:
    """Know the retraction again, so that its confirmation is understood and it is not read back twice."""
    stop = StopRow(uuid4(), client, one.version, "restored", one.at)
    desk.changes.stops.append(stop)
    desk.changes.retractions.append(RetractionRow(one.id, stop.id, under.recipient, under.reference, one.body))


async def take_heads_back(db: Executor, published: Iterable[Head]) -> list[Head]:
    """Keep the heads that the database does not know, as they were published; gives them, in order.

    Raises:
        CannotRestore: with those that are known they make no unbroken chain.
    """
    newest = {head.shard: head for head in await restoring.newest_heads(db)}
    since = [h for h in published if h.shard not in newest or h.sequence >= newest[h.shard].sequence]
    keys = {row.id: bytes(row.public_key) for row in await audit.signing_keys(db)}
    try:
        check_chain([*newest.values(), *since], keys, from_start=False)
    except ProofError as error:
        raise CannotRestore(f"The heads do not go on from those in the database: {error}") from error
    missing = await restoring.missing_heads(db, since)
    await restoring.add_lost_heads(db, missing)
    await at_once(db, [ledger.sending(since)])
    return missing
