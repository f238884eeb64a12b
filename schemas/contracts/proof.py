"""The proof that stands in the receipt of a record: that the door sealed this very record in its ledger.

The door seals with it; recipients and `throughgate verify` check with public keys alone. Pure: no I/O, no clock.

A recipient recomputes the leaf from its record, although part of the entry is kept from it (categories that no
agreement names). So a leaf binds two hashes, each with a part of the entry's salt of its own:

    part, kept = first and last 16 bytes of SHA-256("throughgate ledger salt 1\\n" || salt)
    told       = SHA-256(canonical(what the recipient is told))
    untold     = SHA-256(0x02 || kept || canonical(all that the entry explains))
    leaf       = SHA-256(0x00 || part || told || untold)

The recipient gets `part` and `untold`. What is untold it cannot find by trying, for `kept` does not follow from `part`.
Leaves of others, which stand in its path, it cannot find by trying either. With the salt destroyed, nobody can.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, ClassVar, NamedTuple

import orjson
from pydantic import Field, ValidationError

from contracts.fields import FieldKind
from contracts.heads import Count, Hash, Head, Salt, check_head, sign_head
from contracts.merkle import (
    ProofError,
    canonical,
    from_base64url,
    leaf_hash,
    root_and_paths,
    root_from_path,
    to_base64url,
)
from servicekit.envelope import Wire

SALT_BYTES = 16
_WHERE = "data.receipt.proof"


class Proof(Wire):
    """Where a record's leaf stands in the ledger, and what else is needed to recompute it."""

    holds: ClassVar = FieldKind.PROOF

    salt: Salt
    """The recipient's part of the entry's salt."""
    untold: Hash
    """The hash of the whole explanation, which only the door holds."""
    position: Count
    """The leaf's place in its batch, from 0."""
    path: Annotated[tuple[Hash, ...], Field(max_length=53)]
    """The siblings on the way from the leaf to `head.root`, lowest first."""
    head: Head


class Leaf(NamedTuple):
    """One entry's leaf, and what its recipient needs to recompute it, as it stands on the wire."""

    hash: bytes
    salt: str
    untold: str


def told_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record tells: the whole CloudEvent but `data.receipt.proof` and `traceparent`. The record stays as it is.

    `traceparent` says nothing of the client and belongs to the transport: tracing may add it to a sealed record or
    replace it. Every other attribute counts, those that `servicekit.envelope.Event` ignores as well.
    """
    told = {name: value for name, value in record.items() if name != "traceparent"}
    data = told.get("data")
    receipt = data.get("receipt") if isinstance(data, dict) else None
    if isinstance(data, dict) and isinstance(receipt, dict) and "proof" in receipt:
        told["data"] = {**data, "receipt": {name: value for name, value in receipt.items() if name != "proof"}}
    return told


def leaf_of(salt: bytes, told: bytes, explanation: bytes) -> Leaf:
    """The leaf of one ledger entry.

    Args:
        salt: 16 random bytes of this entry's own. To be kept secret, and destroyed at erasure.
        told: `told_of` the record that leaves, in canonical JSON; `null` where nothing is told, as for a refusal.
        explanation: all that the entry says, with what is kept from the recipient, in canonical JSON.

    Raises:
        ValueError: the salt is not 16 bytes long.
    """
    part, kept = _parts(salt)
    return _leaf(part, sha256(told).digest(), _untold(kept, explanation))


def hashes_of(salt: bytes, told: bytes, explanation: bytes) -> tuple[bytes, bytes]:
    """The two hashes that a leaf binds, `told` and `untold`: all that is needed of what was erased.

    Args and Raises: as for `leaf_of`.
    """
    return sha256(told).digest(), _untold(_parts(salt)[1], explanation)


def leaf_of_hashes(salt: bytes, told: bytes, untold: bytes) -> Leaf:
    """The leaf of an entry of which the hashes are known (`hashes_of`)."""
    return _leaf(_parts(salt)[0], told, untold)


def _leaf(part: bytes, told: bytes, untold: bytes) -> Leaf:
    return Leaf(leaf_hash(part + told + untold), to_base64url(part), to_base64url(untold))


def _untold(kept: bytes, explanation: bytes) -> bytes:
    return sha256(b"\x02" + kept + explanation).digest()


def _parts(salt: bytes) -> tuple[bytes, bytes]:
    """The recipient's part of a salt, and the part that is kept from it."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    derived = sha256(b"throughgate ledger salt 1\n" + salt).digest()
    return derived[:SALT_BYTES], derived[SALT_BYTES:]


