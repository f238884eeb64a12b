"""Erasing: rows that say something of a client may be deleted, by whoever takes in events; forms stay used."""

from alembic import op

from servicekit.rights import grants

revision = "0006"
down_revision = "0005"

STATEMENTS = [
    "CREATE INDEX fact_recorded ON fact (category, recorded_at)",
    # The forms of clients who were erased: a copy of an old consent must not open anything for whoever gets the number.
    # form: SHA-256 of the agency's number of the form, which might be made of a number of the client
    """
CREATE TABLE used_form (
    asserted_by text NOT NULL,
    form bytea NOT NULL,
    PRIMARY KEY (asserted_by, form)
)
""",
]

SHARED = {
    "client": "UPDATE (key)",
    "fact": "DELETE",
    "identifier": "DELETE",
    "source_version": "DELETE",
    "sharing_fact": "DELETE",
    "likeness": "DELETE",
    "candidate": "DELETE",
    "queue": "UPDATE (body)",
    "ledger": "UPDATE (body)",
    "set_aside": "UPDATE (value)",
    "used_form": "SELECT, INSERT",
}


def upgrade() -> None:
    """Change the tables."""
    for statement in [*STATEMENTS, *grants(SHARED, "api", "worker")]:
        op.execute(statement)
