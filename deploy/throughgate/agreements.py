"""`throughgate agreement`: what may be shared between agencies, proposed, signed and stopped from the command line."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer

from throughgate.api import Api
from throughgate.reaching import CommandError, found_within
from throughgate.running import door_of
from throughgate.sentences import sentences

TEMPLATE = "minimum-standard"
STOP_SECONDS = 30.0

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="""Agreements between agencies: without one in force nothing is shared.

    The short way: `throughgate agreement template` prints the minimum standard, and
    `throughgate agreement sign minimum-standard --as harbour-housing --name "A. Name" --role "Manager"` signs it.
    Whoever has signed it tells, and is told by, everyone else who has, as far as each client consents.

    An agreement of your own: write what it says into a file (`throughgate agreement propose --help` shows one),
    `propose` it, and let each party `sign` the draft for itself. The last signature puts it in force, by its dates.

    To stop: `suspend` stops all sharing under an agreement at once, `leave` takes one agency out of it. Both come back
    when nothing leaves any more that was decided before.

    They find the running system of this checkout by themselves; for another one set THROUGHGATE_CONSENT_URL and
    THROUGHGATE_ISSUER_KEY.
    """,
)

Agency = Annotated[
    str, typer.Option("--as", metavar="AGENCY", help="In whose name, such as hmp-leeds; by default the operator's.")
]
Party = Annotated[str, typer.Option("--as", metavar="AGENCY", help="Which agency signs, such as hmp-leeds.")]
Agreement = Annotated[str, typer.Argument(help="The agreement's id, from `throughgate agreement list`.")]
Reason = Annotated[str, typer.Option(help="Why; every party reads it, so it names no client.")]


def _door(agency: str) -> Api:
    if agency:
        return Api(door_of(), agency, "agreements:read", "agreements:sign")
    return Api(door_of(), "operator", "operator")


# --- looking ---


@app.command()
@sentences
def template() -> None:
    """Print the minimum standard that every agency can sign, as JSON."""
    with _door("") as door:
        typer.echo(json.dumps(door.get("/agreement-template").json(), indent=2))


@app.command("list")
@sentences
def list_(agency: Agency = "") -> None:
    """List agreements and drafts, one version a line: those of AGENCY, or all for the operator."""
    with _door(agency) as door:
        found = door.get("/agreements").json()
    for v in found:
        overdue = "; its review is overdue" if v["reviewOverdue"] else ""
        draft = f"; sign {v['draft']}, missing: {', '.join(v['missingSignatures'])}" if v["state"] == "draft" else ""
        typer.echo(f"{v['id']:<28} v{v['version']:<3} {v['state']:<10} until {v['ends'][:10]}{overdue}{draft}")
    if not found:
        typer.echo("There are none.")


@app.command()
@sentences
def show(id: Agreement, agency: Agency = "") -> None:
    """Print an agreement with its versions, signatories, drafts, and all that happened to it, as JSON."""
    with _door(agency) as door:
        typer.echo(json.dumps(door.get(f"/agreements/{id}").json(), indent=2))


@app.command()
@sentences
def compare(
    id: Agreement,
    one: Annotated[int, typer.Argument(help="A version.")],
    other: Annotated[int, typer.Argument(help="Another one.")],
    agency: Agency = "",
) -> None:
    """Show what two versions of an agreement say differently."""
    with _door(agency) as door:
        versions = {v["version"]: v for v in door.get(f"/agreements/{id}").json()["versions"] if v["state"] != "draft"}
    for wanted in (one, other):
        if wanted not in versions:
            raise CommandError(f"There is no version {wanted} of {id}: it has {', '.join(map(str, sorted(versions)))}.")
    before, after = (dict(_lines(versions[n])) for n in (one, other))
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name, "nothing"), after.get(name, "nothing")
        if was != now:
            typer.echo(f"{name}\n  v{one}: {was}\n  v{other}: {now}")
    if before == after:
        typer.echo("They say the same.")


def _lines(version: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("sources", "recipients", "enforces"):
        yield name, ", ".join(version[name]) or "nobody"
    for name in ("starts", "review", "ends"):
        yield name, version[name]
    for terms in version["terms"]:
        told = "every change" if terms["subscription"] else "on request"
        own = ", also on the recipient's own word" if terms["ownWord"] else ""
        yield f"for {terms['purpose']}", f"by {terms['basis']}: {', '.join(terms['categories'])}; {told}{own}"


# --- agreeing ---


@app.command()
@sentences
def propose(
    file: Annotated[Path, typer.Argument(help="What it says, as JSON; - reads standard input.")],
    agency: Agency = "",
) -> None:
    """Propose an agreement, or with `agreement` in FILE the next version of one, and print the id under which to sign.

    FILE says who tells whom what, why, on which basis, and for how long:

        {"sources": ["hmp-leeds"], "recipients": ["harbour-housing", "referral"],
         "terms": [{"purpose": "referral", "basis": "consent", "subscription": true,
                    "categories": ["identity", "needs.accommodation"]}],
         "enforces": ["harbour-housing"],
         "starts": "2027-01-01T00:00:00Z", "review": "2027-07-01T00:00:00Z", "ends": "2028-01-01T00:00:00Z"}

    Every party signs for itself, the one that proposes too: `throughgate agreement sign`.
    """
    try:
        text = json.loads(sys.stdin.read() if str(file) == "-" else file.read_text())
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise CommandError(f"{file} is not JSON: throughgate agreement propose --help shows one.") from error
    with _door(agency) as door:
        typer.echo(door.post("/agreement-drafts", text).json()["draft"])


@app.command()
@sentences
def sign(
    id: Annotated[str, typer.Argument(help=f"The id of a draft, or {TEMPLATE}.")],
    agency: Party,
    name: Annotated[str, typer.Option(help="Who signs.")],
    role: Annotated[str, typer.Option(help="As what, such as 'Head of service'.")],
) -> None:
    """Sign a draft, or the minimum standard, for an agency. The last signature puts it in force, by its dates."""
    signature = {"name": name, "role": role}
    with _door(agency) as door:
        if id == TEMPLATE:
            change = door.post("/agreement-template/signatures", signature).json()
        else:
            try:
                draft = UUID(id)
            except ValueError as error:
                raise CommandError(f"{id} is not the id of a draft: see throughgate agreement list.") from error
            signed = door.post(f"/agreement-drafts/{draft}/signatures", signature).json()
            change = signed["change"]
            if change is None:
                typer.echo(f"Signed. Not yet: {', '.join(signed['missingSignatures'])}.")
                return
        typer.echo(f"Signed: {change['agreement']} version {change['version']}, from {change['effectiveAt']}.")


# --- stopping ---


@app.command()
@sentences
def suspend(id: Agreement, reason: Reason, agency: Agency = "") -> None:
    """Stop all sharing under an agreement, and come back when nothing leaves any more that was decided before."""
    _stop(id, "suspension", reason, agency, "suspended")


@app.command()
@sentences
def resume(id: Agreement, reason: Reason, agency: Agency = "") -> None:
    """Take back your suspension. Where it was the last, recipients get what they missed as snapshots."""
    with _door(agency) as door:
        door.post(f"/agreements/{id}/resumption", {"reason": reason})
        left = [v for v in door.get(f"/agreements/{id}").json()["versions"] if v["state"] == "suspended"]
    typer.echo(f"{id} is still suspended by another party." if left else f"{id} is resumed.")


@app.command()
@sentences
def leave(
    id: Agreement,
    reason: Reason,
    agency: Agency = "",
    yes: Annotated[
        bool, typer.Option("--yes", help="For the operator, who ends the whole agreement: do not ask.")
    ] = False,
) -> None:
    """Take an agency out of an agreement, at once; as the operator, end the agreement for everyone."""
    if not agency and not yes:
        typer.confirm(f"Without --as this ends {id} for all its parties. Go on?", abort=True)
    _stop(id, "departure", reason, agency, "left" if agency else "ended")


def _stop(id: str, how: str, reason: str, agency: str, done: str) -> None:
    begun = time.monotonic()
    with _door(agency) as door:
        change = door.post(f"/agreements/{id}/{how}", {"reason": reason}).json()["change"]

        def status() -> dict[str, Any]:
            found: dict[str, Any] = door.get(f"/agreement-changes/{change}").json()
            return found

        if not found_within(STOP_SECONDS, lambda: status()["done"]):
            raise CommandError(
                f"{id} is {done}, but shards {status()['waitingFor']} of the discloser have not confirmed it in"
                f" {STOP_SECONDS:.0f} s: look whether they run, and ask /agreement-changes/{change} again."
            )
    took = (time.monotonic() - begun) * 1000
    typer.echo(f"{id} is {done}, and nothing leaves any more that was decided before ({took:.0f} ms).")
