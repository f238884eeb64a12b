"""A case system as the tests play it: publishes to its intake topic, reads its replies and its partner topic."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from pydantic import Discriminator, TypeAdapter

from contracts.replies import Reply
from throughgate.promises import Placed
from throughgate.system import System

T = TypeVar("T")
REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Discriminator("type")])

_numbers = itertools.count()

SCOPES = ["events:write", "disclosures:read", "agreements:read", "decisions:ask", "views:read"]


def prison_number() -> str:
    """A prison number that no other test of this process has."""
    letters, digits = divmod(next(_numbers), 9000)
    return f"A{1000 + digits}{'BCDFGH'[letters // 6]}{'BCDFGH'[letters % 6]}"


def probation_number() -> str:
    """A probation number that no other test of this process has."""
    return f"Y{next(_numbers):06}"


def event(kind: str, agency: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
    """An intake event of now. `kind` is its type without prefix and version."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": f"/agencies/{agency}",
        "type": f"throughgate.{kind}.v1",
        "time": datetime.now(UTC).isoformat(),
        "data": data,
    } | more


def granted(
    identifiers: list[dict[str, str]], recipients: list[str], purposes: list[str], categories: list[str]
) -> Any:
    """The data of a consent given now, on a form of its own."""
    return {
        "identifiers": identifiers,
        "form": uuid4().hex,
        "recipients": [{"agency": r} for r in recipients],
        "purposes": purposes,
        "categories": categories,
        "givenAt": datetime.now(UTC).isoformat(),
        "how": {"formVersion": "2026-1", "witnessRole": "resettlement worker"},
    }


def withdrawn(identifiers: list[dict[str, str]], **scope: Any) -> dict[str, Any]:
    """The data of a withdrawal made now; of everything unless `scope` lists something."""
    return {
        "identifiers": identifiers,
        "withdrawnAt": datetime.now(UTC).isoformat(),
        "scope": "listed" if scope else "everything",
    } | scope


def consents(record: dict[str, Any]) -> list[int]:
    """The consent versions that a record's receipt rests on."""
    permitted = record["data"]["receipt"]["permitted"]
    return sorted({p["consent"] for p in permitted if p["consent"] is not None})


class Agency:
    """One agency's connection to the system under test."""

    def __init__(self, system: System, name: str) -> None:
        self.system = system
        self.name = name
        self.token = system.issuer.token("case-system", name, SCOPES)
        self._stack = AsyncExitStack()
        self.producer = AIOKafkaProducer(**self.connection(), enable_idempotence=True, max_request_size=4 * 1024 * 1024)
        self._replies: list[dict[str, Any]] = []
        self._reader: asyncio.Task[None] | None = None

    def connection(self) -> dict[str, Any]:
        """Arguments of an aiokafka client for this agency's user."""
        return {
            "bootstrap_servers": self.system.kafka.bootstrap,
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_plain_username": self.name,
            "sasl_plain_password": self.system.kafka.password(self.name),
        }

    async def __aenter__(self) -> Self:
        await self.producer.start()
        self._stack.push_async_callback(self.producer.stop)
        self._reader = asyncio.create_task(self._follow_replies())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._reader:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._stack.aclose()

    def http(self) -> httpx.AsyncClient:
        """A client of the door's API with this agency's token."""
        return httpx.AsyncClient(
            base_url=self.system.urls["consent"], headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )

    async def post(self, body: dict[str, Any]) -> httpx.Response:
        """Publish over HTTP: no topic keeps it."""
        async with self.http() as http:
            return await http.post("/events", json=body)

    @property
    def replies(self) -> list[dict[str, Any]]:
        """What stands on its replies topic, each once, in order.

        Raises:
            ValidationError: one is not to the letter what the contract says.
        """
        if self._reader and self._reader.done() and not self._reader.cancelled():
            self._reader.result()
        return self._replies

    async def publish(self, body: dict[str, Any] | bytes, key: str = "k", headers: Any = None) -> str:
        """Publish and wait for the broker; gives the event's id."""
        value = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.producer.send_and_wait(
            f"{self.system.namespace}intake.{self.name}", value, key=key.encode(), headers=headers
        )
        return str(body["id"]) if isinstance(body, dict) else ""

    async def answered(self, body: dict[str, Any] | bytes, key: str = "k") -> dict[str, Any]:
        """Publish and wait for the reply to it; gives its data and type. For bytes: the next new reply."""
        known = len(self.replies)
        id = await self.publish(body, key)

        def mine() -> dict[str, Any] | None:
            for reply in self.replies if id else self.replies[known:]:
                if (not id or reply["data"]["event"] == id) and "withdrawal.done" not in reply["type"]:
                    return reply
            return None

        reply = await eventually(mine, f"a reply to {id or 'the event'}")
        return {"type": reply["type"], **reply["data"]}

    async def done(self, event_id: str, seconds: float = 30, *, entered: bool = True) -> dict[str, Any]:
        """Wait until a withdrawal is done, and until that is entered, which comes after the word; gives the data of the
        reply that says so.
        """
        reply = await eventually(
            lambda: next(
                (r for r in self.replies if "withdrawal.done" in r["type"] and r["data"]["event"] == event_id), None
            ),
            "the withdrawal to be done",
            seconds,
        )
        if entered:
            async with self.http() as http:

                async def is_entered() -> bool:
                    response = await http.get(f"/withdrawals/{reply['data']['withdrawal']}")
                    return response.status_code == 200 and response.json()["doneAt"] is not None

                await eventually_true(is_entered, "that it is done to be entered", seconds)
        return dict(reply["data"])

    async def _follow_replies(self) -> None:
        topic = f"{self.system.namespace}replies.{self.name}"
        seen: set[str] = set()
        async with AsyncExitStack() as stack:
            consumer = AIOKafkaConsumer(
                topic,
                **self.connection(),
                auto_offset_reset="earliest",
                isolation_level="read_committed",
                fetch_max_wait_ms=50,
            )
            await consumer.start()
            stack.push_async_callback(consumer.stop)
            async for record in consumer:
                REPLY.validate_json(record.value, strict=True, by_alias=True, by_name=False, extra="forbid")
                reply = json.loads(record.value)
                if reply["id"] not in seen:
                    seen.add(reply["id"])
                    self._replies.append(reply)

    async def received(self, topic: str | None = None) -> list[Placed]:
        """All that stands on this agency's partner topic now, read with read_committed up to its end."""
        return await read_all(self.connection(), topic or f"{self.system.namespace}partner.{self.name}")


