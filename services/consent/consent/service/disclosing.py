"""One cycle of the discloser, up to the commit: what leaves, as bytes, and what the ledger says of it.

Everything is read in the transaction that claimed the rows, so a withdrawal is seen whole or not at all.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson

from consent.domain import ClientFacts, Decision, Item, Question, decide
from consent.events import SOURCE
from consent.repository import clients, ledger, queue
from consent.repository.changes import Changes
from consent.repository.ledger import NOTHING_TOLD, Entry, Written, write_down
from consent.repository.sharing import Known
from consent.repository.sql import Executor
from consent.service import register
from consent.service.desk import CHANGED, SNAPSHOT
from consent.service.doubts import Doubt
from consent.service.ledger import Sealer
from consent.service.notices import Retraction, retraction_row, row_settled, withdrawal_done
from consent.service.register import Register
from consent.service.sections import cut, spent_convictions
from consent.service.telling import asked, explain, receipt, withheld
from contracts.heads import Head
from contracts.merkle import write
from contracts.proof import place_for_proof, with_proof
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import event

MAX_RECORD = 1_000_000
"""Bytes of one record: what the partners' topics take."""
PROOF_ROOM = 4_000
"""Bytes that a proof may take of them: it grows with the logarithm of a batch."""
NOTHING: dict[str, Any] = {"permitted": [], "withheld": [], "obligations": []}
"""The grounds of a decision of which nothing can be read."""
UNKNOWN = Known(0, None, ClientFacts(), ())
"""A client that is not there: nothing permits anything."""
CATEGORIES = {category.value: category for category in Category}
"""By name: some are looked up for every record, and calling the enumeration takes five times as long."""
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What reading a damaged row may raise."""


@dataclass(slots=True)
class Leaving:
    """A queue row and the bytes that leave for it."""

    row: Any
    value: bytes


@dataclass(slots=True)
class Cycle:
    """What one cycle decided."""

    claimed: int = 0
    leaving: list[Leaving] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    """What else the cycle writes: notices to requesters, and what takes back what may have arrived."""
    unsendable: dict[int, str] = field(default_factory=dict)
    """Rows that cannot be read or would be too large, and why: set aside for a person to look at."""
    damaged: set[int] = field(default_factory=set)
    """Rows of clients of whom something cannot be read: they are treated as held."""
    taken_back: list[int] = field(default_factory=list)
    """Rows of which nobody can read what may have left: decided in a later cycle, behind a retraction of everything."""
    head: Head | None = None
    """What seals the entries of this cycle, and those that others left."""
    entries: list[Written] = field(default_factory=list)
    unproved: list[tuple[Leaving, int, int]] = field(default_factory=list)
    """What waits for a proof: where in its bytes that goes, and which of the entries it is of."""


async def decide_cycle(
    db: Executor,
    shard: int,
    shards: int,
    limit: int,
    paused: Collection[str],
    doubts: Mapping[int, Doubt],
    only: Collection[int] | None,
    sealer: Sealer,
    before: Head | None,
) -> Cycle:
    """Claim, decide, enter the ledger. The caller commits, and sends what is `leaving` and the head before it calls
    again. `before` is the shard's last head.
    """
    rows = await queue.claim(db, shard, shards, limit, paused, only)
    cycle = Cycle(len(rows))
    if not rows:
        cycle.head, _ = await sealer.seal(db, before, [], await clients.time_now(db))
        return cycle
    records = [row for row in rows if row.kind == queue.RECORD]
    registered = await register.load(db)
    snapshots = {row.client_id for row in records if row.type == SNAPSHOT}
    known, sections = await clients.facts_of(db, {row.client_id for row in records}, snapshots, cycle.damaged)
    now = await clients.time_now(db)
    waiting: set[tuple[str, UUID]] = set()
    for row in rows:
        if row.kind != queue.RECORD:
            cycle.leaving.append(Leaving(row, row.body.encode()))
            continue
        doubt, client = doubts.get(row.id), known.get(row.client_id, UNKNOWN)
        if doubt and doubt.explanation is None:
            cycle.entries.append(_entry("cancelled", doubt.decision, row, client, now, NOTHING))
            _retract_doubt(row, None, client.facts.version, now, cycle.changes)
            cycle.taken_back.append(row.id)
            waiting.add((row.topic, row.reference))
        if (row.topic, row.reference) in waiting:
            continue  # it waits itself, or behind one that does or was just set aside: same client, same recipient
        try:
            body = orjson.loads(row.body)
            if row.type == SNAPSHOT:  # of now: one that was queued for a later day would be stale
                body["sections"] = [s for s in sections.get(row.client_id, []) if s["source"] != row.recipient]
            _decide_row(row, body, client, registered, now, doubt, cycle)
        except UNREADABLE as error:  # a bad row never stops the others
            cycle.unsendable[row.id] = type(error).__name__
            waiting.add((row.topic, row.reference))
            if doubt:
                _retract_doubt(row, doubt.explanation, client.facts.version, now, cycle.changes)
    cycle.head, proofs = await sealer.seal(db, before, cycle.entries, now)
    for leaving, place, entry in cycle.unproved:
        leaving.value = with_proof(leaving.value, place, proofs[entry])
    await queue.remove(db, cycle.refused)
    await cycle.changes.write(db)
    for id, reason in cycle.unsendable.items():
        await queue.set_aside(db, id, reason)
    return cycle


def _decide_row(
    row: Any,
    body: dict[str, Any],
    client: Known,
    registered: Register,
    now: datetime,
    doubt: Doubt | None,
    cycle: Cycle,
) -> None:
    """Decide one record. `doubt` is what would have left for it in a cycle that was cut, which is known.

    Raises:
        UNREADABLE: the row cannot be read.
    """
    before = doubt.explanation if doubt else None
    question, about = _question(row, body, registered, now)
    decision = all_or_nothing(decide(question, client.facts, registered.policy), about)
    grounds = explain(decision, client.facts.version)
    if doubt and before and decision.permits and grounds.items() <= before.items():
        cycle.leaving.append(Leaving(row, doubt.record))  # the same bytes with the same id go again
        return
    id, whole = uuid4(), grounds | asked(question, about)
    told = NOTHING_TOLD
    if decision.permits:
        why = receipt(decision, client.facts.version, row.purpose, id, now)
        told = _record(row, body, decision, why, now)
    if doubt and before:
        cancelled = {name: value for name, value in before.items() if name in grounds}
        cycle.entries.append(_entry("cancelled", doubt.decision, row, client, now, cancelled))
    if decision.permits:
        leaving = Leaving(row, told)
        if queue.is_partners(row.topic):
            cycle.unproved.append((leaving, place_for_proof(told, write(why)), len(cycle.entries)))
        cycle.leaving.append(leaving)
        cycle.entries.append(_entry("disclosure", id, row, client, now, whole, told))
        return
    cycle.refused.append(row.id)
    cycle.entries.append(_entry("refusal", id, row, client, now, whole))
    if before:
        _retract_doubt(row, before, client.facts.version, now, cycle.changes)
    if row.requester:
        outcome = "cancelled" if doubt else "denied"
        cycle.changes.queue.append(row_settled(row, outcome, now, withheld(decision, openly=False)))


def all_or_nothing(decision: Decision, about: Collection[Item]) -> Decision:
    """A message leaves with all the items that it is about, or not at all."""
    return decision if decision.permitted.issuperset(about) else Decision((), decision.refusals)


async def finish_cycle(
    db: Executor, sent: list[tuple[Leaving, tuple[str, int, int]]], heads: Sequence[Head] = ()
) -> None:
    """Enter that these rows are committed in their topics, each at (topic, partition, offset), and these heads."""
    await ledger.heads_sent(db, heads)
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
        if w.agency is not None  # what nobody published is not answered
    ]
    notices += [
        row_settled(row, "sent", now)
        for leaving, _ in sent
        if (row := leaving.row).kind == queue.RECORD and row.requester
    ]
    await queue.add(db, notices)


def _question(row: Any, body: dict[str, Any], registered: Register, now: datetime) -> tuple[Question, frozenset[Item]]:
    about = [Item(source, CATEGORIES[category]) for source, category in body.get("about", ())]
    items = dict.fromkeys(about + [Item(s["source"], CATEGORIES[s["category"]]) for s in body["sections"]])
    service = body["message"].get("service") if "message" in body else None
    recipient, purpose = registered.agencies[row.recipient], Purpose(row.purpose)
    question = Question(recipient, purpose, tuple(items), now, service, spent=spent_convictions(body["sections"]))
    return question, frozenset(about)


def _record(row: Any, body: dict[str, Any], decision: Decision, why: dict[str, Any], now: datetime) -> bytes:
    """The event as it leaves, but for its proof, in canonical JSON: to the letter what a recipient will recompute.

    Raises:
        ValueError: it is too large.
    """
    data: dict[str, Any] = {"purpose": row.purpose, "sections": cut(body["sections"], decision), "receipt": why}
    for name in ("message", "provider"):
        if name in body:
            data[name] = body[name]
    told = write(event(row.type, SOURCE, data, subject=str(row.reference), time=now.isoformat()))
    if len(told) > MAX_RECORD - PROOF_ROOM:
        raise ValueError("too large for the recipient's topic")
    return told


def _entry(
    kind: str,
    id: UUID,
    row: Any,
    client: Known,
    now: datetime,
    grounds: dict[str, Any],
    told: bytes = NOTHING_TOLD,
) -> Written:
    explanation = {
        "kind": kind,
        "decision": str(id),
        "decidedAt": now.isoformat(),
        "recipient": row.recipient,
        "purpose": row.purpose,
        "type": row.type,
        "client": str(row.reference),
        **grounds,
    }
    sources = sorted({x["source"] for x in (*grounds["permitted"], *grounds["withheld"])})
    named = row.recipient, row.purpose, row.type, now, sources, explanation, told, row.id
    return write_down(Entry(kind, id, client.id, client.key, *named))


def _retract_doubt(row: Any, before: Mapping[str, Any] | None, version: int, now: datetime, changes: Changes) -> None:
    """A record that may have arrived and is no longer permitted is taken back. What is left of a client's
    record is offered anew; a message is not.

    `before` is its explanation; None: all categories are taken back. No consent version is named: that would say that
    the consent was withdrawn, and what is left may well rest on it. The version is enough.
    """
    categories = None if before is None else frozenset(Category(p["category"]) for p in before["permitted"])
    purposes = [Purpose(row.purpose)]
    withdrawal, id = uuid4(), uuid4()
    body = Retraction(id, row.reference, purposes, categories, None, version, None).encode(now)
    changes.withdrawals.append((withdrawal, row.client_id, version, None, None, "cancelled", row.traceparent, now))
    changes.retractions.append((id, withdrawal, row.recipient, row.reference, body.decode()))
    same = row.client_id, row.recipient, row.topic, row.reference
    changes.queue.append(retraction_row(*same, id, body.decode(), now, row.traceparent, row.keyed_by))
    if row.type in (CHANGED, SNAPSHOT):  # who gets messages only has no part in the record
        anew = {"due_at": now, "traceparent": row.traceparent, "keyed_by": row.keyed_by}
        changes.queue.append(queue.QueueRow(queue.RECORD, *same, type=SNAPSHOT, purpose=row.purpose, body="{}", **anew))