def seal(
    seed: bytes, before: Head | None, leaves: Sequence[Leaf], *, shard: int, at: datetime
) -> tuple[Head, list[bytes]]:
    """Seal one batch: its head, and each leaf's `Proof` as JSON, in the leaves' order.

    Args: as for `sign_head`; `leaves` in the order of their entries, at least one.

    Raises:
        ProofError: `tree`: there is no leaf.
        ValueError: as `sign_head`.
    """
    root, paths = root_and_paths([leaf.hash for leaf in leaves])
    head = sign_head(seed, before, shard=shard, root=root, size=len(leaves), at=at)
    return head, _proofs(head, leaves, paths)


def proofs_again(head: Head, leaves: Sequence[Leaf]) -> list[bytes]:
    """The proofs that `seal` gave with this head, to the byte.

    Raises:
        ProofError: `root`: these are not the leaves that it seals.
    """
    root, paths = root_and_paths([leaf.hash for leaf in leaves])
    if to_base64url(root) != head.root:
        raise ProofError("root", f"The leaves do not lead to the root of head {head.sequence} of shard {head.shard}.")
    return _proofs(head, leaves, paths)


def _proofs(head: Head, leaves: Sequence[Leaf], paths: Sequence[tuple[str, ...]]) -> list[bytes]:
    shown = orjson.Fragment(orjson.dumps(head.model_dump(by_alias=True)))  # written once for all of them
    return [
        orjson.dumps({"salt": leaf.salt, "untold": leaf.untold, "position": position, "path": path, "head": shown})
        for position, (leaf, path) in enumerate(zip(leaves, paths, strict=True))
    ]


def place_for_proof(told: bytes, receipt: bytes) -> int:
    """Where in a record its proof goes: the end of its receipt, which is one of a kind by its decision's id.

    Args: both in canonical JSON.
    """
    return told.index(receipt) + len(receipt) - 1


def with_proof(told: bytes, place: int, proof: bytes) -> bytes:
    """The record that leaves: what was told, with its proof in its receipt."""
    return b"".join((told[:place], b',"proof":', proof, told[place:]))


def check_record(record: Mapping[str, Any], public_keys: Mapping[str, bytes]) -> Head:
    """Check that a record is, to the letter, what the door sealed.

    Args:
        record: a CloudEvent as `json.loads` gives it, with a `Proof` at `data.receipt.proof`.
        public_keys: raw public keys that are trusted, by their ids (`contracts.heads.keys_by_id`).

    Returns:
        The head that it was sealed under. Its signature is good. Hold it against the heads that others have
        (`check_chain`), or the door could show each recipient a ledger of its own.

    Raises:
        ProofError: `missing` or `malformed`: there is no proof to check; `unknown-key` or `bad-signature`: the head
            is not the door's; `value`, `tree` or `root`: the record, or its place, is not what was sealed.
    """
    found: Any = record
    for name in ("data", "receipt", "proof"):
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        raise ProofError("missing", f"The record has no {_WHERE}.")
    try:
        proof = Proof.model_validate(found)
    except ValidationError as error:  # said without its text, which quotes what was given
        place = ".".join(str(part) for part in (_WHERE, *error.errors(include_input=False)[0]["loc"]))
        raise ProofError("malformed", f"{place} is missing, or is not of the form that a proof has.") from None
    head = proof.head
    check_head(head, public_keys)
    leaf = leaf_hash(
        from_base64url(proof.salt) + sha256(canonical(told_of(record))).digest() + from_base64url(proof.untold)
    )
    path = [from_base64url(node) for node in proof.path]
    if to_base64url(root_from_path(leaf, proof.position, head.size, path)) != head.root:
        raise ProofError(
            "root",
            f"The record does not lead to the root of head {head.sequence} of shard {head.shard} from position "
            f"{proof.position} of {head.size}: the record or its {_WHERE} is not what was sealed.",
        )
    return head
