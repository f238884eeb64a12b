"""What a batch is going to write of clients: gathered in memory, then written at once."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from consent.repository import answers, candidates, due, queue, sharing
from consent.repository.clients import IdentifierKey, Reference
from consent.repository.due import Due
from consent.repository.ledger import Entry
from consent.repository.queue import QueueRow
from consent.repository.sharing import Said
from consent.repository.sql import Executor, Write, at_once, insert_of

_IDENTIFIERS = insert_of(
    "identifier",
    "type, issuer, value, client_id, linked_by",
    "text, text, text, bigint, text",
    "ON CONFLICT DO NOTHING",
)
_REFERENCES = insert_of(
    "reference", "id, client_id, recipient, queued, recorded", "uuid, bigint, text, boolean, boolean"
)
_MARKS = text(
    "UPDATE reference SET queued = queued OR q, recorded = recorded OR r"
    " FROM unnest(CAST(:a0 AS uuid[]), CAST(:a1 AS boolean[]), CAST(:a2 AS boolean[])) AS m(i, q, r) WHERE id = i"
)
_FACTS = text(
    "INSERT INTO fact (client_id, source, category, recorded_at, data) SELECT * FROM unnest(CAST(:a0 AS bigint[]),"
    " CAST(:a1 AS text[]), CAST(:a2 AS text[]), CAST(:a3 AS timestamptz[]), CAST(:a4 AS text[]))"
    " ON CONFLICT (client_id, source, category) DO UPDATE SET recorded_at = excluded.recorded_at, data = excluded.data"
)
_SOURCE_VERSIONS = text(
    "INSERT INTO source_version (client_id, source, clientversion) SELECT * FROM unnest(CAST(:a0 AS bigint[]),"
    " CAST(:a1 AS text[]), CAST(:a2 AS bigint[]))"
    " ON CONFLICT (client_id, source) DO UPDATE SET clientversion = excluded.clientversion"
)
_VERSIONS = text(
    "UPDATE client SET version = v FROM unnest(CAST(:a0 AS bigint[]), CAST(:a1 AS int[])) AS r(i, v) WHERE id = i"
)
_WITHDRAWALS = insert_of(
    "withdrawal",
    "id, client_id, version, agency, event_id, because, traceparent, recorded_at, done_at",
    "uuid, bigint, int, text, text, text, text, timestamptz, timestamptz",
)
_RETRACTIONS = insert_of(
    "retraction", "id, withdrawal_id, recipient, reference, body, named", "uuid, uuid, text, uuid, text, boolean"
)
_HOLDS = insert_of(
    "hold",
    "client_id, asserted_by, reason, times",
    "bigint, text, text, int",
    "ON CONFLICT (client_id, asserted_by, reason) WHERE lifted_at IS NULL"
    " DO UPDATE SET times = hold.times + excluded.times, last_at = clock_timestamp()",
)
_HELD = insert_of(
    "held_identifier",
    "type, issuer, value, asserted_by, reason, times",
    "text, text, text, text, text, int",
    "ON CONFLICT (type, issuer, value, asserted_by, reason)"
    " DO UPDATE SET times = held_identifier.times + excluded.times, last_at = clock_timestamp()",
)


class StopRow(NamedTuple):
    """A row of `withdrawal`: something that turned permits into denials, whatever it was; what it owes refers to it.

    The fields of this and of `RetractionRow` are columns, in their order.
    """

    id: UUID
    client_id: int
    version: int
    """Of the client, from which it holds."""
    agency: str | None
    """Who is told when it is done; None: nobody."""
    event_id: str | None
    """That agency's event."""
    because: str
    traceparent: str | None
    recorded_at: datetime


class RetractionRow(NamedTuple):
    """A row of `retraction`: what one recipient is told under one of its references."""

    id: UUID
    withdrawal_id: UUID
    recipient: str
    reference: UUID
    body: str
    named: bool = False
    """Whether the publisher of the stop may know of the recipient."""


@dataclass(slots=True)
class Changes:
    """What a batch is going to write."""

    identifiers: list[tuple[IdentifierKey, int, str]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    """New ones."""
    first_queued: list[UUID] = field(default_factory=list)
    """Those under which something is queued for the first time, unless they were made so."""
    first_recorded: list[UUID] = field(default_factory=list)
    """Those whose recipient records something of the client for the first time, unless they were made so."""
    facts: dict[tuple[int, str, str], tuple[datetime, str]] = field(default_factory=dict)
    source_versions: dict[tuple[int, str], int] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    """New rows of the clients' histories."""
    versions: dict[int, int] = field(default_factory=dict)
    """Clients to their new version: that of what was said last, or one that began without anything said."""
    due: list[Due] = field(default_factory=list)
    stops: list[StopRow] = field(default_factory=list)
    retractions: list[RetractionRow] = field(default_factory=list)
    holds: Counter[tuple[int | None, str, str]] = field(default_factory=Counter)
    """(client, agency, reason) to how often it came. Without a client: what operations are to see to besides."""
    held_identifiers: Counter[tuple[IdentifierKey, str, str]] = field(default_factory=Counter)
    """(number, agency, reason) to how often it came."""
    likenesses: dict[tuple[int, str], bytes] = field(default_factory=dict)
    """(client, source) to the digest of the names and date of birth that this source recorded."""
    candidates: list[tuple[int, int, str | None]] = field(default_factory=list)
    """Two clients whose numbers stood in one event, and its publisher."""
    entries: list[Entry] = field(default_factory=list)
    """For the ledger, yet without the clients' keys; `service.closing` enters them once all else is written."""
    queue: list[QueueRow] = field(default_factory=list)
    taken_in: list[tuple[str, str, bytes, bytes | None]] = field(default_factory=list)
    """Publisher, event id, digest and answer of each event that is new (`answers.keep`)."""

    async def write(self, db: Executor) -> bool:
        """Write a batch. False: another transaction linked one of the identifiers, or took in one of the events, first.

        The caller then begins anew.
        """
        identifiers = [(*key, client, by) for key, client, by in self.identifiers]
        references = [(r.id, r.client, r.recipient, r.queued, r.recorded) for r in self.references]
        queued, recorded = set(self.first_queued), set(self.first_recorded)
        owed = {retraction.withdrawal_id for retraction in self.retractions}
        linked, *_, taken_in = await at_once(
            db,
            [
                Write(_IDENTIFIERS, identifiers),
                Write(_REFERENCES, references),
                Write(_MARKS, [(id, id in queued, id in recorded) for id in sorted(queued | recorded)]),
                Write(_FACTS, [(*key, *value) for key, value in sorted(self.facts.items())]),
                Write(_SOURCE_VERSIONS, [(*key, v) for key, v in sorted(self.source_versions.items())]),
                sharing.appending(self.said),
                due.adding(self.due),
                Write(_VERSIONS, list(self.versions.items())),
                # one that reaches nobody is done when it is recorded
                Write(_WITHDRAWALS, [(*stop, None if stop.id in owed else stop.recorded_at) for stop in self.stops]),
                Write(_RETRACTIONS, self.retractions),
                Write(_HOLDS, [(*hold, times) for hold, times in self.holds.items()]),
                Write(_HELD, [(*key, *why, times) for (key, *why), times in self.held_identifiers.items()]),
                candidates.resembling([(*key, digest) for key, digest in self.likenesses.items()]),
                candidates.proposing(self.candidates, "identifier-conflict"),
                queue.adding(self.queue),
                answers.keeping(self.taken_in),
            ],
        )
        return (linked, taken_in) == (len(identifiers), len(self.taken_in))
