"""The topic files, `schemas/topics/*.yaml`: who writes and reads what, and for how long it is kept."""

from dataclasses import dataclass
from pathlib import Path

import yaml

_USERS = {
    "{agency}": "the agency's case system",
    "{service}": "the service",
    "consent-intake": "the door",
    "consent-discloser": "the door",
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One kind of topic."""

    kind: str
    address: str
    comment: str
    partitions: int
    retention_ms: int
    max_message_bytes: int
    cleanup_policy: str
    messages: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def writer(self) -> str:
        """Who writes to it, for people."""
        return ", ".join(dict.fromkeys(_USERS.get(user, user) for user in self.writers))

    @property
    def reader(self) -> str:
        """Who reads it, for people; not the door, which reads its own to find out whether its database was restored."""
        writers = {_USERS.get(user, user) for user in self.writers}
        return ", ".join(dict.fromkeys(name for u in self.readers if (name := _USERS.get(u, u)) not in writers))

    @property
    def retention(self) -> str:
        """How long a record stays, for people."""
        hours = self.retention_ms // 3_600_000
        return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"


def read_topics(folder: Path) -> list[Topic]:
    """All kinds of topics, in the order of their files' names."""
    topics = []
    for path in sorted(folder.glob("*.yaml")):
        raw = yaml.safe_load(path.read_text("utf-8"))
        topics.append(
            Topic(
                kind=path.stem,
                address=raw["name"],
                comment=raw["comment"].strip(),
                partitions=raw["partitions"],
                retention_ms=raw["retention_ms"],
                max_message_bytes=raw["max_message_bytes"],
                cleanup_policy=raw["cleanup_policy"],
                messages=tuple(raw["messages"]),
                writers=tuple(entry["user"] for entry in raw["writers"]),
                readers=tuple(entry["user"] for entry in raw["readers"]),
            )
        )
    return topics
