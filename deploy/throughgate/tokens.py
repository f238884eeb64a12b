"""`throughgate token`: what to put behind `Authorization: Bearer`, from the development issuer of a running system."""

import shlex
from typing import Annotated

import typer

from throughgate.reaching import CommandError
from throughgate.running import door_of
from throughgate.sentences import sentences

SCOPES = {
    "operator": "everything that waits for a person, of every service; the registers of agencies and of agreements",
    "identity": "link clients, undo links",
    "audit": "leaves and heads of the ledger",
    "agreements:read": "agreements of the agency",
    "agreements:sign": "propose and sign for the agency",
    "events:write": "publish events with POST /events",
    "decisions:ask": "may I share this?",
    "views:read": "see what the agency may see; with --practitioner",
    "disclosures:read": "who was told of a client",
    "subject-access": "that as a page; for prison, probation, police and the operator whole",
    "directory:write": "referral: services that take referrals",
    "referrals:read": "referral: lists of referrals",
    "referrals:write": "referral: refer a client to a service",
    "volunteers:write": "matching: mentors",
    "matches:read": "matching: lists of matches",
    "rounds:run": "matching: look for matches now",
    "plans:write": "notifications: whom a release is told",
    "plans:read": "notifications: lists of plans",
}
"""Every scope that a route of ours asks for, and what it is for."""
NAMES = {"consent": "DOOR"}
"""What the documents call a service's address, where it is not the service's name."""
ELSEWHERE = (
    "Tokens are made here for development only: in a real installation your agency's identity provider gives them"
    " (docs/how-to/tokens.md)."
)


@sentences
def token(
    agency: Annotated[str, typer.Argument(help="Who calls: an agency such as hmp-leeds, or operator.")],
    scope: Annotated[list[str], typer.Option(help="What the caller may do. May be repeated.")],
    practitioner: Annotated[
        str, typer.Option(help="The agency's own id of the person who asks; without it, a program asks.")
    ] = "",
    minutes: Annotated[int, typer.Option(min=1, max=24 * 60, help="For how long it is good.")] = 60,
    export: Annotated[
        bool, typer.Option("--export", help="Print lines for a shell: TOKEN, DOOR, REFERRAL and so on.")
    ] = False,
) -> None:
    """Print a token for the APIs, signed by the development issuer of the system that runs.

    It goes behind `Authorization: Bearer`. With `--export`, the addresses of the services that run come with it:

        eval "$(throughgate token operator --scope operator --export)"
        curl -H "Authorization: Bearer $TOKEN" $DOOR/holds

    The issuer is that of the running system of this checkout; for another one set THROUGHGATE_CONSENT_URL and
    THROUGHGATE_ISSUER_KEY. In a real installation an agency's identity provider gives tokens, and nobody else can.

    """
    if unknown := [one for one in scope if one not in SCOPES]:
        raise CommandError(f"There is no scope {unknown[0]}: choose of {', '.join(SCOPES)}.")
    try:
        around = door_of()
    except CommandError as error:
        raise CommandError(f"{error} {ELSEWHERE}") from error
    made = around.issuer.token(f"command@{agency}", agency, scope, minutes * 60.0, practitioner or None)
    if not export:
        typer.echo(made)
        return
    for name, value in {"TOKEN": made, **{NAMES.get(s, s.upper()): url for s, url in around.urls.items()}}.items():
        typer.echo(f"export {name}={shlex.quote(value)}")


token.__doc__ = f"{token.__doc__}    Scopes:\n\n" + "\n".join(
    f"    - `{name}`: {what}" for name, what in SCOPES.items()
)
