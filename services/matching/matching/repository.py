"""The tables of the matching service, and all of its SQL."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.vocabulary import Category
from matching.domain import DENIAL_REMEMBERED, EXPIRY_REMEMBERED, Client, Match, Reason, Section, State, Volunteer

ROUND_LOCK = 7_203
"""Advisory lock of a round: one runs at a time, whoever started it."""


async def _rows(session: AsyncSession, sql: str, **values: Any) -> Sequence[RowMapping]:
    result = await session.execute(text(sql), values)
    return result.mappings().all()


async def _do(session: AsyncSession, sql: str, **values: Any) -> None:
    await session.execute(text(sql), values)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()


async def now(session: AsyncSession) -> datetime:
    """The time. Read after locks were taken: so not the time at which the transaction began."""
    at: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return at


async def lock_clients(session: AsyncSession, references: Collection[UUID]) -> dict[UUID, Client]:
    """Lock the clients' rows in sorted order, making those that are new, and give what is known of each."""
    wanted = sorted(references)
    await _do(
        session,
        """
        INSERT INTO client (reference) SELECT r FROM unnest(CAST(:wanted AS uuid[])) AS r ORDER BY r
        ON CONFLICT DO NOTHING
        """,
        wanted=wanted,
    )
    await _do(
        session,
        "SELECT FROM client WHERE reference = ANY(:wanted) ORDER BY reference FOR NO KEY UPDATE",
        wanted=wanted,
    )
    return await clients(session, wanted)


async def clients(session: AsyncSession, wanted: Sequence[UUID]) -> dict[UUID, Client]:
    """What is known of these clients, with their open matches; without a lock, as of now."""
    found = {
        row.reference: Client(row.reference, row.tombstone, row.waiting_since, row.facts_at)
        for row in await _rows(
            session,
            "SELECT reference, tombstone, waiting_since, facts_at FROM client WHERE reference = ANY(:wanted)",
            wanted=wanted,
        )
    }
    for row in await _rows(
        session,
        "SELECT client, source, category, recorded_at, data FROM section WHERE client = ANY(:wanted)",
        wanted=wanted,
    ):
        section = Section(row.source, Category(row.category), row.recorded_at, row.data)
        found[row.client].sections[section.source, section.category] = section
    for row in await _rows(
        session,
        """
        SELECT id, client, volunteer, scheme, expires_at, state, reason, request, explanation, withheld, changed_at,
            origin
        FROM match WHERE client = ANY(:wanted) AND state IN ('requested', 'offered', 'active')
        """,
        wanted=wanted,
    ):
        read = {"state": State(row.state), "reason": Reason(row.reason) if row.reason else None}
        found[row.client].matches.append(Match(**{**row, **read}))
    return found


async def waiting(session: AsyncSession) -> list[UUID]:
    """The clients who wait for a mentor, the longest waiting first."""
    found = await session.scalars(
        text(
            """
            SELECT reference FROM client
            WHERE waiting_since IS NOT NULL
                AND NOT EXISTS (SELECT FROM match WHERE match.client = client.reference
                    AND state IN ('requested', 'offered', 'active'))
            ORDER BY waiting_since, reference
            """
        )
    )
    return list(found)


async def past(session: AsyncSession, wanted: Sequence[UUID], at: datetime) -> Sequence[RowMapping]:
    """Of these clients' closed matches, those that say that an offer is not to be made again."""
    return await _rows(
        session,
        """
        SELECT client, volunteer, scheme, state, changed_at FROM match
        WHERE client = ANY(:wanted) AND (state = 'declined'
            OR (state = 'expired' AND changed_at > CAST(:expired_since AS timestamptz))
            OR (reason = 'sharing-denied' AND changed_at > CAST(:denied_since AS timestamptz)))
        """,
        wanted=wanted,
        expired_since=at - EXPIRY_REMEMBERED,
        denied_since=at - DENIAL_REMEMBERED,
    )


async def lock_volunteers(session: AsyncSession, ids: Collection[UUID]) -> dict[UUID, Volunteer]:
    """Lock these volunteers in sorted order, so that nobody else fills their caseload."""
    wanted = sorted(ids)
    await _do(session, "SELECT FROM volunteer WHERE id = ANY(:wanted) ORDER BY id FOR NO KEY UPDATE", wanted=wanted)
    return {v.id: v for v in await volunteers(session, wanted)}


