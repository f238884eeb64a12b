"""The tables of the referral service, and all of its SQL."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import cleared_rows
from contracts.vocabulary import NEEDS, Category
from referral.domain import CLOSED, HOLDING, Client, Reason, Referral, Service, State, explained_by
from servicekit.sql import do, json, rows


async def lock_clients(session: AsyncSession, references: Collection[UUID]) -> dict[UUID, Client]:
    """Lock the clients' rows in sorted order, making those that are new, and give what is known of each."""
    await cleared_rows.make(session, references)
    return await _locked(session, references)


async def lock_known_client(session: AsyncSession, reference: UUID) -> Client | None:
    """Lock one client's row and give what is known, if the client is."""
    return (await _locked(session, [reference])).get(reference)


async def _locked(session: AsyncSession, wanted: Collection[UUID]) -> dict[UUID, Client]:
    locked = await cleared_rows.lock(session, wanted)
    clients = await cleared_rows.read(session, locked, lambda row: Client(row.reference))
    for row in await rows(
        session,
        """
        SELECT id, client, pathway, origin, respond_by, state, service, provider, request, follows, withheld,
            eligibility, changed_at
        FROM referral
        WHERE client = ANY(:wanted) AND state <> ALL(CAST(:over AS text[]))
        ORDER BY created_at, id
        """,
        wanted=locked,
        # One that was declined is closed, too, but it says who is not to be proposed again.
        over=sorted(CLOSED - {State.DECLINED}),
    ):
        if row.pathway is None:  # what it was about was erased, once it was closed
            declined = clients[row.client].declined
            declined[row.provider] = max(row.changed_at, declined.get(row.provider, row.changed_at))
            continue
        read = {
            "pathway": Category(row.pathway),
            "state": State(row.state),
            "withheld": row.withheld,
            "eligibility": row.eligibility,
        }
        clients[row.client].referrals.append(Referral(**{**row, **read}))
    return clients


async def lock_directory(session: AsyncSession, pathways: Collection[str]) -> dict[UUID, Service]:
    """Lock the lines on these pathways, so that nobody else gives places away, and count places held."""
    locked = await rows(
        session,
        """
        SELECT id, organization, pathways, area, minimum_age, maximum_age, status, capacity, assured_date
        FROM directory WHERE pathways && CAST(:pathways AS text[]) ORDER BY id FOR NO KEY UPDATE
        """,
        pathways=sorted(pathways),
    )
    found = {row.id: Service(**{**row, "pathways": frozenset(row.pathways)}) for row in locked}
    for row in await rows(
        session,
        """
        SELECT service, count(*) AS held FROM referral
        WHERE service = ANY(CAST(:services AS uuid[])) AND state = ANY(CAST(:holding AS text[]))
        GROUP BY service
        """,
        services=list(found),
        holding=sorted(HOLDING),
    ):
        found[row.service].held = row.held
    return found


async def save(session: AsyncSession, clients: Collection[Client]) -> None:
    """Write what changed: what is taken back is erased first, then what was kept is written.

    What closed referrals say is erased behind that: the same batch may have closed one.
    """
    await cleared_rows.save(session, clients)
    erased = [(client.reference, pathway) for client in clients for pathway in explained_by(client.erased)]
    if erased:
        await do(
            session,
            """
            UPDATE referral SET withheld = '[]', eligibility = '[]'
            FROM unnest(CAST(:clients AS uuid[]), CAST(:pathways AS text[])) AS r(c, p)
            WHERE referral.client = r.c AND referral.pathway = r.p
            """,
            clients=[client for client, _ in erased],
            pathways=[pathway for _, pathway in erased],
        )
    moved = [r for client in clients for r in client.referrals if r.moves]
    # First the moves that end a referral: a client has one open referral a pathway.
    await _save_referrals(session, [r for r in moved if not r.is_open])
    await _save_referrals(session, [r for r in moved if r.is_open])
    await _erase_closed(
        session, [(client.reference, p) for client in clients for p in client.erased.intersection(NEEDS)]
    )


