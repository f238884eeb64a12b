"""The referral service against a real PostgreSQL: what it does with what is cleared."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support import servers
from support.cleared import TRACE, Cleared, section
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

from contracts.requests import REQUESTS, ReferralRequested, RetractionAcknowledged
from contracts.vocabulary import Category
from referral import repository, service
from referral.main import create_app
from servicekit.db import Database
from servicekit.problems import Problem
from servicekit.worker import Worker

DOOR = Cleared("referral", "referral")
HOME, WORK = Category.NEEDS_ACCOMMODATION, Category.NEEDS_ETE


def needs_home(client: UUID, **more: Any) -> Any:
    need = section(HOME, {"level": "urgent", "summary": "secret", "area": "Leeds"})
    return DOOR.snapshot(client, section("identity", {"givenName": "X", "dateOfBirth": "1990-01-01"}), need, **more)


def answered(
    client: UUID, referral: UUID, answer: str, provider: str, reason: str | None = None, decided_on: int = 1
) -> Any:
    message = {"referral": referral, "answer": answer, "reason": reason}
    return DOOR.answered("throughgate.referral.answer-passed.v1", client, provider, message, decided_on)


async def put(database: Database, organization: str, **more: Any) -> UUID:
    id = uuid4()
    values: dict[str, Any] = {
        "name": organization,
        "organization": organization,
        "pathways": [HOME],
        "area": "leeds",
        "minimum_age": 18,
        "maximum_age": None,
        "status": "active",
        "capacity": 1,
        "assured_date": date(2026, 1, 1),
    }
    await database.run(lambda session: service.put_service(session, id, values | more, within=None))
    return id


async def take(database: Database, *records: Any) -> None:
    await database.run(lambda session: service.apply(session, records))


async def asked(database: Database) -> list[Any]:
    """The outbox, read and emptied."""
    rows = await outbox(database)
    assert all(row.topic == "requests.referral" and row.traceparent == TRACE for row in rows)
    return [REQUESTS.validate_json(row.value) for row in rows]


async def listed(database: Database, client: UUID) -> list[Any]:
    return list(await database.run(lambda session: repository.referrals(session, None, client=client, limit=50)))


@pytest.fixture
async def database(database_of: DatabaseOf) -> OfService:
    return await database_of("referral")


@pytest.fixture
def call(database: OfService, tmp_path: Path) -> Call:
    return call_of(create_app, database, tmp_path)


async def test_a_need_becomes_a_referral_to_the_best_service_and_is_asked_once(database: Database) -> None:
    await put(database, "old-house", assured_date=date(2020, 1, 1))
    best = await put(database, "new-house")
    await put(database, "york-house", area="york", assured_date=date(2026, 6, 1))
    await put(database, "young-house", maximum_age=25, assured_date=date(2026, 6, 1))
    client = uuid4()
    first = needs_home(client)
    await take(database, first, first)
    await take(database, first)
    await take(database, needs_home(client))
    [request] = await asked(database)
    assert isinstance(request, ReferralRequested)
    assert (request.data.recipient, request.data.origin, request.data.about) == ("new-house", "hmp-leeds", [HOME])
    assert request.data.include == ["identity", "contact", "custody-and-release", HOME]
    [row] = await listed(database, client)
    assert (row.service, row.state, row.id) == (best, "awaiting-sharing-decision", request.data.message.referral)
    reasons = {e["eligible"]: e["reasons"] for e in row.eligibility if e["reasons"]}
    assert reasons[False] in (["other-area"], ["age-outside-limits"])
    kept = await database.run(lambda s: s.execute(text("SELECT string_agg(data::text, '') FROM section")))
    assert "secret" not in str(kept.scalar_one())


async def test_sent_and_accepted(database: Database) -> None:
    await put(database, "house")
    client = uuid4()
    await take(database, needs_home(client))
    [request] = await asked(database)
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    await take(database, answered(client, request.data.message.referral, "accepted", "somebody-else"))
    assert [r.state for r in await listed(database, client)] == ["sent"]
    await take(database, answered(client, request.data.message.referral, "accepted", "house"))
    await take(database, answered(client, request.data.message.referral, "declined", "house"))
    assert [r.state for r in await listed(database, client)] == ["accepted"]
    _, history = await database.run(lambda s: service.referral(s, request.data.message.referral, within=None))
    assert [(h.state, h.by) for h in history] == [
        ("draft", "rule"),
        ("awaiting-sharing-decision", "rule"),
        ("sent", "door"),
        ("accepted", "provider"),
    ]


async def test_declined_goes_to_the_next_best_and_never_back(database: Database) -> None:
    await put(database, "first", assured_date=date(2026, 6, 1))
    await put(database, "second")
    client = uuid4()
    await take(database, needs_home(client))
    [one] = await asked(database)
    await take(database, answered(client, one.data.message.referral, "declined", "first", "full"))
    [two] = await asked(database)
    assert two.data.recipient == "second"
    await take(database, DOOR.settled(client, one.data.request, "sent"))  # late, and of the referral that ended
    await take(database, answered(client, two.data.message.referral, "declined", "second"))
    assert await asked(database) == []
    rows = await listed(database, client)
    assert [r.state for r in rows] == ["draft", "declined", "declined"]
    assert rows[0].follows == two.data.message.referral
    assert rows[0].service is None
    assert {tuple(e["reasons"]) for e in rows[0].eligibility} == {("declined-before",)}
    assert [s.held for s in await database.run(lambda s: repository.services(s, None, 10, None))] == [0, 0]


async def test_denied_waits_as_a_draft_with_the_rules_and_is_asked_when_facts_come_anew(database: Database) -> None:
    await put(database, "house")
    client = uuid4()
    await take(database, needs_home(client))
    [request] = await asked(database)
    await take(database, DOOR.settled(client, request.data.request, "denied"))
    [row] = await listed(database, client)
    assert row.state == "draft"
    assert row.withheld[0]["rule"] == "no-agreement"
    await take(database, needs_home(client))
    [again] = await asked(database)
    assert again.data.message.referral == row.id
    await take(database, DOOR.settled(client, again.data.request, "cancelled"))
    [third] = await asked(database)
    assert third.data.request not in (request.data.request, again.data.request)


async def test_where_the_door_denied_comes_last_when_facts_come_anew(database: Database) -> None:
    await put(database, "best", assured_date=date(2026, 6, 1))
    await put(database, "second")
    client = uuid4()
    await take(database, needs_home(client))
    [one] = await asked(database)
    await take(database, DOOR.settled(client, one.data.request, "denied"), needs_home(client))
    [two] = await asked(database)
    assert (one.data.recipient, two.data.recipient) == ("best", "second")
    assert one.data.message.referral == two.data.message.referral


async def test_capacity_is_held_and_freed(database: Database) -> None:
    await put(database, "house", capacity=1)
    clients = [uuid4(), uuid4()]
    await take(database, *(needs_home(c) for c in clients))
    [request] = await asked(database)
    [draft] = await listed(database, clients[1])
    assert (request.data.client, draft.state) == (clients[0], "draft")
    await take(database, DOOR.withdrawn(clients[0], 2), needs_home(clients[1]))
    acknowledged, asked_again = await asked(database)
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert asked_again.data.client == clients[1]


async def test_withdrawal_ends_erases_and_is_remembered(database: Database) -> None:
    await put(database, "house", capacity=5)
    client = uuid4()
    await take(database, needs_home(client, decided_on=1))
    [request] = await asked(database)
    gone = DOOR.withdrawn(client, 2)
    await take(database, gone)
    await take(database, gone)
    [acknowledged] = await asked(database)
    assert isinstance(acknowledged, RetractionAcknowledged)
    [row] = await listed(database, client)
    assert (row.state, row.eligibility) == ("withdrawn", [])
    _, history = await database.run(lambda s: service.referral(s, row.id, within=None))
    assert (history[-1].by, history[-1].reason) == ("door", "sharing-taken-back")
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 0
    await take(database, DOOR.settled(client, request.data.request, "sent"), needs_home(client, decided_on=1))
    await take(database, answered(client, request.data.message.referral, "accepted", "house"))
    assert await asked(database) == []
    await take(database, needs_home(client, decided_on=3))
    [anew] = await asked(database)
    assert anew.data.message.referral != request.data.message.referral
    await take(database, needs_home(client, decided_on=3), DOOR.withdrawn(client, 4), needs_home(client, decided_on=5))
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged, ReferralRequested]
    assert sorted(r.state for r in await listed(database, client)) == [
        "awaiting-sharing-decision",
        "withdrawn",
        "withdrawn",
    ]


async def said(database: Database, client: UUID) -> str:
    """All that any table says of the client."""
    sql = """
        SELECT coalesce(string_agg(line, ' '), '') FROM (
            SELECT c::text AS line FROM client c WHERE reference = :client
            UNION ALL SELECT s::text FROM section s WHERE client = :client
            UNION ALL SELECT r::text FROM referral r WHERE client = :client
            UNION ALL SELECT h::text FROM referral_history h JOIN referral r ON r.id = h.referral WHERE client = :client
        ) AS lines
        """
    return str(await database.run(lambda s: s.scalar(text(sql), {"client": client})))


async def test_what_is_taken_back_is_said_nowhere_any_more(database: Database, call: Call) -> None:
    """Who it was between, and that it has ended, stays: the client's reference leads to nothing by then."""
    houses = [await put(database, name, capacity=5) for name in ("house", "hostel")]
    client, other = uuid4(), uuid4()
    await take(database, needs_home(client), needs_home(other))
    first, others = await asked(database)
    for request in (first, others):
        await take(database, DOOR.settled(request.data.client, request.data.request, "sent"))
        message = request.data.message
        who = request.data.recipient
        await take(database, answered(request.data.client, message.referral, "declined", who, "ineligible"))
    await asked(database)
    await take(database, DOOR.withdrawn(client, 2, recipients=["house", "hostel", "nobody-else"]))
    telling = ("needs.", "ineligible", "nobody-else", *map(str, houses))
    left = await said(database, client)
    assert [word for word in telling if word not in left] == []
    await asked(database)
    before = await said(database, other)
    await take(database, DOOR.withdrawn(client, 3))
    await asked(database)
    left = await said(database, client)
    assert [word for word in telling if word in left] == []
    assert await said(database, other) == before
    rows = (await call("GET", "/referrals", "hmp-leeds", "referrals:read", params={"client": str(client)})).json()
    assert {(r["pathway"], r["service"]) for r in rows} == {(None, None)}
    assert sorted(r["state"] for r in rows) == ["declined", "withdrawn", "withdrawn"]
    path = f"/referrals/{first.data.message.referral}"
    one = (await call("GET", path, first.data.recipient, "referrals:read")).json()
    assert [(line["state"], line["reason"]) for line in one["history"]][-1] == ("declined", None)
    await take(database, needs_home(client, decided_on=3))
    assert len(await asked(database)) == 1, "a client who agrees again is helped again"


