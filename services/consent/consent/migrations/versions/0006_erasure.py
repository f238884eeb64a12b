"""Erasing: rows that say something of a client may be deleted, by the worker alone."""

from alembic import op

from servicekit.migrate import grants

revision = "0006"
down_revision = "0005"

STATEMENTS = ["CREATE INDEX fact_recorded ON fact (category, recorded_at)"]

WORKER = {
    "client": "UPDATE (key)",
    "fact": "DELETE",
    "identifier": "DELETE",
    "source_version": "DELETE",
    "sharing_fact": "DELETE",
    "likeness": "DELETE",
    "candidate": "DELETE",
    "ledger": "UPDATE (body)",
    "set_aside": "UPDATE (value)",
}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(WORKER, "worker")]:
        op.execute(statement)
