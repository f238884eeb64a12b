"""Who may mentor whom, and the best assignment for all who wait. Pure: no I/O, no clock of its own."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from contracts import cleared
from contracts.cleared import Stop
from contracts.vocabulary import LONDON, NEEDS, Category

OFFER_STANDS = timedelta(hours=72)
"""An offer that nobody answers expires after this."""
EXPIRY_REMEMBERED = timedelta(days=14)
"""For so long a mentor whose offer went unanswered is not offered to the same client again."""
DENIAL_REMEMBERED = timedelta(days=1)
"""For so long, unless facts come anew, a scheme that may not be told of a client is not asked about again."""
EXPERIENCE_FOR_HIGH_RISK = 12
"""Months."""
TRAINING_FOR_HIGH_RISK = "high-risk"
KEPT: dict[Category, tuple[str, ...]] = {
    Category.IDENTITY: ("gender",),
    Category.CUSTODY_AND_RELEASE: ("prison", "status"),
    Category.RISK: ("harm",),
    Category.EQUALITY: ("language", "interpreterNeeded"),
    **dict.fromkeys(NEEDS, ("level", "area")),
}
"""The facts that this service needs, by category: of all others not one is stored."""
TOLD = frozenset({Category.IDENTITY})
"""What an offer gives away: it is of a mentor for somebody, so without saying for whom it is none."""
RESTS_ON = TOLD | {Category.RISK}
"""What a match cannot go on without: whom it is for, and the assessment of risk that the mentor was checked against."""
HARM = ("low", "medium", "high", "very-high")
SAME_GENDER = frozenset({Category.NEEDS_ABUSE, Category.NEEDS_SEX_WORK})
"""Needs for which client and mentor are of the same gender."""


class State(StrEnum):
    """Where a match stands."""

    REQUESTED = "requested"
    OFFERED = "offered"
    ACTIVE = "active"
    DECLINED = "declined"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


OPEN = frozenset({State.REQUESTED, State.OFFERED, State.ACTIVE})
"""States in which the client does not wait and the mentor's caseload holds the client."""


class Actor(StrEnum):
    """Who moves a match."""

    RULE = "rule"
    DOOR = "door"
    SCHEME = "scheme"
    CLIENT = "client"


class Reason(StrEnum):
    """Why a match came to nothing, or ended."""

    SHARING_DENIED = "sharing-denied"
    SHARING_CANCELLED = "sharing-cancelled"
    SHARING_TAKEN_BACK = "sharing-taken-back"
    CHECKS_FAILED = "checks-failed"
    NOT_ANSWERED = "not-answered"
    MENTOR_UNAVAILABLE = "mentor-unavailable"
    CLIENT_DECLINED = "client-declined"
    CONFLICT_OF_INTEREST = "conflict-of-interest"
    OTHER = "other"

    @classmethod
    def read(cls, code: str | None) -> "Reason":
        """The reason of that code; a code that is not known, or none, is `OTHER`."""
        return cls(code) if code in set(cls) else cls.OTHER


MOVES: dict[tuple[State, State], frozenset[Actor]] = {
    (State.REQUESTED, State.OFFERED): frozenset({Actor.DOOR}),
    (State.REQUESTED, State.WITHDRAWN): frozenset({Actor.DOOR, Actor.CLIENT}),
    (State.REQUESTED, State.EXPIRED): frozenset({Actor.RULE}),
    (State.OFFERED, State.ACTIVE): frozenset({Actor.SCHEME}),
    (State.OFFERED, State.DECLINED): frozenset({Actor.SCHEME}),
    (State.OFFERED, State.EXPIRED): frozenset({Actor.RULE}),
    (State.OFFERED, State.WITHDRAWN): frozenset({Actor.RULE, Actor.DOOR, Actor.CLIENT}),
    (State.ACTIVE, State.ENDED): frozenset({Actor.SCHEME, Actor.DOOR, Actor.CLIENT}),
}
"""Every move that a match can make, and who may make it."""


class NotAllowedError(Exception):
    """The move is not in the table, is not this actor's to make, or lacks its reason (or has one unasked)."""


