"""What a service took in stays known, and what it is to send is sent as it was written: the rights are not there."""

from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from servicekit.db import Database

REFUSED = [
    ("worker", "UPDATE inbox SET received_at = now()"),
    ("worker", "DELETE FROM inbox"),
    ("worker", "TRUNCATE inbox"),
    ("worker", "UPDATE outbox SET value = ''"),
    ("worker", "TRUNCATE outbox"),
    ("api", "SELECT event_id FROM inbox"),
    ("api", "DELETE FROM inbox"),
    ("api", "SELECT value FROM outbox"),
    ("api", "UPDATE outbox SET value = ''"),
    ("api", "DELETE FROM outbox"),
]


@pytest.mark.parametrize("service", ["referral", "matching", "notifications"])
async def test_nobody_changes_what_was_taken_in_or_is_to_be_sent(
    service: str, database_of: Callable[..., Awaitable[Database]]
) -> None:
    for role in ("worker", "api"):
        database = await database_of(service, role)
        for statement in (sql for whose, sql in REFUSED if whose == role):
            with pytest.raises(DBAPIError) as refused:
                await database.run(lambda session, sql=statement: session.execute(text(sql)))  # type: ignore[misc]
            cause = refused.value.orig.__cause__  # type: ignore[union-attr]
            assert isinstance(cause, asyncpg.InsufficientPrivilegeError), statement
