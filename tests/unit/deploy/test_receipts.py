"""A record that was sealed as it should be, and tells more than its own receipt permits, does not pass `verify`."""

import copy
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from contracts import make
from contracts.heads import new_signing_key, public_key_of
from contracts.merkle import canonical, to_base64url
from contracts.proof import leaf_of, seal, told_of
from throughgate.cli import app

SNAPSHOT = "throughgate.client.snapshot.v1"
REFERRAL = "throughgate.referral.sent.v1"
STEP = "throughgate.release.step-due.v1"
TOLD = (SNAPSHOT, "throughgate.client.changed.v1", REFERRAL, "throughgate.mentoring.offered.v1", STEP)
PRIVATE = "0 Nowhere Street"

Change = Callable[[dict[str, Any]], None]


def example(type: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((make.SCHEMAS / "examples" / f"{type}.json").read_text("utf-8"))
    return event


def verified(folder: Path, *records: dict[str, Any], **first: Any) -> tuple[int, str]:
    """Seal these records in a ledger of their own, and what `throughgate verify` says of them. `first`: what the line
    of the first says else, such as its key.
    """
    seed, told = new_signing_key(), [told_of(record) for record in records]
    leaves = [leaf_of(os.urandom(16), canonical(one), canonical({})) for one in told]
    head, sealed = seal(seed, None, leaves, shard=0, at=datetime.now(UTC))
    for record, proof in zip(told, sealed, strict=True):
        record["data"]["receipt"]["proof"] = json.loads(proof)
    heads = [example("throughgate.ledger.sealed.v1") | {"data": head.model_dump(by_alias=True)}]
    for name, events in (("records", told), ("heads", heads)):
        lines = [
            {"partition": 0, "offset": n, "key": one["subject"] if name == "records" else "", "event": one}
            for n, one in enumerate(events)
        ]
        if name == "records":
            lines[0] |= first
        (folder / name).write_text("\n".join(json.dumps(line) for line in lines))
    (folder / "keys").write_text(json.dumps([{"publicKey": to_base64url(public_key_of(seed))}]))
    done = CliRunner().invoke(app, ["verify", *(f"--{name}={folder / name}" for name in ("records", "heads", "keys"))])
    return done.exit_code, done.output


def test_where_there_is_nothing_to_check_nothing_holds(tmp_path: Path) -> None:
    assert verified(tmp_path, example(SNAPSHOT))[0] == 0
    sound = (tmp_path / "records").read_text()
    for empty, records, why in (("records", "", "no record stands there"), ("heads", sound, "There are no heads")):
        (tmp_path / "records").write_text(records)
        kept = (tmp_path / empty).read_text()
        (tmp_path / empty).write_text("")
        options = (f"--{name}={tmp_path / name}" for name in ("records", "heads", "keys"))
        done = CliRunner().invoke(app, ["verify", *options])
        (tmp_path / empty).write_text(kept)
        assert done.exit_code == 1, done.output
        assert why in done.output
        assert "All of it holds" not in done.output


def test_what_the_door_sends_keeps_to_its_receipt(tmp_path: Path) -> None:
    code, said = verified(tmp_path, *map(example, TOLD))
    assert code == 0, said
    assert "5 receipts recomputed up to their signed heads, 0 retractions looked behind; each record was held" in said


def test_a_record_under_another_key_or_in_another_partition_than_its_clients_is_found(tmp_path: Path) -> None:
    one = example(SNAPSHOT)
    two = example(STEP) | {"subject": one["subject"]}
    assert verified(tmp_path, one, two)[0] == 0
    for first, why in (
        ({"key": "another"}, "its Kafka key is not its subject"),
        ({"key": None}, "its Kafka key is not"),
    ):
        code, said = verified(tmp_path, one, two, **first)
        assert code == 1, said
        assert f"Record at partition 0, offset 0: {why}" in said
    code, said = verified(tmp_path, one, two, partition=1)
    assert code == 1, said
    assert "Record at partition 1, offset 0: its subject stands in partition 0, too, at offset 1" in said


def more(category: str, source: str = "hmp-leeds", **data: Any) -> Change:
    section = {"category": category, "source": source, "recordedAt": "2025-03-03T09:12:44Z", "data": data}
    return lambda record: record["data"]["sections"].append(section)


def permits(change: Callable[[list[dict[str, Any]]], None]) -> Change:
    return lambda record: change(record["data"]["receipt"]["permitted"])


def first(**to: Any) -> Change:
    return permits(lambda some: some[0].update(to))


def obliged(*duties: dict[str, Any]) -> Change:
    return lambda record: record["data"]["receipt"].update(obligations=list(duties))


def _audited(record: dict[str, Any]) -> None:
    """Nothing is permitted; what is told is listed as withheld."""
    receipt = record["data"]["receipt"]
    one = {"category": "custody-and-release", "source": "hmp-leeds", "rule": "no-consent", "remedy": "Ask."}
    receipt.update(permitted=[], withheld=[one])
    record["data"]["sections"] = []
    more("custody-and-release", prison="LDS")(record)


def _both(record: dict[str, Any]) -> None:
    """What is permitted stands among what is withheld too."""
    receipt = record["data"]["receipt"]
    one = receipt["permitted"][0]
    receipt["withheld"].append(
        {"category": one["category"], "source": one["source"], "rule": "no-consent", "remedy": "Ask."}
    )


ALWAYS = ({"code": "no-onward-sharing"}, {"code": "erase-on-retraction"})
BEYOND: dict[str, tuple[str, Change, str]] = {
    "withheld, and nothing permitted": (
        SNAPSHOT,
        _audited,
        "it tells custody-and-release of hmp-leeds, which its receipt withholds",
    ),
    "nothing permitted": (SNAPSHOT, permits(list.clear), "its receipt permits nothing"),
    "not permitted": (
        SNAPSHOT,
        more("contact", address=PRIVATE),
        "it tells contact of hmp-leeds, which its receipt does not permit",
    ),
    "of another source": (
        SNAPSHOT,
        more("identity", "west-yorkshire-probation", givenName=PRIVATE),
        "it tells identity of west-yorkshire-probation, which its receipt does not permit",
    ),
    "permitted and withheld": (SNAPSHOT, _both, "its receipt both permits and withholds"),
    "a field of another category": (
        SNAPSHOT,
        lambda record: record["data"]["sections"][0]["data"].update(address=PRIVATE),
        "has a field that is not of this category",
    ),
    "another purpose": (
        SNAPSHOT,
        lambda record: record["data"].update(purpose="mentor-matching"),
        "it is for mentor-matching, and its receipt for referral",
    ),
    "a referral's pathway": (
        REFERRAL,
        lambda record: record["data"]["message"].update(pathway="needs.finance-benefit-debt"),
        "its message gives away needs.finance-benefit-debt, which its receipt permits of nobody",
    ),
    "a step": (STEP, first(category="identity"), "its message gives away custody-and-release"),
    "consent without a consent": (SNAPSHOT, first(consent=None), "on consent, and not what that needs"),
    "consent without an agreement": (SNAPSHOT, first(agreement=None), "on consent, and not what that needs"),
    "an override of nobody": (
        SNAPSHOT,
        first(basis="public-protection-override", consent=None, agreement=None, agreementVersion=None),
        "on public-protection-override, and not what that needs",
    ),
    "a gateway of nobody": (
        SNAPSHOT,
        first(basis="cda-1998-s115", consent=None, agreement=None, agreementVersion=None),
        "on cda-1998-s115, and not what that needs",
    ),
    "said later": (SNAPSHOT, first(consent=99), "on version 99, and was decided on version"),
    "no duty to erase": (SNAPSHOT, obliged(ALWAYS[0]), "lacks the obligation erase-on-retraction"),
    "no duty to keep it": (SNAPSHOT, obliged(ALWAYS[1]), "lacks the obligation no-onward-sharing"),
    "to be kept from nobody": (
        SNAPSHOT,
        obliged(*ALWAYS, {"code": "keep-from-practitioner"}),
        "does not say whom to keep it from",
    ),
}


@pytest.mark.parametrize("what", BEYOND)
def test_what_a_receipt_does_not_permit_is_found_though_it_is_sealed(what: str, tmp_path: Path) -> None:
    type, change, clause = BEYOND[what]
    record = copy.deepcopy(example(type))
    change(record)
    code, said = verified(tmp_path, example(REFERRAL), record)
    assert code == 1, said
    assert clause in said
    assert "Record at partition 0, offset 1: i" in said, "where it stands"
    assert "offset 0" not in said, "the other record is as it should be"
    assert "root" not in said, "it is sealed as it should be"
    assert PRIVATE not in said
