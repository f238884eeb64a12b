"""The register of agreements: drafts, signatures, suspensions, and what the discloser's shards saw of it (C1)."""

from alembic import op

from servicekit.rights import grants

revision = "0005"
down_revision = "0004"

STATEMENTS = [
    "ALTER TABLE agreement ADD COLUMN enforces text[] NOT NULL DEFAULT '{}'",
    # append-only: what was proposed never changes; another wording is another draft
    """
CREATE TABLE agreement_draft (
    id uuid PRIMARY KEY,
    agreement text NOT NULL,
    version int NOT NULL,
    proposed_by text NOT NULL,
    proposed_at timestamptz NOT NULL,
    sources text[] NOT NULL,
    recipients text[] NOT NULL,
    terms jsonb NOT NULL,
    enforces text[] NOT NULL,
    starts timestamptz NOT NULL,
    review timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    CHECK (starts < review AND review <= ends)
)
""",
    "CREATE INDEX agreement_draft_agreement ON agreement_draft (agreement, version)",
    """
CREATE TABLE agreement_signature (
    draft uuid NOT NULL REFERENCES agreement_draft,
    agency text NOT NULL REFERENCES agency,
    name text NOT NULL,
    role text NOT NULL,
    signed_at timestamptz NOT NULL,
    PRIMARY KEY (draft, agency)
)
""",
    "ALTER TABLE agreement ADD COLUMN draft uuid UNIQUE REFERENCES agreement_draft",
    # append-only; numbered under one lock, so that who sees a number sees every one below it
    """
CREATE TABLE agreement_change (
    number bigint PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    agreement text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('version', 'suspended', 'resumed')),
    version int NOT NULL,
    by text NOT NULL,
    reason text,
    at timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    FOREIGN KEY (agreement, version) REFERENCES agreement (id, version)
)
""",
    "CREATE INDEX agreement_change_effective ON agreement_change (effective_at)",
    "CREATE INDEX agreement_change_suspension ON agreement_change (agreement, by, number) WHERE kind <> 'version'",
    # seen: the newest change in a shard's snapshot; reached: the newest time of effect that had come by then
    """
CREATE TABLE discloser_shard (
    shard int PRIMARY KEY,
    shards int NOT NULL,
    seen bigint NOT NULL,
    reached timestamptz,
    at timestamptz NOT NULL
)
""",
    # snapshots that a change makes due; the worker takes the clients in chunks, each a transaction
    """
CREATE TABLE agreement_follow_up (
    change bigint PRIMARY KEY REFERENCES agreement_change,
    sources text[] NOT NULL,
    due_at timestamptz NOT NULL,
    after bigint NOT NULL DEFAULT 0
)
""",
    "CREATE INDEX agreement_follow_up_due ON agreement_follow_up (due_at)",
]

SHARED = {"agreement_change": "SELECT", "discloser_shard": "SELECT", "agreement_follow_up": "SELECT"}
API = {
    "agreement_draft": "SELECT, INSERT",
    "agreement_signature": "SELECT, INSERT",
    "agreement_change": "INSERT",
    "agreement_follow_up": "INSERT",
}
WORKER = {
    "discloser_shard": "INSERT, UPDATE (shards, seen, reached, at)",
    "agreement_follow_up": "UPDATE (due_at, after), DELETE",
}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker"), *grants(API, "api"), *grants(WORKER, "worker")]:
        op.execute(statement)
