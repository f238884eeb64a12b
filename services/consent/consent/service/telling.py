"""How a decision is told: to the ledger in full, to a recipient and to a source as far as each may know."""

from collections.abc import Collection, Iterable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID

from consent.domain import NEVER_TOLD, QUIETLY_TOLD, REMEDIES, Agency, Decision, Item, Permit, Question
from consent.events import UNASKED
from contracts.vocabulary import Category, Purpose

QUIETLY = ("not-permitted", "Ask the agency that recorded it.")
"""What a recipient learns where the reason itself could do harm, such as that a restriction names it."""
QUIETLY_TO_SOURCE = "Ask operations, who can tell what your agency may know of it."


def receipt(explained: Mapping[str, Any], purpose: str, id: UUID, at: str) -> dict[str, Any]:
    """Why a recipient gets a record (`contracts.leaving.Receipt`): a decision as `explain` tells it, as far as a
    recipient may know it.
    """
    why = {"decision": str(id), "decidedAt": at, "purpose": purpose}
    return {**explained, **why, "withheld": to_recipient(explained["withheld"])}


def withheld(decision: Decision) -> list[dict[str, str]]:
    """What was withheld and why (`contracts.leaving.Withheld`); and `anyway`, which nobody is told."""
    return [
        {"category": str(category), "source": source, "rule": rule, "remedy": REMEDIES[rule]}
        | ({"anyway": anyway} if anyway else {})
        for (source, category), rule, anyway in decision.withheld
    ]


def explain(decision: Decision, version: int) -> dict[str, Any]:
    """A decision in full, as the ledger keeps it: plain JSON."""
    return {
        "decidedOn": version,
        "permitted": [permitted(p) for p in decision.permits],
        "withheld": withheld(decision),
        "obligations": obligations(decision),
    }


def asked(question: Question, about: Collection[Item] = ()) -> dict[str, Any]:
    """What a decision does not show of its question, for the ledger: replay asks it again. Empty for most.

    That is the service that a referral is about, days from which convictions are spent, what was invoked for this one
    disclosure, and the items without which a message does not leave: where one of them is refused, the others are
    neither permitted nor withheld.
    """
    more: dict[str, Any] = {}
    if question.service is not None:
        more["service"] = question.service
    if question.spent:
        more["spent"] = {source: day and day.isoformat() for source, day in question.spent.items()}
    if question.once:
        more["once"] = sorted(question.once)
    if about:
        more["about"] = sorted([i.source, i.category.value] for i in about)
        more["items"] = [[i.source, i.category.value] for i in question.items]
    return {"asked": more} if more else {}


def permitted(permit: Permit) -> dict[str, Any]:
    """One permit (`contracts.leaving.Permitted`)."""
    return {
        "category": str(permit.item.category),
        "source": permit.item.source,
        "basis": str(permit.basis),
        "agreement": permit.agreement,
        "agreementVersion": permit.agreement_version,
        "consent": permit.consent,
        "invoked": permit.invoked,
    }


def obligations(decision: Decision) -> list[dict[str, Any]]:
    """What comes with a record (`contracts.leaving.Obligation`)."""
    return [{"code": o.code, "practitioner": o.practitioner} for o in decision.obligations]


def question_of(explanation: Mapping[str, Any], to: Agency, at: datetime) -> Question:
    """The question that an entry of the ledger answers, from its explanation: the way back from `explain` and `asked`.

    The entry is of one of `repository.ledger.DECISIONS`.
    """
    more = explanation.get("asked", {})
    shown = (*explanation["permitted"], *explanation["withheld"])
    return Question(
        to,
        Purpose(explanation["purpose"]),
        tuple([Item(s, Category(c)) for s, c in more.get("items") or [(x["source"], x["category"]) for x in shown]]),
        at,
        more.get("service"),
        explanation.get("by") if explanation["kind"] == "view" else None,
        {source: day and date.fromisoformat(day) for source, day in more.get("spent", {}).items()},
        explanation.get("type") not in UNASKED,
        frozenset(more.get("once", ())),
    )


def to_source(own: Iterable[dict[str, str]], alone: Decision, *, knows: bool) -> list[dict[str, str]]:
    """What was withheld of a source's `own` items, as that source may know it.

    The reason may be what others said of the client. A source may not know that others know the client, such as an
    agency that recorded a number at a guess: it is told the rule that withholds the item anyway. Of a rule that is told
    quietly every source is told only whether it rests on the source's own word.

    Args:
        own: as `withheld` gives it.
        alone: what would be decided if nobody else had said anything of the client (`ClientFacts.as_said_by`).
        knows: whether it was sent a record of the client, or is told here that something is permitted.
    """
    anyway = {w.item: w.rule for w in alone.withheld}
    told = []
    for one in own:
        rule = anyway.get(Item(one["source"], Category(one["category"])))
        if rule is not None and not knows:
            one = one | {"rule": rule, "remedy": REMEDIES[rule]}
        elif one["rule"] in QUIETLY_TOLD and one["rule"] != rule:
            one = one | {"rule": QUIETLY[0], "remedy": QUIETLY_TO_SOURCE}
        told.append(one)
    return told


def to_recipient(all_of_it: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """What was withheld from a recipient, as `withheld` gives it, as far as that recipient may know it.

    It is not told of categories that no agreement would let it see: that something of a category is known of a client
    can itself be sensitive, and a restriction that comes before that is not to give it away. Nor why, where the reason
    could do harm.
    """
    told = []
    for one in all_of_it:
        rule, remedy = one["rule"], one["remedy"]
        if NEVER_TOLD.isdisjoint((rule, one.get("anyway"))):
            if rule in QUIETLY_TOLD:
                rule, remedy = QUIETLY
            told.append({"category": one["category"], "source": one["source"], "rule": rule, "remedy": remedy})
    return told
