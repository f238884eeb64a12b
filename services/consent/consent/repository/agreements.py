"""The register of agreements: versions as decisions read them and with their signatures, drafts, changes and what they
make due. Append-only.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
from sqlalchemy import text

from consent.domain import Agreement, Terms
from consent.repository.sql import Executor
from contracts.vocabulary import Basis, Category, Purpose

LOCK = 7_500
"""Advisory lock of whoever changes the register: it numbers the changes in the order of their commits."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed for an agency. On paper: with neither role nor time."""

    name: str
    role: str | None = None
    signed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of an agreement, signed, or as a draft would make it."""

    agreement: Agreement
    review: datetime
    signatures: Mapping[str, Signature]
    """By agency."""
    draft: UUID | None = None
    """What was signed; None for a version that was signed on paper."""
    proposed_by: str | None = None
    """For a draft: the agency that proposed it."""

    @property
    def parties(self) -> frozenset[str]:
        """Who tells and who is told."""
        return self.agreement.sources | self.agreement.recipients


@dataclass(frozen=True, slots=True)
class Change:
    """Something that happened to an agreement: a new version, a suspension, its end."""

    number: int
    """In the order of commits: whoever sees one sees all that are smaller."""
    id: UUID
    agreement: str
    kind: str
    version: int
    by: str
    reason: str | None
    at: datetime
    effective_at: datetime
    """From when on it changes what may leave."""


async def lock(db: Executor) -> None:
    """Let nobody else change the register until the commit. What is checked is read in later statements."""
    await db.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})


async def hold_still(db: Executor) -> None:
    """Let nobody change the register until the commit, for a caller that only reads it, in later statements."""
    await db.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": LOCK})


# --- versions as decisions read them ----------------------------------------------------------------------------------

_SUSPENDED_FROM = (
    "(SELECT min(s.at) FROM (SELECT DISTINCT ON (c.by) c.by, c.kind, c.at FROM agreement_change c"
    " WHERE c.agreement = a.id AND c.kind <> 'version' ORDER BY c.by, c.number DESC) s"
    " WHERE s.kind = 'suspended' AND (s.by = 'operator' OR s.by = ANY(a.sources || a.recipients))) AS suspended_from"
)
"""Since when a version `a` is suspended: the first suspension, by a party of it or the operator, that the same has not
resumed since."""


async def every(db: Executor) -> list[Agreement]:
    """Every version of every agreement, in force or not: `decide` chooses by the dates."""
    rows = await db.execute(
        text(
            "SELECT id, version, sources, recipients, terms::text AS terms, enforces, starts, ends,"  # noqa: S608 # ours
            f" {_SUSPENDED_FROM} FROM agreement a ORDER BY id, version"
        )
    )
    return [_agreement_of(row, row.suspended_from) for row in rows]


def _columns(agreement: Agreement) -> dict[str, Any]:
    """What a version says, by the columns that the tables of versions and of drafts share."""
    return {
        "id": agreement.id,
        "version": agreement.version,
        "sources": sorted(agreement.sources),
        "recipients": sorted(agreement.recipients),
        "terms": orjson.dumps(
            {
                purpose.value: {
                    "basis": t.basis.value,
                    "categories": sorted(c.value for c in t.categories),
                    "subscription": t.subscription,
                    "ownWord": t.own_word,
                }
                for purpose, t in agreement.terms.items()
            }
        ).decode(),
        "enforces": sorted(agreement.enforces),
        "starts": agreement.starts,
        "ends": agreement.ends,
    }


def _agreement_of(row: Any, suspended_from: datetime | None = None) -> Agreement:
    """A version, or what a draft would make one, from those columns."""
    return Agreement(
        row.id,
        row.version,
        frozenset(row.sources),
        frozenset(row.recipients),
        {
            Purpose(purpose): Terms(
                Basis(t["basis"]),
                frozenset(map(Category, t["categories"])),
                t["subscription"],
                t.get("ownWord", False),
            )
            for purpose, t in orjson.loads(row.terms).items()
        },
        row.starts,
        row.ends,
        frozenset(row.enforces),
        suspended_from,
    )


# --- versions and drafts ----------------------------------------------------------------------------------------------

_TEXT = "version, sources, recipients, terms::text AS terms, enforces, starts, review, ends"


async def versions(db: Executor, id: str | None = None) -> list[Version]:
    """Every version of one agreement, or of all, oldest first."""
    rows = await db.execute(
        text(
            f"SELECT id, {_TEXT}, signatories::text AS signatories, draft, {_SUSPENDED_FROM} FROM agreement a"  # noqa: S608 # ours
            " WHERE CAST(:id AS text) IS NULL OR id = :id ORDER BY id, version"
        ),
        {"id": id},
    )
    return [
        Version(
            _agreement_of(row, row.suspended_from),
            row.review,
            {agency: _signature(s) for agency, s in orjson.loads(row.signatories).items()},
            row.draft,
        )
        for row in rows
    ]


def _signature(stored: dict[str, Any] | str) -> Signature:
    if isinstance(stored, str):  # as versions were entered before signatures had a role
        return Signature(stored)
    at = stored.get("signedAt")
    return Signature(stored["name"], stored.get("role"), datetime.fromisoformat(at) if at else None)


async def add_version(db: Executor, version: Version) -> None:
    """Enter a signed version; versions are never changed."""
    signatories = {
        agency: {"name": s.name, "role": s.role, "signedAt": s.signed_at} for agency, s in version.signatures.items()
    }
    await db.execute(
        text(
            "INSERT INTO agreement (id, version, sources, recipients, terms, enforces, signatories, starts, review,"
            " ends, draft) VALUES (:id, :version, :sources, :recipients, CAST(:terms AS jsonb), :enforces,"
            " CAST(:signatories AS jsonb), :starts, :review, :ends, :draft)"
        ),
        _columns(version.agreement)
        | {"signatories": orjson.dumps(signatories).decode(), "review": version.review, "draft": version.draft},
    )


async def add_draft(db: Executor, version: Version, at: datetime) -> None:
    """Enter a draft."""
    await db.execute(
        text(
            "INSERT INTO agreement_draft (id, agreement, version, proposed_by, proposed_at, sources, recipients, terms,"
            " enforces, starts, review, ends) VALUES (:draft, :id, :version, :by, :at, :sources, :recipients,"
            " CAST(:terms AS jsonb), :enforces, :starts, :review, :ends)"
        ),
        _columns(version.agreement)
        | {"draft": version.draft, "by": version.proposed_by, "at": at, "review": version.review},
    )


async def drafts(db: Executor, *, id: UUID | None = None, agreement: str | None = None) -> list[Version]:
    """Drafts that wait for signatures, with those that they have: of an agreement, or all. With `id` that one,
    whatever became of it."""
    rows = await db.execute(
        text(
            f"SELECT id AS draft, agreement AS id, proposed_by, {_TEXT} FROM agreement_draft d"  # noqa: S608 # ours
            " WHERE (CAST(:agreement AS text) IS NULL OR agreement = :agreement)"
            " AND CASE WHEN CAST(:id AS uuid) IS NULL THEN ends > clock_timestamp() AND NOT EXISTS"
            " (SELECT 1 FROM agreement a WHERE a.id = d.agreement AND a.version >= d.version)"
            " ELSE d.id = :id END ORDER BY agreement, proposed_at, d.id"
        ),
        {"id": id, "agreement": agreement},
    )
    found = rows.all()
    signed = await _signatures(db, [row.draft for row in found])
    return [
        Version(_agreement_of(row), row.review, signed.get(row.draft, {}), row.draft, row.proposed_by) for row in found
    ]


async def _signatures(db: Executor, drafts: Collection[UUID]) -> dict[UUID, dict[str, Signature]]:
    found: dict[UUID, dict[str, Signature]] = {}
    if drafts:
        for row in await db.execute(
            text(
                "SELECT draft, agency, name, role, signed_at FROM agreement_signature WHERE draft = ANY(:drafts)"
                " ORDER BY signed_at, agency"
            ),
            {"drafts": list(drafts)},
        ):
            found.setdefault(row.draft, {})[row.agency] = Signature(row.name, row.role, row.signed_at)
    return found


async def add_signature(db: Executor, draft: UUID, agency: str, signature: Signature) -> None:
    """Enter that an agency signed; its first signature stands."""
    await db.execute(
        text(
            "INSERT INTO agreement_signature (draft, agency, name, role, signed_at)"
            " VALUES (:draft, :agency, :name, :role, :at) ON CONFLICT DO NOTHING"
        ),
        {
            "draft": draft,
            "agency": agency,
            "name": signature.name,
            "role": signature.role,
            "at": signature.signed_at,
        },
    )


# --- changes ----------------------------------------------------------------------------------------------------------

_CHANGE = "number, id, agreement, kind, version, by, reason, at, effective_at"


async def add_change(
    db: Executor,
    agreement: Agreement,
    kind: str,
    by: str,
    reason: str | None,
    at: datetime,
    effective_at: datetime,
) -> Change:
    """Enter a change under the next number. The caller holds the register's lock."""
    number = (await db.execute(text("SELECT coalesce(max(number), 0) + 1 FROM agreement_change"))).scalar_one()
    change = Change(number, uuid4(), agreement.id, kind, agreement.version, by, reason, at, effective_at)
    await db.execute(
        text(
            f"INSERT INTO agreement_change ({_CHANGE}) VALUES (:number, :id, :agreement, :kind, :version, :by, :reason,"  # noqa: S608 # ours
            " :at, :effective_at)"
        ),
        {name: getattr(change, name) for name in Change.__slots__},
    )
    return change


