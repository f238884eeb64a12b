"""The door's database is put back to a backup: it stays closed, reads back what the topics know better, then opens."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from support.agency import Agency, Operator, event, eventually, eventually_true, granted, terms, withdrawn
from support.commands import Commands

from consent.service.restoring import KEPT
from contracts.leaving import RETRACTED
from contracts.topics import read_topics
from throughgate.promises import Placed, behind_retraction
from throughgate.system import System

PRISON, HOSTEL = "hmp-leeds", "harbour-housing"
CATEGORIES = ["identity", "needs.accommodation"]
PROCESSES = ("consent.main", "consent.worker", "consent.discloser")


@dataclass
class Scene:
    """A door, the prison that tells it, the hostel that is told, and a backup of its database."""

    system: System
    prison: Agency
    hostel: Agency

    # --- what happens to the database ---

    async def back_up(self, waiting: Sequence[dict[str, Any]] = ()) -> None:
        """Copy the database, with the door stopped meanwhile; these events wait in their topic since an hour."""
        await self._stop()
        topic, hour_ago = f"{self.system.namespace}intake.{PRISON}", int((time.time() - 3600) * 1000)
        for body in waiting:  # in another partition than all others, so that nothing newer stands before it
            value = json.dumps(body).encode()
            await self.prison.producer.send_and_wait(topic, value, key=b"waiting", timestamp_ms=hour_ago)
        await self._admin(f"CREATE DATABASE {self._name}_backup OWNER {self._name}_owner TEMPLATE {self._name}")
        await self.start()
        await asyncio.to_thread(self.system.wait_ready)

    async def put_back(self) -> None:
        """Put the copy in the database's place, and start the door."""
        await self._stop()
        await self._admin(f"DROP DATABASE {self._name} WITH (FORCE)")
        await self._admin(f"ALTER DATABASE {self._name}_backup RENAME TO {self._name}")
        await self.start()

    async def start(self) -> None:
        """Start the door's processes."""
        for name in PROCESSES:
            await asyncio.to_thread(self.system.start_process, name)

    async def restore(self, *arguments: str, code: int = 0) -> str:
        """Run the step as the worker; gives what it says."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "consent.restore", *arguments],
            env=self.system.environment("consent.worker"),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    async def fetch(self, statement: str, *parameters: Any) -> list[Any]:
        """Ask the database as its superuser."""
        connection = await asyncpg.connect(self.system.postgres.url(self._name))
        try:
            return list(await connection.fetch(statement, *parameters))
        finally:
            await connection.close()

    @property
    def _name(self) -> str:
        return self.system.databases["consent"].name

    async def _stop(self) -> None:
        for name in PROCESSES:
            await asyncio.to_thread(self.system.stop_process, name)

    async def _admin(self, statement: str) -> None:
        connection = await asyncpg.connect(self.system.postgres.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    # --- what the agencies do ---

    async def over_http(self, body: dict[str, Any]) -> str:
        """Publish so that no topic keeps it; gives the event's id."""
        response = await self.prison.post(body)
        assert response.is_success, response.text
        return str(body["id"])

    def withdrawal(self, number: str, **scope: Any) -> dict[str, Any]:
        """A withdrawal made now."""
        return event("consent.withdrawn", PRISON, withdrawn(noms(number), **scope))

    def consent(self, number: str) -> dict[str, Any]:
        """A consent given now, on a new form."""
        return event("consent.granted", PRISON, granted(noms(number), [HOSTEL], ["referral"], CATEGORIES))

    def fact(self, number: str, text: str) -> dict[str, Any]:
        """Something that the prison records."""
        facts = {
            "identity": {"givenName": "Robin", "familyName": number},
            "needs.accommodation": {"level": "urgent", "summary": text},
        }
        return event("client.recorded", PRISON, {"identifiers": noms(number), "facts": facts})

    async def told(self, text: str) -> Placed | None:
        """What the hostel was told that says this."""
        for record in await self.hostel.received():
            if text in str(record.event["data"]):
                return record
        return None

    async def is_told(self, text: str) -> None:
        """Wait until the hostel was told this."""

        async def arrived() -> bool:
            return await self.told(text) is not None

        await eventually_true(arrived, f"the hostel to be told {text}")

    async def introduce(self, *numbers: str) -> None:
        """Clients of whom the hostel is told."""
        for number in numbers:
            await self.prison.answered(self.fact(number, f"first of {number}"))
            await self.prison.answered(self.consent(number))
            await self.is_told(f"first of {number}")


