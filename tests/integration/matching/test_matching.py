"""The matching service against a real PostgreSQL: what it does with what is cleared."""

import asyncio
from datetime import UTC, datetime, timedelta
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

from contracts.requests import REQUESTS, OfferRequested, RetractionAcknowledged
from contracts.vocabulary import Category
from matching import domain, repository, service
from matching.api import MatchLine, VolunteerBody
from matching.main import create_app
from servicekit.db import Database

DOOR = Cleared("matching", "mentor-matching")
TODAY = datetime.now(UTC).date()
HOME = Category.NEEDS_ACCOMMODATION


def waits(client: UUID, harm: str = "low", **more: Any) -> Any:
    return DOOR.snapshot(
        client,
        section("risk", {"harm": harm, "considerations": "secret"}),
        section("custody-and-release", {"prison": "LEI", "status": "sentenced", "releaseDate": "2026-12-01"}),
        section(HOME, {"level": "soon", "area": "leeds"}),
        **more,
    )


def answered(
    client: UUID, offer: UUID, answer: str, scheme: str = "mentors", reason: str | None = None, decided_on: int = 1
) -> Any:
    message = {"offer": offer, "answer": answer, "reason": reason}
    return DOOR.answered("throughgate.mentoring.answer-passed.v1", client, scheme, message, decided_on)


async def put(database: Database, id: UUID | None = None, **more: Any) -> UUID:
    body = VolunteerBody(
        scheme="mentors",
        areas=["leeds"],
        languages=["en"],
        approved=True,
        available=True,
        dbs_level="enhanced",
        dbs_expires=TODAY + timedelta(days=400),
        prison_clearances=["LEI"],
    )
    made = id or uuid4()
    await database.run(lambda session: service.put_volunteer(session, made, body.model_dump() | more, within=None))
    return made


async def take(database: Database, *records: Any) -> None:
    await database.run(lambda session: service.apply(session, records))


async def asked(database: Database) -> list[Any]:
    """The outbox, read and emptied."""
    rows = await outbox(database)
    assert all(row.topic == "requests.matching" for row in rows)
    return [REQUESTS.validate_json(row.value) for row in rows]


async def matches(database: Database, client: UUID) -> list[tuple[str, str | None]]:
    rows = await database.run(lambda session: repository.matches(session, None, client=client, limit=50))
    return [(MatchLine.model_validate(dict(row)).state, row.reason) for row in rows]


@pytest.fixture
async def database(database_of: DatabaseOf) -> OfService:
    return await database_of("matching")


@pytest.fixture
def call(database: OfService, tmp_path: Path) -> Call:
    return call_of(create_app, database, tmp_path)


async def test_a_round_offers_a_mentor_and_the_scheme_accepts(database: Database) -> None:
    mentor, client = await put(database), uuid4()
    first = waits(client)
    await take(database, first, first)
    await take(database, first)
    done = await database.run(service.run_round_if_due)
    assert done is not None
    [request] = await asked(database)
    assert isinstance(request, OfferRequested)
    assert (request.data.recipient, request.data.origin, request.data.about) == ("mentors", "hmp-leeds", ["identity"])
    assert request.data.include == ["identity", "custody-and-release", HOME]
    assert (request.data.message.mentor, done.offers) == (mentor, [request.data.message.offer])
    assert (await database.run(service.run_round)).offers == []
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    await take(database, answered(client, request.data.message.offer, "accepted", "others"))
    assert await matches(database, client) == [("offered", None)]
    await take(database, answered(client, request.data.message.offer, "accepted"))
    assert await matches(database, client) == [("active", None)]
    kept = await database.run(lambda s: s.scalar(text("SELECT string_agg(data::text, '') FROM section")))
    assert "secret" not in kept
    assert "releaseDate" not in kept


async def test_a_decline_is_remembered(database: Database) -> None:
    await put(database)
    client = uuid4()
    await take(database, waits(client))
    await database.run(service.run_round)
    [request] = await asked(database)
    await take(database, answered(client, request.data.message.offer, "declined", reason="client-declined"))
    assert await matches(database, client) == [("declined", "client-declined")]
    await take(database, waits(client))
    done = await database.run(service.run_round)
    assert (done.offers, done.unmatched) == ([], {client: {"declined-before": 1}})
    other = await put(database)
    assert len((await database.run(service.run_round)).offers) == 1
    [again] = await asked(database)
    assert again.data.message.mentor == other


