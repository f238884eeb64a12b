"""What a case system publishes to `intake.<agency>` or posts to `/events`."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Discriminator, Field, StringConstraints, TypeAdapter, model_validator

from contracts.facts import Facts, Short
from contracts.vocabulary import AgencyId, AgencyKind, Area, Category, IdentifierType, Purpose
from servicekit.envelope import Event, Moment, StrictWire

PATTERNS = {
    IdentifierType.NOMS: r"[A-Z][0-9]{4}[A-Z]{2}",
    IdentifierType.CRN: r"[A-Z][0-9]{6}",
    IdentifierType.PNC: r"[0-9]{4}/[0-9]{7}[A-Z]",
    IdentifierType.CRO: r"[0-9]{1,6}/[0-9]{2}[A-Z]",
    IdentifierType.NHS: r"[0-9]{10}",
    IdentifierType.CASE: r"[A-Za-z0-9/_-]{1,64}",
    IdentifierType.THROUGHGATE: r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
"""The shape of each identifier: a value that does not fit is refused at the edge.

`[0-9]` and not `\\d`, which takes the digits of every script: the same number could be written twice.
"""


class _Identifier(StrictWire):
    value: str


class Noms(_Identifier):
    """Prison number, such as A1234BC."""

    type: Literal[IdentifierType.NOMS]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.NOMS]}$")]


class Crn(_Identifier):
    """Probation case reference number, such as X123456."""

    type: Literal[IdentifierType.CRN]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.CRN]}$")]


class Pnc(_Identifier):
    """Police National Computer id, such as 2004/0712343H."""

    type: Literal[IdentifierType.PNC]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.PNC]}$")]


class Cro(_Identifier):
    """Criminal Records Office number."""

    type: Literal[IdentifierType.CRO]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.CRO]}$")]


class Nhs(_Identifier):
    """NHS number, ten digits."""

    type: Literal[IdentifierType.NHS]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.NHS]}$")]


class Case(_Identifier):
    """The publishing agency's own case number: it means that client to that agency only."""

    type: Literal[IdentifierType.CASE]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.CASE]}$")]


class Reference(_Identifier):
    """The door's reference for the client at this agency (the `subject` of what it received)."""

    type: Literal[IdentifierType.THROUGHGATE]
    value: Annotated[str, StringConstraints(pattern=f"^{PATTERNS[IdentifierType.THROUGHGATE]}$")]


Identifier = Annotated[Noms | Crn | Pnc | Cro | Nhs | Case | Reference, Discriminator("type")]


class AboutClient(StrictWire):
    """What every intake event carries: the numbers by which its publisher knows the client."""

    identifiers: Annotated[list[Identifier], Field(min_length=1, max_length=10)]


class ClientRecordedData(AboutClient):
    """Facts that an agency recorded. A category that is there replaces what this agency said of it before."""

    facts: Facts

    @model_validator(mode="after")
    def _says_something(self) -> "ClientRecordedData":
        if all(getattr(self.facts, name) is None for name in Facts.model_fields):
            raise ValueError("facts must hold at least one category")
        return self


class ConsentRecipient(StrictWire):
    """Who the client agrees may be told: one agency, or every agency of a kind in an area."""

    agency: AgencyId | None = None
    kind: AgencyKind | None = None
    area: Area | None = None

    @model_validator(mode="after")
    def _names_someone(self) -> "ConsentRecipient":
        named = (self.agency is not None, self.kind is not None, self.area is not None)
        if named not in ((True, False, False), (False, True, True)):
            raise ValueError("a recipient is an agency, or a kind together with an area")
        return self


class HowGiven(StrictWire):
    """How consent was given, so that it can be shown to be informed."""

    form_version: Short
    language: Short = "en"
    witness_role: Short | None = None
    interpreter: bool = False
    capacity: Literal["assumed", "assessed"] = "assumed"


