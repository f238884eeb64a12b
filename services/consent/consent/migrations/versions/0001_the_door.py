"""The door: parties, agreements, clients, facts, consent, queue, ledger."""

from alembic import op

from servicekit import aside
from servicekit.rights import grants

revision = "0001"
down_revision = None

TABLES = [
    """
CREATE TABLE agency (
    id text PRIMARY KEY,
    kind text NOT NULL,
    area text,
    name text NOT NULL
)
""",
    """
INSERT INTO agency (id, kind, name) VALUES
    ('referral', 'service', 'Referral'), ('matching', 'service', 'Mentor matching'),
    ('notifications', 'service', 'Release notifications')
""",
    """
CREATE TABLE agreement (
    id text NOT NULL,
    version int NOT NULL,
    sources text[] NOT NULL,
    recipients text[] NOT NULL,
    terms jsonb NOT NULL,
    signatories jsonb NOT NULL,
    starts timestamptz NOT NULL,
    review timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    signed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (id, version),
    CHECK (starts < ends)
)
""",
    """
CREATE TABLE client (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consent_version int NOT NULL DEFAULT 0
)
""",
    # issuer: the agency for a CASE number, which means that client to that agency only; else empty
    """
CREATE TABLE identifier (
    type text NOT NULL,
    issuer text NOT NULL DEFAULT '',
    value text NOT NULL,
    client_id bigint NOT NULL REFERENCES client,
    linked_by text NOT NULL,
    linked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, issuer, value)
)
""",
    # queued: whether anything was ever queued for the recipient under this reference, so that a retraction is owed
    """
CREATE TABLE reference (
    id uuid PRIMARY KEY,
    client_id bigint NOT NULL REFERENCES client,
    recipient text NOT NULL REFERENCES agency,
    queued boolean NOT NULL
)
""",
    "CREATE INDEX reference_client ON reference (client_id, recipient)",
    """
CREATE TABLE fact (
    client_id bigint NOT NULL REFERENCES client,
    source text NOT NULL REFERENCES agency,
    category text NOT NULL,
    recorded_at timestamptz NOT NULL,
    data text NOT NULL,
    PRIMARY KEY (client_id, source, category)
) WITH (fillfactor = 60)
""",  # room for the next version of a row in its page, so that an update need not touch the index
    """
CREATE TABLE source_version (
    client_id bigint NOT NULL REFERENCES client,
    source text NOT NULL REFERENCES agency,
    clientversion bigint NOT NULL,
    PRIMARY KEY (client_id, source)
)
""",
    # append-only: history is never overwritten; what holds now is folded from it by domain.decide
    """
CREATE TABLE consent (
    client_id bigint NOT NULL REFERENCES client,
    version int NOT NULL,
    kind text NOT NULL CHECK (kind IN ('granted', 'withdrawn')),
    asserted_by text NOT NULL,
    event_id text NOT NULL,
    form text,
    body jsonb NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, version)
)
""",
    "CREATE INDEX consent_form ON consent (asserted_by, form) WHERE form IS NOT NULL",
    """
CREATE TABLE hold (
    id uuid PRIMARY KEY,
    client_id bigint NOT NULL REFERENCES client,
    reason text NOT NULL,
    asserted_by text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    lifted_at timestamptz,
    lifted_by text
)
""",
    "CREATE INDEX hold_client ON hold (client_id) WHERE lifted_at IS NULL",
    # a stopping event named this number before any client had it: whoever gets it starts under a hold
    """
CREATE TABLE held_identifier (
    type text NOT NULL,
    issuer text NOT NULL DEFAULT '',
    value text NOT NULL,
    reason text NOT NULL,
    asserted_by text NOT NULL,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (type, issuer, value)
)
""",
    """
CREATE TABLE withdrawal (
    id uuid PRIMARY KEY,
    client_id bigint NOT NULL REFERENCES client,
    version int NOT NULL,
    agency text NOT NULL,
    event_id text NOT NULL,
    traceparent text,
    recorded_at timestamptz NOT NULL,
    done_at timestamptz
)
""",
    """
CREATE TABLE retraction (
    id uuid PRIMARY KEY,
    withdrawal_id uuid NOT NULL REFERENCES withdrawal,
    recipient text NOT NULL,
    reference uuid NOT NULL,
    topic text,
    partition int,
    "offset" bigint,
    done_at timestamptz,
    acknowledged_at timestamptz
)
""",
    "CREATE INDEX retraction_withdrawal ON retraction (withdrawal_id)",
    # kind: 0 retraction and 1 notice leave as they are, 2 record is decided when it leaves
    """
CREATE TABLE queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind smallint NOT NULL,
    client_id bigint NOT NULL,
    recipient text NOT NULL,
    topic text NOT NULL,
    reference uuid NOT NULL,
    type text NOT NULL,
    purpose text,
    body text NOT NULL,
    requester text,
    reference_of_requester uuid,
    request uuid,
    traceparent text,
    due_at timestamptz NOT NULL,
    set_aside text
) WITH (autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0)
""",  # rows come and go: what left is cleared away early, so that the claim does not read over it
    "CREATE INDEX queue_first ON queue (id) WHERE kind = 0",
    "CREATE INDEX queue_set_aside ON queue (topic, reference) WHERE set_aside IS NOT NULL",
    # append-only: the roles that write it may neither update nor delete
    """
CREATE TABLE ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('disclosure', 'refusal', 'cancelled')),
    decision uuid NOT NULL,
    queue_id bigint NOT NULL,
    client_id bigint NOT NULL,
    recipient text NOT NULL,
    purpose text NOT NULL,
    type text NOT NULL,
    decided_at timestamptz NOT NULL,
    explanation text NOT NULL,
    record bytea
) WITH (toast_tuple_target = 8160)
""",  # a row has some 3 kB: it is neither compressed on the hot path nor split off
    "CREATE INDEX ledger_queue ON ledger (queue_id)",
    "CREATE INDEX ledger_client ON ledger (client_id)",
    # the door's inbox (`repository/answers.py`) keeps the answer, so that the same event gets its first answer again
    """
CREATE TABLE intake (
    agency text NOT NULL,
    event_id text NOT NULL,
    digest bytea NOT NULL,
    answer bytea,
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (agency, event_id)
)
""",
    aside.TABLE,
]

