"""One cycle of the discloser, up to the commit: what leaves, as bytes, and what the ledger says of it.

Everything is read in the transaction that claimed the rows, so a withdrawal is seen whole or not at all.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from consent.domain import ClientFacts, Decision, Item, Permit, Question, decide
from consent.events import SOURCE
from consent.repository import clients, queue
from consent.repository.queue import Doubt, Entry
from consent.repository.sql import Executor
from consent.service import register
from consent.service.desk import SNAPSHOT, WITHDRAWN, request_settled, retraction, withdrawal_done
from consent.service.register import Register
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import encode

NOT_AGREED = frozenset({"no-agreement", "agreement-category", "not-its-purpose"})
"""Rules by which a recipient must not even learn that there is something to withhold."""
MAX_RECORD = 1_000_000
"""Bytes of one record: what the partners' topics take."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """A queue row and the bytes that leave for it."""

    row: Any
    value: bytes


@dataclass(slots=True)
class Cycle:
    """What one cycle decided."""

    claimed: int = 0
    leaving: list[Leaving] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    notices: list[queue.QueueRow] = field(default_factory=list)
    unsendable: dict[int, str] = field(default_factory=dict)
    """Rows that cannot be read or would be too large, and why: set aside for a person to look at."""


async def decide_cycle(
    db: Executor,
    shard: int,
    shards: int,
    limit: int,
    paused: Collection[str],
    doubts: Mapping[int, Doubt],
    only: Collection[int] | None,
) -> Cycle:
    """Claim, decide, enter the ledger. The caller commits, and sends what is `leaving` before it calls again."""
    rows = await queue.claim(db, shard, shards, limit, paused, only)
    cycle = Cycle(len(rows))
    if not rows:
        return cycle
    records = [row for row in rows if row.kind == queue.RECORD]
    facts, registered, now = await _facts(db, {row.client_id for row in records})
    sections = await clients.sections(db, {row.client_id for row in records if row.type == SNAPSHOT})
    waiting: set[tuple[str, UUID]] = set()
    for row in rows:
        if row.kind != queue.RECORD:
            cycle.leaving.append(Leaving(row, row.body.encode()))
            continue
        if (row.topic, row.reference) in waiting:
            continue  # behind a row that was just set aside, for the same client and recipient
        doubt = doubts.get(row.id)
        try:
            body = orjson.loads(row.body)
            if row.type == SNAPSHOT:  # of now: one that was queued for a later day would be stale
                body["sections"] = [s for s in sections.get(row.client_id, []) if s["source"] != row.recipient]
            _decide_row(row, body, facts.get(row.client_id, ClientFacts()), registered, now, doubt, cycle)
        except (ValueError, KeyError, TypeError) as error:  # a bad row never stops the others
            cycle.unsendable[row.id] = type(error).__name__
            waiting.add((row.topic, row.reference))
            if doubt:
                cycle.notices.append(_retract_doubt(row, doubt, now))
            if row.requester:
                cycle.notices.append(_settled(row, "denied", Decision(), now))
    await queue.enter_ledger(db, cycle.entries)
    await queue.remove(db, cycle.refused)
    await queue.add(db, cycle.notices)
    for id, reason in cycle.unsendable.items():
        await queue.set_aside(db, id, reason)
    return cycle


def _decide_row(
    row: Any,
    body: dict[str, Any],
    facts: ClientFacts,
    registered: Register,
    now: datetime,
    doubt: Doubt | None,
    cycle: Cycle,
) -> None:
    """Decide one record. `doubt` is what would have left for it in a cycle that was cut.

    Raises:
        ValueError, KeyError, TypeError: the row cannot be read.
    """
    question, about = _question(row, body, registered, now)
    decision = decide(question, facts, registered.agreements, registered.kinds)
    if not about <= decision.permitted:
        decision = Decision((), decision.refusals)
    if doubt and decision.permits and orjson.loads(doubt.explanation)["restsOn"] == _rests_on(decision):
        cycle.leaving.append(Leaving(row, doubt.record))  # the same bytes with the same id go again
        return
    id, value = uuid4(), None
    if decision.permits:
        value = _record(row, body, decision, id, now)
        if len(value) > MAX_RECORD:
            raise ValueError("too large for the recipient's topic")
    if doubt:
        cycle.entries.append(_entry("cancelled", doubt.decision, row, now, doubt.explanation, None))
    if value is not None:
        cycle.entries.append(_entry("disclosure", id, row, now, explain(decision), value))
        cycle.leaving.append(Leaving(row, value))
        return
    cycle.refused.append(row.id)
    cycle.entries.append(_entry("refusal", id, row, now, explain(decision), None))
    if doubt:
        cycle.notices.append(_retract_doubt(row, doubt, now))
    if row.requester:
        cycle.notices.append(_settled(row, "cancelled" if doubt else "denied", decision, now))


