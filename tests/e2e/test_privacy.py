"""The whole system is told a story full of marks, and then everything that it lets fall is searched for them."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from e2e.otlp import Receiver
from support import servers
from support.agency import Agency, Operator, event, eventually, eventually_true, granted, terms, withdrawn

from throughgate.native.postgres import Postgres
from throughgate.system import System

pytestmark = pytest.mark.xdist_group("privacy")

PRISON, HOSTEL = "hmp-privacy", "hostel-privacy"
NOMS, CRN, NHS, CASE = "A7391ZQ", "X739164", "7391648205", "caseZq7391"
MARKS = {
    "given name": "Xaviezq",
    "family name": "Markerzq",
    "date of birth": "1937-05-04",
    "address": "739 Zqstreet",
    "postcode": "ZQ73 9ZQ",
    "phone": "07700900739",
    "email": "xaviezq@zq.example",
    "summary": "sleepszqrough",
    "risk": "considerzq",
    "poison": "Poisonzq",
    "prison number": NOMS,
    "probation number": CRN,
    "NHS number": NHS,
    "case number": CASE,
}
IDENTIFIERS = [
    {"type": "NOMS", "value": NOMS},
    {"type": "CRN", "value": CRN},
    {"type": "NHS", "value": NHS},
    {"type": "CASE", "value": CASE},
]
NEED = {"level": "urgent", "summary": MARKS["summary"], "area": "leeds"}
FACTS: dict[str, Any] = {
    "identity": {
        "givenName": MARKS["given name"],
        "familyName": MARKS["family name"],
        "dateOfBirth": MARKS["date of birth"],
    },
    "contact": {name: MARKS[name] for name in ("address", "postcode", "phone", "email")},
    "custody-and-release": {"prison": "LEI", "status": "sentenced"},
    "risk": {"harm": "low", "considerations": MARKS["risk"]},
}
UNREADABLE = json.dumps({"type": MARKS["given name"], "subject": NOMS, "data": FACTS}).encode()
CATEGORIES = ["identity", "contact", "custody-and-release", "needs.accommodation"]
PURPOSES = ["referral", "mentor-matching", "release-notification"]
TRACE, SPAN = uuid4().hex, uuid4().hex[:16]


@dataclass
class Fallen:
    """What the system let fall: texts by where each was found."""

    texts: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)
    records: list[Any] = field(default_factory=list)
    spans: list[tuple[str, Any]] = field(default_factory=list)
    set_aside: dict[str, int] = field(default_factory=dict)

    def add(self, where: str, name: str, text: bytes | str) -> None:
        self.texts.setdefault(where, []).append((name, text.encode() if isinstance(text, str) else text))


@pytest.fixture(scope="module")
def fallen(address: servers.Address, tmp_path_factory: pytest.TempPathFactory) -> Fallen:
    """Play the story on a system with a PostgreSQL of its own, stop it, and gather what is there."""
    run_dir = tmp_path_factory.mktemp("privacy")
    found = Fallen()
    with Receiver() as receiver:
        system = System(
            Postgres(durable=False),
            servers.RunningKafka(address),
            [PRISON, HOSTEL],
            namespace=f"privacy{uuid4().hex[:8]}-",
            run_dir=run_dir,
            common={"THROUGHGATE_LOG_LEVEL": "DEBUG"},
            otlp_endpoint=receiver.url,
            trace_sampling=1.0,
        )
        try:
            system.start()
            asyncio.run(Story(system, receiver, found).play())
        finally:
            system.stop()
        for log in sorted((run_dir / "logs").iterdir()):
            found.add("PostgreSQL's log" if log.name == "postgres.log" else "process logs", log.name, log.read_bytes())
        for export in receiver.exports:
            found.add("spans", "an export", export)
        found.spans = receiver.spans()
    return found


class Story:
    """Facts, consent, a referral, whatever may go wrong, withdrawal."""

    def __init__(self, system: System, receiver: Receiver, found: Fallen) -> None:
        self.system = system
        self.receiver = receiver
        self.found = found

    async def play(self) -> None:
        async with AsyncExitStack() as stack:
            self.prison = await stack.enter_async_context(Agency(self.system, PRISON))
            self.hostel = await stack.enter_async_context(Agency(self.system, HOSTEL))
            await self.prepare()
            await self.share()
            await self.go_wrong()
            await self.withdraw()
            await self.gather()

    async def prepare(self) -> None:
        operator = Operator(self.system)
        await operator.register(hmp_privacy="prison", hostel_privacy="vcs")
        agreed = [terms(purpose, CATEGORIES) for purpose in PURPOSES]
        await operator.agree("privacy", [PRISON], [HOSTEL, "referral", "matching", "notifications"], agreed)
        line = {"name": "A house", "organization": HOSTEL, "pathways": ["needs.accommodation"], "area": "leeds"}
        volunteer = {"scheme": HOSTEL, "approved": True, "available": True, "areas": ["leeds"]}
        for service, scope, path, body in (
            ("referral", "directory:write", f"/services/{uuid4()}", line | {"capacity": 5}),
            ("matching", "volunteers:write", f"/volunteers/{uuid4()}", volunteer),
            ("notifications", "plans:write", f"/gate-partners/{HOSTEL}", {"prisons": ["*"]}),
        ):
            token = {"Authorization": f"Bearer {self.system.issuer.token('clerk', 'operator', [scope, 'operator'])}"}
            async with httpx.AsyncClient(base_url=self.system.urls[service], headers=token) as http:
                (await http.put(path, json=body)).raise_for_status()

    def recorded(self, facts: dict[str, Any], **more: Any) -> dict[str, Any]:
        return event("client.recorded", PRISON, {"identifiers": IDENTIFIERS, "facts": facts}, **more)

    def withdrawal(self, **more: Any) -> dict[str, Any]:
        return event("consent.withdrawn", PRISON, withdrawn(IDENTIFIERS), **more)

    async def share(self) -> None:
        """The need comes after the consent, with a trace of its own: it goes to referral, and on to the hostel."""
        release = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
        custody = FACTS["custody-and-release"] | {"releaseDate": release}
        await self.prison.answered(self.recorded(FACTS | {"custody-and-release": custody}))
        consent = event("consent.granted", PRISON, granted(IDENTIFIERS, [HOSTEL], PURPOSES, [*CATEGORIES, "risk"]))
        await self.prison.answered(consent)

        async def offered() -> bool:  # else the snapshot that the consent opens may hold the need already
            return bool(await self.hostel.received())

        await eventually_true(offered, "what the consent opens at the hostel")
        headers = [("traceparent", f"00-{TRACE}-{SPAN}-01".encode())]
        await self.prison.publish(self.recorded({"needs.accommodation": NEED}), headers=headers)

        async def referred() -> bool:
            return "throughgate.referral.sent.v1" in [r.event["type"] for r in await self.hostel.received()]

        await eventually_true(referred, "the referral at the hostel")
        await eventually(lambda: self.last_span(), "the last span")

    def last_span(self) -> Any:
        name = f"send throughgate.referral.sent.v1 to partner.{HOSTEL}"
        return next((s for _, s in self.receiver.spans() if s.name == name), None)

    def bad(self) -> list[bytes]:
        """Input that cannot be applied, with the marks in it."""
        good = json.dumps(self.recorded(FACTS)).encode()
        given, family = MARKS["given name"], MARKS["family name"]
        odd = [
            self.recorded(FACTS, type=f"throughgate.{given}.v1"),
            self.recorded(FACTS, source=f"/agencies/{given}"),
            self.recorded(FACTS, time=given),
            self.recorded(FACTS, time=(datetime.now(UTC) + timedelta(days=2)).isoformat()),
            self.recorded(FACTS | {given: {family: NOMS}}),
            self.recorded({"identity": {"givenName": [given], family: NOMS}}),
            self.recorded({"custody-and-release": {"prison": MARKS["address"]}}),
            self.recorded(FACTS, padding=given * 50_000),
            event("client.recorded", PRISON, {"identifiers": [{"type": given, "value": NOMS}], "facts": FACTS}),
            event("client.recorded", PRISON, {"identifiers": [{"type": "NHS", "value": int(NHS)}], "facts": FACTS}),
            event("consent.granted", PRISON, granted([{"type": "CASE", "value": f"{CASE}x"}], [given], ["x"], ["y"])),
        ]
        return [good[:-30], good + b"}", given.encode() + good, *(json.dumps(body).encode() for body in odd)]

    async def go_wrong(self) -> None:
        for body in self.bad():
            answer = await self.prison.answered(body)
            assert answer["type"] == "throughgate.event.rejected.v1"
        await self.over_http()
        await self.poison()

    async def over_http(self) -> None:
        marks = list(MARKS.values())
        token = self.system.issuer.token("clerk", HOSTEL, ["events:write", "disclosures:read"])
        wrong = self.system.issuer.token(MARKS["given name"], MARKS["family name"], [], lifetime=-5)
        async with self.prison.http() as http:
            for body in self.bad():
                self.keep(await http.post("/events", content=body))
            for mark in marks:
                self.keep(await http.get(f"/clients/{mark}/disclosures"))
                self.keep(await http.get(f"/withdrawals/{mark}"))
                self.keep(await http.get("/agreements", params={"q": mark}, headers={"traceparent": mark}))
                self.keep(await http.put("/agencies/x", json={mark: mark, "name": [mark], "kind": mark}))
            for bearer in (wrong, token + NOMS, NOMS):
                self.keep(await http.post("/events", content=b"{}", headers={"Authorization": f"Bearer {bearer}"}))
        for service in ("referral", "matching", "notifications"):
            async with httpx.AsyncClient(base_url=self.system.urls[service]) as http:
                for mark in marks:
                    self.keep(await http.get(f"/{mark}", headers={"Authorization": f"Bearer {mark}"}))
                    self.keep(await http.put(f"/services/{mark}", json={mark: mark}))

    def keep(self, answer: httpx.Response) -> None:
        if answer.status_code >= 400:
            self.found.add("error answers", f"{answer.status_code}", f"{answer.headers} {answer.text}")

    async def poison(self) -> None:
        """A row that PostgreSQL refuses, quoting it; and records that the services cannot read."""
        consent = self.system.databases["consent"].name
        admin = await asyncpg.connect(self.system.postgres.url(consent))
        await admin.execute(f"ALTER TABLE fact ADD CHECK (data NOT LIKE '%{MARKS['poison']}%')")
        bad = self.recorded({"identity": FACTS["identity"] | {"givenName": MARKS["poison"]}})
        assert (await self.prison.answered(bad))["code"] == "set-aside"
        async with self.prison.http() as http:
            answer = await http.post("/events", json=bad | {"id": str(uuid4())})
            assert answer.status_code == 500
            self.keep(answer)
        admin_user = self.system.kafka.admin_user
        connection = self.prison.connection() | {
            "sasl_plain_username": admin_user,
            "sasl_plain_password": self.system.kafka.password(admin_user),
        }
        services = ("referral", "matching", "notifications")
        async with AIOKafkaProducer(**connection) as producer:
            for topic in [f"cleared.{s}" for s in services] + ["requests.referral"]:
                await producer.send_and_wait(self.system.namespace + topic, UNREADABLE)
        await admin.close()
        for database, count in [("consent", 2), *((s, 1) for s in services)]:
            admin = await asyncpg.connect(self.system.postgres.url(self.system.databases[database].name))

            async def kept(admin: Any = admin, count: int = count) -> bool:
                return bool(await admin.fetchval("SELECT count(*) FROM set_aside") == count)

            await eventually_true(kept, f"{database} to set {count} aside")
            self.found.set_aside[database] = count
            await admin.close()

    async def withdraw(self) -> None:
        taken_back = self.withdrawal()
        await self.prison.answered(taken_back)
        await self.prison.done(taken_back["id"])
        await self.prison.answered(json.dumps(self.withdrawal()).encode()[:-15])
        await self.prison.answered(self.withdrawal(time="never"))

    async def gather(self) -> None:
        async with httpx.AsyncClient() as http:
            for process in self.system.processes:
                for path in ("metrics", "healthz", "readyz"):
                    answer = await http.get(f"{self.system.process_url(process)}/{path}")
                    self.found.add("metrics", process, f"{answer.headers} {answer.text}")
        admin = self.system.kafka.admin()
        names = [t for t in admin.list_topics(timeout=10).topics if t.startswith(self.system.namespace)]
        groups = [g.group_id for g in admin.list_consumer_groups().result().valid]
        for name in names + groups:
            self.found.add("names in Kafka", name, name)
        user = self.system.kafka.admin_user
        connection = self.prison.connection() | {
            "sasl_plain_username": user,
            "sasl_plain_password": self.system.kafka.password(user),
        }
        async with AIOKafkaConsumer(**connection, auto_offset_reset="earliest") as consumer:
            partitions = [
                TopicPartition(t, p) for t in names for p in admin.list_topics(t, timeout=10).topics[t].partitions
            ]
            consumer.assign(partitions)
            ends = await consumer.end_offsets(partitions)
            while any([await consumer.position(p) < ends[p] for p in partitions]):
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    self.found.records += records
        for record in self.found.records:
            topic = record.topic.removeprefix(self.system.namespace)
            self.found.add("keys and headers", topic, b"%r %r" % (record.key, record.headers))
            if topic.startswith(("replies.", "requests.")) and record.value != UNREADABLE:
                self.found.add(topic.partition(".")[0], topic, record.value)


PLACES = [
    "process logs",
    "spans",
    "metrics",
    "keys and headers",
    "names in Kafka",
    "replies",
    "requests",
    "error answers",
    "PostgreSQL's log",
]


@pytest.mark.parametrize("where", PLACES)
def test_no_mark_is_found(where: str, fallen: Fallen) -> None:
    texts = fallen.texts[where]
    assert texts
    found = {
        (name, what) for name, text in texts for what, mark in MARKS.items() if mark.lower().encode() in text.lower()
    }
    assert found == set()


def test_the_story_was_told(fallen: Fallen) -> None:
    """What must be where it belongs is there, and what went wrong did: else nothing was searched."""
    values = {
        kind: b"".join(r.value for r in fallen.records if f"-{kind}" in r.topic and r.value != UNREADABLE)
        for kind in ("intake.", "partner.", "cleared.referral", "cleared.matching", "cleared.notifications")
    }
    for value in values.values():
        assert MARKS["given name"].encode() in value
        assert MARKS["summary"].encode() in value
    assert MARKS["risk"].encode() not in values["partner."], "the agreement does not cover it"
    logs = b"".join(text for _, text in fallen.texts["process logs"])
    assert logs.count(b"set aside") >= sum(fallen.set_aside.values())
    assert b'"error": "IntegrityError"' in logs, "what failed over HTTP was logged with its traceback"
    assert b"violates check constraint" in fallen.texts["PostgreSQL's log"][0][1]
    codes = {json.loads(text)["data"].get("code") for _, text in fallen.texts["replies"]}
    assert codes >= {
        "malformed-json",
        "unknown-type",
        "wrong-agency",
        "invalid-event",
        "time-in-future",
        "too-large",
        "set-aside",
    }
    assert {name for name, _ in fallen.texts["error answers"]} >= {"400", "401", "403", "404", "413", "422", "500"}
    makers = {service for service, _ in fallen.spans}
    assert makers >= {"consent-api", "consent-worker", "consent-discloser", "referral-worker", "notifications-worker"}


def test_spans_have_a_name_and_nothing_more(fallen: Fallen) -> None:
    for _, span in fallen.spans:
        assert not span.attributes
        assert not span.events
        assert not span.status.message
        assert all(not link.attributes for link in span.links)


def test_one_trace_leads_from_intake_to_the_partners_topic(fallen: Fallen) -> None:
    ours = {span.span_id.hex(): (service, span) for service, span in fallen.spans if span.trace_id.hex() == TRACE}
    last = f"send throughgate.referral.sent.v1 to partner.{HOSTEL}"
    at = next(id for id, (_, span) in ours.items() if span.name == last)
    way = []
    while at != SPAN:
        service, span = ours[at]
        way.append((service, span.name))
        at = span.parent_span_id.hex()
    assert way[::-1] == [
        ("consent-worker", "intake throughgate.client.recorded.v1"),
        ("consent-discloser", "send throughgate.client.changed.v1 to cleared.referral"),
        ("referral-worker", "referral applies throughgate.client.changed.v1"),
        ("consent-worker", "request throughgate.referral.requested.v1"),
        ("consent-discloser", last),
    ]


def test_partners_get_traces_of_their_own(fallen: Fallen) -> None:
    """Not ours, not another's, and the referral's sending step alone knows which is which."""
    ours = {span.trace_id.hex() for _, span in fallen.spans} | {TRACE}
    links = {link.trace_id.hex() for _, span in fallen.spans for link in span.links}
    given = [
        dict(r.headers)["traceparent"].decode().split("-")[1]
        for r in fallen.records
        if ("-partner." in r.topic or "-replies." in r.topic) and "traceparent" in dict(r.headers)
    ]
    assert len(set(given)) == len(given) > 2
    assert not set(given) & ours
    assert set(given) <= links
    inside = {
        dict(r.headers)["traceparent"].decode().split("-")[1]
        for r in fallen.records
        if ("-cleared." in r.topic or "-requests." in r.topic) and "traceparent" in dict(r.headers)
    }
    assert TRACE in inside <= ours
    for record in fallen.records:
        if "-partner." in record.topic:
            assert b"traceparent" not in record.value
            assert TRACE.encode() not in record.value
