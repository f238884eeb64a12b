"""No value of any event, row or request enters a log line or a span; traces go on inside and end at the border."""

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiokafka import ConsumerRecord
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.exc import DataError, IntegrityError

from contracts.door import Door
from contracts.intake import INTAKE
from servicekit import telemetry
from servicekit.telemetry import SafeFormatter, across_the_border, follow, from_headers, header

MARKER = "Zq7Marker"


# --- logs -----------------------------------------------------------------------------------------


def _unique_violation() -> Exception:
    error: Exception = asyncpg.exceptions.UniqueViolationError("duplicate key value violates unique constraint")
    vars(error)["detail"] = f"Key (value)=({MARKER}) already exists."
    return error


class Strict(BaseModel):
    """For a validation error of Pydantic's."""

    number: int


def _of_pydantic() -> Exception:
    try:
        Strict.model_validate({"number": MARKER})
    except ValueError as error:
        return error
    raise AssertionError


def _of_the_contract() -> Exception:
    try:
        INTAKE.validate_python({"type": "throughgate.client.recorded.v1", "id": MARKER, "data": {MARKER: MARKER}})
    except ValueError as error:
        return error
    raise AssertionError


def _of_json() -> Exception:
    try:
        TypeAdapter(dict[str, int]).validate_json(f'{{"{MARKER}": "{MARKER}"}}')
    except ValueError as error:
        return error
    raise AssertionError


ERRORS: dict[str, Callable[[], BaseException]] = {
    "sqlalchemy": lambda: IntegrityError(f"INSERT INTO t VALUES ('{MARKER}')", {"v": MARKER}, _unique_violation()),
    "sqlalchemy data": lambda: DataError("SELECT 1", [MARKER], ValueError(f"invalid input for $1: {MARKER!r}")),
    "asyncpg": _unique_violation,
    "pydantic": _of_pydantic,
    "contract": _of_the_contract,
    "pydantic on JSON": _of_json,
    "json": lambda: json.JSONDecodeError("bad", MARKER, 0),
    "unicode": lambda: UnicodeDecodeError("utf-8", MARKER.encode(), 0, 1, MARKER),
    "key": lambda: KeyError(MARKER),
    "group": lambda: ExceptionGroup(MARKER, [ValueError(MARKER)]),
}


def record_of(name: str, message: Any, *args: Any, error: BaseException | None = None) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord(name, logging.ERROR, __file__, 1, message, args, info)


def line(record: logging.LogRecord, service: str = "consent-worker") -> dict[str, Any]:
    text = SafeFormatter(service).format(record)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text)
    return found


def raised(make: Callable[[], BaseException], chained: bool = False) -> BaseException:
    try:
        try:
            raise make()
        except BaseException as first:
            if chained:
                raise RuntimeError(MARKER) from first
            raise
    except BaseException as error:
        return error


LOGGERS = [
    "servicekit.worker",
    "contracts.views",
    "consent.service.intake",
    "uvicorn.error",
    "sqlalchemy.pool",
    "asyncio",
    "aiokafka.client",
]


@pytest.mark.parametrize("logger", LOGGERS)
@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("chained", [False, True])
def test_no_message_of_an_exception_reaches_the_line(logger: str, kind: str, chained: bool) -> None:
    error = raised(ERRORS[kind], chained)
    for record in (
        record_of(logger, "it failed", error=error),
        record_of(logger, "it failed: %s", error),
        record_of(logger, "it failed %d times: %r", 3, error, error=error),
    ):
        found = line(record)
        assert MARKER not in json.dumps(found)
        if record.exc_info:
            told = "ExceptionGroup(ValueError)" if isinstance(error, ExceptionGroup) else type(error).__name__
            assert found["error"] == told
            assert any("test_telemetry.py" in at for at in found["at"])


def test_our_own_words_and_their_values_are_kept() -> None:
    found = line(record_of("consent.worker", "set aside %s/%d: %s", "intake.hmp", 7, "too-large"))
    assert found["message"] == "set aside intake.hmp/7: too-large"
    assert (found["level"], found["service"], found["logger"]) == ("ERROR", "consent-worker", "consent.worker")
    assert line(record_of("consent.worker", "failed: %s", KeyError(MARKER)))["message"] == "failed: KeyError"


