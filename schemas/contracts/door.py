"""A service's conversation with the door: what it reads on its cleared topic, what it asks on its requests topic."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID

import orjson
from opentelemetry.trace import SpanKind
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import topic_names
from contracts.cleared import Client, Section, Stop
from contracts.leaving import (
    CLEARED,
    ClearedEvent,
    ClientChanged,
    ClientSnapshot,
    ClientWithdrawn,
    OfferAnswerPassed,
    ReferralAnswerPassed,
    RequestSettled,
    SettledData,
    WithdrawnData,
)
from contracts.requests import AcknowledgedData
from contracts.vocabulary import SERVICE_PURPOSES, Category
from servicekit import aside, faults, inbox, outbox
from servicekit.envelope import Wire, encode
from servicekit.kafka import Outgoing
from servicekit.telemetry import follow, from_headers, header
from servicekit.worker import Apply, Poison, Record

log = logging.getLogger(__name__)
C = TypeVar("C", bound=Client)

WITHDRAWN_OF_ANY_VERSION = "throughgate.client.withdrawn."


@dataclass(frozen=True, slots=True)
class Received:
    """One cleared event, the client it is about, and the trace that what follows from it belongs to."""

    event: ClearedEvent
    client: UUID
    traceparent: str | None


class Door:
    """The door as one service knows it."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.cleared_topic = topic_names.cleared(service)
        self.requests_topic = topic_names.requests(service)
        self.purpose = SERVICE_PURPOSES[service]
        """The one purpose that this service acts for: a withdrawal for others only is not for it."""

    @contextmanager
    def reading(self, records: Sequence[Record]) -> Iterator[list[Received]]:
        """The events of a batch, each within a traced step of its own.

        Raises:
            ValueError: a record cannot be read (pydantic's error is one); the worker sets it aside.
        """
        with ExitStack() as steps:
            received = []
            for record in records:
                event = CLEARED.validate_json(record.value)
                step = steps.enter_context(
                    follow(f"{self.service} applies {event.type}", from_headers(record.headers), kind=SpanKind.CONSUMER)
                )
                received.append(Received(event, UUID(event.subject), step.traceparent))
            yield received

    def applying(
        self,
        begin: Callable[[AsyncSession, Sequence[Received]], Awaitable["Batch[C]"]],
        save: Callable[[AsyncSession, Collection[C]], Awaitable[None]],
    ) -> Apply:
        """How the service's worker applies a batch of records: each event once, in their order.

        The transaction that writes the acknowledgement of a retraction also erases, what was set aside of the client
        too: there is never one without the other.

        Args:
            begin: locks the clients whom these events are about and whatever else they may change, and gives the batch.
            save: writes what the batch changed.
        """

        async def apply(session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
            with self.reading(records) as received:
                fresh = await inbox.fresh(session, [r.event.id for r in received])
                batch = list({r.event.id: r for r in received if r.event.id in fresh}.values())
                if batch:
                    work = await begin(session, batch)
                    for r in batch:
                        work.apply(r)
                    await save(session, work.clients.values())
                    await aside.erase_of(session, {r.client for r in batch if self._erases(r.event)})
                    await outbox.add(session, work.outgoing)
                    faults.point(f"{self.service}.applied")
            return ()

        return apply

    def _erases(self, event: ClearedEvent) -> bool:
        """Whether it is a retraction after which the service keeps less of the client."""
        return (
            isinstance(event, ClientWithdrawn) and self.purpose in event.data.purposes and event.data.recipients is None
        )

    def poisoned_withdrawal(self, value: bytes | None) -> tuple[UUID, int | None] | None:
        """The client of a withdrawal that could not be applied, and the version that it reaches to where that can
        be read.

        The record may be one that does not fit the contract, so nothing of it is taken for granted. None: it is no
        withdrawal, is for other purposes than ours, or does not say of whom.
        """
        try:
            event = orjson.loads(value or b"")
            if not event["type"].startswith(WITHDRAWN_OF_ANY_VERSION):
                return None
            client = UUID(event["subject"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        data = event.get("data")
        data = data if isinstance(data, dict) else {}
        purposes, version = data.get("purposes"), data.get("version")
        if isinstance(purposes, list) and self.purpose not in purposes:
            return None
        return client, version if type(version) is int and 0 <= version < 2**31 else None

    def poison(self, erase: Callable[[AsyncSession, UUID, int | None], Awaitable[None]]) -> Poison:
        """What a service does with an event that it cannot apply, besides keeping it: of a withdrawal at least erase.

        Everything of the client is erased, whatever the withdrawal was limited to. It is not acknowledged, so the door
        lists it as overdue, and a person has to end what is open.

        Args:
            erase: erases all facts of a client and keeps the version as its tombstone.
        """

        async def erase_poisoned(session: AsyncSession, record: Record, reason: str) -> Sequence[Outgoing]:
            found = self.poisoned_withdrawal(record.value)
            if found is not None:
                client, version = found
                log.error("erased for a withdrawal that could not be applied: its open work is to be ended by a person")
                await erase(session, client, version)
                await aside.erase_of(session, [client], keeping=record.value)
            return ()

        return erase_poisoned

    def asked(self, type: str, data: Wire, client: UUID, time: datetime, traceparent: str | None) -> Outgoing:
        """A request to the door about a client, for the outbox."""
        reference = str(client)
        value = encode(
            type,
            f"/services/{self.service}",
            data.model_dump(mode="json", by_alias=True),
            subject=reference,
            time=time,
            traceparent=traceparent,
        )
        return Outgoing(self.requests_topic, reference.encode(), value, header(traceparent))

    def acknowledged(self, client: UUID, retraction: UUID, time: datetime, traceparent: str | None) -> Outgoing:
        """Tell the door that for this retraction we have stopped and erased."""
        data = AcknowledgedData(client=client, retraction=retraction)
        return self.asked("throughgate.retraction.acknowledged.v1", data, client, time, traceparent)


class Batch(ABC, Generic[C]):
    """Cleared events on their way into a service: the locked clients, and what is to be written. No I/O.

    Here stands what every service does: drop what is from before the tombstone, acknowledge a retraction. What it makes
    of an event is each service's own.
    """

    def __init__(self, door: Door, clients: dict[UUID, C], now: datetime) -> None:
        self.door = door
        self.clients = clients
        self.now = now
        self.outgoing: list[Outgoing] = []

    def apply(self, r: Received) -> None:
        """Apply one event to the client in memory."""
        client = self.clients[r.client]
        match r.event:
            case ClientWithdrawn(data=data):
                if self.door.purpose in data.purposes:
                    self.stop(client, _stop(data), r.traceparent)
                self.outgoing.append(self.door.acknowledged(client.reference, data.retraction, self.now, r.traceparent))
            case RequestSettled(data=settled):
                self.settle(client, settled, r.traceparent)
            case ClientSnapshot() | ClientChanged():
                if not client.covered(r.event.data.receipt.decided_on):
                    self.learn(client, r.event, r.traceparent)
            case ReferralAnswerPassed() | OfferAnswerPassed():
                if not client.covered(r.event.data.receipt.decided_on):
                    self.answer(client, r.event, r.traceparent)

    @abstractmethod
    def stop(self, client: C, stop: Stop, traceparent: str | None) -> None:
        """End what is open and rests on what was taken back, and erase it."""

    @abstractmethod
    def settle(self, client: C, settled: SettledData, traceparent: str | None) -> None:
        """Take in what became of a request."""

    @abstractmethod
    def learn(self, client: C, event: ClientSnapshot | ClientChanged, traceparent: str | None) -> None:
        """Take facts in."""

    def answer(self, client: C, event: ReferralAnswerPassed | OfferAnswerPassed, traceparent: str | None) -> None:
        """Take in what a recipient answered; a service that asks for no answers has none to take."""
        log.warning("ignored an event of type %s: it is not for this service", event.type)


def _stop(data: WithdrawnData) -> Stop:
    return Stop(
        data.version,
        None if data.categories is None else frozenset(data.categories),
        None if data.recipients is None else frozenset(data.recipients),
    )


def sections(event: ClearedEvent, kept: Mapping[Category, Sequence[str]]) -> list[Section]:
    """The event's sections of categories that the service keeps, cut to the fields that it keeps of each."""
    if not isinstance(event, ClientSnapshot | ClientChanged):
        return []
    return [
        Section(s.source, s.category, s.recorded_at, {k: s.data[k] for k in kept[s.category] if k in s.data})
        for s in event.data.sections
        if s.category in kept
    ]
