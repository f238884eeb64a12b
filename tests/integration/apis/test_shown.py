"""Fields of clients beside the services' lists: the door decides for whoever asks, each time anew; nothing is kept."""

import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.agency import Agency, Operator, event, eventually_true, withdrawn

from throughgate.story import cast
from throughgate.story.cast import HOUSING, MENTORS, PRISON, PROBATION, Person
from throughgate.system import System

pytestmark = pytest.mark.xdist_group("shown")

LISTS = {
    # service: who looks, what it reads with, the list, the state of a line from which on it is there
    "referral": (HOUSING, "referrals:read", "/referrals"),
    "matching": (MENTORS, "matches:read", "/matches"),
    "notifications": (MENTORS, "plans:read", "/plans"),
}
SHOW = ["identity", "contact"]


@dataclass
class There:
    """A system in which a charity was told of two clients by each of our services."""

    system: System
    prison: Agency
    people: tuple[Person, Person]
    references: dict[str, str]
    """The prison's own, by NOMS number."""

    async def get(self, service: str, *, agency: str | None = None, practitioner: str | None = None, scopes: Any = None,
                  path: str = "", show: Sequence[str] = ()) -> Any:  # fmt: skip
        """A list as whoever looks gets it."""
        who, scope, all_of_them = LISTS[service]
        wanted = [scope, "views:read"] if scopes is None else scopes
        token = self.system.issuer.token("dashboard", agency or who, wanted, practitioner=practitioner)
        async with httpx.AsyncClient(base_url=self.system.urls[service], timeout=20) as http:
            headers = {"Authorization": f"Bearer {token}"}
            answer = await http.get(all_of_them + path, params={"show": show}, headers=headers)
        assert answer.status_code == 200, answer.text
        if show and answer.json():
            assert answer.headers["Cache-Control"] == "no-store"
        return answer.json()

    async def views(self, person: Person) -> list[Any]:
        """The views of a client that the ledger has, newest first, as the client's own answer tells them."""
        token = self.system.issuer.token("clerk", PRISON, ["disclosures:read", "subject-access"])
        async with httpx.AsyncClient(base_url=self.system.urls["consent"], timeout=20) as http:
            path = f"/clients/{self.references[person.noms]}/disclosures"
            answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
        return [entry for entry in answer.raise_for_status().json()["entries"] if entry["kind"] == "view"]


@pytest.fixture(scope="module")
def running(start_system: Callable[..., System]) -> System:
    clock = {"THROUGHGATE_CLOCK": "adjustable"}
    return start_system(
        [PRISON, PROBATION, HOUSING, MENTORS],
        ["consent", *LISTS],
        environment={
            "notifications.main": clock,
            "notifications.worker": clock,
            "matching.worker": {"THROUGHGATE_ROUND_SECONDS": "0.3"},
        },
    )


async def put(system: System, service: str, path: str, scopes: list[str], body: Any) -> None:
    token = system.issuer.token("operations", "operator", [*scopes, "operator"])
    async with httpx.AsyncClient(base_url=system.urls[service], timeout=20) as http:
        answer = await http.put(path, json=body, headers={"Authorization": f"Bearer {token}"})
        assert answer.is_success, answer.text


@pytest.fixture
async def there(running: System) -> AsyncIterator[There]:
    """Two clients of whom referrals, offers and steps have been sent: each test has clients of its own."""
    now = datetime.now(UTC)
    operator = Operator(running)
    for party in cast.read_agencies():
        if party.id in running.agencies:
            body = {"name": party.name, "kind": party.kind, "area": party.area}
            await operator.call("PUT", f"/agencies/{party.id}", body)
    if not await operator.call("GET", "/agreements"):
        for agreement in cast.agreements(now):
            await operator.call("POST", "/agreements", agreement)
        for id, line in cast.directory(now.date()).items():
            await put(running, "referral", f"/services/{id}", ["directory:write"], line)
        for id, volunteer in cast.volunteers(now.date()).items():
            await put(running, "matching", f"/volunteers/{id}", ["volunteers:write"], volunteer)
        gate = {"prisons": ["LEI"], "steps": ["day-before"]}
        await put(running, "notifications", f"/gate-partners/{MENTORS}", ["plans:write"], gate)
    people = cast.make_cast(now.date())
    async with AsyncExitStack() as stack:
        prison = await stack.enter_async_context(Agency(running, PRISON))
        unlike_others = [replace(p, family=f"{p.family}-{uuid4().hex[:8]}") for p in (people.tobias, people.idris)]
        made = There(running, prison, (unlike_others[0], unlike_others[1]), {})
        for person in made.people:
            facts = person.recorded_by_prison(people.release)
            recorded = event("client.recorded", PRISON, {"identifiers": [person.noms_id], "facts": facts})
            made.references[person.noms] = (await prison.answered(recorded))["client"]
            agreed = cast.consent(person, uuid4().hex, now, [{"agency": HOUSING}, {"agency": MENTORS}])
            await prison.answered(event("consent.granted", PRISON, agreed))
        day_before = datetime.combine(people.release - timedelta(days=1), datetime.min.time(), UTC).replace(hour=20)
        await put(running, "notifications", "/clock", [], {"now": day_before.isoformat()})
        for service in LISTS:

            async def arrived(service: str = service) -> bool:
                return len(lines_of(made, await made.get(service, show=SHOW))) == 2

            await eventually_true(arrived, f"the charity to see both clients in its list of {service}")
        yield made


