"""What a service set aside is listed without its bytes, erased with its client, and forgotten in time."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from aiokafka import ConsumerRecord
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.agency import eventually_true
from support.services import DatabaseOf, OfService, call_of, take_poisoned

import matching.main
import matching.service
import matching.settings
import notifications.main
import notifications.service
import notifications.settings
import referral.main
import referral.service
from contracts.vocabulary import SERVICE_PURPOSES
from servicekit import aside
from servicekit.envelope import encode

SERVICES: dict[str, tuple[Any, Any]] = {
    "referral": (referral, referral.service.apply),
    "matching": (matching, matching.service.apply),
    "notifications": (notifications, notifications.service.apply("system")),
}


class There:
    """One service on a database of its own, and what it set aside."""

    def __init__(self, service: str, database: OfService) -> None:
        self.service, self.database = service, database
        self.package, self.apply = SERVICES[service]
        self._offset = 0

    def record(self, type: str, client: UUID, data: dict[str, Any]) -> ConsumerRecord[Any, Any]:
        self._offset += 1
        value = encode(f"throughgate.client.{type}.v1", "/throughgate", data, subject=str(client))
        key = str(client).encode()
        return ConsumerRecord(f"cleared.{self.service}", 0, self._offset, 0, 0, key, value, 0, len(key), len(value), ())

    def withdrawn(self, client: UUID, purpose: str | None = None, **scope: Any) -> ConsumerRecord[Any, Any]:
        purposes = [purpose or SERVICE_PURPOSES[self.service]]
        return self.record("withdrawn", client, {"retraction": uuid4(), "purposes": purposes, "version": 2} | scope)

    async def take(self, *records: Any) -> None:
        await self.database.run(lambda session: self.apply(session, records))

    async def poisoned(self, *records: Any) -> None:
        await take_poisoned(self.database, self.package.service, *records)

    async def kept(self) -> list[bool]:
        """Of what was set aside, oldest first: whether its bytes are there."""
        sql = "SELECT value IS NOT NULL FROM set_aside ORDER BY id"
        return list(await self.database.run(lambda session: session.scalars(text(sql))))


@pytest.fixture(params=SERVICES)
async def there(request: pytest.FixtureRequest, database_of: DatabaseOf) -> There:
    return There(request.param, await database_of(request.param))


def unreadable(there: There, client: UUID) -> ConsumerRecord[Any, Any]:
    return there.record("snapshot", client, {"sections": "Robin Fictional, 1 Nowhere Street"})


@pytest.mark.parametrize("scope", [{}, {"categories": ["identity"]}])
async def test_a_retraction_erases_what_was_set_aside_of_its_client(there: There, scope: dict[str, Any]) -> None:
    client, other = uuid4(), uuid4()
    for record in (unreadable(there, client), unreadable(there, other)):
        await there.poisoned(record)
    assert await there.kept() == [True, True]
    await there.take(there.withdrawn(client, "public-protection"))
    await there.take(there.withdrawn(client, recipients=["mentors"]))
    assert await there.kept() == [True, True], "for another purpose, or what others were told: the facts stay"
    await there.take(there.withdrawn(client, **scope))
    assert await there.kept() == [False, True]


async def test_a_withdrawal_that_cannot_be_applied_erases_what_was_set_aside_before_it(there: There) -> None:
    client = uuid4()
    await there.poisoned(unreadable(there, client))
    await there.poisoned(there.withdrawn(client))
    assert await there.kept() == [False, True], "the withdrawal itself is kept for a person: it says whose it is"


async def test_the_operator_sees_what_was_set_aside_and_nothing_of_what_it_says(there: There, tmp_path: Path) -> None:
    client = uuid4()
    await there.poisoned(unreadable(there, client), unreadable(there, uuid4()))
    await there.take(there.withdrawn(client))
    call = call_of(there.package.main.create_app, there.database, tmp_path)
    assert (await call("GET", "/set-aside", "hostel", "referrals:read")).status_code == 403
    answer = await call("GET", "/set-aside", "operator", "operator")
    lines = answer.json()
    assert [(line["offset"], line["erased"]) for line in lines] == [(1, True), (2, False)]
    pages = [
        (await call("GET", "/set-aside", "operator", "operator", params=p)).json()
        for p in ({"limit": 1}, {"limit": 1, "after": lines[0]["id"]}, {"after": lines[1]["id"]})
    ]
    assert pages == [lines[:1], lines[1:], []]
    assert {line["reason"] for line in lines} == {"ValidationError"}
    assert "Fictional" not in answer.text
    assert str(client) not in answer.text
    api = there.database.as_role("api")
    await api.run(lambda session: session.execute(text("SELECT id, erased FROM set_aside")))
    with pytest.raises(DBAPIError) as refused:
        await api.run(lambda session: session.execute(text("SELECT value FROM set_aside")))
    assert isinstance(refused.value.orig.__cause__, asyncpg.InsufficientPrivilegeError)  # type: ignore[union-attr]


async def test_what_was_set_aside_is_forgotten_in_time(there: There) -> None:
    await there.poisoned(unreadable(there, uuid4()))

    async def forgotten() -> bool:
        return await there.kept() == []

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await aside.keep_for(there.database, 1)
    assert await there.kept() == [True]
    forgetting = asyncio.create_task(aside.keep_for(there.database, 0))
    try:
        await eventually_true(forgotten, "it to be forgotten")
    finally:
        forgetting.cancel()
        await asyncio.gather(forgetting, return_exceptions=True)