async def test_why_a_match_closed_goes_with_the_client(database: Database) -> None:
    await put(database)
    client, other = uuid4(), uuid4()
    for one in (client, other):
        await take(database, waits(one))
        await database.run(service.run_round)
        [request] = await asked(database)
        await take(database, answered(one, request.data.message.offer, "declined", reason="client-declined"))
    await take(database, DOOR.withdrawn(client, 2, categories=["risk"]))
    assert await matches(database, client) == [("declined", "client-declined")]
    await take(database, DOOR.withdrawn(client, 3))
    assert await matches(database, client) == [("declined", None)]
    assert await matches(database, other) == [("declined", "client-declined")]
    sql = "SELECT client FROM match_history h JOIN match m ON m.id = h.match WHERE h.reason IS NOT NULL"
    assert list(await database.run(lambda s: s.scalars(text(sql)))) == [other]
    await take(database, waits(client, decided_on=3))
    assert (await database.run(service.run_round)).unmatched[client] == {"declined-before": 1}, "not offered twice"


async def test_why_a_match_closed_goes_where_one_batch_has_the_answer_and_the_retraction(database: Database) -> None:
    await put(database)
    client = uuid4()
    await take(database, waits(client))
    offer = (await offered(database, client)).data.message.offer
    await take(database, answered(client, offer, "declined", reason="client-declined"), DOOR.withdrawn(client, 2))
    assert await matches(database, client) == [("declined", None)]
    sql = "SELECT count(*) FROM match_history WHERE reason IS NOT NULL"
    assert await database.run(lambda s: s.scalar(text(sql))) == 0


async def test_the_list_of_matches_is_read_in_the_order_of_an_index(database: Database) -> None:
    assert await sorted_by_an_index(database, "match")


async def test_every_volunteer_can_be_reached_page_by_page(database: Database, call: Call) -> None:
    for scheme in ("mentors", "friends", "mentors", "mentors", "friends"):
        await put(database, scheme=scheme)

    async def page(*scopes: str, **asked: Any) -> list[str]:
        rows = await call("GET", "/volunteers", "mentors", "matches:read", *scopes, params=asked)
        return [row["id"] for row in rows.json()]

    for scopes, count in ((["operator"], 5), ([], 3)):
        every, found = await page(*scopes), await by_pages(partial(page, *scopes))
        assert (found, len(set(found))) == (every, count)


async def test_behind_what_is_not_its_own_an_agency_finds_nothing(database: Database, call: Call) -> None:
    """Whether there is such a volunteer, or match, and on which side of its own, is nobody else's business."""
    await put(database, scheme="mentors")
    others = await put(database, scheme="friends")
    await take(database, *(waits(uuid4()) for _ in range(2)))
    await database.run(service.run_round)
    match = await database.run(lambda s: s.scalar(text("SELECT id FROM match WHERE scheme = 'friends' LIMIT 1")))
    for path, id in (("/volunteers", others), ("/matches", match)):
        assert id is not None
        answer = await call("GET", path, "mentors", "matches:read", params={"after": id})
        assert answer.json() == [], path


async def test_every_match_can_be_reached_page_by_page(database: Database, call: Call) -> None:
    await put(database, caseload_limit=50)
    await take(database, *(waits(uuid4()) for _ in range(7)))
    await database.run(service.run_round)
    half = {"id": UUID(int=2**127)}
    await database.run(lambda s: s.execute(text("UPDATE match SET created_at = '2026-06-01' WHERE id < :id"), half))

    async def page(**asked: Any) -> list[str]:
        return [row["id"] for row in (await call("GET", "/matches", "hmp-leeds", "matches:read", params=asked)).json()]

    every, found = await page(), await by_pages(page)
    assert (found, len(set(found))) == (every, 7)


