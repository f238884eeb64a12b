"""Before anything leaves: whether the database knows all that stands in the topics. If not, it was restored, and the
door stays closed until that is read back (`consent.restore`).
"""

import asyncio
import logging

from aiokafka.errors import KafkaError
from prometheus_client import Gauge
from sqlalchemy.ext.asyncio import AsyncConnection

from consent.repository import restoring
from consent.service.restoring import MARGIN, is_behind, is_ours, known_until
from consent.settings import DiscloserSettings
from servicekit.kafka import reading, written_since

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
CLOSED = Gauge("throughgate_closed", "1 while nothing leaves because the database is behind the topics.")


async def open_when_known(db: AsyncConnection, settings: DiscloserSettings) -> None:
    """Open the door once the database knows every head and every retraction that stands in the topics.

    The topics are read before the database is asked, so that it knows what other shards send meanwhile.
    """
    while True:
        async with db.begin():
            done, unfinished = await restoring.last_done(db), await restoring.unfinished(db)
        try:
            if unfinished is None and not await _is_behind(db, settings):
                break
        except (KafkaError, TimeoutError, OSError) as error:  # a topic that is being made or deleted is waited for
            log.warning("the topics cannot be compared yet: %s", type(error).__name__)
            await asyncio.sleep(POLL_SECONDS)
            continue
        CLOSED.set(1)
        log.error(
            "for %s to see to: the door is closed, its database is behind the topics: python -m consent.restore",
            settings.alert_owner,
        )
        while True:
            async with db.begin():
                if await restoring.last_done(db) != done:
                    break
            await asyncio.sleep(POLL_SECONDS)
    async with db.begin():
        await restoring.open_door(db)
    CLOSED.set(0)


async def _is_behind(db: AsyncConnection, settings: DiscloserSettings) -> bool:
    async with db.begin():
        since = await known_until(db) - MARGIN
    async with reading(settings) as reader:
        async for records in written_since(settings, reader, is_ours(settings.namespace), since):
            async with db.begin():  # keeps the session, too
                if await is_behind(db, records, settings.namespace):
                    return True
    return False
