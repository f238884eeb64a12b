"""Casbin, by pycasbin: each agreement taken apart into rows, found by `FastEnforcer`'s index; a request an item.

Casbin's policy rows are text and its matcher is interpreted for each row, so the consents are not rows: a matcher
function looks through them, which is the faster of the two ways by far.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from casbin import FastEnforcer  # type: ignore[import-not-found, import-untyped, unused-ignore]
from casbin.model import FastModel  # type: ignore[import-not-found, import-untyped, unused-ignore]

from bench.peers.cases import Case, Verdict, listed, micros, rules, stops
from consent.domain import Granted, Policy, Question
from contracts.vocabulary import Basis

MODEL = """
[request_definition]
r = recipient, purpose, source, category, at, consents

[policy_definition]
p = recipient, purpose, source, category, starts, until, basis

[policy_effect]
e = some(where (p.eft == allow))

[matchers]
m = p.starts <= r.at && r.at < p.until && (p.basis == "statutory" || opens(r.consents, r.category))
"""


@dataclass(frozen=True, slots=True)
class Consents:
    """The client's consents with the question that is asked: what the matcher function gets."""

    grants: list[Granted]
    question: Question
    newest: int
    latest: datetime


class Casbin:
    """One row for each recipient, purpose, source and category of an agreement."""

    name = "pycasbin"

    def __init__(self, policy: Policy) -> None:
        logging.getLogger("casbin").setLevel(logging.ERROR)  # it warns of every refusal
        self._enforcer = FastEnforcer(_model(), cache_key_order=(0, 1, 2, 3))
        self._enforcer.add_function("opens", _opens)
        seen = set()
        for rule in rules(policy):
            statutory = rule.terms.basis is Basis.OMA_S14
            for recipient in rule.agreement.recipients:
                for source in rule.agreement.sources:
                    if statutory and not (listed(policy, source) and listed(policy, recipient)):
                        continue
                    for category in rule.terms.categories:
                        row = (
                            recipient,
                            rule.purpose.value,
                            source,
                            category.value,
                            _time(rule.agreement.starts),
                            _time(rule.until),
                            "statutory" if statutory else "consent",
                        )
                        if row not in seen:
                            seen.add(row)
                            self._enforcer.model["p"]["p"].policy.append(list(row))

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """The facts stay as they are."""
        question, facts = case.question, case.facts
        recipient, purpose, at = question.recipient.id, question.purpose.value, _time(question.at)
        asked = [(recipient, purpose, item.source, item.category.value, at) for item in question.items]

        def run() -> Verdict:
            grants = [fact for fact in facts.history if isinstance(fact, Granted)]
            consents = Consents(grants, question, *stops(facts, question))
            answers = self._enforcer.batch_enforce([(*request, consents) for request in asked])
            return frozenset(item for item, allowed in zip(question.items, answers, strict=True) if allowed)

        return run


def _model() -> FastModel:
    model = FastModel((0, 1, 2, 3))
    model.load_model_from_text(MODEL)
    return model


def _opens(consents: Consents, category: str) -> bool:
    question = consents.question
    recipient, at = question.recipient, question.at
    return any(
        category in grant.categories
        and question.purpose in grant.purposes
        and grant.recipients.name(recipient, None)
        and grant.asserted_by != recipient.id
        and consents.newest <= grant.version
        and consents.latest < grant.given_at
        and (grant.valid_from is None or grant.valid_from <= at)
        and (grant.valid_until is None or at < grant.valid_until)
        and grant.void is None
        for grant in consents.grants
    )


def _time(at: datetime) -> str:
    """Text that sorts as the times do."""
    return f"{micros(at):020}"
