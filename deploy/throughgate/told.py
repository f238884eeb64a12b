"""`throughgate who-was-told` and `throughgate may-i`: what became of a client's record, and what may become of it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from throughgate.api import Api
from throughgate.reaching import CommandError
from throughgate.running import door_of
from throughgate.sentences import sentences

PAGE = 500
BATCH = 200
"""The most clients that one question may name."""

Agency = Annotated[str, typer.Option("--as", metavar="AGENCY", help="Who asks, such as hmp-leeds.")]


@sentences
def who_was_told(
    client: Annotated[UUID, typer.Argument(help="The client's reference at that agency: `client` in its replies.")],
    agency: Agency,
    as_json: Annotated[bool, typer.Option("--json", help="All of it, as one JSON object.")] = False,
    page: Annotated[
        Path | None, typer.Option(help="Write it as an HTML page, fit to print, to this file; - is standard output.")
    ] = None,
) -> None:
    """Who has been told what about a client, when, why, on whose authority: the answer to a subject access request.

    A prison, probation or police that recorded something of the client gets all of it, newest first: what was sent or
    shown, what was refused and why, who asked beforehand, overrides, who looked at this before, and what happened to
    the record itself. What was taken back while it was being sent is there as "may have arrived". So does `--as
    operator`, by any agency's reference. Any other agency gets what it was told, and what became of what it recorded.
    That you look is entered, too.
    """
    as_operator = ("operator",) if agency == "operator" else ()
    with Api(door_of(), agency, "disclosures:read", "subject-access", *as_operator) as door:
        path = f"/clients/{client}/disclosures"
        if page is not None:
            content = door.get(path, accept="text/html").content
            if str(page) == "-":
                sys.stdout.buffer.write(content)
                return
            _write(page, content)
            typer.echo(f"{page} is written: open it in a browser, and print it from there.")
            return
        told = _all(door, path)
    if as_json:
        typer.echo(json.dumps(told, indent=2, ensure_ascii=False))
        return
    for entry in told["entries"]:
        typer.echo(_in_words(entry, told["names"]))
    typer.echo(f"{len(told['entries'])} entries{'' if told['whole'] else ': what this agency may know, not all'}.")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
        path.chmod(0o600)
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}.") from error


def _all(door: Api, path: str) -> dict[str, Any]:
    told: dict[str, Any] = door.get(path, limit=PAGE).json()
    last = told["entries"]
    while len(last) == PAGE:
        more = door.get(path, limit=PAGE, before=last[-1]["entry"]).json()
        last = more["entries"]
        told["entries"] += last
        told["names"] |= more["names"]
    return told


_OUTCOMES = {"attempt": "asked by somebody who is kept from the record, and shown nothing"}


def _in_words(entry: Mapping[str, Any], names: Mapping[str, str]) -> str:
    nobody = "the operator" if entry["kind"] in ("reading", "attempt") else "nobody outside"
    who = names.get(entry["recipient"], entry["recipient"]) or nobody
    lines = [
        f"{entry['decidedAt']}  {who}"
        + (f", for {entry['purpose']}" if entry["purpose"] else "")
        + f": {_OUTCOMES.get(entry['outcome'], entry['outcome'])}"
    ]
    if entry["erased"] or entry["unreadable"]:
        lines.append("  erased: nobody can read any more what it was about" if entry["erased"] else "  unreadable")
    for item in entry["permitted"]:
        lines.append(f"  {item['category']} of {names.get(item['source'], item['source'])}, on {grounds(item)}")
    for item in entry["withheld"]:
        lines.append(f"  withheld: {item['category']} of {names.get(item['source'], item['source'])} ({item['rule']})")
    if entry["details"].get("reason"):
        lines.append(f"  {entry['details'].get('what', 'because')}: {entry['details']['reason']}")
    return "\n".join(lines)


def grounds(item: Mapping[str, Any]) -> str:
    """What a permit rests on, in short."""
    parts = [str(item["basis"])]
    if item["agreement"]:
        parts.append(f"{item['agreement']} version {item['agreementVersion']}")
    if item["consent"] is not None:
        parts.append(f"consent {item['consent']}")
    return ", ".join(parts)


@sentences
def may_i(
    clients: Annotated[list[UUID], typer.Argument(help="References of clients at that agency; any number.")],
    agency: Agency,
    recipient: Annotated[str, typer.Option(help="Whom it would be told, such as harbour-housing.")],
    purpose: Annotated[str, typer.Option(help="What for: referral, mentor-matching, release-notification, ...")],
    category: Annotated[list[str], typer.Option(help="What, such as needs.accommodation. May be repeated.")],
    service: Annotated[str, typer.Option(help="The one service of the recipient that it would be about.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The door's answer as it is.")] = False,
) -> None:
    """May my agency tell them this, and if not, what would make it possible? Nothing leaves by asking.

    The question is entered in the ledger, where the client can see that it was asked. Exit code 1 when nothing of it is
    permitted for any client.
    """
    question: dict[str, Any] = {"recipient": recipient, "purpose": purpose, "categories": category}
    if service:
        question["service"] = service
    verdicts: list[dict[str, Any]] = []
    with Api(door_of(), agency, "decisions:ask") as door:
        for start in range(0, len(clients), BATCH):
            some = [str(client) for client in clients[start : start + BATCH]]
            verdicts += door.post("/decisions", question | {"clients": some}).json()["verdicts"]
    if as_json:
        typer.echo(json.dumps(verdicts, indent=2))
    else:
        for verdict in verdicts:
            typer.echo(_verdict(verdict, recipient, purpose))
    if not any(verdict["permitted"] for verdict in verdicts):
        raise typer.Exit(1)


def _verdict(verdict: Mapping[str, Any], recipient: str, purpose: str) -> str:
    if not verdict["known"]:
        return f"{verdict['client']}\n  No client of yours has this reference."
    lines = [f"{verdict['client']}  to {recipient}, for {purpose}:"]
    lines += [f"  yes  {item['category']}, on {grounds(item)}" for item in verdict["permitted"]]
    for item in verdict["withheld"]:
        lines += [f"  no   {item['category']} ({item['rule']})", f"       {item['remedy']}"]
    lines += [f"  with the duty: {duty['code']}" for duty in verdict["obligations"]]
    return "\n".join(lines)