async def test_a_denial_is_not_repeated_until_facts_come_anew(database: Database) -> None:
    await put(database)
    client = uuid4()
    await take(database, waits(client))
    await database.run(service.run_round)
    [request] = await asked(database)
    await take(database, DOOR.settled(client, request.data.request, "denied"))
    assert await matches(database, client) == [("withdrawn", "sharing-denied")]
    assert (await database.run(service.run_round)).unmatched == {client: {"sharing-denied": 1}}
    await take(database, waits(client))
    assert len((await database.run(service.run_round)).offers) == 1
    _, second = [request, *await asked(database)]
    await take(database, DOOR.settled(client, second.data.request, "cancelled"))
    assert len((await database.run(service.run_round)).offers) == 1


async def test_checks_are_asked_about_again_when_mentoring_starts(database: Database) -> None:
    mentor, client = await put(database), uuid4()
    await take(database, waits(client))
    await database.run(service.run_round)
    [request] = await asked(database)
    await put(database, mentor, dbs_expires=TODAY)
    await take(database, answered(client, request.data.message.offer, "accepted"))
    assert await matches(database, client) == [("withdrawn", "checks-failed")]


async def test_an_offer_expires(database: Database) -> None:
    await put(database)
    clients = [uuid4(), uuid4()]
    await take(database, waits(clients[0]))
    await database.run(service.run_round)
    [request] = await asked(database)
    await database.run(lambda s: s.execute(text("UPDATE match SET expires_at = clock_timestamp()")))
    assert await database.run(service.expire) == 1
    await take(database, answered(clients[0], request.data.message.offer, "accepted"))
    assert await matches(database, clients[0]) == [("expired", "not-answered")]
    assert (await database.run(service.run_round)).unmatched == {clients[0]: {"expired-before": 1}}
    await take(database, waits(clients[1]))
    assert len((await database.run(service.run_round)).offers) == 1


async def test_withdrawal_ends_erases_and_is_remembered(database: Database) -> None:
    await put(database, caseload_limit=5)
    matched, offered = uuid4(), uuid4()
    await take(database, waits(matched), waits(offered))
    await database.run(service.run_round)
    requests = {r.data.client: r for r in await asked(database)}
    await take(database, answered(matched, requests[matched].data.message.offer, "accepted"))
    gone = [DOOR.withdrawn(matched, 2), DOOR.withdrawn(offered, 2)]
    await take(database, *gone)
    await take(database, *gone)
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged] * 2
    assert await matches(database, matched) == [("ended", "sharing-taken-back")]
    assert await matches(database, offered) == [("withdrawn", "sharing-taken-back")]
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == 0
    await take(database, waits(matched), DOOR.settled(offered, requests[offered].data.request, "sent"))
    assert await database.run(service.run_round_if_due) is None
    await take(database, waits(matched, decided_on=2))
    assert await database.run(service.run_round_if_due) is not None
    assert len(await asked(database)) == 1


async def offered(database: Database, client: UUID) -> Any:
    """Run a round, and give the one request that it made for this client."""
    await database.run(service.run_round)
    [request] = [r for r in await asked(database) if isinstance(r, OfferRequested) and r.data.client == client]
    return request


async def test_a_scheme_that_may_know_no_more_loses_the_match_and_another_is_asked(database: Database) -> None:
    first = await put(database)
    client, other = uuid4(), uuid4()
    await take(database, waits(client))
    request = await offered(database, client)
    await take(database, answered(client, request.data.message.offer, "accepted"))
    await put(database, caseload_limit=5, scheme="others")
    await take(database, waits(other))
    goes_on = await offered(database, other)
    before = await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section")))
    gone = [DOOR.withdrawn(c, 2, recipients=["mentors"]) for c in (client, other)]
    await take(database, *gone)
    await take(database, *gone)
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged] * 2
    assert await matches(database, client) == [("ended", "sharing-taken-back")]
    assert await matches(database, other) == [("requested", None)], "it is another scheme's"
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == before
    await take(database, waits(client, decided_on=2), waits(other, decided_on=2))
    again = await offered(database, client)
    assert (again.data.recipient, goes_on.data.recipient) == ("others", "others")
    assert (await database.run(service.run_round)).offers == [], "nobody is told twice"
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    assert await matches(database, client) == [("requested", None), ("ended", "sharing-taken-back")]
    # with nobody else the door is asked, once, and says why not
    await put(database, again.data.message.mentor, scheme="others", available=False)
    await take(database, answered(client, again.data.message.offer, "declined", "others", decided_on=2))
    last = await offered(database, client)
    assert last.data.message.mentor == first
    await take(database, DOOR.settled(client, last.data.request, "denied"))
    done = await database.run(service.run_round)
    assert (done.offers, done.unmatched[client]["sharing-denied"]) == ([], 1)


