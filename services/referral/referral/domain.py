"""What a referral may become, and which service a client may be referred to. Pure: no I/O, no clock."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from contracts import cleared
from contracts.cleared import Section, Stop
from contracts.vocabulary import LONDON, NEEDS, Category

RESPOND_WITHIN = timedelta(hours=24)
"""A first contact is due this long after a referral is made."""
DECLINE_REMEMBERED = timedelta(days=90)
"""For so long a service that declined a client on a pathway is not proposed to that client again."""
KEPT: dict[Category, tuple[str, ...]] = {
    Category.IDENTITY: ("dateOfBirth",),
    **dict.fromkeys(NEEDS, ("level", "area")),
}
"""The facts that this service needs, by category: of all others not one is stored."""


class State(StrEnum):
    """Where a referral stands."""

    DRAFT = "draft"
    AWAITING = "awaiting-sharing-decision"
    SENT = "sent"
    RECEIVED = "received"
    ACCEPTED = "accepted"
    DECLINED = "declined"
    WAITLISTED = "waitlisted"
    BOOKED = "appointment-booked"
    STARTED = "started"
    ON_HOLD = "on-hold"
    COMPLETED = "completed"
    ENDED_EARLY = "ended-early"
    WITHDRAWN = "withdrawn"


CLOSED = frozenset({State.DECLINED, State.COMPLETED, State.ENDED_EARLY, State.WITHDRAWN})
"""States that a referral never leaves."""
HOLDING = frozenset(State) - CLOSED - {State.DRAFT}
"""States in which a referral holds one place of its service's capacity."""


class Reason(StrEnum):
    """Why a referral ended, or was declined."""

    INELIGIBLE = "ineligible"
    DUPLICATE = "duplicate-or-mistaken"
    NOT_ENGAGED = "not-engaged"
    MET_ELSEWHERE = "need-met-elsewhere"
    MOVED_AREA = "moved-area"
    WORK_CARING_SICKNESS = "work-caring-or-sickness"
    RETURNED_TO_CUSTODY = "returned-to-custody"
    SENTENCE_CHANGED = "sentence-changed"
    SENTENCE_EXPIRED = "sentence-expired"
    ACQUITTED = "acquitted-on-appeal"
    DIED = "died"
    SHARING_TAKEN_BACK = "sharing-taken-back"
    RELEASED_EARLY = "released-early"
    FULL = "full"
    OTHER = "other"

    @classmethod
    def read(cls, code: str | None) -> "Reason":
        """The reason of that code; a code that is not known, or none, is `OTHER`."""
        return cls(code) if code in set(cls) else cls.OTHER


class Actor(StrEnum):
    """Who moves a referral."""

    RULE = "rule"
    DOOR = "door"
    PROVIDER = "provider"
    PRACTITIONER = "practitioner"
    CLIENT = "client"


def _moves() -> dict[tuple[State, State], frozenset[Actor]]:
    provider, door = frozenset({Actor.PROVIDER}), frozenset({Actor.DOOR})
    helpers = frozenset({Actor.PROVIDER, Actor.PRACTITIONER})
    moves = {
        (State.DRAFT, State.AWAITING): frozenset({Actor.RULE, Actor.PRACTITIONER}),
        (State.AWAITING, State.AWAITING): door,  # cancelled: asked again
        (State.AWAITING, State.DRAFT): door,  # denied
        (State.AWAITING, State.SENT): door,
        (State.SENT, State.RECEIVED): provider,
        (State.WAITLISTED, State.ACCEPTED): provider,
        (State.WAITLISTED, State.DECLINED): provider,
        (State.ACCEPTED, State.BOOKED): provider,
        (State.ACCEPTED, State.STARTED): provider,
        (State.BOOKED, State.ACCEPTED): provider,  # the appointment fell through
        (State.BOOKED, State.STARTED): provider,
        (State.STARTED, State.ON_HOLD): helpers,
        (State.ON_HOLD, State.STARTED): helpers,
        (State.STARTED, State.COMPLETED): provider,
    }
    for told in (State.SENT, State.RECEIVED):
        for answer in (State.ACCEPTED, State.DECLINED, State.WAITLISTED):
            moves[told, answer] = provider
    for engaged in (State.ACCEPTED, State.BOOKED, State.STARTED, State.ON_HOLD):
        moves[engaged, State.ENDED_EARLY] = helpers
    for state in State:
        if state not in CLOSED:
            moves[state, State.WITHDRAWN] = frozenset({Actor.CLIENT, Actor.PRACTITIONER, Actor.DOOR})
    return moves


