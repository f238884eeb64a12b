"""How long what is recorded may be kept, by category, at last what is left of a client, and what of an erased one."""

from collections.abc import Mapping
from datetime import timedelta

from contracts.vocabulary import NEEDS, Category

_YEAR = timedelta(days=365)

RETENTION: Mapping[Category, timedelta] = {
    Category.IDENTITY: 6 * _YEAR,
    Category.CONTACT: _YEAR,
    Category.CUSTODY_AND_RELEASE: 2 * _YEAR,
    **dict.fromkeys(NEEDS, 2 * _YEAR),
    Category.RISK: 2 * _YEAR,
    Category.OFFENCE: 6 * _YEAR,
    Category.HEALTH: _YEAR,
    Category.FAMILY: 2 * _YEAR,
    Category.EQUALITY: 6 * _YEAR,
}
"""From when an agency last recorded it. Storage limitation is UK GDPR article 5(1)(e); the lengths are ours, short
where harm is greatest, and an installation sets its own (`THROUGHGATE_RETENTION_DAYS`)."""

REST = 6 * _YEAR
"""How long numbers, what was said about sharing and what can be read in the ledger stay when no section is left of a
client: from when anything was last said, told or asked. As long as the longest of the categories: until then the client
can be told who was told what. An installation sets its own (`THROUGHGATE_REST_DAYS`)."""

REMEMBERED = _YEAR
"""For how long the numbers of a client who was erased are known again, by their digests."""


def periods(days: Mapping[Category, int]) -> dict[Category, timedelta]:
    """The periods with those that an installation sets."""
    return {**RETENTION, **{category: timedelta(days=n) for category, n in days.items()}}
