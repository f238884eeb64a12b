"""While the database has not been compared with the topics, the worker takes nothing in: it tries again."""

from typing import Any

import asyncpg
import pytest
from support import servers

from consent.worker import Intake, StillClosed, apply_when_open
from servicekit.db import is_transient


async def test_a_batch_waits_until_the_door_is_open(database_of: Any, address: Any) -> None:
    database = await database_of("consent")
    with pytest.raises(StillClosed) as caught:
        await database.run(lambda session: apply_when_open(Intake(""), session, []))
    assert is_transient(caught.value), "else its events would be set aside"
    admin = await asyncpg.connect(servers.RunningPostgres(address).url(str(database.engine.url.database)))
    try:
        await admin.execute("INSERT INTO opened (incarnation) SELECT incarnation()")
    finally:
        await admin.close()
    assert await database.run(lambda session: apply_when_open(Intake(""), session, [])) == []
