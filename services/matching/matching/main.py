"""The matching API as a process: `python -m matching.main`."""

from fastapi import FastAPI

from contracts.views import asking_the_door
from matching.api import router
from servicekit import app, aside, run
from servicekit.settings import ApiSettings


def create_app(settings: ApiSettings) -> FastAPI:
    """The matching API."""
    return app.create_app(
        settings,
        "Throughgate matching",
        "Volunteers and matches. States and references: the data comes from the door.",
        [router, aside.router],
        while_running=asking_the_door,
    )


if __name__ == "__main__":
    settings = ApiSettings()
    run.serve(create_app(settings), settings, "matching-api")
