"""Replay: past questions against a changed policy. An unchanged one changes nothing, and nothing is ever written."""

import asyncio
import json
import random
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from support.agency import event, eventually_true
from support.commands import Commands
from support.door import accepted, superuser

CATEGORIES = ["identity", "contact", "custody-and-release", "needs.accommodation", "risk", "offence"]
FACTS = {
    "identity": {"givenName": "Robin", "familyName": "Fictional"},
    "contact": {"address": "1 Nowhere Street"},
    "needs.accommodation": {"level": "urgent", "summary": "no fixed abode"},
    "risk": {"harm": "low"},
    "offence": {"mainOffence": "made up", "spentOn": "2020-01-01"},
}


@pytest.fixture
def throughgate(lone_door: Any, tmp_path: Path) -> Commands:
    return Commands(lone_door.system, tmp_path)


async def settled(door: Any) -> None:
    async with superuser(door) as db:

        async def done() -> bool:
            return not await db.fetchval(
                "SELECT EXISTS (SELECT 1 FROM queue WHERE due_at <= clock_timestamp() AND set_aside IS NULL)"
                " OR EXISTS (SELECT 1 FROM ledger WHERE sequence IS NULL)"
            )

        await eventually_true(done, "everything to be decided")


class History:
    """Random things that are said, recorded, asked and shown of a few clients, through the real door."""

    def __init__(self, door: Any, seed: int) -> None:
        self.door = door
        self.random = random.Random(seed)
        self.clients = [[{"type": "CASE", "value": f"{seed}-{n}-{uuid4().hex[:6]}"}] for n in range(3)]
        self.references: list[str] = []
        self.own = 0

    async def play(self, steps: int) -> None:
        for who in self.clients:
            reply = await self.publish("client.recorded", {"identifiers": who, "facts": FACTS})
            self.references.append(reply["client"])
        acts = [self.record, self.grant, self.grant, self.withdraw, self.restrict, self.gateway, self.override]
        acts += [self.refuse, self.ask, self.end, self.look]
        for _ in range(steps):
            await self.random.choice(acts)()
            if self.random.random() < 0.3:
                await asyncio.sleep(0.05)  # sometimes the discloser comes in between

    async def publish(self, kind: str, data: dict[str, Any]) -> dict[str, Any]:
        prison = self.door.prison
        reply: dict[str, Any] = await prison.answered(event(kind, prison.name, data))
        assert reply["type"].endswith("accepted.v1"), reply
        return reply

    def who(self) -> dict[str, Any]:
        return {"identifiers": self.random.choice(self.clients)}

    def some(self, of: list[str]) -> list[str]:
        return sorted(self.random.sample(of, self.random.randint(1, len(of))))

    def parties(self) -> list[str]:
        return self.some([self.door.hostel.name, self.door.mentors.name])

    def named_parties(self) -> list[dict[str, str]]:
        """As a consent, a no or a restriction names them: some only for one service."""
        return [
            {"agency": a, "service": "hot meals"} if self.random.random() < 0.4 else {"agency": a}
            for a in self.parties()
        ]

    def named(self) -> str:
        self.own += 1
        return f"{self.own}-{uuid4().hex[:6]}"

    async def record(self) -> None:
        facts = {c: FACTS[c] for c in self.some(list(FACTS))}
        await self.publish("client.recorded", self.who() | {"facts": facts})

    async def grant(self) -> None:
        now = datetime.now(UTC)
        valid = {}
        if self.random.random() < 0.3:
            valid = {"validUntil": (now + timedelta(seconds=self.random.choice([0.2, 3600]))).isoformat()}
        data = {
            "form": uuid4().hex,
            "recipients": self.named_parties(),
            "purposes": self.some(["referral", "mentor-matching"]),
            "categories": self.some(CATEGORIES),
            "givenAt": now.isoformat(),
            "how": {"formVersion": "2026-1", "witnessRole": "resettlement worker"},
        }
        await self.publish("consent.granted", self.who() | data | valid)

    async def withdraw(self) -> None:
        scope: dict[str, Any] = {"scope": "everything"}
        if self.random.random() < 0.6:
            scope = {"scope": "listed", "categories": self.some(CATEGORIES)}
        await self.publish("consent.withdrawn", self.who() | scope | {"withdrawnAt": datetime.now(UTC).isoformat()})

    async def refuse(self) -> None:
        data = {"refusedAt": datetime.now(UTC).isoformat(), "recipients": self.named_parties(), "scope": "listed"}
        await self.publish("consent.refused", self.who() | data)

    async def restrict(self) -> None:
        self.restriction = {"restriction": self.named()} | self.who()
        data = {
            "kind": "exclusion",
            "recipients": self.named_parties(),
            "categories": self.some(CATEGORIES),
            "reason": "x",
        }
        await self.publish("restriction.imposed", self.restriction | data)

    async def end(self) -> None:
        if hasattr(self, "restriction"):
            await self.publish("restriction.lifted", self.restriction)

    def _invoked(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        return self.who() | {
            "recipients": [*self.parties(), self.door.probation.name],
            "purposes": ["public-protection"],
            "categories": self.some(CATEGORIES),
            "starts": now.isoformat(),
            "ends": (now + timedelta(days=1)).isoformat(),
            "reason": "made up",
        }

    async def gateway(self) -> None:
        more = {"gateway": self.named(), "basis": "cda-1998-s115", "authorisedByRole": "duty manager"}
        await self.publish("gateway.invoked", self._invoked() | more | {"recipients": [self.door.probation.name]})

    async def override(self) -> None:
        review = (datetime.now(UTC) + timedelta(hours=20)).isoformat()
        more = {"override": self.named(), "authorisedBy": "s-1", "approvedBy": "s-2", "reviewBy": review}
        await self.publish("override.authorised", self._invoked() | more)

    async def ask(self) -> None:
        body = {
            "clients": self.references,
            "recipient": self.random.choice([self.door.hostel.name, self.door.mentors.name, self.door.probation.name]),
            "purpose": self.random.choice(["referral", "public-protection"]),
            "categories": self.some(CATEGORIES),
            "service": "hot meals",
        }
        async with self.door.prison.http() as http:
            assert (await http.post("/decisions", json=body)).status_code == 200

    async def look(self) -> None:
        body = {"clients": self.references, "purpose": "referral", "categories": CATEGORIES}
        async with self.door.prison.http() as http:
            assert (await http.post("/views", json=body)).status_code == 200


async def replayed(throughgate: Commands, since: datetime, policy: dict[str, Any]) -> dict[str, Any]:
    file = throughgate.folder / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    code, said = await throughgate("replay", "--policy", file, "--since", since.isoformat(), "--json")
    assert code == 0, said
    told: dict[str, Any] = json.loads(said)
    return told


AS_IT_IS = {"gateways": {"cda-1998-s115": {"ownOnly": True}}}


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_an_unchanged_policy_changes_nothing(seed: int, lone_door: Any, throughgate: Commands) -> None:
    since = datetime.now(UTC)
    await History(lone_door, seed).play(40)
    await settled(lone_door)
    told = await replayed(throughgate, since, AS_IT_IS)
    assert told["decided"] > 20
    assert (told["unclear"], told["newly_leaves"], told["newly_withheld"], told["erased"]) == ([], [], [], 0)
    assert told["newly_possible"] == []


def agreement(door: Any, *categories: str, version: int = 1) -> dict[str, Any]:
    """The agreement of the fixture, as a policy file has it, with other categories."""
    services = ["referral"]
    return {
        "id": f"referral-{door.prison.name.rpartition('-')[2]}",
        "version": version,
        "sources": [door.prison.name],
        "recipients": [door.hostel.name, door.mentors.name, *services],
        "terms": [{"purpose": "referral", "basis": "consent", "categories": list(categories), "subscription": True}],
        "starts": "2026-01-01T00:00:00Z",
        "review": "2029-06-01T00:00:00Z",
        "ends": "2030-01-01T00:00:00Z",
    }


async def test_it_says_what_would_newly_leave_and_newly_be_withheld(lone_door: Any, throughgate: Commands) -> None:
    since = datetime.now(UTC)
    await lone_door.prison.answered(lone_door.recorded())
    await lone_door.prison.answered(lone_door.consent(lone_door.hostel))

    async def arrived() -> bool:
        return len(await lone_door.hostel.received()) >= 1

    await eventually_true(arrived, "the snapshot")
    await settled(lone_door)
    decision = (await lone_door.hostel.received())[0].event["data"]["receipt"]["decision"]
    for version in (1, 2):  # in the place of the version in force, or as one that begins before and takes its place
        told = await replayed(
            throughgate, since, {"agreements": [agreement(lone_door, "identity", "risk", version=version)]}
        )
        newly = [(g["recipient"], g["category"]) for g in told["newly_leaves"] if decision in g["decisions"]]
        assert newly == [(lone_door.hostel.name, "risk")]
        gone = [
            (g["recipient"], g["category"], g["rule"]) for g in told["newly_withheld"] if decision in g["decisions"]
        ]
        assert gone == [(lone_door.hostel.name, "needs.accommodation", "agreement-category")]
        assert told["newly_possible"] == [], "past questions show it"
    code, said = await throughgate(
        "replay", "--policy", throughgate.folder / "policy.yaml", "--since", since.isoformat()
    )
    assert code == 0
    assert decision in said
    assert "Would newly be withheld:" in said


def possible(told: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(p["recipient"], p["category"], p["clients"]) for p in told["newly_possible"]]


def with_probation(door: Any, *categories: str, purpose: str = "referral") -> dict[str, Any]:
    """A next version, by which probation gets something too."""
    made = agreement(door, *categories, version=2)
    made["recipients"].append(door.probation.name)
    made["terms"][0]["purpose"] = purpose
    return {"agreements": [made]}


async def test_a_recipient_whom_the_change_adds_is_asked_for(lone_door: Any, throughgate: Commands) -> None:
    since = datetime.now(UTC)
    door = lone_door
    await door.prison.answered(door.recorded())
    await settled(door)
    changed = with_probation(door, "identity", "needs.accommodation")
    assert possible(await replayed(throughgate, since, changed)) == [], "nobody consented"
    await door.prison.answered(door.consent(door.probation))  # it opens nothing, as the agreement is
    await settled(door)
    told = await replayed(throughgate, since, changed)
    assert [g for g in told["newly_leaves"] if g["recipient"] == door.probation.name] == [], "nobody could ask"
    probation = door.probation.name
    assert possible(told) == [(probation, "identity", 1), (probation, "needs.accommodation", 1)]
    code, said = await throughgate(
        "replay", "--policy", throughgate.folder / "policy.yaml", "--since", since.isoformat()
    )
    assert code == 0
    heading, _, below = said.partition("By questions that nobody asked then, of 1 clients as they are today,")
    assert probation not in heading
    assert re.search(rf"{probation} +identity +1 clients", below)
    assert "Not looked at: what was recorded, consented to or linked in that time and is so no longer." in below
    assert (
        possible(await replayed(throughgate, since, with_probation(door, "identity", purpose="mentor-matching"))) == []
    )
    await door.prison.answered(door.withdrawal())
    assert possible(await replayed(throughgate, since, changed)) == [], "as the client stands today"


async def test_a_category_that_nobody_asked_about_is_asked_for(lone_door: Any, throughgate: Commands) -> None:
    """What was decided before the time counts for nothing; a consultation takes nothing off, for nothing left by it."""
    door = lone_door
    reply = await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))
    await settled(door)
    since = datetime.now(UTC)
    question = {"clients": [reply["client"]], "recipient": door.hostel.name, "purpose": "referral"}
    async with door.prison.http() as http:
        assert (await http.post("/decisions", json=question | {"categories": ["risk"]})).status_code == 200
    told = await replayed(throughgate, since, {"agreements": [agreement(door, *CATEGORIES)]})
    assert [(g["category"], g["asked_only"]) for g in told["newly_leaves"]] == [("risk", True)]
    assert possible(told) == [(door.hostel.name, "risk", 1), ("referral", "risk", 1)], "our service is a recipient too"