async def change(db: Executor, id: UUID) -> Change | None:
    """A change by its id."""
    row = (
        await db.execute(text(f"SELECT {_CHANGE} FROM agreement_change WHERE id = :id"), {"id": id})  # noqa: S608 # ours
    ).one_or_none()
    return None if row is None else Change(*row)


async def changes(db: Executor, agreement: str) -> list[Change]:
    """All that happened to an agreement, oldest first."""
    rows = await db.execute(
        text(f"SELECT {_CHANGE} FROM agreement_change WHERE agreement = :id ORDER BY number"),  # noqa: S608 # ours
        {"id": agreement},
    )
    return [Change(*row) for row in rows]


# --- snapshots that a change makes due --------------------------------------------------------------------------------


async def add_follow_up(db: Executor, change: Change, sources: Collection[str]) -> None:
    """Remember to offer snapshots of the clients of these sources once the change has effect."""
    await db.execute(
        text("INSERT INTO agreement_follow_up (change, sources, due_at) VALUES (:change, :sources, :at)"),
        {"change": change.number, "sources": sorted(sources), "at": change.effective_at},
    )


async def claim_follow_up(db: Executor) -> Any | None:
    """The follow-up that is due first, locked until the commit; None when there is none that nobody else works on."""
    return (
        await db.execute(
            text(
                "SELECT f.change, f.sources, f.after, c.agreement, c.version, c.kind FROM agreement_follow_up f"
                " JOIN agreement_change c ON c.number = f.change WHERE f.due_at <= clock_timestamp()"
                " ORDER BY f.due_at, f.change LIMIT 1 FOR UPDATE OF f SKIP LOCKED"
            )
        )
    ).one_or_none()


async def move_on(db: Executor, change: int, after: int) -> None:
    """The clients up to `after` are done."""
    await db.execute(
        text("UPDATE agreement_follow_up SET after = :after WHERE change = :change"), {"change": change, "after": after}
    )


async def end_follow_up(db: Executor, change: int) -> None:
    """All clients are done."""
    await db.execute(text("DELETE FROM agreement_follow_up WHERE change = :change"), {"change": change})


async def postpone_follow_up(db: Executor, seconds: float) -> None:
    """Let the others go first: the one that is due first could not be done."""
    await db.execute(
        text(
            "UPDATE agreement_follow_up SET due_at = clock_timestamp() + make_interval(secs => :seconds) WHERE change ="
            " (SELECT change FROM agreement_follow_up WHERE due_at <= clock_timestamp()"
            " ORDER BY due_at, change LIMIT 1 FOR UPDATE SKIP LOCKED)"
        ),
        {"seconds": seconds},
    )


async def followed_up(db: Executor, change: int) -> bool:
    """Whether every snapshot that this change made due is queued."""
    row = await db.execute(text("SELECT 1 FROM agreement_follow_up WHERE change = :change"), {"change": change})
    return row.one_or_none() is None
