"""The transaction boundary: run again where that helps, all or nothing, and committed before anyone is told."""

import asyncio
import importlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, get_type_hints
from uuid import uuid4

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from support.services import DatabaseOf, call_of

from servicekit import db
from servicekit.db import Database, TryAgain, is_transient, listening, sqlstate, wait, wake_after_commit
from throughgate.issuer import Issuer

Scalar = Callable[..., Awaitable[Any]]


async def add_one(session: AsyncSession, id: int) -> None:
    await session.execute(text("UPDATE thing SET n = n + 1 WHERE id = :id"), {"id": id})


class Together:
    """Lets two pieces of work meet in their first attempt."""

    def __init__(self) -> None:
        self.attempts = 0
        self._barrier = asyncio.Barrier(2)

    async def meet(self) -> None:
        self.attempts += 1
        if self.attempts <= 2:
            await self._barrier.wait()


async def test_a_deadlock_is_run_again_and_both_have_their_effect_once(database: Database, scalar: Scalar) -> None:
    together = Together()

    async def work(session: AsyncSession, first: int, second: int) -> None:
        await add_one(session, first)
        await together.meet()
        await add_one(session, second)

    await asyncio.gather(
        database.run(lambda session: work(session, 1, 2)), database.run(lambda session: work(session, 2, 1))
    )
    assert together.attempts == 3
    assert await scalar("SELECT array_agg(n) FROM thing") == [2, 2]


async def test_a_serialization_failure_is_run_again_and_sees_the_winner(database: Database, scalar: Scalar) -> None:
    together = Together()

    async def work(session: AsyncSession) -> int:
        await session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        n = int(await session.scalar(text("SELECT n FROM thing WHERE id = 1")) or 0)
        await together.meet()
        await session.execute(text("UPDATE thing SET n = :n WHERE id = 1"), {"n": n + 1})
        return n + 1

    assert sorted(await asyncio.gather(database.run(work), database.run(work))) == [1, 2]
    assert together.attempts == 3
    assert await scalar("SELECT n FROM thing WHERE id = 1") == 2


async def test_a_lock_timeout_is_run_again(database: Database, scalar: Scalar) -> None:
    attempts = 0
    async with database.engine.connect() as holder:
        await holder.execute(text("SELECT 1 FROM thing WHERE id = 1 FOR UPDATE"))

        async def work(session: AsyncSession) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 3:
                await holder.rollback()
            await session.execute(text("SET LOCAL lock_timeout = '20ms'"))
            await add_one(session, 1)

        await database.run(work)
    assert (attempts, await scalar("SELECT n FROM thing WHERE id = 1")) == (3, 1)


