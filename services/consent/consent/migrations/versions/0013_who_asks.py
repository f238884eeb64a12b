"""What one agency asks reaches no more of links than deciding needs, and nothing of what a person is to decide."""

from alembic import op

from servicekit.rights import grants

revision = "0013"
down_revision = "0012"

CLOSED = ("candidate", "likeness")
"""Tables that the role of one agency has no part in: were it ever granted something by mistake, it would see no row."""
ROLES = ("api", "worker")

STATEMENTS = [
    # Which client was made of which, and whether that was undone: a decision needs no more. Who knows one of the two
    # is not to learn who linked them, when and why.
    "DO $$ BEGIN EXECUTE format('REVOKE SELECT ON link FROM %I', current_database() || '_agency'); END $$",
    *grants({"link": "SELECT (client_id, parts, unlinked_at)"}, "agency"),
    # whom what is recorded has to follow: looked up with every event that records something
    """
CREATE INDEX sharing_fact_invoked ON sharing_fact (client_id)
    WHERE kind IN ('gateway-invoked', 'override-authorised')
""",
    # the table's name is narrower than what it holds, and stands in many places
    """
COMMENT ON TABLE withdrawal IS
    'A stop, of whatever kind (see because), from which a retraction to each recipient whom it reaches follows'
""",
]


def upgrade() -> None:
    """Change grants, and force row-level security on the tables that were left."""
    for statement in STATEMENTS:
        op.execute(statement)
    for table in CLOSED:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(_open(table, "owner", "current_user"))
        for role in ROLES:
            op.execute(_open(table, role, f"current_database() || '_{role}'"))


def _open(table: str, name: str, role: str) -> str:
    return (
        f"DO $$ BEGIN EXECUTE format('CREATE POLICY {table}_{name} ON {table} TO %I USING (true) WITH CHECK (true)',"
        f" {role}); END $$"
    )
