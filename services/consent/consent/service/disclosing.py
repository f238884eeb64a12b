"""One cycle of the discloser, up to the commit: what leaves, as bytes, and what the ledger says of it.

Everything is read in the transaction that claimed the rows, so a withdrawal is seen whole or not at all.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import orjson

from consent.domain import ClientFacts, Decision, Item, Question, decide
from consent.events import SNAPSHOT, SOURCE, UNASKED
from consent.repository import ledger, queue, recorded, retractions
from consent.repository.changes import Changes
from consent.repository.clients import Reference
from consent.repository.ledger import NOTHING_TOLD, Entry
from consent.repository.retractions import Placed, StopRow, Withdrawal
from consent.repository.sharing import SharingState
from consent.repository.sql import Executor, at_once
from consent.service import register
from consent.service.doubts import Doubt
from consent.service.ledger import Batch, Sealer
from consent.service.notices import Owed, queue_retraction, row_settled, withdrawal_done
from consent.service.register import Register
from consent.service.sections import cut, spent_convictions
from consent.service.telling import asked, explain, receipt, to_recipient
from contracts.heads import Head
from contracts.merkle import write
from contracts.proof import place_for_proof, with_proof
from contracts.vocabulary import Category, Purpose
from servicekit.envelope import event
from servicekit.sql import time_now

MAX_RECORD = 1_000_000
"""Bytes of one record: what the partners' topics take."""
PROOF_ROOM = 4_000
"""Bytes that a proof may take of them: it grows with the logarithm of a batch."""
NOTHING: dict[str, Any] = {"permitted": [], "withheld": [], "obligations": []}
"""The grounds of a decision of which nothing can be read."""
UNKNOWN = SharingState(0, None, ClientFacts(), ())
"""A client that is not there: nothing permits anything."""
CATEGORIES = {category.value: category for category in Category}
"""By name: looked up for every record, for which calling the enumeration would take five times as long."""
UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)
"""What reading a damaged row may raise."""


Place = tuple[str, int, int]
"""Where a record stands: topic without namespace, partition, offset."""


@dataclass(slots=True)
class Leaving:
    """A queue row and the bytes that leave for it."""

    row: Any
    value: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """A withdrawal that is done, or will be once the retractions of a cycle stand in their topics."""

    withdrawal: Withdrawal
    retractions: list[Placed]
    """Those that its publisher may know of (`retractions.places_of`)."""

    def notice(self, at: datetime, sent: Mapping[UUID, Place]) -> queue.QueueRow:
        """What its publisher is told. `sent`: where those stand that were written at this time."""
        recipients = []
        for one in self.retractions:
            topic, partition, offset = sent.get(one.id) or (one.topic, one.partition, one.offset)
            where = {"topic": topic, "partition": partition, "offset": offset, "doneAt": one.done_at or at}
            recipients.append({"recipient": one.recipient, **where})
        w = self.withdrawal
        return withdrawal_done(w.client_id, w.id, w.agency, w.event_id, recipients, at, w.traceparent)


@dataclass(slots=True)
class Sent:
    """What was committed to the topics and is not entered yet."""

    leaving: list[tuple[Leaving, Place]] = field(default_factory=list)
    heads: list[Head] = field(default_factory=list)
    told: set[UUID] = field(default_factory=set)
    """Withdrawals of which their publishers were told, with the retractions, that they are done."""
    at: datetime | None = None
    """When the brokers had the retractions of these."""

    def retractions(self) -> dict[UUID, Place]:
        """Where each retraction stands."""
        return {leaving.row.request: at for leaving, at in self.leaving if leaving.row.kind == queue.RETRACTION}


@dataclass(slots=True)
class Cycle:
    """What one cycle decided."""

    claimed: int
    now: datetime
    """When it was decided, by the database's clock."""
    leaving: list[Leaving] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    """What its retractions finish: publishers are told in the same Kafka transaction."""
    refused: list[int] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    """What else the cycle writes: notices to requesters, and what takes back what may have arrived."""
    unsendable: dict[int, str] = field(default_factory=dict)
    """Rows that cannot be read or would be too large, and why: set aside for a person to look at."""
    damaged: set[int] = field(default_factory=set)
    """Rows of clients of whom something cannot be read: a person has to see to it."""
    taken_back: list[int] = field(default_factory=list)
    """Rows of which nobody can read what may have left: decided in a later cycle, behind a retraction of everything."""
    head: Head | None = None
    """What seals the entries of this cycle, and those that others left."""
    _began: float = field(default_factory=time.monotonic)

    def time_now(self) -> datetime:
        """The database's time, without asking it once more."""
        return self.now + timedelta(seconds=time.monotonic() - self._began)