async def test_who_declined_comes_last_when_the_client_takes_everything_back_and_agrees_again(
    database: Database,
) -> None:
    """Which service it was, and for what, is erased; that the agency declined, which it sees itself, is not."""
    best = await put(database, "best", assured_date=date(2026, 6, 1))
    client, other = uuid4(), uuid4()
    await take(database, needs_home(client))
    [first] = await asked(database)
    await take(database, DOOR.settled(client, first.data.request, "sent"))
    await put(database, "second")
    await take(database, answered(client, first.data.message.referral, "declined", "best"), DOOR.withdrawn(client, 2))
    await asked(database)
    await take(database, needs_home(client, decided_on=2), needs_home(other))
    assert {r.data.client: r.data.recipient for r in await asked(database)} == {client: "second", other: "best"}
    # with nobody else, the same house is asked again: it may have had another reason
    await take(database, DOOR.withdrawn(client, 3), DOOR.withdrawn(other, 2))
    await database.run(
        lambda s: s.execute(text("UPDATE directory SET status = 'inactive' WHERE id <> :best"), {"best": best})
    )
    await asked(database)
    await take(database, needs_home(client, decided_on=3))
    assert [r.data.recipient for r in await asked(database)] == ["best"]


async def test_the_directory_can_be_read_page_by_page(database: Database, call: Call) -> None:
    for name in ("cc", "aa", "bb", "aa", "aa", "cc", "dd"):
        await put(database, name)
    await put(database, "aa", pathways=[WORK])

    async def page(**asked: Any) -> list[str]:
        rows = await call("GET", "/services", "hmp-leeds", "referrals:read", params={"pathway": HOME, **asked})
        return [row["id"] for row in rows.json()]

    every, found = await page(), await by_pages(page)
    assert (found, len(set(found))) == (every, 7)
    assert await page(after=str(uuid4())) == []


