"""Canonical JSON and the hash tree of one batch of the ledger. Pure: no I/O, no clock.

The tree is that of RFC 9162, section 2.1: a leaf is hashed behind 0x00 and a node behind 0x01, so that neither can pass
for the other, and a last node without a partner moves up as it is. Doubling it would give two batches one root.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from types import NoneType
from typing import Any, Literal

import orjson

Kind = Literal[
    "value",
    "malformed",
    "missing",
    "tree",
    "root",
    "unknown-key",
    "bad-signature",
    "gap",
    "fork",
    "wrong-previous",
    "wrong-total",
]
"""What can be wrong with a proof, for programs; the sentence is for people."""

HASH_BYTES = 32
_PLAIN = frozenset({str, int, bool, NoneType})
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER | orjson.OPT_PASSTHROUGH_DATETIME


class ProofError(ValueError):
    """What is wrong and where, in a sentence that holds no personal data; `kind` says which sort of wrong."""

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


def canonical(value: Any) -> bytes:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8, nothing escaped that need not be.

    Allowed is what `json.loads` makes, but no floats: dict with str keys, list, str, int within 53 bits, bool, None.
    Times are strings already. So it does not matter whether a value went over the wire in between. Whoever checks in
    another language takes RFC 8785 (JCS), which writes the same bytes; for keys beyond U+FFFF alone it sorts otherwise.

    Raises:
        ProofError: `value`: anything else, such as a float, whose spelling differs from language to language.
    """
    written = write(value)
    _only_plain(value)  # after orjson, which limits the depth
    return written


def write(value: Any) -> bytes:
    """`canonical` of what is known to be plain, at a third of the cost: the door's own events, whose contracts have no
    floats. One that slipped in would not pass for something else: its record would fail every check.

    Raises:
        ProofError: `value`: it is no JSON at all.
    """
    try:
        return orjson.dumps(value, option=_CANONICAL)
    except TypeError as error:  # its text names types and limits, never values
        raise ProofError("value", f"This cannot be written as canonical JSON: {error}.") from None


def _only_plain(value: Any) -> None:
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list:
        if kind in _PLAIN:
            return
        raise ProofError("value", f"Canonical JSON holds no {kind.__name__}.")
    for inner in value:
        if type(inner) not in _PLAIN:
            _only_plain(inner)


def to_base64url(raw: bytes) -> str:
    """Bytes on the wire: base64url without padding (RFC 4648, section 5), 43 characters for a hash; hex takes 64."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def from_base64url(spelled: str) -> bytes:
    """The bytes of what `to_base64url` wrote. Forms are checked by the models' patterns, which allow but one."""
    return urlsafe_b64decode(spelled + "=" * (-len(spelled) % 4))


def leaf_hash(entry: bytes) -> bytes:
    """The leaf of an entry: 32 bytes."""
    return sha256(b"\x00" + entry).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


def _levels(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """The tree from its leaves, which come first, to its root.

    Raises:
        ProofError: `tree`: there is no leaf, or one is not 32 bytes long.
    """
    level = list(leaves)
    if not level or set(map(len, level)) != {HASH_BYTES}:
        raise ProofError("tree", f"A batch needs at least one leaf, and each leaf {HASH_BYTES} bytes.")
    levels = [level]
    while len(level) > 1:
        above = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            above.append(level[-1])
        levels.append(above)
        level = above
    return levels


def _paths(levels: list[list[str]]) -> list[tuple[str, ...]]:
    """Every leaf's inclusion path in one pass from the root down: a node's is its sibling, then its parent's path."""
    paths: list[tuple[str, ...]] = [()]
    for level in reversed(levels[:-1]):
        below: list[tuple[str, ...]] = []
        for left, right, path in zip(level[::2], level[1::2], paths, strict=False):
            below += ((right, *path), (left, *path))
        if len(level) % 2:
            below.append(paths[-1])
        paths = below
    return paths


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root over leaves of 32 bytes in their order. Raises ProofError (`tree`) for none, or another length."""
    return _levels(leaves)[-1][0]


def root_and_paths(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[str, ...]]]:
    """The root, and each leaf's inclusion path: the siblings on its way to the root, lowest first, in base64url.

    Raises as `root_of` does.
    """
    levels = _levels(leaves)
    # In base64url first: each node once, not once a path.
    return levels[-1][0], _paths([[to_base64url(node) for node in level] for level in levels])


def root_from_path(leaf: bytes, position: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf's inclusion path leads to (RFC 9162, section 2.1.3.2).

    Args:
        leaf: 32 bytes.
        position: the leaf's place in its batch, from 0.
        size: leaves in the batch.
        path: the siblings from the lowest up, 32 bytes each.

    Raises:
        ProofError: `tree`: the position or the length of the path cannot be in a batch of this size.
    """
    if not 0 <= position < size:
        raise ProofError("tree", f"Position {position} is not in a batch of {size} leaves.")
    if any(len(part) != HASH_BYTES for part in (leaf, *path)):
        raise ProofError("tree", f"The leaf and each element of its path have {HASH_BYTES} bytes.")
    here, last, value = position, size - 1, leaf
    for sibling in path:
        if not last:
            break
        if here % 2 or here == last:
            value = _node(sibling, value)
            while here and not here % 2:  # the levels through which a node without a partner moved up as it is
                here, last = here >> 1, last >> 1
        else:
            value = _node(value, sibling)
        here, last = here >> 1, last >> 1
    else:
        if not last:
            return value
    raise ProofError("tree", f"The path at position {position} has the wrong length for a batch of {size} leaves.")
