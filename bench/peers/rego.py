"""Rego, by regorus: the policy is data, the rules are compiled once, and one query gives the whole set.

regorus runs Rego in two ways, an interpreter (`Engine`) and a virtual machine (`Rvm`); `make bench-decide` takes the
faster. The client's consents are JSON as a store would keep them, and the engine reads that text in the measured call.
"""

from collections.abc import Callable

import orjson
import regorus  # type: ignore[import-not-found, import-untyped, unused-ignore]

from bench.peers.cases import Case, Verdict, listed, micros, rules
from consent.domain import ClientFacts, Granted, Policy, Withdrawn
from contracts.vocabulary import Basis

FOREVER = 2**62

RULES = """
package door

import rego.v1

agreed := [rule |
    some rule in data.rules[input.question.recipient][input.question.purpose]
    rule.starts <= input.question.at
    input.question.at < rule.until
]

reaching := [w |
    some w in input.facts.withdrawn
    reaches(w.purposes, input.question.purpose)
    reaches(w.recipients, input.question.recipient)
]

reaches(all, _) if all == null

reaches(some_, one) if one in some_

newest := max(array.concat([-1], [w.version | some w in reaching]))

latest := max(array.concat([-1], [w.at | some w in reaching]))

named(grant) if input.question.recipient in grant.agencies

named(grant) if input.question.kind in grant.kinds

consented contains category if {
    some grant in input.facts.granted
    latest < grant.given
    newest <= grant.version
    input.question.purpose in grant.purposes
    named(grant)
    grant.by != input.question.recipient
    grant.effective
    grant.from <= input.question.at
    input.question.at < grant.until
    some category in grant.categories
}

permitted contains n if {
    some rule in agreed
    not rule.statutory
    some n, item in input.question.items
    rule.sources[item[0]]
    rule.categories[item[1]]
    item[1] in consented
}

permitted contains n if {
    data.listed[input.question.recipient]
    some rule in agreed
    rule.statutory
    some n, item in input.question.items
    rule.sources[item[0]]
    rule.categories[item[1]]
    data.listed[item[0]]
}
"""
PERMITTED = "data.door.permitted"


class _Rego:
    """What both ways of running it share: data from the policy, and a case as JSON."""

    def __init__(self, policy: Policy) -> None:
        data: dict[str, dict[str, list[object]]] = {}
        for rule in rules(policy):
            told = {
                "sources": dict.fromkeys(rule.agreement.sources, True),
                "categories": {category.value: True for category in rule.terms.categories},
                "statutory": rule.terms.basis is Basis.OMA_S14,
                "starts": micros(rule.agreement.starts),
                "until": micros(rule.until),
            }
            for recipient in rule.agreement.recipients:
                data.setdefault(recipient, {}).setdefault(rule.purpose.value, []).append(told)
        self._data = orjson.dumps(
            {"rules": data, "listed": {id: True for id in policy.kinds if listed(policy, id)}}
        ).decode()

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Keep the consents and the question as JSON text; put the two together and evaluate in the call."""
        question, facts = _question(case), _facts(case.facts)
        items = case.question.items

        def run() -> Verdict:
            found = self._evaluate(f'{{"question":{question},"facts":{facts}}}')
            return frozenset(items[n] for n in found)

        return run

    def _evaluate(self, asked: str) -> list[int]:
        raise NotImplementedError


class Interpreter(_Rego):
    """`Engine`: parse once, then set the input and evaluate the rule."""

    name = "regorus"

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self._engine = regorus.Engine()
        self._engine.add_policy("door.rego", RULES)
        self._engine.add_data_json(self._data)

    def _evaluate(self, asked: str) -> list[int]:
        self._engine.set_input_json(asked)
        found: list[int] = orjson.loads(self._engine.eval_rule_as_json(PERMITTED))
        return found


class Machine(_Rego):
    """`Rvm`: compile once to a program."""

    name = "regorus_rvm"

    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        program = regorus.Program.compile_from_modules(self._data, [("door.rego", RULES)], [PERMITTED])
        self._machine = regorus.Rvm()
        self._machine.load_program(program)
        self._machine.set_data_json(self._data)

    def _evaluate(self, asked: str) -> list[int]:
        self._machine.set_input_json(asked)
        found: list[int] = orjson.loads(self._machine.execute())
        return found


class MachineFromFacts(Machine):
    """The same, its document made in the call: for who has the client's facts in Python, as `decide` does."""

    name = "regorus_rvm_from_facts"

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Nothing is prepared."""
        return lambda: super(MachineFromFacts, self).prepare(case)()


def _question(case: Case) -> str:
    question = case.question
    recipient = question.recipient
    return orjson.dumps(
        {
            "recipient": recipient.id,
            "kind": f"{recipient.kind}/{recipient.area}",
            "purpose": question.purpose,
            "at": micros(question.at),
            "items": [[item.source, item.category] for item in question.items],
        }
    ).decode()


def _facts(facts: ClientFacts) -> str:
    """The stored form of a client's consents."""
    granted = [
        {
            "version": event.version,
            "by": event.asserted_by,
            "agencies": sorted(event.recipients.agencies),
            "kinds": sorted(f"{kind}/{area}" for kind, area in event.recipients.kinds),
            "purposes": sorted(event.purposes),
            "categories": sorted(event.categories),
            "given": micros(event.given_at),
            "from": micros(event.valid_from) if event.valid_from else 0,
            "until": micros(event.valid_until) if event.valid_until else FOREVER,
            "effective": event.void is None,
        }
        for event in facts.history
        if isinstance(event, Granted)
    ]
    withdrawn = [
        {
            "version": event.version,
            "at": micros(event.at),
            "purposes": None if event.scope.purposes is None else sorted(event.scope.purposes),
            "recipients": None if (named := event.scope.recipients) is None else sorted(named.agencies),
        }
        for event in facts.history
        if isinstance(event, Withdrawn)
    ]
    return orjson.dumps({"granted": granted, "withdrawn": withdrawn}).decode()