async def test_consent_for_one_service_and_recipients_that_are_not_registered(
    lone_door: Any, throughgate: Commands
) -> None:
    since = datetime.now(UTC)
    door = lone_door
    await door.prison.answered(door.recorded())
    consent = door.consent(door.hostel)
    consent["data"]["recipients"] = [{"agency": door.probation.name, "service": "hot meals"}]
    await door.prison.answered(consent)
    await settled(door)
    changed = with_probation(door, "identity")
    changed["agreements"][0]["recipients"].append("nobody-yet")
    told = await replayed(throughgate, since, changed)
    assert possible(told) == [(door.probation.name, "identity", 1)]
    assert told["unregistered"] == ["nobody-yet"]


async def test_a_gateway_that_reaches_more_is_tried_on_who_is_there(lone_door: Any, throughgate: Commands) -> None:
    door = lone_door
    await door.prison.answered(door.recorded())
    said = door.invoked("gateway", door.prison, door.probation)
    await accepted(door.prison, said)
    async with superuser(door) as db:  # as it was taken once: today one that names a charity is not
        named = "UPDATE sharing_fact SET body = jsonb_set(body, '{recipients}', to_jsonb($1::text[]))"
        assert await db.execute(f"{named} WHERE event_id = $2", [door.hostel.name], said["id"]) == "UPDATE 1"
    await settled(door)
    told = await replayed(
        throughgate, datetime.now(UTC), {"gateways": {"cda-1998-s115": {"recipients": ["vcs"], "categories": ["risk"]}}}
    )
    assert [found for found in possible(told) if found[0] == door.hostel.name] == [(door.hostel.name, "risk", 1)]


