"""The field's own terms, each listed once (see docs/reference/vocabulary.md for their sources)."""

from enum import StrEnum
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, StringConstraints, WithJsonSchema

LONDON = ZoneInfo("Europe/London")
"""Whose days count, in the law, on forms and in plans; what is stored is UTC."""


class AgencyKind(StrEnum):
    """What kind of organisation takes part; `SERVICE` is one of Throughgate's own three services."""

    PRISON = "prison"
    PROBATION = "probation"
    POLICE = "police"
    HEALTH = "health"
    LOCAL_AUTHORITY = "local-authority"
    VCS = "vcs"
    SERVICE = "service"


class Purpose(StrEnum):
    """Why a record leaves. Each of our three services acts for exactly one purpose; none acts for public protection."""

    REFERRAL = "referral"
    MENTOR_MATCHING = "mentor-matching"
    RELEASE_NOTIFICATION = "release-notification"
    PUBLIC_PROTECTION = "public-protection"


class Basis(StrEnum):
    """The lawful basis on which something leaves.

    `CONSENT` needs an agreement and the client's consent. A statutory gateway stands in an agreement or is invoked for
    one client; whom each reaches stands in the door's table of gateways. `OVERRIDE` is a public-protection override.
    """

    CONSENT = "consent"
    OMA_S14 = "oma-2007-s14"
    CDA_S115 = "cda-1998-s115"
    CJA_S325 = "cja-2003-s325"
    VITAL_INTERESTS = "vital-interests"
    OVERRIDE = "public-protection-override"


class RestrictionKind(StrEnum):
    """What a restriction does. It beats every permit."""

    LIMITED_ACCESS = "limited-access"
    """Nobody but the agencies that it allows."""
    EXCLUSION = "exclusion"
    """These agencies never."""
    PRACTITIONER_EXCLUSION = "practitioner-exclusion"
    """These people at these agencies never; their agency must have signed to see to it."""
    VICTIM_SAFETY = "victim-safety"
    """For the safety of a victim or witness: what it names goes to nobody whom it names."""
    NEVER_LOCATION = "never-location"
    """These agencies are never told where the client is: neither contact nor custody and release."""


class Category(StrEnum):
    """The category of every data field: the unit in which records are cut before they leave."""

    IDENTITY = "identity"
    CONTACT = "contact"
    CUSTODY_AND_RELEASE = "custody-and-release"
    NEEDS_ACCOMMODATION = "needs.accommodation"
    NEEDS_ETE = "needs.education-training-employment"
    NEEDS_HEALTH = "needs.health"
    NEEDS_DRUGS_ALCOHOL = "needs.drugs-alcohol"
    NEEDS_FINANCE = "needs.finance-benefit-debt"
    NEEDS_FAMILIES = "needs.children-families"
    NEEDS_ATTITUDES = "needs.attitudes-thinking-behaviour"
    NEEDS_ABUSE = "needs.abuse"
    NEEDS_SEX_WORK = "needs.sex-work"
    RISK = "risk"
    OFFENCE = "offence"
    HEALTH = "health"
    FAMILY = "family"
    EQUALITY = "equality"


LOCATION = frozenset({Category.CONTACT, Category.CUSTODY_AND_RELEASE})
"""The categories that tell where the client is or will be."""

NEEDS = tuple(c for c in Category if c.value.startswith("needs."))
"""The categories that are a pathway's need: seven pathways and the two more that are used for women."""


def _need(category: Category) -> Category:
    if category not in NEEDS:
        raise ValueError("not a pathway")
    return category


Pathway = Annotated[Category, AfterValidator(_need)]
"""A category that is a pathway's need."""


class IdentifierType(StrEnum):
    """By which numbering a client is known; `THROUGHGATE` is the reference that the door gave the agency."""

    NOMS = "NOMS"
    CRN = "CRN"
    PNC = "PNC"
    CRO = "CRO"
    NHS = "NHS"
    CASE = "CASE"
    THROUGHGATE = "THROUGHGATE"


SERVICE_PURPOSES = {
    "referral": Purpose.REFERRAL,
    "matching": Purpose.MENTOR_MATCHING,
    "notifications": Purpose.RELEASE_NOTIFICATION,
}
"""Our own services, which are recipients like any other, and the one purpose that each acts for."""

SERVICES = ("consent", *SERVICE_PURPOSES)
"""All that there are: the door, and those that it clears records for."""


def _our_own(service: str) -> str:
    if service not in SERVICE_PURPOSES:
        raise ValueError("not one of our services")
    return service


Service = Annotated[str, AfterValidator(_our_own), WithJsonSchema({"type": "string", "enum": [*SERVICE_PURPOSES]})]
"""One of our services that the door clears records for."""

AgencyId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,40}$")]
"""An agency's id: part of its topic names, so lower-case letters, digits and hyphens."""

RESERVED_IDS = frozenset(
    {
        *SERVICES,
        *("throughgate", "operator"),
        *("consent-intake", "consent-discloser", "admin", "broker", "controller", "anonymous", "postgres"),
    }
)
"""What no agency may be called: our services, those in whose name the door and the operator say no, and users of Kafka
and PostgreSQL."""

Area = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,40}$")]
"""An area in which an agency works, such as `leeds`."""