def check_move(state: State, to: State, by: Actor, reason: Reason | None) -> None:
    """Whether `by` may move a match from `state` to `to` with that reason: one is given where a match closes.

    Raises:
        NotAllowedError: it may not.
    """
    if by not in MOVES.get((state, to), ()):
        raise NotAllowedError(f"{by} cannot move a match from {state} to {to}")
    if (reason is None) == (to not in OPEN):
        raise NotAllowedError(f"a move to {to} {'needs a' if reason is None else 'takes no'} reason")


@dataclass(frozen=True, slots=True)
class Move:
    """One entry of a match's history."""

    at: datetime
    state: State
    by: Actor
    reason: Reason | None


@dataclass(slots=True)
class Match:
    """A client and a mentor, from the request to offer to the end; its id is the offer's."""

    client: UUID
    volunteer: UUID
    scheme: str
    expires_at: datetime
    origin: str | None = None
    """The agency whose assessment of risk the offer rests on."""
    id: UUID = field(default_factory=uuid4)
    state: State = State.REQUESTED
    reason: Reason | None = None
    request: UUID | None = None
    explanation: dict[str, Any] = field(default_factory=dict)
    withheld: list[dict[str, str]] = field(default_factory=list)
    changed_at: datetime | None = None
    moves: list[Move] = field(default_factory=list)

    def move(self, to: State, by: Actor, at: datetime, reason: Reason | None = None) -> None:
        """Move on, by the table.

        Raises:
            NotAllowedError: the table does not have it.
        """
        check_move(self.state, to, by, reason)
        self.state, self.reason = to, reason
        self._record(by, at)

    def begin(self, at: datetime) -> None:
        """Enter the first state in the history."""
        self._record(Actor.RULE, at)

    def _record(self, by: Actor, at: datetime) -> None:
        self.changed_at = at
        self.moves.append(Move(at, self.state, by, self.reason))

    @property
    def is_open(self) -> bool:
        """Whether it stands between this client and another mentor."""
        return self.state in OPEN


@dataclass(slots=True)
class Client(cleared.Client):
    """What this service keeps of one client. Only ever changed by whoever holds the client's row lock."""

    waiting_since: datetime | None = None
    facts_at: datetime | None = None
    matches: list[Match] = field(default_factory=list)

    def open_match(self) -> Match | None:
        """The open match, of which there is at most one."""
        return next((m for m in self.matches if m.is_open), None)

    def stop(self, stop: Stop, now: datetime) -> None:
        """Sharing is taken back: offers that rest on it are withdrawn, mentoring ends, what it erases goes.

        The tombstone stays; and the client goes on waiting while anything is known that a round can go by. By whom and
        why it was taken back the retraction does not say, so nor does the match.
        """
        needed = RESTS_ON if stop.recipients is None else TOLD
        for match in self.matches:
            if match.is_open and stop.reaches(match.scheme) and any(stop.takes(c) for c in needed):
                to = State.ENDED if match.state == State.ACTIVE else State.WITHDRAWN
                match.move(to, Actor.DOOR, now, Reason.SHARING_TAKEN_BACK)
        self.forget(stop, told=TOLD)
        if self.erased & KEPT.keys():
            for match in self.matches:
                match.explanation = {}
                match.withheld = []
        if not self.sections:
            self.waiting_since = self.facts_at = None


@dataclass(frozen=True, slots=True)
class Profile:
    """What the rules look at in a client: the newest of each fact, and of risk the gravest."""

    client: UUID
    waiting_since: datetime
    facts_at: datetime
    harm: str | None
    origin: str | None
    """The agency whose assessment of risk this is; the offer rests on it."""
    in_custody: bool
    prison: str | None
    gender: str | None
    language: str | None
    interpreter_needed: bool
    needs: frozenset[Category]
    areas: frozenset[str]


