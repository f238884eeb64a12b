"""A conviction becomes spent by the clock: what was told of it is then taken back."""

from alembic import op

from servicekit.rights import grants

revision = "0014"
down_revision = "0013"

STATEMENTS = [
    # It is recorded, not said: it has no version in the history, but the agency whose section it stands in.
    "ALTER TABLE due ADD COLUMN source text REFERENCES agency",
    "ALTER TABLE due ALTER COLUMN version DROP NOT NULL",
    "ALTER TABLE due DROP CONSTRAINT due_kind_check",
    """
ALTER TABLE due ADD CONSTRAINT due_kind CHECK (
    kind IN ('consent', 'restriction', 'gateway', 'override') AND version IS NOT NULL AND source IS NULL
    OR kind = 'conviction' AND version IS NULL AND source IS NOT NULL
)
""",
    "CREATE INDEX due_client ON due (client_id)",
    "CREATE INDEX retraction_reference ON retraction (reference)",
]

API = {"due": "SELECT (source, due_at)"}


def upgrade() -> None:
    """Change the table."""
    for statement in [*STATEMENTS, *grants(API, "api")]:
        op.execute(statement)
