"""A number that is another's is taken off a client."""

from alembic import op

from servicekit.rights import grants

revision = "0017"
down_revision = "0016"

# the client becomes one that a link made, of parts that have its numbers
SHARED = {"client": "UPDATE (parts)", "identifier": "UPDATE (client_id)"}


def upgrade() -> None:
    """Give the rights."""
    for statement in grants(SHARED, "api", "worker"):
        op.execute(statement)
