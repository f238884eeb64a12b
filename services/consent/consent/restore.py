"""Read back from the topics what a restored database does not know: `python -m consent.restore`, as the worker.

A step, like the migration: it is run when the discloser says that the database is behind its topics. Until it is done
nothing leaves. It may be run again at any time; where nothing is missing it changes nothing. Not all that is missing
stands in a topic, so it says what people have to do, and the door opens when they say that it is done: `--open`.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from consent.repository import restoring
from consent.repository.restoring import Restore
from consent.service.restoring import (
    BEGINNING,
    KEPT,
    MARGIN,
    CannotRestore,
    Published,
    TakenBack,
    is_behind,
    is_ours,
    known_until,
    missing_promises,
    take_back,
    take_heads_back,
)
from consent.settings import WorkerSettings
from consent.worker import Intake
from contracts import topic_names
from contracts.heads import Head
from servicekit import telemetry
from servicekit.db import Database
from servicekit.kafka import create_producer, reading, written_since
from servicekit.sql import time_now
from servicekit.worker import Worker

T = TypeVar("T")

REFERENCES = 200
"""References of one transaction: it holds the locks of their clients."""
OPENS = "The door opens as soon as a discloser has compared once more."


async def run(settings: WorkerSettings, *, open: bool = False) -> list[str]:
    """Do what is missing; gives what is to be said of it, a sentence each.

    Raises:
        CannotRestore: something does not fit, and the operator has to see to it.
    """
    database = Database(settings.database_url.get_secret_value(), 2, "consent restore")
    try:
        restore = await database.run(restoring.unfinished)
        if open:
            return [await _open(database, restore)]
        if restore is None:
            since = await database.run(known_until) - MARGIN
            if not await _is_behind(settings, database, since):
                return ["Nothing is missing: the database knows every head and every retraction in the topics."]
            restore = await database.run(lambda session: restoring.begin(session, since))
        return await _read_back(settings, database, restore)
    finally:
        await database.close()


async def _open(database: Database, restore: Restore | None) -> str:
    if restore is None:
        if not await database.run(restoring.may_leave):
            raise CannotRestore("The door is closed and nothing was read back: run this without --open first.")
        return "Nothing to open: the door is open."
    if not restore.is_read:
        raise CannotRestore("Not everything was read back yet: run this without --open first.")
    await database.run(lambda session: restoring.end(session, restore))
    return OPENS


async def _read_back(settings: WorkerSettings, database: Database, restore: Restore) -> list[str]:
    published = Published()
    async with reading(settings) as reader:
        async for records in written_since(settings, reader, is_ours(settings.namespace), restore.since):
            published.add(records, settings.namespace)
    taken = TakenBack()
    for some in _parts(list(published.references.values()), REFERENCES):
        taken += await database.run(partial(take_back, restore=restore, some=some))
    # Behind the retractions, so that a consent that was given after one of them counts again.
    events = await _take_in_again(settings, database)
    promised = await database.run(lambda session: missing_promises(session, published))
    heads = await database.run(lambda session: take_heads_back(session, published.heads.values()))
    await database.run(lambda session: restoring.was_read(session, restore))
    said = [f"Read back what stands in the topics since {restore.since.isoformat(timespec='seconds')}."]
    return [
        *said,
        *_lost(heads),
        f"{taken.retractions} retractions were unknown and stop again; {taken.holds} clients are held: GET /holds.",
        f"{events} events and requests were taken in again; those that were known already had no second effect.",
        *_left_to_do(
            await database.run(lambda session: restoring.nameless(session, restore)),
            promised,
            restore.since,
            await database.run(time_now),
        ),
    ]


def _lost(heads: Sequence[Head]) -> list[str]:
    shards = sorted({head.shard for head in heads})
    by_shard = [[head.sequence for head in heads if head.shard == shard] for shard in shards]
    return [
        f"Batches {numbers[0]} to {numbers[-1]} of shard {shard} of the ledger are lost; their heads were kept."
        for shard, numbers in zip(shards, by_shard, strict=True)
    ]


def _left_to_do(nameless: int, promised: Collection[tuple[str, str]], since: datetime, now: datetime) -> list[str]:
    """What only people can mend, before the door may open: what was said over HTTP stands in no topic."""
    said = ["The door stays closed."]
    if nameless:
        said.append(
            f"{nameless} references under which something was retracted stand for clients whom the database does not"
            " know."
        )
    if now - since >= KEPT:
        said.append("The database is older than what every topic keeps: retractions may be missing that nobody sees.")
    for agency, count in sorted(Counter(agency for agency, _ in promised).items()):
        said.append(f"{agency} was told that {count} events have their effect which are in no topic any more.")
    return [
        *said,
        f"What was said since {since.isoformat(timespec='minutes')} not by Kafka is lost. Before anything leaves:",
        "- let the agencies that publish with POST /events send again, with the same ids, what they published since;",
        "- enter again what was changed in the register: agencies, agreements, suspensions, enforcement;",
        "- do again what was done by hand: clients linked or unlinked, holds lifted, what was set aside.",
        "Then: python -m consent.restore --open",
    ]


async def _take_in_again(settings: WorkerSettings, database: Database) -> int:
    """Give every event and request that is still kept its effect, unless it has it; gives how many there were.

    Not only those since the backup: some may have waited in their topic when it was made.
    """
    intake, taken = Intake(settings.namespace), 0
    kinds = tuple(settings.namespace + name("") for name in (topic_names.intake, topic_names.requests))
    producer = create_producer(settings)
    await producer.start()
    try:
        async with reading(settings) as reader:
            worker = Worker(database, reader, intake.apply, split=intake.split, poison=intake.poison, producer=producer)
            async for records in written_since(settings, reader, lambda topic: topic.startswith(kinds), BEGINNING):
                for some in _parts(records, settings.batch):
                    await worker.take(some)
                taken += len(records)
    finally:
        await producer.stop()
    return taken


async def _is_behind(settings: WorkerSettings, database: Database, since: datetime) -> bool:
    async with reading(settings) as reader:
        if settings.namespace + topic_names.HEADS not in await reader.topics():
            raise CannotRestore("The topic heads cannot be seen: provision its permissions first.")
        async for records in written_since(settings, reader, is_ours(settings.namespace), since):
            if await database.run(partial(is_behind, records=records, namespace=settings.namespace)):
                return True
    return False


def _parts(some: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (some[n : n + size] for n in range(0, len(some), size))


def main() -> None:
    """The command. Exit code 1, with a sentence on standard error, when it cannot be done."""
    parser = argparse.ArgumentParser(
        prog="python -m consent.restore", description="Read back what a restored database has lost."
    )
    parser.add_argument("--open", action="store_true", help="what people have to do was done: open the door")
    arguments = parser.parse_args()
    settings = WorkerSettings()
    telemetry.set_up(settings, "consent-restore")
    try:
        print("\n".join(asyncio.run(run(settings, open=arguments.open))))
    except CannotRestore as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