MOVES = _moves()
"""Every move that a referral can make, and who may make it. What is not here cannot happen."""
ENDS_WITH_REASON = frozenset({State.DECLINED, State.ENDED_EARLY, State.WITHDRAWN})
"""States that are only entered with a reason code."""


class NotAllowedError(Exception):
    """The move is not in the table, is not this actor's to make, or lacks its reason (or has one unasked)."""


def check_move(state: State, to: State, by: Actor, reason: Reason | None) -> None:
    """Whether `by` may move a referral from `state` to `to` with that reason.

    Raises:
        NotAllowedError: it may not.
    """
    if by not in MOVES.get((state, to), ()):
        raise NotAllowedError(f"{by} cannot move a referral from {state} to {to}")
    if (reason is None) == (to in ENDS_WITH_REASON):
        raise NotAllowedError(f"a move to {to} {'needs a' if reason is None else 'takes no'} reason")


def is_wanting(section: Section) -> bool:
    """Whether it is a need that calls for a referral."""
    return section.category in NEEDS and section.data.get("level") in ("urgent", "soon")


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of a referral's history."""

    at: datetime
    state: State
    by: Actor
    reason: Reason | None


@dataclass(slots=True)
class Referral:
    """A referral of one client on one pathway; `moves` are the new entries of its history."""

    client: UUID
    pathway: Category
    origin: str
    respond_by: datetime
    id: UUID = field(default_factory=uuid4)
    state: State = State.DRAFT
    service: UUID | None = None
    provider: str | None = None
    request: UUID | None = None
    follows: UUID | None = None
    withheld: list[dict[str, str]] = field(default_factory=list)
    eligibility: list[dict[str, Any]] = field(default_factory=list)
    changed_at: datetime | None = None
    moves: list[Move] = field(default_factory=list)

    def move(self, to: State, by: Actor, at: datetime, reason: Reason | None = None) -> None:
        """Move on, by the table.

        Raises:
            NotAllowedError: the table does not have it.
        """
        check_move(self.state, to, by, reason)
        self.state = to
        self.changed_at = at
        self.moves.append(Move(at, to, by, reason))

    def record(self, by: Actor, at: datetime) -> None:
        """Enter the present state in the history: the referral was made, or was looked at and stays."""
        self.changed_at = at
        self.moves.append(Move(at, self.state, by, None))

    @property
    def holds_place(self) -> bool:
        """Whether it holds one place of its service's capacity."""
        return self.state in HOLDING

    @property
    def is_open(self) -> bool:
        """Whether it is still on its way."""
        return self.state not in CLOSED


@dataclass(slots=True)
class Client(cleared.Client):
    """What this service keeps of one client. Only ever changed by whoever holds the client's row lock."""

    referrals: list[Referral] = field(default_factory=list)
    declined: dict[str, datetime] = field(default_factory=dict)
    """Agencies that declined the client, and when last, where the service and the pathway were erased since."""

    def open_referral(self, pathway: Category) -> Referral | None:
        """The open referral on the pathway, of which there is at most one."""
        return next((r for r in self.referrals if r.pathway == pathway and r.is_open), None)

    def need(self, pathway: Category, source: str | None = None) -> Section | None:
        """The need on the pathway: as `source` recorded it, where it did; else the newest."""
        found = [s for (_, category), s in self.sections.items() if category == pathway]
        return max(found, key=lambda s: (s.source == source, s.recorded_at), default=None)

    def born(self) -> date | None:
        """The date of birth as last recorded, where we may see one."""
        found = [s for (_, c), s in self.sections.items() if c == Category.IDENTITY and s.data.get("dateOfBirth")]
        newest = max(found, key=lambda s: s.recorded_at, default=None)
        return date.fromisoformat(newest.data["dateOfBirth"]) if newest else None

    def declined_by(self, pathway: Category, now: datetime) -> frozenset[UUID]:
        """The services that declined this client on this pathway not long ago."""
        return frozenset(
            r.service
            for r in self.referrals
            if r.state == State.DECLINED
            and r.pathway == pathway
            and r.service
            and r.changed_at
            and now - r.changed_at < DECLINE_REMEMBERED
        )

    def once_declined_by(self, now: datetime) -> frozenset[str]:
        """The agencies of which, not long ago, a service declined the client for what was erased since.

        Which service it was nobody knows any more, so another of the same agency may well take the client.
        """
        return frozenset(agency for agency, at in self.declined.items() if now - at < DECLINE_REMEMBERED)

    def reached(self, stop: Stop) -> list[Referral]:
        """The open referrals that rest on what a retraction takes back.

        One that is only for some recipients reaches those that hold a place there: they may have been told.
        """
        return [
            r
            for r in self.referrals
            if r.is_open and stop.takes(r.pathway) and stop.reaches(r.provider if r.holds_place else None)
        ]

    def stop(self, stop: Stop, now: datetime) -> None:
        """Sharing is taken back: the referrals that it reaches end, what it erases goes, the tombstone stays.

        By whom and why it was taken back the retraction does not say, so nor does the referral.
        """
        for referral in self.reached(stop):
            referral.move(State.WITHDRAWN, Actor.DOOR, now, Reason.SHARING_TAKEN_BACK)
            referral.request = None
        self.forget(stop, told=NEEDS)
        for referral in self.referrals:
            if referral.pathway in explained_by(self.erased):
                referral.withheld = []
                referral.eligibility = []


