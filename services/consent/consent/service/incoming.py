"""One event of a batch on its way to its answer, and why it may be rejected."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from consent.domain import RESPONSIBLE, Agency, may_assert, unreached
from consent.repository.clients import Identifier
from consent.service import naming, saying
from consent.service.desk import Cause
from consent.service.reading import Arrival
from consent.service.stopping import is_stopping
from contracts.intake import ErasureRequested, GatewayInvoked, IntakeEvent, OverrideAuthorised
from servicekit.problems import Problem
from servicekit.telemetry import Step

UNKNOWN_CLIENT = Problem(
    "unknown-client",
    "Your agency has no client with these identifiers",
    "Publish throughgate.client.recorded.v1 with all of them first, leave out the kinds that its answer lists in"
    " notAttached, then send a new event with a new id. What stops sharing counts already: nothing leaves for whoever"
    " has one of them, or gets it, until operations have looked.",
    404,
)
"""There is no such client, or the publisher does not know it: nobody learns by an answer which of the two it is."""
CONFLICT = Problem(
    "identifier-conflict",
    "The identifiers belong to different clients",
    "Check each identifier against its source. If they are one person, ask operations to link them; nothing was"
    " changed.",
    409,
)
UNKNOWN_RETRACTION = Problem(
    "unknown-retraction",
    "Your agency was sent no such retraction of this client",
    "Take its id from the retraction's data, and its subject as the identifier of type THROUGHGATE; then send a new"
    " event with a new id. Until you do, it is overdue.",
    404,
)
"""The same where there is none and where it is another's."""
NOTHING_TO_REVIEW = Problem(
    "nothing-to-review",
    "Your agency authorised no override under this id that could be reviewed",
    "Take the id that you gave the override of this client, and send a new event with a new id, behind the one that"
    " authorised it. Until you do, its review is overdue.",
    404,
)
"""The same where there is none, where it is another agency's, and where the review comes before it."""
ID_USED_AGAIN = Problem(
    "id-used-again",
    "This event id was used for other content",
    "Send the event with an id that your system has never used; the earlier event keeps its effect.",
    409,
)
NOT_REGISTERED = Problem(
    "agency-not-registered",
    "Your agency is not registered with the door",
    "Ask the operator of this system to register your agency, then send a new event with a new id.",
    403,
)
NOT_YOURS_TO_SAY = Problem(
    "not-yours-to-say",
    "An agency of your kind may not say this",
    "docs/reference/who-may-say-what.md lists which kind of agency may assert what; ask one that may to publish it.",
    403,
)
UNKNOWN_RECIPIENT = Problem(
    "unknown-recipient",
    "The event names an agency that is not registered",
    "Send it with a new id and the ids of registered agencies; ask the operator of this system to register one that is"
    " missing. A stop that names nobody would stop nothing: until then, what was to stop for some stops for everybody.",
    422,
)


OWN_WORD = Problem(
    "own-word",
    "Your own override opens nothing for your agency",
    "Leave your agency out of its recipients; another agency has to authorise what yours is to be told. Then send it"
    " with a new id.",
    422,
)


class DoesNotReach(Problem):
    """A gateway was invoked for what it opens nothing for: its publisher would take somebody for told."""

    def __init__(self, unreached: Iterable[str]) -> None:
        super().__init__(
            "gateway-does-not-reach",
            "The gateway does not reach all that the event names",
            f"It opens nothing for some of its {' and '.join(unreached)}, so nothing of it was applied."
            " docs/reference/rules.md#gateways lists what it reaches: leave out the rest, or use another basis, then"
            " send a new event with a new id.",
            422,
        )


class Damaged(Problem):
    """An act or an event rests on something of a client that cannot be read: it waits until that is mended."""

    def __init__(self) -> None:
        super().__init__(
            "cannot-be-read",
            "Something that is kept of the client cannot be read",
            "Nothing was changed, and nothing leaves of the client. Send it again, an event with its same id, once"
            " operations, who were told, have mended that.",
            409,
        )


@dataclass(slots=True, eq=False)
class Incoming:
    """One event of a batch on its way to its answer. Each is only itself, also where two say the same."""

    arrival: Arrival
    event_id: str | None
    event: IntakeEvent | None = None
    problem: Problem | None = None
    keys: list[Identifier] = field(default_factory=list)
    """Whom the event is about; for a stopping event that cannot be applied, whom it may mean."""
    names_more: bool = False
    """Whether such an event names still more."""
    client: int | None = None
    rows: frozenset[int] = frozenset()
    """The rows of the client that its identifiers belong to: some of the parts, where clients are linked."""
    not_attached: list[str] = field(default_factory=list)
    """Types of the numbers in what is recorded that its publisher could not give to the client."""
    began_while_linked: bool = False
    """Whether its publisher began what it ends while the client was linked with another; that link was undone since."""
    is_first: bool = False
    """Whether its id was never taken in before, so that its answer is to be kept."""
    answer: bytes | None = None
    step: Step | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Agency and event id, under which the answer is kept."""
        return self.arrival.agency, self.event_id or ""

    @property
    def denies_unapplied(self) -> bool:
        """Whether it was to stop sharing but cannot be applied, so that it must deny all the same."""
        return self.problem is not None and is_stopping(self.arrival.value, self.arrival.type)

    @property
    def changes_sharing(self) -> bool:
        """Whether it needs what was said about sharing the client, and what is recorded of it."""
        return self.denies_unapplied or isinstance(self.event, saying.Saying | ErasureRequested)

    @property
    def traceparent(self) -> str | None:
        """What the next steps of this event's way follow."""
        return self.step.traceparent if self.step else None

    @property
    def cause(self) -> Cause:
        """Of what comes of this event."""
        return Cause(self.arrival.agency, self.event_id, self.traceparent)

    def reject(self, problem: Problem) -> None:
        """It has no effect; if it was to stop sharing, it denies for everyone whom it may mean."""
        self.problem = problem
        if self.denies_unapplied:
            self.keys, self.names_more = naming.meant_by(self.arrival.value, self.arrival.agency, self.keys)


def may_not(incoming: Incoming, agencies: Mapping[str, Agency]) -> Problem | None:
    """Why its publisher may not say this, or not to those whom it names, if so.

    Args:
        agencies: who is registered, by id.
    """
    publisher = agencies.get(incoming.arrival.agency)
    if publisher is None:
        return NOT_REGISTERED
    basis = incoming.event.data.basis if isinstance(incoming.event, GatewayInvoked) else None
    if incoming.event is not None and not may_assert(incoming.event.type, publisher.kind, basis):
        return NOT_YOURS_TO_SAY
    if isinstance(incoming.event, saying.Saying) and not saying.named_by(incoming.event) <= agencies.keys():
        return UNKNOWN_RECIPIENT
    if isinstance(incoming.event, GatewayInvoked):
        data = incoming.event.data
        kinds = {agencies[recipient].kind for recipient in data.recipients}
        if some := unreached(data.basis, kinds, data.purposes, data.categories):
            return DoesNotReach(some)
    if isinstance(incoming.event, OverrideAuthorised) and publisher.id in incoming.event.data.recipients:
        return OWN_WORD
    if isinstance(incoming.event, ErasureRequested) and incoming.event.data.scope == "everything":
        return None if publisher.kind in RESPONSIBLE else NOT_YOURS_TO_SAY
    return None