def noms(number: str) -> list[dict[str, str]]:
    """A client's prison number."""
    return [{"type": "NOMS", "value": number}]


@pytest.fixture
async def scene(make_system: Callable[..., System]) -> AsyncIterator[Scene]:
    system = make_system([PRISON, HOSTEL], ["consent"])
    operator = Operator(system)
    await operator.register(hmp_leeds="prison", harbour_housing="vcs")
    await operator.agree("leeds", [PRISON], [HOSTEL, "referral"], [terms("referral", CATEGORIES)])
    async with AsyncExitStack() as stack:
        prison, hostel = [await stack.enter_async_context(Agency(system, name)) for name in (PRISON, HOSTEL)]
        yield Scene(system, prison, hostel)


async def finds_out(scene: Scene) -> None:
    """Wait until the discloser says that its database is behind."""
    log = scene.system.log("consent.discloser")
    await eventually(lambda: "behind the topics" in log.read_text() or None, "the discloser to find out")


async def is_closed(scene: Scene) -> None:
    """The discloser says so and is not ready, the worker waits, and nobody is shown anything."""
    await finds_out(scene)
    before = len(await scene.hostel.received())
    await scene.prison.publish(scene.fact("A1111AA", "while it is closed"))
    await asyncio.sleep(2)
    assert len(await scene.hostel.received()) == before
    assert not scene.system._ready("consent.discloser")
    await eventually(lambda: scene.system._ready("consent.main") or None, "the API to answer")
    await _nobody_is_shown_anything(scene)
    await _nothing_of_a_client_is_changed(scene)


async def _nobody_is_shown_anything(scene: Scene) -> None:
    async with scene.hostel.http() as http:
        for path, body in (
            ("/views", {"clients": [str(await one_reference(scene))], "purpose": "referral", "categories": CATEGORIES}),
            ("/decisions", {"clients": [], "recipient": HOSTEL, "purpose": "referral", "categories": CATEGORIES}),
        ):
            response = await http.post(path, json=body)
            assert response.status_code == 503, response.text
            assert response.json()["code"] == "closed-after-a-restore"


async def _nothing_of_a_client_is_changed(scene: Scene) -> None:
    """Whoever asks: it could get a version that was used before."""
    id, reason = uuid4(), {"reason": "while it is closed"}
    names = {"identifiers": [{"type": "NOMS", "value": "A1111AA"}], "notSameAs": [{"type": "NOMS", "value": "A2222AA"}]}
    operator = Operator(scene.system)
    async with httpx.AsyncClient(base_url=scene.system.urls["consent"], headers=operator.headers) as http:
        for method, path, body in (
            ("POST", "/links", {"clients": [str(id), str(id)]} | reason),
            ("POST", "/unlinks", names | reason),
            ("DELETE", f"/links/{id}", None),
            ("PUT", f"/links/{id}/confirmation", None),
            ("POST", f"/candidates/{id}/decision", {"decision": "same"} | reason),
            ("DELETE", f"/holds/{id}", None),
            ("POST", "/set-aside/arrived/1/retry", None),
            ("POST", "/set-aside/arrived/1/discard", reason),
        ):
            response = await http.request(method, path, json=body)
            assert response.status_code == 503, f"{path}: {response.text}"
            assert response.json()["code"] == "closed-after-a-restore"


async def one_reference(scene: Scene) -> Any:
    """Of some client, for the hostel."""
    return (await scene.fetch("SELECT id FROM reference WHERE recipient = $1 LIMIT 1", HOSTEL))[0]["id"]


