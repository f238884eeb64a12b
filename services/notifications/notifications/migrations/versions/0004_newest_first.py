"""The list of plans has an index in its order."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Put the index in the place of the one that has the ids of one moment the other way round."""
    for statement in ("DROP INDEX plan_newest", "CREATE INDEX plan_newest ON plan (created_at DESC, id DESC)"):
        op.execute(statement)