def profile(client: Client) -> Profile | None:
    """The client as the rules see it, if the client waits or is matched at all."""
    if client.waiting_since is None or client.facts_at is None:
        return None
    newest: dict[Category, Mapping[str, Any]] = {}
    for section in sorted(client.sections.values(), key=lambda s: s.recorded_at):
        newest[section.category] = section.data
    risks = [s for s in client.sections.values() if s.category == Category.RISK and s.data.get("harm") in HARM]
    gravest = max(risks, key=lambda s: (HARM.index(s.data["harm"]), s.recorded_at), default=None)
    custody = newest.get(Category.CUSTODY_AND_RELEASE, {})
    equality = newest.get(Category.EQUALITY, {})
    needs = {c: data for c, data in newest.items() if c in NEEDS and data.get("level") != "met"}
    status = custody.get("status")
    return Profile(
        client=client.reference,
        waiting_since=client.waiting_since,
        facts_at=client.facts_at,
        harm=gravest.data["harm"] if gravest else None,
        origin=gravest.source if gravest else None,
        in_custody=bool(custody.get("prison")) if status is None else status != "released",
        prison=custody.get("prison"),
        gender=newest.get(Category.IDENTITY, {}).get("gender"),
        language=equality.get("language"),
        interpreter_needed=bool(equality.get("interpreterNeeded")),
        needs=frozenset(needs),
        areas=frozenset(plain(data["area"]) for data in needs.values() if data.get("area")),
    )


@dataclass(frozen=True, slots=True)
class Volunteer:
    """A volunteer as the scheme registered them; `caseload` counts the open matches."""

    id: UUID
    scheme: str
    areas: frozenset[str]
    languages: frozenset[str]
    gender: str | None
    approved: bool
    available: bool
    dbs_level: str | None
    dbs_expires: date | None
    prison_clearances: frozenset[str]
    training: frozenset[str]
    experience_months: int
    interviewed_by_public_protection: bool
    caseload_limit: int
    pathways: frozenset[str] = frozenset()
    caseload: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """A client and a volunteer on a day, with what was between them before."""

    client: Profile
    volunteer: Volunteer
    day: date
    past: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rule:
    """A hard rule: where `bars` holds, the pair is never made. `at_start`: asked again when mentoring starts."""

    name: str
    says: str
    bars: Callable[[Pair], bool]
    at_start: bool = False


def _high_risk(pair: Pair) -> bool:
    return pair.client.harm in ("high", "very-high")


RULES: tuple[Rule, ...] = (
    Rule("risk-unknown", "Risk of harm is not known, or not cleared", lambda p: p.client.harm not in HARM, True),
    Rule("not-approved", "The volunteer is not approved", lambda p: not p.volunteer.approved, True),
    Rule("not-available", "The volunteer is not available", lambda p: not p.volunteer.available),
    Rule("check-missing", "No criminal-records check", lambda p: p.volunteer.dbs_level is None, True),
    Rule(
        "check-expired",
        "The criminal-records check has no expiry, or has expired on the day",
        lambda p: p.volunteer.dbs_expires is None or p.volunteer.dbs_expires <= p.day,
        True,
    ),
    Rule(
        "prison-clearance",
        "The client is in custody and the volunteer is not cleared for that prison",
        lambda p: p.client.in_custody and p.client.prison not in p.volunteer.prison_clearances,
        True,
    ),
    Rule(
        "high-risk-experience",
        "High risk of harm needs twelve months' experience",
        lambda p: _high_risk(p) and p.volunteer.experience_months < EXPERIENCE_FOR_HIGH_RISK,
        True,
    ),
    Rule(
        "high-risk-training",
        "High risk of harm needs its training",
        lambda p: _high_risk(p) and TRAINING_FOR_HIGH_RISK not in p.volunteer.training,
        True,
    ),
    Rule(
        "high-risk-interview",
        "High risk of harm needs an interview with the public-protection co-ordinator",
        lambda p: _high_risk(p) and not p.volunteer.interviewed_by_public_protection,
        True,
    ),
    Rule(
        "gender",
        "These needs ask for a mentor of the client's gender, and it is not known to be so",
        lambda p: (
            bool(p.client.needs & SAME_GENDER)
            and (p.client.gender in (None, "not-said") or p.client.gender != p.volunteer.gender)
        ),
    ),
    Rule(
        "area",
        "The volunteer does not work where the client's needs are",
        lambda p: bool(p.client.areas) and not p.client.areas & {plain(a) for a in p.volunteer.areas},
    ),
    Rule(
        "language",
        "The client needs an interpreter and the volunteer does not speak the language",
        lambda p: p.client.interpreter_needed and not _shares_language(p),
    ),
    Rule("caseload", "The caseload is full", lambda p: p.volunteer.caseload >= p.volunteer.caseload_limit),
    Rule("declined-before", "This pair was declined before", lambda p: "declined" in p.past),
    Rule("expired-before", "An offer of this pair expired not long ago", lambda p: "expired" in p.past),
    Rule("sharing-denied", "The scheme may not be told of this client", lambda p: "denied" in p.past),
)
"""Every hard rule, by name. A pair that none of them bars may be made."""


