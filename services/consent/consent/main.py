"""The door's API. `python -m consent.main`."""

from fastapi import FastAPI
from pydantic import SecretStr

from consent.api import router
from servicekit.app import create_app as create
from servicekit.run import serve
from servicekit.settings import Settings

DESCRIPTION = "The door: what comes in is kept here, what leaves is decided here. Errors are RFC 9457 problem details."
MAX_BODY = 4 * 1024 * 1024
"""More than an event may have: a withdrawal that is too large must be seen, so that it can deny."""


class DoorSettings(Settings):
    """What the API needs to know besides."""

    agency_database_url: SecretStr
    """The door's database by the role that row-level security binds."""


def create_app(settings: DoorSettings) -> FastAPI:
    """The API with its routes."""
    bound = {"agency_database": settings.agency_database_url}
    return create(settings, "Throughgate consent", DESCRIPTION, [router], max_body=MAX_BODY, more_databases=bound)


if __name__ == "__main__":
    settings = DoorSettings()
    serve(create_app(settings), settings, "consent-api")
