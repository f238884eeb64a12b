"""The notifications API as a process: `python -m notifications.main`."""

from fastapi import FastAPI

from contracts.views import asking_the_door
from notifications.api import clock_router, router
from notifications.settings import ApiSettings
from servicekit import app, aside, run


def create_app(settings: ApiSettings) -> FastAPI:
    """The notifications API; with an adjustable clock it can be set."""
    return app.create_app(
        settings,
        "Throughgate notifications",
        "Release plans and their steps. States and references: the data comes from the door.",
        [router, aside.router, *([clock_router] if settings.clock == "adjustable" else [])],
        while_running=asking_the_door,
    )


if __name__ == "__main__":
    settings = ApiSettings()
    run.serve(create_app(settings), settings, "notifications-api")
