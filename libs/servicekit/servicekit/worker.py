"""The consuming loop: a poll is a batch, a batch is split into transactions, a poison event stops nobody.

Order of things: apply and commit, send what the transaction answered, commit offsets. A crash anywhere between
redelivers, and the inbox answers what it answered before.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from servicekit import faults
from servicekit.aside import set_aside
from servicekit.db import Database, TryAgain, is_transient, sqlstate
from servicekit.kafka import UNSENDABLE, Outgoing, Watchdog, known_topics, send_all
from servicekit.telemetry import CONSUMED, SET_ASIDE, UNANSWERED

log = logging.getLogger(__name__)

OF_THE_DATA = ("22", "23")
"""SQLSTATE classes that an event can be blamed for: data exception, integrity constraint violation."""
ANSWER_SECONDS = 60.0
IDLE_MS = 200
FETCH_MS = 5
"""How long a batch that could begin waits for what was written meanwhile: a fetch takes one or two milliseconds."""

Record: TypeAlias = ConsumerRecord
"""One record as it was consumed: key and value are bytes or None."""
Apply = Callable[[AsyncSession, Sequence[Record]], Awaitable[Sequence[Outgoing]]]
"""Applies a batch in the given transaction; what it returns is sent after the commit. Never commits itself."""
Split = Callable[[Sequence[Record]], Iterable[Sequence[Record]]]
"""Splits a batch into parts, each one transaction, in the order in which they are applied. Empty parts are left out."""
Poison = Callable[[AsyncSession, Record, str], Awaitable[Sequence[Outgoing]]]
"""Says what is to be done with an event that cannot be applied, besides keeping it; may answer its publisher."""


async def keep_silent(session: AsyncSession, record: Record, reason: str) -> Sequence[Outgoing]:
    """A `Poison` with nobody to answer: the row in `set_aside` and the alert on its counter are all."""
    return ()


class Worker:
    """Consumes with `apply` until cancelled. `producer` is needed only where `apply` or `poison` answers."""

    def __init__(
        self,
        database: Database,
        consumer: AIOKafkaConsumer,
        apply: Apply,
        *,
        split: Split = lambda records: [records],
        poison: Poison = keep_silent,
        producer: AIOKafkaProducer | None = None,
        batch: int = 500,
        stall_seconds: float = 60.0,
    ) -> None:
        self._database = database
        self._consumer = consumer
        self._apply = apply
        self._split = split
        self._poison = poison
        self._producer = producer
        self._batch = batch
        self._watchdog = Watchdog(consumer, stall_seconds)

    async def run(self) -> None:
        """Consume for ever.

        The library fetches again only once all that it fetched before was asked for. So what is there when a batch ends
        came as it began, and what was written since would stand behind one more batch: it is fetched while the offsets
        are committed, and waited for.
        """
        watching = asyncio.create_task(self._watchdog.run())
        try:
            records: list[Record] = []
            while True:
                records += await self._get(FETCH_MS if records else IDLE_MS, self._batch - len(records))
                ahead: list[Record] = []
                if records:
                    with self._watchdog.batch():
                        await self.take(records)
                        try:
                            ahead = await self._get(0, self._batch)
                        finally:  # what was applied is done, whatever became of the fetch
                            await self._commit_offsets(records)
                    faults.point("worker.offsets")
                    CONSUMED.inc(len(records))
                records = ahead
        finally:
            watching.cancel()

    async def _get(self, timeout_ms: int, most: int) -> list[Record]:
        polled = await self._consumer.getmany(timeout_ms=timeout_ms, max_records=most) if most else {}
        return [record for records in polled.values() for record in records]

    async def take(self, records: Sequence[Record]) -> None:
        """Apply a batch; where it fails, event by event; what fails alone for a reason of its own is set aside."""
        for part in self._split(records):
            if part:
                await self._take(part)
                self._watchdog.progress()

    async def _take(self, records: Sequence[Record]) -> None:
        try:
            answers = await self._until_not_transient(
                lambda session: self._applied(session, records), alone=len(records) == 1
            )
        except Exception as error:
            if isinstance(error, DBAPIError) and not sqlstate(error).startswith(OF_THE_DATA):
                raise  # a missing table or right is our fault, not the event's: end, and tell by ending
            if len(records) == 1:
                answers = await self._set_aside(records[0], type(error).__name__)
            else:
                log.warning("a batch of %d is applied event by event after %s", len(records), type(error).__name__)
                for record in records:
                    await self._take([record])
                return
        faults.point("worker.committed")
        await self._answer(answers)
        faults.point("worker.answered")

    async def _applied(self, session: AsyncSession, records: Sequence[Record]) -> Sequence[Outgoing]:
        answers = await self._apply(session, records)
        faults.point("worker.applied")
        return answers

    async def _until_not_transient(
        self, work: Callable[[AsyncSession], Awaitable[Sequence[Outgoing]]], *, alone: bool = True
    ) -> Sequence[Outgoing]:
        """Run work again for as long as it fails for a reason that passes. A batch that lost every race is not: it has
        more races to lose than each of its events `alone`.
        """
        delay = 0.1
        while True:
            try:
                return await self._database.run(work)
            except Exception as error:
                if not is_transient(error) or (isinstance(error, TryAgain) and not alone):
                    raise
                log.warning("a batch waits %.1f s after %s", delay, type(error).__name__)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5.0)
                self._watchdog.progress()

    async def _set_aside(self, record: Record, reason: str) -> Sequence[Outgoing]:
        async def keep_only(session: AsyncSession) -> Sequence[Outgoing]:
            await set_aside(session, record.topic, record.partition, record.offset, reason, record.value)
            return ()

        async def keep(session: AsyncSession) -> Sequence[Outgoing]:
            await keep_only(session)
            return await self._poison(session, record, reason)

        log.error("set aside %s/%d/%d: %s", record.topic, record.partition, record.offset, reason)
        SET_ASIDE.inc()
        try:
            return await self._until_not_transient(keep)
        except Exception as error:
            log.critical(
                "%s/%d/%d could not be answered either (%s): it is only kept",
                record.topic,
                record.partition,
                record.offset,
                type(error).__name__,
            )
            return await self._until_not_transient(keep_only)

    async def _answer(self, answers: Sequence[Outgoing]) -> None:
        """Send until the brokers have taken all: an answer that was committed must reach its publisher.

        One whose topic is missing or may not be written is left out, loudly: it must not hold up the others, and it is
        stored, so the same event gets it again. When the brokers take nothing for a minute the process ends.
        """
        if not answers:
            return
        if self._producer is None:
            raise RuntimeError("a worker that answers needs a producer")
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                known = await known_topics(self._producer, sorted({a.topic for a in answers}))
                for topic in {a.topic for a in answers} - known:
                    self._leave_out(topic, "it does not exist or may not be seen")
                answers = [a for a in answers if a.topic in known]
                await send_all(self._producer, answers)
                return
            except UNSENDABLE as error:
                if len({a.topic for a in answers}) == 1:
                    self._leave_out(answers[0].topic, type(error).__name__)
                    return
                for topic in sorted({a.topic for a in answers}):
                    await self._answer([a for a in answers if a.topic == topic])
                return
            except KafkaError as error:
                if time.monotonic() > until:
                    raise
                log.warning("answers are sent again after %s", type(error).__name__)
                await asyncio.sleep(1)
                self._watchdog.progress()

    def _leave_out(self, topic: str, why: str) -> None:
        log.error("answers to %s are left out: %s", topic, why)
        UNANSWERED.inc()

    async def _commit_offsets(self, records: Sequence[Record]) -> None:
        ends: dict[TopicPartition, int] = {}
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            ends[partition] = max(ends.get(partition, 0), record.offset + 1)
        try:
            await self._consumer.commit(ends)
        except (CommitFailedError, IllegalStateError) as error:
            # The partition went to another member: it reads the batch again and the inbox knows it.
            log.info("offsets were not committed after %s", type(error).__name__)
