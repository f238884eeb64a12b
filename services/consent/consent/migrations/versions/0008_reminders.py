"""What operations look after: retractions that nobody confirmed, holds and their owners, what was set aside."""

from alembic import op

from servicekit.rights import grants

revision = "0008"
down_revision = "0006"

STATEMENTS = [
    # body: the event as it was sent, so that a reminder has the same id and the same bytes
    """
ALTER TABLE retraction
    ADD COLUMN body text, ADD COLUMN reminders int NOT NULL DEFAULT 0, ADD COLUMN reminded_at timestamptz
""",
    # owner: who looks at it
    "ALTER TABLE hold ADD COLUMN owner text",
    # id: by which it is named in URLs and logs, where the number itself must not stand
    """
ALTER TABLE held_identifier
    ADD COLUMN id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(), ADD COLUMN owner text
""",
    "CREATE INDEX queue_all_set_aside ON queue (id) WHERE set_aside IS NOT NULL",
    "CREATE INDEX sharing_fact_overrides ON sharing_fact (recorded_at) WHERE kind = 'override-authorised'",
    # append-only: what a person did about something that needed one, and why
    """
CREATE TABLE intervention (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    by text NOT NULL,
    action text NOT NULL CHECK (action IN ('hold-lifted', 'retried', 'discarded')),
    about text NOT NULL,
    reason text
)
""",
]

API = {
    "hold": "UPDATE (owner)",
    "held_identifier": "UPDATE (owner), DELETE",
    "queue": "SELECT, UPDATE (set_aside), DELETE",
    "set_aside": "SELECT, DELETE",
    "retraction": "UPDATE (acknowledged_at)",
    "intervention": "INSERT",
}
WORKER = {"retraction": "UPDATE (reminders, reminded_at)"}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(API, "api"), *grants(WORKER, "worker")]:
        op.execute(statement)