def explained_by(categories: Collection[Category]) -> frozenset[Category]:
    """The pathways on which the reasons told for a choice were worked out from facts of these categories."""
    # Of who the client is the rules ask for the age, on every pathway.
    return frozenset(NEEDS) if Category.IDENTITY in categories else frozenset(NEEDS).intersection(categories)


@dataclass(slots=True)
class Service:
    """One line of the directory. `held` counts the places that open referrals hold."""

    id: UUID
    organization: str
    pathways: frozenset[str]
    area: str | None
    minimum_age: int | None
    maximum_age: int | None
    status: str
    capacity: int
    assured_date: date | None
    held: int = 0


def age_on(born: date, day: date) -> int:
    """Full years of age on the day."""
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


def bars(service: Service, client: Client, pathway: Category, area: str | None, now: datetime) -> list[str]:
    """Why the client cannot be referred to the service now: codes, never a client's values. Empty: it can."""
    born = client.born()
    age = age_on(born, now.astimezone(LONDON).date()) if born else None
    found = {
        "other-pathway": pathway not in service.pathways,
        "inactive": service.status != "active",
        "other-area": bool(area and service.area) and _plain(area) != _plain(service.area),
        "age-outside-limits": age is not None
        and not (service.minimum_age or 0) <= age <= (999 if service.maximum_age is None else service.maximum_age),
        "declined-before": service.id in client.declined_by(pathway, now),
        "no-free-capacity": service.held >= service.capacity,
    }
    return [code for code, holds in found.items() if holds]


def notes(service: Service, client: Client, area: str | None) -> list[str]:
    """What could not be checked, and is the provider's to check."""
    limited = service.minimum_age is not None or service.maximum_age is not None
    found = {
        "area-not-known": not (area and service.area),
        "age-not-known": limited and client.born() is None,
    }
    return [code for code, holds in found.items() if holds]


def choose(
    directory: Iterable[Service],
    client: Client,
    pathway: Category,
    area: str | None,
    now: datetime,
    avoided: Collection[str] = (),
) -> tuple[Service | None, list[dict[str, Any]]]:
    """The best service for the client (assured last, then most places free), and why each is or is not.

    One of an `avoided` agency only where there is no other. It is not barred: the door decides, and says why not.
    """
    listed = sorted((s for s in directory if pathway in s.pathways), key=lambda s: s.id)
    why = {service.id: bars(service, client, pathway, area, now) for service in listed}
    explained: list[dict[str, Any]] = [
        {
            "service": str(service.id),
            "eligible": not why[service.id],
            "reasons": why[service.id] or notes(service, client, area),
        }
        for service in listed
    ]
    eligible = [service for service in listed if not why[service.id]]
    best = max(
        eligible,
        key=lambda s: (s.organization not in avoided, s.assured_date or date.min, s.capacity - s.held),
        default=None,
    )
    return best, explained


def _plain(area: str | None) -> str:
    return " ".join((area or "").casefold().replace("-", " ").split())