async def test_the_list_of_referrals_is_read_in_the_order_of_an_index(database: Database) -> None:
    assert await sorted_by_an_index(database, "referral")


async def test_every_referral_can_be_reached_page_by_page(database: Database, call: Call) -> None:
    await take(database, *(needs_home(uuid4()) for _ in range(7)))
    await database.run(
        lambda s: s.execute(
            text("UPDATE referral SET created_at = '2026-06-01' WHERE id < :id"), {"id": UUID(int=2**127)}
        )
    )

    async def page(**asked: Any) -> list[str]:
        rows = await call("GET", "/referrals", "hmp-leeds", "referrals:read", params=asked)
        return [row["id"] for row in rows.json()]

    every, found = await page(), await by_pages(page)
    assert (found, len(set(found))) == (every, 7)
    assert await page(after=str(uuid4())) == []


async def kept(database: Database) -> set[str]:
    """The categories of which a section is kept."""
    return set(await database.run(lambda s: s.scalars(text("SELECT category FROM section"))))


async def told(database: Database, client: UUID, request: Any) -> None:
    """The door said that the provider was told, and the provider accepted."""
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    await take(database, answered(client, request.data.message.referral, "accepted", request.data.recipient))


async def test_what_one_agency_may_know_no_more_goes_to_the_next_best_at_once(database: Database) -> None:
    """The service keeps its facts; the agency is not asked again, and the next one is asked once."""
    await put(database, "best", assured_date=date(2026, 6, 1))
    await put(database, "second")
    await put(database, "trainers", pathways=[WORK])
    client = uuid4()
    await take(database, needs_home(client), DOOR.snapshot(client, section(WORK, {"level": "soon"})))
    home, work = await asked(database)
    await told(database, client, home)
    gone = DOOR.withdrawn(client, 2, recipients=["best"])
    await take(database, gone)
    await take(database, gone)
    next_best, acknowledged = await asked(database)
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert (next_best.data.recipient, next_best.data.origin) == ("second", "hmp-leeds")
    rows = {r.id: r for r in await listed(database, client)}
    ended, made = rows[home.data.message.referral], rows[next_best.data.message.referral]
    assert (ended.state, made.follows) == ("withdrawn", ended.id)
    _, history = await database.run(lambda s: service.referral(s, ended.id, within=None))
    assert (history[-1].by, history[-1].reason) == ("door", "sharing-taken-back")
    assert rows[work.data.message.referral].state == "awaiting-sharing-decision"
    assert await kept(database) == {"identity", HOME, WORK}
    held = {s.organization: s.held for s in await database.run(lambda s: repository.services(s, None, 10, None))}
    assert held == {"best": 0, "second": 1, "trainers": 1}
    # what is still permitted comes anew, decided on the version of the retraction
    await take(database, needs_home(client, decided_on=2), DOOR.settled(client, next_best.data.request, "sent"))
    assert await asked(database) == [], "nobody is told twice"
    # and the agency comes last until more was said about sharing
    await take(database, answered(client, next_best.data.message.referral, "declined", "second"))
    assert await asked(database) == [], "an answer from before the retraction is not taken"
    late = answered(client, next_best.data.message.referral, "declined", "second", decided_on=2)
    await put(database, "third", assured_date=date(2020, 1, 1))
    await take(database, late)
    [third] = await asked(database)
    assert third.data.recipient == "third"


