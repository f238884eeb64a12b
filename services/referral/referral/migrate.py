"""Brings the database to its newest revision: `python -m referral.migrate` with the owner's database URL."""

from pathlib import Path

from servicekit.migrate import upgrade
from servicekit.settings import Settings

VERSIONS = Path(__file__).parent / "migrations" / "versions"

if __name__ == "__main__":
    upgrade(VERSIONS, Settings())
