"""Who takes part in the story, what they agreed, and what they publish. Data only; all people are made up.

Names, addresses and numbers are such that nobody has them: the telephone numbers are those that Ofcom keeps for drama,
the postcode area does not exist, and the prison and probation numbers are drawn anew for each telling, so that the
story can be told again on a system that has heard it.
"""

import random
import uuid
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from contracts.vocabulary import SERVICE_PURPOSES

PRISON, PROBATION, POLICE = "hmp-leeds", "probation-leeds", "west-yorkshire-police"
HOUSING, MENTORS = "harbour-housing", "second-chance-mentors"
VOLUNTARY = (HOUSING, MENTORS)
ACCOMMODATION = "needs.accommodation"
CONSENTED = ("identity", "custody-and-release", ACCOMMODATION, "risk")
"""What the clients agree to: not their contact details, not their health."""
PURPOSES = tuple(SERVICE_PURPOSES.values())

_IDS = uuid.UUID("5f1c7b1e-8a43-4a0e-9d6c-7a7f0f5a2b11")
AGENCIES_FILE = Path(__file__).resolve().parents[2] / "agencies.yaml"
"""Where the list of agencies lies in a checkout."""


@dataclass(frozen=True)
class Party:
    """An agency that takes part."""

    id: str
    name: str
    kind: str
    area: str


def read_agencies(path: Path = AGENCIES_FILE) -> tuple[Party, ...]:
    """The agencies of a file like deploy/agencies.yaml. Raises OSError, or ValueError when it is no such file."""
    try:
        return tuple(
            Party(a["id"], a["name"], a["kind"], a["area"]) for a in yaml.safe_load(path.read_text())["agencies"]
        )
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of agencies with id, name, kind and area each") from error


@dataclass(frozen=True)
class Person:
    """One client as the agencies' case systems know them."""

    given: str
    family: str
    born: str
    gender: str
    noms: str
    crn: str
    address: str
    postcode: str
    phone: str
    email: str
    health: str
    housing: str
    level: str = "urgent"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def noms_id(self) -> dict[str, str]:
        """The identifier that the prison uses."""
        return {"type": "NOMS", "value": self.noms}

    @property
    def crn_id(self) -> dict[str, str]:
        """The identifier that probation uses besides."""
        return {"type": "CRN", "value": self.crn}

    def recorded_by_prison(self, release: date) -> dict[str, Any]:
        """What the prison knows: far more than a voluntary agency will be told."""
        return {
            "identity": {
                "givenName": self.given,
                "familyName": self.family,
                "dateOfBirth": self.born,
                "gender": self.gender,
            },
            "contact": {
                "address": self.address,
                "postcode": self.postcode,
                "phone": self.phone,
                "email": self.email,
            },
            "custody-and-release": custody(release),
            ACCOMMODATION: {"level": self.level, "summary": self.housing, "area": "leeds"},
            "risk": {"harm": "medium"},
            "health": {"conditions": self.health},
            **self.extra,
        }

    def personal_values(self) -> list[str]:
        """Everything that must never stand in a log, span, metric, key or header."""
        return [self.given, self.family, self.born, self.noms, self.crn, self.address, self.postcode, self.phone,
                self.email, self.health, self.housing]  # fmt: skip


def custody(release: date) -> dict[str, Any]:
    """What the prison says of a release date."""
    return {
        "prison": "LEI",
        "status": "sentenced",
        "releaseDate": release.isoformat(),
        "releaseKind": "conditional",
    }


@dataclass(frozen=True)
class Cast:
    """The people of one telling."""

    tobias: Person
    """The client whose way is followed from custody to the withdrawal."""
    marisol: Person
    """Agrees to every voluntary agency in Leeds; the first place declines her, the second takes her."""
    idris: Person
    """Agrees to a referral and to nothing else."""
    winifred: Person
    """Is never asked for consent."""
    release: date
    """When they are due for release at first."""

    @property
    def people(self) -> tuple[Person, ...]:
        """All of them."""
        return self.tobias, self.marisol, self.idris, self.winifred


def make_cast(today: date) -> Cast:
    """The people, with numbers drawn anew."""

    def noms() -> str:
        letters = "ABCDEFGHJKLMNPRSTVWXYZ"
        return f"Z{random.randrange(10_000):04d}{random.choice(letters)}{random.choice(letters)}"

    def crn() -> str:
        return f"X{random.randrange(1_000_000):06d}"

    return Cast(
        Person(
            "Tobias", "Wrenfield", "1988-03-14", "male", noms(), crn(), "14 Quillfeather Row, Leeds", "LS99 7QX",
            "0113 496 0147", "tobias.wrenfield@example.org", "Type 1 diabetes, insulin twice a day",
            "Gave up the tenancy when sentenced; no address to go to on the day of release",
            extra={"offence": {"mainOffence": "Burglary other than a dwelling", "sentenceMonths": 10}},
        ),
        Person(
            "Marisol", "Penhallow", "1993-11-02", "female", noms(), crn(), "8 Larkspur Ginnel, Leeds", "LS99 2PH",
            "0113 496 0288", "marisol.penhallow@example.org", "Recovering from surgery",
            "Can stay with a sister for a week and no longer", level="soon",
        ),
        Person(
            "Idris", "Fothergill", "1979-06-21", "male", noms(), crn(), "2 Cobbleside Fold, Leeds", "LS99 4FG",
            "0113 496 0319", "idris.fothergill@example.org", "Asthma",
            "Lived in a hostel that has since closed",
        ),
        Person(
            "Winifred", "Askwith-Rowe", "1996-09-30", "female", noms(), crn(), "77 Tannery Snicket, Leeds", "LS99 1AR",
            "0113 496 0455", "winifred.askwith@example.org", "None known",
            "Sofa to sofa since 2023",
        ),
        release_day(today, 30),
    )  # fmt: skip


