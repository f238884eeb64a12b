"""One run that erases what is kept longer than its period: `python -m consent.retention`.

The worker does it once a day. As a step it needs the worker's database and nothing else; retractions leave by the
discloser. May run at any time, and twice.
"""

import asyncio
import logging
import sys
from datetime import timedelta
from functools import partial

from pydantic import PositiveInt

from consent.domain.retention import REST, periods
from consent.repository import restoring
from consent.service import retention
from consent.service.retention import Periods
from contracts.vocabulary import Category
from servicekit import telemetry
from servicekit.db import Database
from servicekit.settings import Settings

log = logging.getLogger(__name__)

AT_ONCE = 100
"""Clients of whom one transaction erases what is overdue."""


class RetentionSettings(Settings):
    """What a run needs to know besides."""

    retention_days: dict[Category, int] = {}
    """Days by category, as JSON, where they are not those of `consent.domain.retention`."""
    rest_days: PositiveInt = REST.days
    """Days after the last that was said, told or asked of a client, until what is left beside sections is erased."""

    @property
    def periods(self) -> Periods:
        """How long what is kept here."""
        return Periods(periods(self.retention_days), timedelta(days=self.rest_days))


async def run(settings: RetentionSettings) -> int:
    """Erase all that is overdue; gives how many clients there was something of.

    Raises:
        RuntimeError: the door is closed after a restore: versions that were used before could be given again.
    """
    database = Database(settings.database_url.get_secret_value(), 1, "consent retention")
    erased = after = 0
    try:
        if not await database.run(restoring.is_open):
            raise RuntimeError("the door is closed")
        while looked := await database.run(
            partial(retention.erase_overdue, periods=settings.periods, after=after, limit=AT_ONCE)
        ):
            after, erased = looked.after, erased + looked.erased
            log.info("erased what was overdue of %d clients so far", erased)
        await database.run(retention.finish)
    finally:
        await database.close()
    return erased


if __name__ == "__main__":
    settings = RetentionSettings()
    telemetry.set_up(settings, "consent-retention")
    try:
        print(f"Erased what was overdue of {asyncio.run(run(settings))} clients.")
    except RuntimeError as error:
        sys.exit(f"Nothing was erased: {error} (docs/how-to/operations.md).")
