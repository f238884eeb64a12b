"""The register of agreements, over HTTP with the tokens of those who sign, on a door with two discloser shards."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from support.agency import Agency, Operator, event, eventually_true, granted, prison_number, terms
from support.door import accepted, superuser
from support.settled import settled

from servicekit.auth import OPERATOR
from throughgate.native.process import Process, free_port
from throughgate.system import System
from throughgate.tokens import SCOPES

SHARDS = {"THROUGHGATE_SHARDS": "2", "THROUGHGATE_SESSION_SECONDS": "60"}
CATEGORIES = ["identity", "needs.accommodation"]
FACTS = {
    "identity": {"givenName": "Robin", "familyName": "Fictional"},
    "needs.accommodation": {"level": "urgent", "summary": "no fixed abode"},
}
SETS = 32
NAMES = ("prison", "hostel", "mentors")
_sets = count()


@dataclass
class Shards:
    """A door whose discloser has two shards: the system's own process is shard 0."""

    system: System
    second: Process | None = None

    def start_second(self, **more: str) -> None:
        """Start shard 1, or start it again."""
        if self.second is not None:
            self.second.stop()
        self.second = Process(
            "shard 1",
            [sys.executable, "-m", "consent.discloser"],
            log=self.system.run_dir / "logs" / "shard-1.log",
            env=self.system.environment("consent.discloser")
            | {"THROUGHGATE_SHARD": "1", "THROUGHGATE_HTTP_PORT": str(free_port())}
            | more,
            cwd=self.system.run_dir,
        )
        self.second.start()

    @contextmanager
    def stopped(self, *shards: int) -> Iterator[None]:
        """These shards do nothing meanwhile, as if their machines hung."""
        assert self.second is not None
        pids = [self.system.pid("consent.discloser"), self.second.pid]
        try:
            for shard in shards:
                os.kill(pids[shard], signal.SIGSTOP)
            yield
        finally:
            for shard in shards:
                with suppress(ProcessLookupError):
                    os.kill(pids[shard], signal.SIGCONT)


@pytest.fixture(scope="module")
def shards(start_system: Callable[..., System]) -> Iterator[Shards]:
    """One door with two shards for this file; its worker takes two at a time, so that chunks are small."""
    system = start_system(
        [f"{name}-{n}" for n in range(SETS) for name in NAMES],
        ["consent"],
        environment={"consent.discloser": SHARDS, "consent.worker": {"THROUGHGATE_BATCH": "2"}},
    )
    found = Shards(system)
    found.start_second()
    yield found
    if found.second is not None:
        found.second.stop()


class Party(Agency):
    """An agency whose people sign."""

    def __init__(self, system: System, name: str) -> None:
        super().__init__(system, name)
        scopes = ["events:write", "disclosures:read", "agreements:read", "agreements:sign"]
        self.token = system.issuer.token("head", name, scopes)

    async def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One request to the door's API."""
        async with self.http() as http:
            return await http.request(method, path, json=body)

    async def does(self, method: str, path: str, body: Any = None) -> Any:
        """One request that succeeds; gives what it answers."""
        response = await self.call(method, path, body)
        assert response.is_success, response.text
        return response.json()

    async def signs(self, draft: str) -> httpx.Response:
        """Sign a draft."""
        return await self.call("POST", f"/agreement-drafts/{draft}/signatures", {"name": "A. Head", "role": "Head"})

    async def state(self, agreement: str) -> list[str]:
        """The states of an agreement's versions, oldest first, as this party sees them."""
        return [v["state"] for v in (await self.does("GET", f"/agreements/{agreement}"))["versions"]]

    async def data(self) -> list[dict[str, Any]]:
        """What it was sent, oldest first by the time of decision."""
        found = [r.event["data"] for r in await self.received()]
        return sorted(found, key=lambda d: str(d["receipt"]["decidedAt"]))


@dataclass
class Sides:
    """Three agencies that nobody has used, the operator, and the shards."""

    shards: Shards
    operator: Operator
    prison: Party
    hostel: Party
    mentors: Party

    async def client(self, *recipients: Party) -> list[dict[str, str]]:
        """A client of the prison who agrees that these are told for a referral."""
        identifiers = [own()]
        await self.record(identifiers)
        names = [r.name for r in recipients]
        consent = granted(identifiers, names, ["referral"], CATEGORIES)
        await accepted(self.prison, event("consent.granted", self.prison.name, consent))
        return identifiers

    async def record(self, identifiers: list[dict[str, str]]) -> dict[str, Any]:
        """The prison records something of a client."""
        data = {"identifiers": identifiers, "facts": FACTS}
        return await accepted(self.prison, event("client.recorded", self.prison.name, data))

    def text(self, *recipients: Party, **more: Any) -> dict[str, Any]:
        """What an agreement says: the prison tells these for referrals, from yesterday for a year."""
        return {
            "sources": [self.prison.name],
            "recipients": [r.name for r in recipients],
            "terms": [terms("referral", CATEGORIES)],
            "starts": moment(days=-1),
            "review": moment(days=180),
            "ends": moment(days=365),
        } | more

    async def agree(self, *recipients: Party, **more: Any) -> dict[str, Any]:
        """Such an agreement, proposed by the prison and signed by all; gives the change that put it in force."""
        draft = (await self.prison.does("POST", "/agreement-drafts", self.text(*recipients, **more)))["draft"]
        for party in (self.prison, *recipients):
            last = await party.signs(draft)
        assert last.status_code == 202, last.text
        change: dict[str, Any] = last.json()["change"]
        return change

    async def done(self, change: str) -> dict[str, Any]:
        """Wait until a change is done."""
        status: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal status
            status = await self.prison.does("GET", f"/agreement-changes/{change}")
            return bool(status["done"])

        await eventually_true(look, "every shard to have seen the change")
        return status