async def test_all_clients_are_asked_about_in_chunks(lone_door: Any) -> None:
    import consent.replay
    from consent.service import replaying

    people = [[{"type": "CASE", "value": uuid4().hex}] for _ in range(5)]
    door = lone_door
    for who in people:
        await door.prison.answered(event("client.recorded", door.prison.name, {"identifiers": who, "facts": FACTS}))
        given = door.consent(door.probation)
        given["data"]["identifiers"] = who
        await door.prison.answered(given)
    same = {"identifiers": people[0], "sameAs": people[1], "reason": "made up"}
    await accepted(door.prison, event("identity.linked", door.prison.name, same))
    await settled(door)
    program: Any = consent.replay
    url = door.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"]
    kept, replaying.CHUNK = replaying.CHUNK, 2
    try:
        change = program.Change.model_validate(with_probation(door, "identity"))
        told = await program.run(url, change, datetime.now(UTC))
    finally:
        replaying.CHUNK = kept
    assert [(p.recipient, p.category, p.clients) for p in told.newly_possible] == [
        (door.probation.name, "identity", 4)
    ], "two of the five are one"


async def test_a_message_that_was_held_back_for_one_item_is_asked_again_whole(
    lone_door: Any, throughgate: Commands
) -> None:
    """What a referral is about leaves whole or not at all: the entry keeps what was neither permitted nor withheld."""
    await lone_door.prison.answered(lone_door.recorded())
    await lone_door.prison.answered(lone_door.consent(lone_door.hostel))
    await settled(lone_door)
    since = datetime.now(UTC)
    source = lone_door.prison.name
    section = {"source": source, "recordedAt": since.isoformat()}
    body = {
        "sections": [section | {"category": c, "data": FACTS[c]} for c in ("identity", "risk")],
        "about": [[source, "risk"]],
        "message": {"referral": str(uuid4()), "service": "hot meals", "pathway": "needs.accommodation"},
    }
    async with superuser(lone_door) as db:
        await db.execute(
            "INSERT INTO queue (kind, client_id, recipient, topic, reference, type, purpose, body, due_at, keyed_by)"
            " SELECT 2, client_id, recipient, 'partner.' || recipient, id, 'throughgate.referral.sent.v1', 'referral',"
            " $2, clock_timestamp(), client_id FROM reference WHERE recipient = $1",
            lone_door.hostel.name,
            json.dumps(body),
        )
        await db.execute("NOTIFY queue")
    await settled(lone_door)
    told = await replayed(throughgate, since, AS_IT_IS)
    assert (told["unclear"], told["newly_leaves"]) == ([], [])
    told = await replayed(throughgate, since, {"agreements": [agreement(lone_door, "identity", "risk")]})
    newly = [g["category"] for g in told["newly_leaves"] if g["recipient"] == lone_door.hostel.name]
    assert newly == ["identity", "risk"]


