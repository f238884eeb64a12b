"""Promises 1, 2 and 3 under programs that nobody thought of: Hypothesis writes what four agencies say of six clients at
the same time, over Kafka and HTTP, and when each shard's discloser is stopped or killed meanwhile.

Then everybody waits until it is quiet, and each recipient's topic is held against a model of what it may still hold.
`THROUGHGATE_PROGRAMS` says how many programs to play; with it they are new ones each time. A program that fails is
printed as it is: with real servers, making it smaller would take hours.
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import HealthCheck, Phase, given, settings
from support.agency import Agency, Operator, eventually, eventually_true, without_repeats
from support.disclosers import SETTINGS, Disclosers
from support.door import superuser
from support.holding import Clients, differences
from support.programs import (
    AGENCIES,
    AGREED,
    CATEGORIES,
    CLIENTS,
    HOUSING,
    MENTORS,
    POINTS,
    PRISON,
    PROGRAMS,
    RECIPIENTS,
    SERVICES,
    End,
    Fault,
    Flood,
    Link,
    People,
    Program,
    Record,
    Rest,
    Said,
    Step,
    event_of,
    link_event,
    newcomers,
)
from support.settled import connection, settled

from contracts.leaving import RETRACTED
from throughgate.promises import Placed, behind_retraction
from throughgate.system import System

PATIENCE = 60.0
TOPICS = {name: f"cleared.{name}" if name in SERVICES else f"partner.{name}" for name in RECIPIENTS}
_numbers = count(0, CLIENTS)
played = settings(
    max_examples=int(os.environ.get("THROUGHGATE_PROGRAMS", "8")),
    derandomize="THROUGHGATE_PROGRAMS" not in os.environ,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=list(HealthCheck),
)


class Stage:
    """The door with two shards, four agencies, and a reader on each recipient's topic."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.runner = asyncio.Runner()
        self.agencies: dict[str, Agency] = {}
        self.topics: dict[str, list[Placed]] = {}
        """What stands in each recipient's topic, in the order of each partition."""
        self._readers: dict[str, AIOKafkaConsumer] = {}
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        """Agree, and connect."""
        operator = Operator(self.system)
        await operator.register(**{name.replace("-", "_"): kind for name, kind in AGENCIES.items()})
        for agreed in AGREED:
            await operator.agree(agreed.id, list(agreed.sources), list(agreed.recipients), agreed.terms)
        for name in AGENCIES:
            self.agencies[name] = await self._stack.enter_async_context(Agency(self.system, name))
        for name in RECIPIENTS:
            reader = AIOKafkaConsumer(
                **connection(self.system, name),
                isolation_level="read_committed",
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            )
            await reader.start()
            self._stack.push_async_callback(reader.stop)
            reader.assign([TopicPartition(self.system.namespace + TOPICS[name], p) for p in range(3)])
            self._readers[name], self.topics[name] = reader, []
        self.disclosers = Disclosers(self.system)
        self._stack.callback(self.disclosers.stop)
        self.db = await self._stack.enter_async_context(superuser(self))

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def read(self) -> None:
        """Read every recipient's topic up to its end."""
        await settled(self.system, TOPICS.values(), PATIENCE)
        for name, reader in self._readers.items():
            ends = await reader.end_offsets(list(reader.assignment()))
            while any([await reader.position(p) < end for p, end in ends.items()]):
                for records in (await reader.getmany(timeout_ms=100)).values():
                    self.topics[name] += [Placed(r.partition, r.offset, json.loads(r.value)) for r in records]


@pytest.fixture(scope="module")
def stage(start_system: Callable[..., System]) -> Iterator[Stage]:
    """One door for all programs of this file: each takes clients that nobody had before."""
    made = Stage(start_system(list(AGENCIES), ["consent"], environment={"consent.discloser": SETTINGS}))
    made.runner.run(made.open())
    try:
        yield made
    finally:
        made.runner.run(made.close())
        made.runner.close()


