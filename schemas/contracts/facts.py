"""What may be known of a client. Each model here is one category, so cutting a record is selecting keys."""

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from contracts.fields import FieldKind, models_in
from contracts.vocabulary import AgencyId, Category
from servicekit.envelope import NO_NUL, Date, StrictWire, Unfit, Wire

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=NO_NUL)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]

FIRST_DAY, LAST_DAY = date(1900, 1, 1), date(2199, 12, 31)
"""Between them lies whatever is true of somebody alive: nobody was born before, and no sentence that has an end (1200
months at most) ends later. Outside are only what case systems write where they know no day, such as year 1 or 9999.
"""


def _of_a_life(day: date) -> date:
    if not FIRST_DAY <= day <= LAST_DAY:
        raise Unfit(f"a day is from {FIRST_DAY} to {LAST_DAY}; leave out one that is not known")
    return day


Day = Annotated[
    Date,
    AfterValidator(_of_a_life),
    Field(json_schema_extra={"formatMinimum": FIRST_DAY.isoformat(), "formatMaximum": LAST_DAY.isoformat()}),
]
"""A day in a client's life."""


class Identity(StrictWire):
    """Who the client is."""

    holds: ClassVar = Category.IDENTITY

    given_name: Short
    family_name: Short
    date_of_birth: Day | None = None
    gender: Literal["female", "male", "non-binary", "not-said"] | None = None


class Contact(StrictWire):
    """Where the client can be reached. The category most likely to cost a life when it leaks."""

    holds: ClassVar = Category.CONTACT

    address: Text | None = None
    postcode: Short | None = None
    phone: Short | None = None
    email: Short | None = None


class CustodyAndRelease(StrictWire):
    """Where the client is held and when the client leaves."""

    holds: ClassVar = Category.CUSTODY_AND_RELEASE

    prison: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    status: Literal["remand", "sentenced", "recalled", "released"] | None = None
    release_date: Day | None = None
    release_kind: (
        Literal["automatic", "conditional", "home-detention-curfew", "parole", "end-of-recall", "court"] | None
    ) = None


class _Need(StrictWire):
    level: Literal["urgent", "soon", "later", "met"]
    summary: Text | None = None
    area: Short | None = None


class AccommodationNeed(_Need):
    """Where to live."""

    holds: ClassVar = Category.NEEDS_ACCOMMODATION


class EteNeed(_Need):
    """Education, training and employment."""

    holds: ClassVar = Category.NEEDS_ETE


class HealthNeed(_Need):
    """Mental and physical health."""

    holds: ClassVar = Category.NEEDS_HEALTH


class DrugsAlcoholNeed(_Need):
    """Drugs and alcohol."""

    holds: ClassVar = Category.NEEDS_DRUGS_ALCOHOL


class FinanceNeed(_Need):
    """Finance, benefit and debt."""

    holds: ClassVar = Category.NEEDS_FINANCE


class FamiliesNeed(_Need):
    """Children and families."""

    holds: ClassVar = Category.NEEDS_FAMILIES


class AttitudesNeed(_Need):
    """Attitudes, thinking and behaviour."""

    holds: ClassVar = Category.NEEDS_ATTITUDES


class AbuseNeed(_Need):
    """Having been abused."""

    holds: ClassVar = Category.NEEDS_ABUSE


class SexWorkNeed(_Need):
    """Sex work."""

    holds: ClassVar = Category.NEEDS_SEX_WORK


class Risk(StrictWire):
    """Risk of serious harm as the assessing agency puts it."""

    holds: ClassVar = Category.RISK

    harm: Literal["low", "medium", "high", "very-high"]
    considerations: Text | None = None


class Offence(StrictWire):
    """The offence for which the client was sentenced."""

    holds: ClassVar = Category.OFFENCE

    main_offence: Short
    sentence_months: Annotated[int, Field(ge=0, le=1200)] | None = None
    sentence_ends: Day | None = None
    """Last day of the whole sentence, time on licence included."""
    adult_when_convicted: bool = False
    """Whether the client is known to have been 18 or over when convicted. If not, the shorter periods for the young
    count: a conviction that was told cannot be untold.
    """
    never_spent: bool = False
    """Life and other sentences that are excluded from rehabilitation."""
    spent_on: Day | None = None
    """From which day the conviction is spent, as the agency that recorded it worked it out."""


