"""What may be known of a client. Where a field stands is its category, so cutting is selecting keys."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from contracts.vocabulary import AgencyId, Category
from servicekit.envelope import StrictWire, Wire

NO_NUL = r"^[^\u0000]*$"
"""U+0000 is refused at the edge: PostgreSQL cannot store it, so such an event could only be set aside."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=NO_NUL)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]


class Identity(StrictWire):
    """Who the client is."""

    given_name: Short
    family_name: Short
    date_of_birth: date | None = None
    gender: Literal["female", "male", "non-binary", "not-said"] | None = None


class Contact(StrictWire):
    """Where the client can be reached. The category most likely to cost a life when it leaks."""

    address: Text | None = None
    postcode: Short | None = None
    phone: Short | None = None
    email: Short | None = None


class CustodyAndRelease(StrictWire):
    """Where the client is held and when the client leaves."""

    prison: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    status: Literal["remand", "sentenced", "recalled", "released"] | None = None
    release_date: date | None = None
    release_kind: (
        Literal["automatic", "conditional", "home-detention-curfew", "parole", "end-of-recall", "court"] | None
    ) = None


class Need(StrictWire):
    """A need on one pathway."""

    level: Literal["urgent", "soon", "later", "met"]
    summary: Text | None = None
    area: Short | None = None


class Risk(StrictWire):
    """Risk of serious harm as the assessing agency puts it."""

    harm: Literal["low", "medium", "high", "very-high"]
    considerations: Text | None = None


class Offence(StrictWire):
    """The offence for which the client was sentenced."""

    main_offence: Short
    sentence_months: Annotated[int, Field(ge=0, le=1200)] | None = None
    sentence_ends: date | None = None
    never_spent: bool = False
    """Life and other sentences that are excluded from rehabilitation."""
    spent_on: date | None = None
    """From which day the conviction is spent, as the agency that recorded it worked it out."""


def spent_on(offence: Mapping[str, Any]) -> date | None:
    """From which day a conviction is spent, or None where that cannot be told: the earlier of what the source says and
    what follows from the sentence of an adult.

    Rehabilitation of Offenders Act 1974 s.5, as amended by the Police, Crime, Sentencing and Courts Act 2022 s.193: 12
    months after the end of a custodial sentence of up to a year, 4 years after one of up to four years, 7 years after a
    longer one. Sentences of over four years for a schedule 18 offence never are: the source says `neverSpent`.

    Args:
        offence: the fields of `Offence` as JSON.

    Raises:
        ValueError: a date is not a date.
    """
    if offence.get("neverSpent"):
        return None
    days = []
    if said := offence.get("spentOn"):
        days.append(date.fromisoformat(said))
    months, ends = offence.get("sentenceMonths"), offence.get("sentenceEnds")
    if months and ends:
        end = date.fromisoformat(ends)
        year = end.year + (1 if months <= 12 else 4 if months <= 48 else 7)
        leap_day = (end.month, end.day) == (2, 29)
        days.append(date(year, 3, 1) if leap_day and year % 4 else end.replace(year=year))
    return min(days, default=None)


class Health(StrictWire):
    """Special category data (UK GDPR article 9)."""

    conditions: Text | None = None
    medication: Text | None = None


class Family(StrictWire):
    """The client's family and dependants."""

    summary: Text


class Equality(StrictWire):
    """Protected characteristics and what the client asks for because of them."""

    language: Short | None = None
    faith: Short | None = None
    interpreter_needed: bool | None = None


class Facts(StrictWire):
    """Facts by category: each key is a category code, each value that category's fields.

    A key that is absent or null says nothing. An object without a value, `contact: {}`, says that nothing is
    known.
    """

    identity: Identity | None = None
    contact: Contact | None = None
    custody_and_release: CustodyAndRelease | None = Field(None, alias=Category.CUSTODY_AND_RELEASE.value)
    needs_accommodation: Need | None = Field(None, alias=Category.NEEDS_ACCOMMODATION.value)
    needs_ete: Need | None = Field(None, alias=Category.NEEDS_ETE.value)
    needs_health: Need | None = Field(None, alias=Category.NEEDS_HEALTH.value)
    needs_drugs_alcohol: Need | None = Field(None, alias=Category.NEEDS_DRUGS_ALCOHOL.value)
    needs_finance: Need | None = Field(None, alias=Category.NEEDS_FINANCE.value)
    needs_families: Need | None = Field(None, alias=Category.NEEDS_FAMILIES.value)
    needs_attitudes: Need | None = Field(None, alias=Category.NEEDS_ATTITUDES.value)
    needs_abuse: Need | None = Field(None, alias=Category.NEEDS_ABUSE.value)
    needs_sex_work: Need | None = Field(None, alias=Category.NEEDS_SEX_WORK.value)
    risk: Risk | None = None
    offence: Offence | None = None
    health: Health | None = None
    family: Family | None = None
    equality: Equality | None = None


class Section(Wire):
    """One category of one client as one agency recorded it: the unit that a decision permits or withholds."""

    category: Category
    source: AgencyId
    recorded_at: AwareDatetime
    data: dict[str, object]
    """The fields of the category's model in `Facts`."""
