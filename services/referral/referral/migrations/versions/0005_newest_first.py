"""The list of referrals has an index in its order."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Put the index in the place of the one that has the ids of one moment the other way round."""
    for statement in (
        "DROP INDEX referral_newest",
        "CREATE INDEX referral_newest ON referral (created_at DESC, id DESC)",
    ):
        op.execute(statement)
