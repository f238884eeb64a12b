"""`throughgate verify`: checks what the door said it did, with public keys alone."""

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts import topic_names
from contracts.heads import Head
from contracts.merkle import from_base64url
from throughgate import proofs
from throughgate.api import Api
from throughgate.promises import Placed
from throughgate.proofs import Checked, Entry, Opened, Unreadable
from throughgate.reaching import CommandError, records_on
from throughgate.running import door_of, topics_of
from throughgate.sentences import sentences

SHOWN = 20
"""Findings that are printed in full; more are counted."""


@sentences
def verify(
    agency: Annotated[
        str, typer.Option("--as", metavar="AGENCY", help="Who checks, such as harbour-housing: it reads its topics.")
    ] = "",
    records: Annotated[
        list[Path] | None,
        typer.Option(help="A partner's topic as `throughgate tail partner.ID --no-follow` prints it. May be repeated."),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(help="The topic heads as tail prints it, or copies that were kept. May be repeated."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="The public keys, as GET /ledger-keys gave them when you joined.")
    ] = None,
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Check every batch of the door's ledger, as its auditor.")
    ] = False,
    open: Annotated[
        bool, typer.Option("--open", help="With --ledger: also that what each entry holds leads to its leaf.")
    ] = False,
    from_start: Annotated[
        bool,
        typer.Option("--from-start/--from-first", help="Whether the heads must begin with the first, or may with any."),
    ] = True,
) -> None:
    """Check receipts, retractions and the ledger with public keys alone; exit code 1 when something is wrong.

    **As a partner**, `--as AGENCY`, or with `--records` and `--heads` from files and nothing running: every record
    leads by its receipt to a signed head and tells no more than that permits, every head is one of an unbroken chain
    that all partners see, nothing stands behind a retraction that must not, a client's records stand under its
    reference in one partition, and no id stands on two different records.

    **As an auditor**, `--ledger`: the entries of every batch lead to its signed head. One that was altered, taken out
    or put in is named with its place. With `--open`, what they hold is checked as well; what is erased is counted.
    """
    if open and not ledger:
        raise CommandError("--open goes with --ledger: only the door's own entries can be opened.")
    if not ledger and not (agency or (records and heads)):
        raise CommandError("Say who checks, --as AGENCY, or give both --records and --heads from files.")
    unreadable: list[str] = []
    told = [placed for path in records or () for placed in _from_file(path, unreadable)]
    if agency and not records and not ledger:
        told = list(_from_topic(agency, topic_names.partner(agency), unreadable))
    kept = [placed for path in heads or () for placed in _from_file(path, unreadable)]
    if agency:  # after the records: a head stands on its topic as soon as what it seals does
        kept += _from_topic(agency, topic_names.HEADS, unreadable)
    public, not_heads = proofs.read_heads(kept)
    known = _keys(keys)
    if ledger:
        checked = _audit(public, known, open, from_start)
    else:
        checked = proofs.check_partner(told, public, known, from_start=from_start)
    checked.wrong[:0] = unreadable + not_heads
    _tell(checked, trusting_us=keys is None, alone=ledger and not public)


def _tell(checked: Checked, *, trusting_us: bool, alone: bool) -> None:
    for figure in checked.figures:
        typer.echo(figure)
    if trusting_us:
        typer.echo("The public keys were asked of the door itself: keep them, and give them with --keys the next time.")
    if alone:
        typer.echo(
            "No heads from outside: with --as AGENCY or --heads FILE it would show whether others see the same ledger."
        )
    for sentence in checked.wrong[:SHOWN]:
        typer.echo(sentence, err=True)
    if len(checked.wrong) > SHOWN:
        typer.echo(f"And {len(checked.wrong) - SHOWN} more.", err=True)
    if checked.wrong:
        raise typer.Exit(1)
    typer.echo("All of it holds.")


def _keys(path: Path | None) -> dict[str, bytes]:
    if path is None:
        with Api(door_of(tokens=False), "nobody") as door:
            return proofs.read_keys(door.get("/ledger-keys").content)
    try:
        return proofs.read_keys(path.read_bytes())
    except OSError as error:
        raise CommandError(f"The public keys cannot be read from {path}: {error.strerror}.") from error
    except Unreadable as error:
        raise CommandError(f"{path} {error}.") from error


# --- reading ----------------------------------------------------------------------------------------------------------


def _from_file(path: Path, unreadable: list[str]) -> Iterator[Placed]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                value = proofs.read_json(line)
                yield Placed(int(value["partition"]), int(value["offset"]), value["event"], value.get("key"))
            except Unreadable as error:
                unreadable.append(f"{path}, line {number}: it {error}.")
            except (AttributeError, KeyError, TypeError, ValueError):
                unreadable.append(f"{path}, line {number}: it is no line of throughgate tail.")