def moment(**ago: float) -> str:
    """A time from now."""
    return (datetime.now(UTC) + timedelta(**ago)).isoformat()


@pytest.fixture
async def sides(shards: Shards) -> AsyncIterator[Sides]:
    """Registered agencies without any agreement."""
    n = next(_sets)
    operator = Operator(shards.system)
    names = [f"{name}-{n}" for name in NAMES]
    await operator.register(**dict(zip((x.replace("-", "_") for x in names), ("prison", "vcs", "vcs"), strict=True)))
    async with AsyncExitStack() as stack:
        parties = [await stack.enter_async_context(Party(shards.system, x)) for x in names]
        yield Sides(shards, operator, *parties)


async def arrives(party: Party, number: int, what: str) -> list[dict[str, Any]]:
    """Wait until so many records stand on a party's topic; gives their data."""

    async def look() -> bool:
        return len(await party.received()) >= number

    await eventually_true(look, what)
    return await party.data()


def versions(record: dict[str, Any]) -> set[int]:
    """The agreement versions that a record's receipt rests on."""
    return {p["agreementVersion"] for p in record["receipt"]["permitted"]}


# --- signing ----------------------------------------------------------------------------------------------------------


async def test_a_draft_is_signed_by_each_party_and_the_last_signature_puts_it_in_force(sides: Sides) -> None:
    await sides.client(sides.hostel)
    draft = (await sides.prison.does("POST", "/agreement-drafts", sides.text(sides.hostel)))["draft"]
    first = await sides.prison.signs(draft)
    assert first.status_code == 200
    assert (first.json()["missingSignatures"], first.json()["change"]) == ([sides.hostel.name], None)
    (seen,) = await sides.hostel.does("GET", "/agreements")
    assert (seen["state"], seen["draft"], seen["missingSignatures"]) == ("draft", draft, [sides.hostel.name])
    await sides.client(sides.hostel)  # decided, if at all, before the last signature
    assert await sides.hostel.received() == [], "one that not everybody signed shares nothing"
    last = await sides.hostel.signs(draft)
    assert last.status_code == 202
    change = last.json()["change"]
    assert last.headers["location"] == f"/agreement-changes/{change['change']}"
    told = await arrives(sides.hostel, 2, "the snapshots")
    assert all(datetime.fromisoformat(r["receipt"]["decidedAt"]) >= datetime.fromisoformat(change["at"]) for r in told)
    assert [versions(r) for r in told] == [{1}, {1}]
    (version,) = await sides.prison.does("GET", "/agreements")
    assert (version["state"], version["version"], version["reviewOverdue"]) == ("in-force", 1, False)
    assert [(s["agency"], s["name"], s["role"]) for s in version["signatories"]] == [
        (sides.hostel.name, "A. Head", "Head"),
        (sides.prison.name, "A. Head", "Head"),
    ]
    again = await sides.hostel.signs(draft)
    assert again.json()["change"] == change, "a repeated signature changes nothing"


async def test_strangers_do_not_learn_that_an_agreement_exists(sides: Sides) -> None:
    draft = (await sides.prison.does("POST", "/agreement-drafts", sides.text(sides.hostel)))["draft"]
    change = await sides.agree(sides.hostel)
    id, reason = change["agreement"], {"reason": "because"}
    stranger = sides.mentors
    assert await stranger.does("GET", "/agreements") == []
    asked = [
        await stranger.call("GET", f"/agreements/{id}"),
        await stranger.call("GET", f"/agreement-changes/{change['change']}"),
        await stranger.signs(draft),
        await stranger.call("POST", f"/agreements/{id}/suspension", reason),
        await stranger.call("POST", f"/agreements/{id}/resumption", reason),
        await stranger.call("POST", f"/agreements/{id}/departure", reason),
        await stranger.call("POST", "/agreement-drafts", sides.text(stranger) | {"agreement": id}),
    ]
    nothing = [
        await stranger.call("GET", "/agreements/no-such"),
        await stranger.call("GET", f"/agreement-changes/{uuid4()}"),
        await stranger.signs(str(uuid4())),
        await stranger.call("POST", "/agreements/no-such/suspension", reason),
        await stranger.call("POST", "/agreements/no-such/resumption", reason),
        await stranger.call("POST", "/agreements/no-such/departure", reason),
        await stranger.call("POST", "/agreement-drafts", sides.text(stranger) | {"agreement": "no-such"}),
    ]
    assert [r.status_code for r in asked] == [404] * 7
    assert [r.json() for r in asked] == [r.json() for r in nothing], "the answers are the same, word for word"
    assert len(await sides.prison.does("GET", "/agreements")) == 2
    everything = await sides.operator.call("GET", "/agreements")
    assert id in {a["id"] for a in everything}, "the operator sees all"


