"""What anyone can check of the ledger with public keys alone: a partner its records, an auditor every batch. Pure."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from contracts.heads import Head, check_chain, head_hash, keys_by_id
from contracts.leaving import HEADS, PARTNER, ClientWithdrawn
from contracts.merkle import HASH_BYTES, ProofError, canonical, from_base64url, root_of
from contracts.proof import check_record
from throughgate.promises import Placed, behind_retraction, beyond_receipt, out_of_order


@dataclass
class Checked:
    """What was looked at, in figures, and what is wrong with it: a sentence each, which says where."""

    figures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Unreadable(ValueError):
    """Bytes that two readers could take for different things, or that are no JSON. The message quotes none of them."""


def read_json(value: str | bytes) -> Any:
    """JSON that every reader takes for the same: no name twice in an object, and no number but whole ones.

    Raises:
        Unreadable: it is not.
    """
    try:
        return json.loads(value, object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse)
    except Unreadable:
        raise
    except (ValueError, RecursionError):
        raise Unreadable("is not JSON") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Unreadable("has a name twice in one object, so that readers differ on what it says")
    return made


def _refuse(_: str) -> Any:
    raise Unreadable("has a number that is not whole, which nothing of the door has")


def read_keys(value: str | bytes) -> dict[str, bytes]:
    """Public keys as `GET /ledger-keys` gives them, by their ids; an id that is not the key's own counts for nothing.

    Raises:
        Unreadable: it is no such list.
    """
    try:
        found = [from_base64url(one["publicKey"]) for one in read_json(value)]
    except (KeyError, TypeError, ValueError):
        raise Unreadable("is no list of public keys as GET /ledger-keys gives it") from None
    if not found or any(len(key) != HASH_BYTES for key in found):
        raise Unreadable("has no public key, or one that is not 32 bytes long")
    return keys_by_id(found)


def read_heads(events: Iterable[Placed]) -> tuple[list[Head], list[str]]:
    """The heads among the events of the topic `heads`, and what is wrong with the others."""
    found, wrong = [], []
    for placed in events:
        try:
            found.append(HEADS.validate_python(placed.event).data)
        except ValidationError:
            wrong.append(f"Topic heads, {_place(placed)}: it is no head of the ledger.")
    return found, wrong


def _place(placed: Placed) -> str:
    return f"partition {placed.partition}, offset {placed.offset}"


# --- a partner's records ----------------------------------------------------------------------------------------------


def check_partner(
    records: Iterable[Placed], heads: Sequence[Head], keys: Mapping[str, bytes], *, from_start: bool = True
) -> Checked:
    """Check what stands on a partner's topic against its receipts and the topic `heads`.

    Args:
        records: all of the topic, read with `read_committed` and by `read_json`.
        heads: of the topic `heads`, read after `records`, and of any copies that were kept.
        keys: public keys by their ids; nothing else is trusted.
        from_start: as for `contracts.heads.check_chain`.
    """
    checked = Checked()
    known = _check_heads(heads, keys, from_start, checked)
    sound: list[Placed] = []
    first: dict[str, bytes] = {}
    places: dict[tuple[int, int], bytes] = {}
    counts: Counter[str] = Counter()
    for placed in sorted(records, key=lambda r: (r.partition, r.offset)):
        counts["records"] += 1
        try:
            event = PARTNER.validate_python(placed.event)
            spelled = canonical(placed.event)
        except (ValidationError, ProofError):
            checked.wrong.append(f"Record at {_place(placed)}: it is no event that the door sends to partners.")
            continue
        sound.append(placed)
        if places.setdefault((placed.partition, placed.offset), spelled) != spelled:
            checked.wrong.append(f"Record at {_place(placed)}: another record has this place.")
        id = placed.event["id"]
        if id in first:
            counts["repeats"] += 1
            if first[id] != spelled:
                checked.wrong.append(
                    f"Record at {_place(placed)}: its id stood before on a record that says otherwise."
                )
        first.setdefault(id, spelled)
        if isinstance(event, ClientWithdrawn):
            counts["retractions"] += 1
            continue
        counts["receipts"] += 1
        checked.wrong += [f"Record at {_place(placed)}: {clause}." for clause in beyond_receipt(event.data)]
        try:
            head = check_record(placed.event, keys)
        except ProofError as error:
            checked.wrong.append(f"Record at {_place(placed)}: {error}")
            continue
        if head_hash(head) not in known.get((head.shard, head.sequence), set()):
            checked.wrong.append(
                f"Record at {_place(placed)}: its receipt names head {head.sequence} of shard {head.shard}, and that"
                " is not the one on the topic heads."
            )
    if not counts["records"]:
        checked.wrong.append(
            "There is nothing to check: no record stands there. Give all of the topic, once it has some."
        )
    elif not known:
        checked.wrong.append("There are no heads to check the records against: give the topic heads as well.")
    for placed, why in out_of_order(sound):
        checked.wrong.append(f"Record at {_place(placed)}: {why}, so nobody can tell what stands behind what.")
    for violation in behind_retraction(sound):
        checked.wrong.append(
            f"Record at partition {violation.partition}, offset {violation.record_offset}: it stands behind the"
            f" retraction at offset {violation.retraction_offset} and must not ({violation.why})."
        )
    checked.figures.insert(
        0,
        f"{counts['records']} records, {counts['repeats']} of them repeats: {counts['receipts']} receipts recomputed"
        f" up to their signed heads, {counts['retractions']} retractions looked behind; each record was held"
        " against its own receipt.",
    )
    return checked


def _check_heads(
    heads: Sequence[Head], keys: Mapping[str, bytes], from_start: bool, checked: Checked
) -> dict[tuple[int, int], set[bytes]]:
    """Check the chain; gives the hashes by shard and sequence."""
    try:
        check_chain(heads, keys, from_start=from_start)
    except ProofError as error:
        checked.wrong.append(f"Topic heads: {error}")
    known: dict[tuple[int, int], set[bytes]] = {}
    for head in heads:
        known.setdefault((head.shard, head.sequence), set()).add(head_hash(head))
    shards = sorted({shard for shard, _ in known})
    for shard in shards:
        numbers = [n for s, n in known if s == shard]
        checked.figures.append(f"{len(numbers)} signed heads of shard {shard}, from {min(numbers)} to {max(numbers)}.")
    if not shards:
        checked.figures.append("No heads.")
    return known


# --- the ledger itself ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Opened:
    """What the door says of an entry's body: the leaf it leads to, None where it is erased or unreadable."""

    erased: bool
    leaf: bytes | None
    agrees: bool


