"""What a case system publishes to `intake.<agency>` or posts to `/events`."""

from datetime import timedelta
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Discriminator, Field, StringConstraints, TypeAdapter, model_validator

from contracts.facts import Facts, Short, Text
from contracts.fields import FieldKind
from contracts.vocabulary import (
    AgencyId,
    AgencyKind,
    Area,
    Basis,
    Category,
    IdentifierType,
    Purpose,
    RestrictionKind,
)
from servicekit.envelope import PRACTITIONER, Event, Moment, StrictWire, Unfit

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
    holds: ClassVar = FieldKind.IDENTIFIER

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

    identifiers: Annotated[list[Identifier], Field(min_length=1, max_length=10), FieldKind.IDENTIFIER]


class ClientRecordedData(AboutClient):
    """Facts that an agency recorded. A category that is there replaces what this agency said of it before."""

    facts: Annotated[Facts, FieldKind.PARTS]

    @model_validator(mode="after")
    def _says_something(self) -> "ClientRecordedData":
        if all(getattr(self.facts, name) is None for name in Facts.model_fields):
            raise Unfit("facts must hold at least one category")
        return self


class Recipient(StrictWire):
    """Whom a consent, a no or a restriction names: one agency, one named service of it, or every agency of a kind in an
    area, also one that comes to it later.
    """

    holds: ClassVar = FieldKind.SHARING

    agency: AgencyId | None = None
    service: Short | None = None
    """With `agency`: only what is about this service that it offers, such as one hostel."""
    kind: (
        Literal[
            AgencyKind.PRISON,
            AgencyKind.PROBATION,
            AgencyKind.POLICE,
            AgencyKind.HEALTH,
            AgencyKind.LOCAL_AUTHORITY,
            AgencyKind.VCS,
        ]
        | None
    ) = None
    """Any but `service`: nobody can register as one, so that a stop which names it would stop nothing."""
    area: Area | None = None

    @model_validator(mode="after")
    def _names_someone(self) -> "Recipient":
        named = (self.agency is not None, self.kind is not None, self.area is not None)
        if named not in ((True, False, False), (False, True, True)) or (self.service and not self.agency):
            raise Unfit("a recipient is an agency, an agency and its service, or a kind together with an area")
        return self


Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]
"""A language as BCP 47 writes it: `en`, `cy`, `pl`, `bfi` for British Sign Language."""


class HowGiven(StrictWire):
    """How consent was given, so that it can be shown to be informed. What is not said was not recorded."""

    holds: ClassVar = FieldKind.ADMINISTRATIVE

    form_version: Short
    language: Annotated[Language | None, Category.EQUALITY] = None
    """The language in which it was explained to the client."""
    interpreter: Annotated[bool | None, Category.EQUALITY] = None
    """Whether through an interpreter."""
    witness_role: Short | None = None
    """The role of the person who saw it given, never a name."""
    capacity: Annotated[Literal["assumed", "assessed"], Category.HEALTH] = "assumed"
    """Capacity is assumed until its lack is established (Mental Capacity Act 2005 s.1(2)), or was assessed."""
    capacity_assessed_by: Short | None = None
    """The role of who assessed it, never a name."""

    @model_validator(mode="after")
    def _says_who_assessed(self) -> "HowGiven":
        if (self.capacity == "assessed") != (self.capacity_assessed_by is not None):
            raise Unfit("capacityAssessedBy, a role, is there where capacity is 'assessed', and only there")
        return self


class ConsentGrantedData(AboutClient):
    """The client agreed, for named recipients, purposes and categories; what is not named is not agreed."""

    holds: ClassVar = FieldKind.SHARING

    form: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$"), FieldKind.REFERENCE]
    """The number of the signed form, unique within the agency: a form opens a permit once."""
    recipients: Annotated[list[Recipient], Field(min_length=1, max_length=50)]
    purposes: Annotated[list[Purpose], Field(min_length=1)]
    categories: Annotated[list[Category], Field(min_length=1)]
    given_at: Moment
    valid_from: Moment | None = None
    valid_until: Moment | None = None
    how: Annotated[HowGiven, FieldKind.PARTS]

    @model_validator(mode="after")
    def _is_ever_valid(self) -> "ConsentGrantedData":
        if self.valid_until is not None and self.valid_until <= (self.valid_from or self.given_at):
            raise Unfit("validUntil must lie after validFrom, or after givenAt where validFrom is not said")
        return self


