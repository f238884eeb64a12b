"""`throughgate replay`: a changed policy, tried on past decisions before it goes live."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from throughgate.reaching import CommandError
from throughgate.running import door_of
from throughgate.sentences import sentences, stop

SHOWN = 3
"""Decisions that are named in a line; `--json` has them all."""


@sentences
def replay(
    policy: Annotated[Path, typer.Option(help="What changes, as YAML: agreements, gateways, or both.")],
    since: Annotated[str, typer.Option(help="From when on: a date, or a time with its offset.")],
    as_json: Annotated[bool, typer.Option("--json", help="All of it, with every decision's id.")] = False,
) -> None:
    """Decide past questions again under a changed policy: what would newly leave, and what would newly be withheld.

    Everything else is as it was at each decision: what was said about sharing, the agreements of that time, the time
    itself. Beside them stand the questions that the policy adds, which nobody asked then: what its recipients, purposes
    and categories come to, of the clients as they are today.

    Nothing is changed by it, and nothing is entered. docs/how-to/replay.md shows a policy file.

    It reads the door's database: that of the running system of this checkout, or THROUGHGATE_DATABASE_URL. Where the
    door runs elsewhere, run `python -m consent.replay` in its image.
    """
    if find_spec("consent") is None:  # no setting would help here
        raise CommandError(
            "The door is not installed here: run python -m consent.replay in its image (docs/how-to/replay.md)."
        )
    try:
        change = json.dumps(yaml.safe_load(policy.read_bytes()) or {}, default=_moment).encode()
    except OSError as error:
        raise CommandError(f"{policy} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:  # an alias may stand in itself
        raise CommandError(f"{policy} is no YAML that can be read: {type(error).__name__}.") from error
    url = os.environ.get("THROUGHGATE_DATABASE_URL") or door_of().database
    if not url:
        raise CommandError("THROUGHGATE_DATABASE_URL is not set: it says where the door's database is.")
    done = subprocess.run(
        [sys.executable, "-m", "consent.replay", "--since", since],
        input=change,
        capture_output=True,
        env=os.environ | {"THROUGHGATE_DATABASE_URL": url},
        check=False,
    )
    if done.returncode:
        stop(done.stderr.decode(errors="replace").strip().rpartition("\n")[2] or "The replay failed.")
    if as_json:
        typer.echo(done.stdout.decode(), nl=False)
        return
    for line in in_words(json.loads(done.stdout)):
        typer.echo(line)


def _moment(value: Any) -> str:
    """YAML reads times as such."""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise TypeError


def in_words(replayed: Mapping[str, Any]) -> Iterable[str]:
    """What came of a replay, for people."""
    yield (
        f"{replayed['decided']} decisions were looked at, {replayed['erased']} of them erased, which nobody can read."
    )
    if replayed["unclear"]:
        yield (
            f"{len(replayed['unclear'])} do not come out as they did even unchanged, so nothing is said of them: "
            f"{_some(replayed['unclear'])}."
        )
    for heading, groups in (("leave", replayed["newly_leaves"]), ("be withheld", replayed["newly_withheld"])):
        yield f"Would newly {heading}:" + ("" if groups else " nothing.")
        for group in groups:
            count = len(group["decisions"])
            yield (
                f"  {group['recipient']:<24} {group['category']:<28} {count:>6} "
                + ("asked beforehand  " if group["asked_only"] else "")
                + (f"{group['rule']}  " if group["rule"] else "")
                + f"({_some(group['decisions'])})"
            )
    yield (
        f"These were past questions. By questions that nobody asked then, of {replayed['clients']} clients as they are"
        " today, may newly be told:" + ("" if replayed["newly_possible"] else " nothing.")
    )
    for possible in replayed["newly_possible"]:
        yield f"  {possible['recipient']:<24} {possible['category']:<28} {possible['clients']:>6} clients"
    for recipient in replayed["unregistered"]:
        yield f"{recipient} is not registered, so nothing is said of what it may be told."
    yield "Not looked at: what was recorded, consented to or linked in that time and is so no longer."


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else "")
