"""What has to be known before anything can be told: who takes part, what was agreed, what the services work with."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from contracts.vocabulary import LONDON
from throughgate.api import Refused
from throughgate.reaching import CommandError
from throughgate.story import cast
from throughgate.story.cast import MENTORS, POLICE, Party
from throughgate.story.world import Callers


def register(api: Callers, agencies: Sequence[Party]) -> Iterator[str]:
    """Register the agencies and enter what they agreed, where it is not so already. Gives what was done, in words."""
    for party in agencies:
        api.operator("PUT", f"/agencies/{party.id}", json={"name": party.name, "kind": party.kind, "area": party.area})
    yield ", ".join(f"{p.id} ({p.kind})" for p in agencies)
    known = {a["id"]: a for a in api.operator("GET", "/agreements") if a["state"] != "draft"}
    for agreement in cast.agreements(datetime.now(UTC)):
        (terms,) = agreement["terms"]
        old = known.get(agreement["id"])
        if old is None or any(old[name] != agreement[name] for name in ("sources", "recipients", "terms")):
            version = old["version"] + 1 if old else 1
            api.operator("POST", "/agreements", json=agreement | {"version": version})
        yield (
            f"{agreement['id']}: {', '.join(agreement['sources'])} may tell {', '.join(agreement['recipients'])}"
            f" for {terms['purpose']}, by {terms['basis']}"
        )
    yield f"nothing names {POLICE}: it will be told nothing"


def equip(api: Callers) -> Iterator[str]:
    """Give the services their directory, volunteers and gate partners. Gives what was done, in words."""
    today = datetime.now(LONDON).date()
    for id, line in cast.directory(today).items():
        api.service("referral", "PUT", f"/services/{id}", json=line)
    yield "directory: Harbour House hostel and Harbour lodgings, for accommodation in Leeds"
    for id, volunteer in cast.volunteers(today).items():
        api.service("matching", "PUT", f"/volunteers/{id}", json=volunteer)
    yield "two volunteers of Second Chance Mentors; the criminal-records check of one has expired"
    api.service("notifications", "PUT", f"/gate-partners/{MENTORS}", json={"prisons": ["LEI"]})
    yield f"{MENTORS} meets releases from HMP Leeds (LEI) at the gate"


def set_clock(api: Callers, at: datetime) -> None:
    """Bring the clock of the notifications service to a time.

    Raises:
        CommandError: it cannot be set in this system.
    """
    try:
        api.service("notifications", "PUT", "/clock", json={"now": at.isoformat()})
    except Refused as refusal:
        if refusal.status == 404:
            raise CommandError(
                "The clock of this system cannot be set: start notifications with THROUGHGATE_CLOCK=adjustable."
            ) from refusal
        raise
