"""After a restore: whether this database was compared with the topics, and what was read back from them."""

from alembic import op

from servicekit.rights import grants, may_execute

revision = "0012"
down_revision = "0011"

STATEMENTS = [
    # Another value for another copy of the database, and for the same one under a server that was started again: no
    # backup of it as a whole can be put in its place without one of the two. One of its data alone can.
    """
CREATE FUNCTION incarnation() RETURNS text LANGUAGE sql STABLE RETURN concat_ws(
    '/', (SELECT oid FROM pg_database WHERE datname = current_database()), to_regclass('client')::oid,
    extract(epoch FROM pg_postmaster_start_time())
)
""",
    # append-only: a discloser compared this incarnation with the topics, and nothing was missing
    # at: for operations, no code reads it
    """
CREATE TABLE opened (
    incarnation text PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
)
""",
    # since: from when on what stands in the topics is read back; nameless: references under which something was
    # retracted, and of which nobody knows whom they stand for; done_at: from then on the door may open; began_at: for
    # operations, no code reads it
    """
CREATE TABLE restore (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since timestamptz NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    nameless int NOT NULL DEFAULT 0,
    read_at timestamptz,
    done_at timestamptz
)
""",
    # lost_at: when it came back from its topic. The entries that it sealed did not.
    "ALTER TABLE head ADD COLUMN lost_at timestamptz",
]

SHARED = {"opened": "SELECT", "restore": "SELECT"}
WORKER = {"opened": "INSERT", "restore": "INSERT, UPDATE (nameless, read_at, done_at)"}


def upgrade() -> None:
    """Change the tables."""
    for statement in [
        *STATEMENTS,
        *grants(SHARED, "api", "worker"),
        *grants(WORKER, "worker"),
        *may_execute("api", "incarnation()"),
        *may_execute("worker", "incarnation()"),
    ]:
        op.execute(statement)