async def test_who_is_no_party_cannot_propose_and_a_name_cannot_be_taken_over(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    others = await sides.mentors.call("POST", "/agreement-drafts", sides.text(sides.hostel))
    assert (others.status_code, others.json()["code"]) == (403, "not-a-party")
    # The hostel and the mentors alone cannot replace what the prison signed.
    text = sides.text(sides.mentors) | {"sources": [sides.hostel.name], "agreement": change["agreement"]}
    draft = (await sides.hostel.does("POST", "/agreement-drafts", text))["draft"]
    await sides.hostel.signs(draft)
    signed = await sides.mentors.signs(draft)
    assert (signed.status_code, signed.json()["missingSignatures"]) == (200, [sides.prison.name])
    assert (await sides.hostel.state(change["agreement"]))[0] == "in-force"


async def test_of_two_drafts_of_one_version_the_second_is_closed(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    text = sides.text(sides.hostel) | {"agreement": change["agreement"]}
    drafts = [(await sides.prison.does("POST", "/agreement-drafts", text))["draft"] for _ in range(2)]
    for draft in drafts:
        assert (await sides.prison.signs(draft)).status_code == 200
    answers = await asyncio.gather(*(sides.hostel.signs(draft) for draft in drafts))
    assert sorted(a.status_code for a in answers) == [202, 409]
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"draft-closed"}
    assert await sides.prison.state(change["agreement"]) == ["superseded", "in-force"]


async def test_of_the_same_version_entered_many_times_at_once_one_is_taken(sides: Sides) -> None:
    body = sides.text(sides.hostel) | {
        "id": f"paper-{sides.prison.name}",
        "version": 1,
        "signatories": {sides.prison.name: "A", sides.hostel.name: "B"},
    }
    async with httpx.AsyncClient(base_url=sides.shards.system.urls["consent"], headers=sides.operator.headers) as http:
        answers = await asyncio.gather(*(http.post("/agreements", json=body, timeout=30) for _ in range(8)))
    assert sorted(a.status_code for a in answers) == [202] + [409] * 7
    assert {a.json()["code"] for a in answers if a.status_code == 409} == {"version-conflict"}


async def test_only_the_operator_enters_what_was_signed_on_paper(sides: Sides) -> None:
    """Else an agency could sign in the name of others, whatever scopes it has."""
    scopes = [scope for scope in SCOPES if scope != OPERATOR]
    sides.prison.token = sides.shards.system.issuer.token("head", sides.prison.name, scopes)
    body = sides.text(sides.hostel) | {
        "id": f"forged-{sides.prison.name}",
        "version": 1,
        "signatories": {sides.prison.name: "A", sides.hostel.name: "B"},
    }
    answer = await sides.prison.call("POST", "/agreements", body)
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    assert await sides.hostel.does("GET", "/agreements") == []


async def test_all_that_a_version_says_is_kept_and_an_overdue_review_is_shown(sides: Sides) -> None:
    text = sides.text(
        sides.hostel,
        terms=[terms("referral", CATEGORIES) | {"ownWord": True}],
        enforces=[sides.hostel.name],
        review=moment(hours=-1),
    )
    draft = (await sides.prison.does("POST", "/agreement-drafts", text))["draft"]
    await sides.prison.signs(draft)
    await sides.hostel.signs(draft)
    (version,) = await sides.hostel.does("GET", "/agreements")
    assert version["terms"][0]["ownWord"]
    assert version["enforces"] == [sides.hostel.name]
    assert version["reviewOverdue"]
    # and decisions use it: the hostel's own word opens this
    await sides.prison.answered(
        event(
            "client.recorded",
            sides.prison.name,
            {"identifiers": [noms := own()], "facts": {"identity": FACTS["identity"]}},
        )
    )
    await accepted(
        sides.hostel, event("client.recorded", sides.hostel.name, {"identifiers": [noms], "facts": {"contact": {}}})
    )
    consent = granted([noms], [sides.hostel.name], ["referral"], ["identity"])
    await accepted(sides.hostel, event("consent.granted", sides.hostel.name, consent))
    await arrives(sides.hostel, 1, "the record that rests on the recipient's own word")


def own() -> dict[str, str]:
    """A number that nobody has."""
    return {"type": "NOMS", "value": prison_number()}


# --- versions ---------------------------------------------------------------------------------------------------------


async def test_old_decisions_keep_pointing_at_the_version_that_they_rested_on(sides: Sides) -> None:
    identifiers = await sides.client(sides.hostel)
    change = await sides.agree(sides.hostel)
    await arrives(sides.hostel, 1, "the snapshot under version 1")
    await sides.agree(sides.hostel, agreement=change["agreement"])
    mine = await sides.record(identifiers)
    await arrives(sides.hostel, 2, "the change under version 2")
    assert [versions(r) for r in await sides.hostel.data()] == [{1}, {2}], "no second snapshot: nothing began"
    entries = (await sides.prison.does("GET", f"/clients/{mine['client']}/disclosures"))["entries"]
    told = [
        {p["agreementVersion"] for p in e["permitted"]}
        for e in entries
        if e["recipient"] == sides.hostel.name and e["permitted"]
    ]
    assert told == [{2}, {1}], "newest first"


async def hour_passes(sides: Sides, agreement: str, starts: datetime) -> datetime:
    """Move the beginning of a version to a moment from now, with all that waits for it; gives that moment."""
    async with superuser(sides.shards) as db, db.transaction():
        soon: datetime = await db.fetchval("SELECT clock_timestamp() + interval '0.5 s'")
        version = "UPDATE agreement SET starts = $1 WHERE id = $2 AND starts = $3"
        assert await db.execute(version, soon, agreement, starts) == "UPDATE 1"
        change = "UPDATE agreement_change SET effective_at = $1 WHERE agreement = $2 AND effective_at = $3"
        assert await db.execute(change, soon, agreement, starts) == "UPDATE 1"
        for waiting in ("agreement_follow_up", "queue"):
            await db.execute(f"UPDATE {waiting} SET due_at = $1 WHERE due_at = $2", soon, starts)
    return soon


async def test_a_version_that_begins_later_gets_its_snapshots_then(sides: Sides) -> None:
    await sides.client(sides.hostel)
    starts = datetime.now(UTC) + timedelta(hours=1)
    change = await sides.agree(sides.hostel, starts=starts.isoformat())
    assert await sides.prison.state(change["agreement"]) == ["not-begun"]
    await sides.client(sides.hostel)  # recorded between signature and beginning
    status = await sides.prison.does("GET", f"/agreement-changes/{change['change']}")
    assert (status["done"], status["snapshotsQueued"]) == (False, False), "it is done when it has taken effect"
    begins = await hour_passes(sides, change["agreement"], starts)
    told = await arrives(sides.hostel, 2, "the snapshots")
    assert all(datetime.fromisoformat(r["receipt"]["decidedAt"]) >= begins for r in told)
    status = await sides.done(change["change"])
    assert await sides.prison.state(change["agreement"]) == ["in-force"]


async def test_what_was_corrected_before_a_version_begins_never_leaves(sides: Sides) -> None:
    starts = datetime.now(UTC) + timedelta(hours=1)
    change = await sides.agree(sides.hostel, starts=starts.isoformat())
    client = await sides.client(sides.hostel)
    for summary in ("said first", "said then"):
        facts = {"needs.accommodation": {"level": "soon", "summary": summary}}
        await accepted(
            sides.prison, event("client.recorded", sides.prison.name, {"identifiers": client, "facts": facts})
        )
    await hour_passes(sides, change["agreement"], starts)
    told = str(await arrives(sides.hostel, 3, "what waited for the beginning"))
    assert "said then" in told
    assert "said first" not in told


async def test_a_party_leaves_alone_and_at_once(sides: Sides) -> None:
    identifiers = await sides.client(sides.hostel, sides.mentors)
    change = await sides.agree(sides.hostel, sides.mentors)
    await arrives(sides.hostel, 1, "the snapshot")
    await arrives(sides.mentors, 1, "the snapshot")
    left = await sides.mentors.does("POST", f"/agreements/{change['agreement']}/departure", {"reason": "We close."})
    await sides.done(left["change"])
    await sides.record(identifiers)
    await arrives(sides.hostel, 2, "the change, for who stayed")
    assert len(await sides.mentors.received()) == 1
    history = await sides.prison.does("GET", f"/agreements/{change['agreement']}")
    assert [v["state"] for v in history["versions"]] == ["superseded", "in-force"]
    assert history["versions"][1]["recipients"] == [sides.hostel.name]
    assert [c["by"] for c in history["changes"]] == [sides.mentors.name, sides.mentors.name]
    ended = await sides.hostel.does("POST", f"/agreements/{change['agreement']}/departure", {"reason": "So do we."})
    await sides.done(ended["change"])
    assert (await sides.prison.state(change["agreement"]))[-1] == "expired", "nobody is left to be told"


async def refused(party: Party, path: str, body: dict[str, Any] | None = None) -> str:
    """The code of the problem with which a request without effect is refused."""
    response = await party.call("POST", path, body or {"reason": "because"})
    assert response.status_code == 409, response.text
    code: str = response.json()["code"]
    return code


async def test_who_was_a_party_is_told_that_it_has_no_say_any_more(sides: Sides) -> None:
    change = await sides.agree(sides.hostel, sides.mentors)
    path = f"/agreements/{change['agreement']}"
    await sides.mentors.does("POST", f"{path}/suspension", {"reason": "We look into it."})
    await sides.mentors.does("POST", f"{path}/departure", {"reason": "We close."})
    assert (await sides.prison.state(change["agreement"]))[-1] == "in-force", "its suspension went with it"
    for act in ("suspension", "resumption", "departure"):
        assert await refused(sides.mentors, f"{path}/{act}") == "no-longer-a-party"
    text = sides.text(sides.mentors) | {"agreement": change["agreement"]}
    assert await refused(sides.mentors, "/agreement-drafts", text) == "no-longer-a-party"
    assert await sides.prison.state(change["agreement"]) == ["superseded", "in-force"]


async def test_a_party_of_what_is_still_in_force_has_a_say_though_the_next_version_is_without_it(sides: Sides) -> None:
    change = await sides.agree(sides.hostel, sides.mentors)
    path = f"/agreements/{change['agreement']}"
    later = sides.text(sides.hostel, starts=moment(days=3)) | {"agreement": change["agreement"]}
    draft = (await sides.prison.does("POST", "/agreement-drafts", later))["draft"]
    for party in (sides.prison, sides.hostel, sides.mentors):
        await party.signs(draft)
    assert await sides.mentors.state(change["agreement"]) == ["in-force"]
    assert await refused(sides.mentors, f"{path}/departure") == "not-begun"
    await sides.mentors.does("POST", f"{path}/suspension", {"reason": "We look into it."})
    assert await sides.prison.state(change["agreement"]) == ["suspended", "not-begun"]
    await sides.mentors.does("POST", f"{path}/resumption", {"reason": "It was nothing."})
    assert await sides.prison.state(change["agreement"]) == ["in-force", "not-begun"]


async def test_of_an_agreement_that_is_over_nothing_is_changed(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    path = f"/agreements/{change['agreement']}"
    await sides.prison.does("POST", f"{path}/suspension", {"reason": "because"})
    await sides.hostel.does("POST", f"{path}/departure", {"reason": "because"})
    assert await sides.prison.state(change["agreement"]) == ["superseded", "expired"]
    for act in ("suspension", "resumption", "departure"):
        for party in (sides.prison, sides.hostel):
            assert await refused(party, f"{path}/{act}") == "agreement-over"
    assert len((await sides.prison.does("GET", path))["changes"]) == 3
    again = sides.text(sides.hostel) | {"agreement": change["agreement"]}
    await sides.prison.does("POST", "/agreement-drafts", again)


async def test_a_second_suspension_or_signature_has_an_effect_or_says_why_not(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    path, reason = f"/agreements/{change['agreement']}", {"reason": "because"}
    assert await refused(sides.hostel, f"{path}/resumption") == "not-suspended"
    one = await sides.hostel.does("POST", f"{path}/suspension", reason)
    assert await refused(sides.hostel, f"{path}/suspension", {"reason": "and besides"}) == "already-suspended"
    assert (await sides.prison.does("POST", f"{path}/suspension", reason))["change"] != one["change"]
    await sides.hostel.does("POST", f"{path}/resumption", reason)
    assert await refused(sides.hostel, f"{path}/resumption") == "not-suspended"
    draft = (await sides.prison.does("POST", "/agreement-drafts", sides.text(sides.hostel)))["draft"]
    signatures, other = f"/agreement-drafts/{draft}/signatures", {"name": "B. Other", "role": "Deputy"}
    await sides.prison.signs(draft)
    assert (await sides.prison.signs(draft)).status_code == 200, "the same, sent again"
    assert await refused(sides.prison, signatures, other) == "already-signed"
    await sides.hostel.signs(draft)
    assert await refused(sides.hostel, signatures, other) == "already-signed"
    short = sides.text(sides.hostel, starts=moment(days=-2), review=moment(days=-1), ends=moment(hours=1))
    draft = (await sides.prison.does("POST", "/agreement-drafts", short))["draft"]
    await sides.prison.signs(draft)
    async with superuser(sides.shards) as db:  # an hour passes
        ended = "UPDATE agreement_draft SET ends = clock_timestamp() WHERE id = $1"
        assert await db.execute(ended, draft) == "UPDATE 1"
    for party in (sides.prison, sides.hostel):
        closed = await party.signs(draft)
        assert (closed.status_code, closed.json()["code"]) == (409, "draft-closed")


async def test_a_party_that_suspended_left_and_signed_again_stops_nobody(sides: Sides) -> None:
    change = await sides.agree(sides.hostel, sides.mentors)
    path, reason = f"/agreements/{change['agreement']}", {"reason": "We look into it."}
    first = await sides.mentors.does("POST", f"{path}/suspension", reason)
    await sides.mentors.does("POST", f"{path}/departure", {"reason": "We close."})
    left = (await sides.hostel.does("GET", path))["changes"]
    assert [c["kind"] for c in left][-2:] == ["resumed", "version"], "whoever leaves suspends no more"
    await sides.agree(sides.hostel, sides.mentors, agreement=change["agreement"])
    assert (await sides.prison.state(change["agreement"]))[-1] == "in-force"
    history = (await sides.mentors.does("GET", path))["changes"]
    assert [(c["kind"], c["by"]) for c in history if c["kind"] != "version"] == [
        ("suspended", sides.mentors.name),
        ("resumed", sides.mentors.name),
    ]
    second = await sides.mentors.does("POST", f"{path}/suspension", reason)
    assert second["change"] != first["change"], "it can suspend it anew, for the same reason"
    assert (await sides.prison.state(change["agreement"]))[-1] == "suspended"
    await sides.agree(sides.hostel, sides.mentors, agreement=change["agreement"])
    assert (await sides.prison.state(change["agreement"]))[-1] == "suspended", "a new version alone resumes nothing"


async def test_no_suspension_outlives_the_end_for_all(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    path, reason = f"/agreements/{change['agreement']}", {"reason": "because"}
    await sides.operator.call("POST", f"{path}/suspension", reason)
    await sides.prison.does("POST", f"{path}/suspension", reason)
    await sides.operator.call("POST", f"{path}/departure", reason)
    assert (await sides.prison.state(change["agreement"]))[-1] == "expired"
    await sides.agree(sides.hostel, agreement=change["agreement"])
    assert (await sides.prison.state(change["agreement"]))[-1] == "in-force"


async def test_who_signed_to_leave_later_is_not_put_out_at_once(sides: Sides) -> None:
    change = await sides.agree(sides.hostel, sides.mentors)
    agreement = {"agreement": change["agreement"]}
    later = sides.text(sides.hostel, starts=moment(hours=1)) | agreement
    draft = (await sides.prison.does("POST", "/agreement-drafts", later))["draft"]
    for party in (sides.prison, sides.hostel, sides.mentors):
        await party.signs(draft)
    at_once = (await sides.prison.does("POST", "/agreement-drafts", sides.text(sides.hostel) | agreement))["draft"]
    await sides.prison.signs(at_once)
    signed = await sides.hostel.signs(at_once)
    assert (signed.status_code, signed.json()["missingSignatures"]) == (200, [sides.mentors.name])
    assert await sides.mentors.state(change["agreement"]) == ["in-force", "draft"]
    last = await sides.mentors.signs(at_once)
    assert last.status_code == 202
    assert (await sides.mentors.signs(at_once)).json() == last.json(), "a repeated signature changes nothing"


async def test_who_signs_can_be_read_and_is_a_party(sides: Sides) -> None:
    draft = (await sides.prison.does("POST", "/agreement-drafts", sides.text(sides.hostel)))["draft"]
    for name, role in ((" ", "Head"), ("A. Head", "\u202e"), ("A.\u200bHead", "Head")):
        body = {"name": name, "role": role}
        for path in (f"/agreement-drafts/{draft}/signatures", "/agreement-template/signatures"):
            answer = await sides.prison.call("POST", path, body)
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), body
    paper = sides.text(sides.hostel) | {"id": f"signed-{sides.prison.name}", "version": 1}
    parties = {sides.prison.name: "A", sides.hostel.name: "B"}

    async def entered(**signatories: str) -> tuple[int, str]:
        async with httpx.AsyncClient(
            base_url=sides.shards.system.urls["consent"], headers=sides.operator.headers
        ) as http:
            body = paper | {"signatories": parties | {k.replace("_", "-"): name for k, name in signatories.items()}}
            answer = await http.post("/agreements", json=body)
            return answer.status_code, answer.json().get("code", "")

    mentors = sides.mentors.name.replace("-", "_")
    assert await entered(**{sides.hostel.name.replace("-", "_"): "\u2028 "}) == (422, "invalid-request")
    assert await entered(**{mentors: "C"}) == (422, "signatory-no-party")
    assert (await entered())[0] == 202


async def test_an_agreement_of_an_agency_with_itself_is_refused(sides: Sides) -> None:
    own = sides.text(sides.prison, enforces=[sides.prison.name])
    answer = await sides.prison.call("POST", "/agreement-drafts", own)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


async def test_the_operator_needs_no_other_scope_for_the_register(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    token = sides.shards.system.issuer.token("operations", "operator", [OPERATOR])
    sides.operator.headers = {"Authorization": f"Bearer {token}"}
    assert change["agreement"] in {a["id"] for a in await sides.operator.call("GET", "/agreements")}
    await sides.operator.call("POST", f"/agreements/{change['agreement']}/departure", {"reason": "because"})
    signs = sides.shards.system.issuer.token("head", sides.prison.name, ["agreements:sign"])
    sides.prison.token = signs
    answer = await sides.prison.call("GET", "/agreements")
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing"), "an agency needs its own"


# --- the minimum standard ---------------------------------------------------------------------------------------------


async def test_every_agency_can_accede_to_the_minimum_standard(sides: Sides) -> None:
    template = await sides.mentors.does("GET", "/agreement-template")
    assert (template["months"], template["reviewMonths"]) == (12, 6)
    identifiers = await sides.client(sides.hostel, sides.mentors)
    head = {"name": "A. Head", "role": "Head"}
    changes = [
        await party.does("POST", "/agreement-template/signatures", head) for party in (sides.prison, sides.hostel)
    ]
    assert [c["version"] for c in changes] == [1, 2]
    await arrives(sides.hostel, 1, "the snapshot")
    assert await sides.mentors.received() == []
    assert (await sides.mentors.call("GET", "/agreements/minimum-standard")).status_code == 404
    third = await sides.mentors.does("POST", "/agreement-template/signatures", head)
    assert third["version"] == 3
    (told,) = await arrives(sides.mentors, 1, "the snapshot for who acceded")
    assert versions(told) == {3}
    assert len(await sides.hostel.received()) == 1, "those who were in it get nothing again"
    again = await sides.mentors.does("POST", "/agreement-template/signatures", head)
    assert again == third, "signing again changes nothing"
    (version,) = await sides.mentors.does("GET", "/agreements")
    everyone = sorted(p.name for p in (sides.prison, sides.hostel, sides.mentors))
    assert version["sources"] == version["enforces"] == [s["agency"] for s in version["signatories"]] == everyone
    assert version["recipients"] == sorted([*everyone, "referral", "matching", "notifications"])
    assert version["terms"] == template["terms"]
    first = (await sides.prison.does("GET", "/agreements/minimum-standard"))["versions"][0]
    assert (version["review"], version["ends"]) == (first["review"], first["ends"]), "who joins later joins until then"
    assert datetime.fromisoformat(first["ends"]) - datetime.now(UTC) > timedelta(days=364)
    deputy = {"name": "B. Other", "role": "Deputy"}
    assert await refused(sides.prison, "/agreement-template/signatures", deputy) == "already-signed"
    await sides.record(identifiers)
    await arrives(sides.mentors, 2, "the change")


async def test_under_the_id_of_the_minimum_standard_stands_its_text_alone(sides: Sides) -> None:
    """Whoever accedes signs that text: by another it would be told, or tell, what nobody signed."""
    template = await sides.prison.does("GET", "/agreement-template")
    members = [sides.prison.name, sides.hostel.name]
    starts = datetime(2031, 1, 31, tzinfo=UTC)
    text = {
        "agreement": "minimum-standard",
        "sources": members,
        "recipients": [*members, "referral", "matching", "notifications"],
        "enforces": members,
        "terms": template["terms"],
        "starts": starts.isoformat(),
        "review": "2031-07-31T00:00:00Z",
        "ends": "2032-01-31T00:00:00Z",
    }
    await sides.operator.call("POST", "/agreement-drafts", text)
    wrong: list[dict[str, Any]] = [
        {"sources": members[:1]},
        {"recipients": [*text["recipients"], sides.mentors.name]},
        {"recipients": text["recipients"][1:], "enforces": members[1:]},
        {"recipients": members},
        {"enforces": []},
        {"terms": template["terms"][1:]},
        {"ends": "2199-01-01T00:00:00Z"},
        {"review": "2031-08-01T00:00:00Z"},
    ]
    async with httpx.AsyncClient(base_url=sides.shards.system.urls["consent"], headers=sides.operator.headers) as http:
        for change in wrong:
            answer = await http.post("/agreement-drafts", json=text | change)
            assert (answer.status_code, answer.json()["code"]) == (422, "not-the-template"), change
        paper = {k: v for k, v in text.items() if k != "agreement"} | wrong[0]
        paper |= {"id": "minimum-standard", "version": 9, "signatories": dict.fromkeys(members, "A")}
        answer = await http.post("/agreements", json=paper)
        assert (answer.status_code, answer.json()["code"]) == (422, "not-the-template")


# --- the end of an agreement is acknowledged --------------------------------------------------------------------------


async def test_a_suspension_stops_what_is_queued_and_is_done_when_every_shard_saw_it(sides: Sides) -> None:
    clients = [await sides.client(sides.hostel) for _ in range(4)]  # of both shards
    change = await sides.agree(sides.hostel)
    await arrives(sides.hostel, 4, "the snapshots")
    await sides.done(change["change"])
    path = f"/agreements/{change['agreement']}"
    with sides.shards.stopped(1):
        with sides.shards.stopped(0):
            recorded = [await sides.record(identifiers) for identifiers in clients]  # queued behind the stopped shards
            suspended = await sides.hostel.does("POST", f"{path}/suspension", {"reason": "A breach is looked into."})
            status = await sides.prison.does("GET", f"/agreement-changes/{suspended['change']}")
            assert (status["done"], status["waitingFor"]) == (False, [0, 1])

        async def waits_for_the_other() -> bool:
            found = await sides.prison.does("GET", f"/agreement-changes/{suspended['change']}")
            assert not found["done"]
            return bool(found["waitingFor"] == [1])

        await eventually_true(waits_for_the_other, "shard 0 to have seen it")
        await asyncio.sleep(1.5)
        assert await waits_for_the_other()
    await sides.done(suspended["change"])
    for one in recorded:

        async def refused(client: str = one["client"]) -> bool:
            entries = (await sides.prison.does("GET", f"/clients/{client}/disclosures"))["entries"]
            return any(w["rule"] == "agreement-suspended" for e in entries for w in e["withheld"])

        await eventually_true(refused, "the refusal in the ledger")
    assert len(await sides.hostel.received()) == 4, "what was queued did not leave"
    assert await sides.prison.state(change["agreement"]) == ["suspended"]
    nobodys = await sides.prison.call("POST", f"{path}/resumption", {"reason": "We trust them."})
    assert (nobodys.status_code, nobodys.json()["code"]) == (409, "not-suspended"), "only who suspended it resumes it"
    await sides.hostel.does("POST", f"{path}/resumption", {"reason": "It was none."})
    await arrives(sides.hostel, 8, "the snapshots of what was missed")
    assert await sides.prison.state(change["agreement"]) == ["in-force"]
    history = await sides.prison.does("GET", path)
    assert [(c["kind"], c["by"]) for c in history["changes"]] == [
        ("version", sides.hostel.name),
        ("suspended", sides.hostel.name),
        ("resumed", sides.hostel.name),
    ]


async def test_it_is_in_force_again_only_when_no_suspension_is_left(sides: Sides) -> None:
    change = await sides.agree(sides.hostel)
    path, reason = f"/agreements/{change['agreement']}", {"reason": "because"}
    one = await sides.hostel.does("POST", f"{path}/suspension", reason)
    assert await sides.hostel.does("POST", f"{path}/suspension", reason) == one, "suspending again changes nothing"
    await sides.operator.call("POST", f"{path}/suspension", reason)
    await sides.hostel.does("POST", f"{path}/resumption", reason)
    assert await sides.prison.state(change["agreement"]) == ["suspended"]
    await sides.operator.call("POST", f"{path}/resumption", reason)
    assert await sides.prison.state(change["agreement"]) == ["in-force"]


@pytest.mark.parametrize("point", ["discloser.decided", "discloser.claimed"])
async def test_it_is_not_done_while_what_was_decided_before_is_on_its_way(sides: Sides, point: str) -> None:
    """The shard stops after it decided, before or after its commit; then the agreement is suspended."""
    shards = sides.shards
    assert shards.second is not None
    agreed = await sides.agree(sides.hostel)
    await sides.done(agreed["change"])
    shards.system.stop_process("consent.discloser")
    shards.second.stop()
    identifiers = await sides.client(sides.hostel)
    fault = {"THROUGHGATE_FAULT": f"{point}:stop:1"}
    shards.system.start_process("consent.discloser", fault)
    shards.start_second(**fault)
    pids = [shards.system.pid("consent.discloser"), shards.second.pid]
    try:

        async def stopped() -> bool:
            return any(psutil.Process(pid).status() == psutil.STATUS_STOPPED for pid in pids)

        await eventually_true(stopped, "a shard to stop with decisions in its hands")
        path = f"/agreements/{agreed['agreement']}/suspension"
        change = await sides.prison.does("POST", path, {"reason": "because"})
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            status = await sides.prison.does("GET", f"/agreement-changes/{change['change']}")
            assert not status["done"], "a record that was decided before is still to be sent"
            await asyncio.sleep(0.1)
        assert await sides.hostel.received() == []
    finally:
        with shards.stopped(0, 1):
            pass  # they go on
    try:
        await sides.done(change["change"])
        await settled(shards.system, [f"partner.{sides.hostel.name}"])
        left = await timestamps(sides.hostel)
        assert left, "what was on its way has left"
        async with superuser(shards) as admin:
            seen = await admin.fetchval("SELECT max(at) FROM discloser_shard")
        assert max(left) <= seen, "it had left before the shard said that it saw the change"
        await sides.record(identifiers)
        await asyncio.sleep(2)
        assert await timestamps(sides.hostel) == left, "and nothing after"
    finally:
        shards.system.start_process("consent.discloser")
        shards.start_second()


async def timestamps(party: Party) -> list[datetime]:
    """When each record on its topic was sent, by the clock of this machine."""
    topic = f"{party.system.namespace}partner.{party.name}"
    consumer = AIOKafkaConsumer(**party.connection(), isolation_level="read_committed", auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(topic, p) for p in range(3)])
        number = len(await party.received())
        found: list[datetime] = []
        while len(found) < number:
            for records in (await consumer.getmany(timeout_ms=100)).values():
                found += [datetime.fromtimestamp(r.timestamp / 1000, UTC) for r in records]
        return sorted(found)
    finally:
        await consumer.stop()


# --- snapshots in chunks ----------------------------------------------------------------------------------------------


async def test_a_worker_killed_between_chunks_goes_on_where_it_was(sides: Sides) -> None:
    for _ in range(7):
        await sides.client(sides.hostel)
    system = sides.shards.system
    system.start_process("consent.worker", {"THROUGHGATE_FAULT": "worker.followed-up:kill:2"})  # chunks are of two
    killed = system.pid("consent.worker")
    change = await sides.agree(sides.hostel)

    async def queued() -> bool:
        status = await sides.prison.does("GET", f"/agreement-changes/{change['change']}")
        return bool(status["snapshotsQueued"])

    await eventually_true(queued, "all snapshots to be queued", 60)
    assert system.pid("consent.worker") != killed, "it was killed in between"
    await arrives(sides.hostel, 7, "the snapshots")
    await asyncio.sleep(1)
    told = [r.event["subject"] for r in await sides.hostel.received()]
    assert (len(told), len(set(told))) == (7, 7), "each client once"


# --- the command line -------------------------------------------------------------------------------------------------


async def test_the_command_line_agrees_and_stops(sides: Sides, tmp_path: Path) -> None:
    system = sides.shards.system
    key = system.issuer.save(tmp_path / "issuer-key.json")
    around = {"THROUGHGATE_CONSENT_URL": system.urls["consent"], "THROUGHGATE_ISSUER_KEY": str(key)}

    async def throughgate(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "throughgate.cli", "agreement", *arguments]
        ran = await asyncio.to_thread(
            subprocess.run, command, env=os.environ | around, capture_output=True, text=True, timeout=60
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return (ran.stdout if code == 0 else ran.stderr).strip()

    def signing(party: Party) -> list[str]:
        return ["--as", party.name, "--name", "A. Head", "--role", "Head of service"]

    await sides.client(sides.hostel)
    assert '"minimum-standard"' in await throughgate("template")
    file = tmp_path / "agreement.json"
    text = sides.text(sides.hostel)
    file.write_text(httpx.Request("POST", "http://x", json=text).content.decode())
    draft = await throughgate("propose", str(file), "--as", sides.prison.name)
    assert "Not yet" in await throughgate("sign", draft, *signing(sides.prison))
    listed = await throughgate("list", "--as", sides.hostel.name)
    assert f"draft      until {text['ends'][:10]}; sign {draft}" in listed
    signed = await throughgate("sign", draft, *signing(sides.hostel))
    id = signed.split()[1]
    await arrives(sides.hostel, 1, "the snapshot")
    assert "no-such-agreement" in await throughgate("show", id, "--as", sides.mentors.name, code=1)
    said = await throughgate("suspend", id, "--as", sides.hostel.name, "--reason", "A breach is looked into.")
    assert "suspended, and nothing leaves" in said
    assert "resumed" in await throughgate("resume", id, "--as", sides.hostel.name, "--reason", "It was none.")
    assert "left, and nothing leaves" in await throughgate(
        "leave", id, "--as", sides.hostel.name, "--reason", "Closing."
    )
    assert "ends\n" in await throughgate("compare", id, "1", "2", "--as", sides.prison.name)
    assert "A. Head" in await throughgate("show", id)
    assert "not the id of a draft" in await throughgate("sign", "nonsense", *signing(sides.hostel), code=1)


async def test_the_kind_and_area_of_an_agency_that_knows_clients_do_not_change(door: Any) -> None:
    """A consent for a kind of agency in an area would end without anyone being told to erase."""

    async def put(id: str, **body: Any) -> httpx.Response:
        operator = door.operator
        async with httpx.AsyncClient(base_url=door.system.urls["consent"], headers=operator.headers) as http:
            return await http.put(f"/agencies/{id}", json={"name": id, "kind": "vcs", "area": "leeds"} | body)

    newcomer = f"newcomer-{uuid4().hex[:8]}"
    assert (await put(newcomer)).status_code == 204
    assert (await put(newcomer, kind="health", area="york")).status_code == 204, "nothing rests on it yet"
    await door.prison.answered(door.recorded())
    await door.prison.answered(door.consent(door.hostel))

    async def sent() -> bool:
        return len(await door.hostel.received()) >= 1

    await eventually_true(sent, "the snapshot")
    for change in ({"area": "york"}, {"area": None}, {"kind": "health"}):
        refused = await put(door.hostel.name, **change)
        assert (refused.status_code, refused.json()["code"]) == (409, "kind-in-use"), change
    assert (await put(door.prison.name, kind="police")).status_code == 409, "others are told by what kind it is"
    assert (await put(door.hostel.name, name="Another name")).status_code == 204
