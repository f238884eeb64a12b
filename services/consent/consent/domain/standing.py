"""Who may say what, and who may share with whom without consent: two tables, each with its source."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from contracts.vocabulary import AgencyKind, Basis, Category, Purpose

_PRISON, _PROBATION, _POLICE = AgencyKind.PRISON, AgencyKind.PROBATION, AgencyKind.POLICE
_HEALTH, _COUNCIL, _VCS = AgencyKind.HEALTH, AgencyKind.LOCAL_AUTHORITY, AgencyKind.VCS

ANYONE = frozenset({_PRISON, _PROBATION, _POLICE, _HEALTH, _COUNCIL, _VCS})
STATUTORY = ANYONE - {_VCS}
RESPONSIBLE = frozenset({_PRISON, _PROBATION, _POLICE})
"""The responsible authority for MAPPA: Criminal Justice Act 2003 s.325(1)."""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A lawful basis other than consent: who may share with whom, for what, in which direction."""

    law: str
    sources: frozenset[AgencyKind]
    recipients: frozenset[AgencyKind]
    purposes: frozenset[Purpose]
    invoked_by: frozenset[AgencyKind] = frozenset()
    """Who may rely on it for one client. Empty: it counts in an agreement's terms, or not at all."""
    own_only: bool = True
    """Whether the agency that invokes it can only let out what it recorded itself."""
    categories: frozenset[Category] = frozenset(Category)


GATEWAYS: Mapping[Basis, Gateway] = {
    Basis.OMA_S14: Gateway(
        "Offender Management Act 2007 s.14: between the bodies that it applies to, for probation and prison purposes;"
        " narrower than the section, which also reaches police, councils and contractors; an uncontracted charity is"
        " not evidently within it",
        frozenset({_PRISON, _PROBATION}),
        frozenset({_PRISON, _PROBATION}),
        frozenset({Purpose.REFERRAL, Purpose.MENTOR_MATCHING, Purpose.RELEASE_NOTIFICATION}),
    ),
    Basis.CDA_S115: Gateway(
        "Crime and Disorder Act 1998 s.115: a power of any person, no duty, to disclose to a relevant authority what"
        " is necessary or expedient for a purpose of the act",
        ANYONE,
        frozenset({_PROBATION, _POLICE, _HEALTH, _COUNCIL}),
        frozenset({Purpose.PUBLIC_PROTECTION}),
        invoked_by=ANYONE,
    ),
    Basis.CJA_S325: Gateway(
        "Criminal Justice Act 2003 s.325(3), (4): the duty to co-operate under MAPPA, which may include exchange of"
        " information, for a client managed under it; narrower than s.325(4A), which reaches whomever the responsible"
        " authority brings in",
        STATUTORY,
        STATUTORY,
        frozenset({Purpose.PUBLIC_PROTECTION, Purpose.RELEASE_NOTIFICATION}),
        invoked_by=RESPONSIBLE,
        own_only=False,
    ),
    Basis.VITAL_INTERESTS: Gateway(
        "a life: UK GDPR article 6(1)(d); health by article 9(2)(c), and what is criminal offence data by Data"
        " Protection Act 2018 schedule 1 paragraph 30, only of a client who cannot consent; safeguarding: schedule 1"
        " paragraph 18",
        ANYONE,
        STATUTORY,
        frozenset({Purpose.PUBLIC_PROTECTION}),
        invoked_by=ANYONE,
        categories=frozenset(
            {Category.IDENTITY, Category.CONTACT, Category.CUSTODY_AND_RELEASE, Category.RISK, Category.HEALTH}
        ),
    ),
}
"""Each gateway reaches these and nobody else. Changing a line here changes what leaves: `throughgate replay` first."""

ASSERTS: Mapping[str, frozenset[AgencyKind]] = {
    "throughgate.client.recorded.v1": ANYONE,
    "throughgate.consent.granted.v1": ANYONE,
    "throughgate.consent.refused.v1": ANYONE,
    "throughgate.consent.withdrawn.v1": ANYONE,
    "throughgate.restriction.imposed.v1": ANYONE,
    "throughgate.restriction.lifted.v1": ANYONE,
    "throughgate.gateway.invoked.v1": ANYONE,
    "throughgate.gateway.ended.v1": ANYONE,
    "throughgate.override.authorised.v1": RESPONSIBLE,
    "throughgate.override.ended.v1": RESPONSIBLE,
    "throughgate.override.reviewed.v1": RESPONSIBLE,
    "throughgate.identity.linked.v1": RESPONSIBLE,
    "throughgate.identity.unlinked.v1": RESPONSIBLE,
    "throughgate.retraction.confirmed.v1": ANYONE,
    "throughgate.erasure.requested.v1": ANYONE,
    "throughgate.referral.answered.v1": ANYONE,
    "throughgate.mentoring.offer-answered.v1": ANYONE,
}
"""Which kind of agency may assert which fact; what is not here, nobody may. Whatever only stops sharing is open to all:
a client may say no to anyone. Who may invoke which gateway stands in `GATEWAYS`; what an agency imposed, invoked or
authorised, only that agency lifts or ends."""


def may_assert(type: str, kind: AgencyKind, basis: Basis | None = None) -> bool:
    """Whether an agency of this kind may publish this; `basis` is that of a gateway which it invokes."""
    if kind not in ASSERTS.get(type, frozenset()):
        return False
    return basis is None or (basis in GATEWAYS and kind in GATEWAYS[basis].invoked_by)


def unreached(
    basis: Basis, recipients: Iterable[AgencyKind], purposes: Iterable[Purpose], categories: Iterable[Category]
) -> list[str]:
    """Which of these three a gateway does not reach in full: in what it does not reach it opens nothing."""
    reach = GATEWAYS[basis]
    reached = {
        "recipients": reach.recipients.issuperset(recipients),
        "purposes": reach.purposes.issuperset(purposes),
        "categories": reach.categories.issuperset(categories),
    }
    return [name for name, is_reached in reached.items() if not is_reached]
