"""Every API under schemathesis: whatever fits its OpenAPI description or does not, it answers as it describes."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from servicekit.problems import ProblemDetails
from throughgate.system import System

pytestmark = pytest.mark.xdist_group("apis")

SCOPES = {
    "consent": [
        "operator",
        "events:write",
        "disclosures:read",
        "agreements:read",
        "agreements:sign",
    ],
    "referral": ["directory:write", "referrals:read", "referrals:write", "operator"],
    "matching": ["volunteers:write", "matches:read", "rounds:run", "operator"],
    "notifications": ["plans:write", "plans:read", "operator"],
}
OPEN = {"/healthz", "/readyz", "/metrics", "/ledger-keys"}  # the last: public keys, for whoever verifies
EXAMPLES = 12
LIMITS = settings(max_examples=EXAMPLES, database=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def system(start_system: Callable[..., System]) -> System:
    """All APIs; the clock of notifications can be set, so that this is tried too."""
    return start_system(
        ["hostel"],
        list(SCOPES),
        environment={
            name: {"THROUGHGATE_CLOCK": "adjustable"} for name in ("notifications.main", "notifications.worker")
        },
    )


@pytest.fixture(scope="module", params=SCOPES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def headers(system: System, service: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {system.issuer.token('clerk', 'hostel', SCOPES[service])}"}


def operations(system: System, service: str) -> Iterator[Any]:
    """Writing ones first, so that the reading ones have something to show."""
    schema = schemathesis.openapi.from_url(f"{system.urls[service]}/openapi.json")
    found: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    yield from sorted(found, key=lambda o: ("put", "post", "get", "delete").index(o.method))


def check(case: Any, response: Any, checks: list[Any]) -> None:
    """It is an answer as described, and an error is a problem that a person can act on."""
    case.validate_response(response, checks=checks)
    if response.status_code >= 400:
        assert response.headers["content-type"] == ["application/problem+json"]
        told = ProblemDetails.model_validate_json(response.content)
        assert told.status == response.status_code
        assert len(told.detail) > 20


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_every_answer_is_as_described(system: System, service: str, mode: GenerationMode) -> None:
    token = headers(system, service)
    tried = 0
    for operation in operations(system, service):
        if mode is GenerationMode.NEGATIVE and operation.path in OPEN:
            continue  # nothing can be sent there

        @LIMITS
        @given(operation.as_strategy(generation_mode=mode))
        def answers(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.headers = dict(case.headers or {}) | token  # a wrong token would be all that is answered to
            check(case, case.call(), [not_a_server_error, response_schema_conformance])

        answers()
    assert tried > EXAMPLES, "something was tried"


def test_what_is_answered_is_described(system: System, service: str) -> None:
    for operation in operations(system, service):
        if "{" in operation.path or operation.path == "/agreements":

            @LIMITS
            @given(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
            def answers(case: Any) -> None:
                case.headers = dict(case.headers or {}) | headers(system, service)
                check(case, case.call(), [content_type_conformance, status_code_conformance])

            answers()


NUL = "a\0b"
EARLY, LATE = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"
AGREEMENT = {
    "id": "edge",
    "version": 1,
    "sources": ["hostel"],
    "recipients": ["referral"],
    "terms": [{"purpose": "referral", "basis": "consent", "categories": ["identity"]}],
    "signatories": {"hostel": "A. Signatory"},
    "starts": "2026-01-01T00:00:00Z",
    "review": "2027-01-01T00:00:00Z",
    "ends": "2028-01-01T00:00:00Z",
}
EVENT = {
    "specversion": "1.0",
    "id": "edge",
    "source": "/agencies/hostel",
    "type": "throughgate.consent.withdrawn.v1",
    "time": "2026-01-01T00:00:00Z",
    "data": {"identifiers": [{"type": "CASE", "value": "edge"}]},
}
EDGES: dict[str, tuple[str, str, str, Any]] = {
    "NUL in a name": ("consent", "PUT", "/agencies/edge", {"name": NUL, "kind": "vcs"}),
    "NUL in a signature": ("consent", "POST", "/agreements", AGREEMENT | {"signatories": {"hostel": NUL}}),
    "before all time": ("consent", "POST", "/agreements", AGREEMENT | {"starts": EARLY}),
    "after all time": ("consent", "POST", "/agreements", AGREEMENT | {"ends": LATE}),
    "a version beyond counting": ("consent", "POST", "/agreements", AGREEMENT | {"version": 10**30}),
    "an entry beyond counting": ("consent", "GET", f"/clients/{{client}}/disclosures?before={10**30}", None),
    "NUL in an id": ("consent", "POST", "/events", EVENT | {"id": NUL}),
    "NUL in a number": (
        "consent",
        "POST",
        "/events",
        EVENT | {"data": {"identifiers": [{"type": "CASE", "value": NUL}]}},
    ),
    "NUL in a service": ("referral", "PUT", f"/services/{uuid4()}", {"name": NUL, "organization": "hostel"}),
    "a clock before all time": ("notifications", "PUT", "/clock", {"now": EARLY}),
    "a clock after all time": ("notifications", "PUT", "/clock", {"now": LATE}),
    "a clock far away": ("notifications", "PUT", "/clock", {"now": "9999-12-31T00:00:00Z"}),
}


@pytest.fixture(scope="module")
def client(system: System) -> str:
    """A reference of a client that the agency recorded."""
    with httpx.Client(base_url=system.urls["consent"], headers=headers(system, "consent"), timeout=30) as http:
        http.put("/agencies/hostel", json={"name": "Hostel", "kind": "vcs"}).raise_for_status()
        facts = {"identifiers": [{"type": "CASE", "value": "edge"}], "facts": {"contact": {}}}
        recorded = EVENT | {"id": str(uuid4()), "type": "throughgate.client.recorded.v1", "data": facts}
        return str(http.post("/events", json=recorded).raise_for_status().json()["client"])


@pytest.mark.parametrize("what", EDGES)
def test_at_the_edges_it_is_still_an_answer(what: str, system: System, client: str) -> None:
    service, method, path, body = EDGES[what]
    url = system.urls[service] + path.replace("{client}", client)
    answer = httpx.request(method, url, json=body, headers=headers(system, service), timeout=30)
    assert answer.status_code < 500, answer.text
    if method == "PUT" and path == "/clock":
        now = {"now": "2026-06-01T00:00:00Z"}
        httpx.put(url, json=now, headers=headers(system, service)).raise_for_status()


def test_without_a_token_nothing_is_told(system: System, service: str) -> None:
    for operation in operations(system, service):
        if operation.path in OPEN:
            continue
        path = operation.path
        for name in ("id", "client", "withdrawal", "hold"):
            path = path.replace(f"{{{name}}}", str(uuid4()))
        for token in ({}, {"Authorization": f"Bearer {system.issuer.token('clerk', 'hostel', [])}"}):
            answer = httpx.request(
                operation.method, system.urls[service] + path.replace("{agency}", "hostel"), headers=token
            )
            assert answer.status_code == (403 if token else 401), path
            assert answer.headers["content-type"] == "application/problem+json"
