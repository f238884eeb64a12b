"""The envelope of every event: CloudEvents 1.0, structured JSON mode (https://cloudevents.io, version 1.0.2)."""

import re
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import uuid4

import orjson
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

D = TypeVar("D")

MAX_EVENT = 262_144
"""Bytes of one event, over Kafka or HTTP: 256 KiB."""
NO_NUL = r"^[^\x00]*$"
"""PostgreSQL cannot store U+0000 in text, so it is refused at the edge: such an event could only be set aside."""
PRACTITIONER = r"^[!-~]{1,128}$"
"""An agency's own id of one of its people, in a token as in an exclusion: visible ASCII, so that no two look alike."""


class Unfit(ValueError):
    """What a contract's own rule finds wrong, for a person to put right: in our own words, without a quotation."""


def _written_as(pattern: re.Pattern[str], kind: type[date], value: Any) -> Any:
    """Pydantic reads digits alone as seconds since 1970: what is to begin on 20270101 would have begun long ago."""
    if isinstance(value, date):
        return value
    if isinstance(value, str) and pattern.match(value):
        with suppress(ValueError):
            return kind.fromisoformat(value.upper())
    raise Unfit("a day is written as 2027-01-31, a time as 2027-01-31T09:00:00Z, and both have to exist")


Date = Annotated[date, BeforeValidator(partial(_written_as, re.compile(r"\d{4}-\d{2}-\d{2}$", re.ASCII), date))]
"""A day, as RFC 3339 writes it."""
Moment = Annotated[
    AwareDatetime,
    Field(ge=datetime(1900, 1, 1, tzinfo=UTC), lt=datetime(2200, 1, 1, tzinfo=UTC)),
    BeforeValidator(partial(_written_as, re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]", re.ASCII), datetime)),
]
"""A time with its offset, as RFC 3339 writes it, in years that every store and any arithmetic with offsets can hold."""


class Wire(BaseModel):
    """A JSON object on the wire: camelCase names; a reader ignores fields that it does not know yet."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)


class StrictWire(Wire):
    """A JSON object that comes from outside: an unknown field is refused, for nobody could say what it may reveal."""

    model_config = ConfigDict(extra="forbid")


class Event(BaseModel, Generic[D]):
    """One event. Subclasses fix `type`. Unknown extension attributes are ignored, as CloudEvents asks."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=NO_NUL)]
    source: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]
    type: str
    time: Moment
    subject: Annotated[str, StringConstraints(max_length=200, pattern=NO_NUL)] | None = None
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: str | None = None
    clientversion: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None
    data: D


def event(
    type: str,
    source: str,
    data: dict[str, Any],
    *,
    subject: str | None = None,
    id: str | None = None,
    time: datetime | str | None = None,
    traceparent: str | None = None,
) -> dict[str, Any]:
    """A new event."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": id or str(uuid4()),
        "source": source,
        "type": type,
        "time": time or datetime.now(UTC),
        "datacontenttype": "application/json",
        "data": data,
    }
    if subject is not None:
        event["subject"] = subject
    if traceparent is not None:
        event["traceparent"] = traceparent
    return event


def encode(
    type: str,
    source: str,
    data: dict[str, Any],
    *,
    subject: str | None = None,
    id: str | None = None,
    time: datetime | str | None = None,
    traceparent: str | None = None,
) -> bytes:
    """The bytes of a new event. They are stored and sent as they are: a resend keeps its id."""
    return orjson.dumps(event(type, source, data, subject=subject, id=id, time=time, traceparent=traceparent))
