"""The ledger's proof: canonical JSON, the tree, signed heads and their chain, a record checked from itself alone."""

import copy
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any
from uuid import uuid4

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.heads import (
    Head,
    check_chain,
    check_head,
    head_hash,
    key_id,
    keys_by_id,
    new_signing_key,
    public_key_of,
    sign_head,
)
from contracts.merkle import (
    ProofError,
    canonical,
    from_base64url,
    leaf_hash,
    root_and_paths,
    root_from_path,
    root_of,
    to_base64url,
)
from contracts.proof import (
    Leaf,
    Proof,
    check_record,
    leaf_of,
    place_for_proof,
    proofs_again,
    seal,
    told_of,
    with_proof,
)

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
SEED = bytes(range(32))
KEYS = keys_by_id([public_key_of(SEED)])
SECRET = "Sam Example"


def kind_of(act: Callable[..., object], *args: Any, **options: Any) -> str:
    """Which sort of wrong is raised, and that its sentence is one and quotes nothing personal."""
    with pytest.raises(ProofError) as raised:
        act(*args, **options)
    assert str(raised.value).endswith(".")
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None
    return raised.value.kind


# --- canonical JSON

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_a_value_has_one_spelling_whether_or_not_it_was_on_the_wire(value: Any) -> None:
    once = canonical(value)
    assert canonical(json.loads(once)) == canonical(orjson.loads(once)) == once
    assert canonical(json.loads(json.dumps(value, indent=1))) == once
    # what a partner writes with nothing but its language's own JSON
    assert json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == once


