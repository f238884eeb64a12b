"""What has to be known before anything can be told: who takes part, what was agreed, what the services work with."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from throughgate.story import cast
from throughgate.story.cast import MENTORS, POLICE, Party
from throughgate.story.world import Api, StoryError


def register(api: Api, agencies: Sequence[Party]) -> Iterator[str]:
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


def equip(api: Api) -> Iterator[str]:
    """Give the services their directory, volunteers and gate partners. Gives what was done, in words."""
    today = datetime.now(ZoneInfo("Europe/London")).date()
    for id, line in cast.directory(today).items():
        api.service("referral", "PUT", f"/services/{id}", json=line)
    yield "directory: Harbour House hostel and Harbour lodgings, for accommodation in Leeds"
    for id, volunteer in cast.volunteers(today).items():
        api.service("matching", "PUT", f"/volunteers/{id}", json=volunteer)
    yield "two volunteers of Second Chance Mentors; the criminal-records check of one has expired"
    api.service("notifications", "PUT", f"/gate-partners/{MENTORS}", json={"prisons": ["LEI"]})
    yield f"{MENTORS} meets releases from HMP Leeds (LEI) at the gate"


def set_clock(api: Api, at: datetime) -> None:
    """Bring the clock of the notifications service to a time.

    Raises:
        StoryError: it cannot be set in this system.
    """
    try:
        api.service("notifications", "PUT", "/clock", json={"now": at.isoformat()})
    except StoryError as error:
        if "status 404" in str(error) or " 404 " in str(error):
            raise StoryError(
                "The clock of this system cannot be set: start notifications with THROUGHGATE_CLOCK=adjustable."
            ) from error
        raise
