"""The ledger is sealed: leaves, bodies under a key per client, signed heads."""

from alembic import op

from servicekit.rights import grants

revision = "0004"
down_revision = "0003"

STATEMENTS = [
    # 244 random bits from PostgreSQL's strong source. Erasure sets it to null, and nobody can read the bodies any more.
    "ALTER TABLE client ADD COLUMN key bytea DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())",
    "ALTER TABLE ledger DROP CONSTRAINT ledger_kind_check",
    "ALTER TABLE ledger DROP COLUMN explanation, DROP COLUMN record",
    "ALTER TABLE ledger ALTER COLUMN queue_id DROP NOT NULL",
    "ALTER TABLE ledger ALTER COLUMN recipient DROP NOT NULL",
    "ALTER TABLE ledger ALTER COLUMN purpose DROP NOT NULL",
    """
ALTER TABLE ledger ADD CONSTRAINT ledger_kind CHECK (kind IN (
    'disclosure', 'refusal', 'cancelled', 'view', 'consultation', 'override', 'combination', 'erasure'
))
""",
    # sources: whose information it was about, so that they can be shown it
    # body: salt, explanation and the record as it left, under the client's key; null once that key is gone
    # sequence and position: its place, given when its batch was sealed by the one writer of the shard
    """
ALTER TABLE ledger
    ADD COLUMN sources text[] NOT NULL, ADD COLUMN leaf bytea NOT NULL, ADD COLUMN body bytea,
    ADD COLUMN shard int, ADD COLUMN sequence bigint, ADD COLUMN position int
""",
    "CREATE INDEX ledger_unsealed ON ledger (id) WHERE sequence IS NULL",
    "CREATE INDEX ledger_sealed ON ledger (shard, sequence, position) WHERE sequence IS NOT NULL",
    """
CREATE TABLE head (
    shard int NOT NULL,
    sequence bigint NOT NULL,
    head jsonb NOT NULL,
    sent boolean NOT NULL DEFAULT false,
    PRIMARY KEY (shard, sequence)
)
""",
    "CREATE INDEX head_unsent ON head (shard, sequence) WHERE NOT sent",
    """
CREATE TABLE signing_key (
    id text PRIMARY KEY,
    public_key bytea NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
]

API = {"ledger": "INSERT", "head": "SELECT", "signing_key": "SELECT"}
WORKER = {
    "ledger": "UPDATE (shard, sequence, position)",
    "head": "SELECT, INSERT, UPDATE (sent)",
    "signing_key": "SELECT, INSERT",
}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(API, "api"), *grants(WORKER, "worker")]:
        op.execute(statement)
