"""A reason why two are different people goes from the ledger of the one when the other is erased."""

from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Let what is to be redacted be one decision."""
    op.execute("ALTER TABLE ledger_erasure ADD COLUMN decision uuid")
