"""What an erasure leaves to be done: the ledger is cut afterwards, and what is overdue is looked for every day."""

from alembic import op

from servicekit.rights import grants

revision = "0015"
down_revision = "0014"

STATEMENTS = [
    # free text about two people; the ledger's entry of the link holds it as well, under the client's key
    "ALTER TABLE link DROP COLUMN reason",
    # What was erased and may still stand in the ledger under a client. No source, category or time: of every one.
    # withdrawal: when that is done, no decision of before the erasure can come into the ledger any more
    """
CREATE TABLE ledger_erasure (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id bigint NOT NULL REFERENCES client,
    withdrawal_id uuid NOT NULL REFERENCES withdrawal,
    source text,
    category text,
    until timestamptz,
    due_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
    # The daily run over the clients of whom something is overdue: one row, which its batches lock one after the other.
    # after: the client that it has come to
    """
CREATE TABLE retention_run (
    after bigint NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz NOT NULL DEFAULT 'epoch'
)
""",
    "INSERT INTO retention_run DEFAULT VALUES",
]

SHARED = {"ledger_erasure": "INSERT"}
WORKER = {"ledger_erasure": "SELECT, UPDATE (due_at), DELETE", "retention_run": "SELECT, UPDATE"}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker"), *grants(WORKER, "worker")]:
        op.execute(statement)
