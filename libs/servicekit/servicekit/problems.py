"""Errors that people act on: RFC 9457 problem details, with a stable code and a sentence that says what to do."""

from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from servicekit.envelope import Unfit


class Problem(Exception):
    """Something that the caller can act on. `detail` is in our own words and quotes nothing that was sent.

    `headers` are those that HTTP asks for with the status, such as `WWW-Authenticate` with 401.
    """

    def __init__(
        self, code: str, title: str, detail: str, status: int = 400, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.title = title
        self.detail = detail
        self.status = status
        self.headers = headers


class ProblemDetails(BaseModel):
    """RFC 9457 problem details. `type` ends in a stable code, explained in docs/reference/errors.md."""

    type: str
    title: str
    status: int
    detail: str
    code: str


def where(error: ValidationError | RequestValidationError) -> str:
    """Which fields do not fit and how, in our words and the field names of the contract; never a value.

    Pydantic's messages and inputs quote what was sent, so only the place and the kind of each error are used, and the
    sentence of a contract's own rule (`Unfit`). A place is named as far as the contract names it: keys that the sender
    made up could be personal data.
    """
    misfits = []
    errors = error.errors()
    made_up = {item["loc"][:-1] for item in errors if item["loc"][-1:] == ("[key]",)}
    for item in errors:
        loc = item["loc"][:-1] if item["type"] == "extra_forbidden" else item["loc"]
        cut = [len(key) - 1 for key in made_up if loc[: len(key)] == key]
        place = ".".join(_names(loc[: min(cut, default=len(loc))])) or "the event"
        rule = item.get("ctx", {}).get("error")
        misfits.append(f"{place} {f'does not fit: {rule}' if isinstance(rule, Unfit) else _kind(item['type'])}")
    unique = list(dict.fromkeys(misfits))
    return "; ".join(unique[:8]) + ("; and more" if len(unique) > 8 else "")


def _names(loc: tuple[int | str, ...]) -> list[str]:
    return [str(part) for part in loc if not str(part).startswith(("throughgate.", "function-", "body"))]


def _kind(type: str) -> str:
    if type.endswith(("_type", "_parsing")):
        return "is not of the type that the contract asks for"
    return _KINDS.get(type, "does not fit the contract")


_KINDS = {
    "extra_forbidden": "has a field that is not in the contract",
    "missing": "is missing",
    "json_invalid": "is not JSON",
    "string_pattern_mismatch": "does not have the form that the contract asks for",
    "enum": "is not one of the values in the contract",
    "literal_error": "is not one of the values in the contract",
    "timezone_aware": "needs a time zone or offset",
    "value_error": "contradicts another field or says nothing",
    "too_short": "needs at least one entry",
    "too_long": "has too many entries",
    "string_too_short": "is empty or too short",
    "string_too_long": "is too long",
    "union_tag_invalid": "is of a kind that is not in the contract",
    "union_tag_not_found": "does not say of which kind it is",
    "greater_than_equal": "is smaller than the contract allows",
    "less_than_equal": "is larger than the contract allows",
}


def respond(status: int, code: str, title: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A problem details response."""
    body = {"type": f"urn:throughgate:problem:{code}", "title": title, "status": status, "detail": detail, "code": code}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def _allowed(request: Request) -> str:
    """The methods of the path. Starlette's own list has those of its first route only."""
    methods = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    routes = request.app.routes
    return ", ".join(
        m for m in methods if any(r.matches({**request.scope, "method": m})[0] is Match.FULL for r in routes)
    )


def install(app: FastAPI) -> None:
    """Answer every error of `app` with problem details."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> JSONResponse:
        return respond(error.status, error.code, error.title, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return respond(
            422,
            "invalid-request",
            "The request does not fit the contract",
            f"Correct this and send it again: {where(error)}.",
        )

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail = {
            404: "There is nothing at this address that you may see. Check the path against the API page at /docs.",
            405: "Use one of the methods that the API page at /docs lists for this path.",
        }.get(error.status_code, "See the API page at /docs for what this path takes.")
        code, title = f"http-{error.status_code}", "The request cannot be answered"
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        return respond(error.status_code, code, title, detail, headers)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        return respond(
            500,
            "internal",
            "Something failed on our side",
            "Send the request again, an event with its same id; if it fails again, tell operations the time.",
        )
