"""How a process starts and ends: one event loop, the probes beside the work, a clean stop on SIGTERM and SIGINT."""

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI, Request

from servicekit import problems, telemetry
from servicekit.app import NO_TELEMETRY, probes
from servicekit.settings import ApiSettings, Settings

log = logging.getLogger(__name__)


def serve(app: FastAPI, settings: ApiSettings, service: str) -> None:
    """Run an API until it is told to stop. Without a key set, by which callers are known, it does not start."""
    telemetry.set_up(settings, service)
    if not settings.jwks:
        log.critical("THROUGHGATE_JWKS is not set: no caller could be known, so the API does not start")
        sys.exit(1)
    _spare_the_collector()
    uvicorn.run(app, loop="uvloop", **_http(settings))


def work(main: Callable[[Callable[[], None]], Awaitable[None]], settings: Settings, service: str) -> None:
    """Run a worker: `main(ready)` works until it is cancelled and calls `ready` once it can.

    When `main` fails the process ends with status 1 at once, and whatever supervises it starts it again: a fresh
    process is the one state of a worker that is always right.
    """
    telemetry.set_up(settings, service)
    _spare_the_collector()
    with suppress(KeyboardInterrupt):
        uvloop.run(_work(main, settings))


def _http(settings: Settings) -> dict[str, Any]:
    """What every server of ours is told: uvicorn logs no request, not even a WebSocket's, and does not name itself."""
    return {
        "host": settings.http_host,
        "port": settings.http_port,
        "log_config": None,
        "access_log": False,
        "ws": "none",
        "server_header": False,
    }


def _spare_the_collector() -> None:
    """Leave what was imported out of every collection, and collect rarely: a batch makes objects, hardly any cycles.

    Measured: a third of the door's worker was spent in collections that found nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


async def _work(main: Callable[[Callable[[], None]], Awaitable[None]], settings: Settings) -> None:
    is_ready = asyncio.Event()

    async def ready(_: Request) -> bool:
        return is_ready.is_set()

    app = FastAPI(openapi_url=None, telemetry=NO_TELEMETRY)
    problems.install(app)
    app.include_router(probes(ready))
    server = uvicorn.Server(uvicorn.Config(app, **_http(settings)))
    serving = asyncio.create_task(server._serve())  # serve() would take the signals, which are the process's
    working = asyncio.ensure_future(main(is_ready.set))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, working.cancel)
    try:
        await working
    except asyncio.CancelledError:
        log.info("stopping")
    except Exception:
        log.critical("ending after an error", exc_info=True)
        os._exit(1)
    finally:
        server.should_exit = True
        with suppress(TimeoutError, asyncio.CancelledError):
            await asyncio.wait_for(serving, 3)
