"""Reading what arrives: from bytes to an event that fits the contract, or a rejection that says what to do."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import orjson
from pydantic import ValidationError

from consent.events import SOURCE, STOPPING_TYPES, IntakeEvent
from consent.repository.clients import IdentifierKey
from contracts.intake import PATTERNS, Identifier
from contracts.intake import read as read_intake
from contracts.vocabulary import IdentifierType
from servicekit.app import MAX_BODY
from servicekit.envelope import encode
from servicekit.problems import Problem, where

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead a publisher's clock may be."""
MOST_NAMED = 20
"""Identifiers for which one stopping event that cannot be applied denies: twice what an event may list."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event as it came, and the agency whose topic or token it came by."""

    agency: str
    value: bytes
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    traceparent: str | None = None

    @property
    def digest(self) -> bytes:
        """Tells whether two events with one id are the same bytes."""
        return hashlib.sha256(self.value).digest()


def read(arrival: Arrival, now: datetime) -> IntakeEvent:
    """The event.

    Raises:
        Problem: it does not fit, with a stable code and a sentence that quotes nothing of it.
    """
    if len(arrival.value) > MAX_BODY:
        raise Problem(
            "too-large",
            "The event is too large",
            f"Send at most {MAX_BODY} bytes; split the facts over several events and leave attachments out.",
            413,
        )
    try:
        event = read_intake(arrival.value)
    except ValidationError as error:
        raise _does_not_fit(error) from None
    if event.source != f"/agencies/{arrival.agency}" and not event.source.startswith(f"/agencies/{arrival.agency}/"):
        raise Problem(
            "wrong-agency",
            "The event names another agency as its source",
            f"Publish to your own intake topic and set source to /agencies/{arrival.agency}.",
            403,
        )
    for moment in _moments(event):
        if moment > now + CLOCK_SKEW:
            raise Problem(
                "time-in-future",
                "The event has a time that has not come yet",
                "Check the clock and the time zone of your system, and send a new event with a new id.",
                422,
            )
    return event


def _moments(event: IntakeEvent) -> Iterable[datetime]:
    yield event.time
    for name in ("given_at", "withdrawn_at", "refused_at"):
        moment = vars(event.data).get(name)  # asking a model for a field that it lacks takes long
        if moment is not None:
            yield moment


def _does_not_fit(error: ValidationError) -> Problem:
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    whole = next((e["type"] for e in errors if e["loc"] == ()), "")
    if whole == "json_invalid":
        return Problem(
            "malformed-json",
            "The event is not JSON",
            "Send one CloudEvents 1.0 event in structured JSON mode, UTF-8; check for cut-off or doubly encoded text.",
        )
    if whole == "union_tag_invalid":
        return Problem(
            "unknown-type",
            "We do not know this type of event",
            "Use a type and version from docs/reference/events.md; the version is part of the type.",
            422,
        )
    if whole == "union_tag_not_found":
        return Problem(
            "invalid-event", "The event has no type", "Set type to one of those in docs/reference/events.md.", 422
        )
    return Problem(
        "invalid-event",
        "The event does not fit its contract",
        f"Correct this and send a new event with a new id: {where(error)}.",
        422,
    )


def id_of(value: bytes) -> str | None:
    """The event's id, when it can be read at all."""
    if len(value) > 16 * MAX_BODY:
        return None
    try:
        id = orjson.loads(value)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return id if isinstance(id, str) and 0 < len(id) <= 128 and "\0" not in id else None


def is_stopping(value: bytes) -> bool:
    """Whether unreadable bytes look like an event that was to stop sharing: one of their types stands anywhere in them.
    When in doubt: yes.
    """
    text = unescaped(value).lower()
    return any(type.rsplit(".", 1)[0] in text for type in STOPPING_TYPES)


_OWN = frozenset({IdentifierType.CASE, IdentifierType.THROUGHGATE})
"""Numbers that mean a client to one agency only."""
_NAMED_OTHERWISE = frozenset(type.value for type in IdentifierType if type is not IdentifierType.CASE)
_SET_OUT = re.compile(r"[^0-9A-Za-z/]+")
"""What people set numbers out with: blanks, hyphens, dots, of whatever kind."""


def _any_of(patterns: Mapping[IdentifierType, str]) -> str:
    """Any number but an agency's own: any word may be one, so it counts only where the event says a number."""
    return "|".join(f"(?P<{t.value}>{pattern})" for t, pattern in patterns.items() if t is not IdentifierType.CASE)


_IN_A_TEXT = re.compile(rf"(?<![A-Z0-9])(?:{_any_of(PATTERNS)})(?![A-Z0-9])", re.IGNORECASE | re.ASCII)
_BARE = re.compile(_any_of({**PATTERNS, IdentifierType.THROUGHGATE: "[0-9a-f]{32}"}), re.IGNORECASE | re.ASCII)
_CASE = re.compile(PATTERNS[IdentifierType.CASE])
_BETWEEN_QUOTES = re.compile(r'[^"]+')
_VALUE = re.compile(r'"value"\s*:\s*"([^"]+)"')
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")


