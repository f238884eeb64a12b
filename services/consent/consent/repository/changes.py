"""What a batch is going to write of clients: gathered in memory, then written at once."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from sqlalchemy import text

from consent.repository import answers, candidates, due, holds, queue, retractions, sharing
from consent.repository.clients import Hold, Identifier, Reference
from consent.repository.due import Due
from consent.repository.ledger import Entry
from consent.repository.queue import QueueRow
from consent.repository.retractions import RetractionRow, StopRow
from consent.repository.sharing import Said
from consent.repository.sql import Executor, Write, at_once, insert_of
from servicekit.db import TryAgain

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


@dataclass(slots=True)
class Changes:
    """What a batch is going to write."""

    identifiers: list[tuple[Identifier, int, str]] = field(default_factory=list)
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
    holds: Counter[tuple[int | None, Hold]] = field(default_factory=Counter)
    """(client, hold) to how often it came. Without a client: what operations are to see to besides."""
    held_identifiers: Counter[tuple[Identifier, Hold]] = field(default_factory=Counter)
    """(number, hold) to how often it came."""
    likenesses: dict[tuple[int, str], bytes] = field(default_factory=dict)
    """(client, source) to the digest of the names and date of birth that this source recorded."""
    candidates: list[tuple[int, int]] = field(default_factory=list)
    """Two clients whose numbers stood in one event."""
    entries: list[Entry] = field(default_factory=list)
    """For the ledger, yet without the clients' keys; `service.desks` enters them once all else is written."""
    queue: list[QueueRow] = field(default_factory=list)
    taken_in: list[tuple[str, str, bytes, bytes | None]] = field(default_factory=list)
    """Publisher, event id, digest and answer of each event that is new (`answers.keep`)."""

    async def write(self, db: Executor) -> None:
        """Write a batch.

        Raises:
            TryAgain: another transaction linked one of the identifiers, or took in one of the events, first.
        """
        identifiers = [(*key, client, by) for key, client, by in self.identifiers]
        references = [(r.id, r.client, r.recipient, r.queued, r.recorded) for r in self.references]
        queued, recorded = set(self.first_queued), set(self.first_recorded)
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
                *retractions.adding(self.stops, self.retractions),
                holds.adding([(row, *hold, n) for (row, hold), n in self.holds.items()]),
                holds.adding_numbers([(*key, *hold, n) for (key, hold), n in self.held_identifiers.items()]),
                candidates.resembling([(*key, digest) for key, digest in self.likenesses.items()]),
                candidates.proposing(self.candidates, "identifier-conflict"),
                queue.adding(self.queue),
                answers.keeping(self.taken_in),
            ],
        )
        if (linked, taken_in) != (len(identifiers), len(self.taken_in)):
            raise TryAgain
