"""The tables of the referral service."""

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
CREATE TABLE directory (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    organization text NOT NULL,
    pathways text[] NOT NULL,
    area text,
    minimum_age int,
    maximum_age int,
    status text NOT NULL CHECK (status IN ('active', 'inactive')),
    capacity int NOT NULL CHECK (capacity >= 0),
    assured_date date
)
""",
    "CREATE INDEX directory_pathways ON directory USING gin (pathways)",
    """
CREATE TABLE referral (
    id uuid PRIMARY KEY,
    client uuid NOT NULL REFERENCES client,
    pathway text NOT NULL,
    origin text NOT NULL,
    respond_by timestamptz NOT NULL,
    state text NOT NULL,
    service uuid REFERENCES directory,
    provider text,
    request uuid,
    follows uuid REFERENCES referral,
    withheld jsonb NOT NULL DEFAULT '[]',
    eligibility jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at timestamptz NOT NULL
)
""",
    """
CREATE UNIQUE INDEX referral_one_open ON referral (client, pathway)
    WHERE state NOT IN ('declined', 'completed', 'ended-early', 'withdrawn')
""",
    "CREATE INDEX referral_by_client ON referral (client)",
    """
CREATE INDEX referral_holding ON referral (service)
    WHERE state NOT IN ('draft', 'declined', 'completed', 'ended-early', 'withdrawn')
""",
    "CREATE INDEX referral_newest ON referral (created_at DESC, id)",
    """
CREATE TABLE referral_history (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    referral uuid NOT NULL REFERENCES referral,
    at timestamptz NOT NULL,
    state text NOT NULL,
    by text NOT NULL,
    reason text
)
""",
    "CREATE INDEX referral_history_by_referral ON referral_history (referral, id)",
)

RIGHTS = {
    "client": "SELECT, INSERT, UPDATE",
    "section": "SELECT, INSERT, UPDATE, DELETE",
    "directory": "SELECT, INSERT, UPDATE",
    "referral": "SELECT, INSERT, UPDATE",
    "referral_history": "SELECT, INSERT",
    "outbox": "SELECT, INSERT, DELETE",
    "inbox": "SELECT, INSERT",
    "set_aside": "SELECT, INSERT",
}
API_RIGHTS = {
    "client": "SELECT, UPDATE",
    "section": "SELECT",
    "directory": "SELECT, INSERT, UPDATE",
    "referral": "SELECT, INSERT, UPDATE",
    "referral_history": "SELECT, INSERT",
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