def release_day(today: date, days: int) -> date:
    """A Tuesday about `days` days on: no weekend, and no Friday that a release might be brought forward from."""
    day = today + timedelta(days=days)
    return day + timedelta(days=(1 - day.weekday()) % 7)


def agreements(now: datetime) -> list[dict[str, Any]]:
    """What the agencies signed, as PUT to the door. Nothing names the police."""
    consent, statutory = "consent", "oma-2007-s14"
    told = ["identity", "contact", "custody-and-release", ACCOMMODATION, "risk"]

    def agreement(
        id: str,
        sources: list[str],
        recipients: list[str],
        purpose: str,
        basis: str,
        categories: list[str],
        subscription: bool,
    ) -> dict[str, Any]:
        return {
            "id": id,
            "version": 1,
            "sources": sorted(sources),
            "recipients": sorted(recipients),
            "terms": [
                {
                    "purpose": purpose,
                    "basis": basis,
                    "categories": sorted(categories),
                    "subscription": subscription,
                    "ownWord": False,
                }
            ],
            "signatories": {
                party: "the head of the agency" for party in (*sources, *recipients) if party not in SERVICE_PURPOSES
            },
            "starts": (now - timedelta(days=1)).isoformat(),
            "review": (now + timedelta(days=365)).isoformat(),
            "ends": (now + timedelta(days=730)).isoformat(),
        }

    statutory_agencies = [PRISON, PROBATION]
    return [
        agreement("leeds-housing", statutory_agencies, [HOUSING, "referral"], "referral", consent, told, True),
        agreement("leeds-mentoring", statutory_agencies, [MENTORS, "matching"], "mentor-matching", consent, told, True),
        agreement(
            "leeds-release-plans", [PRISON], ["notifications"], "release-notification", consent,
            ["identity", "custody-and-release"], True,
        ),
        agreement(
            "leeds-at-the-gate", [PRISON], [MENTORS], "release-notification", consent,
            ["identity", "custody-and-release"], False,
        ),
        agreement(
            "leeds-statutory-release", statutory_agencies, statutory_agencies, "release-notification", statutory,
            ["identity", "contact", "custody-and-release", "risk"], True,
        ),
        agreement("harbour-answers", [HOUSING], ["referral"], "referral", consent, ["identity"], False),
        agreement("mentors-answer", [MENTORS], ["matching"], "mentor-matching", consent, ["identity"], False),
    ]  # fmt: skip


HOSTEL = uuid.uuid5(_IDS, "hostel")
LODGINGS = uuid.uuid5(_IDS, "lodgings")


def directory(today: date) -> dict[uuid.UUID, dict[str, Any]]:
    """The lines of the directory of services, by id. The hostel, assured last, is proposed first."""
    line = {"organization": HOUSING, "pathways": [ACCOMMODATION], "area": "leeds", "minimumAge": 18, "capacity": 500}
    return {
        HOSTEL: line | {"name": "Harbour House hostel", "assuredDate": (today - timedelta(days=3)).isoformat()},
        LODGINGS: line | {"name": "Harbour lodgings", "assuredDate": (today - timedelta(days=60)).isoformat()},
    }


MENTOR = uuid.uuid5(_IDS, "ready")
"""The volunteer who may mentor."""


def volunteers(today: date) -> dict[uuid.UUID, dict[str, Any]]:
    """The scheme's volunteers, by id: one may mentor at once, the other's check has expired."""
    ready = {
        "scheme": MENTORS,
        "areas": ["leeds"],
        "languages": ["en"],
        "gender": "male",
        "approved": True,
        "available": True,
        "dbsLevel": "enhanced",
        "dbsExpires": (today + timedelta(days=400)).isoformat(),
        "prisonClearances": ["LEI"],
        "training": ["core"],
        "experienceMonths": 30,
        "caseloadLimit": 100,
        "pathways": [ACCOMMODATION],
    }
    return {
        MENTOR: ready,
        uuid.uuid5(_IDS, "expired"): ready | {"dbsExpires": (today - timedelta(days=1)).isoformat()},
    }


def consent(person: Person, form: str, given_at: datetime, recipients: list[dict[str, str]], purposes: tuple[str, ...]
            = PURPOSES) -> dict[str, Any]:  # fmt: skip
    """What the prison publishes when a client has signed."""
    return {
        "identifiers": [person.noms_id],
        "form": form,
        "recipients": recipients,
        "purposes": list(purposes),
        "categories": list(CONSENTED),
        "givenAt": given_at.isoformat(),
        "how": {"formVersion": "2024-2", "language": "en", "witnessRole": "resettlement worker"},
    }
