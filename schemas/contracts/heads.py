"""The signed heads of the ledger: one a batch, each naming the one before, signed with Ed25519 (RFC 8032).

Whoever keeps a head can show later that the ledger was changed: another head in its place is a fork, none is a gap.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from itertools import groupby
from typing import Annotated, ClassVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, StringConstraints

from contracts.fields import FieldKind
from contracts.merkle import HASH_BYTES, ProofError, canonical, from_base64url, to_base64url
from servicekit.envelope import Wire

Count = Annotated[int, Field(strict=True, ge=0, le=2**53 - 1)]
"""A whole number that every JSON reader holds."""
# The last character carries bits that stand for nothing. They must be zero, or one value would have several spellings.
Hash = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$")]
"""32 bytes in base64url without padding."""
Salt = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{21}[AQgw]$")]
"""16 bytes in base64url without padding."""
Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{85}[AQgw]$")]
"""64 bytes in base64url without padding."""
KeyId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""The first 16 hex digits of the SHA-256 of a raw public key."""
UtcTime = Annotated[
    str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$")
]
"""A time as it was signed, to the microsecond: `2026-06-01T12:00:00.000000Z`. A string, for it is signed as spelled."""

_DOMAIN = b"throughgate ledger head 1\n"
"""Stands before what is signed and hashed, so that a head's signature is good for nothing else."""
_NONE = to_base64url(bytes(HASH_BYTES))


class Head(Wire):
    """What the door signed about one batch of one shard."""

    holds: ClassVar = FieldKind.PROOF

    shard: Count
    sequence: Annotated[Count, Field(ge=1)]
    """The batch's place in its shard, from 1."""
    previous: Hash
    """`head_hash` of the head before; zeros at sequence 1."""
    root: Hash
    size: Annotated[Count, Field(ge=1)]
    """Leaves in this batch."""
    total: Annotated[Count, Field(ge=1)]
    """Leaves of the shard up to this batch and with it."""
    at: UtcTime
    key: KeyId
    signature: Signature


def new_signing_key() -> bytes:
    """A new Ed25519 seed: 32 random bytes, secret."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key_of(seed: bytes) -> bytes:
    """The raw public key, 32 bytes, of a seed of 32 bytes. Raises ValueError for another length."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def key_id(public_key: bytes) -> str:
    """By which a head names its key: the first 16 hex digits of the SHA-256 of the raw public key."""
    return sha256(public_key).hexdigest()[:16]


def keys_by_id(public_keys: Iterable[bytes]) -> dict[str, bytes]:
    """Raw public keys by their ids: the form in which the checks take them."""
    return {key_id(public_key): public_key for public_key in public_keys}


def _signed(fields: dict[str, object]) -> bytes:
    return _DOMAIN + canonical(fields)


def _signed_part(head: Head) -> bytes:
    return _signed(head.model_dump(by_alias=True, exclude={"signature"}))


def sign_head(seed: bytes, before: Head | None, *, shard: int, root: bytes, size: int, at: datetime) -> Head:
    """The head of the next batch of a shard.

    Args:
        seed: the signing key, 32 bytes.
        before: the shard's last head; None for its first batch. Sequence, previous and total follow from it.
        shard: which shard, from 0.
        root: `root_of` the batch's leaves, 32 bytes.
        size: leaves in the batch, at least one.
        at: when it was sealed; its offset does not matter.

    Raises:
        ValueError: `before` is of another shard, `at` has no offset, or a number or a length is out of range.
    """
    if before and before.shard != shard:
        raise ValueError(f"a head of shard {before.shard} cannot stand before one of shard {shard}")
    if at.tzinfo is None:
        raise ValueError("the time of a head needs its offset from UTC")
    key = Ed25519PrivateKey.from_private_bytes(seed)
    fields: dict[str, object] = {
        "shard": shard,
        "sequence": before.sequence + 1 if before else 1,
        "previous": to_base64url(head_hash(before)) if before else _NONE,
        "root": to_base64url(root),
        "size": size,
        "total": (before.total if before else 0) + size,
        "at": at.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z",
        "key": key_id(key.public_key().public_bytes_raw()),
    }
    return Head.model_validate({**fields, "signature": to_base64url(key.sign(_signed(fields)))})


def head_hash(head: Head) -> bytes:
    """By which the next head names this one: 32 bytes over all that is signed, the signature itself not included."""
    return sha256(_signed_part(head)).digest()


def check_head(head: Head, public_keys: Mapping[str, bytes]) -> None:
    """Check one head's signature with raw public keys by their ids (`keys_by_id`).

    Raises:
        ProofError: `unknown-key` or `bad-signature`.
    """
    if (public_key := public_keys.get(head.key)) is None:
        raise ProofError(
            "unknown-key", f"{_named(head)} is signed with key {head.key}, which is not among those given."
        )
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(from_base64url(head.signature), _signed_part(head))
    except InvalidSignature:
        raise ProofError(
            "bad-signature", f"{_named(head)} does not carry a good signature of key {head.key}."
        ) from None


def check_chain(heads: Iterable[Head], public_keys: Mapping[str, bytes], *, from_start: bool = True) -> None:
    """Check heads of any number of shards, in any order. A head that is there twice is no fault.

    Args:
        heads: all heads that are held. An end that was cut off cannot be seen from heads alone.
        public_keys: raw public keys by their ids (`keys_by_id`).
        from_start: each shard has to begin at sequence 1. False takes each shard's first head as it stands: give
            the last head that was checked before, and those since.

    Raises:
        ProofError: the first break by shard and sequence: `unknown-key`, `bad-signature`, `fork` (two heads with one
            sequence), `gap`, `wrong-previous` or `wrong-total`.
    """
    before: Head | None = None
    ordered = sorted(heads, key=_place)
    for (shard, _), same in groupby(ordered, key=_place):
        copies = list(same)
        for head in copies:  # before they are compared, for anyone could make an unsigned head that looks like a fork
            check_head(head, public_keys)
        head = copies[0]
        if len({head_hash(copy) for copy in copies}) > 1:
            raise ProofError("fork", f"{_named(head)} exists twice, signed, with different contents.")
        if before and before.shard != shard:
            before = None
        if before or from_start or head.sequence == 1:
            _check_next(before, head)
        before = head


def _check_next(before: Head | None, head: Head) -> None:
    last, previous, total = 0, _NONE, 0
    if before:
        last, previous, total = before.sequence, to_base64url(head_hash(before)), before.total
    if head.sequence != last + 1:
        raise ProofError("gap", f"{_named(head)} follows {last or 'the start'}: what is between them is missing.")
    if head.previous != previous:
        raise ProofError("wrong-previous", f"{_named(head)} does not name the head before it.")
    if head.total != total + head.size:
        raise ProofError("wrong-total", f"{_named(head)} counts {head.total} leaves in all, not {total + head.size}.")


def _place(head: Head) -> tuple[int, int]:
    return head.shard, head.sequence


def _named(head: Head) -> str:
    return f"Head {head.sequence} of shard {head.shard}"
