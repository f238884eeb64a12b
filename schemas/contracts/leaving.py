"""What leaves the door: to our services on `cleared.<service>`, to partners on `partner.<agency>`."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Discriminator, TypeAdapter

from contracts.facts import Section
from contracts.vocabulary import AgencyId, Basis, Category, Purpose
from servicekit.envelope import Event, Wire


class AgreementVersion(Wire):
    """An agreement as it stood when something was decided."""

    agreement: str
    version: int
    basis: Basis


class Withheld(Wire):
    """What was not permitted, the rule that withheld it, and what would make it possible."""

    category: Category
    source: AgencyId
    rule: str
    remedy: str


class Receipt(Wire):
    """Why this recipient got this record."""

    decision: UUID
    decided_at: AwareDatetime
    purpose: Purpose
    agreements: list[AgreementVersion]
    consents: list[int]
    """The versions of the client's consent that the decision rests on; empty where no consent was needed."""
    withheld: list[Withheld]
    obligations: list[str]


class Disclosure(Wire):
    """A record about a client. `message` is there where a service asked for the record to be sent."""

    purpose: Purpose
    sections: list[Section]
    receipt: Receipt


class ReferralSentMessage(Wire):
    """A referral as its provider sees it; answer with `throughgate.referral.answered.v1`."""

    referral: UUID
    service: str
    pathway: Category
    respond_by: AwareDatetime


class ReferralSentDisclosure(Disclosure):
    """A referral with what the provider may see of the client."""

    message: ReferralSentMessage


class OfferMessage(Wire):
    """The offer of a mentor; answer with `throughgate.mentoring.offer-answered.v1`."""

    offer: UUID
    mentor: UUID
    expires_at: AwareDatetime


class OfferDisclosure(Disclosure):
    """An offer with what the scheme may see of the client."""

    message: OfferMessage


class StepMessage(Wire):
    """A step of a release plan that is due."""

    step_reference: UUID
    """This recipient's own reference of the step."""
    step: Literal["day-before", "morning-of-release"]
    due_at: AwareDatetime


class StepDisclosure(Disclosure):
    """A step with what the recipient may see of the release."""

    message: StepMessage


class ReferralAnswerMessage(Wire):
    """A provider's answer on its way to the referral service."""

    referral: UUID
    answer: Literal["accepted", "declined"]
    reason: str | None = None


class ReferralAnswerDisclosure(Disclosure):
    """The provider's answer, and which provider gave it."""

    provider: AgencyId
    message: ReferralAnswerMessage


class OfferAnswerMessage(Wire):
    """A scheme's answer on its way to the matching service."""

    offer: UUID
    answer: Literal["accepted", "declined"]
    reason: str | None = None


class OfferAnswerDisclosure(Disclosure):
    """The scheme's answer, and which scheme gave it."""

    provider: AgencyId
    message: OfferAnswerMessage


class WithdrawnData(Wire):
    """Stop and erase. Nothing behind this, under this key, rests on what it names.

    For each purpose in `purposes`: no later receipt names a consent version at or below `consent_version`.
    """

    retraction: UUID
    purposes: list[Purpose]
    consent_version: int
    action: Literal["stop-and-erase"] = "stop-and-erase"


class SettledData(Wire):
    """What became of a request that a service made of the door."""

    request: UUID
    outcome: Literal["sent", "denied", "cancelled"]
    withheld: list[Withheld] = []


class ClientSnapshot(Event[Disclosure]):
    """`throughgate.client.snapshot.v1`: all that may be seen when a permit begins."""

    type: Literal["throughgate.client.snapshot.v1"]


class ClientChanged(Event[Disclosure]):
    """`throughgate.client.changed.v1`: facts that an agency recorded."""

    type: Literal["throughgate.client.changed.v1"]


class ReferralSent(Event[ReferralSentDisclosure]):
    """`throughgate.referral.sent.v1`: a referral to a provider, with what it may see of the client."""

    type: Literal["throughgate.referral.sent.v1"]


class MentorOffered(Event[OfferDisclosure]):
    """`throughgate.mentoring.offered.v1`: a mentor is offered for a client of this scheme."""

    type: Literal["throughgate.mentoring.offered.v1"]


class StepDue(Event[StepDisclosure]):
    """`throughgate.release.step-due.v1`: a step of a release plan is due."""

    type: Literal["throughgate.release.step-due.v1"]


class ReferralAnswerPassed(Event[ReferralAnswerDisclosure]):
    """`throughgate.referral.answer-passed.v1`: what a provider answered to a referral."""

    type: Literal["throughgate.referral.answer-passed.v1"]


class OfferAnswerPassed(Event[OfferAnswerDisclosure]):
    """`throughgate.mentoring.answer-passed.v1`: what a scheme answered to an offer."""

    type: Literal["throughgate.mentoring.answer-passed.v1"]


class ClientWithdrawn(Event[WithdrawnData]):
    """`throughgate.client.withdrawn.v1`: the retraction: stop, erase, and show nothing that rests on it."""

    type: Literal["throughgate.client.withdrawn.v1"]


class RequestSettled(Event[SettledData]):
    """`throughgate.request.settled.v1`: what became of a request, to the service that made it."""

    type: Literal["throughgate.request.settled.v1"]


PartnerEvent = ClientSnapshot | ClientChanged | ReferralSent | MentorOffered | StepDue | ClientWithdrawn
PARTNER: TypeAdapter[PartnerEvent] = TypeAdapter(Annotated[PartnerEvent, Discriminator("type")])
"""Reads what stands on a partner's topic."""

ClearedEvent = (
    ClientSnapshot | ClientChanged | ClientWithdrawn | RequestSettled | ReferralAnswerPassed | OfferAnswerPassed
)
CLEARED: TypeAdapter[ClearedEvent] = TypeAdapter(Annotated[ClearedEvent, Discriminator("type")])
"""Reads what stands on a service's cleared topic."""
