"""Taking in what our own services ask of the door: to tell an agency something, or that they stopped and erased."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Decision, Item, Withheld
from consent.repository import answers, clients, retractions
from consent.repository.clients import Client, Identifier
from consent.repository.queue import NOBODY
from consent.service import desks
from consent.service.desk import Desk
from consent.service.notices import request_settled
from consent.service.telling import withheld
from contracts.requests import (
    REQUESTS,
    SENT_AS,
    OfferRequested,
    ReferralRequested,
    RetractionAcknowledged,
    StepRequested,
)
from contracts.vocabulary import SERVICE_PURPOSES
from servicekit.db import TryAgain
from servicekit.telemetry import follow


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came, and the service whose topic it came by."""

    service: str
    value: bytes
    traceparent: str | None = None


async def take_requests(session: AsyncSession, asked: Sequence[Asked]) -> None:
    """Queue what the services ask for. It is decided when it leaves, and the service is told what became of it.

    Raises:
        TryAgain: another transaction took in one of them, or linked one of the clients, meanwhile.
        ValidationError: a request does not fit its contract. Applied alone it is set aside.
    """
    read = [(a, REQUESTS.validate_json(a.value)) for a in asked]
    first = {(a.service, r.id): (a, r) for a, r in reversed(read)}
    for key in await answers.known(session, first.keys()):
        del first[key]
    requests = list(reversed(first.values()))
    keys = {Identifier.reference(a.service, r.data.client) for a, r in requests}
    known = await clients.resolve(session, keys)
    await clients.lock(session, set(known.values()))
    if await clients.resolve(session, keys) != known:
        raise TryAgain  # a link was made or undone while we waited for a lock
    desk = await desks.open(session, set(known.values()))
    acknowledged: list[tuple[UUID, UUID]] = []
    for a, request in requests:
        if isinstance(request, RetractionAcknowledged):
            acknowledged.append((request.data.retraction, request.data.client))
            continue
        client = desk.clients.get(known.get(Identifier.reference(a.service, request.data.client), NOBODY))
        with follow(f"request {request.type}", a.traceparent) as step:
            _queue(a, request, client, desk, step.traceparent)
    desk.changes.taken_in = [(a.service, r.id, hashlib.sha256(a.value).digest(), None) for a, r in requests]
    await desks.close(session, desk)
    if acknowledged:
        await retractions.acknowledge(session, acknowledged)


def _queue(
    asked: Asked,
    request: ReferralRequested | OfferRequested | StepRequested,
    client: Client | None,
    desk: Desk,
    traceparent: str | None,
) -> None:
    data = request.data
    recipient = desk.register.agencies.get(data.recipient)
    if client is None or recipient is None:
        rule = "unknown-client" if client is None else "unknown-recipient"
        none = Decision(withheld=tuple([Withheld(Item(data.origin, category), rule) for category in data.about]))
        desk.changes.queue.append(
            request_settled(
                client.id if client else NOBODY,
                asked.service,
                data.client,
                data.request,
                "denied",
                withheld(none),
                desk.now,
                traceparent,
            )
        )
        return
    wanted = {category.value for category in data.include}
    body = {
        "about": [(data.origin, category.value) for category in data.about],
        "sections": [made for (_, category), made in sorted(client.sections.items()) if category in wanted],
        "message": data.message.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    desk.queue_record(
        client,
        recipient,
        SERVICE_PURPOSES[asked.service],
        SENT_AS[request.type],
        body,
        traceparent,
        requester=asked.service,
        reference_of_requester=data.client,
        request=data.request,
    )