def lines_of(there: "There", lines: list[Any]) -> dict[str, Any]:
    """The lines on which this test's clients are seen, by family name, which nobody else's clients have."""
    names = {person.family for person in there.people}
    return {
        section["data"]["familyName"]: line
        for line in lines
        for section in line["shown"]["sections"]
        if section["data"].get("familyName") in names
    }


@pytest.mark.parametrize("service", LISTS)
async def test_a_list_shows_what_the_door_lets_its_reader_see(there: There, service: str) -> None:
    before = [await there.views(person) for person in there.people]
    lines = lines_of(there, await there.get(service, show=SHOW))
    assert set(lines) == {person.family for person in there.people}
    decided = set()
    for person, known in zip(there.people, before, strict=True):
        shown = lines[person.family]["shown"]
        assert (shown["state"], shown["reason"]) == ("seen", None)
        assert {s["category"] for s in shown["sections"]} == {"identity"}, "contact is nothing that they agreed to"
        assert person.address not in str(shown)
        newest, *older = await there.views(person)
        assert [v["entry"] for v in older] == [v["entry"] for v in known], "one decision for each client"
        assert newest["decision"] == shown["receipt"]["decision"]
        assert newest["recipient"] == LISTS[service][0], "the door decided for who looked, not for the service"
        decided.add(newest["decidedAt"])
    assert len(decided) == 1, "one question for all of the list"
    plain = await there.get(service)
    assert all(line["shown"] is None for line in plain)
    assert not any(person.family in str(plain) for person in there.people)
    assert len(await there.views(there.people[0])) == len(before[0]) + 1, "who asks for nothing is shown nothing"
    for log in (f"{service}.main", "consent.main"):
        assert not any(person.family in there.system.log(log).read_text() for person in there.people)


async def test_of_a_withdrawn_client_the_next_list_shows_nothing(there: There) -> None:
    gone, stays = there.people
    before = {service: lines_of(there, await there.get(service, show=SHOW)) for service in LISTS}
    reply = await there.prison.answered(event("consent.withdrawn", PRISON, withdrawn([gone.noms_id])))
    assert reply["type"].endswith("accepted.v1")
    for service in LISTS:
        lines = await there.get(service, show=SHOW)
        assert set(lines_of(there, lines)) == {stays.family}
        shown = next(line["shown"] for line in lines if line["id"] == before[service][gone.family]["id"])
        assert shown == {"state": "withheld", "reason": None, "sections": [], "receipt": None}


async def test_one_line_shows_as_its_list_does(there: There) -> None:
    for service in ("referral", "notifications"):
        (family, line), *_ = lines_of(there, await there.get(service, show=SHOW)).items()
        one = await there.get(service, path=f"/{line['id']}", show=SHOW)
        assert [s["data"]["familyName"] for s in one["shown"]["sections"]] == [family]


async def test_where_a_client_excludes_one_of_its_people_nobody_of_an_agency_that_did_not_sign_sees_the_client(
    there: There,
) -> None:
    excluding, other = there.people
    data = {
        "identifiers": [excluding.noms_id],
        "restriction": uuid4().hex,
        "kind": "practitioner-exclusion",
        "practitioners": [{"agency": HOUSING, "practitioner": "u-17"}],
    }
    await there.prison.answered(event("restriction.imposed", PRISON, data))
    for person in ("u-17", "u-18"):
        assert set(lines_of(there, await there.get("referral", practitioner=person, show=SHOW))) == {other.family}


async def test_where_the_door_refuses_the_list_comes_without_fields(there: There) -> None:
    lines = await there.get("referral", scopes=["referrals:read"], show=SHOW)
    assert len(lines) >= 2
    refused: Any = {"state": "unavailable", "reason": "scope-missing", "sections": [], "receipt": None}
    assert all(line["shown"] == refused for line in lines)


@pytest.mark.parametrize("how", ["stopped", "hanging"])
async def test_where_the_door_does_not_answer_the_list_comes_in_time_without_fields(there: There, how: str) -> None:
    if how == "stopped":
        there.system.stop_process("consent.main")
    else:
        there.system.kill("consent.main", signal.SIGSTOP)
    try:
        for service in LISTS:
            begun = time.monotonic()
            lines = await there.get(service, show=SHOW)
            assert time.monotonic() - begun < 8, "the door is given up after two seconds; the rest is a busy machine's"
            assert len(lines) >= 2
            away: Any = {"state": "unavailable", "reason": "door-away", "sections": [], "receipt": None}
            assert all(line["shown"] == away for line in lines)
    finally:
        if how == "stopped":
            there.system.start_process("consent.main")
        else:
            there.system.kill("consent.main", signal.SIGCONT)
        there.system.wait_ready()
