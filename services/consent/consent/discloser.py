"""The discloser: the one process a shard that writes what leaves. `python -m consent.discloser`.

Its order is what makes a withdrawal exact, and must not be changed: take the shard's advisory lock; start the producer,
which fences any older one at the broker; compare the database with the topics; only then claim the first row; all of it
on one database session. A discloser that was stopped and wakes later finds its session gone (`idle_session_timeout`) or
its producer fenced, and ends.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from functools import partial
from typing import TypeVar

from aiokafka.errors import KafkaError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError
from prometheus_client import Counter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.comparing import POLL_SECONDS, open_when_known
from consent.repository import ledger, queue, shards
from consent.repository.recorded import DAMAGED
from consent.sending import Sender, is_fenced
from consent.service.disclosing import Cycle, Late, Leaving, Sent, decide_cycle, finish_cycle, join
from consent.service.doubts import Doubt, doubts
from consent.service.holds import hold_damaged
from consent.service.ledger import Sealer
from consent.settings import DiscloserSettings
from contracts import topic_names
from contracts.heads import Head, key_id, public_key_of
from servicekit import faults
from servicekit.db import RETRYABLE, create_engine, listening, sqlstate, wait
from servicekit.kafka import UNSENDABLE
from servicekit.run import work

log = logging.getLogger(__name__)
T = TypeVar("T")

IDLE_SECONDS = 1.0
DISCLOSED = Counter("throughgate_disclosed", "Records, retractions and notices committed to their topics.")
SET_ASIDE = Counter("throughgate_disclosures_set_aside", "Rows that cannot be sent; each needs a person.")


class Discloser:
    """Runs cycles for one shard on one database session."""

    def __init__(self, settings: DiscloserSettings, connection: AsyncConnection, retracts: asyncio.Event) -> None:
        """`retracts` is set when a change of facts queued a retraction."""
        self._settings = settings
        self._db = connection
        self._retracts = retracts
        self._sender = Sender(settings, partial(self._read, shards.keep_session))
        self._sealer = Sealer(settings.seed, settings.shard, settings.shards)
        self._doubts: dict[int, Doubt] = {}
        self._sent = Sent()
        self._head: Head | None = None
        """The shard's newest head."""
        self._unsent: list[Head] = []
        """Heads that are not in their topic yet, for all that is known."""
        self._failed = False
        """Whether the last send failed."""
        self._parts: deque[list[int]] = deque()
        """Rows that could not be sent with others: for each of these there is a cycle of its own."""

    async def take_over(self) -> None:
        """Wait for the shard's lock, fence whoever wrote before, and find out what it left half done."""
        shard, number = self._settings.shard, self._settings.shards
        while not await self._read(partial(shards.try_lock, shard=shard)):
            await asyncio.sleep(POLL_SECONDS)
        async with self._db.begin():
            await shards.enter_number(self._db, shard, number)
        await self._sender.renew()
        await self._fence_other_numbers()
        public_key = public_key_of(self._settings.seed)
        async with self._db.begin():
            await ledger.add_signing_key(self._db, key_id(public_key), public_key)
        await open_when_known(self._db, self._settings)
        await self._recall()
        log.info("discloser of shard %d of %d took over", shard, number)

    async def _fence_other_numbers(self) -> None:
        """Fence every process that ran with another number of shards: it may have this one's clients in hand.

        A shard that is gone has no successor that would fence it. Each process enters its number, starts its producer,
        and only then looks at what the others entered. So of two that begin at once with different numbers at least one
        sees the other, and one that begins with the same number is not fenced.
        """
        shard, number = self._settings.shard, self._settings.shards
        for other in await self._read(shards.each):
            if other.shards != number and other.shard != shard:
                await self._sender.fence(other.shard)

    async def run(self, woken: asyncio.Event) -> None:
        """Cycle for ever; with nothing to do, wait for a wake-up or poll, which also keeps the session alive."""
        while True:
            if not await self.cycle():
                await wait(woken, IDLE_SECONDS)

    async def cycle(self) -> bool:
        """Enter what the last cycle sent, decide the next rows, send them. False when there was nothing to do."""
        paused = await self._sender.look_again()
        if topic_names.HEADS in paused:
            await self._read(shards.keep_session)
            return False
        part = self._parts.popleft() if self._parts else None
        finished = bool(self._sent.leaving)
        cycle = await self._decide(paused, part)
        if not cycle.leaving and not self._unsent:
            return finished or cycle.claimed > 0 or part is not None
        if cycle.leaving:
            faults.point("discloser.claimed")
        if part is None:
            await self._try(cycle.leaving, None if self._failed else cycle)
        elif await self._heads_left() and cycle.leaving:
            await self._try(cycle.leaving, None, part)
        faults.point("discloser.sent")
        return True

    async def _decide(self, paused: list[str], part: Collection[int] | None) -> Cycle:
        shard, number = self._settings.shard, self._settings.shards
        while True:
            self._retracts.clear()  # what was queued before is claimed now, or belongs to another shard
            try:
                async with self._db.begin():
                    await shards.saw_register(self._db, shard, number)
                    await finish_cycle(self._db, self._sent)
                    rows = await queue.claim(self._db, shard, number, self._settings.batch, paused, part)
                    cycle = await decide_cycle(self._db, rows, self._doubts, self._sealer, self._head, self._retracts)
                    if cycle.leaving:
                        faults.point("discloser.decided")
            except DBAPIError as error:
                if sqlstate(error) not in RETRYABLE:
                    raise
            else:
                await self._decided(cycle)
                return cycle

    async def _decided(self, cycle: Cycle) -> None:
        """What follows from a cycle's commit."""
        DISCLOSED.inc(len(self._sent.leaving) + len(self._sent.told))
        self._sent = Sent()
        if cycle.head is not None:
            self._head = cycle.head
            self._unsent.append(cycle.head)
        for id, reason in cycle.unsendable.items():
            log.error("queue row %d is set aside: %s", id, reason)
            SET_ASIDE.inc()
        for id in cycle.taken_back:
            log.error("queue row %d may have left and its ledger entry cannot be opened: it is taken back", id)
        DAMAGED.inc(len(cycle.taken_back))
        for id in [leaving.row.id for leaving in cycle.leaving] + cycle.taken_back:
            self._doubts.pop(id, None)
        if cycle.damaged:  # only now, for a hold needs its client's row, and no cycle may wait for one
            await self._unless_locked(partial(hold_damaged, rows=cycle.damaged))

    async def _heads_left(self) -> bool:
        """Send the heads that wait, without records; whether all have left. So no record is blamed for their topic when
        it is tried alone.
        """
        if self._unsent:
            await self._try([], None)
        return not self._unsent

    async def _try(self, leaving: list[Leaving], joined: Cycle | None, part: Collection[int] | None = None) -> None:
        """Send; when that fails, leave everything to a new producer and to other cycles.

        Args:
            joined: the cycle with which late retractions and notices leave; None: they are left for another, so that
                no retraction waits for a topic of replies.
            part: the rows to which the cycle was limited.
        """
        try:
            await self._send(leaving, joined)
            self._failed = False
        except UNSENDABLE as error:
            self._failed = True
            log.warning("a cycle of %d cannot be sent: %s", len(leaving), type(error).__name__)
            await self._renew_producer()
            if not joined:  # else that may be to blame: once more without it
                await self._divide(leaving, error, part)
        except (TimeoutError, KafkaError, OSError) as error:
            if is_fenced(error):
                raise
            self._failed = True
            log.warning("a cycle is decided again after %s", type(error).__name__)
            await self._renew_producer()

    async def _divide(self, leaving: list[Leaving], error: KafkaError, part: Collection[int] | None) -> None:
        """What cannot be sent is tried by topic, then row by row; a row that fails alone is set aside.

        A topic that is missing or may not be written waits as a whole, and a retraction is never set aside.
        """
        paused = self._sender.paused
        if not leaving and topic_names.HEADS not in paused:
            paused.add(topic_names.HEADS)
        if topic_names.HEADS in paused:
            return
        topics = sorted(topic for topic in {item.row.topic for item in leaving} if topic not in paused)
        if part is not None and len(topics) == 1:
            row = leaving[0].row
            if isinstance(error, TopicAuthorizationFailedError) or (len(leaving) == 1 and row.kind == queue.RETRACTION):
                paused.add(row.topic)
                return
            if len(leaving) == 1:
                log.error("queue row %d cannot be sent: %s", row.id, type(error).__name__)
                SET_ASIDE.inc()
                async with self._db.begin():
                    await queue.set_aside(self._db, row.id, type(error).__name__)
                return
        for topic in topics:
            ids = [item.row.id for item in leaving if item.row.topic == topic]
            self._parts += [ids] if part is None and len(topics) > 1 else [[id] for id in ids]

    async def _send(self, leaving: list[Leaving], joined: Cycle | None) -> None:
        """Send in one Kafka transaction, with the heads that are not in their topic yet; behind them retractions that
        were queued meanwhile, and notices to publishers whose withdrawals are done by it, which count when those do.
        """
        sender, heads = self._sender, list(self._unsent)
        until = asyncio.get_running_loop().time() + self._settings.send_seconds
        async with asyncio.timeout_at(until):
            topics = {item.row.topic for item in leaving} | ({topic_names.HEADS} if heads else set())
            if not await sender.can_write(topics):
                raise UnknownTopicOrPartitionError
            await sender.begin()
            sent = Sent(await sender.write(leaving, heads), [*self._sent.heads, *heads])
        faults.point("discloser.written")
        late = None
        if joined and self._retracts.is_set():
            late = await self._unless_locked(partial(self._claim_late, joined))
        async with asyncio.timeout_at(until):
            if joined and late:
                await self._send_late(joined, late, sent)
            if joined and joined.done:
                await self._tell(joined, sent)
            faults.point("discloser.sending")
            await sender.commit()
        self._sent = sent
        self._unsent = []

    async def _claim_late(self, cycle: Cycle, db: AsyncConnection) -> Late:
        """What was queued since to leave first. All that was decided before it is with the brokers by now: so it stands
        behind that in this same Kafka transaction, as it would in the next.
        """
        settings, paused = self._settings, list(self._sender.paused)
        rows = await queue.claim_first(db, settings.shard, settings.shards, settings.batch, paused)
        return await join(db, cycle, rows)

    async def _send_late(self, cycle: Cycle, late: Late, sent: Sent) -> None:
        """Send it, unless a topic of it is missing: the next cycle sees to that."""
        if await self._sender.can_write({item.row.topic for item in late.leaving}):
            sent.leaving += await self._sender.write(late.leaving)
            cycle.done = late.done

    async def _tell(self, cycle: Cycle, sent: Sent) -> None:
        """Send the notices of what the cycle finishes, as far as their topics can be written. The others are queued
        when this cycle is entered as sent.
        """
        sent.at = cycle.time_now()
        places = sent.retractions()
        rows = [done.notice(sent.at, places) for done in cycle.done]
        await self._sender.can_write({row.topic for row in rows})
        rows = [row for row in rows if row.topic not in self._sender.paused]
        await self._sender.write([Leaving(row, row.body.encode()) for row in rows])
        sent.told = {row.reference for row in rows}

    async def _renew_producer(self) -> None:
        """After a failure: every row that was decided but not entered as sent is in doubt and will be decided again."""
        await self._sender.renew()
        await self._recall()

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
        await self._sender.stop()


async def main(settings: DiscloserSettings, ready: Callable[[], None]) -> None:
    """Disclose until cancelled. Ends with an error when the session is lost or the producer is fenced."""
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
    settings = DiscloserSettings()
    work(partial(main, settings), settings, "consent-discloser")
