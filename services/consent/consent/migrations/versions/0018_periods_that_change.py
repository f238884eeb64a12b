"""A category that gets another period is looked for in all that was told, also where others had that period before."""

from alembic import op

from servicekit.rights import grants

revision = "0018"
down_revision = "0017"

STATEMENTS = [
    # For which categories the ledger was gone through up to `after`; where one is missing, it begins with the first.
    "ALTER TABLE retention_told ADD COLUMN categories text[] NOT NULL DEFAULT '{}'",
    *grants({"retention_told": "UPDATE (categories)"}, "worker"),
]


def upgrade() -> None:
    """Add the column; the next run begins with the first entry."""
    for statement in STATEMENTS:
        op.execute(statement)
