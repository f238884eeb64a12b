"""What a closed match says of its client can be erased."""

from alembic import op

from servicekit.rights import grants

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Let the reasons in the history go."""
    for statement in grants({"match_history": "UPDATE (reason)"}, "worker"):
        op.execute(statement)
