"""What leaves the door: to our services on `cleared.<service>`, to partners on `partner.<agency>`."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime, Discriminator, TypeAdapter

from contracts.facts import Section
from contracts.fields import FieldKind
from contracts.heads import Head
from contracts.proof import Proof
from contracts.vocabulary import AgencyId, Basis, Category, Purpose
from servicekit.envelope import Event, Wire


class Withheld(Wire):
    """What was not permitted, the rule that withheld it, and what would make it possible."""

    holds: ClassVar = FieldKind.SHARING

    category: Category
    source: AgencyId
    rule: str
    remedy: str


class Permitted(Wire):
    """One section that was permitted, and what that rests on."""

    holds: ClassVar = FieldKind.SHARING

    category: Category
    source: AgencyId
    basis: Basis
    agreement: str | None = None
    agreement_version: int | None = None
    consent: int | None = None
    """The version of the client's consent, where the basis is consent."""
    invoked: int | None = None
    """The version at which a gateway or an override was entered for this client, where it rests on one."""


class Obligation(Wire):
    """What the recipient must do with the record."""

    holds: ClassVar = FieldKind.SHARING

    code: Literal["no-onward-sharing", "erase-on-retraction", "keep-from-practitioner"]
    practitioner: str | None = None
    """The recipient's own id of the person who must not see it."""


class Receipt(Wire):
    """Why this recipient got this record."""

    holds: ClassVar = FieldKind.SHARING

    decision: Annotated[UUID, FieldKind.REFERENCE]
    decided_at: AwareDatetime
    decided_on: int
    """The version of what was said about sharing this client: behind a retraction stands no older one."""
    purpose: Purpose
    permitted: list[Permitted]
    withheld: list[Withheld]
    obligations: list[Obligation]
    proof: Annotated[Proof | None, FieldKind.PROOF] = None
    """That the door sealed this very record in its ledger. What goes to one of our own services has none."""


class Disclosure(Wire):
    """A record about a client. `message` is there where a service asked for the record to be sent."""

    purpose: Annotated[Purpose, FieldKind.SHARING]
    sections: Annotated[list[Section], FieldKind.AS_NAMED]
    receipt: Annotated[Receipt, FieldKind.PARTS]


class ReferralSentMessage(Wire):
    """A referral as its provider sees it; answer with `throughgate.referral.answered.v1`."""

    holds: ClassVar = FieldKind.COURSE

    referral: Annotated[UUID, FieldKind.REFERENCE]
    service: Annotated[str, FieldKind.AS_NAMED]
    pathway: Annotated[Category, FieldKind.AS_NAMED]
    respond_by: AwareDatetime


class ReferralSentDisclosure(Disclosure):
    """A referral with what the provider may see of the client."""

    message: Annotated[ReferralSentMessage, FieldKind.PARTS]


class OfferMessage(Wire):
    """The offer of a mentor; answer with `throughgate.mentoring.offer-answered.v1`."""

    holds: ClassVar = FieldKind.COURSE

    offer: Annotated[UUID, FieldKind.REFERENCE]
    mentor: Annotated[UUID, FieldKind.REFERENCE]
    expires_at: AwareDatetime


class OfferDisclosure(Disclosure):
    """An offer with what the scheme may see of the client."""

    message: Annotated[OfferMessage, FieldKind.PARTS]


class StepMessage(Wire):
    """A step of a release plan that is due: it tells when the client leaves."""

    holds: ClassVar = Category.CUSTODY_AND_RELEASE

    step_reference: Annotated[UUID, FieldKind.REFERENCE]
    """This recipient's own reference of the step."""
    step: Literal["day-before", "morning-of-release"]
    due_at: AwareDatetime


class StepDisclosure(Disclosure):
    """A step with what the recipient may see of the release."""

    message: Annotated[StepMessage, FieldKind.PARTS]


class ReferralAnswerMessage(Wire):
    """A provider's answer on its way to the referral service."""

    holds: ClassVar = FieldKind.COURSE

    referral: Annotated[UUID, FieldKind.REFERENCE]
    answer: Literal["accepted", "declined"]
    reason: str | None = None


class ReferralAnswerDisclosure(Disclosure):
    """The provider's answer, and which provider gave it."""

    provider: Annotated[AgencyId, FieldKind.COURSE]
    message: Annotated[ReferralAnswerMessage, FieldKind.PARTS]


class OfferAnswerMessage(Wire):
    """A scheme's answer on its way to the matching service."""

    holds: ClassVar = FieldKind.COURSE

    offer: Annotated[UUID, FieldKind.REFERENCE]
    answer: Literal["accepted", "declined"]
    reason: str | None = None


class OfferAnswerDisclosure(Disclosure):
    """The scheme's answer, and which scheme gave it."""

    provider: Annotated[AgencyId, FieldKind.COURSE]
    message: Annotated[OfferAnswerMessage, FieldKind.PARTS]


class WithdrawnData(Wire):
    """Stop and erase. Behind this, under this key, stands nothing that was decided before it.

    That is: no later receipt's `decidedOn` is below `version`; and where `consentVersion` is said, no later receipt for
    one of `purposes` permits one of `categories` by a consent of that version or an older one.
    """

    holds: ClassVar = FieldKind.SHARING

    retraction: Annotated[UUID, FieldKind.REFERENCE]
    purposes: list[Purpose]
    categories: list[Category] | None = None
    """Null: every category."""
    recipients: list[AgencyId] | None = None
    """To our own services only: they stop telling these agencies and may keep the rest. Null: it is for them."""
    version: int
    consent_version: int | None = None
    action: Literal["stop-and-erase"] = "stop-and-erase"


class SettledData(Wire):
    """What became of a request that a service made of the door."""

    holds: ClassVar = FieldKind.SHARING

    request: Annotated[UUID, FieldKind.REFERENCE]
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


RETRACTED = "throughgate.client.withdrawn.v1"
"""The type of every retraction, whatever it is for: a withdrawal, a restriction, an erasure, an end."""


class RequestSettled(Event[SettledData]):
    """`throughgate.request.settled.v1`: what became of a request, to the service that made it."""

    type: Literal["throughgate.request.settled.v1"]


class LedgerSealed(Event[Head]):
    """`throughgate.ledger.sealed.v1`: the signed head of a batch of the ledger; keep it to show what it held."""

    type: Literal["throughgate.ledger.sealed.v1"]


PartnerEvent = ClientSnapshot | ClientChanged | ReferralSent | MentorOffered | StepDue | ClientWithdrawn
PARTNER: TypeAdapter[PartnerEvent] = TypeAdapter(Annotated[PartnerEvent, Discriminator("type")])
"""Reads what stands on a partner's topic."""

ClearedEvent = (
    ClientSnapshot | ClientChanged | ClientWithdrawn | RequestSettled | ReferralAnswerPassed | OfferAnswerPassed
)
CLEARED: TypeAdapter[ClearedEvent] = TypeAdapter(Annotated[ClearedEvent, Discriminator("type")])
"""Reads what stands on a service's cleared topic."""

HEADS: TypeAdapter[LedgerSealed] = TypeAdapter(LedgerSealed)
"""Reads what stands on the topic `heads`."""
