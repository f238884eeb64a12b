"""Programs that Hypothesis makes up: what four agencies say of a few clients at once, and what befalls the disclosers.

Clients come in pairs, of which one has a prison number and the other a probation number, so that both can be linked.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from hypothesis import strategies as st

from support.agency import event, terms

PRISON, PROBATION, HOUSING, MENTORS = "hmp-leeds", "probation-leeds", "harbour-housing", "second-chance-mentors"
AGENCIES = {PRISON: "prison", PROBATION: "probation", HOUSING: "vcs", MENTORS: "vcs"}
SERVICES = ("referral", "matching")
RECIPIENTS = (PROBATION, HOUSING, MENTORS, *SERVICES)
CATEGORIES = ("identity", "needs.accommodation", "needs.education-training-employment", "risk")
PROTECTION = "public-protection"
PAIRS = 3
CLIENTS = 2 * PAIRS


@dataclass(frozen=True)
class Agreed:
    """An agreement with a subscription: who tells whom what."""

    id: str
    sources: tuple[str, ...]
    recipients: tuple[str, ...]
    purpose: str
    categories: tuple[str, ...]
    basis: str = "consent"

    @property
    def terms(self) -> list[dict[str, Any]]:
        """Its terms, as the register takes them."""
        return [terms(self.purpose, list(self.categories), self.basis)]


AGREED = (
    Agreed(
        "referral",
        (PRISON, PROBATION),
        (HOUSING, MENTORS, "referral"),
        "referral",
        ("identity", "needs.accommodation", "risk"),
    ),
    Agreed(
        "mentoring",
        (PRISON, HOUSING),
        (MENTORS, "matching"),
        "mentor-matching",
        ("identity", "needs.education-training-employment"),
    ),
    Agreed("supervision", (PRISON,), (PROBATION,), "release-notification", ("identity", "risk"), "oma-2007-s14"),
)

# --- what an agency does ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reach:
    """What a stop reaches; an empty list means all."""

    recipients: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()

    def reaches(self, recipient: str, purpose: str, category: str) -> bool:
        """Whether it reaches this."""
        asked = ((recipient, self.recipients), (purpose, self.purposes), (category, self.categories))
        return all(one in some or not some for one, some in asked)

    @property
    def lists(self) -> dict[str, list[Any]]:
        """Its lists, as an event has them."""
        lists = {k: list(v) for k, v in vars(self).items() if v}
        return lists | ({"recipients": [{"agency": r} for r in self.recipients]} if self.recipients else {})


@dataclass(frozen=True)
class Record:
    """Records something of a client."""

    client: int
    categories: tuple[str, ...]


@dataclass(frozen=True)
class Grant:
    """Passes on a consent; `late` ones were given an hour ago."""

    client: int
    recipients: tuple[str, ...]
    purposes: tuple[str, ...]
    categories: tuple[str, ...]
    late: bool


@dataclass(frozen=True)
class No:
    """Passes on a withdrawal or a refusal."""

    client: int
    reach: Reach
    refused: bool


@dataclass(frozen=True)
class Impose:
    """Imposes a restriction."""

    client: int
    number: int
    kind: str
    reach: Reach
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Invoke:
    """Invokes the duty to co-operate (`gateway`), or authorises an override."""

    client: int
    number: int
    what: str
    recipients: tuple[str, ...]
    categories: tuple[str, ...]


@dataclass(frozen=True)
class End:
    """Lifts its restriction, or ends its gateway or override."""

    client: int
    number: int
    what: str


@dataclass(frozen=True)
class Link:
    """Says that both clients of a pair are one person; the second time that they are not."""

    pair: int


@dataclass(frozen=True)
class Flood:
    """Records something of every client, so many times."""

    rounds: int


@dataclass(frozen=True)
class Rest:
    """Waits a little."""

    milliseconds: int


Step = Record | Grant | No | Impose | Invoke | End | Link | Flood | Rest


@dataclass(frozen=True)
class Fault:
    """What befalls one shard's discloser after a while: `stop` (and go on after `milliseconds`), `kill`, or a point."""

    after: int
    shard: int
    what: str
    milliseconds: int = 0


