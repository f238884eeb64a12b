"""Makes the secrets of a development system: `python make_secrets.py FOLDER`. What is there already stays.

Each folder in FOLDER is a volume of its own, given to those who need it: one a service, with a folder for each of its
processes, in which a file is named by the setting that it holds (pydantic-settings reads it through
THROUGHGATE_SECRETS_DIR; a Kubernetes Secret mounted as a volume looks the same).
"""

import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path

from contracts.heads import new_signing_key
from contracts.merkle import to_base64url
from contracts.topics import read_topics
from throughgate.issuer import Issuer
from throughgate.provision import databases, topics
from throughgate.story.cast import read_agencies
from throughgate.system import PROCESSES

POSTGRES = os.environ.get("POSTGRES", "postgres:5432")


def main(folder: Path) -> None:
    """Write every file."""
    agencies = [a.id for a in read_agencies()]
    ours = databases.databases()
    everything = folder / "provision" / "passwords"
    known = dict(line.split("=", 1) for line in everything.read_text().split()) if everything.exists() else {}
    users = [*topics.plan(read_topics(topics.TOPIC_FILES), agencies).users, "admin", "broker", "controller", "postgres"]
    roles = [role for database in ours.values() for role in database.roles]
    known |= {name: secrets.token_hex(20) for name in [*users, *roles] if name not in known}
    write(everything, lines(known, known))
    write(folder / "provision" / "THROUGHGATE_KAFKA_ADMIN_PASSWORD", known["admin"])
    write(
        folder / "provision" / "THROUGHGATE_POSTGRES_URL",
        f"postgresql://postgres:{known['postgres']}@{POSTGRES}/postgres",
    )

    for user in ("admin", "broker", "controller"):
        write(folder / "kafka" / user, known[user])
    write(folder / "postgres" / "password", known["postgres"])
    write(folder / "story" / "passwords", lines(known, agencies))
    if not (folder / "story" / "issuer-key.json").exists():
        issuer = Issuer()
        issuer.write_jwks(folder / "keys" / "jwks.json")
        issuer.save(folder / "story" / "issuer-key.json")

    def url(service: str, role: str) -> str:
        return f"postgresql+asyncpg://{role}:{known[role]}@{POSTGRES}/{ours[service].name}"

    for kind in PROCESSES:
        mine = folder / kind.service / kind.module.partition(".")[2]
        write(mine / "THROUGHGATE_DATABASE_URL", url(kind.service, getattr(ours[kind.service], kind.role)))
        if kind.role == "api":
            write(mine / "THROUGHGATE_AGENCY_DATABASE_URL", url(kind.service, ours[kind.service].agency))
        if kind.kafka_user:
            write(mine / "THROUGHGATE_KAFKA_PASSWORD", known[kind.kafka_user])
    signing_key = folder / "consent" / "discloser" / "THROUGHGATE_SIGNING_KEY"
    if not signing_key.exists():  # a new one would be another ledger's
        write(signing_key, to_base64url(new_signing_key()))
    for service, database in ours.items():
        write(folder / service / "migrate" / "THROUGHGATE_DATABASE_URL", url(service, database.owner))


def lines(known: dict[str, str], names: Iterable[str]) -> str:
    """Lines `name=password`."""
    return "".join(f"{name}={known[name]}\n" for name in names)


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