async def test_what_was_retracted_since_the_backup_stays_retracted(scene: Scene, tmp_path: Path) -> None:
    """A1 withdraws where no topic keeps the event, A2 withdraws and agrees anew, A3 is made known and withdraws."""
    await scene.introduce("A1111AA", "A2222AA")
    await scene.back_up()
    await scene.introduce("A3333AA")
    await scene.prison.done(await scene.over_http(scene.withdrawal("A1111AA")))
    await scene.prison.done(await scene.prison.publish(scene.withdrawal("A2222AA")))
    await scene.prison.answered(scene.consent("A2222AA"))
    await scene.prison.answered(scene.fact("A2222AA", "after agreeing anew"))
    await scene.is_told("after agreeing anew")
    forgotten = scene.withdrawal("A3333AA")
    await scene.prison.done(await scene.over_http(forgotten))
    heads = len(await scene.fetch("SELECT 1 FROM head"))

    await scene.put_back()
    await is_closed(scene)
    assert "run this without --open first" in await scene.restore("--open", code=1)
    said = await scene.restore()
    assert "The door stays closed." in said
    assert "2 references under which something was retracted" in said, said  # the hostel's and the referral service's
    await asyncio.sleep(1)
    assert not scene.system._ready("consent.discloser")
    await _nobody_is_shown_anything(scene)
    await scene.over_http(forgotten)  # as the operator asked, for nobody else can know whom that retraction was of
    await scene.restore("--open")
    await asyncio.to_thread(scene.system.wait_ready)
    assert len(await scene.fetch("SELECT 1 FROM head WHERE lost_at IS NOT NULL")) > 0
    assert len(await scene.fetch("SELECT 1 FROM head")) >= heads

    for number in ("A1111AA", "A2222AA", "A3333AA"):
        await scene.prison.answered(scene.fact(number, f"since the restore, of {number}"))
    await scene.is_told("since the restore, of A2222AA")
    records = await scene.hostel.received()
    assert behind_retraction(records) == []
    _no_version_stands_for_two_things(records)
    assert "since the restore, of A1111AA" not in str(records)
    assert "while it is closed" not in str(records)
    assert "since the restore, of A3333AA" not in str(records)

    await scene.prison.answered(scene.consent("A1111AA"))
    await scene.is_told("since the restore, of A1111AA")
    assert behind_retraction(await scene.hostel.received()) == []
    await _holds_say_so(scene, 2)
    await _the_chain_goes_on(scene, tmp_path)


def _no_version_stands_for_two_things(records: list[Placed]) -> None:
    """Every retraction is newer than all that stands before it under its key, what was lost included."""
    newest: dict[str, int] = {}
    for record in records:
        data, key = record.event["data"], record.event["subject"]
        version = data["version"] if record.event["type"] == RETRACTED else data["receipt"]["decidedOn"]
        if record.event["type"] == RETRACTED:
            assert version > newest.get(key, 0)
        newest[key] = max(version, newest.get(key, 0))


async def _holds_say_so(scene: Scene, count: int) -> None:
    holds = await Operator(scene.system).call("GET", "/holds")
    assert [hold["reason"] for hold in holds] == ["lost-in-a-restore"] * count


async def _the_chain_goes_on(scene: Scene, folder: Path) -> None:
    """A partner sees one chain; an auditor is told which batches were lost, and that nothing else is wrong."""

    async def sealed() -> bool:
        return not await scene.fetch(
            "SELECT 1 FROM ledger WHERE sequence IS NULL UNION SELECT 1 FROM head WHERE NOT sent"
        )

    await eventually_true(sealed, "the ledger to be sealed")
    throughgate = Commands(scene.system, folder)
    code, said = await throughgate("verify", "--as", HOSTEL)
    assert code == 0, said
    code, said = await throughgate("verify", "--ledger", "--as", HOSTEL, "--open")
    lost = await scene.fetch("SELECT min(sequence) AS a, max(sequence) AS b FROM head WHERE lost_at IS NOT NULL")
    assert code == 1, said
    assert f"Shard 0, batches {lost[0]['a']} to {lost[0]['b']}: lost in a restore" in said
    assert said.count("Shard 0, batch") == 1, said


async def test_a_retraction_alone_is_missed_too(scene: Scene) -> None:
    """No batch was sealed since the backup, and no reference is unknown."""
    await scene.introduce("A1111AA")
    await scene.back_up()
    heads = await scene.fetch("SELECT count(*) AS n FROM head")
    await scene.prison.done(await scene.over_http(scene.withdrawal("A1111AA")))
    assert await scene.fetch("SELECT count(*) AS n FROM head") == heads

    await scene.put_back()
    await is_closed(scene)
    assert "2 retractions were unknown" in await scene.restore()
    assert "The door opens" in await scene.restore("--open")
    await asyncio.to_thread(scene.system.wait_ready)
    assert "Nothing is missing" in await scene.restore()
    await scene.prison.answered(scene.fact("A1111AA", "since the restore"))
    await asyncio.sleep(2)
    assert await scene.told("since the restore") is None
    await scene.prison.answered(scene.consent("A1111AA"))
    await scene.is_told("since the restore")
    assert behind_retraction(await scene.hostel.received()) == []


