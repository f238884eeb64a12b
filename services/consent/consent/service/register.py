"""Who takes part and what was agreed: the part of the facts that does not belong to one client."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Agency, Agreement, Policy, Terms, acts_for, agreements_in_force, why_not_in_force
from consent.repository import agreements, parties
from consent.repository.sql import Executor
from contracts.agreements import AgreementTerms, AgreementText
from contracts.vocabulary import RESERVED_IDS, AgencyKind, Category, Purpose
from servicekit.problems import Problem


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
        self._subscribed: dict[tuple[str, datetime], list[Subscription]] = {}

    @cached_property
    def lenient(self) -> Policy:
        """As if every version of an agreement that has begun were in force: what left under one and is to be taken back
        is permitted by it.

        Neither a suspension nor a newer version takes anything back, so what ends or is lost by a link afterwards is
        taken back then.
        """
        unending = datetime.max.replace(tzinfo=UTC)
        alone = (replace(a, id=f"{a.id} {a.version}", ends=unending, suspended_from=None) for a in self.agreements)
        return Policy(list(alone), self.kinds)

    @cached_property
    def categories(self) -> Mapping[str, frozenset[Category]]:
        """By recipient the categories of which any version of any agreement lets it be told."""
        found: dict[str, frozenset[Category]] = {}
        for agreement in self.agreements:
            every = frozenset[Category]().union(*(terms.categories for terms in agreement.terms.values()))
            found |= {id: found.get(id, frozenset()) | every for id in agreement.recipients}
        return found

    def subscriptions(self, source: str, now: datetime) -> list[Subscription]:
        """Who gets what `source` records, by agreements in force or to come: an entry a recipient and purpose."""
        if (source, now) not in self._subscribed:
            self._subscribed[source, now] = merged(self._subscriptions(source, now))
        return self._subscribed[source, now]

    def tells(self, source: str, at: datetime) -> frozenset[str]:
        """The recipients whom `source` may tell something by an agreement that is in force."""
        telling = (a.recipients for a in agreements_in_force(self.policy, at) if source in a.sources)
        return frozenset[str]().union(*telling)

    def _of(self, source: str, now: datetime) -> Iterator[Agreement]:
        """The versions by which a source may tell something, now or later: not what is over, nor what a newer version
        has replaced, or will have by the time that it begins. A suspended one may be resumed.
        """
        for versions in self.policy.versions:
            for newer, agreement in enumerate(versions):
                replaced = any(v.starts <= max(now, agreement.starts) for v in versions[:newer])
                if source in agreement.sources and agreement.ends > now and not replaced:
                    yield agreement

    def _subscriptions(self, source: str, now: datetime) -> Iterator[Subscription]:
        for agreement in self._of(source, now):
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


def terms_of(terms: Collection[AgreementTerms]) -> Mapping[Purpose, Terms]:
    """Terms as decisions read them."""
    return {t.purpose: Terms(t.basis, frozenset(t.categories), t.subscription, t.own_word) for t in terms}


def agreement_of(id: str, version: int, text: AgreementText) -> Agreement:
    """A version as decisions read it."""
    return Agreement(
        id,
        version,
        frozenset(text.sources),
        frozenset(text.recipients),
        terms_of(text.terms),
        text.starts,
        text.ends,
        frozenset(text.enforces),
    )


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
    return Register(await parties.agencies(db), await agreements.every(db))


async def register_agency(session: AsyncSession, agency: Agency, name: str) -> None:
    """Enter or change a party. Its kind and area change only while it knows no client and no client's record names it:
    consents name recipients by them, and gateways go by the kind, so what it was sent would no longer be permitted.

    Raises:
        Problem: 409, the id is reserved, or the kind is that of our own services; or the kind or area is in use.
    """
    if agency.id in RESERVED_IDS or agency.kind is AgencyKind.SERVICE:
        raise Problem("reserved-id", "This id is taken by Throughgate itself", "Choose another id for the agency.", 409)
    known = (await parties.agencies(session)).get(agency.id)
    if known not in (None, agency) and await parties.knows_somebody(session, agency.id):
        raise Problem(
            "kind-in-use",
            "This agency's kind and area can no longer change",
            "What was shared with it rests on them. Register it anew under another id, and let its partners"
            " sign agreements with that.",
            409,
        )
    await parties.put_agency(session, agency, name)
