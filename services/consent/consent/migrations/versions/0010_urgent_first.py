"""Retractions and notices are claimed before records: that a withdrawal is done does not wait behind a backlog."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Change the index."""
    op.execute("DROP INDEX queue_first")
    op.execute("CREATE INDEX queue_first ON queue (kind, id) WHERE kind < 2")
