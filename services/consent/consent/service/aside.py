"""What was set aside, because it could be neither sent nor applied: a person tries it again or discards it."""

from datetime import datetime
from typing import Any, Literal
from uuid import uuid4

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from consent.repository import aside, clients, queue
from consent.repository.ledger import Entry
from consent.repository.queue import NOBODY
from consent.service.disclosing import NOTHING
from consent.service.intake import take_in
from consent.service.ledger import enter, new_entry
from consent.service.notices import notice, row_settled
from consent.service.reading import Arrival
from consent.service.requests import Asked, take_requests
from contracts import topic_names
from servicekit.db import wake_after_commit
from servicekit.problems import Problem
from servicekit.sql import time_now

Way = Literal["leaving", "arrived"]
"""`leaving`: a row that could not be sent; `arrived`: an event that could not be applied."""

NOT_SET_ASIDE = Problem("not-set-aside", "Nothing with this id is set aside", "List what is with GET /set-aside.", 404)
ERASED = Problem(
    "event-erased", "The event was erased", "Nothing is left of it to be applied: discard it instead.", 409
)


async def retry(session: AsyncSession, way: Way, id: int, by: str, namespace: str) -> str:
    """Try again. Gives `queued` for a row, which is decided anew when it leaves; for an event `accepted`, or the code
    with which it is rejected now.

    What waited behind a row may leave after it. The publisher of an event gets the answer on its replies topic.

    Raises:
        Problem: 404, nothing with this id is set aside; 409, the event was erased.
        Exception: it cannot be applied, still; then it stays set aside.
    """
    outcome = "queued"
    if way == "leaving":
        if not await aside.retry_leaving(session, id):
            raise NOT_SET_ASIDE
    else:
        event = await aside.take_arrived(session, id)
        if event is None:
            raise NOT_SET_ASIDE
        if event.value is None:
            raise ERASED
        topic = event.topic.removeprefix(namespace)
        kind, who = topic_names.parts(topic)
        if kind == "requests":
            await take_requests(session, [Asked(who, event.value)])
            outcome = "accepted"
        else:
            arrival = Arrival(who, event.value, topic, event.partition, event.offset)
            outcome = await _answer(session, arrival)
    await aside.record_intervention(session, by, "retried", f"{way}/{id}")
    wake_after_commit(session, queue.CHANNEL)
    return outcome


async def _answer(session: AsyncSession, arrival: Arrival) -> str:
    answer = (await take_in(session, [arrival]))[0]
    reply = orjson.loads(answer)
    topic, now = topic_names.replies(arrival.agency), await time_now(session)
    await queue.add(session, [notice(NOBODY, arrival.agency, topic, uuid4(), reply["type"], answer, now)])
    return str(reply["data"].get("code", "accepted"))


async def discard(session: AsyncSession, way: Way, id: int, by: str, reason: str) -> None:
    """Give up what was set aside, for a reason that is kept. What waited behind a row may then leave. The service that
    asked for the row is told no. In the ledger, what was decided of the row no longer counts as sent.

    Raises:
        Problem: 404, nothing with this id is set aside.
    """
    found = await (_give_up if way == "leaving" else aside.take_arrived)(session, id)
    if not found:
        raise NOT_SET_ASIDE
    await aside.record_intervention(session, by, "discarded", f"{way}/{id}", reason)
    wake_after_commit(session, queue.CHANNEL)


async def _give_up(session: AsyncSession, id: int) -> bool:
    client = await aside.client_of_leaving(session, id)
    if client is None:
        return False
    await clients.lock(session, {client})  # as whoever queues for a client does
    row = await aside.discard_leaving(session, id)
    if row is None:
        return False
    now = await time_now(session)
    if decided := await aside.decided_of(session, id):  # an earlier try may have arrived: the ledger says so
        await enter(session, [_cancelled(decided, row, now)])
    if row.requester:  # told "cancelled", the service would ask for it again, and it would fail again
        await queue.add(session, [row_settled(row, "denied", now)])
    return True


def _cancelled(decided: Any, row: Any, now: datetime) -> Entry:
    return new_entry(
        kind="cancelled",
        decision=decided.decision,
        client=decided.client_id,
        key=decided.key,
        recipient=decided.recipient,
        purpose=decided.purpose,
        type=decided.type,
        at=now,
        sources=(),
        more={"client": str(row.reference), **NOTHING},
        queue_id=row.id,
    )