class Late(NamedTuple):
    """What joins a cycle after it was decided."""

    leaving: list[Leaving]
    done: list[Done]
    """What the cycle's retractions and these finish."""


async def decide_cycle(
    db: Executor,
    rows: Sequence[queue.QueueRow],
    doubts: Mapping[int, Doubt],
    sealer: Sealer,
    before: Head | None,
    waits: asyncio.Event,
) -> Cycle:
    """Decide what was claimed in this transaction, enter the ledger. The caller commits, and sends what is `leaving`
    and the head before it calls again.

    Args:
        rows: the retractions and notices first.
        before: the shard's last head.
        waits: set once a retraction was queued that waits for this cycle to end. Then only `queue.BESIDE` records are
            decided; the others stay in the queue.
    """
    done = await _done_with(db, rows)
    records = [row for row in rows if row.kind == queue.RECORD]
    registered = await register.load(db) if records else Register({}, [])
    snapshots = {row.client_id for row in records if row.type == SNAPSHOT}
    known, sections, damaged = await recorded.facts_of(db, {row.client_id for row in records}, snapshots)
    async with sealer.batch(db, before) as batch:
        cycle = Cycle(len(rows), await time_now(db), done=done, damaged=damaged)
        deciding = _Deciding(cycle, registered, batch, known, sections)
        for row in rows:
            if row.kind != queue.RECORD:
                cycle.leaving.append(Leaving(row, row.body.encode()))
                continue
            deciding.take(row, doubts.get(row.id))
            await batch.write()
            if waits.is_set() and deciding.count >= queue.BESIDE:
                break
        cycle.head, proofs = await batch.seal(cycle.now)
    deciding.prove(proofs)
    await at_once(db, [queue.removing(cycle.refused)])
    await cycle.changes.write(db)
    for id, reason in cycle.unsendable.items():
        await queue.set_aside(db, id, reason)
    return cycle


