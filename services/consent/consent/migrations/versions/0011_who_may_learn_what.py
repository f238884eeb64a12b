"""What intake tells and denies: whom an agency knows, one open hold of a kind, who is named to whom, the erased."""

from alembic import op

from servicekit.rights import grants

revision = "0011"
down_revision = "0010"

STATEMENTS = [
    # recorded: whether this agency recorded something of the client itself, and so knows it by its numbers
    "ALTER TABLE reference ADD COLUMN recorded boolean NOT NULL DEFAULT false",
    # One open hold a client, agency and reason; times and last_at: how often it came, and when last. Without a client
    # it holds nobody: it tells operations of an agency that names more clients than it may hold.
    """
ALTER TABLE hold
    ALTER COLUMN id SET DEFAULT gen_random_uuid(), ALTER COLUMN client_id DROP NOT NULL,
    ADD COLUMN times int NOT NULL DEFAULT 1, ADD COLUMN last_at timestamptz NOT NULL DEFAULT clock_timestamp()
""",
    """
CREATE UNIQUE INDEX hold_open ON hold (client_id, asserted_by, reason) NULLS NOT DISTINCT WHERE lifted_at IS NULL
""",
    "DROP INDEX hold_client",
    "CREATE INDEX hold_agency ON hold (asserted_by) WHERE lifted_at IS NULL",
    # The same for numbers: an agency's junk does not swallow another's no.
    """
ALTER TABLE held_identifier
    DROP CONSTRAINT held_identifier_pkey, ADD PRIMARY KEY (type, issuer, value, asserted_by, reason),
    ADD COLUMN times int NOT NULL DEFAULT 1, ADD COLUMN last_at timestamptz NOT NULL DEFAULT clock_timestamp()
""",
    "CREATE INDEX held_identifier_agency ON held_identifier (asserted_by)",
    # named: whether the publisher of the stop may know that this recipient was told of the client
    "ALTER TABLE retraction ADD COLUMN named boolean NOT NULL DEFAULT false",
    """
ALTER POLICY retraction_agency ON retraction
    USING (named AND EXISTS (SELECT 1 FROM withdrawal w WHERE w.id = withdrawal_id))
""",
    # Numbers of clients of whom everything was erased, so that a consent of before opens nothing for who comes after.
    # digest: of the number behind a key that is random and this installation's own
    """
CREATE TABLE erasure_key (
    key bytea NOT NULL DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
)
""",
    "INSERT INTO erasure_key DEFAULT VALUES",
    """
CREATE TABLE erased_number (
    digest bytea PRIMARY KEY,
    erased_at timestamptz NOT NULL
)
""",
    "CREATE INDEX erased_number_at ON erased_number (erased_at)",
    "ALTER TABLE client ADD COLUMN made_at timestamptz NOT NULL DEFAULT clock_timestamp()",
]

SHARED = {
    "reference": "UPDATE (recorded)",
    "hold": "UPDATE (times, last_at)",
    "held_identifier": "UPDATE (times, last_at), DELETE",
    "erasure_key": "SELECT",
    "erased_number": "SELECT, INSERT, UPDATE (erased_at)",
}
WORKER = {"erased_number": "DELETE"}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker"), *grants(WORKER, "worker")]:
        op.execute(statement)