async def _erase_closed(session: AsyncSession, erased: Sequence[tuple[UUID, Category]]) -> None:
    """Erase of the closed referrals on these clients' pathways what says something of the client: the pathway, the
    service, and why it ended. Agencies, states and times stay: each agency sees that its referral has ended.
    """
    if not erased:
        return
    which = """
        FROM referral r JOIN unnest(CAST(:clients AS uuid[]), CAST(:pathways AS text[])) AS e(c, p)
            ON r.client = e.c AND r.pathway = e.p AND r.state = ANY(CAST(:closed AS text[]))
        """
    values = {
        "clients": [client for client, _ in erased],
        "pathways": [pathway for _, pathway in erased],
        "closed": sorted(CLOSED),
    }
    await do(
        session,
        f"UPDATE referral_history h SET reason = NULL {which} WHERE h.referral = r.id AND h.reason <> :kept",  # noqa: S608
        kept=Reason.SHARING_TAKEN_BACK,
        **values,
    )
    await do(
        session,
        f"UPDATE referral SET pathway = NULL, service = NULL WHERE id IN (SELECT r.id {which})",  # noqa: S608
        **values,
    )


async def erase_poisoned(session: AsyncSession, client: UUID, version: int | None) -> None:
    """Erase a client's facts and keep the tombstone, whatever else is wrong."""
    await cleared_rows.erase(session, client, version)
    await do(session, "UPDATE referral SET withheld = '[]', eligibility = '[]' WHERE client = :client", client=client)
    await _erase_closed(session, [(client, pathway) for pathway in NEEDS])


