"""How a decision is told: to the ledger in full, to a recipient as far as it may know."""

from collections.abc import Collection
from datetime import datetime
from typing import Any
from uuid import UUID

from consent.domain import REMEDIES, RULES, Decision, Item, Permit, Question

NEVER_TOLD = frozenset(r.code for r in RULES if r.told == "never")
QUIETLY_TOLD = frozenset(r.code for r in RULES if r.told == "quietly")
QUIETLY = ("not-permitted", "Ask the agency that recorded it.")
"""What a recipient learns where the reason itself could do harm, such as that a restriction names it."""


def receipt(decision: Decision, version: int, purpose: str, id: UUID, now: datetime) -> dict[str, Any]:
    """Why a recipient gets a record (`contracts.leaving.Receipt`)."""
    return {
        "decision": str(id),
        "decidedAt": now.isoformat(),
        "decidedOn": version,
        "purpose": purpose,
        "permitted": [permitted(p) for p in decision.permits],
        "withheld": withheld(decision, openly=False),
        "obligations": obligations(decision),
    }


def withheld(decision: Decision, *, openly: bool = True) -> list[dict[str, str]]:
    """What was withheld and why (`contracts.leaving.Withheld`).

    Not `openly`: to a recipient. It is not told of categories that no agreement would let it see: that something of a
    category is known of a client can itself be sensitive. Nor why, where the reason could do harm.
    """
    told = []
    for (source, category), rule in decision.refusals:
        remedy = REMEDIES[rule]
        if not openly:
            if rule in NEVER_TOLD:
                continue
            if rule in QUIETLY_TOLD:
                rule, remedy = QUIETLY
        told.append({"category": str(category), "source": source, "rule": rule, "remedy": remedy})
    return told


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

    That is the service that a referral is about, days from which convictions are spent, and the items without which a
    message does not leave: where one of them is refused, the others are neither permitted nor withheld.
    """
    more: dict[str, Any] = {}
    if question.service is not None:
        more["service"] = question.service
    if question.spent:
        more["spent"] = {source: day and day.isoformat() for source, day in question.spent.items()}
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


def as_told(explanation: dict[str, Any], agency: str, recipient: str | None) -> dict[str, Any]:
    """Of an entry's explanation, what an agency may know: the recipient what it was told, a source what is its own."""
    told = dict(explanation)
    if recipient == agency:
        kept = []
        for one in explanation.get("withheld", ()):
            if one["rule"] in QUIETLY_TOLD:
                kept.append(one | {"rule": QUIETLY[0], "remedy": QUIETLY[1]})
            elif one["rule"] not in NEVER_TOLD:
                kept.append(one)
        told["withheld"] = kept
    else:
        for name in ("permitted", "withheld"):
            told[name] = [one for one in explanation.get(name, ()) if one["source"] == agency]
    return told
