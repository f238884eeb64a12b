"""What a changed agreement or gateway would have let through or stopped: past questions, decided again by `decide`, and
beside them the questions that only the change makes possible (`service.unasked`).

Nothing is written. The facts are those of then: the client's history up to the version that was decided on, the
register as it was known at that time. Whether a hold or contradicting numbers denied everything stands in the entry.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import Field

from consent.domain import GATEWAYS, Agency, Agreement, Decision, Gateway, Item, Policy, decide
from consent.repository import ledger, parties, past
from consent.repository.sql import Executor
from consent.service.disclosing import all_or_nothing
from consent.service.register import agreement_of
from consent.service.telling import question_of
from consent.service.unasked import NewQuestions, Possible, Shown, newly_possible
from contracts.agreements import AgreementId, AgreementText
from contracts.vocabulary import AgencyKind, Basis, Category, Purpose
from servicekit.envelope import StrictWire
from servicekit.sql import time_now

CHUNK = 1000


class ChangedAgreement(AgreementText):
    """A version of an agreement to add, or to put in the place of the one with this id and version."""

    id: AgreementId
    version: Annotated[int, Field(ge=1, le=2**31 - 1)]


class ChangedGateway(StrictWire):
    """What changes in a row of the table of gateways; what is not named stays."""

    sources: frozenset[AgencyKind] | None = None
    recipients: frozenset[AgencyKind] | None = None
    purposes: frozenset[Purpose] | None = None
    categories: frozenset[Category] | None = None
    invoked_by: frozenset[AgencyKind] | None = None
    own_only: bool | None = None


class Change(StrictWire):
    """What to try. Everything else stays as it was."""

    agreements: list[ChangedAgreement] = []
    gateways: dict[Basis, ChangedGateway] = {}


@dataclass
class Group:
    """Decisions that would come out otherwise, for one recipient, category and reason."""

    recipient: str
    category: str
    asked_only: bool
    """Whether it was only asked beforehand, so that nothing left by it."""
    rule: str | None
    """By which rule it would newly be withheld."""
    decisions: list[str] = field(default_factory=list)


@dataclass
class Replayed:
    """What came of it."""

    decided: int = 0
    """Decisions in the time, those below included."""
    erased: int = 0
    """Of them, those that nobody can read any more."""
    unclear: list[str] = field(default_factory=list)
    """Of them, those that do not come out as then even unchanged: something they were made on is not kept."""
    newly_leaves: list[Group] = field(default_factory=list)
    newly_withheld: list[Group] = field(default_factory=list)
    newly_possible: list[Possible] = field(default_factory=list)
    """By questions that nobody could ask before, of the clients of today."""
    clients: int = 0
    """Of how many clients they were asked."""
    unregistered: list[str] = field(default_factory=list)
    """Recipients of the changed policy that the register does not have: nothing is said of them."""


async def replay(db: Executor, change: Change, since: datetime) -> Replayed:
    """Decide every question since `since` again, and those that the change adds, of today. The caller's transaction
    reads one state, and only reads.
    """
    agencies = await parties.agencies(db)
    kinds = {agency.id: agency.kind for agency in agencies.values()}
    register = await past.register(db)
    gateways = _gateways(change)
    replayed = Replayed()
    leaves: dict[tuple[str, str, bool, str | None], Group] = {}
    withheld: dict[tuple[str, str, bool, str | None], Group] = {}
    shown: set[Shown] = set()
    after = 0
    while rows := await past.decisions(db, since, after, CHUNK):
        after = rows[-1].id
        replayed.decided += len(rows)
        histories = await past.histories(db, {row.client_id for row in rows})
        for row in rows:
            try:
                opened = ledger.open(row)
            except ledger.Unreadable:
                replayed.unclear.append(str(row.decision))
                continue
            if opened is None:
                replayed.erased += 1
                continue
            said = opened.explanation
            if said["recipient"] not in agencies:  # lost in a restore
                replayed.unclear.append(str(row.decision))
                continue
            agreements = register.at(row.decided_at)
            then = Policy(agreements, kinds)
            tried = Policy(_changed(agreements, change.agreements), kinds, gateways)
            before, now = (_again(row, said, agencies, histories, policy) for policy in (then, tried))
            if _outcome(before) != _recorded(said):
                replayed.unclear.append(str(row.decision))
                continue
            asked_only = row.kind == "consultation"
            rules = {w.item: w.rule for w in now.withheld}
            for item in now.permitted - before.permitted:
                _enter(leaves, said["recipient"], item, asked_only, None, row.decision)
                if not asked_only:
                    shown.add((row.client_id, said["recipient"], item.category.value))
            for item in before.permitted - now.permitted:
                _enter(withheld, said["recipient"], item, asked_only, rules.get(item), row.decision)
    replayed.newly_leaves, replayed.newly_withheld = _sorted(leaves.values()), _sorted(withheld.values())
    at = await time_now(db)
    agreements = register.at(at)
    then, tried = Policy(agreements, kinds), Policy(_changed(agreements, change.agreements), kinds, gateways)
    new = NewQuestions(_recipients(change, agencies, gateways), _sources(change, agencies), at, then, tried)
    replayed.clients, replayed.newly_possible = await newly_possible(db, new, agencies, shown)
    replayed.unregistered = sorted({r for a in change.agreements for r in a.recipients} - agencies.keys())
    return replayed


def _recipients(
    change: Change, agencies: Mapping[str, Agency], gateways: Mapping[Basis, Gateway]
) -> list[tuple[str, Purpose]]:
    """Whom the change may let be told something, for what."""
    found = {(r, t.purpose) for a in change.agreements for r in a.recipients if r in agencies for t in a.terms}
    for row in (gateways[basis] for basis in change.gateways):
        found |= {(a.id, purpose) for a in agencies.values() if a.kind in row.recipients for purpose in row.purposes}
    return sorted(found)


def _sources(change: Change, agencies: Mapping[str, Agency]) -> set[str]:
    """Whose records the change may let out. A gateway reaches by kind: of all."""
    return set(agencies) if change.gateways else {source for a in change.agreements for source in a.sources}


def _again(
    row: Any, said: Mapping[str, Any], agencies: Mapping[str, Agency], histories: past.Histories, policy: Policy
) -> Decision:
    rules = {x["rule"] for x in said["withheld"]}
    facts = histories.at(
        row.client_id, said["decidedOn"], held="held" in rules, conflicting="conflicting-identity" in rules
    )
    question = question_of(said, agencies[said["recipient"]], row.decided_at)
    about = [Item(source, Category(category)) for source, category in said.get("asked", {}).get("about", ())]
    return all_or_nothing(decide(question, facts, policy), about)


def _outcome(decision: Decision) -> tuple[frozenset[Item], dict[Item, str]]:
    return decision.permitted, {w.item: w.rule for w in decision.withheld}


def _recorded(said: Mapping[str, Any]) -> tuple[frozenset[Item], dict[Item, str]]:
    permitted = frozenset(Item(x["source"], Category(x["category"])) for x in said["permitted"])
    return permitted, {Item(x["source"], Category(x["category"])): x["rule"] for x in said["withheld"]}


def _gateways(change: Change) -> dict[Basis, Gateway]:
    rows = dict(GATEWAYS)
    for basis, row in change.gateways.items():
        if basis not in rows:
            raise ValueError(f"{basis.value} is no gateway")
        rows[basis] = replace(rows[basis], **row.model_dump(exclude_none=True))
    return rows


def _changed(agreements: Iterable[Agreement], changes: Iterable[ChangedAgreement]) -> list[Agreement]:
    versions = {(a.id, a.version): a for a in agreements}
    suspended = {a.id: a.suspended_from for a in versions.values()}
    for c in changes:
        versions[c.id, c.version] = replace(agreement_of(c.id, c.version, c), suspended_from=suspended.get(c.id))
    return list(versions.values())


def _enter(
    groups: dict[tuple[str, str, bool, str | None], Group],
    recipient: str,
    item: Item,
    asked_only: bool,
    rule: str | None,
    decision: UUID,
) -> None:
    key = recipient, item.category.value, asked_only, rule
    group = groups.setdefault(key, Group(*key))
    if str(decision) not in group.decisions[-1:]:  # the same category of two sources
        group.decisions.append(str(decision))


def _sorted(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda g: (g.recipient, g.category, g.asked_only, g.rule or ""))
