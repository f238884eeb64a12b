"""One run that erases what is kept longer than its category's period: `python -m consent.retention`, once a day.

It needs the worker's database and nothing else; retractions leave by the discloser. May run at any time, and twice.
"""

import asyncio
import logging

from consent.domain.retention import periods
from consent.repository import erasure
from consent.service.erasing import erase_overdue
from contracts.vocabulary import Category
from servicekit import telemetry
from servicekit.db import Database
from servicekit.settings import Settings

log = logging.getLogger(__name__)


class RetentionSettings(Settings):
    """What a run needs to know besides."""

    retention_days: dict[Category, int] = {}
    """Days by category, as JSON, where they are not those of `consent.domain.retention`."""


async def run(settings: RetentionSettings) -> int:
    """Erase all that is overdue; gives how many clients there was something of."""
    database = Database(settings.database_url.get_secret_value(), 1, "consent retention")
    erased = 0
    try:
        while some := await database.run(lambda session: erase_overdue(session, periods(settings.retention_days))):
            erased += some
            log.info("erased what was overdue of %d clients so far", erased)
        await database.run(erasure.forget_numbers)
    finally:
        await database.close()
    return erased


if __name__ == "__main__":
    settings = RetentionSettings()
    telemetry.set_up(settings, "consent-retention")
    print(f"Erased what was overdue of {asyncio.run(run(settings))} clients.")
