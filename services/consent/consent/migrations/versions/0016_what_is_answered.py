"""Who may answer for all who was told what, and what is left of the ledger when a client, or a period, is over."""

from alembic import op

from servicekit.rights import grants, may_execute

revision = "0016"
down_revision = "0015"

CLOSE = "close_ledger(bigint, uuid, timestamptz)"
STATEMENTS = [
    # Whether the asker may give the client's whole answer: it asks to, it is of the responsible authority (those who
    # may also authorise overrides and undo links), and it recorded something of the client, or of one linked with it.
    """
CREATE FUNCTION answers_for(wanted bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, public AS $$
BEGIN
    IF NOT answers_for_all() OR NOT EXISTS (
        SELECT 1 FROM agency WHERE id = asking() AND kind IN ('prison', 'probation', 'police')
    ) THEN
        RETURN false;
    END IF;
    RETURN EXISTS (
        WITH RECURSIVE above AS (
            SELECT id, merged_into FROM client WHERE id = wanted
            UNION SELECT c.id, c.merged_into FROM above a JOIN client c ON c.id = a.merged_into
        ), whole AS (
            SELECT c.id, c.parts FROM client c JOIN above a ON a.id = c.id WHERE a.merged_into IS NULL
            UNION SELECT c.id, c.parts FROM whole w JOIN client c ON c.id = ANY (w.parts)
        )
        SELECT 1 FROM whole JOIN reference ON client_id = whole.id AND recipient = asking() AND recorded
    );
END $$
""",
    """
ALTER POLICY ledger_agency ON ledger
    USING (recipient = asking() OR asking() = ANY (sources) OR answers_for(client_id))
""",
    # An entry of a client of whom everything was erased: its columns say nothing any more, its leaf and place stand.
    "ALTER TABLE ledger DROP CONSTRAINT ledger_kind",
    """
ALTER TABLE ledger ADD CONSTRAINT ledger_kind CHECK (kind IN (
    'disclosure', 'refusal', 'cancelled', 'view', 'consultation', 'override', 'combination', 'erasure', 'erased'
))
""",
    # Blanks what stands beside the leaves of a client whose key was destroyed, but for the entries of its erasure, and
    # gives these leaves in order. Nobody may write these columns otherwise.
    """
CREATE FUNCTION close_ledger(wanted bigint, erasure uuid, at timestamptz) RETURNS TABLE (closed bytea)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    WITH blanked AS (
        UPDATE ledger SET kind = 'erased', decision = erasure, queue_id = NULL, recipient = NULL, purpose = NULL,
            type = 'erased', decided_at = at, sources = '{}', body = NULL
        WHERE client_id = wanted AND kind <> 'erased' AND (kind <> 'erasure' OR body IS NULL)
            AND EXISTS (SELECT 1 FROM client WHERE id = wanted AND key IS NULL)
        RETURNING id, leaf
    )
    SELECT leaf FROM blanked ORDER BY id
$$
""",
    f"REVOKE EXECUTE ON FUNCTION {CLOSE} FROM PUBLIC",
    # What was told goes when it is older than the period of a category in it: for each length of a period the entry of
    # the ledger to which the daily run has come. A length that an installation sets anew begins with the first.
    """
CREATE TABLE retention_told (
    days int PRIMARY KEY,
    after bigint NOT NULL DEFAULT 0
)
""",
    *grants({"retention_told": "SELECT, INSERT, UPDATE (after)"}, "worker"),
    *may_execute("agency", "answers_for(bigint)"),
    *may_execute("api", "answers_for(bigint)", CLOSE),
    *may_execute("worker", "answers_for(bigint)", CLOSE),
]


def upgrade() -> None:
    """Make the functions, and change the policy."""
    for statement in STATEMENTS:
        op.execute(statement)