async def test_whoever_may_be_asked_is_asked_though_a_better_one_may_not(database: Database) -> None:
    """Both are avoided, the better one because of this very retraction: the other may be told on another basis."""
    await put(database, "best", assured_date=date(2026, 6, 1))
    await put(database, "avoided")
    client = uuid4()
    await take(
        database,
        DOOR.snapshot(client),
        DOOR.withdrawn(client, 2, recipients=["avoided"]),
        needs_home(client, decided_on=2),
    )
    _, home = await asked(database)
    assert home.data.recipient == "best"
    await take(database, DOOR.withdrawn(client, 3, recipients=["best"]))
    next_best, _ = await asked(database)
    assert next_best.data.recipient == "avoided"


async def test_with_nobody_else_the_door_is_asked_again_and_says_why_not(database: Database) -> None:
    """Not at once, but when it says what is still permitted: the agency may be told on another basis."""
    await put(database, "only")
    client = uuid4()
    await take(database, needs_home(client))
    [one] = await asked(database)
    await take(database, DOOR.withdrawn(client, 2, recipients=["only"]))
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged]
    draft, ended = await listed(database, client)
    assert (draft.state, draft.follows, ended.state) == ("draft", ended.id, "withdrawn")
    await take(database, DOOR.settled(client, one.data.request, "cancelled"))
    assert await asked(database) == [], "it was of the referral that ended"
    await take(database, needs_home(client, decided_on=2))
    [again] = await asked(database)
    assert again.data.message.referral == draft.id
    await take(database, DOOR.settled(client, again.data.request, "denied"))
    draft, _ = await listed(database, client)
    assert (draft.state, draft.withheld[0]["rule"]) == ("draft", "no-agreement")
    assert [s.held for s in await database.run(lambda s: repository.services(s, None, 10, None))] == [0]
    await put(database, "other", assured_date=None)
    await take(database, needs_home(client, decided_on=2))
    [other] = await asked(database)
    assert other.data.recipient == "other", "where the door denied comes last"