class _No(AboutClient):
    holds: ClassVar = FieldKind.SHARING

    scope: Literal["everything", "listed"]
    """Must be said: what cannot be read denies everything. Of what is listed, each list that is empty means all."""
    purposes: list[Purpose] = []
    recipients: list[Recipient] = []
    categories: list[Category] = []

    @model_validator(mode="after")
    def _scope_is_said(self) -> "_No":
        if (self.scope == "listed") != bool(self.purposes or self.recipients or self.categories):
            raise Unfit("scope 'listed' names purposes, recipients or categories; scope 'everything' names none")
        return self


class ConsentWithdrawnData(_No):
    """The client withdrew; a withdrawal that lists something narrows what was given."""

    withdrawn_at: Moment


class ConsentRefusedData(_No):
    """The client was asked and said no. It stops what was given before, like a withdrawal."""

    refused_at: Moment


OwnId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
"""The publishing agency's own id of a restriction, gateway or override, used once; it must not name the client."""


class Practitioner(StrictWire):
    """A person at an agency, by that agency's own id."""

    holds: ClassVar = FieldKind.SHARING

    agency: AgencyId
    practitioner: Annotated[str, StringConstraints(pattern=PRACTITIONER), FieldKind.REFERENCE]


class RestrictionImposedData(AboutClient):
    """Something must not be shared, whatever permits it. An empty list of recipients, purposes or categories is all."""

    holds: ClassVar = FieldKind.SHARING

    restriction: Annotated[OwnId, FieldKind.REFERENCE]
    kind: RestrictionKind
    recipients: list[Recipient] = []
    allowed: list[AgencyId] = []
    """For `limited-access`: the only recipients that it does not reach."""
    practitioners: Annotated[list[Practitioner], FieldKind.PARTS] = []
    """For `practitioner-exclusion`."""
    purposes: list[Purpose] = []
    categories: list[Category] = []
    until: Moment | None = None
    reason: Annotated[Text | None, FieldKind.KEPT] = None
    """Kept by the door and given to nobody."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "RestrictionImposedData":
        named = (bool(self.recipients), bool(self.allowed), bool(self.practitioners))
        fits = {
            RestrictionKind.LIMITED_ACCESS: named in ((False, False, False), (False, True, False)),
            RestrictionKind.EXCLUSION: named == (True, False, False),
            RestrictionKind.PRACTITIONER_EXCLUSION: named == (False, False, True)
            and not (self.purposes or self.categories),
            RestrictionKind.VICTIM_SAFETY: not named[1] and not named[2],
            RestrictionKind.NEVER_LOCATION: named == (True, False, False) and not self.categories,
        }[self.kind]
        if not fits:
            raise Unfit(
                "limited-access may list allowed; exclusion and never-location list recipients;"
                " practitioner-exclusion lists practitioners alone; never-location lists no categories"
            )
        return self


class RestrictionLiftedData(AboutClient):
    """The agency that imposed a restriction lifts it."""

    restriction: Annotated[OwnId, FieldKind.REFERENCE]


class GatewayInvokedData(AboutClient):
    """An agency relies on a statutory gateway for this client: without consent, for named recipients, for a time."""

    holds: ClassVar = FieldKind.SHARING

    gateway: Annotated[OwnId, FieldKind.REFERENCE]
    basis: Literal[Basis.CDA_S115, Basis.CJA_S325, Basis.VITAL_INTERESTS]
    recipients: Annotated[list[AgencyId], Field(min_length=1, max_length=50)]
    purposes: Annotated[list[Purpose], Field(min_length=1)]
    categories: Annotated[list[Category], Field(min_length=1)]
    starts: Moment
    ends: Moment
    once: bool = False
    """For one disclosure: the recipients get what is known when it begins, and nothing later unasked."""
    authorised_by_role: Annotated[Short, FieldKind.ADMINISTRATIVE]
    """Role, never the name, of the person who decided that it is necessary and proportionate."""
    reason: Annotated[Text, FieldKind.KEPT]

    @model_validator(mode="after")
    def _is_ever_valid(self) -> "GatewayInvokedData":
        if self.ends <= self.starts:
            raise Unfit("ends must lie after starts")
        return self


class GatewayEndedData(AboutClient):
    """The agency that invoked a gateway no longer relies on it."""

    gateway: Annotated[OwnId, FieldKind.REFERENCE]


MOST_OVERRIDDEN = 6
"""Categories that an override may name, for it must be narrow.