async def test_try_again_begins_from_the_start_and_gives_up_in_the_end(
    database: Database, scalar: Scalar, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0

    async def work(session: AsyncSession) -> str:
        nonlocal attempts
        attempts += 1
        await add_one(session, 1)
        if attempts < 3:
            raise TryAgain
        return "done"

    assert await database.run(work) == "done"
    assert (attempts, await scalar("SELECT n FROM thing WHERE id = 1")) == (3, 1)
    attempts = -9
    monkeypatch.setattr(db, "ATTEMPTS", 2)
    with pytest.raises(TryAgain):
        await database.run(work)
    assert (attempts, await scalar("SELECT n FROM thing WHERE id = 1")) == (-7, 1)


FAILURES: dict[str, tuple[str | None, type[Exception]]] = {
    "a rule of the table": ("UPDATE thing SET n = 100 WHERE id = 2", IntegrityError),
    "a value": ("SELECT 1 / 0", DBAPIError),
    "an error of ours": (None, ZeroDivisionError),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_what_fails_leaves_nothing_and_is_not_run_again(what: str, database: Database, scalar: Scalar) -> None:
    statement, kind = FAILURES[what]
    attempts = 0

    async def work(session: AsyncSession) -> None:
        nonlocal attempts
        attempts += 1
        await add_one(session, 1)
        if statement is None:
            raise ZeroDivisionError
        await session.execute(text(statement))

    with pytest.raises(kind) as caught:
        await database.run(work)
    assert not is_transient(caught.value)
    assert (attempts, await scalar("SELECT array_agg(n) FROM thing")) == (1, [0, 0])


async def test_an_error_does_not_quote_its_parameters(database: Database) -> None:
    async def work(session: AsyncSession) -> None:
        await session.execute(text("INSERT INTO thing VALUES (:id, :n)"), {"id": 77_777, "n": 88_888})

    with pytest.raises(IntegrityError) as caught:
        await database.run(work)
    assert "88888" not in str(caught.value).replace(str(caught.value.orig), ""), "SQLAlchemy's own part of it"


async def test_a_connection_that_was_ended_in_the_pool_is_made_anew(database: Database) -> None:
    """As by a restart of the server: the first request after it is to be answered."""

    async def own(session: AsyncSession) -> int:
        return int((await session.execute(text("SELECT pg_backend_pid()"))).scalar_one())

    async with database.engine.connect() as other:
        ended = await database.run(own)
        await other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": ended})
        await asyncio.sleep(0.1)  # in which the client hears of it
        assert await database.run(own) != ended


async def test_a_lost_connection_is_transient(database: Database) -> None:
    async def work(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(DBAPIError) as caught:
        await database.run(work)
    assert is_transient(caught.value), sqlstate(caught.value)
    assert await database.run(lambda session: session.scalar(text("SELECT 1"))) == 1


@pytest.mark.parametrize(
    ("state", "transient"),
    [
        ("40001", True),  # serialization failure
        ("40P01", True),  # deadlock
        ("55P03", True),  # lock not available
        ("08006", True),  # connection failure
        ("53300", True),  # too many connections
        ("57P01", True),  # shut down by the administrator
        ("57P03", True),  # not up yet
        ("22012", False),  # division by zero
        ("22021", False),  # a NUL in a text
        ("23505", False),  # unique violation
        ("42501", False),  # permission denied
    ],
)
async def test_what_is_transient(
    state: str, transient: bool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "ATTEMPTS", 2)

    async def work(session: AsyncSession) -> None:
        await session.execute(text(f"DO $$ BEGIN RAISE 'planted' USING ERRCODE = '{state}'; END $$"))

    with pytest.raises(DBAPIError) as caught:
        await database.run(work)
    assert (sqlstate(caught.value), is_transient(caught.value)) == (state, transient)


async def test_who_waits_is_woken_after_the_commit_and_only_then(database: Database, scalar: Scalar) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    async with listening(url, "kept", "undone") as (kept, undone):

        async def work(session: AsyncSession, channel: str, fails: bool) -> None:
            await add_one(session, 1)
            wake_after_commit(session, channel)
            if fails:
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await database.run(lambda session: work(session, "undone", True))
        waking = asyncio.create_task(kept.wait())
        await database.run(lambda session: work(session, "kept", False))
        await asyncio.wait_for(waking, 10)
        assert await scalar("SELECT n FROM thing WHERE id = 1") == 1
        assert not undone.is_set()
        await wait(kept, 0)
        assert not kept.is_set(), "waiting resets it"


# --- HTTP commits before it answers -------------------------------------------------------------------------

ID = str(uuid4())
WRITES: dict[str, tuple[str, str, list[str], dict[str, Any], str]] = {
    "consent": (
        "PUT",
        "/agencies/hostel",
        ["operator"],
        {"name": "Hostel", "kind": "vcs"},
        "SELECT count(*) FROM agency WHERE id = 'hostel'",
    ),
    "referral": (
        "PUT",
        f"/services/{ID}",
        ["directory:write", "operator"],
        {"name": "A", "organization": "hostel", "pathways": ["needs.accommodation"], "capacity": 1},
        "SELECT count(*) FROM directory",
    ),
    "matching": (
        "PUT",
        f"/volunteers/{ID}",
        ["volunteers:write", "operator"],
        {"scheme": "mentors", "approved": True, "available": True},
        "SELECT count(*) FROM volunteer",
    ),
    "notifications": (
        "PUT",
        "/gate-partners/hostel",
        ["plans:write", "operator"],
        {"prisons": ["LEI"]},
        "SELECT count(*) FROM gate_partner",
    ),
}


@pytest.mark.parametrize("service", WRITES)
async def test_a_request_is_committed_before_its_answer_begins(
    service: str, database_of: DatabaseOf, tmp_path: Path
) -> None:
    method, path, scopes, body, count = WRITES[service]
    database = await database_of(service, "api")
    issuer = Issuer()
    main: Any = importlib.import_module(f"{service}.main")
    url = SecretStr(database.engine.url.render_as_string(hide_password=False))
    known = next(iter(get_type_hints(main.create_app).values()))
    settings = known(
        **{name: url for name in known.model_fields if name.endswith("database_url")},
        jwks=str(issuer.write_jwks(tmp_path / "jwks.json")),
        issuer=issuer.name,
    )
    app = main.create_app(settings)
    token = issuer.token("clerk", "operator", [*scopes, "operator"])
    seen: list[tuple[int, int]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            async with database.engine.connect() as another:
                seen.append((message["status"], int(await another.scalar(text(count)) or 0)))

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode()), (b"content-type", b"application/json")],
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    assert seen == [(204, 1)]


async def test_an_api_is_ready_while_either_of_its_roles_reaches_the_database(
    database_of: DatabaseOf, tmp_path: Path
) -> None:
    create_app: Any = importlib.import_module("referral.main").create_app
    ready = []
    for wrong in (None, "api", "agency"):
        database = await database_of("referral")
        if wrong:
            database._others[wrong] = Database("postgresql+asyncpg://nobody@127.0.0.1:1/nothing", 1, "test")
        answer = await call_of(create_app, database, tmp_path)("GET", "/readyz", "nobody")
        ready.append(answer.status_code)
    assert ready == [200, 503, 503]
