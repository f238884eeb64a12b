"""The matching API as a process: `python -m matching.main`."""

from fastapi import FastAPI

from matching.api import router
from matching.settings import Settings
from servicekit import app, run


def create_app(settings: Settings) -> FastAPI:
    """The matching API."""
    return app.create_app(
        settings,
        "Throughgate matching",
        "Volunteers and matches. States and references: the data comes from the door.",
        [router],
    )


if __name__ == "__main__":
    settings = Settings()
    run.serve(create_app(settings), settings, "matching-api")
