"""The tables of the notifications service, all of its SQL, and its clocks."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from contracts import cleared_rows
from notifications.domain import Client, Partner, Plan, PlanReason, PlanState, Step, StepName, StepState
from servicekit.sql import do, json, rows, time_now

PARTNERS_LOCK = 7_204
"""Advisory lock: shared by whoever plans, alone for whoever changes the gate partners, so that no plan misses one."""

Clock = Callable[[AsyncSession], Awaitable[datetime]]
"""Gives the present, UTC. Asked after locks were taken: the time at which the transaction began is too early."""


async def adjustable_clock(session: AsyncSession) -> datetime:
    """The database's time and the offset that was set."""
    sql = "SELECT clock_timestamp() + coalesce((SELECT ahead FROM clock), interval '0')"
    at: datetime = (await session.execute(text(sql))).scalar_one()
    return at


CLOCKS: dict[str, Clock] = {"system": time_now, "adjustable": adjustable_clock}
"""The clocks by the names that the setting has for them."""


async def set_clock(session: AsyncSession, at: datetime) -> None:
    """Set the adjustable clock."""
    await do(
        session,
        """
        INSERT INTO clock (ahead) VALUES (CAST(:at AS timestamptz) - clock_timestamp())
        ON CONFLICT (single) DO UPDATE SET ahead = excluded.ahead
        """,
        at=at,
    )


async def lock_clients(session: AsyncSession, references: Collection[UUID]) -> dict[UUID, Client]:
    """Lock the clients' rows in sorted order, making those that are new, and give what is known of each."""
    await cleared_rows.make(session, references)
    return await _clients(session, await cleared_rows.lock(session, references))


async def lock_due_clients(session: AsyncSession, now: datetime, limit: int) -> dict[UUID, Client]:
    """Lock clients with a step that is due or a plan that is stale, leaving out those whom somebody else works on."""
    found = await session.scalars(
        text(
            """
            (SELECT client FROM step WHERE state = 'planned' AND due_at <= :now ORDER BY due_at LIMIT :limit)
            UNION (SELECT client FROM plan WHERE stale LIMIT :limit)
            """
        ),
        {"now": now, "limit": limit},
    )
    if not (wanted := list(found)):
        return {}
    return await _clients(session, await cleared_rows.lock(session, wanted, skip_locked=True))


async def _clients(session: AsyncSession, wanted: Sequence[UUID]) -> dict[UUID, Client]:
    found = await cleared_rows.read(session, wanted, lambda row: Client(row.reference))
    plans: dict[UUID, Plan] = {}
    for row in await rows(
        session,
        """
        SELECT id, client, state, reason, origin, prison, release_date FROM plan
        WHERE client = ANY(:wanted) AND (reason IS DISTINCT FROM 'sharing-taken-back'
            OR EXISTS (SELECT FROM step WHERE step.plan = plan.id AND step.client = plan.client
                AND step.state = 'asked'))
        """,
        wanted=wanted,
    ):
        read: dict[str, Any] = {"state": PlanState(row.state), "reason": PlanReason(row.reason) if row.reason else None}
        plans[row.id] = Plan(**{**row, **read})
        found[row.client].plans.append(plans[row.id])
    for row in await rows(
        session,
        """
        SELECT id, plan, name, recipient, for_date, due_at, state, request, withheld FROM step
        WHERE plan = ANY(CAST(:plans AS uuid[])) ORDER BY due_at, recipient, id
        """,
        plans=list(plans),
    ):
        values = {k: v for k, v in row.items() if k != "plan"}
        values |= {"name": StepName(row.name), "state": StepState(row.state)}
        plans[row.plan].steps.append(Step(**values))
    return found


async def partners(session: AsyncSession) -> list[Partner]:
    """Every gate partner, who cannot change until this transaction ends."""
    await do(session, "SELECT pg_advisory_xact_lock_shared(:lock)", lock=PARTNERS_LOCK)
    return [
        Partner(row.agency, row.prison, frozenset(StepName(name) for name in row.steps))
        for row in await rows(session, "SELECT agency, prison, steps FROM gate_partner")
    ]