def identifiers_in(value: bytes, agency: str) -> Iterator[IdentifierKey]:
    """Every identifier that may stand anywhere in the bytes, some more than once: whom a stopping event may mean.

    Those that stand where an event says whom it is about come first. JSON is walked, so that no escape hides a number.
    What is not JSON is searched as text from its beginning, with escaped slashes undone. A number also counts with
    small letters, blanks and hyphens, for which an event is rejected. Where the contract does not know the type, the
    number counts under every type that it fits.
    """
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        text = unescaped(value)
        found = _numbers_in(text, agency)
        own_are_named = IdentifierType.CASE in text.upper()
        for match in _VALUE.finditer(text):
            if own_are_named or not _numbers_in(match[1], agency):
                found += [(match.start(), key) for key in _agencys_own(match[1], agency)]
        yield from (key for _, key in sorted(found))
        return
    for root in (_whom(parsed), parsed):
        for node in _nodes(root):
            if isinstance(node, str | int):  # an NHS number may have been sent as a number
                yield from (key for _, key in _numbers_in(str(node), agency))
            elif isinstance(node, dict) and _SET_OUT.sub("", str(node.get("type"))).upper() not in _NAMED_OTHERWISE:
                number = node.get("value")
                if isinstance(number, str | int):
                    yield from _agencys_own(str(number), agency)


def meant_by(value: bytes, agency: str, whom: Iterable[IdentifierKey]) -> tuple[list[IdentifierKey], bool]:
    """For whom a stopping event that cannot be applied denies, at most `MOST_NAMED`; and whether it names more.

    `whom`, what could be read of whom it is about, goes first. That is safe: a real withdrawal is about one client,
    whose numbers stand where such an event has them or near its beginning, so it always denies. If everybody were held
    whose number stands somewhere in it, one event could stop the sharing of thousands.
    """
    found: dict[IdentifierKey, None] = {}
    for key in chain(whom, identifiers_in(value, agency)):
        found[key] = None
        if len(found) > MOST_NAMED:
            break
    return list(found)[:MOST_NAMED], len(found) > MOST_NAMED


def unescaped(value: bytes) -> str:
    """Bytes as text, whatever their encoding, with the escapes of JSON for slashes and by number undone. Without NULs,
    UTF-16 reads like UTF-8 as far as numbers go.
    """
    text = value.replace(b"\0", b"").decode("utf-8", "replace").replace("\\/", "/")
    return _ESCAPE.sub(lambda m: chr(int(m[1], 16)), text)


def _numbers_in(text: str, agency: str) -> list[tuple[int, IdentifierKey]]:
    """Numbers, and where they begin: words of a text, or all that stands between two quotes, however set out."""
    found = [(match.start(), _key(match, agency)) for match in _IN_A_TEXT.finditer(text)]
    for piece in _BETWEEN_QUOTES.finditer(text):
        if match := _BARE.fullmatch(_SET_OUT.sub("", piece[0])):
            found.append((piece.start(), _key(match, agency)))
    return found


def _key(match: re.Match[str], agency: str) -> IdentifierKey:
    """A number as the identifier table has it."""
    type = IdentifierType(str(match.lastgroup))
    if type is IdentifierType.THROUGHGATE:
        return type.value, agency, str(UUID(match[0]))
    return type.value, "", match[0].upper()


def _agencys_own(text: str, agency: str) -> list[IdentifierKey]:
    """An agency's own number, if it can be one. Only blanks are dropped: anything else may be a part of it."""
    number = "".join(text.split())
    return [("CASE", agency, number)] if _CASE.fullmatch(number) else []


def _whom(event: Any) -> Any:
    """What stands where an event says whom it is about; None if nothing does."""
    data = event.get("data") if isinstance(event, dict) else None
    return data.get("identifiers") if isinstance(data, dict) else None


def _nodes(root: Any) -> Iterable[Any]:
    stack = [root]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, dict):
            stack += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            stack += node


def keys_of(event: IntakeEvent, agency: str) -> list[IdentifierKey]:
    """The identifiers of an event as the identifier table knows them."""
    return keys_for(event.data.identifiers, agency)


def keys_for(identifiers: Iterable[Identifier], agency: str) -> list[IdentifierKey]:
    """Identifiers as the identifier table knows them."""
    keys = ((i.type.value, agency if i.type in _OWN else "", i.value) for i in identifiers)
    return list(dict.fromkeys(keys))


def accepted(arrival: Arrival, event: IntakeEvent, data: dict[str, Any], now: datetime) -> bytes:
    """The reply to an accepted event."""
    return encode(
        "throughgate.event.accepted.v1",
        SOURCE,
        {"event": event.id, **data},
        id=_reply_id(arrival, event.id),
        time=now,
    )


def rejected(arrival: Arrival, event_id: str | None, problem: Problem, now: datetime) -> bytes:
    """The reply to a rejected event. Its id follows from the event: a redelivery cannot look like a second one."""
    return encode(
        "throughgate.event.rejected.v1",
        SOURCE,
        {
            "event": event_id,
            "code": problem.code,
            "title": problem.title,
            "detail": problem.detail,
            "topic": arrival.topic,
            "partition": arrival.partition,
            "offset": arrival.offset,
        },
        id=_reply_id(arrival, event_id),
        time=now,
    )


def _reply_id(arrival: Arrival, event_id: str | None) -> str:
    place = f"{arrival.topic}/{arrival.partition}/{arrival.offset}" if event_id is None else event_id
    return str(uuid5(NAMESPACE_URL, f"throughgate:{arrival.agency}:{place}:{arrival.digest.hex()}"))
