"""The tables of the notifications service."""

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
    withdrawn_at timestamptz
)
""",
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
CREATE TABLE gate_partner (
    agency text NOT NULL,
    prison text NOT NULL,
    steps text[] NOT NULL,
    PRIMARY KEY (agency, prison)
)
""",
    """
CREATE TABLE plan (
    id uuid PRIMARY KEY,
    client uuid NOT NULL REFERENCES client,
    state text NOT NULL,
    reason text,
    origin text,
    prison text,
    release_date date,
    stale boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
    "CREATE INDEX plan_by_client ON plan (client)",
    "CREATE UNIQUE INDEX plan_one_planned ON plan (client) WHERE state = 'planned'",
    "CREATE INDEX plan_newest ON plan (created_at DESC, id)",
    "CREATE INDEX plan_stale ON plan (client) WHERE stale",
    """
CREATE TABLE step (
    id uuid PRIMARY KEY,
    plan uuid NOT NULL REFERENCES plan,
    client uuid NOT NULL REFERENCES client,
    name text NOT NULL,
    recipient text NOT NULL,
    for_date date,
    due_at timestamptz,
    state text NOT NULL,
    request uuid,
    withheld jsonb NOT NULL DEFAULT '[]',
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (plan, name, recipient, for_date) DEFERRABLE INITIALLY DEFERRED
)
""",
    "CREATE INDEX step_due ON step (due_at) WHERE state = 'planned'",
    "CREATE INDEX step_asked ON step (client) WHERE state = 'asked'",
    "CREATE TABLE clock (single boolean PRIMARY KEY DEFAULT true CHECK (single), ahead interval NOT NULL)",
)

RIGHTS = {
    "client": "SELECT, INSERT, UPDATE",
    "section": "SELECT, INSERT, UPDATE, DELETE",
    "gate_partner": "SELECT, INSERT, UPDATE, DELETE",
    "plan": "SELECT, INSERT, UPDATE",
    "step": "SELECT, INSERT, UPDATE",
    "clock": "SELECT, INSERT, UPDATE",
    "outbox": "SELECT, INSERT, DELETE",
    "inbox": "SELECT, INSERT",
    "set_aside": "SELECT, INSERT",
}
API_RIGHTS = {
    "gate_partner": "SELECT, INSERT, UPDATE, DELETE",
    "plan": "SELECT, UPDATE (stale)",
    "step": "SELECT",
    "clock": "SELECT, INSERT, UPDATE",
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
