"""The tables of the matching service."""

from alembic import op

from servicekit import aside, inbox, outbox
from servicekit.rights import grants

revision = "0001"
down_revision = None

TABLES = (
    # withdrawn_at: when the last retraction came; for operations, no code reads it
    """
CREATE TABLE client (
    reference uuid PRIMARY KEY,
    tombstone int,
    withdrawn_at timestamptz,
    waiting_since timestamptz,
    facts_at timestamptz
)
""",
    "CREATE INDEX client_waiting ON client (waiting_since) WHERE waiting_since IS NOT NULL",
    "CREATE INDEX client_facts_at ON client (facts_at) WHERE facts_at IS NOT NULL",
    """
CREATE TABLE section (
    client uuid NOT NULL REFERENCES client,
    source text NOT NULL,
    category text NOT NULL,
    recorded_at timestamptz NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (client, source, category)
)
""",
    """
CREATE TABLE volunteer (
    id uuid PRIMARY KEY,
    scheme text NOT NULL,
    areas text[] NOT NULL,
    languages text[] NOT NULL,
    gender text,
    approved boolean NOT NULL,
    available boolean NOT NULL,
    dbs_level text,
    dbs_expires date,
    prison_clearances text[] NOT NULL,
    training text[] NOT NULL,
    experience_months int NOT NULL,
    interviewed_by_public_protection boolean NOT NULL,
    caseload_limit int NOT NULL CHECK (caseload_limit >= 0),
    pathways text[] NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
    """
CREATE TABLE match (
    id uuid PRIMARY KEY,
    client uuid NOT NULL REFERENCES client,
    volunteer uuid NOT NULL REFERENCES volunteer,
    scheme text NOT NULL,
    expires_at timestamptz NOT NULL,
    state text NOT NULL,
    reason text,
    request uuid,
    explanation jsonb NOT NULL DEFAULT '{}',
    withheld jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL
)
""",
    "CREATE UNIQUE INDEX match_one_open ON match (client) WHERE state IN ('requested', 'offered', 'active')",
    "CREATE INDEX match_caseload ON match (volunteer) WHERE state IN ('requested', 'offered', 'active')",
    "CREATE INDEX match_expiring ON match (expires_at) WHERE state IN ('requested', 'offered')",
    "CREATE INDEX match_by_client ON match (client)",
    "CREATE INDEX match_changed ON match (changed_at)",
    """
CREATE TABLE match_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    match uuid NOT NULL REFERENCES match,
    at timestamptz NOT NULL,
    state text NOT NULL,
    by text NOT NULL,
    reason text
)
""",
    "CREATE INDEX match_history_by_match ON match_history (match, id)",
    "CREATE TABLE last_round (single boolean PRIMARY KEY DEFAULT true CHECK (single), at timestamptz NOT NULL)",
)

RIGHTS = {
    "client": "SELECT, INSERT, UPDATE",
    "section": "SELECT, INSERT, UPDATE, DELETE",
    "volunteer": "SELECT, INSERT, UPDATE",
    "match": "SELECT, INSERT, UPDATE",
    "match_history": "SELECT, INSERT",
    "last_round": "SELECT, INSERT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "inbox": "SELECT, INSERT",
    "set_aside": "SELECT, INSERT",
}
API_RIGHTS = {
    "client": "SELECT, INSERT, UPDATE",
    "section": "SELECT, INSERT, UPDATE, DELETE",
    "volunteer": "SELECT, INSERT, UPDATE",
    "match": "SELECT, INSERT, UPDATE",
    "match_history": "SELECT, INSERT",
    "last_round": "SELECT, INSERT, UPDATE",
    "outbox": "INSERT",
}


def upgrade() -> None:
    """Make everything."""
    for statement in (
        *TABLES,
        outbox.TABLE,
        inbox.TABLE,
        aside.TABLE,
        *grants(RIGHTS, "worker"),
        *grants(API_RIGHTS, "api"),
    ):
        op.execute(statement)