async def test_what_was_avoided_is_chosen_again_when_more_was_said(database: Database) -> None:
    await put(database, "best", capacity=9, assured_date=date(2026, 6, 1))
    await put(database, "second", capacity=9)
    early, late = uuid4(), uuid4()
    for client in (early, late):
        await take(database, DOOR.snapshot(client), DOOR.withdrawn(client, 2, recipients=["best"]))
    await asked(database)
    await take(database, needs_home(early, decided_on=2), needs_home(late, decided_on=3))
    assert {r.data.client: r.data.recipient for r in await asked(database)} == {early: "second", late: "best"}


async def test_a_retracted_category_ends_only_what_rests_on_it(database: Database) -> None:
    await put(database, "house")
    await put(database, "trainers", pathways=[WORK])
    client = uuid4()
    await take(database, needs_home(client), DOOR.snapshot(client, section(WORK, {"level": "soon"})))
    home, work = await asked(database)
    await told(database, client, home)
    await told(database, client, work)
    await take(database, DOOR.withdrawn(client, 2, categories=[HOME, "health"]))
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged], "nobody else is asked about it"
    rows = {r.id: r for r in await listed(database, client)}
    ended, goes_on = rows[home.data.message.referral], rows[work.data.message.referral]
    assert (ended.state, ended.pathway, ended.service, ended.eligibility) == ("withdrawn", None, None, [])
    assert (goes_on.state, goes_on.pathway) == ("accepted", WORK)
    assert goes_on.eligibility != []
    assert await kept(database) == {"identity", WORK}
    assert await database.run(lambda s: s.scalar(text("SELECT tombstone FROM client"))) == 2
    # a record from before it that is read again, and the snapshot of what is still permitted
    await take(
        database,
        needs_home(client, decided_on=1),
        DOOR.snapshot(client, section(WORK, {"level": "soon"}), decided_on=2),
    )
    assert await asked(database) == []
    assert await kept(database) == {"identity", WORK}
    # still permitted on another basis: the need is there, so it is referred again, once
    await take(database, needs_home(client, decided_on=2), needs_home(client, decided_on=2))
    [again] = await asked(database)
    assert again.data.message.referral != home.data.message.referral
    await take(database, DOOR.withdrawn(client, 3, categories=["identity"]))
    rows = {r.id: r for r in await listed(database, client)}
    assert {r.state for r in rows.values()} == {"withdrawn", "accepted", "awaiting-sharing-decision"}
    assert {str(r.eligibility) for r in rows.values()} == {"[]"}, "every choice looked at the age"
    assert await kept(database) == {HOME, WORK}


async def test_of_one_agency_and_one_category_only_that_referral_ends(database: Database) -> None:
    await put(database, "house", pathways=[HOME, WORK], capacity=5)
    client = uuid4()
    await take(database, needs_home(client), DOOR.snapshot(client, section(WORK, {"level": "soon"})))
    await asked(database)
    await take(database, DOOR.withdrawn(client, 2, recipients=["house"], categories=[WORK, "contact"]))
    states = {(r.pathway, r.state) for r in await listed(database, client)}
    assert states == {(HOME, "awaiting-sharing-decision"), (WORK, "withdrawn"), (WORK, "draft")}
    assert await kept(database) == {"identity", HOME, WORK}


