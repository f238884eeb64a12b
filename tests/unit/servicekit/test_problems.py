"""Errors that people act on: a stable code, a sentence, and nothing of what was sent."""

from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, FastAPI, Query
from fastapi.testclient import TestClient
from pydantic import Field, SecretStr, StringConstraints, ValidationError, model_validator

from servicekit import problems
from servicekit.app import BodyLimit
from servicekit.envelope import StrictWire
from servicekit.problems import Problem
from servicekit.settings import Settings

MARKER = "Zq7Marker"


class Inner(StrictWire):
    """A part with a rule of its own."""

    first: int | None = None
    second: int | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> "Inner":
        if self.first is None and self.second is None:
            raise ValueError(f"says {MARKER}")
        return self


class Body(StrictWire):
    """Something to send."""

    given_name: Annotated[str, Field(max_length=9)]
    kind: Literal["a", "b"] = "a"
    code: Annotated[str, StringConstraints(pattern="^[a-z]*$")] = ""
    inner: Inner | None = None
    named: dict[Annotated[str, StringConstraints(pattern="^[a-z]+$")], int] = {}


@pytest.fixture
def http() -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(BodyLimit, limit=1000)

    @app.post("/things")
    async def things(body: Body, limit: Annotated[int, Query(ge=1)] = 1) -> Body:
        return body

    @app.get("/refused")
    async def refused() -> None:
        raise Problem("no-such-thing", "There is no such thing", "Make one first.", 404)

    router = APIRouter(prefix="/two")
    router.get("/{id}")(refused)
    router.delete("/{id}")(refused)
    app.include_router(router)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(MARKER)

    return TestClient(app, raise_server_exceptions=False)


BAD: dict[str, tuple[bytes, str]] = {
    "not JSON": (f'{{"givenName": "{MARKER}'.encode(), "is not JSON"),
    "missing": (b"{}", "givenName is missing"),
    "too long": (f'{{"givenName": "{MARKER * 3}"}}'.encode(), "givenName is too long"),
    "of another type": (f'{{"givenName": ["{MARKER}"]}}'.encode(), "givenName "),
    "not one of them": (f'{{"givenName": "x", "kind": "{MARKER}"}}'.encode(), "kind is not one of the values"),
    "another form": (f'{{"givenName": "x", "code": "{MARKER}"}}'.encode(), "code does not have the form"),
    "a field of one's own": (f'{{"givenName": "x", "{MARKER}": 1}}'.encode(), "the event has a field"),
    "deeper": (f'{{"givenName": "x", "inner": {{"{MARKER}": 1}}}}'.encode(), "inner has a field"),
    "a rule": (b'{"givenName": "x", "inner": {}}', "inner contradicts"),
    "a key of one's own": (f'{{"givenName": "x", "named": {{"{MARKER}": 1}}}}'.encode(), "named"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_request_that_does_not_fit_is_told_where_and_not_what(what: str, http: TestClient) -> None:
    sent, told = BAD[what]
    answer = http.post("/things", content=sent, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")
    assert told in answer.json()["detail"]
    assert MARKER not in answer.text


def test_many_errors_are_cut_short(http: TestClient) -> None:
    body = {"given_name": 1, "kind": 1, "code": 1, "inner": {"first": "x", "second": "x"}, "named": {"a": "x"}}
    detail = http.post("/things?limit=x", json=body).json()["detail"]
    assert detail.count(";") <= 8


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/refused", 404, "no-such-thing"),
        ("GET", "/nowhere", 404, "http-404"),
        ("GET", f"/{MARKER}", 404, "http-404"),
        ("PUT", "/things", 405, "http-405"),
        ("GET", "/broken", 500, "internal"),
    ],
)
def test_every_error_is_a_problem(method: str, path: str, status: int, code: str, http: TestClient) -> None:
    answer = http.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    body = answer.json()
    assert body == problems.ProblemDetails.model_validate(body).model_dump()
    assert (body["code"], body["status"], body["type"]) == (code, status, f"urn:throughgate:problem:{code}")
    assert MARKER not in answer.text


def test_what_http_asks_for_with_a_status_is_there(http: TestClient) -> None:
    assert http.put("/things").headers["allow"] == "POST"  # RFC 9110, 15.5.6
    assert http.put("/two/7").headers["allow"] == "DELETE, GET", "those of every route of the path"


def test_a_body_that_is_too_large_is_refused_told_or_not(http: TestClient) -> None:
    told = http.post("/things", content=b"x" * 1001)
    untold = http.post("/things", content=(b"x" * 300 for _ in range(4)))
    assert [(a.status_code, a.json()["code"]) for a in (told, untold)] == [(413, "too-large")] * 2
    assert http.post("/things", content=(b" " * 300 for _ in range(3))).status_code == 422


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    sent: list[int] = []

    async def unread(*_: Any) -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message.get("status"))

    scope = {"type": "http", "headers": [(b"content-length", b"1001")]}
    await BodyLimit(unread, 1000)(scope, unread, send)
    assert sent[0] == 413


def test_a_setting_that_is_missing_does_not_betray_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THROUGHGATE_DATABASE_URL", raising=False)
    monkeypatch.setenv("THROUGHGATE_KAFKA_PASSWORD", MARKER)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert MARKER not in str(caught.value)


def test_passwords_are_not_shown() -> None:
    settings = Settings(database_url=SecretStr(MARKER), kafka_password=SecretStr(MARKER))
    assert MARKER not in repr(settings)