def _from_topic(agency: str, topic: str, unreadable: list[str]) -> Iterator[Placed]:
    for message in records_on(topics_of(agency), agency, topic):
        partition, offset = message.partition() or 0, message.offset() or 0
        try:
            key = message.key()
            event = proofs.read_json(message.value() or b"")
            yield Placed(partition, offset, event, None if key is None else bytes(key).decode(errors="replace"))
        except Unreadable as wrong:
            unreadable.append(f"Topic {topic}, partition {partition}, offset {offset}: it {wrong}.")


# --- the ledger -------------------------------------------------------------------------------------------------------


def _audit(public: list[Head], keys: dict[str, bytes], open: bool, from_start: bool) -> Checked:
    """Entries are read between two readings of the heads, so that the ledger may go on growing meanwhile."""
    with Api(door_of(), "operator", "audit") as door:
        extent = door.get("/ledger").json()
        shards = sorted({s["shard"] for s in extent["shards"] if s["shard"] >= 0} | {head.shard for head in public})
        before = {(shard, s["sequence"]) for shard in shards for s in _heads(door, shard)}
        batches = {
            (shard, sequence): list(some)
            for shard in shards
            for sequence, some in groupby(_entries(door, shard, open), key=lambda one: one[0])
        }
        kept = [(shard, s) for shard in shards for s in _heads(door, shard)]
        stored = [(shard, s["sequence"], s["head"]) for shard, s in kept]
        lost = {(shard, s["sequence"]): str(s["lostAt"]) for shard, s in kept if s["lostAt"]}
        lost = {place: at for place, at in lost.items() if place not in batches}
        heads, checked = proofs.check_stored_heads(stored, public, keys, from_start=from_start)
        counts = {"entries": 0, "erased": 0}
        for shard, sequence in sorted(before | batches.keys()):
            head = heads.get((shard, sequence))
            entries = [entry for _, entry in batches.get((shard, sequence), ())]
            counts["entries"] += len(entries)
            counts["erased"] += sum(1 for e in entries if e.opened and e.opened.erased)
            if head is not None and (shard, sequence) in lost:
                continue
            if head is None:
                checked.wrong.append(f"Shard {shard}, batch {sequence}: {len(entries)} entries that no head seals.")
                continue
            wrong = proofs.check_batch(head, entries)
            if wrong and not open:
                again = _page(door, shard, sequence - 1, open=True)
                wrong = proofs.check_batch(head, [entry for number, entry in again if number == sequence])
            checked.wrong += wrong
        checked.wrong += proofs.lost_in_a_restore(lost, heads)
    if (nowhere := sum(s["entries"] for s in extent["shards"]) - counts["entries"]) > 0:
        checked.wrong.append(
            f"Ledger: {nowhere} entries have a shard or a batch that cannot be, so nothing seals them."
        )
    if not batches:
        checked.wrong.append("There is nothing to check: no entry of the ledger is sealed. Is it the right system?")
    checked.figures.append(
        f"{counts['entries']} entries of the ledger recomputed in {len(batches)} batches; "
        + (f"opened, {counts['erased']} of them erased with their leaves standing; " if open else "")
        + f"{extent['waiting']} waited to be sealed."
    )
    return checked


def _heads(door: Api, shard: int) -> Iterator[dict[str, Any]]:
    return _pages(lambda after: door.get("/ledger/heads", shard=shard, after=after).json(), lambda s: s["sequence"])


def _entries(door: Api, shard: int, open: bool) -> Iterator[tuple[int, Entry]]:
    return _pages(lambda after: _page(door, shard, after, open=open), lambda one: one[0])


def _pages(page: Callable[[int], list[Any]], sequence: Callable[[Any], int]) -> Iterator[Any]:
    after = 0
    while found := page(after):
        yield from found
        after = sequence(found[-1])


def _page(door: Api, shard: int, after: int, *, open: bool) -> list[tuple[int, Entry]]:
    found = door.get("/ledger/entries", shard=shard, after=after, open=open).json()
    return [(one["sequence"], _entry(one)) for one in found]


def _entry(one: dict[str, Any]) -> Entry:
    opened = one["opened"]
    if opened is not None:
        leaf = None if opened["leaf"] is None else from_base64url(opened["leaf"])
        opened = Opened(opened["erased"], leaf, opened["agrees"])
    return Entry(one["position"], from_base64url(one["leaf"]), opened)
