"""Loading one client's facts and deciding, with few and with many clients in the store: part of `make bench-decide`.

Two databases on one PostgreSQL, each migrated by the door; the first clients are written by the door's own functions,
the others in bulk. Then the door's repository reads, as the discloser's cycle does, in turns between the two, clients
drawn at random, each decision compared with the one in memory.
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bench.figures import say
from bench.peers.cases import AGENCIES, NOW, Case, ask, make
from consent.domain import Item, Policy, Question, decide
from consent.repository import agreements, clients, parties, recorded, sharing
from consent.repository.agreements import Version
from consent.repository.sharing import Said
from consent.repository.sql import arrays, at_once, insert_of
from consent.service import register
from consent.service.sections import spent_convictions
from contracts.vocabulary import Category
from servicekit.db import create_engine
from throughgate.native.postgres import Postgres
from throughgate.provision import databases

CONSENTS, DIFFERENT = 5, 200
"""Consents a client, and different clients; the others repeat them."""
DATA = (
    '{"level":"urgent","summary":"No address to go to on the day of release; was staying with friends before.",'
    '"neverSpent":true}'
)
OTHERS = "FROM generate_series(CAST(:least AS bigint), CAST(:most AS bigint)) AS n JOIN"
BULK = (
    f"INSERT INTO client (version) SELECT version {OTHERS} client ON id = (n - 1) % :first + 1 ORDER BY n",
    # in the order in which they would have come: the next consent of every client after the one before
    (
        "INSERT INTO sharing_fact (client_id, version, kind, asserted_by, event_id, own_id, body, details, recorded_at)"
        " SELECT n, version, kind, asserted_by, 'event-' || n || '-' || version, own_id, body, details, recorded_at"
        f" {OTHERS} sharing_fact ON client_id = (n - 1) % :first + 1 ORDER BY version, n"
    ),
    (
        "INSERT INTO fact (client_id, source, category, recorded_at, data)"
        f" SELECT n, source, category, recorded_at, data {OTHERS} fact ON client_id = (n - 1) % :first + 1 ORDER BY n"
    ),
)


async def compare(few: int, many: int, rounds: int, decisions: int) -> list[tuple[float, float]]:
    """Median microseconds of a load and a decision in each store, a pair a round."""
    server = Postgres(durable=True)
    server.start()
    stores: list[Store] = []
    try:
        for name, count in (("few_", few), ("many_", many)):
            stores.append(await Store.made(server, name, count))
        for store in stores:
            await store.measured(decisions)  # a warm-up
        found = []
        for _ in range(rounds):
            pairs = [(await stores[0].one(), await stores[1].one()) for _ in range(decisions)]
            found.append((statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)))
        return found
    finally:
        for store in stores:
            await store.close()
        server.stop()


class Store:
    """A database of the door with so many clients."""

    def __init__(self, engine: AsyncEngine, count: int, policy: Policy, cases: Sequence[Case]) -> None:
        self._engine, self._count, self._policy, self._cases = engine, count, policy, cases
        self._rng = random.Random(count)

    @classmethod
    async def made(cls, server: Postgres, prefix: str, count: int) -> "Store":
        """Make, migrate and fill."""
        wanted = databases.databases(prefix, ["consent"])["consent"]
        await databases.provision(server.url(), [wanted], server.role_password)
        owner = server.role_url(wanted.name, wanted.owner)
        environment = os.environ | {"THROUGHGATE_DATABASE_URL": owner}
        subprocess.run([sys.executable, "-m", "servicekit.migrate", "consent"], env=environment, check=True)
        policy, cases = make(CONSENTS, DIFFERENT)
        begun = time.monotonic()
        await _fill(owner, count, policy, cases)
        say(f"  {count} clients in {time.monotonic() - begun:.0f} s")
        worker = server.role_url(wanted.name, wanted.worker)
        engine = create_engine(worker, 1, "bench", {"default_transaction_isolation": "repeatable read"})
        return cls(engine, count, policy, cases)

    async def measured(self, decisions: int) -> float:
        """The median of so many."""
        return statistics.median([await self.one() for _ in range(decisions)])

    async def one(self) -> float:
        """Microseconds of one load and decision, for a client at random."""
        id = self._rng.randint(1, self._count)
        case = self._cases[(id - 1) % len(self._cases)]
        begun = time.perf_counter()
        permitted = await _load_and_decide(self._engine, id, case)
        spent = time.perf_counter() - begun
        if permitted != ask(case, self._policy):
            raise SystemExit(f"Client {id} is decided otherwise from the store than in memory.")
        return 1e6 * spent

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


async def _load_and_decide(engine: AsyncEngine, id: int, case: Case) -> frozenset[Item]:
    """What the discloser does for one client, with the door's own functions."""
    async with engine.connect() as db, db.begin():
        registered = await register.load(db)
        known = (await sharing.known(db, [id])).whole()
        sections = (await recorded.sections(db, known)).whole()[id]
    recipient, purpose = registered.agencies[case.question.recipient.id], case.question.purpose
    items = tuple(Item(s["source"], Category(s["category"])) for s in sections)
    question = Question(recipient, purpose, items, NOW, spent=spent_convictions(sections))
    return decide(question, known[id].facts, registered.policy).permitted


async def _fill(url: str, count: int, policy: Policy, cases: Sequence[Case]) -> None:
    """Write the first clients as the door writes them, and the others in bulk, each with the rows of one of those."""
    engine = create_engine(url, 1, "bench")
    async with engine.begin() as db:
        for agency in AGENCIES.values():
            await parties.put_agency(db, agency, agency.id)
        for agreement in policy.agreements:
            await agreements.add_version(db, Version(agreement, agreement.starts + timedelta(days=180), {}))
        ids = await clients.make(db, min(count, len(cases)))
        said = [
            Said(id, fact, f"event-{id}-{fact.version}", None, "{}", NOW)
            for id, case in zip(ids, cases, strict=False)
            for fact in case.facts.history
        ]
        await at_once(db, [sharing.appending(said)])
        await db.execute(text("UPDATE client SET version = :version"), {"version": CONSENTS})
        await arrays(
            db,
            insert_of(
                "fact", "client_id, source, category, recorded_at, data", "bigint, text, text, timestamptz, text"
            ),
            [
                (id, item.source, item.category.value, NOW, DATA)
                for id, case in zip(ids, cases, strict=False)
                for item in case.question.items
            ],
        )
        if count > len(ids):
            numbers = {"least": len(ids) + 1, "most": count, "first": len(ids)}
            for statement in BULK:
                await db.execute(text(statement), numbers)
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as db:
        await db.execute(text("VACUUM ANALYZE"))
    await engine.dispose()
