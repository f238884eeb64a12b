"""Reading what arrives: from bytes to an event that fits the contract, or a rejection that says what to do."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from pydantic import ValidationError

from contracts.intake import IntakeEvent
from contracts.intake import read as read_intake
from servicekit.envelope import MAX_EVENT
from servicekit.problems import Problem, where

CLOCK_SKEW = timedelta(minutes=5)
"""How far ahead a publisher's clock may be."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An event as it came, and the agency whose topic or token it came by."""

    agency: str
    value: bytes
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    traceparent: str | None = None
    type: str | None = None
    """Its type in a header, as binary mode of CloudEvents has it. It only tells what was to stop sharing."""

    @property
    def digest(self) -> bytes:
        """Tells whether two events with one id are the same bytes."""
        return hashlib.sha256(self.value).digest()


def read(arrival: Arrival, now: datetime) -> IntakeEvent:
    """The event.

    Raises:
        Problem: it does not fit, with a stable code and a sentence that quotes nothing of it.
    """
    if len(arrival.value) > MAX_EVENT:
        raise Problem(
            "too-large",
            "The event is too large",
            f"Send at most {MAX_EVENT} bytes; split the facts over several events and leave attachments out.",
            413,
        )
    try:
        event = read_intake(arrival.value)
    except ValidationError as error:
        raise _does_not_fit(error, is_binary=arrival.type is not None) from None
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


def _does_not_fit(error: ValidationError, *, is_binary: bool) -> Problem:
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
    if whole == "union_tag_not_found" and is_binary:
        return Problem(
            "invalid-event",
            "The event is in binary mode",
            "Send one CloudEvents 1.0 event in structured JSON mode: all attributes and data in one JSON object, none"
            " in headers.",
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


def type_in(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The type of an event in binary mode among the headers of a record, if any."""
    return next(
        (value.decode("utf-8", "replace") for name, value in headers if name.lower() == "ce_type" and value), None
    )


def id_of(value: bytes) -> str | None:
    """The event's id, when it can be read at all."""
    if len(value) > 16 * MAX_EVENT:
        return None
    try:
        id = orjson.loads(value)["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
        return None
    return id if isinstance(id, str) and 0 < len(id) <= 128 and "\0" not in id else None