def bars(pair: Pair, *, at_start: bool = False) -> list[str]:
    """The rules that bar the pair; `at_start`: of those that are asked again when mentoring starts."""
    return [rule.name for rule in RULES if (rule.at_start or not at_start) and rule.bars(pair)]


def scores(pair: Pair, now: datetime) -> dict[str, float]:
    """What speaks for the pair, by name: none is negative, and their sum is less than `SCORE_LIMIT`."""
    weeks = max(0.0, (now - pair.client.waiting_since) / timedelta(weeks=1))
    return {
        "waiting": round(min(weeks, 26.0), 3),
        "language": 10.0 if _shares_language(pair) else 0.0,
        "pathways": 5.0 * len(pair.client.needs & pair.volunteer.pathways),
    }


SCORE_LIMIT = 100.0
AVOIDED = "avoided"
"""Between a client and a scheme that was to be told no more: no bar, for the door decides, and says why not."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A pair that a round made, and what spoke for it."""

    client: Profile
    volunteer: Volunteer
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Solution:
    """The pairs, and for each client left without one how many volunteers each rule barred."""

    assignments: list[Assignment]
    unmatched: dict[UUID, dict[str, int]]


Past = Mapping[tuple[UUID, UUID | str], frozenset[str]]
"""What was before, by client and volunteer, and by client and scheme."""


def solve(clients: Sequence[Profile], volunteers: Sequence[Volunteer], past: Past, now: datetime) -> Solution:
    """The best assignment for all clients together: first as many as can be, of those the best in sum.

    A scheme that is avoided for a client counts for less than any other pair, so it comes only where nobody else can.
    """
    import numpy  # here and not above: together they take tens of megabytes, and only a round needs them
    from scipy.optimize import linear_sum_assignment

    day = now.astimezone(LONDON).date()
    seats = [v for v in volunteers for _ in range(min(max(v.caseload_limit - v.caseload, 0), len(clients)))]
    first_seat = {v.id: n for n, v in reversed(list(enumerate(seats)))}
    base = SCORE_LIMIT * (len(clients) + 1)
    value = numpy.zeros((len(clients), len(seats)))
    barred: list[Counter[str]] = [Counter() for _ in clients]
    found: dict[tuple[int, UUID], dict[str, float]] = {}
    for row, client in enumerate(clients):
        for volunteer in volunteers:
            pair = Pair(client, volunteer, day, past_of(past, client.client, volunteer))
            if why := bars(pair):
                barred[row].update(why)
                continue
            scored = found[row, volunteer.id] = scores(pair, now)
            seat = first_seat[volunteer.id]
            count = min(volunteer.caseload_limit - volunteer.caseload, len(clients))
            value[row, seat : seat + count] = (1 if AVOIDED in pair.past else base) + sum(scored.values())
    rows, columns = linear_sum_assignment(value, maximize=True)
    chosen = {int(r): seats[int(c)] for r, c in zip(rows, columns, strict=True) if value[r, c] > 0}
    return Solution(
        [Assignment(clients[r], v, found[r, v.id]) for r, v in sorted(chosen.items())],
        {c.client: dict(barred[row]) for row, c in enumerate(clients) if row not in chosen},
    )


def past_of(past: Past, client: UUID, volunteer: Volunteer) -> frozenset[str]:
    """What was before between the client and the volunteer or the volunteer's scheme."""
    none: frozenset[str] = frozenset()
    return past.get((client, volunteer.id), none) | past.get((client, volunteer.scheme), none)


def plain(words: str) -> str:
    """Free text made comparable: case, spaces and hyphens do not matter."""
    return " ".join(words.casefold().replace("-", " ").split())


def _shares_language(pair: Pair) -> bool:
    language = pair.client.language
    return language is not None and plain(language) in {plain(known) for known in pair.volunteer.languages}
