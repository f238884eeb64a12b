"""The door alone, started seldom; each test takes a prison, probation and two VCS agencies that nobody has used."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from support.agency import Agency, Operator, event, granted, prison_number, terms, withdrawn
from support.servers import end_system

from throughgate.system import System

CATEGORIES = ["identity", "custody-and-release", "needs.accommodation"]
SETS = 32
_sets = itertools.count()


@dataclass
class Door:
    """The system under test, those who take part, and one client's numbers."""

    system: System
    operator: Operator
    prison: Agency
    probation: Agency
    hostel: Agency
    mentors: Agency
    number: str = field(default_factory=prison_number)

    @property
    def identifiers(self) -> list[dict[str, str]]:
        """The client, as the prison knows it."""
        return [{"type": "NOMS", "value": self.number}]

    def recorded(self, facts: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Facts that the prison recorded."""
        return event(
            "client.recorded", self.prison.name, {"identifiers": self.identifiers, "facts": facts or FACTS}, **more
        )

    def consent(self, *recipients: Agency, categories: list[str] | None = None) -> dict[str, Any]:
        """Consent for referral that the prison recorded."""
        wanted = categories or ["identity", "needs.accommodation", "risk"]
        names = [r.name for r in recipients]
        return event("consent.granted", self.prison.name, granted(self.identifiers, names, ["referral"], wanted))

    def withdrawal(self, **scope: Any) -> dict[str, Any]:
        """A withdrawal that the prison recorded."""
        return event("consent.withdrawn", self.prison.name, withdrawn(self.identifiers, **scope))

    def invoked(self, kind: str, by: Agency, recipient: Agency, **more: Any) -> dict[str, Any]:
        """A `gateway` or an `override` of an agency that holds from a minute ago for an hour."""
        now = datetime.now(UTC)
        ends = (now + timedelta(hours=1)).isoformat()
        data = {
            "identifiers": self.identifiers,
            kind: uuid4().hex,
            "recipients": [recipient.name],
            "purposes": ["public-protection"],
            "categories": ["identity", "risk"],
            "starts": (now - timedelta(minutes=1)).isoformat(),
            "ends": ends,
            "reason": "made up",
        }
        if kind == "gateway":
            data |= {"basis": "cda-1998-s115", "authorisedByRole": "duty manager"}
            return event("gateway.invoked", by.name, data | more)
        data |= {"reviewBy": ends, "authorisedBy": "staff-1", "approvedBy": "staff-2"}
        return event("override.authorised", by.name, data | more)


FACTS = {
    "identity": {"givenName": "Robin", "familyName": "Fictional"},
    "contact": {"address": "1 Nowhere Street"},
    "needs.accommodation": {"level": "urgent", "summary": "no fixed abode"},
    "risk": {"harm": "low"},
}


@pytest.fixture(scope="session")
def next_door(start_system: Callable[..., System]) -> Callable[[], tuple[System, int]]:
    """Gives a running door and the number of agencies there that no test has used; a new door when they are used up."""
    doors: list[System] = []
    names = ("prison", "probation", "hostel", "mentors")

    def take() -> tuple[System, int]:
        n = next(_sets) % SETS
        if n == 0:
            for used_up in doors:
                end_system(used_up)
            doors[:] = [start_system([f"{name}-{n}" for n in range(SETS) for name in names], ["consent"])]
        return doors[0], n

    return take


@pytest.fixture
async def door(next_door: Callable[[], tuple[System, int]]) -> AsyncIterator[Door]:
    """The door, and an agreement: the prison tells hostel and mentors for referral, by consent, with a subscription."""
    async with a_door(*next_door()) as made:
        yield made


LONE_SETS = 32


@pytest.fixture(scope="module")
def lone_system(start_system: Callable[..., System]) -> Iterator[System]:
    """A running door for one file of tests, which may look at all of its ledger, or tamper with it."""
    names = ("prison", "probation", "hostel", "mentors")
    system = start_system([f"{name}-{n}" for n in range(LONE_SETS) for name in names], ["consent"])
    yield system
    end_system(system)


@pytest.fixture(scope="module")
def lone_sets() -> Iterator[int]:
    """Numbers of agencies that no test of this file has used."""
    return iter(range(LONE_SETS))


@pytest.fixture
async def lone_door(lone_system: System, lone_sets: Iterator[int]) -> AsyncIterator[Door]:
    """As `door`, on a system of this file's own."""
    async with a_door(lone_system, next(lone_sets)) as made:
        yield made


@asynccontextmanager
async def a_door(door_system: System, n: int) -> AsyncIterator[Door]:
    """The door with the agencies of one number, registered, agreed and connected."""
    operator = Operator(door_system)
    names = (f"prison-{n}", f"probation-{n}", f"hostel-{n}", f"mentors-{n}")
    await operator.register(
        **dict(zip((x.replace("-", "_") for x in names), ("prison", "probation", "vcs", "vcs"), strict=True))
    )
    await operator.agree(f"referral-{n}", [names[0]], [names[2], names[3], "referral"], [terms("referral", CATEGORIES)])
    async with AsyncExitStack() as stack:
        prison, probation, hostel, mentors = [await stack.enter_async_context(Agency(door_system, x)) for x in names]
        yield Door(door_system, operator, prison, probation, hostel, mentors)