class _Deciding:
    """Decides the records of one cycle, one after the other."""

    def __init__(
        self,
        cycle: Cycle,
        registered: Register,
        batch: Batch,
        known: Mapping[int, SharingState],
        sections: Mapping[int, Sequence[Mapping[str, Any]]],
    ) -> None:
        self._cycle, self._registered, self._batch = cycle, registered, batch
        self._known, self._sections = known, sections
        self._at = cycle.now.isoformat()
        self.count = 0
        """How many were decided."""
        self._unproved: list[tuple[Leaving, int, int]] = []
        """What waits for a proof: where in its bytes that goes, and which of the batch's entries it is of."""
        self._waiting: set[tuple[str, UUID]] = set()
        """Where a row was left in the queue: those behind it for the same client and recipient stay as well."""

    def take(self, row: Any, doubt: Doubt | None) -> None:
        """Decide one record, unless it has to wait or its client was erased. One that cannot be read stops no others.

        `doubt` is what would have left for it in a cycle that was interrupted.
        """
        client, place = self._known.get(row.client_id, UNKNOWN), (row.topic, row.reference)
        if doubt and doubt.explanation is None:
            self._take_back(row, client, doubt)
            self._waiting.add(place)
        if place in self._waiting:
            return
        if client.key is None:
            self._drop(row)
            return
        try:
            body = orjson.loads(row.body)
            if row.type == SNAPSHOT:  # as it is now: a row that was queued for a later day would be stale
                body["sections"] = [s for s in self._sections.get(row.client_id, []) if s["source"] != row.recipient]
            self._decide(row, body, client, doubt)
        except UNREADABLE as error:
            self._cycle.unsendable[row.id] = type(error).__name__
            self._waiting.add(place)
            if doubt:
                self._retract(row, doubt.explanation, client)

    def _decide(self, row: Any, body: dict[str, Any], client: SharingState, doubt: Doubt | None) -> None:
        """Decide it.

        Raises:
            UNREADABLE: the row cannot be read.
        """
        self.count += 1
        before = doubt.explanation if doubt else None
        question, about = self._question(row, body)
        decision = all_or_nothing(decide(question, client.facts, self._registered.policy), about)
        grounds = explain(decision, client.facts.version)
        if doubt and before and decision.permits and grounds.items() <= before.items():
            self._cycle.leaving.append(Leaving(row, doubt.record))  # the same bytes with the same id go again
            return
        id, whole = uuid4(), grounds | asked(question, about)
        why, told = b"", NOTHING_TOLD
        if decision.permits:
            why = write(receipt(grounds, row.purpose, id, self._at))
            told = self._record(row, body, decision, why)
        if doubt and before:
            self._enter("cancelled", doubt.decision, row, client, {n: v for n, v in before.items() if n in grounds})
        if decision.permits:
            leaving, entry = Leaving(row, told), self._enter("disclosure", id, row, client, whole, told)
            if queue.is_partners(row.topic):
                self._unproved.append((leaving, place_for_proof(told, why), entry))
            self._cycle.leaving.append(leaving)
            return
        self._cycle.refused.append(row.id)
        self._enter("refusal", id, row, client, whole)
        if before:
            self._retract(row, before, client, row.body if row.type == SNAPSHOT else "{}")
        if row.requester:
            outcome, told_why = "cancelled" if doubt else "denied", to_recipient(grounds["withheld"])
            self._cycle.changes.queue.append(row_settled(row, outcome, self._cycle.now, told_why))

    def _drop(self, row: Any) -> None:
        """Take a row out of whose client everything was erased: of whom nothing leaves, and nothing is entered."""
        self._cycle.refused.append(row.id)
        if row.requester:
            self._cycle.changes.queue.append(row_settled(row, "denied", self._cycle.now, []))

    def _take_back(self, row: Any, client: SharingState, doubt: Doubt) -> None:
        """Take back everything that may have left for a row, for nobody can read what that was."""
        self._enter("cancelled", doubt.decision, row, client, NOTHING)
        self._retract(row, None, client)
        self._cycle.taken_back.append(row.id)

    def prove(self, proofs: Sequence[bytes]) -> None:
        """Put the proofs of the batch's entries into the records that leave."""
        for leaving, place, entry in self._unproved:
            leaving.value = with_proof(leaving.value, place, proofs[entry])

    def _question(self, row: Any, body: dict[str, Any]) -> tuple[Question, frozenset[Item]]:
        about = [Item(source, CATEGORIES[category]) for source, category in body.get("about", ())]
        items = dict.fromkeys(about + [Item(s["source"], CATEGORIES[s["category"]]) for s in body["sections"]])
        service = body["message"].get("service") if "message" in body else None
        recipient, purpose = self._registered.agencies[row.recipient], Purpose(row.purpose)
        question = Question(
            recipient,
            purpose,
            tuple(items),
            self._cycle.now,
            service,
            spent=spent_convictions(body["sections"]),
            asked=row.type not in UNASKED,
            once=frozenset(body.get("once", ())),
        )
        return question, frozenset(about)

    def _record(self, row: Any, body: dict[str, Any], decision: Decision, why: bytes) -> bytes:
        """The event as it leaves, but for its proof, in canonical JSON: to the letter what a recipient will recompute.

        Raises:
            ValueError: it is too large.
        """
        shared = cut(body["sections"], decision)
        data: dict[str, Any] = {"purpose": row.purpose, "sections": shared, "receipt": orjson.Fragment(why)}
        for name in ("message", "provider"):
            if name in body:
                data[name] = body[name]
        told = write(event(row.type, SOURCE, data, subject=str(row.reference), time=self._at))
        if len(told) > MAX_RECORD - PROOF_ROOM:
            raise ValueError("too large for the recipient's topic")
        return told

    def _enter(
        self,
        kind: str,
        id: UUID,
        row: Any,
        client: SharingState,
        grounds: Mapping[str, Any],
        told: bytes = NOTHING_TOLD,
    ) -> int:
        """Enter what became of a row; gives the number of its entry in the batch."""
        explanation = {  # as `new_entry`, at three quarters of its cost: there is one for every record
            "kind": kind,
            "decision": str(id),
            "decidedAt": self._at,
            "recipient": row.recipient,
            "purpose": row.purpose,
            "type": row.type,
            "client": str(row.reference),
            "row": client.id,
            "queue": row.id,
            **grounds,
        }
        sources = sorted({x["source"] for x in (*grounds["permitted"], *grounds["withheld"])})
        named = row.recipient, row.purpose, row.type, self._cycle.now, sources, explanation, told, row.id
        return self._batch.add(Entry(kind, id, client.id, client.key, *named))

    def _retract(self, row: Any, before: Mapping[str, Any] | None, client: SharingState, body: str = "{}") -> None:
        """Take back a record that may have arrived and is no longer permitted. What is left of a client's record is
        offered anew; a message is not.

        `before` is its explanation; None: all categories are taken back. The retraction names no consent version: that
        would say that the consent was withdrawn, and what is left may rest on it. `body` is that of the snapshot
        that offers it: where this was one, on the same account.
        """
        changes, version, now = self._cycle.changes, client.facts.version, self._cycle.now
        categories = None if before is None else frozenset(Category(p["category"]) for p in before["permitted"])
        stop = StopRow(uuid4(), row.client_id, version, "cancelled", now, traceparent=row.traceparent)
        changes.stops.append(stop)
        reference = Reference(row.reference, row.recipient, True, row.keyed_by)
        queue_retraction(changes, stop, Owed(reference, [Purpose(row.purpose)], categories), row.topic)
        if row.type in UNASKED:  # a recipient that only gets messages has no part in the record
            same = row.client_id, row.recipient, row.topic, row.reference
            anew = {"due_at": now, "traceparent": row.traceparent, "keyed_by": row.keyed_by}
            changes.queue.append(
                queue.QueueRow(queue.RECORD, *same, type=SNAPSHOT, purpose=row.purpose, body=body, **anew)
            )


