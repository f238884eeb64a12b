"""The discloser: the one process a shard that writes what leaves. `python -m consent.discloser`.

Its order is what makes a withdrawal exact, and must not be changed: take the shard's advisory lock; start the producer,
which fences any older one at the broker; compare the database with the topics; only then claim the first row; all of it
on one database session. A discloser that was stopped and wakes later finds its session gone (`idle_session_timeout`) or
its producer fenced, and ends.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from prometheus_client import Counter, Gauge
from pydantic import SecretStr, model_validator
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.events import head_event
from consent.paused import PausedTopics
from consent.repository import ledger, queue, restoring, shards
from consent.repository.clients import DAMAGED
from consent.service.disclosing import Cycle, Late, Leaving, Place, Sent, decide_cycle, finish_cycle, join
from consent.service.doubts import Doubt, doubts
from consent.service.holds import hold_damaged
from consent.service.ledger import Sealer
from consent.service.restoring import MARGIN, is_behind, is_ours, known_until
from contracts.heads import Head, key_id, public_key_of
from contracts.merkle import read
from servicekit import faults
from servicekit.db import RETRYABLE, create_engine, listening, sqlstate, wait
from servicekit.kafka import (
    UNSENDABLE,
    Outgoing,
    create_consumer,
    create_producer,
    send_all,
    written_since,
)
from servicekit.run import work
from servicekit.settings import Settings
from servicekit.telemetry import Step, across_the_border, follow, header

log = logging.getLogger(__name__)
T = TypeVar("T")

DISCLOSED = Counter("throughgate_disclosed", "Records, retractions and notices committed to their topics.")
SET_ASIDE = Counter("throughgate_disclosures_set_aside", "Rows that cannot be sent; each needs a person.")
CLOSED = Gauge("throughgate_closed", "1 while nothing leaves because the database is behind the topics.")

STOP_SECONDS = 2.0
"""A producer that does not stop by then is left."""
RESTART_SECONDS = 1.0
"""From one try to start a producer to the next."""
HEADS = "heads"
"""The topic of the signed heads. Where it cannot be written, its shard waits: what left could not be checked."""


class DiscloserSettings(Settings):
    """What the discloser needs to know besides."""

    shard: int = 0
    """Which of the shards this process is, from 0."""
    shards: int = 1
    """How many there are, the same for all; to change it, stop them all first."""
    signing_key: SecretStr
    """Seed of the Ed25519 key that signs the heads of the ledger: 32 bytes in base64url without padding."""
    batch: int = 1000
    send_seconds: float = 10.0
    """A send that is not done by then is given up, and its rows are decided again."""
    session_seconds: float = 15.0
    """The database ends a session that was idle for so long, and with it the lock of a process that was stopped. More
    than a send and the start of another producer may take."""

    @property
    def seed(self) -> bytes:
        """The signing key's bytes."""
        return read(self.signing_key.get_secret_value())

    @model_validator(mode="after")
    def _is_a_key(self) -> "DiscloserSettings":
        try:
            public_key_of(self.seed)
        except ValueError:
            raise ValueError("signing_key must be 32 bytes in base64url without padding") from None
        return self

    @model_validator(mode="after")
    def _session_outlives_a_send(self) -> "DiscloserSettings":
        # between two statements a start of a producer may fail, and it may have to be stopped
        if self.session_seconds <= self.send_seconds + STOP_SECONDS + RESTART_SECONDS:
            raise ValueError(f"session_seconds must be more than send_seconds and {STOP_SECONDS + RESTART_SECONDS:g}")
        return self

    def session(self) -> dict[str, str]:
        """Server settings of the one session."""
        limit = f"{int(self.session_seconds * 1000)}ms"
        return {
            "idle_session_timeout": limit,
            "idle_in_transaction_session_timeout": limit,
            "tcp_user_timeout": limit,
            "default_transaction_isolation": "repeatable read",
            # The queue is claimed by its indexes in their order, which skip what has left; a bitmap would not.
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
        }


