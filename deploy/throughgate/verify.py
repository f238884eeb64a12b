"""Checks of the promises that anyone can make from what stands on a partner's topic, with no trust in us."""

from collections.abc import Iterable
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
    """A record that stands behind a retraction and rests on what that took back."""

    partition: int
    retraction_offset: int
    record_offset: int
    purpose: str
    consent: int


def behind_retraction(records: Iterable[Placed]) -> list[Violation]:
    """Promise 2, checked from the topic alone. Empty when it is kept.

    Per client reference and purpose, behind a retraction stands no record whose receipt rests on the consent version
    that it names, or an older one.

    A repeated id counts like any other record: a resend behind the retraction would be a disclosure too.
    """
    retracted: dict[tuple[int, str, str], tuple[int, int]] = {}
    found = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        event, data = record.event, record.event["data"]
        if event["type"] == WITHDRAWN:
            for purpose in data["purposes"]:
                key = record.partition, event["subject"], purpose
                version, offset = retracted.get(key, (-1, -1))
                if data["consentVersion"] > version:
                    version, offset = data["consentVersion"], record.offset
                retracted[key] = version, offset
        elif "receipt" in data:
            key = record.partition, event["subject"], data["purpose"]
            version, offset = retracted.get(key, (-1, -1))
            found += [
                Violation(record.partition, offset, record.offset, data["purpose"], consent)
                for consent in data["receipt"]["consents"]
                if consent <= version
            ]
    return found


def without_repeats(records: Iterable[Placed]) -> list[Placed]:
    """What a partner that drops repeated ids has, in the order of each partition."""
    seen: set[str] = set()
    kept = []
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        if record.event["id"] not in seen:
            seen.add(record.event["id"])
            kept.append(record)
    return kept
