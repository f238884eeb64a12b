"""What one agency asks is held to that agency by the database, whatever the code does."""

from alembic import op

from servicekit.rights import ASKING, bound, grants, may_execute

revision = "0005"
down_revision = "0004"

FUNCTIONS = (
    *ASKING,
    # Both look past the rules below, which would ask each other for ever. The first is asked once for all plans: an
    # agency that was told of few finds them without a question for each.
    """
CREATE FUNCTION told_to_asker() RETURNS SETOF uuid
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT DISTINCT plan FROM step WHERE recipient = asking() AND state = 'sent'
$$
""",
    "CREATE INDEX step_told ON step (recipient) INCLUDE (plan) WHERE state = 'sent'",
    """
CREATE FUNCTION rests_on_asker(wanted uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (SELECT 1 FROM plan WHERE id = wanted AND origin = asking())
$$
""",
)
BOUND = {
    "plan": "answers_for_all() OR origin = asking() OR id IN (SELECT told_to_asker())",
    "step": "answers_for_all() OR (recipient = asking() AND state = 'sent') OR rests_on_asker(plan)",
}


def upgrade() -> None:
    """Make functions and policies."""
    for statement in (
        *FUNCTIONS,
        *may_execute("agency", "asking()", "answers_for_all()", "told_to_asker()", "rests_on_asker(uuid)"),
        *grants(dict.fromkeys(BOUND, "SELECT"), "agency"),
        *bound(BOUND),
    ):
        op.execute(statement)
