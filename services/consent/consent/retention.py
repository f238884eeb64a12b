"""One run that erases what is kept longer than its period: `python -m consent.retention`.

The worker does it once a day. As a step it needs the worker's database and nothing else; retractions leave by the
discloser. May run at any time, and twice.
"""

import asyncio
import logging
import sys
from functools import partial

from consent.repository import restoring
from consent.service import retention
from consent.settings import RetentionSettings
from servicekit import telemetry
from servicekit.db import Database

log = logging.getLogger(__name__)

AT_ONCE = 100
"""Clients of whom one transaction erases what is overdue."""


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
        while await database.run(partial(retention.redact_overdue, periods=settings.periods)):
            pass
        await database.run(partial(retention.finish, periods=settings.periods))
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