@dataclass(frozen=True)
class Entry:
    """One entry as `GET /ledger/entries` gives it."""

    position: int | None
    leaf: bytes
    opened: Opened | None = None


def check_stored_heads(
    stored: Sequence[tuple[int, int, Any]], published: Sequence[Head], keys: Mapping[str, bytes], *, from_start: bool
) -> tuple[dict[tuple[int, int], Head], Checked]:
    """Hold the heads that the door keeps, as (shard, sequence, JSON), against those that it published.

    Gives the heads to check batches against: the published ones where there are any, else the stored ones.
    """
    checked = Checked()
    mine: dict[tuple[int, int], Head] = {}
    for shard, sequence, value in stored:
        try:
            head = Head.model_validate(value)
        except ValidationError:
            head = None
        if head is None or (head.shard, head.sequence) != (shard, sequence):
            checked.wrong.append(f"Ledger, shard {shard}, batch {sequence}: what is kept as its head is none.")
        else:
            mine[shard, sequence] = head
    theirs = {(head.shard, head.sequence): head for head in published}
    _check_heads(published, keys, from_start, checked)
    try:
        check_chain(mine.values(), keys)
    except ProofError as error:
        checked.wrong.append(f"Ledger: {error}")
    kept = {(shard, sequence) for shard, sequence, _ in stored}
    for place, head in sorted(theirs.items()):
        shard, sequence = place
        if place not in kept:
            checked.wrong.append(f"Ledger, shard {shard}, batch {sequence}: its head is missing, and was published.")
        elif place in mine and head_hash(mine[place]) != head_hash(head):
            checked.wrong.append(
                f"Ledger, shard {shard}, batch {sequence}: its head is not the one that was published."
            )
    return mine | theirs, checked