async def save(session: AsyncSession, changed: Collection[Client]) -> None:
    """Write what changed: what is taken back is erased first, then what was kept is written."""
    await cleared_rows.save(session, changed)
    plans = [plan for client in changed for plan in client.plans]
    # First the plans that are cancelled: a client has one that is planned.
    await _save_plans(session, [p for p in plans if p.changed and p.state == PlanState.CANCELLED])
    await _save_plans(session, [p for p in plans if p.changed and p.state == PlanState.PLANNED])
    await _save_steps(session, [(plan, step) for plan in plans for step in plan.steps if step.changed])


async def erase_poisoned(session: AsyncSession, client: UUID, version: int | None) -> None:
    """Erase a client's facts and keep the tombstone, whatever else is wrong; without its day a plan is none."""
    await cleared_rows.erase(session, client, version)
    await do(
        session,
        """
        UPDATE plan SET state = 'cancelled', reason = 'sharing-taken-back', origin = NULL, prison = NULL,
            release_date = NULL, stale = false, changed_at = clock_timestamp()
        WHERE client = :client
        """,
        client=client,
    )
    await do(
        session,
        """
        UPDATE step SET for_date = NULL, due_at = NULL, withheld = '[]',
            changed_at = CASE WHEN state = 'sent' THEN changed_at ELSE clock_timestamp() END,
            state = CASE WHEN state = 'planned' THEN 'cancelled' ELSE state END
        WHERE client = :client
        """,
        client=client,
    )


async def _save_plans(session: AsyncSession, plans: Sequence[Plan]) -> None:
    if not plans:
        return
    await do(
        session,
        """
        INSERT INTO plan (id, client, state, reason, origin, prison, release_date)
        SELECT i, c, s, r, o, p, d
        FROM unnest(CAST(:ids AS uuid[]), CAST(:clients AS uuid[]), CAST(:states AS text[]), CAST(:reasons AS text[]),
            CAST(:origins AS text[]), CAST(:prisons AS text[]), CAST(:dates AS date[])) AS rows(i, c, s, r, o, p, d)
        ON CONFLICT (id) DO UPDATE SET state = excluded.state, reason = excluded.reason, origin = excluded.origin,
            prison = excluded.prison, release_date = excluded.release_date, stale = false,
            changed_at = clock_timestamp()
        """,
        ids=[p.id for p in plans],
        clients=[p.client for p in plans],
        states=[p.state for p in plans],
        reasons=[p.reason for p in plans],
        origins=[p.origin for p in plans],
        prisons=[p.prison for p in plans],
        dates=[p.release_date for p in plans],
    )


async def _save_steps(session: AsyncSession, steps: Sequence[tuple[Plan, Step]]) -> None:
    """Write steps. The time of one that was sent stays: what is erased later is nothing for its recipient to see."""
    if not steps:
        return
    await do(
        session,
        """
        INSERT INTO step (id, plan, client, name, recipient, for_date, due_at, state, request, withheld)
        SELECT i, p, c, n, r, f, d, s, q, CAST(w AS jsonb)
        FROM unnest(CAST(:ids AS uuid[]), CAST(:plans AS uuid[]), CAST(:clients AS uuid[]), CAST(:names AS text[]),
            CAST(:recipients AS text[]), CAST(:dates AS date[]), CAST(:due AS timestamptz[]),
            CAST(:states AS text[]), CAST(:requests AS uuid[]), CAST(:withheld AS text[]))
            AS rows(i, p, c, n, r, f, d, s, q, w)
        ON CONFLICT (id) DO UPDATE SET for_date = excluded.for_date, due_at = excluded.due_at, state = excluded.state,
            request = excluded.request, withheld = excluded.withheld,
            changed_at = CASE WHEN step.state = 'sent' THEN step.changed_at ELSE clock_timestamp() END
        """,
        ids=[step.id for _, step in steps],
        plans=[plan.id for plan, _ in steps],
        clients=[plan.client for plan, _ in steps],
        names=[step.name for _, step in steps],
        recipients=[step.recipient for _, step in steps],
        dates=[step.for_date for _, step in steps],
        due=[step.due_at for _, step in steps],
        states=[step.state for _, step in steps],
        requests=[step.request for _, step in steps],
        withheld=[json(step.withheld) for _, step in steps],
    )


