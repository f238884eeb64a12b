"""Bring the door's database up to date: `python -m consent.migrate`, with the owner's THROUGHGATE_DATABASE_URL."""

from pathlib import Path

from servicekit.migrate import upgrade
from servicekit.settings import Settings

if __name__ == "__main__":
    upgrade(Path(__file__).parent / "migrations" / "versions", Settings())