def lost_in_a_restore(lost: Mapping[tuple[int, int], str], heads: Mapping[tuple[int, int], Head]) -> list[str]:
    """A sentence for each run of batches that the door itself says it lost, by (shard, sequence) and since when.

    They are wrong all the same: that a restore took them is the door's word only.
    """
    runs: list[list[tuple[int, int]]] = []
    for place in sorted(lost.keys() & heads.keys()):
        shard, sequence = place
        if runs and runs[-1][-1] == (shard, sequence - 1) and lost[runs[-1][-1]] == lost[place]:
            runs[-1].append(place)
        else:
            runs.append([place])
    return [
        f"Shard {run[0][0]}, batches {run[0][1]} to {run[-1][1]}: lost in a restore, the door says, and read back on"
        f" {lost[run[0]][:10]}. Their signed heads stand; their {sum(heads[place].size for place in run)} entries are"
        " gone, and only the receipts of partners can show what they were."
        for run in runs
    ]


def check_batch(head: Head, entries: Sequence[Entry]) -> list[str]:
    """Recompute a batch from its entries, in the order of their places: what is wrong with it, empty when nothing.

    One entry that was altered, taken out or put in is named by its position. A leaf that was altered can only be told
    from the others when the entries are `opened`.
    """
    where = f"Shard {head.shard}, batch {head.sequence}"
    leaves = [entry.leaf for entry in entries]
    if [entry.position for entry in entries] == list(range(head.size)) and _leads(leaves, head):
        return [f"{where}, position {e.position}: {_difference(e)}" for e in entries if _differs(e)]
    if len(entries) < head.size:
        gaps = sorted(set(range(head.size)) - {e.position for e in entries})
        named = [f"{where}, position {n}: the entry is missing." for n in gaps[: head.size - len(entries)]]
        return [*named, *_misplaced(where, head, entries)]
    if len(entries) > head.size:
        return _inserted(where, head, entries)
    return _altered(where, head, entries)


def _differs(entry: Entry) -> bool:
    """Whether an entry that was opened holds something else than its leaf says, or is erased by no erasure."""
    opened = entry.opened
    return opened is not None and not (opened.agrees and (opened.erased or opened.leaf == entry.leaf))


def _difference(entry: Entry) -> str:
    if entry.opened is not None and entry.opened.erased:
        return "nobody can open it, and no entry of an erasure closed it as it stands."
    return "what it holds, or what is kept beside it, is not what was sealed."


def _leads(leaves: Sequence[bytes], head: Head) -> bool:
    try:
        return len(leaves) == head.size and root_of(leaves) == from_base64url(head.root)
    except ProofError:  # a leaf of another length
        return False


def _misplaced(where: str, head: Head, entries: Sequence[Entry]) -> list[str]:
    taken = Counter(entry.position for entry in entries)
    return [
        f"{where}: {count} entries at position {position}, which {'has one' if _fits(position, head) else 'is none'}."
        for position, count in taken.items()
        if count > 1 or not _fits(position, head)
    ]


def _fits(position: int | None, head: Head) -> bool:
    return position is not None and 0 <= position < head.size


def _inserted(where: str, head: Head, entries: Sequence[Entry]) -> list[str]:
    """One too many is found by leaving out each in turn: without it the others lead to the root."""
    if len(entries) == head.size + 1:
        leaves = [entry.leaf for entry in entries]
        for n, entry in enumerate(entries):
            if _leads(leaves[:n] + leaves[n + 1 :], head):
                return [f"{where}, position {entry.position}: an entry was put in after the batch was sealed."]
    return [f"{where}: {len(entries)} entries where {head.size} were sealed.", *_misplaced(where, head, entries)]


def _altered(where: str, head: Head, entries: Sequence[Entry]) -> list[str]:
    opened = [entry.opened for entry in entries]
    meant = [e.opened.leaf if e.opened and e.opened.leaf else e.leaf for e in entries]
    if _leads(meant, head):
        return [
            f"{where}, position {e.position}: its leaf was altered; what it holds is still what was sealed."
            for e, leaf in zip(entries, meant, strict=True)
            if e.leaf != leaf
        ]
    if suspects := [e for e in entries if _differs(e)]:
        return [f"{where}, position {e.position}: what stands there is not what was sealed there." for e in suspects]
    if None in opened:
        return [f"{where}: one of its {head.size} entries was altered; open them to tell which."]
    erased = [str(e.position) for e in entries if e.opened and e.opened.erased]
    if erased:
        which = f"position {erased[0]}: the leaf" if len(erased) == 1 else f"positions {', '.join(erased)}: one leaf"
        return [f"{where}, {which} of what is erased there is not what was sealed."]
    return [f"{where}: an entry was rewritten whole, its leaf and what it holds; receipts of partners can tell which."]
