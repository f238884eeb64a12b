"""What of a batch was tampered with is told from hashes alone, wherever it can be, and never told wrongly."""

import os
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.heads import Head, new_signing_key, sign_head
from contracts.merkle import root_of
from throughgate import proofs
from throughgate.proofs import Entry, Opened, Unreadable, check_batch, read_json

SEED = new_signing_key()


def batch(size: int, *, opened: bool = False) -> tuple[Head, list[Entry]]:
    leaves = [os.urandom(32) for _ in range(size)]
    head = sign_head(SEED, None, shard=0, root=root_of(leaves), size=size, at=datetime.now(UTC))
    held = [Opened(False, leaf, True) if opened else None for leaf in leaves]
    return head, [Entry(n, leaf, o) for n, (leaf, o) in enumerate(zip(leaves, held, strict=True))]


@given(st.integers(1, 40))
@settings(max_examples=30)
def test_a_batch_as_it_was_sealed_is_right(size: int) -> None:
    for opened in (False, True):
        assert check_batch(*batch(size, opened=opened)) == []


@given(st.data())
@settings(max_examples=60)
def test_one_tampering_is_named_by_its_position(data: Any) -> None:
    head, entries = batch(data.draw(st.integers(1, 20)), opened=True)
    n = data.draw(st.integers(0, head.size - 1))
    one = entries[n]
    tampered = {
        "leaf": [*entries[:n], Entry(n, os.urandom(32), one.opened), *entries[n + 1 :]],
        "short leaf": [*entries[:n], Entry(n, b"x", one.opened), *entries[n + 1 :]],
        "content": [*entries[:n], Entry(n, one.leaf, Opened(False, os.urandom(32), True)), *entries[n + 1 :]],
        "columns": [*entries[:n], Entry(n, one.leaf, Opened(False, one.leaf, False)), *entries[n + 1 :]],
        "gone": [*entries[:n], *entries[n + 1 :]],
        "put in beside it": [*entries[: n + 1], Entry(n, os.urandom(32)), *entries[n + 1 :]],
    }
    for what, some in tampered.items():
        found = check_batch(head, some)
        assert len(found) == 1, what
        assert f"position {n}:" in found[0], what


def test_one_put_in_with_the_others_moved_on_is_found() -> None:
    head, entries = batch(9)
    put_in = [e.leaf for e in entries[:4]] + [os.urandom(32)] + [e.leaf for e in entries[4:]]
    found = check_batch(head, [Entry(n, leaf) for n, leaf in enumerate(put_in)])
    assert found == ["Shard 0, batch 1, position 4: an entry was put in after the batch was sealed."]


def test_two_that_changed_places_are_found() -> None:
    head, entries = batch(5)
    one, other = entries[1], entries[3]
    moved = [entries[0], Entry(1, other.leaf), entries[2], Entry(3, one.leaf), entries[4]]
    assert check_batch(head, moved) == ["Shard 0, batch 1: one of its 5 entries was altered; open them to tell which."]


def test_a_leaf_of_what_is_erased_is_checked_too() -> None:
    head, entries = batch(3, opened=True)
    altered = [entries[0], Entry(1, os.urandom(32), Opened(True, None, True)), entries[2]]
    assert check_batch(head, altered) == [
        "Shard 0, batch 1, position 1: the leaf of what is erased there is not what was sealed."
    ]
    erased = [entries[0], Entry(1, entries[1].leaf, Opened(True, None, True)), entries[2]]
    assert check_batch(head, erased) == []


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '[{"b":{"c":1,"c":2}}]', "[1.0]", "[NaN]", "[1e3]", "{", "[" * 100_000]
)
def test_what_two_readers_could_take_for_two_things_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        read_json(text)


@pytest.mark.parametrize(
    "text", ["[]", "{}", "[1]", '[{"publicKey": "AA"}]', '[{"publicKey": 7}]', '[{"key": "x"}]', "x"]
)
def test_what_is_no_list_of_keys_is_refused(text: str) -> None:
    with pytest.raises(Unreadable):
        proofs.read_keys(text)
