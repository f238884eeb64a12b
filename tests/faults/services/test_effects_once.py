"""Promise 3 through the services: killed at any named point, each client's referral, offer and step leaves once."""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest
from support.agency import Agency, Operator, event, eventually, eventually_true, granted, terms, without_repeats

from throughgate.system import System

PRISON, PARTNER = "hmp-leeds", "harbour-housing"
CATEGORIES = ["identity", "custody-and-release", "needs.accommodation", "risk"]
CLIENTS = 40
RELEASE = datetime.now(UTC).date() + timedelta(days=10)
FACTS = {
    "identity": {"givenName": "Robin", "familyName": "Fictional"},
    "custody-and-release": {"prison": "LEI", "status": "sentenced", "releaseDate": RELEASE.isoformat()},
    "needs.accommodation": {"level": "urgent"},
    "risk": {"harm": "low"},
}


@dataclass(frozen=True)
class Scenario:
    """What a service makes of a cleared client, and what the partner is to receive of it, once for each client."""

    service: str
    purpose: str
    scope: str
    path: str
    body: dict[str, Any]
    type: str
    each: int = 1


SCENARIOS = {
    "referral": Scenario(
        "referral",
        "referral",
        "directory:write",
        f"/services/{uuid4()}",
        {"name": "A hostel", "organization": PARTNER, "pathways": ["needs.accommodation"], "capacity": 1000},
        "throughgate.referral.sent.v1",
    ),
    "matching": Scenario(
        "matching",
        "mentor-matching",
        "volunteers:write",
        f"/volunteers/{uuid4()}",
        {
            "scheme": PARTNER,
            "approved": True,
            "available": True,
            "dbsLevel": "enhanced",
            "dbsExpires": "2099-01-01",
            "prisonClearances": ["LEI"],
            "training": ["core"],
            "experienceMonths": 30,
            "caseloadLimit": 100,
        },
        "throughgate.mentoring.offered.v1",
    ),
    "notifications": Scenario(
        "notifications",
        "release-notification",
        "plans:write",
        f"/gate-partners/{PARTNER}",
        {"prisons": ["LEI"]},
        "throughgate.release.step-due.v1",
        each=2,
    ),
}
POINTS = [
    ("referral", "referral.applied"),
    ("referral", "worker.committed"),
    ("referral", "relay.sent"),
    ("matching", "matching.solved"),
    ("matching", "relay.sent"),
    ("notifications", "notifications.applied"),
    ("notifications", "notifications.asked"),
    ("notifications", "relay.sent"),
]


@pytest.mark.parametrize(("name", "point"), POINTS, ids=["-".join(p) for p in POINTS])
async def test_killed_at(make_system: Callable[..., System], name: str, point: str) -> None:
    """Kill -9 at the first passage of the point; then every client's record is at the partner exactly once."""
    scenario = SCENARIOS[name]
    adjustable = {"THROUGHGATE_CLOCK": "adjustable", "THROUGHGATE_ROUND_SECONDS": "1"}
    system = make_system([PRISON, PARTNER], ["consent", scenario.service], common=adjustable)
    operator = Operator(system)
    await operator.register(hmp_leeds="prison", harbour_housing="vcs")
    allowed = terms(scenario.purpose, CATEGORIES)
    await operator.agree("to-the-service", [PRISON], [scenario.service], [allowed])
    await operator.agree("to-the-partner", [PRISON], [PARTNER], [allowed | {"subscription": False}])
    worker = f"{scenario.service}.worker"
    async with AsyncExitStack() as stack:
        prison = await stack.enter_async_context(Agency(system, PRISON))
        partner = await stack.enter_async_context(Agency(system, PARTNER))
        http = await stack.enter_async_context(_operations(system, scenario))
        (await http.put(scenario.path, json=scenario.body)).raise_for_status()
        system.start_process(worker, {"THROUGHGATE_FAULT": f"{point}:kill:1"})
        killed = system.pid(worker)
        system.wait_ready()
        await _publish(prison, scenario)
        if name == "notifications":
            await _morning_comes(system, http, killed, worker, point)
        await eventually(lambda: system.pid(worker) != killed or None, "the fault to strike", 60)

        async def arrived() -> bool:
            got = [r for r in without_repeats(await partner.received()) if r.event["type"] == scenario.type]
            return len(got) >= CLIENTS * scenario.each

        await eventually_true(arrived, "every client's record", 90)
        await asyncio.sleep(1.5)  # what would come twice comes within a round or a due loop, each once a second
        got = [r.event for r in without_repeats(await partner.received()) if r.event["type"] == scenario.type]
        assert Counter(Counter(e["subject"] for e in got).values()) == {scenario.each: CLIENTS}, "once for each client"


def _operations(system: System, scenario: Scenario) -> httpx.AsyncClient:
    token = system.issuer.token("operations", "operator", [scenario.scope, "operator", "plans:read"])
    return httpx.AsyncClient(
        base_url=system.urls[scenario.service], headers={"Authorization": f"Bearer {token}"}, timeout=30
    )


async def _publish(prison: Agency, scenario: Scenario) -> None:
    for n in range(CLIENTS):
        identifiers = [{"type": "NOMS", "value": f"A{n:04}BC"}]
        await prison.publish(event("client.recorded", PRISON, {"identifiers": identifiers, "facts": FACTS}), f"k{n}")
        consent = granted(identifiers, [PARTNER], [scenario.purpose], CATEGORIES)
        await prison.publish(event("consent.granted", PRISON, consent), f"k{n}")
    await eventually(lambda: len(prison.replies) >= 2 * CLIENTS or None, "every answer", 60)


async def _morning_comes(system: System, http: httpx.AsyncClient, killed: int, worker: str, point: str) -> None:
    """Plans are made; then the clock is brought to the day before, and to the morning of release."""

    async def planned() -> bool:
        return len((await http.get("/plans", params={"limit": 200})).json()) == CLIENTS

    await eventually_true(planned, "every plan", 60)
    for days, hour in ((1, 12), (0, 8)):
        now = datetime(RELEASE.year, RELEASE.month, RELEASE.day, hour, tzinfo=UTC) - timedelta(days=days)
        (await http.put("/clock", json={"now": now.isoformat()})).raise_for_status()
        if days and point != "notifications.applied":
            await eventually(lambda: system.pid(worker) != killed or None, "the fault to strike", 60)
        await _asked_for(http, still_planned=1 if days else 0)


async def _asked_for(http: httpx.AsyncClient, still_planned: int) -> None:
    """Wait until no plan has more steps than this before it: what is not asked for in time is missed."""

    async def asked_for() -> bool:
        plans = (await http.get("/plans", params={"limit": 200})).json()
        return all(plan["steps"].get("planned", 0) <= still_planned for plan in plans)

    await eventually_true(asked_for, "the steps of that day to be asked for", 60)
