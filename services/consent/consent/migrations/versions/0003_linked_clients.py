"""Linked clients (C10): who linked what and undid it, pairs for a person to decide, and what makes two look alike."""

from alembic import op

from servicekit.rights import grants

revision = "0003"
down_revision = "0002"

STATEMENTS = [
    # history: a link that was undone stays, with who undid it
    """
CREATE TABLE link (
    id uuid PRIMARY KEY,
    client_id bigint NOT NULL UNIQUE REFERENCES client,
    parts bigint[] NOT NULL CHECK (cardinality(parts) = 2),
    linked_by text NOT NULL,
    event_id text,
    reason text NOT NULL,
    linked_at timestamptz NOT NULL,
    conflicting boolean NOT NULL,
    confirmed_at timestamptz,
    confirmed_by text,
    unlinked_at timestamptz,
    unlinked_by text
)
""",
    "CREATE INDEX link_parts ON link USING gin (parts)",
    # one < other: the rows to which the numbers belong, so that a pair stays the same pair when one of them is linked
    """
CREATE TABLE candidate (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    one bigint NOT NULL,
    other bigint NOT NULL,
    because text NOT NULL CHECK (because IN ('identifier-conflict', 'same-details', 'unlinked')),
    found_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    decision text CHECK (decision IN ('same', 'different')),
    decided_by text,
    decided_at timestamptz,
    UNIQUE (one, other),
    CHECK (one < other)
)
""",
    "CREATE INDEX candidate_open ON candidate (found_at) WHERE decision IS NULL",
    # digest: of the normalised names and date of birth; compared: whether it was compared with the others since
    """
CREATE TABLE likeness (
    client_id bigint NOT NULL,
    source text NOT NULL,
    digest bytea NOT NULL,
    compared boolean NOT NULL DEFAULT false,
    PRIMARY KEY (client_id, source)
)
""",
    "CREATE INDEX likeness_digest ON likeness (digest)",
    "CREATE INDEX likeness_new ON likeness (client_id) WHERE NOT compared",
    "CREATE INDEX identifier_client ON identifier (client_id)",
    "CREATE INDEX client_linked ON client (id) WHERE parts <> '{}'",
]

SHARED = {
    "link": "SELECT, INSERT, UPDATE (confirmed_at, confirmed_by, unlinked_at, unlinked_by)",
    "candidate": "SELECT, INSERT, UPDATE (decision, decided_by, decided_at)",
    "likeness": "SELECT, INSERT, UPDATE (digest, compared)",
    "hold": "UPDATE (lifted_at, lifted_by)",
    "due": "SELECT (client_id), DELETE",
}


def upgrade() -> None:
    """Make the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker")]:
        op.execute(statement)
