"""A match knows on whose assessment it rests: that agency may see it."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the column; of matches made before, only their scheme and the operator see anything."""
    op.execute("ALTER TABLE match ADD COLUMN origin text")
