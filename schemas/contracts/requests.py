"""What our services ask of the door on `requests.<service>`."""

from typing import Annotated, ClassVar, Literal, Self
from uuid import UUID

from pydantic import BaseModel, Discriminator, Field, TypeAdapter, model_validator

from contracts.fields import FieldKind, told_by
from contracts.leaving import OfferMessage, ReferralSentMessage, StepMessage
from contracts.vocabulary import AgencyId, Category
from servicekit.envelope import Event, Unfit, Wire


class _Request(Wire):
    holds: ClassVar = FieldKind.SHARING

    request: Annotated[UUID, FieldKind.REFERENCE]
    client: Annotated[UUID, FieldKind.REFERENCE]
    """The reference under which the door told this service of the client (`subject` on its cleared topic)."""
    recipient: AgencyId
    origin: AgencyId
    """The agency whose cleared section led to this request: an agreement must let it tell the recipient."""
    about: Annotated[list[Category], Field(min_length=1)]
    """The categories that the message itself gives away: unless all are permitted, nothing is sent."""
    include: list[Category] = []
    """The categories of facts to send with it, as far as they are permitted."""
    message: Annotated[BaseModel, FieldKind.PARTS]

    @model_validator(mode="after")
    def _is_about_what_its_message_tells(self) -> Self:
        if not told_by(self.message) <= set(self.about):
            raise Unfit("about must name every category that the message gives away")
        return self


class ReferralRequestData(_Request):
    """Tell a provider of a referral."""

    message: Annotated[ReferralSentMessage, FieldKind.PARTS]


class OfferRequestData(_Request):
    """Tell a mentoring scheme of an offer."""

    message: Annotated[OfferMessage, FieldKind.PARTS]


class StepRequestData(_Request):
    """Tell a recipient of a step that is due."""

    message: Annotated[StepMessage, FieldKind.PARTS]


class AcknowledgedData(Wire):
    """The service has stopped and erased for this retraction."""

    client: Annotated[UUID, FieldKind.REFERENCE]
    retraction: Annotated[UUID, FieldKind.REFERENCE]


class ReferralRequested(Event[ReferralRequestData]):
    """`throughgate.referral.requested.v1`: tell a provider of a referral."""

    type: Literal["throughgate.referral.requested.v1"]


class OfferRequested(Event[OfferRequestData]):
    """`throughgate.mentoring.offer-requested.v1`: tell a scheme of an offer."""

    type: Literal["throughgate.mentoring.offer-requested.v1"]


class StepRequested(Event[StepRequestData]):
    """`throughgate.release.step-requested.v1`: tell a recipient of a step that is due."""

    type: Literal["throughgate.release.step-requested.v1"]


class RetractionAcknowledged(Event[AcknowledgedData]):
    """`throughgate.retraction.acknowledged.v1`: the service has stopped and erased."""

    type: Literal["throughgate.retraction.acknowledged.v1"]


ServiceRequest = ReferralRequested | OfferRequested | StepRequested | RetractionAcknowledged
REQUESTS: TypeAdapter[ServiceRequest] = TypeAdapter(Annotated[ServiceRequest, Discriminator("type")])
"""Reads one request from its bytes."""

SENT_AS = {
    "throughgate.referral.requested.v1": "throughgate.referral.sent.v1",
    "throughgate.mentoring.offer-requested.v1": "throughgate.mentoring.offered.v1",
    "throughgate.release.step-requested.v1": "throughgate.release.step-due.v1",
}
"""The type under which a permitted request reaches its recipient."""