Who it is (`identity`), where they are and will be (`contact`, `custody-and-release`), what is feared (`risk`), what it
rests on (`offence`), and one more on which it bears, such as `health` or `family`. No emergency needs a whole record.
"""


class OverrideAuthorisedData(AboutClient):
    """A public-protection override: authorised by one, approved by another; narrow, for a time, to be reviewed."""

    holds: ClassVar = FieldKind.SHARING

    override: Annotated[OwnId, FieldKind.REFERENCE]
    recipients: Annotated[list[AgencyId], Field(min_length=1, max_length=10)]
    purposes: Annotated[list[Literal[Purpose.PUBLIC_PROTECTION]], Field(min_length=1)]
    """No other: what is taken without consent to protect the public serves nothing else, UK GDPR article 5(1)(b)."""
    categories: Annotated[list[Category], Field(min_length=1, max_length=MOST_OVERRIDDEN)]
    """Those that the danger needs, at most six: who, where, what is feared, what it rests on, and one more."""
    starts: Moment
    ends: Moment
    """At most 28 days after `starts`."""
    review_by: Moment
    """After `starts`, and at most 28 days after `ends`."""
    once: bool = False
    """As for a gateway."""
    authorised_by: Annotated[OwnId, FieldKind.REFERENCE]
    approved_by: Annotated[OwnId, FieldKind.REFERENCE]
    """Own ids of two different members of staff."""
    reason: Annotated[Text, FieldKind.KEPT]

    @model_validator(mode="after")
    def _is_narrow(self) -> "OverrideAuthorisedData":
        if self.authorised_by.casefold() == self.approved_by.casefold():  # one person, however they signed on
            raise Unfit("authorisedBy and approvedBy must be two different people")
        if not self.starts < self.ends <= self.starts + timedelta(days=28):
            raise Unfit("ends must lie after starts, by at most 28 days")
        if not self.starts < self.review_by <= self.ends + timedelta(days=28):
            raise Unfit("reviewBy must lie after starts, and at most 28 days after ends")
        return self


class OverrideEndedData(AboutClient):
    """The agency that authorised an override ends it."""

    override: Annotated[OwnId, FieldKind.REFERENCE]


class OverrideReviewedData(AboutClient):
    """The review of an override was done; until then it is listed as overdue from `reviewBy` on.

    It ends nothing: for an override that is not justified, publish `throughgate.override.ended.v1` too.
    """

    holds: ClassVar = FieldKind.SHARING

    override: Annotated[OwnId, FieldKind.REFERENCE]
    reviewed_by: Annotated[OwnId, FieldKind.REFERENCE]
    outcome: Literal["justified", "not-justified"]
    note: Annotated[Text | None, FieldKind.KEPT] = None


class IdentityLinkedData(AboutClient):
    """Two clients are one person. Each list names one of them, by numbers that are known already."""

    same_as: Annotated[list[Identifier], Field(min_length=1, max_length=10), FieldKind.IDENTIFIER]
    reason: Annotated[Text, FieldKind.KEPT]


class IdentityUnlinkedData(AboutClient):
    """What was linked is not one person. Each list names one of the two, by numbers from before the link; or the second
    those that one client got by mistake."""

    not_same_as: Annotated[list[Identifier], Field(min_length=1, max_length=10), FieldKind.IDENTIFIER]
    reason: Annotated[Text, FieldKind.KEPT]


class ErasureRequestedData(AboutClient):
    """Erase what is kept of the client: what this agency recorded, or everything."""

    holds: ClassVar = FieldKind.SHARING

    scope: Literal["own", "everything"]
    """`everything` only prison, probation and police may ask for."""
    reason: Literal["client-asked", "no-longer-needed", "recorded-in-error"]


class RetractionConfirmedData(AboutClient):
    """A partner has stopped and erased for this retraction."""

    retraction: Annotated[UUID, FieldKind.REFERENCE]


class ReferralAnsweredData(AboutClient):
    """A provider's answer to a referral that it was sent."""

    holds: ClassVar = FieldKind.COURSE

    referral: Annotated[UUID, FieldKind.REFERENCE]
    answer: Literal["accepted", "declined"]
    reason: Literal["full", "ineligible", "duplicate-or-mistaken", "moved-area", "other"] | None = None


class OfferAnsweredData(AboutClient):
    """A mentoring scheme's answer to the offer of a mentor, for mentor and client both."""

    holds: ClassVar = FieldKind.COURSE

    offer: Annotated[UUID, FieldKind.REFERENCE]
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


class ConsentRefused(Event[ConsentRefusedData]):
    """`throughgate.consent.refused.v1`: the client was asked and said no."""

    type: Literal["throughgate.consent.refused.v1"]


