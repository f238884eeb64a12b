"""The notifications service against a real PostgreSQL: what it does with what is cleared."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from support.cleared import Cleared, section
from support.services import (
    Call,
    DatabaseOf,
    OfService,
    by_pages,
    call_of,
    forgetting,
    outbox,
    seen_by,
    sorted_by_an_index,
    take_poisoned,
)

from contracts.requests import REQUESTS, RetractionAcknowledged, StepRequested
from notifications import repository, service
from notifications.api import PlanLine, StepLine
from notifications.domain import StepName, due_at
from notifications.main import create_app
from servicekit.db import Database

DOOR = Cleared("notifications", "release-notification")
RELEASE = (datetime.now(UTC) + timedelta(days=30)).date()
MORNING, EVE = StepName.MORNING, StepName.DAY_BEFORE


def custody(client: UUID, release: date | None = RELEASE, status: str = "sentenced", **more: Any) -> Any:
    data = {"prison": "LEI", "status": status, "releaseDate": release, "releaseKind": "automatic"}
    return DOOR.snapshot(client, section("custody-and-release", data), section("risk", {"harm": "low"}), **more)


async def take(database: Database, *records: Any) -> None:
    await database.run(lambda session: service.apply("adjustable")(session, records))


async def partner(database: Database, agency: str, *prisons: str, steps: Sequence[str] = tuple(StepName)) -> None:
    await database.run(lambda session: service.put_partner(session, agency, prisons, steps, within=None))


async def at(database: Database, now: datetime) -> list[Any]:
    """Set the clock, do what is due, and give what was asked."""
    await database.run(lambda session: service.set_clock(session, now))
    while await database.run(lambda session: service.do_due(session, "adjustable")):
        pass
    rows = await outbox(database)
    assert all(row.topic == "requests.notifications" for row in rows)
    return [REQUESTS.validate_json(row.value) for row in rows]


async def steps(database: Database, client: UUID) -> list[list[tuple[str, str, str]]]:
    """The steps of each of the client's plans, newest plan first."""
    found = []
    for row in await database.run(lambda session: repository.plans(session, None, client=client, limit=10)):
        PlanLine.model_validate(dict(row))
        _, rows = await database.run(partial(service.plan, id=row.id, within=None))
        lines = [StepLine.model_validate(dict(r)) for r in rows]
        found.append(sorted((s.name.value, s.recipient, s.state.value) for s in lines))
    return found


@pytest.fixture
async def database(database_of: DatabaseOf) -> OfService:
    return await database_of("notifications")


@pytest.fixture
def call(database: OfService, tmp_path: Path) -> Call:
    return call_of(create_app, database, tmp_path)


async def test_steps_are_asked_when_they_are_due_and_once(database: Database) -> None:
    await partner(database, "mentors", "*")
    await partner(database, "police-leeds", "LEI", "YOI", steps=[MORNING])
    await partner(database, "police-york", "YOI")
    client = uuid4()
    first = custody(client)
    await take(database, first, first)
    await take(database, first)
    await take(database, custody(client))
    assert await at(database, due_at(EVE, RELEASE) - timedelta(seconds=30)) == []
    [eve] = await at(database, due_at(EVE, RELEASE))
    assert isinstance(eve, StepRequested)
    assert (eve.data.recipient, eve.data.origin, eve.data.message.step) == ("mentors", "hmp-leeds", "day-before")
    assert eve.data.about == ["custody-and-release"]
    assert eve.data.include == ["identity", "custody-and-release"]
    assert await at(database, due_at(EVE, RELEASE)) == []
    await take(database, DOOR.settled(client, eve.data.request, "sent"))
    morning = await at(database, due_at(MORNING, RELEASE))
    assert sorted(m.data.recipient for m in morning) == ["mentors", "police-leeds"]
    await take(database, *(DOOR.settled(client, m.data.request, "denied") for m in morning))
    await take(database, custody(client))
    assert await at(database, due_at(MORNING, RELEASE)) == []
    assert await steps(database, client) == [
        [
            ("day-before", "mentors", "sent"),
            ("morning-of-release", "mentors", "denied"),
            ("morning-of-release", "police-leeds", "denied"),
        ]
    ]
    kept = await database.run(lambda s: s.scalar(text("SELECT string_agg(data::text, '') FROM section")))
    assert "releaseKind" not in kept
    assert "harm" not in kept


