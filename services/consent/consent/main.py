"""The door's API. `python -m consent.main`."""

from fastapi import FastAPI

from consent.api import router
from servicekit.app import create_app as create
from servicekit.run import serve
from servicekit.settings import ApiSettings

DESCRIPTION = "The door: what comes in is kept here, what leaves is decided here. Errors are RFC 9457 problem details."
MAX_BODY = 4 * 1024 * 1024
"""More than an event may have: a withdrawal that is too large must be seen, so that it can deny."""


def create_app(settings: ApiSettings) -> FastAPI:
    """The API with its routes."""
    return create(settings, "Throughgate consent", DESCRIPTION, [router], max_body=MAX_BODY)


if __name__ == "__main__":
    settings = ApiSettings()
    serve(create_app(settings), settings, "consent-api")