class RestrictionImposed(Event[RestrictionImposedData]):
    """`throughgate.restriction.imposed.v1`: something must not be shared, whatever permits it."""

    type: Literal["throughgate.restriction.imposed.v1"]

    @model_validator(mode="after")
    def _ever_stops(self) -> "RestrictionImposed":
        # against its own time, not ours: one that arrives late, or again, stopped what it could while it lasted
        if self.data.until is not None and self.data.until <= self.time:
            raise Unfit("data.until must lie after time, or the restriction stops nothing")
        return self


class RestrictionLifted(Event[RestrictionLiftedData]):
    """`throughgate.restriction.lifted.v1`: the restriction no longer holds."""

    type: Literal["throughgate.restriction.lifted.v1"]


class GatewayInvoked(Event[GatewayInvokedData]):
    """`throughgate.gateway.invoked.v1`: an agency relies on a statutory gateway for this client."""

    type: Literal["throughgate.gateway.invoked.v1"]


class GatewayEnded(Event[GatewayEndedData]):
    """`throughgate.gateway.ended.v1`: the agency no longer relies on it."""

    type: Literal["throughgate.gateway.ended.v1"]


class OverrideAuthorised(Event[OverrideAuthorisedData]):
    """`throughgate.override.authorised.v1`: a public-protection override, authorised by two people."""

    type: Literal["throughgate.override.authorised.v1"]


class OverrideEnded(Event[OverrideEndedData]):
    """`throughgate.override.ended.v1`: the override no longer permits anything."""

    type: Literal["throughgate.override.ended.v1"]


class OverrideReviewed(Event[OverrideReviewedData]):
    """`throughgate.override.reviewed.v1`: somebody looked at the override."""

    type: Literal["throughgate.override.reviewed.v1"]


class IdentityLinked(Event[IdentityLinkedData]):
    """`throughgate.identity.linked.v1`: two clients are one person; only what is permitted for both leaves."""

    type: Literal["throughgate.identity.linked.v1"]


class IdentityUnlinked(Event[IdentityUnlinkedData]):
    """`throughgate.identity.unlinked.v1`: two clients that were linked are not one person."""

    type: Literal["throughgate.identity.unlinked.v1"]


class ErasureRequested(Event[ErasureRequestedData]):
    """`throughgate.erasure.requested.v1`: erase what is kept of the client."""

    type: Literal["throughgate.erasure.requested.v1"]


class RetractionConfirmed(Event[RetractionConfirmedData]):
    """`throughgate.retraction.confirmed.v1`: a partner has stopped and erased for a retraction."""

    type: Literal["throughgate.retraction.confirmed.v1"]


class ReferralAnswered(Event[ReferralAnsweredData]):
    """`throughgate.referral.answered.v1`: a provider accepts or declines a referral."""

    type: Literal["throughgate.referral.answered.v1"]


class OfferAnswered(Event[OfferAnsweredData]):
    """`throughgate.mentoring.offer-answered.v1`: a scheme accepts or declines a mentor."""

    type: Literal["throughgate.mentoring.offer-answered.v1"]


IntakeEvent = (
    ClientRecorded
    | ConsentGranted
    | ConsentRefused
    | ConsentWithdrawn
    | RestrictionImposed
    | RestrictionLifted
    | GatewayInvoked
    | GatewayEnded
    | OverrideAuthorised
    | OverrideEnded
    | OverrideReviewed
    | IdentityLinked
    | IdentityUnlinked
    | RetractionConfirmed
    | ErasureRequested
    | ReferralAnswered
    | OfferAnswered
)
INTAKE: TypeAdapter[IntakeEvent] = TypeAdapter(Annotated[IntakeEvent, Discriminator("type")])
"""The intake events; read them with `read`, for on its own it takes more than the schema files do."""


def read(event: bytes) -> IntakeEvent:
    """One intake event from its bytes, in one pass: exactly what the schema files describe.

    No number for a text or a time, no field under its Python name.

    Raises:
        ValidationError: tell it with `servicekit.problems.where` only; its own messages quote what was sent.
    """
    return INTAKE.validate_json(event, strict=True, by_alias=True, by_name=False)


STOPPING_TYPES = frozenset(
    {
        "throughgate.consent.withdrawn.v1",
        "throughgate.consent.refused.v1",
        "throughgate.restriction.imposed.v1",
        "throughgate.gateway.ended.v1",
        "throughgate.override.ended.v1",
    }
)
"""Events that stop sharing: one that cannot be applied denies all the same."""

PASSED_ON = {
    "throughgate.referral.answered.v1": "referral",
    "throughgate.mentoring.offer-answered.v1": "matching",
}
"""Answers that the door passes on, by a decision like everything else, and the service that waits."""
