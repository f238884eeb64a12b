"""The ways to a permit: each says of an item what it rests on, or the rule by which this way withholds it.

They are the third part of docs/reference/rules.md; `rules` finds those of a question and takes them in their order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from consent.domain.facts import Agreement, Granted, Terms, Withdrawn
from consent.domain.question import Item, Permit
from consent.domain.standing import Gateway
from consent.domain.table import RANK
from contracts.vocabulary import Basis, Category

_CONSENT = Basis.CONSENT
"""Named once: an enumeration is slow to give out its members."""


class Consents:
    """The client's consents that name this recipient and purpose: which categories are open by them, and which void.

    A consent is void once a no that reaches it was recorded after it or was said after it was given: whichever order
    the two arrived in, the client said no.
    """

    __slots__ = ("_open", "_void")

    def __init__(self, grants: Sequence[Granted], noes: list[Withdrawn], not_from: str | None, at: datetime) -> None:
        """`grants`: oldest first. `not_from`: the agency whose own word does not count; None: everybody's does."""
        self._open: list[tuple[frozenset[Category], Granted]] = []
        self._void: list[tuple[frozenset[Category], str]] = []
        noes = sorted(noes, key=lambda no: not no.refused)  # the reason told is the last of the table
        for grant in reversed(grants):  # from the end of the table upwards: what the client said outweighs dates
            left = grant.categories
            for no in noes:
                if no.version > grant.version or no.at >= grant.given_at:
                    reached = left if no.scope.categories is None else left & no.scope.categories
                    self._void.append((reached, "consent-refused" if no.refused else "consent-withdrawn"))
                    left -= reached
                    if not left:
                        break
            if not left:
                continue
            if grant.void is not None:
                self._void.append((left, grant.void))
            elif grant.asserted_by == not_from:
                self._void.append((left, "own-word"))
            elif (grant.valid_from and at < grant.valid_from) or (grant.valid_until and at >= grant.valid_until):
                self._void.append((left, "consent-not-current"))
            else:
                self._open.append((left, grant))
        self._void.sort(key=lambda void: RANK[void[1]], reverse=True)

    def of(self, category: Category) -> Granted | str:
        """The newest consent that opens the category, or the rule of the one that got furthest."""
        for categories, grant in self._open:
            if category in categories:
                return grant
        for categories, rule in self._void:
            if category in categories:
                return rule
        return "no-consent"


@dataclass(slots=True, eq=False)
class Invoked:
    """2 and 4. A gateway or an override invoked for this client, by another than the recipient."""

    version: int
    basis: Basis
    categories: frozenset[Category]
    is_own: bool
    """Whether it was the recipient."""

    def permit(self, item: Item) -> Permit | str:
        """A permit, or what is missing for one."""
        if item.category not in self.categories:
            return "no-agreement"  # the first lack of all: this way says nothing of the item
        return "own-word" if self.is_own else Permit(item, self.basis, invoked=self.version)


@dataclass(slots=True, eq=False)
class GatewayInAgreement:
    """1. A gateway in an agreement in force. One that has to be invoked must have been, for this client."""

    agreement: Agreement
    terms: Terms
    gateway: Gateway | None
    """None: it does not reach the source, the recipient or the purpose."""
    invoked: Sequence[Invoked]

    def permit(self, item: Item) -> Permit | str:
        """A permit, or what is missing for one."""
        agreement, terms, gateway, category = self.agreement, self.terms, self.gateway, item.category
        if category not in terms.categories:
            return "agreement-category"
        if gateway is None or category not in gateway.categories:
            return "gateway-does-not-reach"
        if not gateway.invoked_by:
            return Permit(item, terms.basis, agreement.id, agreement.version)
        for said in self.invoked:
            if said.basis is terms.basis and category in said.categories and (terms.own_word or not said.is_own):
                return Permit(item, terms.basis, agreement.id, agreement.version, invoked=said.version)
        return "gateway-does-not-reach"


@dataclass(slots=True, eq=False)
class AgreementOnConsent:
    """3. An agreement on consent in force, and the client's consent."""

    agreement: Agreement
    categories: frozenset[Category]
    consents: Consents

    def permit(self, item: Item) -> Permit | str:
        """A permit, or what is missing for one."""
        category = item.category
        if category not in self.categories:
            return "agreement-category"
        consent = self.consents.of(category)
        if isinstance(consent, str):
            return consent
        return Permit(item, _CONSENT, self.agreement.id, self.agreement.version, consent.version)


Way = GatewayInAgreement | Invoked | AgreementOnConsent