async def put_partner(session: AsyncSession, agency: str, prisons: Sequence[str], steps: Sequence[str]) -> None:
    """Write who an agency meets and what it is told of; the worker brings the plans that it touches in line."""
    await do(session, "SELECT pg_advisory_xact_lock(:lock)", lock=PARTNERS_LOCK)
    await do(
        session,
        """
        UPDATE plan SET stale = true WHERE state = 'planned' AND (
            EXISTS (SELECT FROM gate_partner g WHERE g.agency = :agency AND g.prison IN ('*', plan.prison))
            OR CAST(:prisons AS text[]) && ARRAY['*', plan.prison])
        """,
        agency=agency,
        prisons=prisons,
    )
    await do(session, "DELETE FROM gate_partner WHERE agency = :agency", agency=agency)
    await do(
        session,
        """
        INSERT INTO gate_partner (agency, prison, steps)
        SELECT :agency, p, CAST(:steps AS text[]) FROM unnest(CAST(:prisons AS text[])) AS r(p)
        """,
        agency=agency,
        prisons=prisons,
        steps=steps,
    )


async def plans(
    session: AsyncSession,
    within: str | None,
    *,
    id: UUID | None = None,
    client: UUID | None = None,
    limit: int = 1,
    after: UUID | None = None,
) -> Sequence[RowMapping]:
    """Plans behind the one with id `after`, newest first, with how many of their steps are in each state.

    `within` one agency: those that rest on its record, and of others the steps that it was told, without the rest.
    Before the door has let a step out, or when it did not, its recipient learns nothing here either; nor, of what
    becomes of the plan, after it.
    """
    return await rows(
        session,
        """
        WITH mine AS NOT MATERIALIZED (
            SELECT plan.*, own
            FROM plan, LATERAL (SELECT CAST(:within AS text) IS NULL OR origin = CAST(:within AS text)) AS o(own)
            WHERE own OR EXISTS (SELECT FROM step WHERE step.plan = plan.id
                AND step.recipient = CAST(:within AS text) AND step.state = 'sent')
        )
        SELECT id, client, created_at,
            CASE WHEN own THEN state END AS state,
            CASE WHEN own THEN reason END AS reason,
            CASE WHEN own THEN changed_at ELSE (SELECT max(step.changed_at) FROM step WHERE step.plan = mine.id
                AND step.recipient = CAST(:within AS text) AND step.state = 'sent') END AS changed_at,
            (SELECT coalesce(jsonb_object_agg(s.state, s.n), '{}') FROM (
                SELECT state, count(*) AS n FROM step
                WHERE step.plan = mine.id AND (own OR (step.recipient = CAST(:within AS text) AND step.state = 'sent'))
                GROUP BY state) s) AS steps
        FROM mine
        WHERE (CAST(:id AS uuid) IS NULL OR id = CAST(:id AS uuid))
            AND (CAST(:client AS uuid) IS NULL OR client = CAST(:client AS uuid))
            AND (CAST(:after AS uuid) IS NULL
                OR (created_at, id) < (SELECT l.created_at, l.id FROM mine l WHERE l.id = CAST(:after AS uuid)))
        ORDER BY created_at DESC, id DESC LIMIT :limit
        """,
        after=after,
        within=within,
        id=id,
        client=client,
        limit=limit,
    )


async def steps(session: AsyncSession, within: str | None, plan: UUID) -> Sequence[RowMapping]:
    """The steps of one plan; `within` one agency as `plans` counts them."""
    return await rows(
        session,
        """
        SELECT step.id, step.name, step.recipient, step.state, step.withheld, step.changed_at
        FROM step JOIN plan ON plan.id = step.plan
        WHERE step.plan = :plan AND (CAST(:within AS text) IS NULL OR plan.origin = CAST(:within AS text)
            OR (step.recipient = CAST(:within AS text) AND step.state = 'sent'))
        ORDER BY step.due_at, step.recipient, step.id
        """,
        within=within,
        plan=plan,
    )