async def finish_cycle(db: Executor, sent: list[tuple[Leaving, tuple[str, int, int]]]) -> None:
    """Enter that these rows are committed in their topics, each at (topic, partition, offset)."""
    if not sent:
        return
    now = await clients.time_now(db)
    await queue.remove(db, [leaving.row.id for leaving, _ in sent])
    places = {
        leaving.row.request: place
        for leaving, place in sent
        if leaving.row.kind == queue.RETRACTION and leaving.row.request
    }
    done = await queue.retractions_done(db, places)
    by_withdrawal: dict[UUID, list[dict[str, Any]]] = {}
    for p in await queue.places_of(db, [row.id for row in done]) if done else ():
        by_withdrawal.setdefault(p.withdrawal_id, []).append(
            {
                "recipient": p.recipient,
                "topic": p.topic,
                "partition": p.partition,
                "offset": p.offset,
                "doneAt": p.done_at,
            }
        )
    notices = [
        withdrawal_done(w.client_id, w.id, w.agency, w.event_id, by_withdrawal.get(w.id, []), now, w.traceparent)
        for w in done
    ]
    notices += [
        request_settled(
            row.client_id, row.requester, row.reference_of_requester, row.request, "sent", [], now, row.traceparent
        )
        for leaving, _ in sent
        if (row := leaving.row).kind == queue.RECORD and row.requester
    ]
    await queue.add(db, notices)


async def _facts(db: Executor, ids: Collection[int]) -> tuple[dict[int, ClientFacts], Register, datetime]:
    registered = await register.load(db)
    if not ids:
        return {}, registered, await clients.time_now(db)
    histories, held = await clients.consent_histories(db, ids)
    facts = {id: ClientFacts(tuple(histories.get(id, ())), id in held) for id in ids}
    return facts, registered, await clients.time_now(db)


def _question(row: Any, body: dict[str, Any], registered: Register, now: datetime) -> tuple[Question, frozenset[Item]]:
    about = [Item(source, Category(category)) for source, category in body.get("about", ())]
    items = dict.fromkeys(about + [Item(s["source"], Category(s["category"])) for s in body["sections"]])
    question = Question(registered.agencies[row.recipient], Purpose(row.purpose), tuple(items), now)
    return question, frozenset(about)


def _record(row: Any, body: dict[str, Any], decision: Decision, id: UUID, now: datetime) -> bytes:
    """Cut to what is permitted, by taking over the permitted sections and nothing else."""
    permitted = {(p.item.source, p.item.category.value) for p in decision.permits}
    data = {
        "purpose": row.purpose,
        "sections": [s for s in body["sections"] if (s["source"], s["category"]) in permitted],
        "receipt": {
            "decision": str(id),
            "decidedAt": now,
            "purpose": row.purpose,
            "agreements": [
                {"agreement": a, "version": v, "basis": b}
                for a, v, b in sorted({(p.agreement, p.agreement_version, p.basis.value) for p in decision.permits})
            ],
            "consents": decision.consents,
            "withheld": withheld(decision, to_recipient=True),
            "obligations": decision.obligations,
        },
    }
    for name in ("message", "provider"):
        if name in body:
            data[name] = body[name]
    return encode(row.type, SOURCE, data, subject=str(row.reference), time=now)


def withheld(decision: Decision, *, to_recipient: bool = False) -> list[dict[str, str]]:
    """What was withheld and why (`contracts.leaving.Withheld`).

    A recipient is told of categories that an agreement would let it see, and of no others: that something of a category
    is known of a client can itself be sensitive.
    """
    return [
        {"category": r.item.category.value, "source": r.item.source, "rule": r.rule, "remedy": r.remedy}
        for r in decision.refusals
        if not (to_recipient and r.rule in NOT_AGREED)
    ]


def explain(decision: Decision) -> str:
    """A decision as the ledger keeps it."""
    return orjson.dumps(
        {
            "permitted": [_permit(p) for p in decision.permits],
            "withheld": withheld(decision),
            "restsOn": _rests_on(decision),
            "obligations": decision.obligations,
        }
    ).decode()


def _permit(permit: Permit) -> dict[str, Any]:
    return {
        "category": permit.item.category.value,
        "source": permit.item.source,
        "agreement": permit.agreement,
        "version": permit.agreement_version,
        "basis": permit.basis.value,
        "consent": permit.consent,
    }


def _rests_on(decision: Decision) -> list[Any]:
    items = sorted([p.item.source, p.item.category.value] for p in decision.permits)
    return [*([name, version] for name, version in decision.rests_on), items]


def _entry(kind: str, id: UUID, row: Any, now: datetime, explanation: str, record: bytes | None) -> Entry:
    return Entry(kind, id, row.id, row.client_id, row.recipient, row.purpose, row.type, now, explanation, record)


def _settled(row: Any, outcome: str, decision: Decision, now: datetime) -> queue.QueueRow:
    return request_settled(
        row.client_id,
        row.requester,
        row.reference_of_requester,
        row.request,
        outcome,
        withheld(decision, to_recipient=True),
        now,
        row.traceparent,
    )


def _retract_doubt(row: Any, doubt: Doubt, now: datetime) -> queue.QueueRow:
    """A record that may have arrived and is no longer permitted is taken back."""
    consents = [p["consent"] for p in orjson.loads(doubt.explanation)["permitted"] if p["consent"] is not None]
    envelope = retraction(uuid4(), row.reference, [Purpose(row.purpose)], max(consents, default=0), now)
    return queue.QueueRow(
        queue.RETRACTION,
        row.client_id,
        row.recipient,
        row.topic,
        row.reference,
        WITHDRAWN,
        None,
        envelope.decode(),
        now,
        traceparent=row.traceparent,
    )
