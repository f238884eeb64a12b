"""The cases that `decide` and its peers answer: made up from a seed, so the same in every run.

What is measured begins in `ask`; it is the one place that knows how our rules are called.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter

from consent.domain import (
    GATEWAYS,
    Agency,
    Agreement,
    ClientFacts,
    Granted,
    Item,
    Policy,
    Question,
    Recipients,
    Scope,
    SharingFact,
    Terms,
    Withdrawn,
    decide,
)
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose

T = TypeVar("T")
Verdict = frozenset[Item]
"""Which items of a question may leave."""

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
AREAS = ("leeds", "hull", "york")
KINDS = tuple(kind for kind in AgencyKind if kind is not AgencyKind.SERVICE)
PURPOSES = (Purpose.REFERRAL, Purpose.MENTOR_MATCHING, Purpose.RELEASE_NOTIFICATION)
CATEGORIES = tuple(Category)
AGENCIES = {f"{kind.value}-{area}": Agency(f"{kind.value}-{area}", kind, area) for kind in KINDS for area in AREAS}
"""Eighteen agencies: each is a source and a recipient."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question about one client, and the facts of that client."""

    question: Question
    facts: ClientFacts


class Peer(Protocol):
    """Something else that can decide. Made once from a policy: that part may be parsed and indexed beforehand."""

    name: str

    def __init__(self, policy: Policy) -> None:
        """Take in what does not belong to one client."""

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Bring a case into the form that this peer would have stored it in; give the call that is measured."""


class Ours:
    """`decide`, beside its peers."""

    name = "decide"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Nothing is prepared: each call begins from the plain facts of the client."""
        return lambda: ask(case, self._policy)


