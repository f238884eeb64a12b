"""The end of the story: what each partner was told, what was withheld and why, and one event's way."""

from collections import Counter
from collections.abc import Sequence

from throughgate.case_system import Received, short
from throughgate.story.cast import Party
from throughgate.story.narrator import Narrator
from throughgate.story.play import Told


def report(told: Told, agencies: Sequence[Party], tell: Narrator) -> None:
    """Tell it."""
    tell.heading("What each partner received (clients by the first digits of the partner's own reference)")
    for party in agencies:
        records = told.received.get(party.id, [])
        if not records:
            tell.line(f"  partner.{party.id}: nothing")
            continue
        tell.line(f"  partner.{party.id}")
        counted = Counter(_row(record) for record in records)
        tell.table(
            "times",
            "type",
            "client",
            "purpose",
            "categories",
            "rests on",
            rows=[(str(times), *row) for row, times in counted.items()],
        )
    tell.heading("What was withheld, and why (from the ledger: GET /clients/{reference}/disclosures)")
    remedies: dict[str, str] = {}
    withheld: dict[tuple[str, str, str], dict[str, None]] = {}
    """Recipient, client and rule; the categories."""
    for person, entries in told.ledger.items():
        for entry in entries:
            for w in entry["withheld"]:
                withheld.setdefault((entry["recipient"], person, w["rule"]), {})[w["category"]] = None
                remedies[w["rule"]] = w["remedy"]
    people: dict[tuple[str, str, str], list[str]] = {}
    for (recipient, person, rule), categories in withheld.items():
        people.setdefault((recipient, rule, ", ".join(sorted(categories))), []).append(person)
    rows: list[tuple[str, ...]] = [
        (recipient, rule, ", ".join(of), categories) for (recipient, rule, categories), of in sorted(people.items())
    ]
    tell.table("from", "rule", "of", "categories", rows=rows)
    for rule, remedy in sorted(remedies.items()):
        tell.line(f"    {rule}: {remedy}")
    if told.trace:
        tell.heading(
            f"One event's way: the consent, from the prison's topic to Harbour Housing's (trace {told.trace_id})"
        )
        for line in told.trace:
            tell.line(f"    {line}")
    else:
        tell.heading(f"One event's way: look for trace {told.trace_id} where the system sends its traces")


def _row(record: Received) -> tuple[str, str, str, str, str]:
    if record.type == "client.withdrawn":
        data = record.data
        return (
            record.type,
            record.subject[:8],
            "stop and erase",
            "",
            f"from version {data['version']}",
        )
    return (
        short(record.event["type"]),
        record.subject[:8],
        record.data["purpose"],
        ", ".join(record.categories),
        record.rests_on,
    )
