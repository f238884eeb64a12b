"""Who undertook to enforce exclusions in agreements of others no longer matters to whoever asks: nobody is told it."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Take the function away."""
    op.execute("DROP FUNCTION undertakings()")
