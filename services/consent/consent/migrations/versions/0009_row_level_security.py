"""What one agency asks is held to that agency by the database, whatever the code does."""

from alembic import op

from servicekit.rights import ASKING, bound, grants, may_execute, policy

revision = "0009"
down_revision = "0008"

FUNCTIONS = [
    *ASKING,
    # Whether the asker was ever given a reference for this client, or for one that is linked with it.
    """
CREATE FUNCTION knows_client(wanted bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM reference WHERE client_id = wanted AND recipient = asking()) THEN
        RETURN true;
    END IF;
    RETURN EXISTS (
        WITH RECURSIVE above AS (
            SELECT id, merged_into FROM client WHERE id = wanted
            UNION SELECT c.id, c.merged_into FROM above a JOIN client c ON c.id = a.merged_into
        ), whole AS (
            SELECT c.id, c.parts FROM client c JOIN above a ON a.id = c.id WHERE a.merged_into IS NULL
            UNION SELECT c.id, c.parts FROM whole w JOIN client c ON c.id = ANY (w.parts)
        )
        SELECT 1 FROM whole JOIN reference ON client_id = whole.id AND recipient = asking()
    );
END $$
""",
    # By every version: one that took a party out must be seen by it, or the one before would seem to be in force.
    """
CREATE FUNCTION party_to(wanted text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT answers_for_all() OR EXISTS (
        SELECT 1 FROM agreement WHERE id = wanted AND (asking() = ANY (sources) OR asking() = ANY (recipients))
    ) OR EXISTS (
        SELECT 1 FROM agreement_draft
        WHERE agreement = wanted AND (asking() = ANY (sources) OR asking() = ANY (recipients))
    )
$$
""",
    # Who undertook to enforce exclusions in agreements that the asker may not see, and no more of them: what others
    # agreed among themselves binds whoever is told. By every version, as in `party_to`.
    """
CREATE FUNCTION undertakings() RETURNS TABLE (
    id text, version int, enforces text[], starts timestamptz, ends timestamptz, suspended_from timestamptz
)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    SELECT a.id, a.version, a.enforces, a.starts, a.ends,
        (SELECT min(s.at) FROM (
            SELECT DISTINCT ON (c.by) c.by, c.kind, c.at FROM agreement_change c
            WHERE c.agreement = a.id AND c.kind <> 'version' ORDER BY c.by, c.number DESC
        ) s WHERE s.kind = 'suspended' AND (s.by = 'operator' OR s.by = ANY (a.sources || a.recipients)))
    FROM agreement a
    WHERE asking() IS NOT NULL AND NOT party_to(a.id)
        AND EXISTS (SELECT 1 FROM agreement v WHERE v.id = a.id AND v.enforces <> '{}')
$$
""",
    # The asker's own references of clients whom one of our services named to it by that service's: of those alone whom
    # it knows already. Where links gave it several, the oldest client's.
    """
CREATE FUNCTION own_references(wanted uuid[], service text) RETURNS TABLE (named uuid, own uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    WITH RECURSIVE above AS (
        SELECT r.id AS named, c.id, c.merged_into FROM reference r JOIN client c ON c.id = r.client_id
        WHERE r.id = ANY (wanted) AND r.recipient = service
        UNION SELECT a.named, c.id, c.merged_into FROM above a JOIN client c ON c.id = a.merged_into
    ), whole AS (
        SELECT a.named, c.id, c.parts FROM above a JOIN client c ON c.id = a.id WHERE a.merged_into IS NULL
        UNION SELECT w.named, c.id, c.parts FROM whole w JOIN client c ON c.id = ANY (w.parts) AND c.merged_into = w.id
    )
    SELECT DISTINCT ON (w.named) w.named, r.id FROM whole w JOIN reference r ON r.client_id = w.id
    WHERE r.recipient = asking() ORDER BY w.named, w.id
$$
""",
    # Locks clients, for the role that may only look and has no right to lock rows itself. Not FOR SHARE: one who looks
    # after the other could keep out who withdraws.
    """
CREATE FUNCTION hold_still(wanted bigint[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    PERFORM 1 FROM client WHERE id = ANY (wanted) ORDER BY id FOR UPDATE;
END $$
""",
]

KNOWN = "knows_client(client_id)"
CONCERNS = "recipient = asking() OR asking() = ANY (sources)"
"""An entry of the ledger."""
BOUND = {
    # table: what the asker may see
    "client": "knows_client(id)",
    "reference": "recipient = asking()",
    "fact": KNOWN,
    "sharing_fact": KNOWN,
    "hold": KNOWN,
    "link": KNOWN,
    "withdrawal": "agency = asking()",
    "retraction": "EXISTS (SELECT 1 FROM withdrawal w WHERE w.id = withdrawal_id)",
    "ledger": f"{CONCERNS} OR (answers_for_all() AND knows_client(client_id))",
    "agreement": "party_to(id)",
    "agreement_change": "party_to(agreement)",
    "agreement_draft": "party_to(agreement)",
    "agreement_signature": "EXISTS (SELECT 1 FROM agreement_draft d WHERE d.id = draft)",
}
"""Tables that the role of one agency may read, and of which rows. It may read nothing that is not listed here or in
`OPEN`."""
WRITES = [
    # table, command, which rows
    # it enters what it asked itself, of clients it knows; nothing else comes into the ledger in its name
    ("ledger", "INSERT", f"kind IN ('view', 'consultation') AND knows_client(client_id) AND ({CONCERNS})"),
    # that something was told; nobody makes itself a reference
    ("reference", "UPDATE", "recipient = asking()"),
]
"""What that role may write."""
OPEN = ("agency", "agreement_follow_up", "discloser_shard", "head", "signing_key")

GRANTS = {
    **dict.fromkeys((*BOUND, *OPEN), "SELECT"),
    "ledger": "SELECT, INSERT",
    "reference": "SELECT, UPDATE (queued)",
    "queue": "SELECT (id)",
}
SHARED = ("asking()", "answers_for_all()", "knows_client(bigint)", "party_to(text)")


def upgrade() -> None:
    """Make functions and policies, and force them on the owner too."""
    for statement in (
        *FUNCTIONS,
        *may_execute("worker", *SHARED),
        *may_execute("api", *SHARED, "hold_still(bigint[])", "undertakings()"),
        *may_execute("agency", *SHARED, "hold_still(bigint[])", "undertakings()", "own_references(uuid[], text)"),
        *grants(GRANTS, "agency"),
        *bound(BOUND),
        *(
            policy(f"{table}_agency_{command.lower()}", table, "agency", rule, command)
            for table, command, rule in WRITES
        ),
    ):
        op.execute(statement)
