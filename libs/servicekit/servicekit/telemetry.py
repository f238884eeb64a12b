"""Traces, metrics and logs, with one rule: no value of any event, row or request ever enters them.

SQLAlchemy, PostgreSQL and Pydantic quote values in their messages, so no message of an exception is ever logged: a log
line has our own words, and of an exception its class and the places in the code. Instrumentation libraries are not used
for the same reason (the one for aiokafka puts record keys into spans); spans are made here, by hand.
"""

import json
import logging
import random
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, set_span_in_context
from prometheus_client import Counter

from servicekit.settings import Settings

CONSUMED = Counter("throughgate_consumed", "Records consumed and committed.")
SET_ASIDE = Counter("throughgate_set_aside", "Poison records set aside; each needs a person.")
UNANSWERED = Counter("throughgate_unanswered", "Answers whose topic could not be written.")
RELAYED = Counter("throughgate_relayed", "Outbox rows acknowledged by the brokers.")

SHARED = ("servicekit", "contracts")
"""The packages that every service shares: what they log is in our own words, like that of the service's own package."""
LEFT_OUT = "(text of a library left out)"

log = logging.getLogger(__name__)
_TRACEPARENT = re.compile(r"^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")
_tracer = trace.get_tracer("throughgate")
_sampling = 0.0


def set_up(settings: Settings, service: str) -> None:
    """Make logs JSON lines on standard error and export traces where an endpoint is given. Once a process.

    `service` begins with the package that the process runs, as `referral-worker` does: what that package logs is ours.
    """
    global _tracer, _sampling
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(SafeFormatter(service))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = lambda kind, error, tb: log.critical("unhandled", exc_info=(kind, error, tb))
    threading.excepthook = _thread_failed
    for noisy in ("aiokafka", "sqlalchemy", "httpx", "httpcore", "asyncio", "urllib3", "opentelemetry", "alembic"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL if noisy in ("aiokafka", "opentelemetry") else logging.ERROR)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = name != "uvicorn.access"
    if settings.otlp_endpoint:
        provider = TracerProvider(resource=Resource.create({"service.name": service}))
        exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint.rstrip("/") + "/v1/traces", timeout=5)
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
        # Not made the global provider: libraries that trace by themselves (FastAPI does) would put URLs into spans.
        _tracer = provider.get_tracer("throughgate")
        _sampling = settings.trace_sampling


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_value is not None:
        log.critical("a thread ended", exc_info=(failed.exc_type, failed.exc_value, failed.exc_traceback))


class SafeFormatter(logging.Formatter):
    """JSON lines without any exception's message: the one filter that keeps quoted values out of logs."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service
        self._ours = {*SHARED, service.partition("-")[0], "__main__"}

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": self._message(record),
        }
        if record.exc_info and record.exc_info[0]:
            line["error"] = _classes(record.exc_info[1])
            line["at"] = [
                f"{frame.filename.rsplit('/site-packages/', 1)[-1]}:{frame.lineno}"
                for frame in traceback.extract_tb(record.exc_info[2])[-12:]
            ]
        return json.dumps(line)

    def _message(self, record: logging.LogRecord) -> str:
        """An exception given as an argument is reduced to its class; a foreign library's text to its template."""
        if isinstance(record.msg, BaseException):
            return type(record.msg).__name__
        package = record.name.partition(".")[0]
        if package == "uvicorn" and "\n" in str(record.msg):
            return LEFT_OUT  # the traceback of a failed start
        if package != "uvicorn" and package not in self._ours:
            return str(record.msg) if isinstance(record.msg, str) and record.args else LEFT_OUT
        if isinstance(record.args, tuple) and any(isinstance(a, BaseException) for a in record.args):
            record.args = tuple(type(a).__name__ if isinstance(a, BaseException) else a for a in record.args)
        return record.getMessage()


def _classes(error: BaseException | None) -> str:
    """The class of an exception, and of those inside a group: names of ours, never a message."""
    if isinstance(error, BaseExceptionGroup):
        return f"{type(error).__name__}({', '.join(_classes(inner) for inner in error.exceptions)})"
    return type(error).__name__


class Step:
    """One traced step of an event's way, or nothing at all when the event is not sampled (the usual case)."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: Span | None, traceparent: str | None) -> None:
        self._span = span
        self.traceparent = traceparent
        """What the next step is to follow; sent in the header `traceparent` (W3C Trace Context)."""

    def end(self, failed: bool = False) -> None:
        """The step is over."""
        if self._span is not None:
            if failed:
                self._span.set_status(trace.StatusCode.ERROR)
            self._span.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.end(failed=kind is not None)


def follow(name: str, traceparent: str | None, *, kind: SpanKind = SpanKind.INTERNAL, begin: bool = False) -> Step:
    """A step under `traceparent`. Without one, `begin` may begin a trace, by the sampling ratio.

    `name` is made of topic, event type and step names only.
    """
    parent = _parse(traceparent)
    if parent is None:
        if not begin or _sampling <= 0 or random.random() >= _sampling:
            return Step(None, None)
        span = _tracer.start_span(
            name, kind=kind, context=set_span_in_context(NonRecordingSpan(trace.INVALID_SPAN_CONTEXT))
        )
    elif not parent.trace_flags.sampled:
        return Step(None, traceparent)
    else:
        span = _tracer.start_span(name, kind=kind, context=set_span_in_context(NonRecordingSpan(parent)))
    return Step(span, _format(span.get_span_context()))


def across_the_border(name: str, traceparent: str | None) -> tuple[Step, str | None]:
    """A sending step towards a partner: the step stays in our trace, the partner gets a new trace that we link to.

    Gives the step and the partner's traceparent. Our trace id never reaches a partner, so two of them cannot join
    theirs.
    """
    parent = _parse(traceparent)
    if parent is None or not parent.trace_flags.sampled:
        return Step(None, traceparent), None
    outside = SpanContext(random.getrandbits(128), random.getrandbits(64), False, TraceFlags(TraceFlags.SAMPLED))
    span = _tracer.start_span(
        name, kind=SpanKind.PRODUCER, context=set_span_in_context(NonRecordingSpan(parent)), links=[Link(outside)]
    )
    return Step(span, _format(span.get_span_context())), _format(outside)


def header(traceparent: str | None) -> list[tuple[str, bytes]]:
    """Kafka headers that carry `traceparent`; none where there is none."""
    return [("traceparent", traceparent.encode())] if traceparent else []


def from_headers(
    headers: Iterable[tuple[str, bytes]],
) -> str | None:
    """The well-formed traceparent among Kafka headers, if any."""
    for name, value in headers or ():
        if name == "traceparent" and len(value) == 55:
            return well_formed(value.decode("ascii", "replace"))
    return None


def well_formed(traceparent: str | None) -> str | None:
    """`traceparent` as it is, if it is one: what came from outside may be anything."""
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


def _parse(traceparent: str | None) -> SpanContext | None:
    found = _TRACEPARENT.match(traceparent) if traceparent else None
    if not found:
        return None
    context = SpanContext(int(found[1], 16), int(found[2], 16), True, TraceFlags(int(found[3], 16)))
    return context if context.is_valid else None


def _format(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