async def test_a_changed_gateway_is_tried(lone_door: Any, throughgate: Commands) -> None:
    since = datetime.now(UTC)
    prison, probation = lone_door.prison, lone_door.probation
    await prison.answered(lone_door.recorded())
    now = datetime.now(UTC)
    data = {
        "identifiers": lone_door.identifiers,
        "gateway": uuid4().hex,
        "basis": "cda-1998-s115",
        "recipients": [probation.name],
        "purposes": ["public-protection"],
        "categories": ["risk"],
        "starts": now.isoformat(),
        "ends": (now + timedelta(days=1)).isoformat(),
        "authorisedByRole": "duty manager",
        "reason": "made up",
    }
    assert (await prison.answered(event("gateway.invoked", prison.name, data)))["type"].endswith("accepted.v1")

    async def arrived() -> bool:
        return len(await probation.received()) == 1

    await eventually_true(arrived, "what the gateway let out")
    await settled(lone_door)
    told = await replayed(throughgate, since, {"gateways": {"cda-1998-s115": {"recipients": ["police"]}}})
    assert [(g["recipient"], g["category"]) for g in told["newly_withheld"]] == [(probation.name, "risk")]
    assert told["newly_leaves"] == []


async def test_a_policy_that_does_not_fit_is_told_in_a_sentence(lone_door: Any, throughgate: Commands) -> None:
    file = throughgate.folder / "policy.yaml"
    policies: list[dict[str, Any]] = [
        {"agreement": []},
        {"gateways": {"consent": {"own_only": True}}},
        {"agreements": [{"id": "x"}]},
    ]
    for policy in policies:
        file.write_text(yaml.safe_dump(policy))
        code, said = await throughgate("replay", "--policy", file, "--since", "2026-01-01")
        assert code == 1
        assert "The policy does not fit" in said

    for unreadable in ("&a [*a]", "[" * 5000, "a: [", "{when: 1e400, \xff"):
        file.write_text(unreadable)
        code, said = await throughgate("replay", "--policy", file, "--since", "2026-01-01")
        assert (code, "is no YAML that can be read" in said) == (1, True), said
    for nothing in ("", "{}", "agreements: []", "gateways: {cda-1998-s115: {}}"):
        file.write_text(nothing)
        code, said = await throughgate("replay", "--policy", file, "--since", "2026-01-01")
        assert (code, "The policy changes nothing: name the agreements" in said) == (1, True), said
    for never in ("9999-12-31T23:59:59-14:00", "tomorrow"):
        code, said = await throughgate("replay", "--policy", file, "--since", never)
        assert (code, "--since: invalid" in said) == (1, True), said


