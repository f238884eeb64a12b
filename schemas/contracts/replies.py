"""What a publisher is told on `replies.<agency>`, and over HTTP in the answer."""

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime

from contracts.fields import FieldKind
from contracts.vocabulary import AgencyId, IdentifierType
from servicekit.envelope import Event, Wire


class AcceptedData(Wire):
    """The event has its effect, or will have it whatever crashes."""

    holds: ClassVar = FieldKind.REFERENCE

    event: str
    client: UUID | None
    """The reference of the client for this agency: usable as identifier of type THROUGHGATE and in URLs."""
    withdrawal: UUID | None = None
    """For whatever stops sharing (a withdrawal, refusal, restriction, end, link or erasure): its id, for
    `GET /withdrawals/{id}`. None for other events."""
    not_attached: list[IdentifierType] | None = None
    """For what an agency recorded that may not say who is one person: the kinds of those numbers in it that the client
    did not get. Name it by the others."""


class RejectedData(Wire):
    """The event has no effect. `code` is stable, `detail` says what to do; neither quotes the event."""

    holds: ClassVar = FieldKind.ADMINISTRATIVE

    event: Annotated[str | None, FieldKind.REFERENCE]
    code: str
    title: str
    detail: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


class DoneFor(Wire):
    """Where the retraction of one recipient stands: nothing behind it rests on what was withdrawn."""

    holds: ClassVar = FieldKind.ADMINISTRATIVE

    recipient: Annotated[AgencyId, FieldKind.SHARING]
    topic: str
    partition: int
    offset: int
    done_at: AwareDatetime


class WithdrawalDoneData(Wire):
    """The withdrawal is done for every recipient that was ever sent or queued anything of the client.

    `recipients` are those of them that your agency may know of: itself, whom it tells what it recorded of the client by
    an agreement in force, and whom its own consent, gateway or override named. The others are neither named nor
    counted; it is done for them as well.
    """

    holds: ClassVar = FieldKind.REFERENCE

    event: str
    withdrawal: UUID
    recipients: Annotated[list[DoneFor], FieldKind.PARTS]


class ConsentExpiredData(Wire):
    """A consent that you recorded ended by its `validUntil`. Nothing rests on it any more."""

    holds: ClassVar = FieldKind.REFERENCE

    event: str
    """The id of the event with which you recorded it."""
    client: UUID
    """The reference of the client for your agency."""
    expired_at: Annotated[AwareDatetime, FieldKind.SHARING]
    withdrawal: UUID | None
    """Where something was taken back by it: its id, for `GET /withdrawals/{id}`. Null: nothing had to be."""


class SharingExpiredData(ConsentExpiredData):
    """A restriction of yours ended by its `until`, or a gateway or an override by its `ends`."""

    kind: Annotated[Literal["restriction", "gateway", "override"], FieldKind.SHARING]
    id: str
    """Your own id of it."""


class EventAccepted(Event[AcceptedData]):
    """`throughgate.event.accepted.v1`: the event has its effect, or will have it whatever crashes."""

    type: Literal["throughgate.event.accepted.v1"]


class EventRejected(Event[RejectedData]):
    """`throughgate.event.rejected.v1`: the event has no effect, and why."""

    type: Literal["throughgate.event.rejected.v1"]


class WithdrawalDone(Event[WithdrawalDoneData]):
    """`throughgate.withdrawal.done.v1`: a withdrawal is done for every recipient."""

    type: Literal["throughgate.withdrawal.done.v1"]


class ConsentExpired(Event[ConsentExpiredData]):
    """`throughgate.consent.expired.v1`: a consent came to its end by the clock; ask the client for a new one."""

    type: Literal["throughgate.consent.expired.v1"]


class SharingExpired(Event[SharingExpiredData]):
    """`throughgate.sharing.expired.v1`: a restriction, a gateway or an override came to its end by the clock."""

    type: Literal["throughgate.sharing.expired.v1"]


Reply = EventAccepted | EventRejected | WithdrawalDone | ConsentExpired | SharingExpired
