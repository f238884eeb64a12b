"""That a practitioner asked who is kept from the client stands in the ledger, too."""

from alembic import op

revision = "0022"
down_revision = "0021"

STATEMENTS = [
    "ALTER TABLE ledger DROP CONSTRAINT ledger_kind",
    """
ALTER TABLE ledger ADD CONSTRAINT ledger_kind CHECK (kind IN (
    'disclosure', 'refusal', 'cancelled', 'view', 'consultation', 'reading', 'attempt', 'override', 'combination',
    'erasure', 'erased'
))
""",
    """
ALTER POLICY ledger_agency_insert ON ledger WITH CHECK (
    kind IN ('view', 'consultation', 'reading', 'attempt') AND knows_client(client_id)
    AND (recipient = asking() OR asking() = ANY (sources))
)
""",
]


def upgrade() -> None:
    """Let it be entered, also by whoever asks."""
    for statement in STATEMENTS:
        op.execute(statement)
