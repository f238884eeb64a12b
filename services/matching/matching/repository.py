"""The tables of the matching service, and all of its SQL."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import cleared_rows
from matching.domain import (
    DENIAL_REMEMBERED,
    EXPIRY_REMEMBERED,
    KEPT,
    OPEN,
    TOLD,
    Client,
    Match,
    Reason,
    State,
    Volunteer,
)
from servicekit.sql import do, json, rows

ROUND_LOCK = 7_203
"""Advisory lock of a round: one runs at a time, whoever started it."""
_OPEN = f"state IN ({', '.join(repr(state.value) for state in State if state in OPEN)})"
"""That a match is open. The states stand in the text and are not bound: by it the partial indexes are found."""


async def lock_clients(session: AsyncSession, references: Collection[UUID]) -> dict[UUID, Client]:
    """Lock the clients' rows in sorted order, making those that are new, and give what is known of each."""
    await cleared_rows.make(session, references)
    return await clients(session, await cleared_rows.lock(session, references))


def _client(row: RowMapping) -> Client:
    return Client(row.reference, waiting_since=row.waiting_since, facts_at=row.facts_at)


async def clients(session: AsyncSession, wanted: Sequence[UUID]) -> dict[UUID, Client]:
    """What is known of these clients, with their open matches; without a lock, as of now."""
    found = await cleared_rows.read(session, wanted, _client)
    for row in await rows(
        session,
        f"""
        SELECT id, client, volunteer, scheme, expires_at, state, reason, request, explanation, withheld, changed_at,
            origin
        FROM match WHERE client = ANY(:wanted) AND {_OPEN}
        """,  # noqa: S608 # ours
        wanted=wanted,
    ):
        read = {"state": State(row.state), "reason": Reason(row.reason) if row.reason else None}
        found[row.client].matches.append(Match(**{**row, **read}))
    return found


async def waiting(session: AsyncSession) -> list[UUID]:
    """The clients who wait for a mentor, the longest waiting first."""
    found = await session.scalars(
        text(
            f"""
            SELECT reference FROM client
            WHERE waiting_since IS NOT NULL
                AND NOT EXISTS (SELECT FROM match WHERE match.client = client.reference AND {_OPEN})
            ORDER BY waiting_since, reference
            """  # noqa: S608 # ours
        )
    )
    return list(found)


async def past(session: AsyncSession, wanted: Sequence[UUID], at: datetime) -> Sequence[RowMapping]:
    """Of these clients' closed matches, those that say that an offer is not to be made again."""
    return await rows(
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
    await do(session, "SELECT FROM volunteer WHERE id = ANY(:wanted) ORDER BY id FOR NO KEY UPDATE", wanted=wanted)
    return {v.id: v for v in await volunteers(session, wanted)}


async def volunteers(session: AsyncSession, wanted: Sequence[UUID] | None = None) -> list[Volunteer]:
    """These volunteers, or all who could be offered, with their caseloads."""
    found = await rows(
        session,
        f"""
        SELECT id, scheme, areas, languages, gender, approved, available, dbs_level, dbs_expires, prison_clearances,
            training, experience_months, interviewed_by_public_protection, caseload_limit, pathways,
            (SELECT count(*) FROM match WHERE match.volunteer = volunteer.id AND {_OPEN}) AS caseload
        FROM volunteer
        WHERE id = ANY(CAST(:wanted AS uuid[])) OR (CAST(:wanted AS uuid[]) IS NULL AND approved AND available)
        ORDER BY id
        """,  # noqa: S608 # ours
        wanted=wanted,
    )
    sets = ("areas", "languages", "prison_clearances", "training", "pathways")
    return [Volunteer(**{**row, **{name: frozenset(row[name]) for name in sets}}) for row in found]


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
                f"""
                WITH since AS (SELECT coalesce(max(at), '-infinity') - interval '1 minute' AS at FROM last_round)
                SELECT EXISTS (SELECT FROM client WHERE waiting_since IS NOT NULL
                        AND NOT EXISTS (SELECT FROM match WHERE match.client = client.reference AND {_OPEN}))
                    AND (since.at < clock_timestamp() - interval '1 hour'
                        OR EXISTS (SELECT FROM client WHERE facts_at > since.at)
                        OR EXISTS (SELECT FROM volunteer WHERE changed_at > since.at)
                        OR EXISTS (SELECT FROM match WHERE changed_at > since.at))
                FROM since
                """  # noqa: S608 # ours
            )
        )
    )


async def round_done(session: AsyncSession, at: datetime) -> None:
    """Remember when the last round began."""
    await do(
        session, "INSERT INTO last_round (at) VALUES (:at) ON CONFLICT (single) DO UPDATE SET at = excluded.at", at=at
    )


async def save(session: AsyncSession, changed: Collection[Client]) -> None:
    """Write what changed: what is taken back is erased first, then what was kept is written.

    Why a match closed is erased behind that: the same batch may have closed one.
    """
    await cleared_rows.save(session, changed)
    erased = sorted(client.reference for client in changed if client.erased & KEPT.keys())
    if erased:
        await do(
            session,
            "UPDATE match SET explanation = '{}', withheld = '[]' WHERE client = ANY(:references)",
            references=erased,
        )
    await _save_clients(session, changed)
    moved = [m for client in changed for m in client.matches if m.moves]
    # First the moves that close a match: a client has one open match.
    await _save_matches(session, [m for m in moved if not m.is_open])
    await _save_matches(session, [m for m in moved if m.is_open])
    await _erase_reasons(session, [client.reference for client in changed if client.erased & TOLD])


