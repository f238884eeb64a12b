"""Checks of the promises that anyone can make from what stands on a partner's topic, with no trust in us."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.facts import FIELDS
from contracts.fields import told_by
from contracts.leaving import RETRACTED, Disclosure, Permitted
from contracts.vocabulary import Basis

ALWAYS = ("no-onward-sharing", "erase-on-retraction")
"""The obligations that come with every record (docs/reference/rules.md)."""


@dataclass(frozen=True)
class Placed:
    """One record of a topic, read with `read_committed`: where it stands, and the event in it."""

    partition: int
    offset: int
    event: dict[str, Any]
    key: str | None = None
    """Its Kafka key."""


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
        if event["type"] == RETRACTED:
            ahead.setdefault(key, []).append(record)
        elif "receipt" in event["data"]:
            for retraction in ahead.get(key, ()):
                why = _forbids(retraction.event["data"], event["data"])
                if why is not None:
                    found.append(Violation(record.partition, retraction.offset, record.offset, why))
                    break
    return found


def out_of_order(records: Iterable[Placed]) -> Iterator[tuple[Placed, str]]:
    """Records of which nobody can tell what stands behind what, and why: a topic is in order within a partition only.

    A record's key is the reference that is its `subject`, and so all records of a reference stand in one partition.
    """
    first: dict[str, Placed] = {}
    for record in sorted(records, key=lambda r: (r.partition, r.offset)):
        subject = str(record.event["subject"])
        if record.key != subject:
            yield record, "its Kafka key is not its subject"
        elif (before := first.setdefault(subject, record)).partition != record.partition:
            yield record, f"its subject stands in partition {before.partition}, too, at offset {before.offset}"


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


def beyond_receipt(data: Disclosure) -> Iterator[str]:
    """What a record tells beyond what its own receipt permits, or what no receipt of a permit can say: a clause each.

    A clause names categories, source agencies and versions, never what the record says of the client. The contract of
    the event is not checked here: give what `contracts.leaving.PARTNER` has read.
    """
    receipt = data.receipt
    permitted = {(one.category, one.source) for one in receipt.permitted}
    withheld = {(one.category, one.source) for one in receipt.withheld}
    if data.purpose is not receipt.purpose:
        yield f"it is for {data.purpose}, and its receipt for {receipt.purpose}"
    if not permitted:
        yield "its receipt permits nothing, so nothing could leave on it"
    for category, source in sorted(permitted & withheld):
        yield f"its receipt both permits and withholds {category} of {source}"
    for section in data.sections:
        category, source = section.category, section.source
        if (category, source) in withheld:
            yield f"it tells {category} of {source}, which its receipt withholds"
        elif (category, source) not in permitted:
            yield f"it tells {category} of {source}, which its receipt does not permit"
        if not section.data.keys() <= FIELDS[category]:
            yield f"its {category} of {source} has a field that is not of this category"
    message = getattr(data, "message", None)
    for category in sorted(told_by(message)) if message is not None else ():
        if category not in {permit for permit, _ in permitted}:
            yield f"its message gives away {category}, which its receipt permits of nobody"
    for permit in receipt.permitted:
        versions = [version for version in (permit.consent, permit.invoked) if version is not None]
        if not _rests_on_its_basis(permit):
            yield f"its receipt permits {permit.category} of {permit.source} on {permit.basis}, and not what that needs"
        if max(versions, default=0) > receipt.decided_on:
            yield (
                f"its receipt permits {permit.category} of {permit.source} on version {max(versions)}, and was decided"
                f" on version {receipt.decided_on}"
            )
    for code in ALWAYS:
        if permitted and code not in {duty.code for duty in receipt.obligations}:
            yield f"its receipt lacks the obligation {code}"
    if any((duty.code == "keep-from-practitioner") != (duty.practitioner is not None) for duty in receipt.obligations):
        yield "its receipt has an obligation that does not say whom to keep it from, or says so out of place"


def _rests_on_its_basis(permit: Permitted) -> bool:
    """The ways to a permit (docs/reference/rules.md): consent needs an agreement and the client's consent, an override
    was authorised for the client, a gateway stands in an agreement or was invoked for the client.
    """
    agreed = permit.agreement is not None and permit.agreement_version is not None
    if permit.basis is Basis.CONSENT:
        return agreed and permit.consent is not None
    if permit.basis is Basis.OVERRIDE:
        return permit.invoked is not None
    return agreed or permit.invoked is not None