def all_or_nothing(decision: Decision, about: Collection[Item]) -> Decision:
    """A message leaves with all the items that it is about, or not at all."""
    return decision if decision.permitted.issuperset(about) else Decision((), decision.withheld)


async def finish_cycle(db: Executor, sent: Sent) -> None:
    """Enter what is committed in the topics.

    A withdrawal that two shards finished at once is done only now, and its publisher told by the next cycle.
    """
    places = sent.retractions()
    left = queue.removing([leaving.row.id for leaving, _ in sent.leaving])
    await at_once(db, [ledger.sending(sent.heads), left, retractions.placing(places, sent.at)])
    done = await retractions.done_by(db, places, sent.at)
    untold = [w for w in done if w.id not in sent.told]
    settled = [row for leaving, _ in sent.leaving if (row := leaving.row).kind == queue.RECORD and row.requester]
    if untold or settled:
        now = await time_now(db)
        notices = [one.notice(now, {}) for one in await _with_places(db, untold)]
        await queue.add(db, notices + [row_settled(row, "sent", now) for row in settled])


async def join(db: Executor, cycle: Cycle, rows: Sequence[queue.QueueRow]) -> Late:
    """What of these retractions and notices the cycle does not have yet."""
    already = {leaving.row.id for leaving in cycle.leaving}
    late = [Leaving(row, row.body.encode()) for row in rows if row.id not in already]
    return Late(late, await _done_with(db, [leaving.row for leaving in [*cycle.leaving, *late]]))


async def _done_with(db: Executor, rows: Sequence[Any]) -> list[Done]:
    these = [row.request for row in rows if row.kind == queue.RETRACTION and row.request]
    return await _with_places(db, await retractions.done_with(db, these))


async def _with_places(db: Executor, withdrawals: Sequence[Withdrawal]) -> list[Done]:
    if not withdrawals:
        return []
    places: dict[UUID, list[Placed]] = defaultdict(list)
    for place in await retractions.places_of(db, [w.id for w in withdrawals]):
        places[place.withdrawal_id].append(place)
    return [Done(w, places[w.id]) for w in withdrawals]