# Tables that say what was decided and agreed are append-only for everyone; what may change is named by column.
SHARED = {
    "agency": "SELECT",
    "agreement": "SELECT",
    "client": "SELECT, INSERT, UPDATE (consent_version)",
    "identifier": "SELECT, INSERT",
    "reference": "SELECT, INSERT, UPDATE (queued)",
    "fact": "SELECT, INSERT, UPDATE (recorded_at, data)",
    "source_version": "SELECT, INSERT, UPDATE (clientversion)",
    "consent": "SELECT, INSERT",
    "held_identifier": "SELECT, INSERT",
    "intake": "SELECT, INSERT",
}
API = {
    "agency": "INSERT, UPDATE (kind, area, name)",
    "agreement": "INSERT",
    "hold": "SELECT, INSERT, UPDATE (lifted_at, lifted_by)",
    "withdrawal": "SELECT, INSERT",
    "retraction": "SELECT, INSERT",
    "queue": "SELECT (id), INSERT",
    "ledger": "SELECT",
}
WORKER = {
    "hold": "SELECT, INSERT",
    "withdrawal": "SELECT, INSERT, UPDATE (done_at)",
    "retraction": 'SELECT, INSERT, UPDATE (topic, partition, "offset", done_at, acknowledged_at)',
    "queue": "SELECT, INSERT, UPDATE (set_aside), DELETE",
    "ledger": "SELECT, INSERT",
    "set_aside": "SELECT, INSERT",
}


def upgrade() -> None:
    """Make the tables."""
    for statement in [*TABLES, *grants(SHARED, "api", "worker"), *grants(API, "api"), *grants(WORKER, "worker")]:
        op.execute(statement)