async def test_nothing_is_acknowledged_that_was_not_erased(database: Database, address: servers.Address) -> None:
    """Erasing and acknowledging are one transaction: where the one fails there is not the other."""
    await put(database, "house")
    client = uuid4()
    await take(database, needs_home(client))
    await asked(database)
    gone = DOOR.withdrawn(client, 2)
    owner = await asyncpg.connect(servers.RunningPostgres(address).url(str(database.engine.url.database)))
    try:
        await owner.execute("CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'")
        await owner.execute("CREATE TRIGGER fails BEFORE DELETE ON section EXECUTE FUNCTION fails()")
        with pytest.raises(DBAPIError):
            await take(database, gone)
        assert await asked(database) == []
        await owner.execute("DROP TRIGGER fails ON section")
    finally:
        await owner.close()
    await take(database, gone)
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged]
    assert await kept(database) == set()


async def test_a_large_batch_gives_no_place_twice(database: Database) -> None:
    for n in range(3):
        await put(database, f"house-{n}", capacity=20, assured_date=None)
    await take(database, *(needs_home(uuid4()) for _ in range(100)))
    assert len(await asked(database)) == 60
    assert {s.held for s in await database.run(lambda s: repository.services(s, None, 10, None))} == {20}


async def test_batches_at_once_give_no_place_twice(database: Database) -> None:
    await put(database, "house", capacity=12)
    batches = [[needs_home(uuid4()) for _ in range(8)] for _ in range(4)]
    await asyncio.gather(*(take(database, *batch) for batch in batches))
    assert len(await asked(database)) == 12
    [house] = await database.run(lambda s: repository.services(s, HOME, 10, None))
    assert house.held == 12


async def test_a_correction_counts_whatever_time_it_carries(database: Database) -> None:
    client, fast = uuid4(), datetime.now(UTC) + timedelta(minutes=4)
    await take(database, DOOR.snapshot(client, section(HOME, {"level": "met"}, fast)))
    await take(database, DOOR.snapshot(client, section(HOME, {"level": "urgent"})))
    assert [r.state for r in await listed(database, client)] == ["draft"]
    assert await database.run(lambda s: s.scalar(text("SELECT data ->> 'level' FROM section"))) == "urgent"


async def test_a_practitioner_refers(database: Database, call: Call) -> None:
    """For the need that the own agency recorded, whoever else recorded one; an operator for any."""
    client, another = uuid4(), uuid4()
    own = section(HOME, {"level": "soon", "area": "leeds"}) | {"source": "probation-leeds"}
    await take(database, needs_home(client), DOOR.snapshot(client, own), needs_home(another))
    [draft] = await listed(database, client)
    house = await put(database, "house", capacity=0)

    async def refer(client: UUID, within: str | None = "probation-leeds") -> UUID:
        return await database.run(lambda s: service.refer(s, client, HOME, house, TRACE, within=within))

    with pytest.raises(Problem, match="not-eligible"):
        await refer(client)
    await database.run(lambda s: s.execute(text("UPDATE directory SET capacity = 2")))
    assert await refer(client) == draft.id
    [request] = await asked(database)
    assert (request.data.recipient, request.data.origin) == ("house", "probation-leeds")
    one = await call("GET", f"/referrals/{draft.id}", "probation-leeds", "referrals:read")
    assert (one.status_code, one.json()["state"]) == (200, "awaiting-sharing-decision")
    with pytest.raises(Problem, match="referral-open"):
        await refer(client)
    with pytest.raises(Problem, match="need-not-known"):
        await refer(another)
    await refer(another, within=None)
    assert [r.data.origin for r in await asked(database)] == ["hmp-leeds"]


async def test_who_did_not_record_the_need_learns_nothing_by_referring(database: Database, call: Call) -> None:
    """Whether the client has a need, a referral or an age that fits is not said to who holds a reference."""
    known, open_already, too_old = uuid4(), uuid4(), uuid4()
    house = await put(database, "house", maximum_age=40)
    old = section("identity", {"dateOfBirth": "1950-01-01"})
    await take(database, needs_home(open_already), needs_home(known), DOOR.snapshot(too_old, old))
    await take(database, DOOR.snapshot(too_old, section(HOME, {"level": "soon"})))
    await asked(database)
    before = {c: await said(database, c) for c in (known, open_already, too_old)}
    answers = []
    for client, place in [(c, house) for c in (uuid4(), *before)] + [(known, uuid4())]:
        body = {"client": str(client), "pathway": HOME, "service": str(place)}
        answer = await call("POST", "/referrals", "probation-leeds", "referrals:write", json=body)
        answers.append((answer.status_code, answer.json()))
    assert answers[0][0] == 409
    assert answers[0][1]["code"] == "need-not-known"
    assert answers == [answers[0]] * 5
    assert await asked(database) == []
    assert {c: await said(database, c) for c in before} == before


