"""A small receiver of traces (OTLP over HTTP) on loopback, and one trace drawn as a tree.

It keeps the last spans in memory, for the demonstration; a real installation sends them to a collector.
`GET /traces/<id>` gives the spans of one trace as JSON.
"""

import gzip
import json
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

_KEPT = 20_000
_LARGEST = 8 * 1024 * 1024


@dataclass(frozen=True)
class Span:
    """One step of an event's way."""

    trace: str
    id: str
    parent: str
    service: str
    name: str
    begun: int
    """Nanoseconds since 1970."""
    ended: int
    says: str = ""
    """All attributes, events and the status, as text."""

    @property
    def milliseconds(self) -> float:
        """How long it took."""
        return (self.ended - self.begun) / 1e6


def new_traceparent() -> tuple[str, str, str]:
    """A sampled W3C traceparent, its trace id and its span id."""
    trace, span = secrets.token_hex(16), secrets.token_hex(8)
    return f"00-{trace}-{span}-01", trace, span


class Receiver:
    """Listens on a free loopback port from `start` to `stop`."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque(maxlen=_KEPT)
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        """What services get as THROUGHGATE_OTLP_ENDPOINT."""
        if self._server is None:
            raise RuntimeError("the receiver was not started")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        """All that it has."""
        return list(self._spans)

    def start(self) -> None:
        """Begin to listen."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._spans))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="throughgate-traces", daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> "Receiver":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _handler(spans: "deque[Span]") -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if self.path != "/v1/traces" or not 0 < length <= _LARGEST:
                self._answer(404 if self.path != "/v1/traces" else 413, b"", "text/plain")
                return
            try:
                spans.extend(_read(self.rfile.read(length), self.headers.get("Content-Encoding") == "gzip"))
            except (DecodeError, OSError, EOFError):
                self._answer(400, b"", "text/plain")
                return
            self._answer(200, ExportTraceServiceResponse().SerializeToString(), "application/x-protobuf")

        def do_GET(self) -> None:
            trace = self.path.removeprefix("/traces/")
            found = [asdict(s) for s in list(spans) if s.trace == trace]
            self._answer(200, json.dumps(found).encode(), "application/json")

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

    return Handler


def _read(body: bytes, zipped: bool) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(gzip.decompress(body) if zipped else body)
    found = []
    for resource in request.resource_spans:
        names = [a.value.string_value for a in resource.resource.attributes if a.key == "service.name"]
        for scope in resource.scope_spans:
            found += [
                Span(
                    s.trace_id.hex(),
                    s.span_id.hex(),
                    s.parent_span_id.hex(),
                    names[0] if names else "?",
                    s.name,
                    s.start_time_unix_nano,
                    s.end_time_unix_nano,
                    f"{s.attributes} {s.events} {s.status}",
                )
                for s in scope.spans
            ]
    return found


def fetch(url: str, trace: str, wanted: Callable[[list[Span]], bool], timeout: float = 15.0) -> list[Span]:
    """The spans of a trace, as soon as what is there is what is `wanted`, or what there is after `timeout`.

    Raises:
        OSError: nothing answers at `url`.
    """
    until = time.monotonic() + timeout
    while True:
        with urllib.request.urlopen(f"{url}/traces/{trace}", timeout=5) as answer:  # noqa: S310 - our own receiver
            spans = [Span(**s) for s in json.load(answer)]
        if wanted(spans) or time.monotonic() > until:
            return spans
        time.sleep(0.1)


def draw(spans: Sequence[Span], leads_to: Callable[[Span], bool] = lambda span: True) -> list[str]:
    """The tree of one trace as lines: service, step, when it began and how long it took in milliseconds.

    Only branches with a span for which `leads_to` holds are drawn; of the others it says how many they are. A step
    after "…" follows one that was lost, with a process that was killed before it had told of it.
    """
    known = {s.id for s in spans}
    root = next((s.id for s in spans if not s.parent), "")
    children: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.begun, s.ended)):
        orphaned = span.parent and span.parent not in known
        children.setdefault(root if orphaned else span.parent, []).append(span)
    zero = min((s.begun for s in spans), default=0)
    rows: list[tuple[str, Span | None]] = []

    def leads(span: Span) -> bool:
        return leads_to(span) or any(leads(child) for child in children.get(span.id, ()))

    def add(parent: str, indent: str) -> None:
        all_of_them = children.get(parent, [])
        shown = [s for s in all_of_them if leads(s)]
        left_out = len(all_of_them) - len(shown)
        for number, span in enumerate(shown):
            last = number == len(shown) - 1 and not left_out
            lost = "… " if span.parent and span.parent not in known else ""
            branch = "" if not parent else "└─ " if last else "├─ "
            rows.append((f"{indent}{branch}{lost}{span.name}", span))
            add(span.id, indent + ("" if not parent else "   " if last else "│  "))
        if left_out and shown:
            rows.append((f"{indent}└─ and {left_out} more, for other recipients", None))

    add("", "")
    width = max((len(text) for text, _ in rows), default=0)
    return [text if span is None else f"{text:<{width}}  {_times(span, zero)}" for text, span in rows]


def _times(span: Span, zero: int) -> str:
    return f"{span.service:<18} at {(span.begun - zero) / 1e6:6.1f} ms, took {span.milliseconds:5.1f} ms"


def reachable(url: str) -> bool:
    """Whether a receiver answers there."""
    try:
        with urllib.request.urlopen(f"{url}/traces/0", timeout=2):  # noqa: S310 - our own receiver
            return True
    except (OSError, urllib.error.URLError, ValueError):
        return False
