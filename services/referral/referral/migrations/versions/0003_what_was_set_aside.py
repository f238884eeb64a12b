"""What was set aside is listed without its bytes, and these can be erased."""

from alembic import op

from servicekit import aside

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a column and grants."""
    for statement in aside.MIGRATION:
        op.execute(statement)
