"""Taking back a conviction that is spent by now, or of which it cannot be told any more whether it is.

The end of a consent is told to everyone whom it reaches. This is told only to recipients that were told of the
conviction: nobody else may learn that there is one. The ledger says who was told.
"""

from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import ClientFacts, Item, Question, Withheld, decide
from consent.repository import ledger, retractions
from consent.repository.clients import Client
from consent.service.desk import BY_THE_DOOR, Desk
from consent.service.notices import Owed
from consent.service.sections import OFFENCE, spent_convictions
from contracts.vocabulary import Category, Purpose

ToldVersions = dict[tuple[str, Purpose], int]
"""By recipient and purpose, the newest version on which it was decided to tell."""


async def take_back(session: AsyncSession, client: Client, source: str, desk: Desk) -> None:
    """Queue retractions for everyone who was told the conviction that this source recorded and may not have it now.

    It goes by what is recorded now, so it may be called at any time and again. The caller holds the client's lock.
    """
    if (source, OFFENCE) not in client.sections:
        return
    spent = spent_convictions(client.sections.values())
    because = "spent-conviction" if source in spent else "spent-unknown"
    item = Item(source, Category.OFFENCE)

    def withheld(recipient: str, purpose: Purpose) -> bool:
        """Whether it is withheld for that reason. It is asked without facts: no other reason may hide this one."""
        question = Question(desk.register.agencies[recipient], purpose, (item,), desk.now, spent=spent)
        return Withheld(item, because) in decide(question, ClientFacts(), desk.register.policy).withheld

    told = {to: version for to, version in (await _told(session, client, source)).items() if withheld(*to)}
    if not told:
        return
    references = (*client.references.values(), *client.former)
    taken_back = await _taken_back(session, [reference.id for reference in references])
    owed = [
        Owed(reference, [purpose], frozenset({Category.OFFENCE}))
        for (recipient, purpose), version in sorted(told.items())
        for reference in references
        if reference.recipient == recipient and taken_back.get((reference.id, purpose), 0) <= version
    ]
    if owed:
        desk.next_version(client)  # so that the retraction reaches what was decided just before
        desk.retract(client, owed, BY_THE_DOOR, because=because)
        # what another source recorded of the category comes again
        told_of = {(one.reference.recipient, purpose) for one in owed for purpose in one.purposes}
        desk.offer_snapshots(client, None, to=told_of)


async def _told(session: AsyncSession, client: Client, source: str) -> ToldVersions:
    """Who was sent, or shown, the conviction that this source recorded."""
    found: ToldVersions = {}
    for row in await ledger.of_client(session, client.members, (), source, None, None):
        if row.kind not in ledger.TOLD or row.recipient == source:
            continue
        try:
            opened = ledger.open(row)
            version = None if opened is None else _decided_on(opened.explanation, source)
        except ledger.Unreadable:
            version = client.version  # nobody can say what was told: it may have been this
        if version is not None:
            to = row.recipient, Purpose(row.purpose)
            found[to] = max(version, found.get(to, version))
    return found


def _decided_on(explanation: Mapping[str, Any], source: str) -> int | None:
    """On which version it was decided to tell this source's conviction; None: it was not."""
    told = {(one["source"], one["category"]) for one in explanation["permitted"]}
    return int(explanation["decidedOn"]) if (source, OFFENCE) in told else None


async def _taken_back(session: AsyncSession, references: Collection[UUID]) -> dict[tuple[UUID, Purpose], int]:
    """By reference and purpose, the newest version from which convictions were taken back, whatever for."""
    found: dict[tuple[UUID, Purpose], int] = {}
    for row in await retractions.under(session, references):
        said = orjson.loads(row.body)["data"]
        if said["recipients"] is None and (said["categories"] is None or OFFENCE in said["categories"]):
            for purpose in map(Purpose, said["purposes"]):
                found[row.reference, purpose] = max(row.version, found.get((row.reference, purpose), 0))
    return found
