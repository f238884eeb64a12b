"""Release plans: which steps there are, when they are due, and what a change does to them. Pure: no I/O, no clock."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from uuid import UUID, uuid4

from contracts import cleared
from contracts.cleared import Stop
from contracts.vocabulary import LONDON, Category

TOO_LATE = timedelta(days=1)
"""A step that is later than this is marked missed and not sent."""
KEPT: dict[Category, tuple[str, ...]] = {Category.CUSTODY_AND_RELEASE: ("prison", "status", "releaseDate")}
"""The facts that this service needs, by category: of all others not one is stored."""
ANY_PRISON = "*"


class StepName(StrEnum):
    """The steps of a release plan."""

    DAY_BEFORE = "day-before"
    MORNING = "morning-of-release"


TIMETABLE: dict[StepName, tuple[int, time]] = {StepName.DAY_BEFORE: (-1, time(9)), StepName.MORNING: (0, time(7))}
"""When each step is due: days from the day of release, and the time on clocks in the United Kingdom."""


class StepState(StrEnum):
    """Where a step stands."""

    PLANNED = "planned"
    ASKED = "asked"
    SENT = "sent"
    DENIED = "denied"
    CANCELLED = "cancelled"
    MISSED = "missed"


class PlanState(StrEnum):
    """Where a plan stands."""

    PLANNED = "planned"
    CANCELLED = "cancelled"


class PlanReason(StrEnum):
    """Why a plan was cancelled."""

    RELEASED = "released"
    NO_DATE = "no-release-date"
    SHARING_TAKEN_BACK = "sharing-taken-back"
    """By whom and why the retraction does not say."""


def due_at(name: StepName, release: date) -> datetime:
    """When a step is due, UTC. Both times of day exist once on every day: the clocks change between one and two."""
    days, at = TIMETABLE[name]
    return datetime.combine(release + timedelta(days=days), at, LONDON).astimezone(UTC)


@dataclass(slots=True)
class Step:
    """One step for one recipient. `changed` marks what is to be written."""

    name: StepName
    recipient: str
    for_date: date | None
    due_at: datetime | None
    id: UUID = field(default_factory=uuid4)
    state: StepState = StepState.PLANNED
    request: UUID | None = None
    """What the door was asked. A step that has one is never planned again: it may have arrived."""
    withheld: list[dict[str, str]] = field(default_factory=list)
    changed: bool = False

    def to(self, state: StepState) -> None:
        """Come to a state."""
        self.state, self.changed = state, True

    def plan(self, release: date, now: datetime) -> None:
        """Plan for this day; too late already, it is marked missed."""
        self.for_date, self.due_at = release, due_at(self.name, release)
        self.to(StepState.MISSED if now - self.due_at > TOO_LATE else StepState.PLANNED)


@dataclass(frozen=True, slots=True)
class Partner:
    """Who is to be told: an agency, the prison whose releases it meets (or any), and the steps that it is told of."""

    agency: str
    prison: str
    steps: frozenset[StepName]


@dataclass(slots=True)
class Plan:
    """The release plan of one client. Its facts are gone once it is cancelled because sharing was taken back."""

    client: UUID
    id: UUID = field(default_factory=uuid4)
    state: PlanState = PlanState.PLANNED
    reason: PlanReason | None = None
    origin: str | None = None
    prison: str | None = None
    release_date: date | None = None
    steps: list[Step] = field(default_factory=list)
    changed: bool = False

    def set(self, origin: str, prison: str | None, release: date, partners: Collection[Partner], now: datetime) -> None:
        """Plan, or plan anew, for this day of release and these partners."""
        self.state, self.reason = PlanState.PLANNED, None
        self.origin, self.prison, self.release_date = origin, prison, release
        self.changed = True
        self._arrange(partners, release, now)

    def _arrange(self, partners: Collection[Partner], release: date, now: datetime) -> None:
        """Bring the steps in line. A step is unique by name, recipient and day, so that none is ever sent twice."""
        wanted = sorted({(n, p.agency) for p in partners if p.prison in (ANY_PRISON, self.prison) for n in p.steps})
        placed: set[UUID] = set()
        for name, recipient in wanted:
            own = [s for s in self.steps if (s.name, s.recipient) == (name, recipient)]
            same = next((s for s in own if s.for_date == release), None)
            unsent = next((s for s in own if s.state in (StepState.PLANNED, StepState.MISSED)), None)
            if same is not None:
                if same.state in (StepState.CANCELLED, StepState.MISSED) and same.request is None:
                    same.plan(release, now)
                placed.add(same.id)
            elif unsent is not None:
                unsent.plan(release, now)
                placed.add(unsent.id)
            else:
                step = Step(name, recipient, release, None)
                step.plan(release, now)
                self.steps.append(step)
                placed.add(step.id)
        self._cancel_planned(but=placed)

    def cancel(self, reason: PlanReason) -> None:
        """Nothing more is to be told."""
        self.state, self.reason, self.changed = PlanState.CANCELLED, reason, True
        self._cancel_planned()

    def erase(self) -> None:
        """Forget every fact: what is left says who was told of a step, and not when."""
        self.origin = self.prison = self.release_date = None
        self.changed = True
        for step in self.steps:
            step.for_date = step.due_at = None
            step.withheld = []
            step.changed = True

    def _cancel_planned(self, but: Collection[UUID] = ()) -> None:
        for step in self.steps:
            if step.state == StepState.PLANNED and step.id not in but:
                step.to(StepState.CANCELLED)

    def take_due(self, now: datetime) -> list[Step]:
        """The steps to ask the door about now, marked as asked; those that are too late are marked missed."""
        due = [s for s in self.steps if s.state == StepState.PLANNED and s.due_at is not None and s.due_at <= now]
        for step in due:
            if step.due_at and now - step.due_at > TOO_LATE:
                step.to(StepState.MISSED)
            else:
                step.request = uuid4()
                step.to(StepState.ASKED)
        return [s for s in due if s.state == StepState.ASKED]


@dataclass(slots=True)
class Client(cleared.Client):
    """What this service keeps of one client. Only ever changed by whoever holds the client's row lock."""

    plans: list[Plan] = field(default_factory=list)
    """The client's plan, if there is one, and older ones of which a step is still in the door's hands."""

    def plan(self) -> Plan | None:
        """The client's plan: none after sharing was taken back."""
        return next((p for p in self.plans if p.reason != PlanReason.SHARING_TAKEN_BACK), None)

    def replan(self, partners: Collection[Partner], now: datetime) -> None:
        """Bring the plan in line with what was recorded last, by whichever agency, and with who is avoided."""
        custody = max(self.sections.values(), key=lambda s: (s.recorded_at, s.source), default=None)
        if custody is None:
            return
        plan = self.plan()
        day = custody.data.get("releaseDate")
        if custody.data.get("status") == "released" or not day:
            if plan is not None and plan.state == PlanState.PLANNED:
                plan.cancel(PlanReason.NO_DATE if not day else PlanReason.RELEASED)
            return
        if plan is None:
            plan = Plan(self.reference)
            self.plans.append(plan)
        told_of_it = [p for p in partners if p.agency not in self.avoided]
        plan.set(custody.source, custody.data.get("prison"), date.fromisoformat(day), told_of_it, now)

    def stop(self, stop: Stop) -> None:
        """Sharing is taken back: what is planned is cancelled, the facts go, the tombstone stays.

        A plan is all custody and release: where that is not taken back it stands. Where it is only for some recipients,
        `replan` cancels their steps.
        """
        self.forget(stop, told=KEPT)
        if stop.recipients is None and stop.takes(Category.CUSTODY_AND_RELEASE):
            for plan in self.plans:
                plan.cancel(PlanReason.SHARING_TAKEN_BACK)
                plan.erase()
