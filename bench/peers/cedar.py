"""Cedar, by cedarpy: the rules are policies, parsed once.

Cedar has no loop over a list, so "some consent" is a policy for each place in the list: one request has all consents
of the client in its context, and Cedar names the policies, so the consents, that say yes. A batch then asks of each
item whether an agreement lets it out, given the categories that those consents open. The agreements are policies too:
a set for each recipient and purpose, so that no request meets the others. Measured on 50 consents, a request for each
consent took 1.4 times as long (with consents as entities), policies made of the client's consents 3 times.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import orjson
from cedarpy import Entities, PolicySet, is_authorized, is_authorized_batch  # type: ignore[import-not-found, import-untyped, unused-ignore]

from bench.peers.cases import Case, Verdict, listed, micros, rules, stops
from consent.domain import Granted, Item, Policy
from contracts.vocabulary import Basis

FOREVER = 2**62

COUNTS = """
@id("{n}") permit (principal, action == Action::"count", resource) when {{
    context.g{n}.effective &&
    context.g{n}.purposes.contains(context.purpose) &&
    (context.g{n}.agencies.contains(context.recipient) || context.g{n}.kinds.contains(context.kind)) &&
    context.g{n}.by != context.recipient &&
    context.newest <= context.g{n}.version && context.latest < context.g{n}.given &&
    context.g{n}.from <= context.at && context.at < context.g{n}.until
}};
"""
LEAVES = """
permit (principal, action == Action::"leave", resource) when {{
    {starts} <= context.at && context.at < {until} &&
    {sources}.contains(context.source) && {categories}.contains(context.category) && context.{basis}
}};
"""
NOBODY = Entities.from_json_str("[]")
CLIENT = {"type": "Client", "id": "client"}
RECIPIENT = {"type": "Agency", "id": "recipient"}
COUNT, LEAVE = {"type": "Action", "id": "count"}, {"type": "Action", "id": "leave"}


@cache
def _counts(consents: int) -> PolicySet:
    return PolicySet.from_str("\n".join(COUNTS.format(n=n) for n in range(consents)))


class Cedar:
    """Policies parsed once, batches of requests."""

    name = "cedarpy"

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        texts: dict[tuple[str, str], list[str]] = {}
        for rule in rules(policy):
            text = LEAVES.format(
                starts=micros(rule.agreement.starts),
                until=micros(rule.until),
                sources=orjson.dumps(sorted(rule.agreement.sources)).decode(),
                categories=orjson.dumps(sorted(rule.terms.categories)).decode(),
                basis="listed" if rule.terms.basis is Basis.OMA_S14 else "consented",
            )
            for recipient in rule.agreement.recipients:
                texts.setdefault((recipient, rule.purpose), []).append(text)
        self._leaves = {key: PolicySet.from_str("\n".join(some)) for key, some in texts.items()}

    def prepare(self, case: Case) -> Callable[[], Verdict]:
        """Keep the consents as JSON text and the question as requests; what depends on the consents is added later."""
        question, facts = case.question, case.facts
        recipient, items = question.recipient, question.items
        grants = [fact for fact in facts.history if isinstance(fact, Granted)]
        stored = ",".join(f'"g{n}":{_attributes(grant)}' for n, grant in enumerate(grants))
        counts = _counts(len(grants))
        leaves = self._leaves.get((recipient.id, question.purpose), PolicySet.from_str(""))
        about = {"recipient": recipient.id, "kind": f"{recipient.kind}/{recipient.area}", "purpose": question.purpose}
        asked = [
            (item, _request(self._policy, case, item, False), _request(self._policy, case, item, True))
            for item in items
        ]

        def run() -> Verdict:
            newest, latest = stops(facts, question)
            more = orjson.dumps(
                about | {"at": micros(question.at), "newest": newest, "latest": micros(latest)}
            ).decode()
            context = f"{more[:-1]},{stored}}}" if stored else more
            asking = {"principal": RECIPIENT, "action": COUNT, "resource": CLIENT, "context": context}
            counting = is_authorized(asking, counts, NOBODY).diagnostics.id_annotations_by_reason.values()
            opened = frozenset().union(*(grants[int(n)].categories for n in counting))
            leaving = [consented if item.category in opened else plain for item, plain, consented in asked]
            allowed = is_authorized_batch(leaving, leaves, NOBODY)
            return frozenset(item for item, answer in zip(items, allowed, strict=True) if answer.allowed)

        return run


def _request(policy: Policy, case: Case, item: Item, consented: bool) -> dict[str, Any]:
    context = {
        "source": item.source,
        "category": item.category,
        "at": micros(case.question.at),
        "consented": consented,
        "listed": listed(policy, item.source) and listed(policy, case.question.recipient.id),
    }
    return {
        "principal": RECIPIENT,
        "action": LEAVE,
        "resource": CLIENT,
        "context": orjson.dumps(context).decode(),
    }


def _attributes(grant: Granted) -> str:
    """The stored form of one consent."""
    return orjson.dumps(
        {
            "version": grant.version,
            "by": grant.asserted_by,
            "agencies": sorted(grant.recipients.agencies),
            "kinds": sorted(f"{kind}/{area}" for kind, area in grant.recipients.kinds),
            "purposes": sorted(grant.purposes),
            "given": micros(grant.given_at),
            "from": micros(grant.valid_from) if grant.valid_from else 0,
            "until": micros(grant.valid_until) if grant.valid_until else FOREVER,
            "effective": grant.void is None,
        }
    ).decode()
