"""What one agency asks is held to that agency by the database, whatever the code does."""

from alembic import op

from servicekit.rights import ASKING, bound, grants, may_execute

revision = "0007"
down_revision = "0006"

FUNCTIONS = (
    *ASKING,
    # Both look past the rules below: those would ask each other for ever, and keep from a scheme how many of its
    # volunteers' places offers hold that have not left yet.
    """
CREATE FUNCTION was_offered_to_asker(wanted uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (
        SELECT 1 FROM match m JOIN match_history h ON h.match = m.id
        WHERE m.id = wanted AND m.scheme = asking() AND h.state = 'offered'
    )
$$
""",
    """
CREATE FUNCTION caseload(wanted uuid) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT count(*) FROM match m JOIN volunteer v ON v.id = m.volunteer
    WHERE v.id = wanted AND m.state IN ('requested', 'offered', 'active')
        AND (answers_for_all() OR v.scheme = asking())
$$
""",
)
BOUND = {
    "volunteer": "answers_for_all() OR scheme = asking()",
    "match": "answers_for_all() OR origin = asking() OR (scheme = asking() AND was_offered_to_asker(id))",
    "match_history": "EXISTS (SELECT 1 FROM match m WHERE m.id = match)",
}


def upgrade() -> None:
    """Make functions and policies."""
    for statement in (
        *FUNCTIONS,
        *may_execute("agency", "asking()", "answers_for_all()", "was_offered_to_asker(uuid)", "caseload(uuid)"),
        *grants(dict.fromkeys(BOUND, "SELECT"), "agency"),
        *bound(BOUND),
    ):
        op.execute(statement)
