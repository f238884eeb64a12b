"""The example of a record with a proof is really sealed: a check of proofs can be tried on it."""

import json
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from contracts import make
from contracts.heads import Head, keys_by_id, public_key_of
from contracts.merkle import canonical
from contracts.proof import check_record, leaf_of, seal, told_of

EXAMPLES = make.SCHEMAS / "examples"
SEED = sha256(b"throughgate examples").digest()
"""The key of the examples, which seals nothing else. Its public half is `PUBLIC`, hex, in the AsyncAPI introduction."""
PUBLIC = public_key_of(SEED).hex()


def example(name: str) -> dict[str, Any]:
    event: dict[str, Any] = json.loads((EXAMPLES / f"{name}.json").read_text("utf-8"))
    return event


def sealed(record: dict[str, Any]) -> tuple[Head, dict[str, Any]]:
    """Head and proof of the example: the second of two leaves, behind a refusal, in the first batch of its shard."""
    told = told_of(record)
    receipt = {**told["data"]["receipt"]}
    leaves = [
        leaf_of(bytes(16), b"null", canonical({"permitted": [], "withheld": receipt["withheld"]})),
        leaf_of(bytes(range(16)), canonical(told), canonical(receipt)),
    ]
    head, proofs = seal(SEED, None, leaves, shard=0, at=datetime(2025, 3, 3, 10, 5, 10, 420_000, tzinfo=UTC))
    return head, json.loads(proofs[1])


def test_the_proof_in_the_examples_holds() -> None:
    record = example("throughgate.client.snapshot.v1")
    head, proof = sealed(record)
    assert record["data"]["receipt"]["proof"] == proof, "put this proof into the example"
    assert example("throughgate.ledger.sealed.v1")["data"] == head.model_dump(by_alias=True), "put this head there"
    assert check_record(record, keys_by_id([bytes.fromhex(PUBLIC)])) == head


def test_the_key_of_the_examples_is_told() -> None:
    assert PUBLIC in (make.SCHEMAS / "asyncapi-intro.md").read_text("utf-8")
