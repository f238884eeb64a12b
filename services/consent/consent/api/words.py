"""The codes of the contracts in the words of the page that a client gets."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from contracts.leaving import Permitted
from contracts.vocabulary import LONDON, Basis, Category, Purpose

PURPOSES = {
    Purpose.REFERRAL: "to refer you to a service",
    Purpose.MENTOR_MATCHING: "to find you a mentor",
    Purpose.RELEASE_NOTIFICATION: "to prepare your release",
    Purpose.PUBLIC_PROTECTION: "to protect you or others from harm",
}

CATEGORIES = {
    Category.IDENTITY: "who you are: name, date of birth, gender",
    Category.CONTACT: "how to reach you: address, phone, e-mail",
    Category.CUSTODY_AND_RELEASE: "custody and release",
    Category.NEEDS_ACCOMMODATION: "need: where to live",
    Category.NEEDS_ETE: "need: education, training and work",
    Category.NEEDS_HEALTH: "need: health",
    Category.NEEDS_DRUGS_ALCOHOL: "need: drugs and alcohol",
    Category.NEEDS_FINANCE: "need: money, benefits and debt",
    Category.NEEDS_FAMILIES: "need: children and families",
    Category.NEEDS_ATTITUDES: "need: attitudes, thinking and behaviour",
    Category.NEEDS_ABUSE: "need: support after abuse",
    Category.NEEDS_SEX_WORK: "need: support about sex work",
    Category.RISK: "risk",
    Category.OFFENCE: "offences",
    Category.HEALTH: "health",
    Category.FAMILY: "family",
    Category.EQUALITY: "equality: language, faith, whether you need an interpreter",
}

BASES = {
    Basis.CONSENT: "your consent",
    Basis.OMA_S14: "Offender Management Act 2007, section 14",
    Basis.CDA_S115: "Crime and Disorder Act 1998, section 115",
    Basis.CJA_S325: "Criminal Justice Act 2003, section 325",
    Basis.VITAL_INTERESTS: "protection of life (UK GDPR articles 6(1)(d) and 9(2)(c)), or safeguarding",
    Basis.OVERRIDE: "a decision to share for public protection",
}

OUTCOMES = {
    "sent": "Sent.",
    "leaving": "Decided, and being sent or waiting to be sent.",
    "cancelled, may have arrived": "Stopped while it was being sent: it may have arrived all the same.",
    "refused": "Not sent.",
    "consultation": "Asked beforehand; nothing was told by it.",
    "reading": "Looked at who was told.",
    "attempt": "Somebody there who is kept from your record asked about it, and was shown nothing.",
    "override": "Entered.",
    "combination": "Entered.",
    "erasure": "Erased.",
}
ENTERED = {
    "authorised": "Decided that they may be told:",
    "ended": "Ended: nobody may be told any more by it.",
    "reviewed": "Looked at again.",
    "linked": "Your record was linked with another: from then on they counted as one.",
    "unlinked": "The link with another record was undone.",
    "told-apart": "Decided that this record and another are of different people.",
}
"""What happened, by what an entry says of it."""

_DETAILS = {
    "by": "By",
    "starts": "From",
    "ends": "Until",
    "once": "Once, and no later change of it",
    "reviewBy": "To be reviewed by",
    "outcome": "Outcome",
    "because": "Because of",
    "askedBy": "Asked for by",
    "erased": "What was erased",
    "obligations": "With the duty",
    "override": "Their reference",
    "link": "Our reference of the link",
    "whole": "All of it",
    "entries": "How many entries",
    "before": "Those before entry number",
}
_IN_THE_ROW = frozenset({"what", "recipients", "purposes", "categories"})
LEFT_OFF = frozenset({"reason", "note", "authorisedBy", "approvedBy", "reviewedBy", "practitioner"})
"""Not on the page: an agency's own words, which may name a victim or describe a threat, and names of its staff. They
stand in the JSON: the person who answers the client decides what may be told of them."""
_AGENCIES = frozenset({"by", "askedBy", "source"})
"""What holds the id of an agency. An agency's own id of something may be spelt like one, or like a code."""
_TIMES = frozenset({"starts", "ends", "reviewBy"})
_AS_THEY_ARE = frozenset({"override", "link"})
_CODES: dict[str, str] = {
    **{str(code): told for code, told in CATEGORIES.items()},
    "True": "yes",
    "client-asked": "you asked for it",
    "no-longer-needed": "it is not needed any more",
    "recorded-in-error": "it was recorded by mistake",
    "period-over": "the time for which it may be kept was over",
    "everything": "everything",
    "justified": "it was right",
    "not-justified": "it was not right",
    "no-onward-sharing": "to pass it on to nobody",
    "erase-on-retraction": "to erase it when it is taken back",
    "keep-from-practitioner": "to keep it from a practitioner who must not see it",
}


def basis(permitted: Permitted) -> str:
    """On what authority an item was told."""
    text = BASES[permitted.basis]
    if permitted.consent is not None:
        text += f" (entry {permitted.consent} of what you and others said about sharing)"
    if permitted.invoked is not None:
        text += f" (relied on for you in entry {permitted.invoked})"
    if permitted.agreement is not None:
        text += f", under the agreement {permitted.agreement}, version {permitted.agreement_version}"
    return text


def when(at: datetime) -> str:
    """A time as it was, or will be, in the United Kingdom."""
    local = at.astimezone(LONDON)
    return f"{local.day} {local:%B %Y, %H:%M}"


def details(kind: str, values: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What else an entry of that kind says, as pairs of a label and a text."""
    for key in (*_DETAILS, *sorted(values.keys() - _DETAILS.keys() - LEFT_OFF - _IN_THE_ROW)):
        value = values.get(key)
        by_staff = key == "by" and (kind in ("view", "reading", "attempt") or value not in names)
        if value not in (None, False, [], "") and not by_staff:
            yield _DETAILS.get(key, key), "; ".join(_text(key, one, names) for one in _list(value))


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text(key: str, value: Any, names: Mapping[str, str]) -> str:
    if isinstance(value, dict):  # an item, or a duty
        said = ((name, one) for name, one in value.items() if one is not None and name not in LEFT_OFF)
        return ", ".join(_text(name, one, names) for name, one in said)
    if key in _TIMES:
        return when(datetime.fromisoformat(value))
    if key in _AGENCIES:
        return names.get(value, value)
    return str(value) if key in _AS_THEY_ARE else _CODES.get(str(value), str(value))