async def read_all(connection: dict[str, Any], topic: str, count: int = 3) -> list[Placed]:
    """Every committed record of a topic of so many partitions up to its present end."""
    consumer = AIOKafkaConsumer(
        **connection, isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, p) for p in range(count)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        found = []
        waiting = {p for p in partitions if ends[p] > 0}
        while waiting:
            for records in (await consumer.getmany(timeout_ms=100, max_records=5000)).values():
                found += [Placed(r.partition, r.offset, json.loads(r.value)) for r in records]
            waiting = {p for p in waiting if await consumer.position(p) < ends[p]}
        return sorted(found, key=lambda r: (r.partition, r.offset))
    finally:
        await consumer.stop()


def without_repeats(records: Iterable[Placed]) -> list[Placed]:
    """What a partner that drops repeated ids has, in the order of each partition."""
    seen: set[str] = set()
    kept = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        if record.event["id"] not in seen:
            seen.add(record.event["id"])
            kept.append(record)
    return kept


async def eventually(look: Callable[[], T | None], what: str, seconds: float = 30) -> T:
    """Wait until `look` gives something."""
    until = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.01)
    return found


async def eventually_true(look: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Wait until an async `look` gives something true."""
    until = time.monotonic() + seconds
    while not await look():
        if time.monotonic() > until:
            raise AssertionError(f"waited {seconds:.0f} s for {what}")
        await asyncio.sleep(0.05)


class Operator:
    """Registers agencies and enters agreements, as the operator of the system under test."""

    def __init__(self, system: System) -> None:
        scopes = ["operator", "agreements:read"]
        self.system = system
        self.headers = {"Authorization": f"Bearer {system.issuer.token('operations', 'operator', scopes)}"}

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request to the door's API; fails the test unless it succeeds."""
        async with httpx.AsyncClient(base_url=self.system.urls["consent"], headers=self.headers, timeout=30) as http:
            response = await http.request(method, path, json=body)
            assert response.is_success, response.text
            return response.json() if response.content else None

    async def register(self, **kinds: str) -> None:
        """Register agencies, kind by id (with _ for -), all in Leeds."""
        for name, kind in kinds.items():
            id = name.replace("_", "-")
            await self.call("PUT", f"/agencies/{id}", {"name": id, "kind": kind.replace("_", "-"), "area": "leeds"})

    async def agree(
        self, id: str, sources: list[str], recipients: list[str], terms: list[dict[str, Any]], version: int = 1
    ) -> None:
        """Enter an agreement that is in force for a year."""
        services = {"referral", "matching", "notifications"}
        body = {
            "id": id,
            "version": version,
            "sources": sources,
            "recipients": recipients,
            "terms": terms,
            "signatories": dict.fromkeys({*sources, *recipients} - services, "A. Signatory"),
            "starts": "2026-01-01T00:00:00Z",
            "review": "2029-06-01T00:00:00Z",
            "ends": "2030-01-01T00:00:00Z",
        }
        change = (await self.call("POST", "/agreements", body))["change"]

        async def begun() -> bool:
            """What it newly permits is offered in the background: of clients that are there already, and not later."""
            return bool((await self.call("GET", f"/agreement-changes/{change}"))["snapshotsQueued"])

        await eventually_true(begun, "what the agreement permits to be queued", 120)


def terms(purpose: str, categories: list[str], basis: str = "consent", subscription: bool = True) -> dict[str, Any]:
    """What an agreement allows for a purpose."""
    return {"purpose": purpose, "basis": basis, "categories": categories, "subscription": subscription}
