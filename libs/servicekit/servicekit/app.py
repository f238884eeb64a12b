"""What every HTTP process has: health, readiness, metrics, problem details, and its database."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.telemetry import TelemetryConfig
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from servicekit import problems
from servicekit.auth import Verifier
from servicekit.db import Database
from servicekit.envelope import MAX_EVENT
from servicekit.settings import ApiSettings

NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
"""FastAPI's own telemetry puts paths and queries into spans, whatever a caller wrote there."""


class Api(FastAPI):
    """An API whose description says what its errors are: problem details, on every path."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI description."""
        known = self.openapi_schema is not None
        schema = super().openapi()
        if known:
            return schema
        content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
        for operations in schema["paths"].values():
            for operation in operations.values():
                responses = operation["responses"]
                responses.setdefault("default", {"description": "It cannot be done: the code and the detail say why"})
                for status, response in responses.items():
                    if status == "default" or status >= "400":
                        response["content"] = content
        return schema


def create_app(
    settings: ApiSettings,
    title: str,
    description: str,
    routers: Sequence[APIRouter],
    max_body: int = MAX_EVENT,
    while_running: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """An API with everything that the services share. Routes find `settings` on `app.state`, and `servicekit.access`
    its two ways into the database.

    `max_body` is in bytes.
    `while_running` is entered before the first request and left after the last.
    """
    urls = {"database": settings.database_url, "agency_database": settings.agency_database_url}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = {
            name: Database(url.get_secret_value(), settings.database_pool, f"{title} api") for name, url in urls.items()
        }
        for name, database in opened.items():
            setattr(app.state, name, database)
        try:
            async with while_running(app) if while_running else nullcontext():
                yield
        finally:
            for database in opened.values():
                await database.close()

    app = Api(
        title=title,
        description=description,
        version="0.1.0",
        lifespan=lifespan,
        telemetry=NO_TELEMETRY,
        responses={
            code: {"model": problems.ProblemDetails, "description": text}
            for code, text in (
                (401, "No valid token"),
                (403, "The token lacks the scope"),
                (422, "Does not fit the contract"),
            )
        },
    )
    app.state.settings = settings
    app.state.verifier = Verifier(settings)
    problems.install(app)
    app.include_router(probes(_databases_answer))
    for router in routers:
        app.include_router(router)
    app.add_middleware(BodyLimit, limit=max_body)
    return app


def probes(ready: Callable[[Request], Awaitable[bool]]) -> APIRouter:
    """`/healthz`: the process runs; `/readyz`: it can do its work; `/metrics`: Prometheus text."""
    router = APIRouter(tags=["operations"])

    @router.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="Can it do its work?")
    async def readyz(request: Request) -> dict[str, str]:
        if not await ready(request):
            raise problems.Problem("not-ready", "Not ready yet", "Wait and ask again.", 503)
        return {"status": "ready"}

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return router


async def _databases_answer(request: Request) -> bool:
    """By either role: a password may be wrong for one of them alone."""
    state = request.app.state
    try:
        for database in (state.database, state.agency_database):
            async with database.engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        return True
    except Exception:
        return False


class BodyLimit:
    """Answers 413 as soon as a body is known to be too large, without reading the rest."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = next((v for n, v in scope["headers"] if n == b"content-length"), b"0")
        if length.isdigit() and int(length) > self._limit:
            await self._refuse(scope, receive, send)
            return
        body = b""
        while True:  # buffered: bounded by the limit, and every route reads the whole body anyway
            message = await receive()
            if message["type"] != "http.request":
                return  # the caller hung up: half a body is no event
            body += message.get("body", b"")
            if len(body) > self._limit:
                await self._refuse(scope, receive, send)
                return
            if not message.get("more_body"):
                break
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = problems.respond(
            413, "too-large", "The body is too large", f"Send at most {self._limit} bytes; leave attachments out."
        )
        await response(scope, receive, send)