POINTS = ("discloser.decided", "discloser.claimed", "discloser.sending", "discloser.sent")


@dataclass(frozen=True)
class Program:
    """One lane of steps an agency, played at the same time, and the faults meanwhile."""

    prison: list[Step]
    probation: list[Step]
    housing: list[Step]
    mentors: list[Step]
    faults: list[Fault]

    @property
    def lanes(self) -> dict[str, list[Step]]:
        """The steps by agency."""
        return {PRISON: self.prison, PROBATION: self.probation, HOUSING: self.housing, MENTORS: self.mentors}


def _some(of: tuple[str, ...], least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(of), min_size=least, max_size=len(of), unique=True).map(tuple)


_clients, _numbers = st.integers(0, CLIENTS - 1), st.integers(0, 1)
_purposes = tuple(a.purpose for a in AGREED)
_listed = st.builds(Reach, _some(RECIPIENTS, 0), _some(_purposes, 0), _some(CATEGORIES, 0))
_reaches = st.one_of(st.just(Reach()), _listed)
_records = st.builds(Record, _clients, _some(CATEGORIES))
_grants = st.builds(
    Grant, _clients, _some((HOUSING, MENTORS)), _some(_purposes[:2]), _some(CATEGORIES, 2), st.sampled_from([0, 0, 1])
)
_noes = st.builds(No, _clients, _reaches, st.booleans())
_impositions = st.one_of(
    st.builds(
        Impose,
        _clients,
        _numbers,
        st.just("exclusion"),
        st.builds(Reach, _some(RECIPIENTS), _some(_purposes, 0), _some(CATEGORIES, 0)),
    ),
    st.builds(Impose, _clients, _numbers, st.just("limited-access"), st.just(Reach()), _some(RECIPIENTS)),
    st.builds(Impose, _clients, _numbers, st.just("victim-safety"), _listed),
)
_ends = st.builds(End, _clients, _numbers, st.just("restriction"))
_statutory_ends = st.builds(End, _clients, _numbers, st.sampled_from(["gateway", "override"]))
_floods = st.builds(Flood, st.integers(5, 25))
_rests = st.builds(Rest, st.integers(1, 200))
_gateways = st.builds(Invoke, _clients, _numbers, st.just("gateway"), st.just((PROBATION,)), _some(CATEGORIES))
_overrides = st.builds(Invoke, _clients, _numbers, st.just("override"), _some((HOUSING, MENTORS)), _some(CATEGORIES))
_links = st.builds(Link, st.integers(0, PAIRS - 1))
_anyone: list[st.SearchStrategy[Any]] = [
    _records, _grants, _grants, _grants, _grants, _noes, _noes, _impositions, _ends, _floods, _rests,
]  # fmt: skip


def _lane(*more: st.SearchStrategy[Any], size: int = 18) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.one_of(*_anyone, *more), min_size=size // 2, max_size=size).map(_with_a_beginning)


def _with_a_beginning(lane: list[Step]) -> list[Step]:
    """Without ends of what this agency did not begin: each would hold a client, and there would be little left to see.
    One may still arrive first, by the quicker way, or after an undone link took its beginning away.
    """
    kept: list[Step] = []
    for step in lane:
        ends = (step.client, step.number, step.what) if isinstance(step, End) and step.what != "restriction" else None
        if ends is None or any(isinstance(s, Invoke) and (s.client, s.number, s.what) == ends for s in kept):
            kept.append(step)
    return kept


_faults = st.builds(
    Fault,
    st.integers(0, 150),
    st.integers(0, 1),
    st.sampled_from(["stop", "stop", "stop", "stop", "stop", "stop", "kill", *POINTS]),
    st.integers(5, 250),
)
PROGRAMS = st.builds(
    Program,
    _lane(_gateways, _overrides, _statutory_ends, _links, _floods),
    _lane(_gateways, _overrides, _statutory_ends, _floods),
    _lane(),
    _lane(),
    st.lists(_faults, min_size=4, max_size=16),
)

# --- the events of it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Said:
    """What an agency published, as the model needs it."""

    agency: str
    step: Step
    at: datetime
    """When the client gave a consent, or said no."""