async def test_a_scheme_is_asked_as_before_when_more_was_said(database: Database) -> None:
    mentor = await put(database, pathways=[HOME])
    await put(database, scheme="others")
    client = uuid4()
    await take(database, waits(client), DOOR.withdrawn(client, 2, recipients=["mentors"]), waits(client, decided_on=3))
    assert (await offered(database, client)).data.message.mentor == mentor


async def test_a_match_goes_on_while_what_it_rests_on_is_there(database: Database) -> None:
    await put(database, caseload_limit=5)
    client = uuid4()
    await take(database, waits(client))
    request = await offered(database, client)
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    await take(database, DOOR.withdrawn(client, 2, categories=[HOME]))
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged]
    assert await matches(database, client) == [("offered", None)]
    kept = "SELECT category FROM section ORDER BY category"
    assert list(await database.run(lambda s: s.scalars(text(kept)))) == ["custody-and-release", "risk"]
    explanation = await database.run(lambda s: s.scalar(text("SELECT explanation FROM match")))
    assert explanation == {}, "the pathways spoke for the pair"
    await take(database, waits(client, decided_on=1))  # from before it: it is not taken
    assert list(await database.run(lambda s: s.scalars(text(kept)))) == ["custody-and-release", "risk"]
    await take(database, DOOR.withdrawn(client, 3, categories=["risk"]))
    assert await matches(database, client) == [("withdrawn", "sharing-taken-back")]
    assert [type(r) for r in await asked(database)] == [RetractionAcknowledged]
    assert (await database.run(service.run_round)).unmatched == {client: {"risk-unknown": 1}}
    await take(database, waits(client, decided_on=3))
    assert (await offered(database, client)).data.message.offer != request.data.message.offer