async def erase_poisoned(session: AsyncSession, client: UUID, version: int | None) -> None:
    """Erase a client's facts and keep the tombstone, whatever else is wrong; the client does not wait any more."""
    await cleared_rows.erase(session, client, version)
    await do(
        session, "UPDATE client SET waiting_since = NULL, facts_at = NULL WHERE reference = :client", client=client
    )
    await do(session, "UPDATE match SET explanation = '{}', withheld = '[]' WHERE client = :client", client=client)
    await _erase_reasons(session, [client])


async def _erase_reasons(session: AsyncSession, clients: Collection[UUID]) -> None:
    """Erase why these clients' matches closed: a scheme's reason says something of the client."""
    if not clients:
        return
    values = {"clients": sorted(clients), "kept": Reason.SHARING_TAKEN_BACK}
    await do(
        session,
        """
        UPDATE match_history h SET reason = NULL FROM match m
        WHERE h.match = m.id AND m.client = ANY(:clients) AND h.reason <> :kept
        """,
        **values,
    )
    await do(session, "UPDATE match SET reason = NULL WHERE client = ANY(:clients) AND reason <> :kept", **values)


async def _save_clients(session: AsyncSession, changed: Collection[Client]) -> None:
    await do(
        session,
        """
        UPDATE client SET waiting_since = r.waiting_since, facts_at = r.facts_at
        FROM unnest(CAST(:references AS uuid[]), CAST(:waiting AS timestamptz[]), CAST(:facts AS timestamptz[]))
            AS r(reference, waiting_since, facts_at)
        WHERE client.reference = r.reference
            AND (client.waiting_since, client.facts_at) IS DISTINCT FROM (r.waiting_since, r.facts_at)
        """,
        references=[c.reference for c in changed],
        waiting=[c.waiting_since for c in changed],
        facts=[c.facts_at for c in changed],
    )


async def _save_matches(session: AsyncSession, matches: Sequence[Match]) -> None:
    if not matches:
        return
    await do(
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
        explanations=[json(m.explanation) for m in matches],
        withheld=[json(m.withheld) for m in matches],
        changed_at=[m.changed_at for m in matches],
        origins=[m.origin for m in matches],
    )
    moves = [(m.id, move) for m in matches for move in m.moves]
    await do(
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
    written = await rows(
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


async def listed_volunteers(
    session: AsyncSession, within: str | None, limit: int, after: UUID | None
) -> Sequence[RowMapping]:
    """Volunteers behind the one with id `after`, by scheme, with their caseloads. `within` one agency: its own.

    A caseload counts offers of which the scheme may not know yet: only a function of the database tells how many.
    """
    return await rows(
        session,
        """
        SELECT id, scheme, approved, available, dbs_expires, caseload_limit,
            caseload(id) AS caseload
        FROM volunteer WHERE (CAST(:within AS text) IS NULL OR scheme = CAST(:within AS text))
            AND (CAST(:after AS uuid) IS NULL
                OR (scheme, id) > (SELECT l.scheme, l.id FROM volunteer l WHERE l.id = CAST(:after AS uuid)
                    AND (CAST(:within AS text) IS NULL OR l.scheme = CAST(:within AS text))))
        ORDER BY scheme, id LIMIT :limit
        """,
        after=after,
        within=within,
        limit=limit,
    )


async def matches(
    session: AsyncSession,
    within: str | None,
    *,
    client: UUID | None = None,
    state: str | None = None,
    limit: int = 1,
    after: UUID | None = None,
) -> Sequence[RowMapping]:
    """Matches behind the one with id `after`, newest first, each with its history. `within` one agency: of which it is
    the origin, or was offered.

    Before the door has said that the scheme was told, or when it said no, the scheme learns nothing here either. Nor
    does it ever learn what spoke for the pair and what the rules found: they look at facts that no offer tells.
    """
    return await rows(
        session,
        """
        WITH mine AS NOT MATERIALIZED (
            SELECT match.*, own
            FROM match, LATERAL (SELECT CAST(:within AS text) IS NULL OR origin = CAST(:within AS text)) AS o(own)
            WHERE own OR (scheme = CAST(:within AS text) AND EXISTS (
                SELECT FROM match_history h WHERE h.match = match.id AND h.state = 'offered'))
        )
        SELECT id, client, volunteer, scheme, state, reason, expires_at, created_at, changed_at,
            CASE WHEN own THEN explanation ELSE '{}' END AS explanation,
            CASE WHEN own THEN withheld ELSE '[]' END AS withheld,
            (SELECT jsonb_agg(jsonb_build_object('at', h.at, 'state', h.state, 'by', h.by, 'reason', h.reason)
                ORDER BY h.id) FROM match_history h WHERE h.match = mine.id) AS history
        FROM mine
        WHERE (CAST(:client AS uuid) IS NULL OR client = CAST(:client AS uuid))
            AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
            AND (CAST(:after AS uuid) IS NULL
                OR (created_at, id) < (SELECT l.created_at, l.id FROM mine l WHERE l.id = CAST(:after AS uuid)))
        ORDER BY created_at DESC, id DESC LIMIT :limit
        """,
        after=after,
        within=within,
        client=client,
        state=state,
        limit=limit,
    )