async def test_a_withdrawal_for_another_purpose_changes_nothing(database: Database) -> None:
    await put(database, "house")
    client = uuid4()
    await take(database, needs_home(client))
    [request] = await asked(database)
    await take(database, DOOR.withdrawn(client, 2, "mentor-matching", "release-notification"))
    [acknowledged] = await asked(database)
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert [r.state for r in await listed(database, client)] == ["awaiting-sharing-decision"]
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 2
    await take(database, answered(client, request.data.message.referral, "accepted", "house"))
    assert [r.state for r in await listed(database, client)] == ["accepted"], "there is no tombstone"


async def test_a_withdrawal_that_cannot_be_applied_erases(database: Database) -> None:
    await put(database, "house", capacity=5)
    clients = [uuid4() for _ in range(4)]
    await take(database, *(needs_home(c) for c in clients[:3]))
    closed = next(r.data.message.referral for r in await asked(database) if r.data.client == clients[0])
    await take(database, answered(clients[0], closed, "declined", "house", "ineligible"))
    await take(database, DOOR.withdrawn(clients[0], 2, recipients=["nobody-else"]))
    await asked(database)
    await take_poisoned(database, service, DOOR.withdrawn(clients[0], 2))
    await take_poisoned(database, service, DOOR.withdrawn(clients[3], 2))
    await take_poisoned(database, service, DOOR.withdrawn(clients[1], 2, "mentor-matching"))
    await take_poisoned(database, service, needs_home(clients[2]))
    left = await database.run(lambda s: s.scalars(text("SELECT DISTINCT client FROM section")))
    assert set(left) == set(clients[1:3])
    rows = {r.state: (r.pathway, r.eligibility) for r in await listed(database, clients[0])}
    assert rows == {"draft": (HOME, []), "declined": (None, [])}, "of what is open a person must see what it is"
    told = await said(database, clients[0])
    assert "ineligible" not in told
    assert "nobody-else" not in told
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM set_aside"))) >= 1
    assert await asked(database) == [], "it is not acknowledged: a person has to end what is open"
    await take(database, needs_home(clients[0]), needs_home(clients[3]))
    left = await database.run(lambda s: s.scalars(text("SELECT DISTINCT client FROM section")))
    assert set(left) == set(clients[1:3]), "what rests on it is ignored, for a client not known before too"


@pytest.mark.parametrize(("version", "tombstone"), [("two", None), (None, None), (2**40, None), (True, None), (2, 2)])
async def test_a_withdrawal_outside_its_contract_erases(
    database: Database, version: Any, tombstone: int | None
) -> None:
    client = uuid4()
    await take(database, needs_home(client))
    data = {"version": version}
    await Worker(database, cast(Any, None), service.apply, poison=service.poison).take(
        [DOOR.record("throughgate.client.withdrawn.v2", client, data)]
    )
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 0
    assert await database.run(lambda s: s.scalar(text("SELECT tombstone FROM client"))) == tombstone


async def test_an_agency_sees_its_own_referrals(database: Database, call: Call) -> None:
    await put(database, "house")
    client = uuid4()
    await take(database, needs_home(client))
    [request] = await asked(database)
    id = str(request.data.message.referral)

    async def seen(agency: str, *scopes: str) -> tuple[list[str], int]:
        rows = await call("GET", "/referrals", agency, "referrals:read", *scopes)
        one = await call("GET", f"/referrals/{id}", agency, "referrals:read", *scopes)
        return [row["id"] for row in rows.json()], one.status_code

    assert await seen("hmp-leeds") == ([id], 200)
    assert await seen("house") == ([], 404), "the door has not decided yet"
    await take(database, DOOR.settled(client, request.data.request, "denied"))
    assert await seen("house") == ([], 404), "the door said no"
    await take(database, needs_home(client))
    [again] = await asked(database)
    await take(database, DOOR.settled(client, again.data.request, "sent"))
    assert await seen("house") == ([id], 200)
    assert await seen("other-house") == ([], 404)
    assert await seen("anybody", "operator") == ([id], 200)


