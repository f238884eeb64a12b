"""What a service took in stays known, and what it is to send is sent as it was written: the rights are not there."""

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.services import DatabaseOf

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
BOUND = {
    "referral": ("referral", "referral_history"),
    "matching": ("volunteer", "match", "match_history"),
    "notifications": ("plan", "step"),
}
"""What one agency's question may read, and change nothing of."""
CLOSED = ("client", "section", "inbox", "outbox", "set_aside")


@pytest.mark.parametrize("service", ["referral", "matching", "notifications"])
async def test_nobody_changes_what_was_taken_in_or_is_to_be_sent(service: str, database_of: DatabaseOf) -> None:
    database = await database_of(service)
    for role, statement in REFUSED:
        await _refused(database.as_role(role), statement)


@pytest.mark.parametrize("service", BOUND)
async def test_one_agencys_question_reads_nothing_else_and_changes_nothing(
    service: str, database_of: DatabaseOf
) -> None:
    asking = (await database_of(service)).as_role("agency")
    for table in CLOSED:
        await _refused(asking, f"SELECT 1 FROM {table}")
    for table in BOUND[service]:
        await _refused(asking, f"UPDATE {table} SET id = DEFAULT")
        await _refused(asking, f"DELETE FROM {table}")
        await _refused(asking, f"INSERT INTO {table} DEFAULT VALUES")


async def _refused(database: Database, statement: str) -> None:
    with pytest.raises(DBAPIError) as refused:
        await database.run(lambda session: session.execute(text(statement)))
    cause = refused.value.orig.__cause__  # type: ignore[union-attr]
    assert isinstance(cause, asyncpg.InsufficientPrivilegeError), statement