@pytest.mark.parametrize("service", ["consent", "referral", "matching", "notifications"])
def test_what_each_package_of_a_process_says_is_ours(service: str) -> None:
    for package in ("servicekit.worker", "contracts.door", f"{service}.service", service, "__main__"):
        assert line(record_of(package, "somebody is to see to it"), f"{service}-worker")["message"] == (
            "somebody is to see to it"
        )
        told = line(record_of(package, "the door did not answer: %s", "ReadTimeout"), f"{service}-api")["message"]
        assert told == "the door did not answer: ReadTimeout"
    assert line(record_of(f"{service}ish.x", "foreign"), f"{service}-worker")["message"] == telemetry.LEFT_OUT


def test_every_process_is_named_after_its_package() -> None:
    root = Path(__file__).resolve().parents[3] / "services"
    started = {
        path: re.findall(r'(?:set_up|serve|work)\(.*"([a-z]+)-[a-z]+"\)', path.read_text())
        for path in root.glob("*/*/*.py")
    }
    named = {(path.parent.name, name) for path, names in started.items() for name in names}
    assert {package for package, _ in named} == {"consent", "referral", "matching", "notifications"}
    assert all(package == name for package, name in named), named


async def test_a_withdrawal_that_cannot_be_applied_is_told_to_a_person(caplog: pytest.LogCaptureFixture) -> None:
    withdrawn = json.dumps({"type": "throughgate.client.withdrawn.v9", "subject": str(UUID(int=7))}).encode()

    async def nothing(*_: Any) -> None:
        pass

    session: Any = SimpleNamespace(execute=nothing)
    record = ConsumerRecord("cleared.referral", 0, 0, 0, 0, None, withdrawn, 0, 0, len(withdrawn), ())
    await Door("referral").poison(nothing)(session, record, "ValidationError")
    (told,) = [line(r, "referral-worker") for r in caplog.records if r.name.startswith("contracts")]
    assert "its open work is to be ended by a person" in told["message"]
    assert told["level"] == "ERROR"
    assert str(UUID(int=7)) not in json.dumps(told)


def test_of_a_library_only_the_template_is_kept() -> None:
    assert line(record_of("aiokafka.consumer", "Heartbeat failed for group %s", MARKER))["message"] == (
        "Heartbeat failed for group %s"
    )
    assert MARKER not in json.dumps(line(record_of("asyncio", f"Task exception was never retrieved: {MARKER}")))


def test_an_exception_that_is_the_message_is_reduced_too() -> None:
    assert MARKER not in json.dumps(line(record_of("consent.worker", KeyError(MARKER))))


def test_the_text_of_the_server_is_left_out() -> None:
    traceback = f'Traceback (most recent call last):\n  File "x"\nValueError: {MARKER}\n'
    assert MARKER not in json.dumps(line(record_of("uvicorn.error", traceback)))


SET_UP = """
import logging, os, warnings
from servicekit import telemetry
from servicekit.settings import Settings
os.environ["THROUGHGATE_LOG_LEVEL"] = "DEBUG"
telemetry.set_up(Settings(database_url="x"), "consent-test")
"""
FALLS: dict[str, str] = {
    "an exception in a log line": f"""
try:
    raise ValueError("{MARKER}")
except ValueError:
    logging.getLogger("consent").exception("failed")
    logging.getLogger().exception("failed")
""",
    "an exception of a task that nobody waits for": f"""
import asyncio, gc
async def fail():
    raise ValueError("{MARKER}")
async def main():
    task = asyncio.create_task(fail())
    await asyncio.sleep(0.01)
    del task
    gc.collect()
asyncio.run(main())
""",
    "a warning": f'warnings.warn("{MARKER}")',
    "a thread that fails": f"""
import threading
def fail():
    raise ValueError("{MARKER}")
thread = threading.Thread(target=fail)
thread.start()
thread.join()
""",
}


@pytest.mark.parametrize("what", FALLS)
def test_what_a_process_writes_holds_no_value(what: str) -> None:
    done = subprocess.run([sys.executable, "-c", SET_UP + FALLS[what]], capture_output=True, text=True, check=False)
    assert done.stderr.strip(), "something is told"
    assert MARKER not in done.stderr + done.stdout


