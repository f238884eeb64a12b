"""Checks of the promises that anyone can make from what stands on a partner's topic, with no trust in us."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

WITHDRAWN = "throughgate.client.withdrawn.v1"


@dataclass(frozen=True)
class Placed:
    """One record of a topic, read with `read_committed`: where it stands, and the event in it."""

    partition: int
    offset: int
    event: dict[str, Any]


@dataclass(frozen=True)
class Violation:
    """A record that stands behind a retraction and must not."""

    partition: int
    retraction_offset: int
    record_offset: int
    why: str


def behind_retraction(records: Iterable[Placed]) -> list[Violation]:
    """Promise 2, checked from the topic alone. Empty when it is kept.

    Per client reference: behind a retraction stands no record that was decided on an older version of what was said
    about sharing; and where the retraction names a consent version, no record for one of its purposes in which one of
    its categories rests on that version or an older one.

    A repeated id counts like any other record: a resend behind the retraction would be a disclosure too.
    """
    ahead: dict[tuple[int, str], list[Placed]] = {}
    found = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        event = record.event
        key = record.partition, str(event["subject"])
        if event["type"] == WITHDRAWN:
            ahead.setdefault(key, []).append(record)
        elif "receipt" in event["data"]:
            for retraction in ahead.get(key, ()):
                why = _forbids(retraction.event["data"], event["data"])
                if why is not None:
                    found.append(Violation(record.partition, retraction.offset, record.offset, why))
                    break
    return found


def _forbids(retraction: Mapping[str, Any], record: Mapping[str, Any]) -> str | None:
    receipt = record["receipt"]
    if receipt["decidedOn"] < retraction["version"]:
        return f"decided on version {receipt['decidedOn']}, and the retraction holds from {retraction['version']}"
    limit, categories = retraction.get("consentVersion"), retraction.get("categories")
    if limit is None or retraction.get("recipients") is not None or record["purpose"] not in retraction["purposes"]:
        return None
    for permitted in receipt["permitted"]:
        consent = permitted.get("consent")
        if consent is not None and consent <= limit and (categories is None or permitted["category"] in categories):
            return f"{permitted['category']} rests on consent {consent}, and {limit} was withdrawn"
    return None


def without_repeats(records: Iterable[Placed]) -> list[Placed]:
    """What a partner that drops repeated ids has, in the order of each partition."""
    seen: set[str] = set()
    kept = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        if record.event["id"] not in seen:
            seen.add(record.event["id"])
            kept.append(record)
    return kept