def spent_on(offence: Mapping[str, Any]) -> date | None:
    """From which day a conviction is spent, or None where that cannot be told: the earlier of what the source says and
    what follows from the sentence.

    Rehabilitation of Offenders Act 1974 s.5, as amended by the Police, Crime, Sentencing and Courts Act 2022 s.193: 12
    months after the end of a custodial sentence, licence included, of up to a year, 4 years after one of up to four
    years, 7 years after a longer one; half of that for a person who was under 18 when convicted. Never spent are life,
    extended sentences, and over four years for an offence in schedule 18 to the Sentencing Code: the source says
    `neverSpent`.

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
        period = 12 if months <= 12 else 48 if months <= 48 else 84
        if not offence.get("adultWhenConvicted"):
            period //= 2
        days.append(_months_after(date.fromisoformat(ends), period))
    return min(days, default=None)


def _months_after(day: date, months: int) -> date:
    """The same day of a later month, or the first of the next where that month is shorter."""
    years, month = divmod(day.month - 1 + months, 12)
    year = min(day.year + years, date.max.year)
    try:
        return day.replace(year=year, month=month + 1)
    except ValueError:  # never in December
        return date(year, month + 2, 1)


class Health(StrictWire):
    """Special category data (UK GDPR article 9)."""

    holds: ClassVar = Category.HEALTH

    conditions: Text | None = None
    medication: Text | None = None


class Family(StrictWire):
    """The client's family and dependants."""

    holds: ClassVar = Category.FAMILY

    summary: Text


class Equality(StrictWire):
    """Protected characteristics and what the client asks for because of them."""

    holds: ClassVar = Category.EQUALITY

    language: Short | None = None
    faith: Short | None = None
    interpreter_needed: bool | None = None


class Facts(StrictWire):
    """Facts by category: each key is a category code, each value that category's fields.

    A key that is absent or null says nothing. An object without a value, `contact: {}`, says that nothing is
    known.
    """

    identity: Annotated[Identity | None, Category.IDENTITY] = None
    contact: Annotated[Contact | None, Category.CONTACT] = None
    custody_and_release: Annotated[CustodyAndRelease | None, Category.CUSTODY_AND_RELEASE] = Field(
        None, alias=Category.CUSTODY_AND_RELEASE.value
    )
    needs_accommodation: Annotated[AccommodationNeed | None, Category.NEEDS_ACCOMMODATION] = Field(
        None, alias=Category.NEEDS_ACCOMMODATION.value
    )
    needs_ete: Annotated[EteNeed | None, Category.NEEDS_ETE] = Field(None, alias=Category.NEEDS_ETE.value)
    needs_health: Annotated[HealthNeed | None, Category.NEEDS_HEALTH] = Field(None, alias=Category.NEEDS_HEALTH.value)
    needs_drugs_alcohol: Annotated[DrugsAlcoholNeed | None, Category.NEEDS_DRUGS_ALCOHOL] = Field(
        None, alias=Category.NEEDS_DRUGS_ALCOHOL.value
    )
    needs_finance: Annotated[FinanceNeed | None, Category.NEEDS_FINANCE] = Field(
        None, alias=Category.NEEDS_FINANCE.value
    )
    needs_families: Annotated[FamiliesNeed | None, Category.NEEDS_FAMILIES] = Field(
        None, alias=Category.NEEDS_FAMILIES.value
    )
    needs_attitudes: Annotated[AttitudesNeed | None, Category.NEEDS_ATTITUDES] = Field(
        None, alias=Category.NEEDS_ATTITUDES.value
    )
    needs_abuse: Annotated[AbuseNeed | None, Category.NEEDS_ABUSE] = Field(None, alias=Category.NEEDS_ABUSE.value)
    needs_sex_work: Annotated[SexWorkNeed | None, Category.NEEDS_SEX_WORK] = Field(
        None, alias=Category.NEEDS_SEX_WORK.value
    )
    risk: Annotated[Risk | None, Category.RISK] = None
    offence: Annotated[Offence | None, Category.OFFENCE] = None
    health: Annotated[Health | None, Category.HEALTH] = None
    family: Annotated[Family | None, Category.FAMILY] = None
    equality: Annotated[Equality | None, Category.EQUALITY] = None


def _wire_names(category: str) -> frozenset[str]:
    (model,) = (m for f in Facts.model_fields.values() if category in f.metadata for m in models_in(f.annotation))
    return frozenset(field.alias or name for name, field in model.model_fields.items())


FIELDS: Mapping[str, frozenset[str]] = {category.value: _wire_names(category) for category in Category}
"""The fields of each category, by their names on the wire: nothing else leaves with it."""


class Section(Wire):
    """One category of one client as one agency recorded it: the unit that a decision permits or withholds."""

    holds: ClassVar = FieldKind.AS_NAMED

    category: Category
    source: AgencyId
    recorded_at: AwareDatetime
    """By the source's clock. Of one source and category what comes last counts, whatever time it carries."""
    data: dict[str, object]
    """The fields of the category's model in `Facts`."""
