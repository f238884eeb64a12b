"""Information-sharing agreements as agencies write and sign them, and the minimum standard for all of them."""

import unicodedata
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from contracts.vocabulary import AgencyId, Basis, Category, Purpose
from servicekit.envelope import NO_NUL, Moment, StrictWire, Unfit

AgreementId = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,60}$")]

_HIDING = ("Cc", "Cf", "Cn", "Co", "Zl", "Zp")
_BLANK = frozenset("\u115f\u1160\u3164\uffa0")
"""Letters, to Unicode, that show nothing: the fillers of Hangul."""


def _is_readable(text: str) -> str:
    if any(unicodedata.category(c) in _HIDING for c in text):
        raise Unfit("control and format characters would hide or turn what others read")
    if not any(c.isalnum() and c not in _BLANK for c in text):
        raise Unfit("it says nothing: a letter or a figure is missing")
    return text


Readable = Annotated[str, AfterValidator(_is_readable)]
"""Free text on one line for people to read, such as who signs: there is something to read, and it is what it seems."""


class AgreementTerms(StrictWire):
    """What an agreement allows for one purpose."""

    purpose: Purpose
    basis: Literal[Basis.CONSENT, Basis.OMA_S14, Basis.CDA_S115, Basis.CJA_S325, Basis.VITAL_INTERESTS]
    """Consent or a gateway. An override is of one client and for a time: nobody agrees on it beforehand."""
    categories: Annotated[list[Category], Field(min_length=1, max_length=len(Category))]
    subscription: bool = False
    """Whether recipients get every change, and a snapshot when a permit begins, without asking."""
    own_word: bool = False
    """Whether the recipient's own word counts: a consent that it recorded, or that it invoked the gateway itself."""


class AgreementText(StrictWire):
    """All that a version of an agreement says. Its direction is from `sources` to `recipients`: an agency that tells
    and is told stands in both. What is not named is not agreed."""

    sources: Annotated[list[AgencyId], Field(min_length=1, max_length=500)]
    recipients: Annotated[list[AgencyId], Field(min_length=1, max_length=500)]
    terms: Annotated[list[AgreementTerms], Field(min_length=1, max_length=len(Purpose))]
    enforces: Annotated[list[AgencyId], Field(max_length=500)] = []
    """The parties that undertake to the sources to keep excluded practitioners away from a client's record."""
    starts: Moment
    review: Moment
    ends: Moment

    @model_validator(mode="after")
    def _is_of_a_piece(self) -> "AgreementText":
        if not self.starts < self.review <= self.ends:
            raise Unfit("starts must lie before review, and review not after ends")
        if len({*self.sources, *self.recipients}) == 1:
            raise Unfit("somebody in sources tells somebody else, in recipients")
        if len({t.purpose for t in self.terms}) < len(self.terms):
            raise Unfit("each purpose has one entry in terms")
        if not set(self.enforces) <= {*self.sources, *self.recipients}:
            raise Unfit("enforces names parties only: agencies in sources or recipients")
        return self


class AgreementTemplate(StrictWire):
    """A standard text. An agency that signs it becomes source and recipient among all who have."""

    id: AgreementId
    """The agreement that its signatories have between them."""
    edition: Annotated[str, Field(pattern=NO_NUL)]
    title: Annotated[str, Field(pattern=NO_NUL)]
    terms: list[AgreementTerms]
    undertakings: list[str]
    """What a party promises, in words."""
    enforces: bool
    """Whether every signatory undertakes to keep excluded practitioners away."""
    months: int
    """For how long the agreement runs from its first signature."""
    review_months: int


@cache
def minimum_standard() -> AgreementTemplate:
    """The one template: schemas/contracts/minimum-standard.json."""
    return AgreementTemplate.model_validate_json(files("contracts").joinpath("minimum-standard.json").read_bytes())