@pytest.mark.timeout(3000)
@played
@given(program=PROGRAMS)
def test_nobody_holds_what_was_stopped_and_everybody_has_what_is_permitted(stage: Stage, program: Program) -> None:
    try:
        stage.runner.run(Run(stage).play(program))
    except BaseException:
        print(program)
        raise


class Run:
    """One program with clients of its own."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.people: People = newcomers(next(_numbers))
        self.published: dict[str, Said] = {}
        self.agency_of: dict[str, str] = {}
        self._by_http: set[str] = set()
        self._linked: Counter[int] = Counter()

    async def play(self, program: Program) -> None:
        """Play it, wait until it is quiet, check."""
        keeping = asyncio.create_task(self.stage.disclosers.keep())
        try:
            for agency in AGENCIES:  # of whom it has no records, an agency can say nothing
                known = CATEGORIES if agency == PRISON else ("risk",)
                await self._speak(agency, [Record(n, known) for n in range(CLIENTS)])
                await self._answered()
            async with asyncio.TaskGroup() as tasks:
                for agency, steps in program.lanes.items():
                    tasks.create_task(self._speak(agency, steps))
                tasks.create_task(self._befall(program.faults))
            await self._answered()
            await self._quiet()
            await self.stage.read()
        finally:
            keeping.cancel()
        await self._check()

    # --- playing

    async def _speak(self, agency: str, steps: list[Step]) -> None:
        """Publish one agency's steps: two of them over Kafka, without waiting, and two over HTTP."""
        waiting: list[Any] = []
        async with self.stage.agencies[agency].http() as http:
            for step in steps:
                if isinstance(step, Rest):
                    await asyncio.sleep(step.milliseconds / 1000)
                    continue
                rounds = step.rounds if isinstance(step, Flood) and agency not in (HOUSING, MENTORS) else 1
                some = [Record(n, CATEGORIES) for n in range(CLIENTS)] if isinstance(step, Flood) else [step]
                for one in some * rounds:
                    if isinstance(one, Link):
                        self._linked[one.pair] += 1
                        if self._linked[one.pair] > 2:
                            continue  # an agency cannot link again what was told apart
                        body, said = link_event(one.pair, agency, self.people, undo=self._linked[one.pair] == 2)
                        key = self.people.keys[2 * one.pair]
                    else:
                        body, said = event_of(one, agency, self.people)
                        key = self.people.keys[one.client]
                    self.published[body["id"]], self.agency_of[body["id"]] = said, agency
                    if agency in (HOUSING, MENTORS):
                        self._by_http.add(body["id"])
                        await _post(http, body)
                    else:
                        topic = f"{self.stage.system.namespace}intake.{agency}"
                        value = json.dumps(body).encode()
                        waiting.append(await self.stage.agencies[agency].producer.send(topic, value, key=key.encode()))
                await asyncio.sleep(0)
        await asyncio.gather(*waiting)

    async def _befall(self, faults: list[Fault]) -> None:
        disclosers = self.stage.disclosers
        for fault in faults:
            await asyncio.sleep(fault.after / 1000)
            if fault.what == "stop":
                await disclosers.pause(fault.shard, fault.milliseconds / 1000)
            else:
                await asyncio.to_thread(disclosers.kill, fault.shard, fault.what if fault.what in POINTS else "")

    # --- waiting

    def _replies(self) -> Iterator[dict[str, Any]]:
        for agency in self.stage.agencies.values():
            yield from (r for r in agency.replies if r["data"].get("event") in self.published)

    async def _answered(self) -> None:
        wanted = self.published.keys() - self._by_http
        await eventually(
            lambda: wanted <= {r["data"]["event"] for r in self._replies()} or None, "every event's answer", PATIENCE
        )

    async def _quiet(self) -> None:
        async def empty() -> bool:
            return not await self.stage.db.fetchval("SELECT count(*) FROM queue WHERE due_at <= now()")

        await eventually_true(empty, "the queue to be empty", PATIENCE)

    # --- checking

    async def _check(self) -> None:
        clients = await Clients.load(self.stage.db, self.people.numbers, self.published)
        rows = list(clients.rows)
        ours = {reference for row in clients.rows.values() for reference in row.references.values()}
        topics = {
            name: [r for r in records if r.event.get("subject") in ours] for name, records in self.stage.topics.items()
        }
        wrong = [f"{r['type']} of {self._step(r)}: {r['data']}" for r in self._replies() if self._is_wrong(r)]
        for recipient, records in topics.items():
            wrong += [f"{recipient}: {violation}" for violation in behind_retraction(records)]
            by_reference: dict[str, list[Placed]] = {}
            for record in sorted(records, key=lambda r: (r.partition, r.offset)):
                by_reference.setdefault(record.event["subject"], []).append(record)
            wrong += differences(clients, recipient, by_reference)
            wrong += await self._against_ledger(recipient, records, rows)
        wrong += await self._against_done(rows)
        assert not wrong, "\n".join([f"{len(wrong)} things are wrong:", *wrong[:20], *clients.told()])

    def _is_wrong(self, reply: dict[str, Any]) -> bool:
        """Whether an event was rejected; not where it ends what it overtook, or what a link took away with it."""
        ends_nothing = reply["data"].get("code") == "nothing-to-end" and isinstance(self._step(reply), End)
        return "rejected" in reply["type"] and not ends_nothing

    def _step(self, reply: dict[str, Any]) -> Any:
        return self.published[reply["data"]["event"]].step

    async def _against_ledger(self, recipient: str, records: list[Placed], rows: list[int]) -> list[str]:
        """Each decision to disclose left once, or was cancelled."""
        left = Counter(r.event["data"]["receipt"]["decision"] for r in without_repeats(records) if _told(r))
        entered: dict[str, set[str]] = {"disclosure": set(), "cancelled": set()}
        for entry in await self.stage.db.fetch(
            "SELECT kind, decision FROM ledger WHERE client_id = ANY($1) AND recipient = $2"
            " AND kind IN ('disclosure', 'cancelled')",
            rows,
            recipient,
        ):
            entered[entry["kind"]].add(str(entry["decision"]))
        wrong = [f"{recipient}: {d} left {n} times" for d, n in left.items() if n > 1]
        wrong += [f"{recipient}: {d} left and is not in the ledger" for d in left.keys() - entered["disclosure"]]
        lost = entered["disclosure"] - left.keys() - entered["cancelled"]
        return wrong + [f"{recipient}: {d} was decided and never left" for d in lost]

    async def _against_done(self, rows: list[int]) -> list[str]:
        """Each stop is done, its publisher was told so, and its retractions stand where it was told."""
        stops = await self.stage.db.fetch(
            "SELECT event_id, version FROM withdrawal WHERE client_id = ANY($1) AND agency IS NOT NULL", rows
        )
        done = {r["data"]["event"]: r["data"] for r in self._replies() if "withdrawal.done" in r["type"]}

        def told() -> bool | None:
            done.update({r["data"]["event"]: r["data"] for r in self._replies() if "withdrawal.done" in r["type"]})
            return all(stop["event_id"] in done for stop in stops) or None

        await eventually(told, "every stop to be done", PATIENCE)
        wrong = []
        for stop in stops:
            for place in done[stop["event_id"]]["recipients"]:
                found = [
                    r
                    for r in self.stage.topics[place["recipient"]]
                    if (r.partition, r.offset) == (place["partition"], place["offset"])
                ]
                if [(r.event["type"], r.event["data"]["version"]) for r in found] != [(RETRACTED, stop["version"])]:
                    wrong.append(f"no retraction of version {stop['version']} stands at {place}")
        return wrong


async def _post(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    """Publish over HTTP; again while the door is busy or closed the connection, which the same id makes safe."""
    for attempt in range(20):
        try:
            response = await http.post("/events", content=json.dumps(body))
        except httpx.TransportError:
            continue
        if response.status_code in (202, 404):  # what was rejected is looked at in the replies
            return
        assert response.status_code >= 500, response.text
        await asyncio.sleep(0.1 * attempt)
    raise AssertionError("the door did not take an event over HTTP")


def _told(record: Placed) -> bool:
    return "receipt" in record.event["data"]
