"""Who looked at who was told stands in the ledger, too."""

from alembic import op

revision = "0021"
down_revision = "0020"

STATEMENTS = [
    "ALTER TABLE ledger DROP CONSTRAINT ledger_kind",
    """
ALTER TABLE ledger ADD CONSTRAINT ledger_kind CHECK (kind IN (
    'disclosure', 'refusal', 'cancelled', 'view', 'consultation', 'reading', 'override', 'combination', 'erasure',
    'erased'
))
""",
    """
ALTER POLICY ledger_agency_insert ON ledger WITH CHECK (
    kind IN ('view', 'consultation', 'reading') AND knows_client(client_id)
    AND (recipient = asking() OR asking() = ANY (sources))
)
""",
]


def upgrade() -> None:
    """Let it be entered, also by whoever looks."""
    for statement in STATEMENTS:
        op.execute(statement)
