"""What docs/reference/rules.md says, slowly and one sentence at a time. It uses nothing of the code but plain data."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from consent.domain import (
    Agreement,
    ClientFacts,
    Ended,
    GatewayInvoked,
    Granted,
    Item,
    OverrideAuthorised,
    Policy,
    Question,
    Recipients,
    Restricted,
    Scope,
    SharingFact,
    Terms,
    Withdrawn,
)
from contracts.vocabulary import AgencyKind, Basis, Category, RestrictionKind

PAGE = (Path(__file__).parents[3] / "docs/reference/rules.md").read_text()
ORDER = re.findall(r"^\| `([a-z-]+)`", PAGE[: PAGE.index("## 3.")], re.MULTILINE)
"""The rules as they stand on the page, from the top."""

POWERFUL = (AgencyKind.PRISON, AgencyKind.PROBATION, AgencyKind.POLICE)
PURPOSE_OF_SERVICE = {"referral": "referral", "matching": "mentor-matching", "notifications": "release-notification"}
WHO_INVOKES = {
    Basis.CDA_S115: ("prison", "probation", "police", "health", "local-authority", "vcs"),
    Basis.CJA_S325: ("prison", "probation", "police"),
    Basis.VITAL_INTERESTS: ("prison", "probation", "police", "health", "local-authority", "vcs"),
}
ONLY_ITS_OWN = (Basis.CDA_S115, Basis.VITAL_INTERESTS)
GATEWAY_ROWS = {
    row[0].strip(" `"): row[1:5]
    for row in (line.strip("|").split("|") for line in PAGE[PAGE.index("## Gateways") :].splitlines() if "| `" in line)
    if len(row) == 6
}


@dataclass(frozen=True)
class World:
    """All that a decision is made of."""

    question: Question
    facts: ClientFacts
    policy: Policy


@dataclass(frozen=True)
class Answer:
    """On what an item leaves."""

    basis: Basis
    agreement: tuple[str, int] | None = None
    consent: int | None = None
    invoked: int | None = None


def answer(world: World, item: Item) -> Answer | str:
    """What the item rests on, or the rule that withholds it."""
    if world.facts.parts:
        return _for_every_part(world, item)
    for rule, applies in _denies(world, item):
        if applies:
            return rule
    lacks = ["no-agreement"]
    for way in (_statute_in_agreement, _gateway_alone, _consent, _override):
        for found in way(world, item):
            if isinstance(found, Answer):
                return found
            lacks.append(found)
    return max(lacks, key=ORDER.index)


def excluded(world: World) -> set[str]:
    """The recipient's own ids of practitioners who must not see the client's record."""
    found: set[str] = set()
    for part in world.facts.parts:
        found |= excluded(replace(world, facts=part))
    for restriction in _restrictions(world):
        for agency, practitioner in restriction.practitioners:
            if agency == world.question.recipient.id:
                found.add(practitioner)
    return found


def _for_every_part(world: World, item: Item) -> Answer | str:
    answers = []
    for part in world.facts.parts:
        held = world.facts.held or part.held
        conflicting = world.facts.conflicting or part.conflicting
        answers.append(answer(replace(world, facts=replace(part, held=held, conflicting=conflicting)), item))
    reasons = [a for a in answers if isinstance(a, str)]
    if reasons:
        return min(reasons, key=ORDER.index)
    permits = [a for a in answers if isinstance(a, Answer)]
    on_consent = [a for a in permits if a.consent is not None]
    return max(on_consent, key=lambda a: a.consent or 0) if on_consent else permits[0]


# --- 1. what denies ---------------------------------------------------------------------------------------------------


def _denies(world: World, item: Item) -> Iterator[tuple[str, bool]]:
    question, to = world.question, world.question.recipient
    yield "held", world.facts.held
    yield "conflicting-identity", world.facts.conflicting
    is_service = to.kind == AgencyKind.SERVICE
    yield "not-its-purpose", is_service and PURPOSE_OF_SERVICE.get(to.id) != question.purpose.value
    yield "restricted", any(_reaches_item(r, world, item) for r in _restrictions(world))
    away = excluded(world)
    to_source = [a for a in _counting(world) if item.source in a.sources and _is_in_force(a, world)]
    signed = any(to.id in a.enforces for a in to_source)
    asks = question.practitioner is not None and any(_same(question.practitioner, person) for person in away)
    yield "exclusion-not-enforced", bool(away) and (asks or not signed)
    day = question.spent.get(item.source)
    london = question.at + timedelta(hours=1)  # the worlds are all in summer
    spent = item.category == Category.OFFENCE and day is not None and london.date() >= day
    yield "spent-conviction", spent and to.kind not in POWERFUL
    told = item.source in question.spent
    yield "spent-unknown", item.category == Category.OFFENCE and not told and to.kind not in POWERFUL


def _same(one: str, other: str) -> bool:
    """Whether two ids are one person's: case and the spaces around them tell nobody apart."""
    return one.strip().casefold() == other.strip().casefold()