async def volunteers(session: AsyncSession, wanted: Sequence[UUID] | None = None) -> list[Volunteer]:
    """These volunteers, or all who could be offered, with their caseloads."""
    rows = await _rows(
        session,
        """
        SELECT id, scheme, areas, languages, gender, approved, available, dbs_level, dbs_expires, prison_clearances,
            training, experience_months, interviewed_by_public_protection, caseload_limit, pathways,
            (SELECT count(*) FROM match WHERE match.volunteer = volunteer.id
                AND state IN ('requested', 'offered', 'active')) AS caseload
        FROM volunteer
        WHERE id = ANY(CAST(:wanted AS uuid[])) OR (CAST(:wanted AS uuid[]) IS NULL AND approved AND available)
        ORDER BY id
        """,
        wanted=wanted,
    )
    sets = ("areas", "languages", "prison_clearances", "training", "pathways")
    return [Volunteer(**{**row, **{name: frozenset(row[name]) for name in sets}}) for row in rows]


async def expiring(session: AsyncSession) -> list[UUID]:
    """The clients of offers whose time has passed."""
    found = await session.scalars(
        text(
            "SELECT client FROM match WHERE state IN ('requested', 'offered')"
            " AND expires_at <= clock_timestamp() ORDER BY client LIMIT 500"
        )
    )
    return list(found)


