"""Topics that go away under a running system."""

import asyncio
from typing import Any


async def delete_topic(admin: Any, topic: str) -> None:
    """Delete a topic, and wait until the brokers know: until then they go on taking records for it."""
    admin.delete_topics([topic])[topic].result()
    while topic in admin.list_topics(timeout=10).topics:
        await asyncio.sleep(0.2)
