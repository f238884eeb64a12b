"""The matching API as a process: `python -m matching.main`."""

from fastapi import FastAPI

from contracts.views import asking_the_door
from matching.api import router
from matching.settings import Settings
from servicekit import app, aside, run


def create_app(settings: Settings) -> FastAPI:
    """The matching API."""
    return app.create_app(
        settings,
        "Throughgate matching",
        "Volunteers and matches. States and references: the data comes from the door.",
        [router, aside.router],
        while_running=asking_the_door,
    )


if __name__ == "__main__":
    settings = Settings()
    run.serve(create_app(settings), settings, "matching-api")
