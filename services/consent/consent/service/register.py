"""Who takes part and what was agreed: the part of the facts that does not belong to one client."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

from consent.domain import Agency, Agreement, Policy, acts_for, why_not_in_force
from consent.repository import parties
from consent.repository.sql import Executor
from contracts.vocabulary import AgencyKind, Category, Purpose


@dataclass(frozen=True, slots=True)
class Subscription:
    """A recipient that gets a source's changes without asking."""

    recipient: Agency
    purpose: Purpose
    categories: frozenset[Category]
    starts: datetime


class Register:
    """Parties and agreements as one transaction sees them."""

    def __init__(self, agencies: dict[str, Agency], agreements: list[Agreement]) -> None:
        self.agencies = agencies
        self.agreements = agreements
        self.kinds: dict[str, AgencyKind] = {a.id: a.kind for a in agencies.values()}
        self.partners = [a.id for a in agencies.values() if a.kind is not AgencyKind.SERVICE]
        self.policy = Policy(agreements, self.kinds)
        self._by_source: dict[str, list[Subscription]] = {}

    @cached_property
    def lenient(self) -> Policy:
        """As if no agreement were suspended or over: what left under one and is to be taken back is permitted by it.

        A suspension takes nothing back, so what ends or is lost by a link while it lasts is taken back then.
        """
        unending = datetime.max.replace(tzinfo=UTC)
        return Policy([replace(a, ends=unending, suspended_from=None) for a in self.agreements], self.kinds)

    def subscriptions(self, source: str, now: datetime) -> list[Subscription]:
        """Who gets the changes that `source` records, an entry a recipient and purpose; no agreement that has ended."""
        if source not in self._by_source:
            self._by_source[source] = merged(self._subscriptions(source, now))
        return self._by_source[source]

    def tells(self, source: str, at: datetime) -> frozenset[str]:
        """The recipients whom `source` may tell something by an agreement that is in force."""
        newest = (next((a for a in versions if a.starts <= at), None) for versions in self.policy.versions)
        telling = (a for a in newest if a and source in a.sources and why_not_in_force(a, at) is None)
        return frozenset[str]().union(*(a.recipients for a in telling))

    def _subscriptions(self, source: str, now: datetime) -> Iterator[Subscription]:
        for agreement in self.agreements:
            if source not in agreement.sources or agreement.ends <= now:
                continue
            for purpose, terms in agreement.terms.items():
                if terms.subscription:
                    for id in sorted(agreement.recipients - {source}):
                        if id in self.agencies and acts_for(self.agencies[id], purpose):
                            yield Subscription(self.agencies[id], purpose, terms.categories, agreement.starts)


def merged(subscriptions: Iterable[Subscription]) -> list[Subscription]:
    """An entry a recipient and purpose."""
    found: dict[tuple[str, Purpose], Subscription] = {}
    for s in subscriptions:
        other = found.get((s.recipient.id, s.purpose), s)
        found[s.recipient.id, s.purpose] = Subscription(
            s.recipient, s.purpose, s.categories | other.categories, min(s.starts, other.starts)
        )
    return list(found.values())


def state(version: Agreement, versions: Iterable[Agreement], at: datetime) -> str:
    """What a version is at a time, among the `versions` of its agreement."""
    if any(v.version > version.version and v.starts <= at for v in versions):
        return "superseded"
    if at < version.starts:
        return "not-begun"
    if at >= version.ends:
        return "expired"
    return "in-force" if why_not_in_force(version, at) is None else "suspended"


async def load(db: Executor) -> Register:
    """The register as this transaction sees it."""
    return Register(await parties.agencies(db), await parties.agreements(db))


async def load_bound(db: Executor) -> Register:
    """The register as far as the agency that asks may know it.

    The decisions that concern that agency come out the same, because it also sees who undertook in agreements among
    others to enforce exclusions.
    """
    return Register(await parties.agencies(db), [*await parties.agreements(db), *await parties.undertakings(db)])