async def test_a_changed_date_moves_what_is_unsent_and_tells_anew(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    client = uuid4()
    await take(database, custody(client))
    [eve] = await at(database, due_at(EVE, RELEASE))
    await take(database, DOOR.settled(client, eve.data.request, "sent"))
    later = RELEASE + timedelta(days=5)
    await take(database, custody(client, later))
    assert await at(database, due_at(MORNING, RELEASE)) == []
    assert [r.data.message.step for r in await at(database, due_at(EVE, later))] == ["day-before"]
    await take(database, custody(client, RELEASE), custody(client, later))
    assert await at(database, due_at(EVE, later)) == []
    assert [r.data.message.step for r in await at(database, due_at(MORNING, later))] == ["morning-of-release"]


async def test_released_or_no_date_cancels(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    clients = [uuid4(), uuid4()]
    await take(database, *(custody(c) for c in clients))
    await take(database, custody(clients[0], status="released"), custody(clients[1], None))
    assert await at(database, due_at(MORNING, RELEASE)) == []
    for client, reason in zip(clients, ("released", "no-release-date"), strict=True):
        [row] = await database.run(partial(repository.plans, within=None, client=client))
        assert (row.state, row.reason, row.steps) == ("cancelled", reason, {"cancelled": 2})
    await take(database, custody(clients[1]))
    assert len(await at(database, due_at(MORNING, RELEASE))) == 2


async def test_a_correction_counts_whatever_time_it_carries(database: Database) -> None:
    await partner(database, "mentors", "*")
    client, fast = uuid4(), datetime.now(UTC) + timedelta(minutes=4)
    data = {"prison": "LEI", "status": "sentenced", "releaseDate": RELEASE}
    await take(database, DOOR.snapshot(client, section("custody-and-release", data, fast)))
    await take(database, DOOR.snapshot(client, section("custody-and-release", data | {"status": "released"})))
    [plan] = await database.run(lambda s: repository.plans(s, None, client=client, limit=10))
    assert (plan.state, plan.reason, plan.steps) == ("cancelled", "released", {"cancelled": 2})


async def test_the_list_of_plans_is_read_in_the_order_of_an_index(database: Database) -> None:
    assert await sorted_by_an_index(database, "plan")


async def test_every_plan_can_be_reached_page_by_page(database: Database, call: Call) -> None:
    await take(database, *(custody(uuid4()) for _ in range(7)))
    half = {"id": UUID(int=2**127)}
    await database.run(lambda s: s.execute(text("UPDATE plan SET created_at = '2026-06-01' WHERE id < :id"), half))

    async def page(**asked: Any) -> list[str]:
        return [row["id"] for row in (await call("GET", "/plans", "hmp-leeds", "plans:read", params=asked)).json()]

    every, found = await page(), await by_pages(page)
    assert (found, len(set(found))) == (every, 7)


async def test_what_is_more_than_a_day_late_is_missed(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    early, late = uuid4(), uuid4()
    await take(database, custody(early))
    await database.run(lambda s: service.set_clock(s, due_at(MORNING, RELEASE) + timedelta(hours=20)))
    await take(database, custody(late))
    asked = await at(database, due_at(MORNING, RELEASE) + timedelta(hours=20))
    assert sorted((r.data.message.step, r.data.client) for r in asked) == sorted(
        ("morning-of-release", client) for client in (early, late)
    )
    expected = [[("day-before", "mentors", "missed"), ("morning-of-release", "mentors", "asked")]]
    assert await steps(database, early) == expected
    assert await steps(database, late) == expected


async def test_a_partner_that_comes_or_goes_later_is_planned_for(database: Database) -> None:
    client = uuid4()
    await take(database, custody(client))
    await partner(database, "mentors", "LEI")
    await partner(database, "others", "LEI")
    await at(database, datetime.now(UTC))
    await partner(database, "others", steps=[MORNING])
    assert [r.data.recipient for r in await at(database, due_at(EVE, RELEASE))] == ["mentors"]


async def test_withdrawal_cancels_erases_and_is_remembered(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    client = uuid4()
    await take(database, custody(client))
    [eve] = await at(database, due_at(EVE, RELEASE))
    gone = DOOR.withdrawn(client, 2)
    await take(database, gone)
    await take(database, gone)
    [acknowledged] = await at(database, due_at(EVE, RELEASE))
    assert isinstance(acknowledged, RetractionAcknowledged)
    await take(database, DOOR.settled(client, eve.data.request, "cancelled"), custody(client))
    assert await at(database, due_at(MORNING, RELEASE)) == []
    assert await steps(database, client) == [
        [("day-before", "mentors", "cancelled"), ("morning-of-release", "mentors", "cancelled")]
    ]
    facts = "SELECT count(*) FROM step WHERE for_date IS NOT NULL OR due_at IS NOT NULL"
    assert await database.run(lambda s: s.scalar(text(facts))) == 0
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 0
    facts = "SELECT count(*) FROM plan WHERE coalesce(origin, prison, release_date::text) IS NOT NULL"
    assert await database.run(lambda s: s.scalar(text(facts))) == 0
    await take(database, custody(client, decided_on=2))
    assert len(await at(database, due_at(MORNING, RELEASE))) == 2
    assert len(await steps(database, client)) == 2


async def test_whom_nothing_more_may_be_told_has_its_steps_cancelled(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    await partner(database, "police-leeds", "LEI")
    client = uuid4()
    await take(database, custody(client))
    eves = {r.data.recipient: r for r in await at(database, due_at(EVE, RELEASE))}
    await take(database, *(DOOR.settled(client, r.data.request, "sent") for r in eves.values()))
    gone = DOOR.withdrawn(client, 2, recipients=["mentors"])
    await take(database, gone)
    await take(database, gone)
    assert await steps(database, client) == [
        [
            ("day-before", "mentors", "sent"),
            ("day-before", "police-leeds", "sent"),
            ("morning-of-release", "mentors", "cancelled"),
            ("morning-of-release", "police-leeds", "planned"),
        ]
    ]
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 1
    acknowledged, morning = await at(database, due_at(MORNING, RELEASE))
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert morning.data.recipient == "police-leeds"
    # what is still permitted comes anew: the door decides whether the step may go on another basis
    await take(database, custody(client, decided_on=2))
    [asked_again] = await at(database, due_at(MORNING, RELEASE))
    assert (asked_again.data.recipient, asked_again.data.message.step) == ("mentors", "morning-of-release")
    await take(database, DOOR.settled(client, asked_again.data.request, "denied"))
    await take(database, custody(client, decided_on=2))
    assert await at(database, due_at(MORNING, RELEASE)) == [], "nobody is told twice"


async def test_a_plan_stands_while_custody_and_release_is_there(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    client = uuid4()
    await take(database, custody(client))
    await take(database, DOOR.withdrawn(client, 2, categories=["identity", "risk"]))
    assert await database.run(lambda s: s.scalar(text("SELECT tombstone FROM client"))) == 2
    acknowledged, eve = await at(database, due_at(EVE, RELEASE))
    assert isinstance(acknowledged, RetractionAcknowledged)
    await take(database, DOOR.settled(client, eve.data.request, "sent"))
    await take(database, DOOR.withdrawn(client, 3, categories=["custody-and-release"]))
    assert [type(r) for r in await at(database, due_at(MORNING, RELEASE))] == [RetractionAcknowledged]
    [plan] = await database.run(lambda s: repository.plans(s, None, client=client, limit=10))
    assert (plan.state, plan.reason, plan.steps) == ("cancelled", "sharing-taken-back", {"sent": 1, "cancelled": 1})
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 0
    await take(database, custody(client, decided_on=2))
    assert await at(database, due_at(MORNING, RELEASE)) == [], "it is from before the retraction"
    await take(database, custody(client, decided_on=3))
    again = await at(database, due_at(MORNING, RELEASE))
    assert {r.data.message.step for r in again} == {"day-before", "morning-of-release"}, "who had to erase is told anew"


async def test_two_recipients_get_no_reference_in_common(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    await partner(database, "others", "LEI")
    client = uuid4()
    await take(database, custody(client))
    one, two = await at(database, due_at(EVE, RELEASE))
    told = [r.data.message.model_dump(mode="json", by_alias=True) for r in (one, two)]
    shared = set(map(str, told[0].values())) & set(map(str, told[1].values()))
    assert shared == {"day-before", told[0]["dueAt"]}
    [plan] = await database.run(lambda s: repository.plans(s, None, client=client, limit=10))
    _, rows = await database.run(lambda s: service.plan(s, plan.id, within=None))
    known = {r.id: r.recipient for r in rows}
    assert [known[r.data.message.step_reference] for r in (one, two)] == [r.data.recipient for r in (one, two)]


async def test_a_withdrawal_for_another_purpose_changes_nothing(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    client = uuid4()
    await take(database, custody(client))
    await take(database, DOOR.withdrawn(client, 2, "referral", "mentor-matching"))
    [acknowledged] = await at(database, datetime.now(UTC))
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 1
    assert await database.run(lambda s: s.scalar(text("SELECT tombstone FROM client"))) is None
    assert len(await at(database, due_at(EVE, RELEASE))) == 1


async def test_a_withdrawal_that_cannot_be_applied_erases(database: Database) -> None:
    await partner(database, "mentors", "LEI")
    gone, other = uuid4(), uuid4()
    await take(database, custody(gone), custody(other))
    await take_poisoned(database, service, DOOR.withdrawn(gone, 2))
    await take_poisoned(database, service, DOOR.withdrawn(other, 2, "referral"))
    assert set(await database.run(lambda s: s.scalars(text("SELECT client FROM section")))) == {other}
    facts = "SELECT client FROM step WHERE for_date IS NOT NULL OR due_at IS NOT NULL"
    assert set(await database.run(lambda s: s.scalars(text(facts)))) == {other}
    facts = "SELECT client FROM plan WHERE coalesce(origin, prison, release_date::text) IS NOT NULL"
    assert set(await database.run(lambda s: s.scalars(text(facts)))) == {other}
    await partner(database, "others", "*")  # what makes plans stale finds none of the client's
    await take(database, custody(gone))
    asked = await at(database, due_at(EVE, RELEASE))
    assert {r.data.client for r in asked} == {other}, "not acknowledged, and nothing that rests on it is told"
    assert not any(isinstance(r, RetractionAcknowledged) for r in asked)
    await take(database, custody(gone, decided_on=2))
    assert {r.data.client for r in await at(database, due_at(EVE, RELEASE))} == {gone}


async def test_an_agency_sees_its_own_plans_and_steps(database: Database, call: Call) -> None:
    await partner(database, "mentors", "LEI")
    await partner(database, "others", "LEI")
    client = uuid4()
    await take(database, custody(client))
    [plan] = await database.run(lambda s: repository.plans(s, None, client=client, limit=10))

    async def seen(agency: str, *scopes: str) -> list[tuple[str, str]]:
        rows = (await call("GET", "/plans", agency, "plans:read", *scopes)).json()
        one = await call("GET", f"/plans/{plan.id}", agency, "plans:read", *scopes)
        assert one.status_code == (200 if rows else 404)
        found = [(s["recipient"], s["state"]) for s in one.json().get("steps", [])]
        assert sum(sum(row["steps"].values()) for row in rows) == len(found)
        return sorted(found)

    everything = [("mentors", "planned")] * 2 + [("others", "planned")] * 2
    assert await seen("hmp-leeds") == await seen("anybody", "operator") == everything
    assert await seen("mentors") == [], "the door has not decided yet"
    asked = {r.data.recipient: r for r in await at(database, due_at(EVE, RELEASE))}
    await take(database, DOOR.settled(client, asked["mentors"].data.request, "sent"))
    await take(database, DOOR.settled(client, asked["others"].data.request, "denied"))
    assert await seen("mentors") == [("mentors", "sent")]
    assert await seen("others") == [], "the door said no"
    assert await seen("strangers") == []
    assert len(await seen("hmp-leeds")) == 4


@pytest.mark.parametrize("end", ["released", "everything is taken back", "poison"])
async def test_whom_nothing_more_may_be_told_learns_nothing_that_comes_after(
    database: Database, call: Call, end: str
) -> None:
    await partner(database, "mentors", "LEI")
    await partner(database, "others", "LEI")
    client = uuid4()
    await take(database, custody(client))
    asked = await at(database, due_at(EVE, RELEASE))
    await take(database, *(DOOR.settled(client, r.data.request, "sent") for r in asked))
    await take(database, DOOR.withdrawn(client, 2, recipients=["mentors"]))

    async def seen(agency: str) -> Any:
        [row] = (await call("GET", "/plans", agency, "plans:read")).json()
        one = (await call("GET", f"/plans/{row['id']}", agency, "plans:read")).json()
        assert {k: v for k, v in one.items() if k != "steps"} == {k: v for k, v in row.items() if k != "steps"}
        return row, one["steps"]

    row, [step] = await seen("mentors")
    assert (row["state"], row["reason"], row["steps"]) == (None, None, {"sent": 1})
    assert (step["state"], step["changedAt"]) == ("sent", row["changedAt"])
    own, _ = await seen("hmp-leeds")
    assert (own["state"], own["steps"]) == ("planned", {"sent": 2, "planned": 1, "cancelled": 1})
    match end:
        case "released":
            await take(database, custody(client, status="released", decided_on=2))
            own, _ = await seen("hmp-leeds")
            assert (own["state"], own["reason"]) == ("cancelled", "released")
        case "everything is taken back":
            await take(database, DOOR.withdrawn(client, 3))
        case "poison":
            await take_poisoned(database, service, DOOR.withdrawn(client, 3))
    [plan] = await database.run(lambda s: repository.plans(s, None, client=client))
    assert plan.state == "cancelled"
    assert await seen("mentors") == (row, [step])


async def test_an_agency_says_what_it_is_told_itself(database: Database, call: Call) -> None:
    async def write(agency: str, *scopes: str) -> tuple[int, str | None]:
        body = {"prisons": ["LEI"]}
        answer = await call("PUT", "/gate-partners/mentors", agency, "plans:write", *scopes, json=body)
        return answer.status_code, answer.json()["code"] if answer.content else None

    assert await write("others") == (403, "not-yours")
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM gate_partner"))) == 0
    assert await write("mentors") == (204, None)
    assert await write("clerks", "operator") == (204, None)


async def test_the_database_itself_holds_a_question_to_its_agency(database: OfService) -> None:
    for agency in ("mentors", "police-leeds"):
        await partner(database, agency, "LEI", steps=[EVE, MORNING])
    client = uuid4()
    await take(database, custody(client))
    eve = await at(database, due_at(EVE, RELEASE))
    [plan], every = await seen_by(database, "hmp-leeds", "plan"), await seen_by(database, "hmp-leeds", "step")
    assert len(every) == 4
    assert await seen_by(database, "mentors", "plan") == [], "the door has not decided"
    told = next(step for step in eve if step.data.recipient == "mentors")
    await take(database, DOOR.settled(client, told.data.request, "sent"))
    assert await seen_by(database, "mentors", "plan") == [plan]
    [mine] = await seen_by(database, "mentors", "step")
    assert mine in every
    for other in (None, "", "police-leeds", "somebody-else"):
        assert await seen_by(database, other, "plan") == []
        assert await seen_by(database, other, "step") == []
    assert await seen_by(database, "operator", "step", whole=True) == every


async def test_a_list_that_forgets_whose_it_is_shows_no_more(
    database: OfService, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    await partner(database, "mentors", "LEI")
    await take(database, custody(uuid4()))
    await at(database, due_at(EVE, RELEASE))
    [plan] = await seen_by(database, "hmp-leeds", "plan")
    forgetting(monkeypatch, repository, "plans")
    for agency, found in (("hmp-leeds", (1, 200)), ("mentors", (0, 404)), ("somebody-else", (0, 404))):
        rows = (await call("GET", "/plans", agency, "plans:read")).json()
        assert (len(rows), (await call("GET", f"/plans/{plan}", agency, "plans:read")).status_code) == found
    assert len((await call("GET", "/plans", "anybody", "plans:read", "operator")).json()) == 1