@dataclass(frozen=True)
class People:
    """The clients of one run."""

    numbers: list[dict[str, str]]
    keys: list[str]
    """The Kafka key of each: one for a pair, so that what one agency says of it keeps its order."""


def newcomers(start: int) -> People:
    """Clients with numbers from `start` on, that nobody has had."""
    numbers = []
    for n in range(start, start + CLIENTS):
        prison = {"type": "NOMS", "value": f"B{n // 26**2 % 10_000:04}{chr(65 + n // 26 % 26)}{chr(65 + n % 26)}"}
        numbers.append({"type": "CRN", "value": f"X{n:06}"} if n % 2 else prison)
    return People(numbers, [key for key in (uuid4().hex for _ in range(PAIRS)) for _ in range(2)])


def facts_of(categories: tuple[str, ...], text: str) -> dict[str, Any]:
    """Facts that say `text` in each category."""
    made: dict[str, Any] = {
        "identity": {"givenName": "Robin", "familyName": text},
        "needs.accommodation": {"level": "urgent", "summary": text},
        "needs.education-training-employment": {"level": "later", "summary": text},
        "risk": {"harm": "low", "considerations": text},
    }
    return {category: made[category] for category in categories}


def event_of(step: Record | Grant | No | Impose | Invoke | End, agency: str, people: People) -> tuple[Any, Said]:
    """The event of a step of this moment."""
    about: dict[str, Any] = {"identifiers": [people.numbers[step.client]]}
    now = at = datetime.now(UTC)
    data: dict[str, Any]
    match step:
        case Record():
            return event("client.recorded", agency, about | {"facts": facts_of(step.categories, uuid4().hex)}), Said(
                agency, step, at
            )
        case Grant():
            at = now - timedelta(hours=1) if step.late else now
            kind, data = (
                "consent.granted",
                {
                    "form": uuid4().hex,
                    "recipients": [{"agency": r} for r in step.recipients],
                    "purposes": step.purposes,
                    "categories": step.categories,
                    "givenAt": at.isoformat(),
                    "how": {"formVersion": "2026-1"},
                },
            )
        case No():
            lists = step.reach.lists
            scope = {"scope": "listed" if lists else "everything", **lists}
            kind = "consent.refused" if step.refused else "consent.withdrawn"
            data = scope | {"refusedAt" if step.refused else "withdrawnAt": at.isoformat()}
        case Impose():
            kind = "restriction.imposed"
            data = {"restriction": own_id(step, people), "kind": step.kind, **step.reach.lists}
            if step.allowed:
                data["allowed"] = step.allowed
        case Invoke():
            data = {
                step.what: own_id(step, people),
                "recipients": step.recipients,
                "purposes": [PROTECTION],
                "categories": step.categories,
                "starts": now.isoformat(),
                "ends": (now + timedelta(days=7)).isoformat(),
                "reason": "made up",
            }
            if step.what == "gateway":
                kind = "gateway.invoked"
                data |= {"basis": "cja-2003-s325", "authorisedByRole": "head of unit"}
            else:
                kind = "override.authorised"
                data |= {"reviewBy": data["ends"], "authorisedBy": "staff-1", "approvedBy": "staff-2"}
        case End():
            kind = "restriction.lifted" if step.what == "restriction" else f"{step.what}.ended"
            data = {step.what: own_id(step, people)}
    return event(kind, agency, about | data), Said(agency, step, at)


def own_id(step: Impose | Invoke | End, people: People) -> str:
    """The agency's own id of what a step imposes, invokes or ends, of this run only."""
    return f"{people.keys[step.client][:12]}-{step.client % 2}-{step.number}"


def link_event(pair: int, agency: str, people: People, *, undo: bool) -> tuple[Any, Said]:
    """The event that links a pair, or undoes it."""
    one, other = people.numbers[2 * pair : 2 * pair + 2]
    data = {"identifiers": [one], "notSameAs" if undo else "sameAs": [other], "reason": "made up"}
    kind = "identity.unlinked" if undo else "identity.linked"
    return event(kind, agency, data), Said(agency, Link(pair), datetime.now(UTC))
