"""The topic files, `schemas/topics/*.yaml`: who writes and reads what, and for how long it is kept."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

_USERS = {
    "{agency}": "the agency's case system",
    "{service}": "the service",
    "consent-intake": "the door",
    "consent-discloser": "the door",
}


class TopicFileError(ValueError):
    """A file in `schemas/topics`, or an agency's id, cannot be used. The message says which and why."""


@dataclass(frozen=True, slots=True)
class Writer:
    """A user (a template) that may write, with the prefix of its transactional ids where it sends in transactions."""

    user: str
    transactional_id_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """A user (a template) that may read: in one group, in groups with a prefix, or by itself without a group."""

    user: str
    group: str | None = None
    group_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class TopicFile:
    """One file, for one kind of topic. `{agency}` or `{service}` in its templates makes it one topic for each."""

    kind: str
    """The file's name without its ending."""
    name: str
    comment: str
    partitions: int
    retention_ms: int
    max_message_bytes: int
    cleanup_policy: str
    messages: tuple[str, ...]
    writers: tuple[Writer, ...]
    readers: tuple[Reader, ...]

    @property
    def writer(self) -> str:
        """Who writes to it, for people."""
        return ", ".join(dict.fromkeys(_USERS.get(w.user, w.user) for w in self.writers))

    @property
    def reader(self) -> str:
        """Who reads it, for people; not the door, which reads its own to find out whether its database was restored."""
        writers = {_USERS.get(w.user, w.user) for w in self.writers}
        names = (_USERS.get(r.user, r.user) for r in self.readers)
        return ", ".join(dict.fromkeys(name for name in names if name not in writers))

    @property
    def retention(self) -> str:
        """How long a record stays, for people."""
        hours = self.retention_ms // 3_600_000
        return f"{hours // 24} days" if hours % 24 == 0 else f"{hours} hours"


_FIELDS = {f.name for f in fields(TopicFile)} - {"kind"}


def read_topics(folder: Path) -> list[TopicFile]:
    """All kinds of topics, in the order of their files' names.

    Raises:
        TopicFileError: there are none, or one has other fields than it must have.
    """
    files = [_read(path) for path in sorted(folder.glob("*.yaml"))]
    if not files:
        raise TopicFileError(f"There are no topic files in {folder}.")
    return files


def _read(path: Path) -> TopicFile:
    content = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(content, dict) or set(content) != _FIELDS:
        raise TopicFileError(f"{path.name} must have exactly the fields {', '.join(sorted(_FIELDS))}.")
    try:
        return TopicFile(
            kind=path.stem,
            **content
            | {
                "messages": tuple(content["messages"]),
                "writers": tuple(Writer(**w) for w in content["writers"]),
                "readers": tuple(Reader(**r) for r in content["readers"]),
            },
        )
    except TypeError as e:
        raise TopicFileError(f"{path.name}: {e}.") from e
