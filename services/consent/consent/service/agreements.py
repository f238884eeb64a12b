"""Parties and agreements: entering them, and what a new agreement makes due."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Agency, Agreement
from consent.repository import clients, parties, queue
from consent.service import register
from consent.service.desk import Desk
from contracts.vocabulary import AgencyKind
from servicekit.db import wake_after_commit
from servicekit.problems import Problem

CHUNK = 500


async def register_agency(session: AsyncSession, agency: Agency, name: str) -> None:
    """Enter or change a party.

    Raises:
        Problem: 409, the id belongs to one of our own services.
    """
    known = (await parties.agencies(session)).get(agency.id)
    if (known is not None and known.kind is AgencyKind.SERVICE) or agency.kind is AgencyKind.SERVICE:
        raise Problem(
            "reserved-id", "This id is taken by one of our services", "Choose another id for the agency.", 409
        )
    await parties.put_agency(session, agency, name)


async def sign(session: AsyncSession, agreement: Agreement, signatories: dict[str, str], review: datetime) -> None:
    """Enter an agreement's next version, and queue a snapshot of every client for whom a permit begins by it.

    Raises:
        Problem: 422, a party is not registered or has not signed; 409, the version is not the next one.
    """
    registered = await register.load(session)
    named = agreement.sources | agreement.recipients
    if missing := named - registered.agencies.keys():
        raise Problem(
            "party-not-registered",
            "A party is not registered",
            f"Register these agencies first with PUT /agencies: {', '.join(sorted(missing))}.",
            422,
        )
    unsigned = {p for p in named if registered.kinds[p] is not AgencyKind.SERVICE} - signatories.keys()
    if unsigned:
        raise Problem(
            "signature-missing",
            "Not every party has signed",
            f"Give a signatory for each of: {', '.join(sorted(unsigned))}.",
            422,
        )
    current = max((a.version for a in registered.agreements if a.id == agreement.id), default=0)
    if agreement.version != current + 1:
        raise Problem(
            "version-conflict",
            "This is not the agreement's next version",
            f"The newest version is {current}: read it, and send version {current + 1}.",
            409,
        )
    await parties.add_agreement(session, agreement, signatories, review)
    await _offer_snapshots(session, agreement)


async def _offer_snapshots(session: AsyncSession, agreement: Agreement) -> None:
    after = 0
    while ids := await clients.of_sources(session, agreement.sources, after, CHUNK):
        await clients.lock(session, ids)
        now = await clients.time_now(session)
        desk = Desk(await clients.load(session, ids, ids), await register.load(session), now)
        for client in desk.clients.values():
            desk.offer_snapshots(client, max(now, agreement.starts), None)
        await clients.write(session, desk.changes)
        after = ids[-1]
    wake_after_commit(session, queue.CHANNEL)