class Discloser:
    """Runs cycles for one shard on one database session."""

    def __init__(self, settings: DiscloserSettings, connection: AsyncConnection, retracts: asyncio.Event) -> None:
        """`retracts` is set when a change of facts queued a retraction."""
        self._settings = settings
        self._db = connection
        self._retracts = retracts
        self._producer: AIOKafkaProducer | None = None
        self._doubts: dict[int, Doubt] = {}
        self._sent = Sent()
        self._sealer = Sealer(settings.seed, settings.shard, settings.shards)
        self._head: Head | None = None
        """The shard's newest head."""
        self._unsent: list[Head] = []
        """Heads that are not in their topic yet, for all that is known."""
        self._failed = False
        """Whether the last send failed."""
        self._paused = PausedTopics(settings.namespace, settings.send_seconds)

    async def take_over(self, poll_seconds: float = 0.5) -> None:
        """Wait for the shard's lock, fence whoever wrote before, and find out what it left half done."""
        while not await self._read(partial(shards.try_lock, shard=self._settings.shard)):
            await asyncio.sleep(poll_seconds)
        async with self._db.begin():
            await shards.enter_number(self._db, self._settings.shard, self._settings.shards)
        await self._renew_producer()
        await self._fence_other_numbers()
        public_key = public_key_of(self._settings.seed)
        async with self._db.begin():
            await ledger.add_signing_key(self._db, key_id(public_key), public_key)
        await self._compare(poll_seconds)
        log.info("discloser of shard %d of %d took over", self._settings.shard, self._settings.shards)

    async def _fence_other_numbers(self) -> None:
        """Fence every process that ran with another number of shards: it may have this one's clients in hand.

        A shard that is gone has no successor that would fence it. Each process enters its number, starts its producer,
        and only then looks at what the others entered. So of two that begin at once with different numbers at least one
        sees the other, and one that begins with the same number is not fenced.
        """
        shard, number = self._settings.shard, self._settings.shards
        others = [row.shard for row in await self._read(shards.each) if row.shards != number and row.shard != shard]
        for other in others:
            await (await self._start_producer(other)).stop()
        if others:
            await self._recall()

    async def _compare(self, poll_seconds: float) -> None:
        """Open the door once the database knows every head and every retraction that stands in the topics.

        Where it does not, it was restored: nothing may leave before that is read back. The topics are read before the
        database is asked, so that it knows what other shards send meanwhile.
        """
        while True:
            async with self._db.begin():
                done, unfinished = await restoring.last_done(self._db), await restoring.unfinished(self._db)
            try:
                if unfinished is None and not await self._is_behind():
                    break
            except (KafkaError, TimeoutError, OSError) as error:  # a topic that is being made or deleted is waited for
                log.warning("the topics cannot be compared yet: %s", type(error).__name__)
                await asyncio.sleep(poll_seconds)
                continue
            CLOSED.set(1)
            log.error(
                "for %s to see to: the door is closed, its database is behind the topics: python -m consent.restore",
                self._settings.alert_owner,
            )
            while await self._read(restoring.last_done) == done:
                await asyncio.sleep(poll_seconds)
            await self._recall()
        await self._read(restoring.open_door)
        CLOSED.set(0)

    async def _is_behind(self) -> bool:
        namespace = self._settings.namespace
        since = await self._read(known_until) - MARGIN
        reader = create_consumer(self._settings, None)
        await reader.start()
        try:
            async for records in written_since(self._settings, reader, is_ours(namespace), since):
                if await self._read(partial(is_behind, records=records, namespace=namespace)):  # keeps the session, too
                    return True
        finally:
            await reader.stop()
        return False

    async def run(self, woken: asyncio.Event, poll_seconds: float = 1.0) -> None:
        """Cycle for ever; with nothing to do, wait for a wake-up or poll, which also keeps the session alive."""
        while True:
            if not await self.cycle():
                await wait(woken, poll_seconds)

    async def cycle(self, only: Collection[int] | None = None) -> bool:
        """Enter what the last cycle sent, decide the next rows, send them. False when there was nothing to do.

        `only`: the rows of the queue to which the cycle is limited (`_in_parts`).
        """
        paused = await self._paused.look_again(self._producer)
        if HEADS in paused:
            await self._read(shards.keep_session)
            return False
        finished = bool(self._sent.leaving)
        cycle = await self._decide(paused, only)
        if not cycle.leaving and not self._unsent:
            return finished or cycle.claimed > 0
        if cycle.leaving:
            faults.point("discloser.claimed")
        if only is None or not cycle.leaving or await self._heads_left():
            # In parts, and behind a failure, publishers are told later: no retraction waits for a topic of replies.
            tells = only is None and not self._failed
            await self._try(cycle.leaving, only, cycle if tells else None)
        faults.point("discloser.sent")
        return True

    async def _heads_left(self) -> bool:
        """Send the heads that wait, without records; whether all have left. So no record is blamed for their topic when
        a cycle is tried in parts.
        """
        if self._unsent:
            await self._try([], (), None)
        return not self._unsent

    async def _try(self, leaving: list[Leaving], only: Collection[int] | None, finishing: Cycle | None) -> None:
        """Send; when that fails, leave everything to a new producer and to other cycles.

        `finishing`: where given, late retractions and notices leave with it.
        """
        self._failed = True
        try:
            await self._send(leaving, finishing)
            self._failed = False
        except UNSENDABLE as error:
            log.warning("a cycle of %d cannot be sent: %s", len(leaving), type(error).__name__)
            await self._renew_producer()
            if finishing:
                return  # what joined it may be to blame: once more without that
            if not leaving and HEADS not in self._paused:
                self._paused.add(HEADS)
            await self._in_parts(leaving, error, only)
        except (TimeoutError, KafkaError, OSError) as error:
            if _is_fenced(error):
                raise
            log.warning("a cycle is decided again after %s", type(error).__name__)
            await self._renew_producer()

    async def _decide(self, paused: list[str], only: Collection[int] | None) -> Cycle:
        shard, number = self._settings.shard, self._settings.shards
        while True:
            self._retracts.clear()  # what was queued before is claimed now, or belongs to another shard
            try:
                async with self._db.begin():
                    await shards.saw_register(self._db, shard, number)
                    await finish_cycle(self._db, self._sent)
                    rows = await queue.claim(self._db, shard, number, self._settings.batch, paused, only)
                    cycle = await decide_cycle(self._db, rows, self._doubts, self._sealer, self._head, self._retracts)
                    if cycle.leaving:
                        faults.point("discloser.decided")
                DISCLOSED.inc(len(self._sent.leaving) + len(self._sent.told))
                for id, reason in cycle.unsendable.items():
                    log.error("queue row %d is set aside: %s", id, reason)
                    SET_ASIDE.inc()
                for id in cycle.taken_back:
                    log.error("queue row %d may have left and its ledger entry cannot be opened: it is taken back", id)
                DAMAGED.inc(len(cycle.taken_back))
                self._sent = Sent()
                if cycle.head is not None:
                    self._head = cycle.head
                    self._unsent.append(cycle.head)
                for id in [leaving.row.id for leaving in cycle.leaving] + cycle.taken_back:
                    self._doubts.pop(id, None)
                await self._hold(cycle.damaged)
                return cycle
            except DBAPIError as error:
                if sqlstate(error) not in RETRYABLE:
                    raise

    async def _hold(self, damaged: Collection[int]) -> None:
        """Behind the cycle's commit, for a hold needs its client's row, and no cycle may wait for one."""
        if damaged:
            await self._unless_locked(partial(hold_damaged, rows=damaged))

    async def _send(self, leaving: list[Leaving], finishing: Cycle | None) -> None:
        """Send in one Kafka transaction, with the heads that are not in their topic yet; behind them retractions that
        were queued meanwhile, and notices to publishers whose withdrawals are done by it, which count when those do.
        """
        producer = self._producer
        if producer is None:
            raise RuntimeError("the producer is started before the first claim")
        heads = list(self._unsent)
        until = asyncio.get_running_loop().time() + self._settings.send_seconds
        async with asyncio.timeout_at(until):
            topics = {item.row.topic for item in leaving} | ({HEADS} if heads else set())
            if await self._paused.without_missing(producer, topics) != topics:
                raise UnknownTopicOrPartitionError
            # Not aborted here when it fails: the producer that replaces this one aborts it, or finds it committed.
            await producer.begin_transaction()
            steps, written = await self._write(producer, leaving, heads)
            sent = Sent(_placed(leaving, written), [*self._sent.heads, *heads])  # the heads stand behind the others
        faults.point("discloser.written")
        late = None
        if finishing and self._retracts.is_set():
            late = await self._unless_locked(partial(self._claim_late, finishing))
        async with asyncio.timeout_at(until):
            if finishing and late:
                steps += await self._send_late(producer, finishing, late, sent)
            if finishing and finishing.done:
                steps += await self._tell(producer, finishing, sent)
            faults.point("discloser.sending")
            await producer.commit_transaction()
        for step in steps:
            step.end()
        self._sent = sent
        self._unsent = []

    async def _claim_late(self, cycle: Cycle, db: AsyncConnection) -> Late:
        """What was queued since to leave first. All that was decided before it is with the brokers by now: so it stands
        behind that in this same Kafka transaction, as it would in the next.
        """
        settings = self._settings
        rows = await queue.claim_first(db, settings.shard, settings.shards, settings.batch, list(self._paused))
        return await join(db, cycle, rows)

    async def _send_late(self, producer: AIOKafkaProducer, cycle: Cycle, late: Late, sent: Sent) -> list[Step]:
        """Send it, unless a topic of it is missing: the next cycle sees to that."""
        topics = {item.row.topic for item in late.leaving}
        if await self._paused.without_missing(producer, topics) != topics:
            return []
        steps, written = await self._write(producer, late.leaving)
        sent.leaving += _placed(late.leaving, written)
        cycle.done = late.done
        return steps

    async def _tell(self, producer: AIOKafkaProducer, cycle: Cycle, sent: Sent) -> list[Step]:
        """Send the notices of what the cycle finishes, as far as their topics can be written. The others are queued
        when this cycle is entered as sent.
        """
        sent.at = cycle.time_now()
        places = sent.retractions()
        rows = [done.notice(sent.at, places) for done in cycle.done]
        notices = [Leaving(row, row.body.encode()) for row in rows]
        await self._paused.without_missing(producer, {notice.row.topic for notice in notices})
        notices = [notice for notice in notices if notice.row.topic not in self._paused]
        steps, _ = await self._write(producer, notices)
        sent.told = {notice.row.reference for notice in notices}
        return steps

    async def _write(
        self, producer: AIOKafkaProducer, leaving: Sequence[Leaving], heads: Sequence[Head] = ()
    ) -> tuple[list[Step], list[Any]]:
        """Write into the open transaction; gives the steps to be ended with it, and where each stands."""
        prefix, steps, outgoing = self._settings.namespace, [], []
        for item in leaving:
            step, traceparent = _trace(item.row)
            steps.append(step)
            key = str(item.row.reference).encode()
            outgoing.append(Outgoing(prefix + item.row.topic, key, item.value, header(traceparent)))
        outgoing += [Outgoing(prefix + HEADS, str(head.shard).encode(), head_event(head)) for head in heads]
        return steps, await send_all(producer, outgoing)

    async def _in_parts(self, leaving: list[Leaving], error: KafkaError, only: Collection[int] | None) -> None:
        """Try by topic, then row by row; a row that fails alone is set aside and the others go on.

        A topic that is missing or may not be written waits as a whole, and a retraction is never set aside.
        """
        if HEADS in self._paused:
            return
        topics = sorted(topic for topic in {item.row.topic for item in leaving} if topic not in self._paused)
        if only is not None and len(topics) == 1:
            row = leaving[0].row
            if isinstance(error, TopicAuthorizationFailedError) or (len(leaving) == 1 and row.kind == queue.RETRACTION):
                self._paused.add(row.topic)
                return
            if len(leaving) == 1:
                log.error("queue row %d cannot be sent: %s", row.id, type(error).__name__)
                SET_ASIDE.inc()
                async with self._db.begin():
                    await queue.set_aside(self._db, row.id, type(error).__name__)
                return
        for topic in topics:
            ids = [item.row.id for item in leaving if item.row.topic == topic]
            if only is None and len(topics) > 1:
                await self.cycle(ids)
            else:
                for id in ids:
                    await self.cycle([id])

    async def _renew_producer(self) -> None:
        """A fresh producer of the same transactional id: aborts what was open, and knows nothing of the failed one.

        Then every row that was decided but not entered as sent is in doubt and will be decided again.
        """
        if self._producer is not None:
            with suppress(Exception):
                await asyncio.wait_for(self._producer.stop(), STOP_SECONDS)
        self._producer = await self._start_producer(self._settings.shard)
        await self._recall()

    async def _start_producer(self, shard: int) -> AIOKafkaProducer:
        while True:
            await self._read(shards.keep_session)  # the session holds the lock, and the lock allows the producer
            producer = create_producer(self._settings, f"discloser-{shard}")
            try:
                async with asyncio.timeout(self._settings.send_seconds):
                    await producer.start()
                return producer
            except (TimeoutError, KafkaError, OSError) as error:
                log.warning("the brokers cannot be reached yet: %s", type(error).__name__)
                with suppress(Exception):
                    await asyncio.wait_for(producer.stop(), STOP_SECONDS)
                await asyncio.sleep(RESTART_SECONDS)

    async def _recall(self) -> None:
        """Read what is in doubt, and from which head the chain goes on."""
        async with self._db.begin():
            self._doubts = await doubts(self._db, self._settings.shard, self._settings.shards)
            self._head = await ledger.last_head(self._db, self._settings.shard)
            unsent = await ledger.unsent_heads(self._db, self._settings.shard, self._settings.shards)
            self._unsent = [head for head in unsent if head not in self._sent.heads]

    async def _read(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        async with self._db.begin():
            return await work(self._db)

    async def _unless_locked(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T | None:
        """What can be left for another cycle: None where it would have to wait for others."""
        try:
            return await self._read(work)
        except DBAPIError as error:
            if sqlstate(error) not in RETRYABLE:
                raise
            return None

    async def close(self) -> None:
        """Enter what was sent and stop the producer."""
        if self._sent.leaving and not self._db.invalidated:
            async with self._db.begin():
                await finish_cycle(self._db, self._sent)
        if self._producer is not None:
            await self._producer.stop()


def _placed(leaving: Sequence[Leaving], written: Sequence[Any]) -> list[tuple[Leaving, Place]]:
    return [(item, (item.row.topic, at.partition, at.offset)) for item, at in zip(leaving, written, strict=False)]


def _is_fenced(error: BaseException) -> bool:
    return type(error).__name__ in {
        "ProducerFenced",
        "InvalidProducerEpoch",
        "InvalidTxnState",
        "TransactionalIdAuthorizationFailed",
    }


def _trace(row: Any) -> tuple[Step, str | None]:
    """A sending step; to a service our trace goes on, to a partner a new one begins."""
    name = f"send {row.type} to {row.topic}"
    if row.topic.startswith("cleared."):
        step = follow(name, row.traceparent)
        return step, step.traceparent
    return across_the_border(name, row.traceparent)


async def main(ready: Callable[[], None]) -> None:
    """Disclose until cancelled. Ends with an error when the session is lost or the producer is fenced."""
    settings = DiscloserSettings()
    url = settings.database_url.get_secret_value()
    engine = create_engine(url, 1, f"discloser {settings.shard}", settings.session())
    async with (
        engine.connect() as connection,
        listening(url, queue.CHANNEL, queue.RETRACTIONS) as (woken, retracts),
    ):
        discloser = Discloser(settings, connection, retracts)
        await discloser.take_over()
        ready()
        try:
            await discloser.run(woken)
        finally:
            with suppress(Exception):
                await asyncio.wait_for(discloser.close(), 5)
    await engine.dispose()


if __name__ == "__main__":
    work(main, DiscloserSettings(), "consent-discloser")