async def test_it_needs_to_read_only_and_changes_nothing(lone_door: Any, throughgate: Commands) -> None:
    since = datetime.now(UTC)
    await History(lone_door, 7).play(10)
    await settled(lone_door)
    postgres, database = lone_door.system.postgres, lone_door.system.databases["consent"].name
    role = f"reader_{uuid4().hex[:8]}"
    async with superuser(lone_door) as db:
        lone_door.system.stop_process("consent.discloser")
        lone_door.system.stop_process("consent.worker")  # what they do by the clock would change something
        try:
            await db.execute(f"CREATE ROLE {role} LOGIN BYPASSRLS PASSWORD '{postgres.role_password(role)}'")
            await db.execute(f"GRANT CONNECT ON DATABASE {database} TO {role}; GRANT USAGE ON SCHEMA public TO {role}")
            await db.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
            tables = [r[0] for r in await db.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]

            async def state() -> list[Any]:
                return [
                    await db.fetchval(
                        f'SELECT coalesce(sum(hashtextextended(xmin::text || t::text, 0)), 0) FROM "{table}" t'
                    )
                    for table in sorted(tables)
                ]

            before = await state()
            file = throughgate.folder / "policy.yaml"
            file.write_text("gateways: {cda-1998-s115: {recipients: [vcs]}}")
            env = throughgate.environment() | {"THROUGHGATE_DATABASE_URL": postgres.role_url(database, role)}
            code, said = await throughgate("replay", "--policy", file, "--since", since.isoformat(), "--json", env=env)
            assert code == 0, said
            assert json.loads(said)["decided"] > 5
            assert await state() == before
        finally:
            await db.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
            lone_door.system.start_process("consent.discloser")
            lone_door.system.start_process("consent.worker")
            lone_door.system.wait_ready()


async def test_the_transaction_cannot_write(lone_door: Any) -> None:
    """Even with a role that may: PostgreSQL itself refuses."""
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError

    import consent.replay

    program: Any = consent.replay

    async def writes(connection: Any, *_: Any) -> Any:
        await connection.execute(text("UPDATE client SET version = version"))

    kept, program.replay = program.replay, writes
    try:
        url = lone_door.system.environment("consent.worker")["THROUGHGATE_DATABASE_URL"]
        with pytest.raises(DBAPIError, match="read-only transaction"):
            await program.run(url, program.Change(), datetime.now(UTC))
    finally:
        program.replay = kept