class ConsentGrantedData(AboutClient):
    """The client agreed, for named recipients, purposes and categories; what is not named is not agreed."""

    form: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    """The number of the signed form, unique within the agency: a form opens a permit once."""
    recipients: Annotated[list[ConsentRecipient], Field(min_length=1, max_length=50)]
    purposes: Annotated[list[Purpose], Field(min_length=1)]
    categories: Annotated[list[Category], Field(min_length=1)]
    given_at: Moment
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    how: HowGiven

    @model_validator(mode="after")
    def _is_ever_valid(self) -> "ConsentGrantedData":
        if self.valid_until is not None and self.valid_until <= (self.valid_from or self.given_at):
            raise ValueError("validUntil must lie after validFrom, or after givenAt where validFrom is not said")
        return self


class ConsentWithdrawnData(AboutClient):
    """The client withdrew. `scope` must be said; a withdrawal that cannot be read denies everything."""

    withdrawn_at: Moment
    scope: Literal["everything", "listed"]
    purposes: list[Purpose] = []
    recipients: list[AgencyId] = []

    @model_validator(mode="after")
    def _scope_is_said(self) -> "ConsentWithdrawnData":
        if (self.scope == "listed") != bool(self.purposes or self.recipients):
            raise ValueError("scope 'listed' names purposes or recipients; scope 'everything' names none")
        return self


class ReferralAnsweredData(AboutClient):
    """A provider's answer to a referral that it was sent."""

    referral: UUID
    answer: Literal["accepted", "declined"]
    reason: Literal["full", "ineligible", "duplicate-or-mistaken", "moved-area", "other"] | None = None


class OfferAnsweredData(AboutClient):
    """A mentoring scheme's answer to the offer of a mentor, for mentor and client both."""

    offer: UUID
    answer: Literal["accepted", "declined"]
    reason: Literal["mentor-unavailable", "client-declined", "conflict-of-interest", "other"] | None = None


class ClientRecorded(Event[ClientRecordedData]):
    """`throughgate.client.recorded.v1`: facts about a client that an agency recorded."""

    type: Literal["throughgate.client.recorded.v1"]


class ConsentGranted(Event[ConsentGrantedData]):
    """`throughgate.consent.granted.v1`: the client agreed to named recipients, purposes and categories."""

    type: Literal["throughgate.consent.granted.v1"]


class ConsentWithdrawn(Event[ConsentWithdrawnData]):
    """`throughgate.consent.withdrawn.v1`: the client withdrew; what rests on it stops at once."""

    type: Literal["throughgate.consent.withdrawn.v1"]


class ReferralAnswered(Event[ReferralAnsweredData]):
    """`throughgate.referral.answered.v1`: a provider accepts or declines a referral."""

    type: Literal["throughgate.referral.answered.v1"]


class OfferAnswered(Event[OfferAnsweredData]):
    """`throughgate.mentoring.offer-answered.v1`: a scheme accepts or declines a mentor."""

    type: Literal["throughgate.mentoring.offer-answered.v1"]


IntakeEvent = ClientRecorded | ConsentGranted | ConsentWithdrawn | ReferralAnswered | OfferAnswered
INTAKE: TypeAdapter[IntakeEvent] = TypeAdapter(Annotated[IntakeEvent, Discriminator("type")])
"""The intake events; read them with `read`, for on its own it takes more than the schema files do."""


def read(event: bytes) -> IntakeEvent:
    """One intake event from its bytes, in one pass: exactly what the schema files describe.

    No number for a text or a time, no field under its Python name.

    Raises:
        ValidationError: tell it with `servicekit.problems.where` only; its own messages quote what was sent.
    """
    return INTAKE.validate_json(event, strict=True, by_alias=True, by_name=False)


STOPPING_TYPES = frozenset({"throughgate.consent.withdrawn.v1"})
"""Events that stop sharing: one that cannot be applied denies all the same."""

PASSED_ON = {
    "throughgate.referral.answered.v1": "referral",
    "throughgate.mentoring.offer-answered.v1": "matching",
}
"""Answers that the door passes on, by a decision like everything else, and the service that waits."""
