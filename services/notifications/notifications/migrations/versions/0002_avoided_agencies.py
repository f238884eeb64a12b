"""A client knows which agencies retractions named, as those that are to be told no more."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column: a list of agency ids."""
    op.execute("ALTER TABLE client ADD COLUMN avoided jsonb NOT NULL DEFAULT '[]'")
