"""While the database has not been compared with the topics, the worker takes nothing in: it tries again."""

import json
from typing import Any

import asyncpg
import pytest
from aiokafka import ConsumerRecord
from support import servers

from consent.worker import Intake, StillClosed, apply_when_open
from servicekit.db import is_transient


async def test_a_batch_waits_until_the_door_is_open(database_of: Any, address: Any) -> None:
    database = await database_of("consent")
    arrived = [ConsumerRecord("intake.hmp-leeds", 0, 0, 0, 0, None, b"{", None, 0, 1, ())]
    with pytest.raises(StillClosed) as caught:
        await database.run(lambda session: apply_when_open(Intake(""), session, arrived))
    assert is_transient(caught.value), "else its events would be set aside"
    admin = await asyncpg.connect(servers.RunningPostgres(address).url(str(database.engine.url.database)))
    try:
        await admin.execute("INSERT INTO opened (incarnation) SELECT incarnation()")
    finally:
        await admin.close()
    (answer,) = await database.run(lambda session: apply_when_open(Intake(""), session, arrived))
    assert json.loads(answer.value)["data"]["code"] == "malformed-json"