def _restrictions(world: World) -> list[Restricted]:
    """Those that hold: neither lifted by their own agency later, nor over."""
    found = []
    for restriction in world.facts.history:
        if not isinstance(restriction, Restricted):
            continue
        lifted = False
        for later in world.facts.history:
            if isinstance(later, Ended) and later.what == "restriction" and later.version > restriction.version:
                own = later.asserted_by == restriction.asserted_by and later.id == restriction.id
                lifted = lifted or own
        over = restriction.until is not None and world.question.at >= restriction.until
        if not lifted and not over:
            found.append(restriction)
    return found


def _reaches_item(restriction: Restricted, world: World, item: Item) -> bool:
    if restriction.kind == RestrictionKind.PRACTITIONER_EXCLUSION or world.question.recipient.id in restriction.allowed:
        return False
    if world.question.service is None and restriction.scope.recipients is not None:
        for agency, service in restriction.scope.recipients.services:
            about_it = replace(world, question=replace(world.question, service=service))
            if agency == world.question.recipient.id and _in_scope(restriction.scope, about_it, item):
                return True  # it cannot be told not to be about that service
    return _in_scope(restriction.scope, world, item)


def _in_scope(scope: Scope, world: World, item: Item) -> bool:
    return (
        (scope.recipients is None or _listed(scope.recipients, world))
        and (scope.purposes is None or world.question.purpose in scope.purposes)
        and (scope.categories is None or item.category in scope.categories)
    )


# --- agreements -------------------------------------------------------------------------------------------------------


def _counting(world: World) -> list[Agreement]:
    """Of each agreement the version that counts, in the order of ids."""
    found = []
    for id in sorted({a.id for a in world.policy.agreements}):
        versions = sorted((a for a in world.policy.agreements if a.id == id), key=lambda a: a.version)
        begun = [a for a in versions if a.starts <= world.question.at]
        found.append(begun[-1] if begun else versions[0])
    return found


def _lack(agreement: Agreement, world: World) -> str | None:
    at = world.question.at
    if at < agreement.starts or at >= agreement.ends:
        return "agreement-not-in-force"
    if agreement.suspended_from is not None and at >= agreement.suspended_from:
        return "agreement-suspended"
    return None


def _is_in_force(agreement: Agreement, world: World) -> bool:
    return _lack(agreement, world) is None


def _between(world: World, item: Item) -> list[Agreement]:
    """That let the item's source tell the recipient something for the purpose."""
    return [
        a
        for a in _counting(world)
        if item.source in a.sources
        and world.question.recipient.id in a.recipients
        and world.question.purpose in a.terms
    ]


# --- 3. ways to a permit ----------------------------------------------------------------------------------------------


def _statute_in_agreement(world: World, item: Item) -> Iterator[Answer | str]:
    for agreement in _between(world, item):
        terms = agreement.terms[world.question.purpose]
        lack = _lack(agreement, world)
        if not _is_asked_for_or_subscribed(terms, world):
            yield "not-subscribed"
        elif lack is not None:
            yield lack
        elif item.category not in terms.categories:
            yield "agreement-category"
        elif terms.basis != Basis.CONSENT:
            signed = (agreement.id, agreement.version)
            invoked = [
                said
                for said in _invoked(world, item)
                if said.basis == terms.basis and (said.asserted_by != world.question.recipient.id or terms.own_word)
            ]
            if not _gateway_reaches(terms.basis, world, item):
                yield "gateway-does-not-reach"
            elif terms.basis not in WHO_INVOKES:
                yield Answer(terms.basis, signed)
            elif invoked:
                yield Answer(terms.basis, signed, invoked=invoked[0].version)
            else:
                yield "gateway-does-not-reach"


def _is_asked_for_or_subscribed(terms: Terms, world: World) -> bool:
    """Who invokes a gateway asks, too."""
    invoked = terms.basis in WHO_INVOKES and terms.basis in world.policy.gateways
    return world.question.asked or terms.subscription or invoked


def _gateway_reaches(basis: Basis, world: World, item: Item) -> bool:
    if basis not in world.policy.gateways or basis.value not in GATEWAY_ROWS or item.source not in world.policy.kinds:
        return False
    sources, recipients, purposes, categories = GATEWAY_ROWS[basis.value]
    return (
        _lists(sources, world.policy.kinds[item.source].value)
        and _lists(recipients, world.question.recipient.kind.value)
        and _lists(purposes, world.question.purpose.value)
        and _lists(categories, item.category.value)
    )


def _lists(cell: str, term: str) -> bool:
    if cell.strip() == "every agency":
        return term != "service"
    return cell.strip() == "all" or f"`{term}`" in cell