async def test_what_is_no_withdrawal_holds_its_client(scene: Scene) -> None:
    """A restriction that nobody remembers: what it rested on cannot be told from its retraction. And an erasure, which
    looks the same at first, is done again."""
    await scene.introduce("A1111AA", "A2222AA")
    await scene.back_up()
    imposed = {"identifiers": noms("A1111AA"), "restriction": "r1", "kind": "victim-safety"}
    await scene.prison.done(await scene.over_http(event("restriction.imposed", PRISON, imposed)))
    erase = {"identifiers": noms("A2222AA"), "scope": "everything", "reason": "client-asked"}
    await scene.prison.done(await scene.prison.publish(event("erasure.requested", PRISON, erase)))

    await scene.put_back()
    await is_closed(scene)
    said = await scene.restore()
    assert len(await scene.fetch("SELECT DISTINCT client_id FROM fact")) == 1
    assert "The door stays closed." in said  # nobody can tell what was lost that stands in no topic
    assert "POST /events" in said
    assert "suspensions" in said
    await asyncio.sleep(1)
    assert not scene.system._ready("consent.discloser")
    await scene.restore("--open")
    await asyncio.to_thread(scene.system.wait_ready)
    await scene.prison.answered(scene.consent("A1111AA"))
    await scene.prison.answered(scene.fact("A1111AA", "while it is held"))
    await _holds_say_so(scene, 2)
    operator = Operator(scene.system)
    assert await scene.told("while it is held") is None
    for hold in await operator.call("GET", "/holds"):
        await operator.call("DELETE", f"/holds/{hold['hold']}")
    await scene.is_told("while it is held")
    assert behind_retraction(await scene.hostel.received()) == []


async def test_what_only_a_reply_remembers_is_missed_too(scene: Scene) -> None:
    """Nobody was told anything yet of A6 and A7, who withdraw. And what waited when the backup was made is taken in."""
    await scene.introduce("A1111AA")
    for number in ("A6666AA", "A7777AA"):
        facts = {"identifiers": noms(number), "facts": {"risk": {"harm": "low"}}}  # no agreement is about it
        await scene.prison.answered(event("client.recorded", PRISON, facts))
        await scene.prison.answered(scene.consent(number))
    high = event("client.recorded", PRISON, {"identifiers": noms("A7777AA"), "facts": {"risk": {"harm": "high"}}})
    await scene.back_up([high])
    await eventually(lambda: any(r["data"]["event"] == high["id"] for r in scene.prison.replies) or None, "the answer")
    await scene.prison.done(await scene.over_http(scene.withdrawal("A6666AA")))
    await scene.prison.done(await scene.prison.publish(scene.withdrawal("A7777AA")))

    await scene.put_back()
    await finds_out(scene)
    said = await scene.restore()
    assert f"{PRISON} was told that 1 events have their effect which are in no topic any more." in said
    assert any("high" in row["data"] for row in await scene.fetch("SELECT data FROM fact"))
    await scene.restore("--open")
    await asyncio.to_thread(scene.system.wait_ready)
    assert "Nothing is missing" in await scene.restore()
    for number in ("A7777AA", "A1111AA"):
        await scene.prison.answered(scene.fact(number, f"since the restore, of {number}"))
    await scene.is_told("since the restore, of A1111AA")
    assert await scene.told("since the restore, of A7777AA") is None


def test_every_topic_that_is_read_back_keeps_as_much() -> None:
    """Of what is older nobody can say that all of it was read."""
    folder = Path(__file__).parents[3] / "schemas" / "topics"
    kept = {topic.kind: topic.retention_ms for topic in read_topics(folder)}
    read = ("partner", "cleared", "replies", "intake", "requests")
    assert min(kept[kind] for kind in read) == KEPT.total_seconds() * 1000