async def test_what_changes_while_a_round_thinks_is_seen(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    mentors = [await put(database) for _ in range(3)]
    clients = [uuid4() for _ in range(3)]
    await take(database, *(waits(c) for c in clients))
    think, loop = domain.solve, asyncio.get_running_loop()

    def meanwhile(*given: Any) -> domain.Solution:
        found = think(*given)
        for change in (take(database, DOOR.withdrawn(clients[0], 2)), put(database, mentors[0], approved=False)):
            asyncio.run_coroutine_threadsafe(change, loop).result(10)
        return found

    monkeypatch.setattr(domain, "solve", meanwhile)
    done = await database.run(service.run_round)
    requests = [r for r in await asked(database) if isinstance(r, OfferRequested)]
    assert len(done.offers) == len(requests)
    assert 1 <= len(requests) <= 2
    assert clients[0] not in {r.data.client for r in requests}
    assert mentors[0] not in {r.data.message.mentor for r in requests}


async def test_an_offer_goes_to_the_scheme_that_the_volunteer_has_now(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    mentor, client = await put(database), uuid4()
    await take(database, waits(client))
    think, loop = domain.solve, asyncio.get_running_loop()

    def meanwhile(*given: Any) -> domain.Solution:
        found = think(*given)
        asyncio.run_coroutine_threadsafe(put(database, mentor, scheme="others"), loop).result(10)
        return found

    monkeypatch.setattr(domain, "solve", meanwhile)
    request = await offered(database, client)
    await take(database, answered(client, request.data.message.offer, "accepted", request.data.recipient))
    assert (request.data.recipient, await matches(database, client)) == ("others", [("active", None)])


async def test_two_rounds_at_once_offer_once(database: Database) -> None:
    await put(database, caseload_limit=50)
    clients = [uuid4() for _ in range(40)]
    await take(database, *(waits(c) for c in clients))
    done = await asyncio.gather(*(database.run(service.run_round) for _ in range(3)))
    assert sorted(len(d.offers) for d in done) == [0, 0, 40]
    assert {d.ran for d in done} >= {True}
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM match"))) == 40


async def test_a_withdrawal_for_another_purpose_changes_nothing(database: Database) -> None:
    await put(database)
    client = uuid4()
    await take(database, waits(client))
    sections = await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section")))
    await take(database, DOOR.withdrawn(client, 2, "referral", "release-notification"))
    [acknowledged] = await asked(database)
    assert isinstance(acknowledged, RetractionAcknowledged)
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM section"))) == sections
    assert await database.run(lambda s: s.scalar(text("SELECT count(*) FROM client WHERE tombstone IS NOT NULL"))) == 0
    assert len((await database.run(service.run_round)).offers) == 1


async def test_a_withdrawal_that_cannot_be_applied_erases(database: Database) -> None:
    await put(database, caseload_limit=5)
    matched, waiting, other = uuid4(), uuid4(), uuid4()
    await take(database, waits(matched))
    await database.run(service.run_round)
    await take(database, waits(waiting), waits(other))
    await asked(database)
    await take_poisoned(database, service, DOOR.withdrawn(matched, 2))
    await take_poisoned(database, service, DOOR.withdrawn(waiting, 2))
    await take_poisoned(database, service, DOOR.withdrawn(other, 2, "referral"))
    assert set(await database.run(lambda s: s.scalars(text("SELECT client FROM section")))) == {other}
    [row] = await database.run(lambda s: repository.matches(s, None, client=matched))
    assert (row.state, row.explanation) == ("requested", {})
    assert await asked(database) == [], "it is not acknowledged: a person has to end what is open"
    await take(database, waits(matched), waits(waiting))
    assert set(await database.run(lambda s: s.scalars(text("SELECT client FROM section")))) == {other}
    done = await database.run(service.run_round)
    assert (len(done.offers), done.unmatched) == (1, {}), "who withdrew does not wait any more"


async def test_an_agency_sees_its_own_matches(database: Database, call: Call) -> None:
    await put(database)
    client = uuid4()
    await take(database, waits(client))
    await database.run(service.run_round)
    [request] = await asked(database)
    id = str(request.data.message.offer)

    async def seen(agency: str, *scopes: str) -> list[str]:
        rows = await call("GET", "/matches", agency, "matches:read", *scopes)
        return [row["id"] for row in rows.json()]

    assert await seen("hmp-leeds") == [id]
    assert await seen("mentors") == [], "the door has not decided yet"
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    assert await seen("mentors") == [id]
    assert await seen("other-mentors") == []
    assert await seen("anybody", "operator") == [id]
    await take(database, answered(client, request.data.message.offer, "accepted"))
    await take(database, DOOR.withdrawn(client, 2))
    assert await seen("hmp-leeds") == await seen("mentors") == [id]


async def test_a_scheme_learns_nothing_of_what_the_rules_look_at(database: Database, call: Call) -> None:
    """An offer does not tell it risk, language or needs: nor does the list."""
    mentor, client = await put(database), uuid4()
    await take(database, waits(client))
    request = await offered(database, client)
    await take(database, DOOR.settled(client, request.data.request, "sent"), waits(client, harm="high"))
    await take(database, answered(client, request.data.message.offer, "accepted"))

    async def shown(agency: str, *scopes: str) -> tuple[Any, Any]:
        [row] = (await call("GET", "/matches", agency, "matches:read", *scopes)).json()
        assert (row["volunteer"], row["state"]) == (str(mentor), "withdrawn")
        return row["explanation"].get("failedAtStart"), row["explanation"].get("scores", {}).keys()

    told = ["high-risk-experience", "high-risk-training", "high-risk-interview"]
    everything = (told, {"waiting", "language", "pathways"})
    assert await shown("hmp-leeds") == await shown("anybody", "operator") == everything
    assert await shown("mentors") == (None, set())
    await database.run(lambda s: s.execute(text('UPDATE match SET withheld = \'[{"rule": "no-agreement"}]\'')))
    rows = await database.run(lambda s: repository.matches(s, "mentors"))
    assert [row.withheld for row in rows] == [[]]


async def test_an_agency_writes_its_own_volunteers(database: OfService, call: Call) -> None:
    async def write(scheme: str, agency: str, *scopes: str) -> tuple[int, str | None]:
        body = {"scheme": scheme, "approved": True, "available": True}
        answer = await call("PUT", f"/volunteers/{id}", agency, "volunteers:write", *scopes, json=body)
        return answer.status_code, answer.json()["code"] if answer.content else None

    id = uuid4()
    assert await write("mentors", "others") == (403, "not-yours")
    assert await write("mentors", "mentors") == (204, None)
    assert await write("mentors", "mentors") == (204, None)
    assert await write("others", "others") == (403, "not-yours"), "it takes over no volunteer"
    assert await write("others", "mentors") == (403, "not-yours"), "it gives none away"
    assert await seen_by(database, "mentors", "volunteer") == [str(id)]
    assert await write("others", "clerks", "operator") == (204, None)


async def test_an_agency_sees_its_own_volunteers(database: Database, call: Call) -> None:
    mine, theirs = str(await put(database)), str(await put(database, scheme="others"))

    async def seen(agency: str, *scopes: str) -> set[str]:
        answer = await call("GET", "/volunteers", agency, "matches:read", *scopes)
        return {row["id"] for row in answer.json()}

    assert await seen("mentors") == {mine}
    assert await seen("others") == {theirs}
    assert await seen("hmp-leeds") == set()
    assert await seen("anybody", "operator") == {mine, theirs}


async def test_an_agency_sees_of_a_round_what_goes_by_its_own_assessment(database: Database, call: Call) -> None:
    await put(database)
    matched, waiting, another = uuid4(), uuid4(), uuid4()

    async def ran(agency: str, *scopes: str) -> tuple[int, int, Any]:
        answer = (await call("POST", "/rounds", agency, "rounds:run", *scopes)).json()
        return len(answer["offers"]), answer["unmatched"], answer["barred"]

    await take(database, waits(matched), waits(waiting, harm="high"))
    assert await ran("hmp-leeds") == (1, 1, None), "why is worked out from what others recorded as well"
    await put(database)
    await take(database, waits(another))
    assert await ran("mentors") == (0, 0, None), "the scheme hears of its offer from the door, if at all"
    offers, unmatched, barred = await ran("anybody", "operator")
    assert (offers, unmatched, barred.keys()) == (0, 1, {str(waiting)})
    assert "high-risk-training" in barred[str(waiting)]
    assert [state for state, _ in await matches(database, another)] == ["requested"], "the round ran for everybody"


async def test_the_database_itself_holds_a_question_to_its_agency(database: OfService, call: Call) -> None:
    mentor, client = str(await put(database)), uuid4()
    await take(database, waits(client))
    await database.run(service.run_round)
    await put(database, scheme="others")
    [request] = await asked(database)
    offer, nobody = str(request.data.message.offer), [None, "", "somebody-else"]
    assert await seen_by(database, "hmp-leeds", "match") == [offer]
    assert await seen_by(database, "mentors", "match") == [], "the door has not decided"
    [line] = (await call("GET", "/volunteers", "mentors", "matches:read")).json()
    assert (line["id"], line["caseload"]) == (mentor, 1), "the place is held all the same"
    await take(database, DOOR.settled(client, request.data.request, "sent"))
    every = await seen_by(database, "hmp-leeds", "match_history")
    assert await seen_by(database, "mentors", "match") == [offer]
    assert await seen_by(database, "mentors", "match_history") == every
    assert await seen_by(database, "mentors", "volunteer") == [mentor]
    assert await seen_by(database, "others", "match") == []
    for agency in nobody:
        assert [await seen_by(database, agency, t) for t in ("match", "match_history", "volunteer")] == [[], [], []]
    assert await seen_by(database, "operator", "match_history", whole=True) == every
    assert len(await seen_by(database, "operator", "volunteer", whole=True)) == 2


async def test_a_list_that_forgets_whose_it_is_shows_no_more(
    database: Database, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(database)
    await take(database, waits(uuid4()))
    await database.run(service.run_round)
    forgetting(monkeypatch, repository, "matches")
    forgetting(monkeypatch, repository, "listed_volunteers")
    for agency, found in (("hmp-leeds", (1, 0)), ("mentors", (0, 1)), ("somebody-else", (0, 0))):
        lists = [await call("GET", path, agency, "matches:read") for path in ("/matches", "/volunteers")]
        assert tuple(len(rows.json()) for rows in lists) == found
    assert len((await call("GET", "/matches", "anybody", "matches:read", "operator")).json()) == 1
