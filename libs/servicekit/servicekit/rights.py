"""What the roles of a service's database may: statements for its migrations, which are run as its owner."""

ASKING = (
    # The transaction says who asks (`servicekit.access`); when nobody does, nothing is theirs.
    """
CREATE FUNCTION asking() RETURNS text LANGUAGE sql STABLE
    RETURN nullif(current_setting('throughgate.agency', true), '')
""",
    """
CREATE FUNCTION answers_for_all() RETURNS boolean LANGUAGE sql STABLE
    RETURN coalesce(current_setting('throughgate.whole', true), '') = 'yes'
""",
)
"""Functions for the rules of `bound`: the agency that asks, and whether it is shown every agency's rows."""


def grants(tables: dict[str, str], *roles: str) -> list[str]:
    """GRANT statements: `tables` maps a table to its privileges; each role of this database gets them.

    Roles are called `<database>_<role>`; the migration runs as `<database>_owner`, so the prefix is read from the name.
    """
    return [
        f"DO $$ BEGIN EXECUTE format('GRANT {privileges} ON {table} TO %I', current_database() || '_{role}'); END $$"
        for table, privileges in tables.items()
        for role in roles
    ]


def may_execute(role: str, *functions: str) -> list[str]:
    """GRANT statements for functions, each with its arguments' types: without one, nobody but the owner executes it."""
    return [
        f"DO $$ BEGIN EXECUTE format('GRANT EXECUTE ON FUNCTION {function} TO %I', current_database() || '_{role}');"
        " END $$"
        for function in functions
    ]


def bound(rules: dict[str, str]) -> list[str]:
    """Row-level security, forced on the owner too: of each table the agencies' role sees the rows for which its rule
    holds. The owner, the API and the worker, who mix agencies, see all.
    """
    statements = []
    for table, rule in rules.items():
        statements += [
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
            *(policy(f"{table}_{role}", table, role, "true", "ALL") for role in ("owner", "api", "worker")),
            policy(f"{table}_agency", table, "agency", rule, "SELECT"),
        ]
    return statements


def policy(name: str, table: str, role: str, rule: str, command: str) -> str:
    """A policy for a role of this database, as `grants` names them: the rows that it may read, or write."""
    using = "" if command == "INSERT" else f"USING ({rule})"
    check = "" if command == "SELECT" else f"WITH CHECK ({rule})"
    return (
        f"DO $$ BEGIN EXECUTE format($p$CREATE POLICY {name} ON {table} FOR {command} TO %I {using} {check}$p$,"
        f" current_database() || '_{role}'); END $$"
    )
