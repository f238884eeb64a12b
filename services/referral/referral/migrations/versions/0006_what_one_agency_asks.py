"""What one agency asks is held to that agency by the database, whatever the code does."""

from alembic import op

from servicekit.rights import ASKING, bound, grants, may_execute

revision = "0006"
down_revision = "0005"

FUNCTIONS = (
    *ASKING,
    # Both look past the rules below, which would ask each other for ever.
    """
CREATE FUNCTION was_sent_to_asker(wanted uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (
        SELECT 1 FROM referral r JOIN referral_history h ON h.referral = r.id
        WHERE r.id = wanted AND r.provider = asking() AND h.state = 'sent'
    )
$$
""",
    # Before a referral was sent, it may have been meant for others.
    """
CREATE FUNCTION tells_asker(wanted uuid, line bigint) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT EXISTS (
        SELECT 1 FROM referral r WHERE r.id = wanted AND (r.origin = asking() OR (r.provider = asking()
            AND line >= (SELECT min(h.id) FROM referral_history h WHERE h.referral = r.id AND h.state = 'sent')))
    )
$$
""",
)
BOUND = {
    "referral": "answers_for_all() OR origin = asking() OR (provider = asking() AND was_sent_to_asker(id))",
    "referral_history": "answers_for_all() OR tells_asker(referral, id)",
}


def upgrade() -> None:
    """Make functions and policies."""
    for statement in (
        *FUNCTIONS,
        *may_execute("agency", "asking()", "answers_for_all()", "was_sent_to_asker(uuid)", "tells_asker(uuid, bigint)"),
        *grants(dict.fromkeys(BOUND, "SELECT"), "agency"),
        *bound(BOUND),
    ):
        op.execute(statement)
