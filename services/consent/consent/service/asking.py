"""Answers over HTTP: may I share, what may be seen, who was told. Each decision is in the ledger before it is given."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncSession

from consent.domain import Agency, Decision, Item, Question, decide
from consent.repository import clients, ledger, queue, sharing, views
from consent.repository.ledger import Entry
from consent.repository.sharing import Known
from consent.service import register
from consent.service.ledger import enter
from consent.service.register import Register
from consent.service.sections import cut, spent_convictions
from consent.service.telling import as_told, explain, receipt
from contracts.vocabulary import AgencyKind, Category, Purpose
from servicekit.db import wake_after_commit
from servicekit.problems import Problem

UNKNOWN_RECIPIENT = Problem(
    "unknown-recipient",
    "There is no such recipient",
    "Use the id of an agency that is registered with the door.",
    422,
)
NO_SUCH_CLIENT = Problem(
    "no-such-client", "There is no such client", "Use the client reference from the answer to your event.", 404
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was decided for one client that the asker named; `grounds` is None when the asker knows no such client."""

    client: UUID
    decision: UUID | None = None
    grounds: dict[str, Any] | None = None
    told: dict[str, Any] | None = None


async def may_share(
    session: AsyncSession,
    asker: str,
    references: Sequence[UUID],
    recipient: str,
    purpose: Purpose,
    categories: Collection[Category],
    service: str | None,
) -> tuple[list[Answer], datetime]:
    """Whether the asker may tell a recipient what it recorded itself of these clients. Nothing leaves by it.

    Raises:
        Problem: 422, there is no such recipient.
    """
    registered = await register.load(session)
    to = _recipient(registered, recipient)
    found = await _find(session, asker, references)
    known = await sharing.known(session, set(found.values()))
    now = await clients.time_now(session)
    answers: list[Answer] = []
    entries: list[Entry] = []
    for reference in references:
        if reference not in found:
            answers.append(Answer(reference))
            continue
        client = known[found[reference]]
        items = tuple(Item(asker, category) for category in sorted(categories))
        decision = decide(Question(to, purpose, items, now, service), client.facts, registered.policy)
        answer = Answer(reference, uuid4(), explain(decision, client.facts.version))
        answers.append(answer)
        entries.append(_entry("consultation", answer, client, to, purpose, [asker], now, asker))
    await _enter(session, entries)
    return answers, now


async def view(
    session: AsyncSession,
    asker: str,
    references: Sequence[UUID],
    viewer: str,
    practitioner: str | None,
    purpose: Purpose,
    categories: Collection[Category],
) -> list[Answer]:
    """What a viewer may see of clients now. Each answer's `told` holds sections and receipt.

    The clients' rows are locked until the decisions are in the ledger, so a withdrawal comes wholly before or after.

    Raises:
        Problem: 422, there is no such viewer.
    """
    found = await _find(session, asker, references)
    await clients.lock(session, set(found.values()), shared=True)
    found = await _find(session, asker, references)  # a link may have changed while we waited
    registered = await register.load(session)
    to = _recipient(registered, viewer)
    known = await sharing.known(session, set(found.values()))
    sections = await clients.sections(session, known)
    now = await clients.time_now(session)
    answers: list[Answer] = []
    entries: list[Entry] = []
    told_of: set[int] = set()
    for reference in references:
        if reference not in found:
            answers.append(Answer(reference))
            continue
        client = known[found[reference]]
        asked = [
            s for s in sections[found[reference]] if s["source"] != viewer and Category(s["category"]) in categories
        ]
        items = tuple(Item(s["source"], Category(s["category"])) for s in asked)
        question = Question(to, purpose, items, now, practitioner=practitioner, spent=spent_convictions(asked))
        decision = decide(question, client.facts, registered.policy)
        id = uuid4()
        told = {
            "client": str(reference),
            "purpose": purpose.value,
            "sections": cut(asked, decision),
            "receipt": receipt(decision, client.facts.version, purpose.value, id, now),
        }
        answer = Answer(reference, id, explain(decision, client.facts.version), told)
        answers.append(answer)
        entries.append(_entry("view", answer, client, to, purpose, _sources(decision), now, practitioner))
        if decision.permits:
            told_of.update(client.members)
    await clients.was_told(session, told_of, viewer)
    await _enter(session, entries)
    return answers


async def who_was_told(
    session: AsyncSession, asker: str, reference: UUID, whole: bool, limit: int, before: int | None
) -> list[tuple[Any, dict[str, Any] | None]]:
    """The ledger of one client, newest first: each row with its explanation, as far as the asker may know it.

    The explanation is None where the client's key was destroyed. `whole`: all of it, for a subject access request.

    Raises:
        Problem: 404, the asker knows no such client.
    """
    found = await _find(session, asker, [reference])
    if not found:
        raise NO_SUCH_CLIENT
    client = (await sharing.known(session, found.values()))[found[reference]]
    rows = await views.disclosures(session, client.members, None if whole else asker, limit, before)
    told = []
    for row in rows:
        explanation = None
        if row.key is not None and row.body is not None:
            explanation = ledger.decrypt(row.key, row.decision, row.body).explanation
            if not whole:
                explanation = as_told(explanation, asker, row.recipient)
        told.append((row, explanation))
    return told


async def _find(session: AsyncSession, asker: str, references: Iterable[UUID]) -> dict[UUID, int]:
    keys = {("THROUGHGATE", asker, str(reference)) for reference in references}
    return {UUID(value): client for (_, _, value), client in (await clients.resolve(session, keys)).items()}


def _recipient(registered: Register, id: str) -> Agency:
    found = registered.agencies.get(id)
    if found is None or found.kind is AgencyKind.SERVICE:
        raise UNKNOWN_RECIPIENT
    return found


def _sources(decision: Decision) -> list[str]:
    items = {p.item for p in decision.permits} | {r.item for r in decision.refusals}
    return sorted({item.source for item in items})


def _entry(
    kind: str,
    answer: Answer,
    client: Known,
    to: Agency,
    purpose: Purpose,
    sources: Sequence[str],
    now: datetime,
    by: str | None,
) -> Entry:
    if answer.decision is None or answer.grounds is None:
        raise AssertionError("only what was decided is entered")
    explanation: Mapping[str, Any] = {
        "kind": kind,
        "decision": str(answer.decision),
        "decidedAt": now.isoformat(),
        "recipient": to.id,
        "purpose": purpose.value,
        "client": str(answer.client),
        "by": by,
        **answer.grounds,
    }
    named = to.id, purpose.value, kind, now, list(sources), dict(explanation), answer.told
    return Entry(kind, answer.decision, client.id, client.key, *named)


async def _enter(session: AsyncSession, entries: Sequence[Entry]) -> None:
    await enter(session, entries)
    if entries:
        wake_after_commit(session, queue.CHANNEL)