# --- traces ---------------------------------------------------------------------------------------

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], tuple[ReadableSpan, ...]]]:
    """What was exported; every trace that may begin begins."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    monkeypatch.setattr(telemetry, "_sampling", 1.0)
    yield exporter.get_finished_spans
    provider.shutdown()


Spans = Callable[[], tuple[ReadableSpan, ...]]


def ids(traceparent: str | None) -> tuple[str, str]:
    assert traceparent
    _, trace, span, flags = traceparent.split("-")
    assert int(flags, 16) & 1, "sampled"
    return trace, span


def test_a_step_follows_in_the_same_trace(spans: Spans) -> None:
    with follow("one", SAMPLED) as one, follow("two", one.traceparent) as two:
        assert ids(two.traceparent)[0] == TRACE
    second, first = spans()
    assert first.parent is not None
    assert f"{first.parent.span_id:016x}" == SPAN
    assert second.parent is not None
    assert first.context is not None
    assert second.parent.span_id == first.context.span_id
    assert ids(one.traceparent) == (TRACE, f"{first.context.span_id:016x}")


def test_an_unsampled_trace_makes_no_span_and_goes_on(spans: Spans) -> None:
    with follow("one", UNSAMPLED, begin=True) as step:
        assert step.traceparent == UNSAMPLED
    step, told = across_the_border("send", UNSAMPLED)
    step.end()
    assert told is None
    assert spans() == ()


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "",
        "nonsense",
        SAMPLED.upper(),
        SAMPLED.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        SAMPLED + "-extra",
        f" {SAMPLED}",
    ],
)
def test_what_is_no_traceparent_is_as_none(malformed: str | None, spans: Spans) -> None:
    with follow("one", malformed) as step:
        assert step.traceparent is None
    assert across_the_border("send", malformed)[1] is None
    assert spans() == ()
    with follow("two", malformed, begin=True) as begun:
        assert ids(begun.traceparent)[0] != TRACE
    assert [s.parent for s in spans()] == [None]


@pytest.mark.parametrize(("ratio", "begins"), [(0.0, False), (1.0, True)])
def test_a_trace_begins_by_the_ratio(ratio: float, begins: bool, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_sampling", ratio)
    with follow("one", None, begin=True) as step:
        assert (step.traceparent is not None) is begins
    with follow("two", SAMPLED, begin=True):
        pass
    assert [s.name for s in spans()] == (["one", "two"] if begins else ["two"]), "a publisher's trace is followed"


def test_at_the_border_a_partner_gets_another_trace_each_time(spans: Spans) -> None:
    told = []
    for _ in range(2):
        step, partners = across_the_border("send", SAMPLED)
        step.end()
        told.append(ids(partners))
    assert len({TRACE, told[0][0], told[1][0]}) == 3
    assert len({SPAN, told[0][1], told[1][1]}) == 3
    for span, (trace, outside) in zip(spans(), told, strict=True):
        assert span.context is not None
        assert f"{span.context.trace_id:032x}" == TRACE, "the step stays in our trace"
        assert f"{span.context.span_id:016x}" != outside
        assert [f"{link.context.trace_id:032x}" for link in span.links] == [trace]


def test_a_failed_step_says_so_and_not_why(spans: Spans) -> None:
    with pytest.raises(ValueError), follow("one", SAMPLED):
        raise ValueError(MARKER)
    (span,) = spans()
    assert not span.status.is_ok
    assert span.status.description is None
    assert MARKER not in span.to_json()
    assert (list(span.events), dict(span.attributes or {})) == ([], {})


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ((), None),
        ([("traceparent", SAMPLED.encode())], SAMPLED),
        ([("other", b"x"), ("traceparent", SAMPLED.encode())], SAMPLED),
        ([("traceparent", SAMPLED.encode() + b"\n")], None),
        ([("traceparent", b"\xff" * 55)], None),
        ([("traceparent", b"")], None),
    ],
)
def test_only_a_well_formed_header_is_taken(headers: list[tuple[str, bytes]], found: str | None) -> None:
    assert from_headers(headers) == found


def test_headers_carry_what_there_is() -> None:
    assert header(None) == []
    assert from_headers(header(SAMPLED)) == SAMPLED