class OursFromStored(Ours):
    """The same, the history read in the call from the JSON that it is stored in, as strictly as the door does."""

    name = "decide_from_stored"

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Keep the history as JSON texts."""
        stored = [(READ[type(fact)].validate_json, READ[type(fact)].dump_json(fact)) for fact in case.facts.history]

        def run() -> Verdict:
            facts = replace(case.facts, history=tuple([read(text) for read, text in stored]))
            return decide(case.question, facts, self._policy).permitted

        return run


READ: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Granted, Withdrawn)}
"""As `consent.repository.sharing` reads what it stored; the cases hold no other kinds."""


def ask(case: Case, policy: Policy) -> Verdict:
    """The whole call. The switch to another signature of `decide` is here and nowhere else."""
    return decide(case.question, case.facts, policy).permitted


def make(size: int, count: int, seed: str = "1") -> tuple[Policy, list[Case]]:
    """A policy of `size` agreements and `count` clients with `size` consent events each, and a question each."""
    rng = random.Random(f"{seed}/{size}")
    policy = Policy(tuple(_agreements(rng, size)), {id: agency.kind for id, agency in AGENCIES.items()})
    return policy, [_case(rng, policy, size) for _ in range(count)]


def stops(facts: ClientFacts, question: Question) -> tuple[int, datetime]:
    """The newest version and the latest time of the withdrawals that reach the recipient for the purpose.

    For peers that cannot look through a list: a grant is dead when one of the two is not before it.
    """
    reaching = [
        event
        for event in facts.history
        if isinstance(event, Withdrawn) and event.scope.reaches(question.recipient, question.purpose, question.service)
    ]
    return (
        max((event.version for event in reaching), default=-1),
        max((event.at for event in reaching), default=datetime.min.replace(tzinfo=UTC)),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """One purpose of one agreement, with the time in which this version is the one that counts."""

    agreement: Agreement
    purpose: Purpose
    terms: Terms
    until: datetime


def rules(policy: Policy) -> list[Rule]:
    """The agreements taken apart for peers: a version counts until it ends or a newer one begins."""
    return [
        Rule(
            a,
            purpose,
            terms,
            min([a.ends, *(b.starts for b in policy.agreements if b.id == a.id and b.version > a.version)]),
        )
        for a in policy.agreements
        for purpose, terms in a.terms.items()
    ]


def listed(policy: Policy, id: str) -> bool:
    """Whether an agency is one of the bodies of the Offender Management Act."""
    return policy.kinds.get(id) in GATEWAYS[Basis.OMA_S14].sources


def micros(at: datetime) -> int:
    """Microseconds since 1970: the peers have no times, or slow ones."""
    return round((at - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))


def _agreements(rng: random.Random, size: int) -> list[Agreement]:
    made: list[Agreement] = []
    while len(made) < size:
        earlier = rng.choice(made) if len(made) > 1 and rng.random() < 0.2 else None
        begun = not made or rng.random() < 0.8
        starts = NOW - timedelta(days=rng.randint(10, 700) if begun else rng.randint(-30, -1))
        made.append(
            Agreement(
                earlier.id if earlier else f"agreement-{len(made)}",
                max(a.version for a in made if a.id == earlier.id) + 1 if earlier else 1,
                frozenset(_some(rng, list(AGENCIES), 4, 8)),
                frozenset(_some(rng, list(AGENCIES), 4, 10)),
                {
                    purpose: Terms(
                        Basis.OMA_S14 if rng.random() < 0.25 else Basis.CONSENT,
                        frozenset(_some(rng, CATEGORIES, 8, 16)),
                    )
                    for purpose in _some(rng, PURPOSES, 1, 3)
                },
                starts,
                starts + timedelta(days=rng.choice((600, 730, 1095))),
            )
        )
    return made


def _case(rng: random.Random, policy: Policy, size: int) -> Case:
    agreement = rng.choice(policy.agreements)
    recipient = AGENCIES[rng.choice(sorted(agreement.recipients))]
    purpose = rng.choice(sorted(agreement.terms))
    sources = rng.sample(sorted(agreement.sources), 3) + _some(rng, list(AGENCIES), 1, 1)
    items = {Item(rng.choice(sources), category) for category in _some(rng, CATEGORIES, 8, 17)}
    asked = tuple(sorted(items, key=lambda i: (i.source, i.category)))
    question = Question(recipient, purpose, asked, NOW, spent=dict.fromkeys(AGENCIES))  # the peers know no convictions
    return Case(question, ClientFacts(tuple(_history(rng, question, size))))


def _history(rng: random.Random, question: Question, size: int) -> list[SharingFact]:
    history: list[SharingFact] = []
    for version in range(1, size + 1):
        at = NOW - timedelta(days=600 - 550 * version / size, hours=rng.randint(0, 240))
        if rng.random() < 0.3:
            at -= timedelta(days=rng.randint(10, 200))  # it was told late
        if version > 1 and rng.random() < 0.15:
            wide = rng.random() < 0.1
            scope = Scope(
                None if wide else Recipients(frozenset(_some(rng, list(AGENCIES), 1, 5))),
                None if wide else frozenset(_some(rng, PURPOSES, 1, 2)),
            )
            history.append(Withdrawn(version, rng.choice(list(AGENCIES)), at, scope))
            continue
        likely = rng.random() < max(0.25, 3 / size)
        agencies = set(_some(rng, list(AGENCIES), 1, 4)) | ({question.recipient.id} if likely else set())
        history.append(
            Granted(
                version,
                rng.choice(list(AGENCIES)),
                Recipients(
                    frozenset(agencies),
                    frozenset((rng.choice(KINDS), rng.choice(AREAS)) for _ in range(rng.randint(0, 2))),
                ),
                frozenset(_some(rng, PURPOSES, 1, 3)) | ({question.purpose} if likely else frozenset()),
                frozenset(_some(rng, CATEGORIES, 5, 13)),
                at,
                rng.choice((None, None, None, at, at, at, NOW + timedelta(days=7))),
                at + timedelta(days=rng.choice((180, 730, 1000))) if rng.random() < 0.7 else None,
                void="form-used-before" if rng.random() < 0.05 else None,
            )
        )
    return history


def _some(rng: random.Random, of: Sequence[T], least: int, most: int) -> list[T]:
    return rng.sample(of, rng.randint(least, most))