def _invoked(world: World, item: Item) -> list[GatewayInvoked]:
    """Gateways that were invoked for this client, by who may, and reach this item now."""
    found = []
    for said in world.facts.history:
        if isinstance(said, GatewayInvoked) and _is_for(said, world, item) and not _has_ended("gateway", said, world):
            kind = world.policy.kinds.get(said.asserted_by)
            who = kind is not None and kind.value in WHO_INVOKES.get(said.basis, ())
            own = said.asserted_by == item.source or said.basis not in ONLY_ITS_OWN
            if who and own and _gateway_reaches(said.basis, world, item):
                found.append(said)
    return found


def _is_for(said: GatewayInvoked | OverrideAuthorised, world: World, item: Item) -> bool:
    return (
        world.question.recipient.id in said.recipients
        and world.question.purpose in said.purposes
        and item.category in said.categories
        and world.question.at >= said.starts
        and world.question.at < said.ends
        and not (said.once and _is_another_disclosure(said, world))
    )


def _is_another_disclosure(said: GatewayInvoked | OverrideAuthorised, world: World) -> bool:
    return not world.question.asked and said.version not in world.question.once


def _has_ended(what: str, said: GatewayInvoked | OverrideAuthorised, world: World) -> bool:
    ends = [fact for fact in world.facts.history if isinstance(fact, Ended) and fact.what == what]
    return any(end.id == said.id and end.asserted_by == said.asserted_by for end in ends)


def _gateway_alone(world: World, item: Item) -> Iterator[Answer | str]:
    for said in _invoked(world, item):
        if said.asserted_by == world.question.recipient.id:
            yield "own-word"
        else:
            yield Answer(said.basis, invoked=said.version)


def _override(world: World, item: Item) -> Iterator[Answer | str]:
    for said in world.facts.history:
        if isinstance(said, OverrideAuthorised) and _is_for(said, world, item):
            if _has_ended("override", said, world) or world.policy.kinds.get(said.asserted_by) not in POWERFUL:
                continue
            if said.asserted_by == world.question.recipient.id:
                yield "own-word"
            else:
                yield Answer(Basis.OVERRIDE, invoked=said.version)


def _consent(world: World, item: Item) -> Iterator[Answer | str]:
    for agreement in _between(world, item):
        terms = agreement.terms[world.question.purpose]
        if not _is_in_force(agreement, world) or item.category not in terms.categories:
            continue
        if not _is_asked_for_or_subscribed(terms, world):
            continue
        if terms.basis == Basis.CONSENT:
            yield "no-consent"
            good = []
            for grant in world.facts.history:
                if isinstance(grant, Granted) and _names(grant, world, item):
                    wrong = _wrong(grant, terms.own_word, world, item)
                    yield from wrong
                    if not wrong:
                        good.append(grant.version)
            if good:
                yield Answer(Basis.CONSENT, (agreement.id, agreement.version), max(good))


def _names(grant: Granted, world: World, item: Item) -> bool:
    to = world.question.recipient
    named = to.kind == AgencyKind.SERVICE or _listed(grant.recipients, world)
    return named and world.question.purpose in grant.purposes and item.category in grant.categories


def _listed(recipients: Recipients, world: World) -> bool:
    to = world.question.recipient
    found = to.id in recipients.agencies
    for kind, area in recipients.kinds:
        found = found or (to.kind == kind and to.area == area)
    for agency, service in recipients.services:
        found = found or (to.id == agency and world.question.service == service)
    return found


def _wrong(grant: Granted, own_word: bool, world: World, item: Item) -> list[str]:
    """All that is wrong with a consent; the last of the table is the reason that is told."""
    at, wrong = world.question.at, []
    if grant.valid_from is not None and at < grant.valid_from:
        wrong.append("consent-not-current")
    if grant.valid_until is not None and at >= grant.valid_until:
        wrong.append("consent-not-current")
    if grant.asserted_by == world.question.recipient.id and not own_word:
        wrong.append("own-word")
    if grant.void is not None:
        wrong.append(grant.void)
    for no in world.facts.history:
        if isinstance(no, Withdrawn) and _in_scope(no.scope, world, item):
            recorded_after, said_before = no.version > grant.version, no.at < grant.given_at
            if recorded_after or not said_before:
                wrong.append("consent-refused" if no.refused else "consent-withdrawn")
    return wrong


# --- what is kept as history ------------------------------------------------------------------------------------------


def kept_as_history(given_at: datetime, said: Iterable[SharingFact], form_seen: bool) -> str | None:
    """Why a consent that arrives now opens nothing at all: a no that lists something voids by itself what it lists."""
    if form_seen:
        return "form-used-before"
    for no in said:
        if isinstance(no, Withdrawn) and no.at >= given_at:
            listed = (no.scope.recipients, no.scope.purposes, no.scope.categories)
            if listed == (None, None, None):
                return "consent-withdrawn"
    return None
