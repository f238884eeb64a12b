"""What a batch is going to write of clients: gathered in memory, then written at once."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
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


@dataclass(slots=True)
class Changes:
    """What a batch is going to write."""

    identifiers: list[tuple[IdentifierKey, int, str]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    first_queued: list[UUID] = field(default_factory=list)
    first_recorded: list[UUID] = field(default_factory=list)
    facts: dict[tuple[int, str, str], tuple[datetime, str]] = field(default_factory=dict)
    source_versions: dict[tuple[int, str], int] = field(default_factory=dict)
    said: list[Said] = field(default_factory=list)
    versions: dict[int, int] = field(default_factory=dict)
    due: list[Due] = field(default_factory=list)
    withdrawals: list[tuple[UUID, int, int, str | None, str | None, str, str | None, datetime]] = field(
        default_factory=list
    )
    retractions: list[tuple[UUID, UUID, str, UUID, str]] = field(default_factory=list)
    named: set[UUID] = field(default_factory=set)
    """Of the retractions, those whose recipient the publisher of the stop may know of."""
    holds: Counter[tuple[int | None, str, str]] = field(default_factory=Counter)
    """(client, agency, reason) to how often it came. Without a client: what operations are to see to besides."""
    held_identifiers: Counter[tuple[IdentifierKey, str, str]] = field(default_factory=Counter)
    """(number, agency, reason) to how often it came."""
    likenesses: dict[tuple[int, str], bytes] = field(default_factory=dict)
    """(client, source) to the digest of the names and date of birth that this source recorded."""
    candidates: list[tuple[int, int, str | None]] = field(default_factory=list)
    """Two clients whose numbers stood in one event, and its publisher."""
    entries: list[Entry] = field(default_factory=list)
    """For the ledger, yet without the clients' keys; `service.ledger` enters them once all else is written."""
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
        owed = {withdrawal for _, withdrawal, *_ in self.retractions}
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
                # one that reaches nobody is done when it is recorded, the last of its fields
                Write(_WITHDRAWALS, [(*one, None if one[0] in owed else one[-1]) for one in self.withdrawals]),
                Write(_RETRACTIONS, [(*one, one[0] in self.named) for one in self.retractions]),
                Write(_HOLDS, [(*hold, times) for hold, times in self.holds.items()]),
                Write(_HELD, [(*key, *why, times) for (key, *why), times in self.held_identifiers.items()]),
                candidates.resembling([(*key, digest) for key, digest in self.likenesses.items()]),
                candidates.proposing(self.candidates, "identifier-conflict"),
                queue.adding(self.queue),
                answers.keeping(self.taken_in),
            ],
        )
        return (linked, taken_in) == (len(identifiers), len(self.taken_in))