async def test_a_provider_learns_nothing_of_how_it_was_chosen(database: Database, call: Call) -> None:
    """Neither of the houses that came before, nor of what the rules looked at."""
    await put(database, "first", assured_date=date(2026, 6, 1), capacity=5)
    await put(database, "second", assured_date=date(2025, 6, 1))
    client = uuid4()
    await take(database, needs_home(client))
    [one] = await asked(database)
    await take(database, DOOR.settled(client, one.data.request, "sent"))
    await take(database, answered(client, one.data.message.referral, "declined", "first", "ineligible"))
    [two] = await asked(database)
    await take(database, DOOR.settled(client, two.data.request, "denied"))
    await put(database, "third")
    await take(database, needs_home(client))
    [three] = await asked(database)
    await take(database, DOOR.settled(client, three.data.request, "sent"))
    referral = three.data.message.referral
    assert (three.data.recipient, referral) == ("third", two.data.message.referral)
    await database.run(lambda s: s.execute(text('UPDATE referral SET withheld = \'[{"rule": "no-agreement"}]\'')))

    async def shown(agency: str) -> tuple[Any, ...]:
        [row] = await database.run(lambda s: repository.referrals(s, agency, id=referral))
        one = (await call("GET", f"/referrals/{referral}", agency, "referrals:read")).json()
        reasons = sorted(reason for line in one["eligibility"] for reason in line["reasons"])
        return one["follows"], reasons, row.withheld, [line["state"] for line in one["history"]]

    assert await shown("third") == (None, [], [], ["sent"])
    await database.run(lambda s: s.execute(text("UPDATE referral SET withheld = '[]'")))
    follows, reasons, _, states = await shown("hmp-leeds")
    assert (follows, "declined-before" in reasons) == (str(one.data.message.referral), True)
    asked_for = "awaiting-sharing-decision"
    assert states == ["draft", asked_for, "draft", asked_for, "sent"]


async def test_an_agency_writes_its_own_lines_of_the_directory(database: Database, call: Call) -> None:
    def line(organization: str) -> dict[str, Any]:
        return {"name": "House", "organization": organization, "pathways": [HOME], "capacity": 1}

    async def write(organization: str, agency: str, *scopes: str) -> tuple[int, str | None]:
        answer = await call("PUT", f"/services/{id}", agency, "directory:write", *scopes, json=line(organization))
        return answer.status_code, answer.json()["code"] if answer.content else None

    id = uuid4()
    assert await write("house", "others") == (403, "not-yours")
    assert await write("house", "house") == (204, None)
    assert await write("house", "house") == (204, None)
    assert await write("others", "others") == (403, "not-yours"), "it takes over no line"
    assert await write("others", "house") == (403, "not-yours"), "it gives none away"
    [kept] = await database.run(lambda s: repository.services(s, None, 10, None))
    assert kept.organization == "house"
    assert await write("others", "clerks", "operator") == (204, None)


async def test_the_database_itself_holds_a_question_to_its_agency(database: OfService) -> None:
    await put(database, "first", assured_date=date(2026, 6, 1))
    await put(database, "second")
    client = uuid4()
    await take(database, needs_home(client))
    [one] = await asked(database)
    first = str(one.data.message.referral)
    nobody = [None, "", "second", "somebody-else"]
    assert [await seen_by(database, agency, "referral") for agency in ("hmp-leeds", *nobody)] == [[first], *[[]] * 4]
    assert [await seen_by(database, agency, "referral") for agency in ("first",)] == [[]], "the door has not decided"
    await take(database, DOOR.settled(client, one.data.request, "sent"))
    every = await seen_by(database, "hmp-leeds", "referral_history")
    assert await seen_by(database, "first", "referral") == [first]
    assert await seen_by(database, "first", "referral_history") == every[-1:], "from when it was sent"
    for agency in nobody:
        assert await seen_by(database, agency, "referral") == []
        assert await seen_by(database, agency, "referral_history") == []
    assert await seen_by(database, "operator", "referral_history", whole=True) == every


async def test_a_list_that_forgets_whose_it_is_shows_no_more(
    database: Database, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database, "house")
    await take(database, needs_home(uuid4()))
    [request] = await asked(database)
    forgetting(monkeypatch, repository, "referrals")
    one = f"/referrals/{request.data.message.referral}"
    for agency, found in (("hmp-leeds", (1, 200)), ("house", (0, 404)), ("somebody-else", (0, 404))):
        rows = (await call("GET", "/referrals", agency, "referrals:read")).json()
        assert (len(rows), (await call("GET", one, agency, "referrals:read")).status_code) == found
    assert len((await call("GET", "/referrals", "anybody", "referrals:read", "operator")).json()) == 1
