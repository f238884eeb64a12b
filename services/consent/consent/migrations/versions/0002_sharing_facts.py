"""Consent becomes one of several kinds of sharing facts; clients can be linked; retractions say what they reach."""

from alembic import op

from servicekit.rights import grants

revision = "0002"
down_revision = "0001"

STATEMENTS = [
    # --- one history for all that is said about sharing (C2 to C5)
    "ALTER TABLE consent RENAME TO sharing_fact",
    "ALTER TABLE sharing_fact RENAME COLUMN form TO own_id",
    "ALTER TABLE sharing_fact DROP CONSTRAINT consent_kind_check",
    "ALTER TABLE sharing_fact ADD COLUMN details jsonb NOT NULL DEFAULT '{}'",
    "ALTER INDEX consent_form RENAME TO sharing_fact_own_id",
    "ALTER INDEX consent_pkey RENAME TO sharing_fact_pkey",
    "ALTER TABLE client RENAME COLUMN consent_version TO version",
    # --- linked clients (C10): a link makes a new client of its parts, and undoing it sets them free again
    "ALTER TABLE client ADD COLUMN merged_into bigint REFERENCES client",
    "ALTER TABLE client ADD COLUMN parts bigint[] NOT NULL DEFAULT '{}'",
    "ALTER TABLE client ADD COLUMN conflicting boolean NOT NULL DEFAULT false",
    # whose reference the record's key is: it fixes the shard, so that all under one key passes one discloser
    "ALTER TABLE queue ADD COLUMN keyed_by bigint NOT NULL",
    # --- a withdrawal is whatever turns a permit into a deny; the time of its start is its retractions' too
    "ALTER TABLE withdrawal ALTER COLUMN agency DROP NOT NULL",
    "ALTER TABLE withdrawal ALTER COLUMN event_id DROP NOT NULL",
    "ALTER TABLE withdrawal ADD COLUMN because text NOT NULL DEFAULT 'withdrawn'",
    "CREATE INDEX retraction_unacknowledged ON retraction (done_at) WHERE acknowledged_at IS NULL",
    # --- what ends by the clock: deciding needs no job, telling does
    """
CREATE TABLE due (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_id bigint NOT NULL REFERENCES client,
    version int NOT NULL,
    kind text NOT NULL CHECK (kind IN ('consent', 'restriction', 'gateway', 'override')),
    due_at timestamptz NOT NULL
)
""",
    "CREATE INDEX due_at ON due (due_at)",
]

SHARED = {"client": "UPDATE (version, merged_into, conflicting)", "due": "INSERT"}
WORKER = {"due": "SELECT, UPDATE, DELETE"}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker"), *grants(WORKER, "worker")]:
        op.execute(statement)