def test_the_order_of_keys_does_not_matter_and_that_of_items_does() -> None:
    assert canonical({"b": [1, 2], "a": None}) == canonical({"a": None, "b": [1, 2]}) == b'{"a":null,"b":[1,2]}'
    assert canonical([1, 2]) != canonical([2, 1])


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        0.5,
        float("nan"),
        float("inf"),
        2**53,
        -(2**53),
        2**70,
        AT,
        AT.date(),
        b"bytes",
        (1, 2),
        {1, 2},
        uuid4(),
        {1: "a key that is no string"},
        "\ud800",
        object(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_spelled_differently_elsewhere_is_refused_at_any_depth(value: Any) -> None:
    for nested in (value, [value], {"a": value}, {"a": [SECRET, {"b": [[], {}, value]}]}):
        assert kind_of(canonical, nested) == "value"


def test_endless_depth_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    assert kind_of(canonical, value) == "value"


@given(st.binary(max_size=70))
def test_bytes_come_back(raw: bytes) -> None:
    assert from_base64url(to_base64url(raw)) == raw
    assert "=" not in to_base64url(raw)


# --- the tree

INPUTS = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""The inputs and roots of Certificate Transparency's reference implementation."""


def leaves_of(size: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(size)]


def path_by_definition(position: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    if position < half:
        return [*path_by_definition(position, leaves[:half]), root_of(leaves[half:])]
    return [*path_by_definition(position - half, leaves[half:]), root_of(leaves[:half])]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert root_of([leaf_hash(bytes.fromhex(entry)) for entry in INPUTS[:size]]).hex() == ROOTS[size - 1]


def paths_of(leaves: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    return [tuple(map(from_base64url, path)) for path in root_and_paths(leaves)[1]]


def test_every_leaf_of_every_size_climbs_to_the_root_by_the_path_of_the_rfc() -> None:
    for size in range(1, 71):
        leaves = leaves_of(size)
        root = root_of(leaves)
        assert root_and_paths(leaves)[0] == root
        for position, path in enumerate(paths_of(leaves)):
            assert list(path) == path_by_definition(position, leaves)
            assert root_from_path(leaves[position], position, size, path) == root


def leads(root: bytes, leaf: bytes, position: int, size: int, path: Sequence[bytes]) -> bool:
    try:
        return root_from_path(leaf, position, size, path) == root
    except ProofError:
        return False


def flipped(raw: bytes, bit: int) -> bytes:
    return (int.from_bytes(raw) ^ 1 << bit % (8 * len(raw))).to_bytes(len(raw))


@given(st.data(), st.integers(1, 70), st.integers(0, 255))
def test_nothing_but_the_leaf_at_its_place_climbs_to_the_root(data: st.DataObject, size: int, bit: int) -> None:
    leaves = leaves_of(size)
    root, position = root_of(leaves), data.draw(st.integers(0, size - 1))
    leaf, path = leaves[position], list(paths_of(leaves)[position])
    assert not leads(root, flipped(leaf, bit), position, size, path)
    for other in range(-1, size + 2):
        assert leads(root, leaf, other, size, path) == (other == position)
    for place in range(len(path)):
        assert not leads(root, leaf, position, size, [*path[:place], flipped(path[place], bit), *path[place + 1 :]])
        assert not leads(root, leaf, position, size, path[:place] + path[place + 1 :])
        swapped = [*path[:place], *reversed(path[place:])]
        assert swapped == path or not leads(root, leaf, position, size, swapped)
    assert not leads(root, leaf, position, size, [*path, leaves[0]])
    assert not leads(root, leaf, position, size, [*path, root])


@pytest.mark.parametrize("size", range(2, 20))
def test_a_node_does_not_pass_for_a_leaf(size: int) -> None:
    """A second preimage: the two halves below a node, taken for an entry or for a leaf of a smaller batch."""
    leaves = leaves_of(size)
    root, path = root_of(leaves), paths_of(leaves)[0]
    node = root_from_path(leaves[0], 0, 2, path[:1])
    assert leaf_hash(leaves[0] + leaves[1]) != node
    for position in range(size):
        assert not leads(root, node, position, size, path[1:])
    # with a smaller size it would climb, which is why the size is in the signed head
    assert leads(root, node, 0, (size + 1) // 2, path[1:])


def test_a_last_leaf_given_twice_is_another_batch() -> None:
    for size in range(1, 40):
        leaves = leaves_of(size)
        assert root_of(leaves) != root_of([*leaves, leaves[-1]])


@pytest.mark.parametrize("leaves", [[], [b"short"], [bytes(32), bytes(33)]], ids=["none", "short", "long"])
def test_a_tree_needs_leaves_that_are_hashes(leaves: list[bytes]) -> None:
    for act in (root_of, root_and_paths):
        assert kind_of(act, leaves) == "tree"


def test_parts_of_other_lengths_do_not_climb() -> None:
    leaves = leaves_of(2)
    assert kind_of(root_from_path, leaves[0] + leaves[1][:1], 0, 2, [leaves[1][1:]]) == "tree"


# --- keys and heads


def chain(length: int, *, shard: int = 0, seed: bytes = SEED, salt: str = "") -> list[Head]:
    heads: list[Head] = []
    for number in range(length):
        root = sha256(f"{salt}{shard}.{number}".encode()).digest()
        before = heads[-1] if heads else None
        at = AT + timedelta(seconds=number)
        heads.append(sign_head(seed, before, shard=shard, root=root, size=number + 3, at=at))
    return heads


def resigned(head: Head, **changes: Any) -> Head:
    """A head that the door itself signed with something else in it."""
    fields = head.model_dump(exclude={"signature"}) | changes
    signature = Ed25519PrivateKey.from_private_bytes(SEED).sign(b"throughgate ledger head 1\n" + canonical(fields))
    return Head(**fields, signature=to_base64url(signature))


def test_keys_are_those_of_rfc_8032() -> None:
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    public_key = public_key_of(seed)
    assert public_key.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key_id(public_key) == sha256(public_key).hexdigest()[:16]
    assert keys_by_id([public_key]) == {key_id(public_key): public_key}
    assert new_signing_key() != new_signing_key()
    assert len(new_signing_key()) == 32


def test_a_head_says_what_it_follows() -> None:
    first, second = chain(2)
    assert (first.sequence, first.total, first.previous) == (1, 3, to_base64url(bytes(32)))
    assert (second.sequence, second.size, second.total) == (2, 4, 7)
    assert from_base64url(second.previous) == head_hash(first)
    assert first.at == "2026-06-01T12:00:00.000000Z"
    assert first.key == key_id(public_key_of(SEED))
    there = timezone(timedelta(hours=1))
    assert sign_head(SEED, None, shard=0, root=from_base64url(first.root), size=3, at=AT.astimezone(there)) == first
    assert Head.model_validate_json(first.model_dump_json(by_alias=True)) == first


def test_the_hash_of_a_head_is_over_what_is_signed() -> None:
    (head,) = chain(1)
    signed = head.model_dump()
    del signed["signature"]
    assert head_hash(head) == sha256(b"throughgate ledger head 1\n" + canonical(signed)).digest()


@pytest.mark.parametrize(
    "change",
    [
        {"root": bytes(31)},
        {"size": 0},
        {"shard": 1},
        {"at": AT.replace(tzinfo=None)},
    ],
    ids=["root", "size", "shard", "time"],
)
def test_no_head_is_made_of_what_is_out_of_range(change: dict[str, Any]) -> None:
    (before,) = chain(1)
    fields: dict[str, Any] = {"shard": 0, "root": bytes(32), "size": 1, "at": AT}
    sign_head(SEED, before, **fields)
    with pytest.raises(ValueError):
        sign_head(SEED, before, **(fields | change))


def changed(value: Any) -> Iterator[Any]:
    """Values of the same form that are not this one."""
    if isinstance(value, int):
        yield from (value + 1, value + 1000)
    else:
        for place in (0, len(value) // 2, len(value) - 1):
            other = next(c for c in "4Q018" if c != value[place] and (place or c.isdigit()))
            yield value[:place] + other + value[place + 1 :]


@pytest.mark.parametrize("field", sorted(Head.model_fields))
def test_a_head_with_any_field_changed_is_not_the_doors(field: str) -> None:
    head = chain(2)[1]
    check_head(head, KEYS)
    for value in changed(getattr(head, field)):
        other = head.model_copy(update={field: value})
        assert other != head
        assert kind_of(check_head, other, KEYS) in ({"unknown-key"} if field == "key" else {"bad-signature"})


def test_a_head_of_another_signer_is_not_the_doors() -> None:
    stranger = new_signing_key()
    (head,) = chain(1, seed=stranger)
    assert kind_of(check_head, head, KEYS) == "unknown-key"
    assert kind_of(check_head, head.model_copy(update={"key": key_id(public_key_of(SEED))}), KEYS) == "bad-signature"


@given(st.integers(0, 5), st.randoms())
def test_a_whole_chain_is_good_in_any_order_with_repeats_and_after_a_change_of_key(length: int, random: Any) -> None:
    new = bytes(32)
    heads = chain(length) + chain(2, shard=1) + chain(1, shard=7)
    if length:
        heads.append(sign_head(new, heads[length - 1], shard=0, root=bytes(32), size=1, at=AT))
    heads += heads[:2]
    random.shuffle(heads)
    check_chain(heads, KEYS | keys_by_id([public_key_of(new)]))


def test_breaks_of_a_chain_are_named() -> None:
    heads = chain(5)
    assert kind_of(check_chain, [*heads[:2], *heads[3:]], KEYS) == "gap"
    assert kind_of(check_chain, heads[1:], KEYS) == "gap"
    fork = resigned(heads[2], root=to_base64url(bytes(32)))
    assert kind_of(check_chain, [*heads, fork], KEYS) == "fork"
    assert kind_of(check_chain, [fork, *heads], KEYS) == "fork"
    assert kind_of(check_chain, [heads[0], resigned(heads[0], at="2026-06-01T12:00:09.000000Z")], KEYS) == "fork"
    for at in (0, 2):
        other = resigned(heads[at], previous=to_base64url(b"\1" * 32))
        assert kind_of(check_chain, [*heads[:at], other], KEYS) == "wrong-previous"
        other = resigned(heads[at], total=heads[at].total + 1)
        assert kind_of(check_chain, [*heads[:at], other], KEYS) == "wrong-total"
    forged = heads[2].model_copy(update={"root": to_base64url(bytes(32))})
    assert kind_of(check_chain, [*heads[:2], forged, *heads[3:]], KEYS) == "bad-signature"
    assert kind_of(check_chain, [*heads, forged], KEYS) == "bad-signature"
    strange = chain(1, shard=1, seed=bytes(32))
    assert kind_of(check_chain, [*heads, *strange], KEYS) == "unknown-key"


def test_the_first_break_is_named_with_its_place() -> None:
    heads, others = chain(5), chain(4, shard=2)
    with pytest.raises(ProofError, match=r"^Head 4 of shard 0 follows 2: ") as raised:
        check_chain(
            [*others[:1], *others[2:], heads[0], heads[1], heads[3], heads[4].model_copy(update={"size": 9})], KEYS
        )
    assert raised.value.kind == "gap"


def test_a_chain_can_go_on_from_a_head_that_was_checked_before() -> None:
    heads = chain(6)
    check_chain(heads[2:], KEYS, from_start=False)
    assert kind_of(check_chain, [heads[2], *heads[4:]], KEYS, from_start=False) == "gap"
    other = chain(6, salt="another")
    assert kind_of(check_chain, [heads[2], *other[3:]], KEYS, from_start=False) == "wrong-previous"
    first = resigned(heads[0], total=9)
    assert kind_of(check_chain, [first], KEYS, from_start=False) == "wrong-total"


# --- a record


def record(number: int = 0) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"event-{number}",
        "source": "/throughgate",
        "type": "throughgate.client.changed.v1",
        "time": "2026-06-01T12:00:00.123456+00:00",
        "subject": "0b8d2f6c-c3a1-4d7b-8e59-6f4a2c9d5a55",
        "datacontenttype": "application/json",
        "data": {
            "purpose": "referral",
            "sections": [
                {"category": "identity", "source": "hmp-leeds", "data": {"givenName": SECRET, "familyName": "Ö"}}
            ],
            "receipt": {"decision": "d", "consents": [3], "withheld": [], "obligations": ["no-onward-sharing"]},
        },
    }


EXPLANATION = {"permitted": ["identity"], "withheld": [{"category": "health", "rule": "no-agreement"}]}
EXPLAINED = canonical(EXPLANATION)


def sealed(size: int = 7, before: Head | None = None) -> list[dict[str, Any]]:
    """Records as their recipients read them."""
    records = [record(number) for number in range(size)]
    leaves = [leaf_of(bytes([n]) * 16, canonical(told_of(r)), EXPLAINED) for n, r in enumerate(records)]
    _, proofs = seal(SEED, before, leaves, shard=4, at=AT)
    for r, proof in zip(records, proofs, strict=True):
        r["data"]["receipt"]["proof"] = orjson.loads(proof)
    return [json.loads(orjson.dumps(r)) for r in records]


def test_each_sealed_record_checks_and_names_its_head() -> None:
    for size in (1, 2, 3, 7, 8, 33):
        heads = {check_record(r, KEYS) for r in sealed(size)}
        assert [(h.shard, h.sequence, h.size, h.total) for h in heads] == [(4, 1, size, size)]
        check_chain(heads, KEYS)


def test_the_leaf_is_what_its_definition_says() -> None:
    salt = b"s" * 16
    both = sha256(b"throughgate ledger salt 1\n" + salt).digest()
    untold = sha256(b"\x02" + both[16:] + canonical(EXPLANATION)).digest()
    told = sha256(canonical(record())).digest()
    leaf = sha256(b"\x00" + both[:16] + told + untold).digest()
    assert leaf_of(salt, canonical(record()), EXPLAINED) == Leaf(leaf, to_base64url(both[:16]), to_base64url(untold))


def test_the_recipient_does_not_get_what_it_would_need_to_guess_the_untold() -> None:
    salt = b"s" * 16
    leaf = leaf_of(salt, canonical(record()), EXPLAINED)
    given_away = from_base64url(leaf.salt)
    assert len(given_away) == 16
    assert given_away != salt
    guesses = [salt_for + canonical(EXPLANATION) for salt_for in (b"", given_away, sha256(given_away).digest()[16:])]
    assert from_base64url(leaf.untold) not in [
        sha256(prefix + guess).digest() for guess in guesses for prefix in (b"", b"\x02")
    ]
    other = leaf_of(b"t" * 16, canonical(record()), EXPLAINED)
    assert not set(leaf) & set(other)


def test_a_refusal_has_a_leaf_and_a_salt_has_one_length() -> None:
    assert len(leaf_of(bytes(16), b"null", EXPLAINED).hash) == 32
    for length in (0, 15, 17):
        with pytest.raises(ValueError, match="16 bytes"):
            leaf_of(bytes(length), b"null", EXPLAINED)


def test_told_is_all_but_the_proof_and_the_trace_and_leaves_the_record_as_it_is() -> None:
    whole = sealed()[2] | {"traceparent": "00-a-b-01"}
    before = copy.deepcopy(whole)
    assert told_of(whole) == record(2)
    assert whole == before
    assert told_of({"data": {"retraction": "r"}}) == {"data": {"retraction": "r"}}
    assert told_of({"data": [1]}) == {"data": [1]}
    check_record(whole, KEYS)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value stands in a record, the containers as well."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


RECORD = sealed()[5]
PLACES = list(places(RECORD))


def put(whole: dict[str, Any], path: Sequence[Any], value: Any) -> dict[str, Any]:
    other: Any = copy.deepcopy(whole)
    inner = other
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return other  # type: ignore[no-any-return]


@settings(max_examples=400)
@given(st.sampled_from(PLACES), plain)
def test_a_record_with_anything_else_in_it_fails(path: tuple[Any, ...], value: Any) -> None:
    other = put(RECORD, path, value)
    if canonical(other) != canonical(RECORD):  # True is not 1 here
        kind_of(check_record, other, KEYS)


@pytest.mark.parametrize("path", PLACES, ids=lambda path: ".".join(map(str, path)))
def test_a_record_with_any_value_changed_a_little_or_taken_away_fails(path: tuple[Any, ...]) -> None:
    value: Any = RECORD
    for step in path:
        value = value[step]
    others: list[Any] = [None, *changed(value)] if isinstance(value, str | int) and value != "" else [None, {}, [1]]
    others += [str(value), float(value)] if isinstance(value, int) else []
    for other in others:
        kind_of(check_record, put(RECORD, path, other), KEYS)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (("data", "sections", 0, "data", "givenName"), "root"),
        (("subject",), "root"),
        (("clientversion",), "root"),
        (("data", "receipt", "decision"), "root"),
        (("data", "receipt", "more"), "root"),
    ],
    ids=str,
)
def test_what_was_added_or_changed_does_not_lead_to_the_root(path: tuple[Any, ...], kind: str) -> None:
    assert kind_of(check_record, put(RECORD, path, "x"), KEYS) == kind


def test_proofs_of_other_records_and_batches_do_not_fit() -> None:
    one, two = sealed()[:2]
    proofs = [r["data"]["receipt"]["proof"] for r in (one, two)]
    where = ("data", "receipt", "proof")
    assert kind_of(check_record, put(one, where, proofs[1]), KEYS) == "root"
    later = sealed(3, before=check_record(one, KEYS))[0]["data"]["receipt"]["proof"]
    assert kind_of(check_record, put(one, (*where, "head"), later["head"]), KEYS) == "tree"
    assert kind_of(check_record, put(one, (*where, "position"), 7), KEYS) == "tree"
    assert kind_of(check_record, put(one, (*where, "path"), []), KEYS) == "tree"
    assert kind_of(check_record, one, {}) == "unknown-key"


@pytest.mark.parametrize("taken", [("data",), ("data", "receipt"), ("data", "receipt", "proof")], ids=len)
def test_a_record_without_a_proof_is_named_so(taken: tuple[str, ...]) -> None:
    nothings: tuple[Any, ...] = (None, [])
    for nothing in nothings:
        expected = "malformed" if nothing == [] and taken[-1] == "proof" else "missing"
        assert kind_of(check_record, put(RECORD, taken, nothing), KEYS) == expected


@pytest.mark.parametrize(
    "name", [("salt",), ("untold",), ("path", 0), ("head", "previous"), ("head", "signature")], ids=str
)
def test_bytes_have_one_spelling(name: tuple[Any, ...]) -> None:
    """The last character carries bits that stand for nothing: with one set, the same bytes would be spelled anew."""
    path: tuple[Any, ...] = ("data", "receipt", "proof", *name)
    spelled: Any = RECORD
    for step in path:
        spelled = spelled[step]
    alike = spelled[:-1] + next(
        c for c in "BRhxFJNVZdlpt159" if from_base64url(spelled[:-1] + c) == from_base64url(spelled)
    )
    for other in (alike, spelled + "=", " " + spelled, spelled + "\n"):
        assert kind_of(check_record, put(RECORD, path, other), KEYS) == "malformed"


def test_what_is_malformed_is_named_by_its_place_and_not_quoted() -> None:
    other = put(RECORD, ("data", "receipt", "proof", "path", 1), SECRET)
    with pytest.raises(ProofError, match=r"^data\.receipt\.proof\.path\.1 is missing, or is not of the form") as raised:
        check_record(other, KEYS)
    assert SECRET not in str(raised.value)
    assert raised.value.__suppress_context__


def test_the_proof_on_the_wire_is_its_model() -> None:
    wire = RECORD["data"]["receipt"]["proof"]
    assert json.loads(Proof.model_validate(wire).model_dump_json(by_alias=True)) == wire


def test_a_record_with_its_proof_put_in_as_bytes_is_the_same_record() -> None:
    told = record(3)
    receipt = told["data"]["receipt"]
    written = canonical(told)
    _, proofs = seal(SEED, None, [leaf_of(bytes(16), written, EXPLAINED)], shard=4, at=AT)
    whole = orjson.loads(with_proof(written, place_for_proof(written, canonical(receipt)), proofs[0]))
    receipt["proof"] = orjson.loads(proofs[0])
    assert whole == told
    check_record(whole, KEYS)


def test_proofs_are_made_again_to_the_byte_and_not_of_other_leaves() -> None:
    leaves = [leaf_of(bytes([n]) * 16, canonical(record(n)), EXPLAINED) for n in range(5)]
    head, proofs = seal(SEED, None, leaves, shard=4, at=AT)
    kept = Head.model_validate_json(head.model_dump_json(by_alias=True))
    bare = [Leaf(leaf.hash, "", "") for leaf in leaves]
    bare[2] = leaves[2]
    assert proofs_again(kept, bare)[2] == proofs[2]
    with pytest.raises(ProofError) as caught:
        proofs_again(kept, [*bare[:4], bare[0]])
    assert caught.value.kind == "root"
