"""What a closed referral says of its client can be erased."""

from alembic import op

from servicekit.rights import grants

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let the pathway go, and the reasons in the history."""
    for statement in (
        "ALTER TABLE referral ALTER COLUMN pathway DROP NOT NULL",
        *grants({"referral_history": "UPDATE (reason)"}, "worker"),
    ):
        op.execute(statement)