async def _save_referrals(session: AsyncSession, referrals: Sequence[Referral]) -> None:
    if not referrals:
        return
    await do(
        session,
        """
        INSERT INTO referral (id, client, pathway, origin, respond_by, state, service, provider, request,
            follows, withheld, eligibility, changed_at)
        SELECT i, c, p, o, r, s, v, a, q, f, CAST(w AS jsonb), CAST(e AS jsonb), t
        FROM unnest(CAST(:ids AS uuid[]), CAST(:clients AS uuid[]), CAST(:pathways AS text[]),
            CAST(:origins AS text[]), CAST(:respond_by AS timestamptz[]), CAST(:states AS text[]),
            CAST(:services AS uuid[]), CAST(:providers AS text[]), CAST(:requests AS uuid[]),
            CAST(:follows AS uuid[]), CAST(:withheld AS text[]), CAST(:eligibility AS text[]),
            CAST(:changed_at AS timestamptz[])) AS rows(i, c, p, o, r, s, v, a, q, f, w, e, t)
        ON CONFLICT (id) DO UPDATE SET origin = excluded.origin, respond_by = excluded.respond_by,
            state = excluded.state, service = excluded.service, provider = excluded.provider,
            request = excluded.request, withheld = excluded.withheld, eligibility = excluded.eligibility,
            changed_at = excluded.changed_at
        """,
        ids=[r.id for r in referrals],
        clients=[r.client for r in referrals],
        pathways=[r.pathway for r in referrals],
        origins=[r.origin for r in referrals],
        respond_by=[r.respond_by for r in referrals],
        states=[r.state for r in referrals],
        services=[r.service for r in referrals],
        providers=[r.provider for r in referrals],
        requests=[r.request for r in referrals],
        follows=[r.follows for r in referrals],
        withheld=[json(r.withheld) for r in referrals],
        eligibility=[json(r.eligibility) for r in referrals],
        changed_at=[r.changed_at for r in referrals],
    )
    moves = [(r.id, move) for r in referrals for move in r.moves]
    await do(
        session,
        """
        INSERT INTO referral_history (referral, at, state, by, reason)
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


async def put_service(session: AsyncSession, id: UUID, values: Mapping[str, Any], within: str | None) -> bool:
    """Write one line of the directory; false, and nothing written, where `within` is another agency than its own."""
    written = await rows(
        session,
        """
        INSERT INTO directory (id, name, organization, pathways, area, minimum_age, maximum_age, status,
            capacity, assured_date)
        VALUES (:id, :name, :organization, CAST(:pathways AS text[]), :area, :minimum_age, :maximum_age,
            :status, :capacity, :assured_date)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, organization = excluded.organization,
            pathways = excluded.pathways, area = excluded.area, minimum_age = excluded.minimum_age,
            maximum_age = excluded.maximum_age, status = excluded.status, capacity = excluded.capacity,
            assured_date = excluded.assured_date
        WHERE CAST(:within AS text) IS NULL OR directory.organization = CAST(:within AS text)
        RETURNING id
        """,
        id=id,
        within=within,
        **values,
    )
    return bool(written)


async def services(session: AsyncSession, pathway: str | None, limit: int, after: UUID | None) -> Sequence[RowMapping]:
    """The directory behind the line with id `after`, by name, with the places that are held now."""
    return await rows(
        session,
        """
        SELECT d.*, (SELECT count(*) FROM referral r
            WHERE r.service = d.id AND r.state = ANY(CAST(:holding AS text[]))) AS held
        FROM directory d
        WHERE (CAST(:pathway AS text) IS NULL OR CAST(:pathway AS text) = ANY(d.pathways))
            AND (CAST(:after AS uuid) IS NULL
                OR (d.name, d.id) > (SELECT l.name, l.id FROM directory l WHERE l.id = CAST(:after AS uuid)))
        ORDER BY d.name, d.id LIMIT :limit
        """,
        after=after,
        pathway=pathway,
        holding=sorted(HOLDING),
        limit=limit,
    )


async def referrals(
    session: AsyncSession,
    within: str | None,
    *,
    id: UUID | None = None,
    client: UUID | None = None,
    state: str | None = None,
    limit: int = 1,
    after: UUID | None = None,
) -> Sequence[RowMapping]:
    """Referrals behind the one with id `after`, newest first. `within` one agency: of which it is the origin, or which
    it was sent as the provider.

    Before the door has said that the provider was told, or when it said no, the provider learns nothing here either.
    Nor does it ever learn how it was chosen, or after whom: that says of the client what no referral tells.
    """
    return await rows(
        session,
        """
        WITH mine AS NOT MATERIALIZED (
            SELECT referral.*, own
            FROM referral, LATERAL (SELECT CAST(:within AS text) IS NULL OR origin = CAST(:within AS text)) AS o(own)
            WHERE own OR (provider = CAST(:within AS text) AND EXISTS (
                SELECT FROM referral_history h WHERE h.referral = referral.id AND h.state = 'sent'))
        )
        SELECT id, client, pathway, service, state, respond_by, created_at, changed_at,
            CASE WHEN own THEN follows END AS follows,
            CASE WHEN own THEN withheld ELSE '[]' END AS withheld,
            CASE WHEN own THEN eligibility ELSE '[]' END AS eligibility
        FROM mine
        WHERE (CAST(:id AS uuid) IS NULL OR id = CAST(:id AS uuid))
            AND (CAST(:client AS uuid) IS NULL OR client = CAST(:client AS uuid))
            AND (CAST(:state AS text) IS NULL OR state = CAST(:state AS text))
            AND (CAST(:after AS uuid) IS NULL
                OR (created_at, id) < (SELECT l.created_at, l.id FROM mine l WHERE l.id = CAST(:after AS uuid)))
        ORDER BY created_at DESC, id DESC LIMIT :limit
        """,
        id=id,
        after=after,
        client=client,
        state=state,
        within=within,
        limit=limit,
    )


async def history(session: AsyncSession, within: str | None, referral: UUID) -> Sequence[RowMapping]:
    """The states of one referral in the order in which it came to them. `within` one agency that is not its origin:
    from when it was sent, for before it may have been meant for others.
    """
    return await rows(
        session,
        """
        SELECT h.at, h.state, h.by, h.reason FROM referral_history h JOIN referral r ON r.id = h.referral
        WHERE r.id = :referral AND (CAST(:within AS text) IS NULL OR r.origin = CAST(:within AS text)
            OR h.id >= (SELECT min(s.id) FROM referral_history s WHERE s.referral = r.id AND s.state = 'sent'))
        ORDER BY h.id
        """,
        within=within,
        referral=referral,
    )