async def try_round_lock(session: AsyncSession) -> bool:
    """Whether this transaction may run a round: false while another one does."""
    return bool(await session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": ROUND_LOCK}))


async def round_due(session: AsyncSession) -> bool:
    """Whether somebody waits, and something changed since the last round or it was an hour ago.

    A minute is looked at twice: a change may be committed later than the time that it carries.
    """
    return bool(
        await session.scalar(
            text(
                """
                WITH since AS (SELECT coalesce(max(at), '-infinity') - interval '1 minute' AS at FROM last_round)
                SELECT EXISTS (SELECT FROM client WHERE waiting_since IS NOT NULL
                        AND NOT EXISTS (SELECT FROM match WHERE match.client = client.reference
                            AND state IN ('requested', 'offered', 'active')))
                    AND (since.at < clock_timestamp() - interval '1 hour'
                        OR EXISTS (SELECT FROM client WHERE facts_at > since.at)
                        OR EXISTS (SELECT FROM volunteer WHERE changed_at > since.at)
                        OR EXISTS (SELECT FROM match WHERE changed_at > since.at))
                FROM since
                """
            )
        )
    )


async def round_done(session: AsyncSession, at: datetime) -> None:
    """Remember when the last round began."""
    await _do(
        session, "INSERT INTO last_round (at) VALUES (:at) ON CONFLICT (single) DO UPDATE SET at = excluded.at", at=at
    )


async def save(
    session: AsyncSession,
    changed: Collection[Client],
    withdrawn: Collection[UUID],
    kept: Iterable[tuple[UUID, Section]],
) -> None:
    """Write what changed: `withdrawn` clients are erased first, then what was `kept` is written."""
    if withdrawn:
        references = sorted(withdrawn)
        await _do(session, "DELETE FROM section WHERE client = ANY(:references)", references=references)
        await _do(
            session,
            "UPDATE match SET explanation = '{}', withheld = '[]' WHERE client = ANY(:references)",
            references=references,
        )
    await _save_clients(session, changed, withdrawn)
    await _save_sections(session, {(client, s.source, s.category): s for client, s in kept})
    moved = [m for client in changed for m in client.matches if m.moves]
    # First the moves that close a match: a client has one open match.
    await _save_matches(session, [m for m in moved if not m.is_open])
    await _save_matches(session, [m for m in moved if m.is_open])


async def erase_poisoned(session: AsyncSession, client: UUID, version: int | None) -> None:
    """Erase a client's facts and keep the tombstone, whatever else is wrong."""
    await _do(
        session,
        """
        INSERT INTO client (reference, tombstone, withdrawn_at) VALUES (:client, :version, clock_timestamp())
        ON CONFLICT (reference) DO UPDATE SET tombstone = GREATEST(client.tombstone, excluded.tombstone),
            withdrawn_at = excluded.withdrawn_at, waiting_since = NULL, facts_at = NULL
        """,
        client=client,
        version=version,
    )
    await _do(session, "DELETE FROM section WHERE client = :client", client=client)
    await _do(session, "UPDATE match SET explanation = '{}', withheld = '[]' WHERE client = :client", client=client)


async def _save_clients(session: AsyncSession, changed: Collection[Client], withdrawn: Collection[UUID]) -> None:
    await _do(
        session,
        """
        UPDATE client SET tombstone = r.tombstone, waiting_since = r.waiting_since, facts_at = r.facts_at,
            withdrawn_at = CASE WHEN r.withdrawn THEN clock_timestamp() ELSE client.withdrawn_at END
        FROM unnest(CAST(:references AS uuid[]), CAST(:tombstones AS int[]), CAST(:waiting AS timestamptz[]),
            CAST(:facts AS timestamptz[]), CAST(:withdrawn AS boolean[]))
            AS r(reference, tombstone, waiting_since, facts_at, withdrawn)
        WHERE client.reference = r.reference AND (client.tombstone, client.waiting_since, client.facts_at)
            IS DISTINCT FROM (r.tombstone, r.waiting_since, r.facts_at)
        """,
        references=[c.reference for c in changed],
        tombstones=[c.tombstone for c in changed],
        waiting=[c.waiting_since for c in changed],
        facts=[c.facts_at for c in changed],
        withdrawn=[c.reference in withdrawn for c in changed],
    )


async def _save_sections(session: AsyncSession, sections: Mapping[tuple[UUID, str, Category], Section]) -> None:
    if not sections:
        return
    await _do(
        session,
        """
        INSERT INTO section (client, source, category, recorded_at, data)
        SELECT c, s, k, t, CAST(d AS jsonb)
        FROM unnest(CAST(:clients AS uuid[]), CAST(:sources AS text[]), CAST(:categories AS text[]),
            CAST(:times AS timestamptz[]), CAST(:data AS text[])) AS r(c, s, k, t, d)
        ON CONFLICT (client, source, category)
        DO UPDATE SET recorded_at = excluded.recorded_at, data = excluded.data
        """,
        clients=[client for client, _, _ in sections],
        sources=[source for _, source, _ in sections],
        categories=[category for _, _, category in sections],
        times=[section.recorded_at for section in sections.values()],
        data=[_json(section.data) for section in sections.values()],
    )


async def _save_matches(session: AsyncSession, matches: Sequence[Match]) -> None:
    if not matches:
        return
    await _do(
        session,
        """
        INSERT INTO match (id, client, volunteer, scheme, expires_at, state, reason, request, explanation, withheld,
            changed_at, origin)
        SELECT i, c, v, s, x, st, r, q, CAST(e AS jsonb), CAST(w AS jsonb), t, o
        FROM unnest(CAST(:ids AS uuid[]), CAST(:clients AS uuid[]), CAST(:volunteers AS uuid[]),
            CAST(:schemes AS text[]), CAST(:expires_at AS timestamptz[]), CAST(:states AS text[]),
            CAST(:reasons AS text[]), CAST(:requests AS uuid[]), CAST(:explanations AS text[]),
            CAST(:withheld AS text[]), CAST(:changed_at AS timestamptz[]), CAST(:origins AS text[]))
            AS rows(i, c, v, s, x, st, r, q, e, w, t, o)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason,
            explanation = excluded.explanation, withheld = excluded.withheld, changed_at = excluded.changed_at
        """,
        ids=[m.id for m in matches],
        clients=[m.client for m in matches],
        volunteers=[m.volunteer for m in matches],
        schemes=[m.scheme for m in matches],
        expires_at=[m.expires_at for m in matches],
        states=[m.state for m in matches],
        reasons=[m.reason for m in matches],
        requests=[m.request for m in matches],
        explanations=[_json(m.explanation) for m in matches],
        withheld=[_json(m.withheld) for m in matches],
        changed_at=[m.changed_at for m in matches],
        origins=[m.origin for m in matches],
    )
    moves = [(m.id, move) for m in matches for move in m.moves]
    await _do(
        session,
        """
        INSERT INTO match_history (match, at, state, by, reason)
        SELECT i, t, s, b, w
        FROM unnest(CAST(:ids AS uuid[]), CAST(:times AS timestamptz[]), CAST(:states AS text[]),
            CAST(:by AS text[]), CAST(:reasons AS text[])) WITH ORDINALITY AS r(i, t, s, b, w, n)
        ORDER BY n
        """,
        ids=[id for id, _ in moves],
        times=[move.at for _, move in moves],
        states=[move.state for _, move in moves],
        by=[move.by for _, move in moves],
        reasons=[move.reason for _, move in moves],
    )


async def put_volunteer(session: AsyncSession, id: UUID, values: Mapping[str, Any], within: str | None) -> bool:
    """Write one volunteer; false, and nothing written, where `within` is another agency than the volunteer's scheme."""
    written = await _rows(
        session,
        """
        INSERT INTO volunteer (id, scheme, areas, languages, gender, approved, available, dbs_level, dbs_expires,
            prison_clearances, training, experience_months, interviewed_by_public_protection, caseload_limit,
            pathways)
        VALUES (:id, :scheme, CAST(:areas AS text[]), CAST(:languages AS text[]), :gender, :approved, :available,
            :dbs_level, :dbs_expires, CAST(:prison_clearances AS text[]), CAST(:training AS text[]),
            :experience_months, :interviewed_by_public_protection, :caseload_limit, CAST(:pathways AS text[]))
        ON CONFLICT (id) DO UPDATE SET scheme = excluded.scheme, areas = excluded.areas,
            languages = excluded.languages, gender = excluded.gender, approved = excluded.approved,
            available = excluded.available, dbs_level = excluded.dbs_level, dbs_expires = excluded.dbs_expires,
            prison_clearances = excluded.prison_clearances, training = excluded.training,
            experience_months = excluded.experience_months,
            interviewed_by_public_protection = excluded.interviewed_by_public_protection,
            caseload_limit = excluded.caseload_limit, pathways = excluded.pathways,
            changed_at = clock_timestamp()
        WHERE CAST(:within AS text) IS NULL OR volunteer.scheme = CAST(:within AS text)
        RETURNING id
        """,
        id=id,
        within=within,
        **values,
    )
    return bool(written)


async def listed_volunteers(session: AsyncSession, limit: int) -> Sequence[RowMapping]:
    """Volunteers with their caseloads."""
    return await _rows(
        session,
        """
        SELECT id, scheme, approved, available, dbs_expires, caseload_limit,
            (SELECT count(*) FROM match WHERE match.volunteer = volunteer.id
                AND state IN ('requested', 'offered', 'active')) AS caseload
        FROM volunteer ORDER BY scheme, id LIMIT :limit
        """,
        limit=limit,
    )


async def matches(
    session: AsyncSession, within: str | None, client: UUID | None, state: str | None, limit: int
) -> Sequence[RowMapping]:
    """Matches, newest first, each with its history. `within` one agency: of which it is the origin, or was offered.

    Before the door has said that the scheme was told, or when it said no, the scheme learns nothing here either.
    """
    return await _rows(
        session,
        """
        SELECT id, client, volunteer, scheme, state, reason, expires_at, explanation, withheld, created_at,
            changed_at, (SELECT jsonb_agg(jsonb_build_object('at', h.at, 'state', h.state, 'by', h.by, 'reason',
                h.reason) ORDER BY h.id) FROM match_history h WHERE h.match = match.id) AS history
        FROM match
        WHERE (CAST(:client AS uuid) IS NULL OR client = CAST(:client AS uuid))
            AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
            AND (CAST(:within AS text) IS NULL OR origin = CAST(:within AS text)
                OR (scheme = CAST(:within AS text) AND EXISTS (
                    SELECT FROM match_history h WHERE h.match = match.id AND h.state = 'offered')))
        ORDER BY created_at DESC, id LIMIT :limit
        """,
        within=within,
        client=client,
        state=state,
        limit=limit,
    )
