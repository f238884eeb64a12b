"""What a publisher is told on `replies.<agency>`, and over HTTP in the answer."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Discriminator, TypeAdapter

from contracts.vocabulary import AgencyId
from servicekit.envelope import Event, Wire


class AcceptedData(Wire):
    """The event has its effect, or will have it whatever crashes."""

    event: str
    client: UUID | None
    """The reference of the client for this agency: usable as identifier of type THROUGHGATE and in URLs."""
    withdrawal: UUID | None = None
    """For a withdrawal: its id, for `GET /withdrawals/{id}`."""


class RejectedData(Wire):
    """The event has no effect. `code` is stable, `detail` says what to do; neither quotes the event."""

    event: str | None
    code: str
    title: str
    detail: str
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None


class DoneFor(Wire):
    """Where the retraction of one recipient stands: nothing behind it rests on what was withdrawn."""

    recipient: AgencyId
    topic: str
    partition: int
    offset: int
    done_at: AwareDatetime


class WithdrawalDoneData(Wire):
    """The withdrawal is done for every recipient that was ever sent or queued anything of the client."""

    event: str
    withdrawal: UUID
    recipients: list[DoneFor]


class EventAccepted(Event[AcceptedData]):
    """`throughgate.event.accepted.v1`: the event has its effect, or will have it whatever crashes."""

    type: Literal["throughgate.event.accepted.v1"]


class EventRejected(Event[RejectedData]):
    """`throughgate.event.rejected.v1`: the event has no effect, and why."""

    type: Literal["throughgate.event.rejected.v1"]


class WithdrawalDone(Event[WithdrawalDoneData]):
    """`throughgate.withdrawal.done.v1`: a withdrawal is done for every recipient."""

    type: Literal["throughgate.withdrawal.done.v1"]


Reply = EventAccepted | EventRejected | WithdrawalDone
REPLIES: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Discriminator("type")])
"""Reads one reply from its bytes."""
