"""The list of matches has an index in its order."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the index."""
    op.execute("CREATE INDEX match_newest ON match (created_at DESC, id DESC)")
