"""What one agency asks is held to that agency by the database, whatever the code does."""

from alembic import op

from servicekit.rights import ASKING, bound, grants, may_execute

revision = "0005"
down_revision = "0004"

FUNCTIONS = (
    *ASKING,
    # Both look past the rules below, which would ask each other for ever.
    """
CREATE FUNCTION was_told_to_asker(wanted uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (SELECT 1 FROM step WHERE plan = wanted AND recipient = asking() AND state = 'sent')
$$
""",
    """
CREATE FUNCTION rests_on_asker(wanted uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (SELECT 1 FROM plan WHERE id = wanted AND origin = asking())
$$
""",
)
BOUND = {
    "plan": "answers_for_all() OR origin = asking() OR was_told_to_asker(id)",
    "step": "answers_for_all() OR (recipient = asking() AND state = 'sent') OR rests_on_asker(plan)",
}


def upgrade() -> None:
    """Make functions and policies."""
    for statement in (
        *FUNCTIONS,
        *may_execute("agency", "asking()", "answers_for_all()", "was_told_to_asker(uuid)", "rests_on_asker(uuid)"),
        *grants(dict.fromkeys(BOUND, "SELECT"), "agency"),
        *bound(BOUND),
    ):
        op.execute(statement)
