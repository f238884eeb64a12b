"""Use cases of notifications: load, decide, write rows and outbox. Commits nothing: the caller does."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import door
from contracts.cleared import Stop
from contracts.leaving import ClientChanged, ClientSnapshot, SettledData, StepMessage
from contracts.requests import StepRequestData
from contracts.vocabulary import Category
from notifications import events, repository
from notifications.domain import KEPT, Client, Partner, Plan, Step, StepState
from servicekit import faults, outbox
from servicekit.kafka import Outgoing
from servicekit.problems import Problem
from servicekit.worker import Apply

DUE_AT_ONCE = 200
"""Clients whose due steps one transaction takes."""


def apply(clock: str) -> Apply:
    """How a batch of records is applied, at the time of the clock that the setting names."""

    async def begin(session: AsyncSession, received: Sequence[door.Received]) -> Batch:
        clients = await repository.lock_clients(session, {r.client for r in received})
        partners = await repository.partners(session)
        return Batch(clients, partners, await repository.CLOCKS[clock](session))

    return events.DOOR.applying(begin, repository.save)


poison = events.DOOR.poison(repository.erase_poisoned)
"""What is done with an event that cannot be applied, besides keeping it."""


class Batch(door.Batch[Client]):
    """A batch on its way: the locked clients, and what is to be written. No I/O."""

    def __init__(self, clients: dict[UUID, Client], partners: list[Partner], now: datetime) -> None:
        super().__init__(events.DOOR, clients, now)
        self.partners = partners

    def stop(self, client: Client, stop: Stop, traceparent: str | None) -> None:
        """Cancel what is planned and rests on what was taken back."""
        client.stop(stop)
        client.replan(self.partners, self.now)

    def learn(self, client: Client, event: ClientSnapshot | ClientChanged, traceparent: str | None) -> None:
        """Keep facts, and bring the plan in line with them.

        Whoever was avoided is planned for again: a step may be permitted to them on another basis, and the door decides
        when it is due. A step tells each recipient by itself, so asking in vain takes nothing from anybody.
        """
        client.avoided.clear()
        sections = door.sections(event, KEPT)
        client.keep(*sections)
        if sections:
            client.replan(self.partners, self.now)

    def settle(self, client: Client, settled: SettledData, traceparent: str | None) -> None:
        """Take in what became of a step that was asked about."""
        step = next((s for p in client.plans for s in p.steps if s.request == settled.request), None)
        if step is None or step.state != StepState.ASKED:
            return
        step.to(StepState(settled.outcome))
        if client.sections:  # after a withdrawal nothing more is written down but what became of it
            step.withheld = [w.model_dump(mode="json", by_alias=True) for w in settled.withheld]


async def do_due(session: AsyncSession, clock: str) -> int:
    """Bring stale plans in line and ask the door about the steps that are due; how many clients were looked at."""
    time_now = repository.CLOCKS[clock]
    clients = await repository.lock_due_clients(session, await time_now(session), DUE_AT_ONCE)
    if not clients:
        return 0
    partners = await repository.partners(session)
    now = await time_now(session)
    outgoing = []
    for client in clients.values():
        client.replan(partners, now)
        plan = client.plan()
        for step in plan.take_due(now) if plan else ():
            outgoing.append(_ask(plan, step, now))
    await repository.save(session, clients.values())
    await outbox.add(session, outgoing)
    faults.point("notifications.asked")
    return len(clients)


def _ask(plan: Plan | None, step: Step, now: datetime) -> Outgoing:
    if plan is None or plan.origin is None or step.due_at is None or step.request is None:
        raise AssertionError("a step that is due has its plan, and the plan its origin")
    data = StepRequestData(
        request=step.request,
        client=plan.client,
        recipient=step.recipient,
        origin=plan.origin,
        about=[Category.CUSTODY_AND_RELEASE],
        include=[Category.IDENTITY, Category.CUSTODY_AND_RELEASE],
        message=StepMessage(step_reference=step.id, step=step.name.value, due_at=step.due_at),
    )
    return events.requested(data, now, None)


async def put_partner(
    session: AsyncSession, agency: str, prisons: Sequence[str], steps: Sequence[str], *, within: str | None
) -> None:
    """Write who an agency meets and what it is told of: `within` one agency for itself only.

    Raises:
        Problem: it is for another agency.
    """
    if within not in (None, agency):
        raise Problem(
            "not-yours",
            "This gate partner is another agency",
            "Write what your own agency is told of, or ask the operator to do it.",
            403,
        )
    await repository.put_partner(session, agency, prisons, steps)


async def plan(session: AsyncSession, id: UUID, *, within: str | None) -> tuple[RowMapping, Sequence[RowMapping]]:
    """One plan and its steps, as far as `within` does not keep them from view.

    Raises:
        Problem: there is none with that id, or none that concerns that agency.
    """
    found = await repository.plans(session, within, id=id)
    if not found:
        raise Problem("plan-not-found", "There is no such plan", "Take the id from GET /plans.", 404)
    return found[0], await repository.steps(session, within, id)


async def set_clock(session: AsyncSession, at: datetime) -> datetime:
    """Set the adjustable clock, and give its time."""
    await repository.set_clock(session, at)
    return await repository.adjustable_clock(session)
