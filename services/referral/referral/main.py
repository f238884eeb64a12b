"""The referral API as a process: `python -m referral.main`."""

from fastapi import FastAPI

from contracts.views import asking_the_door
from referral.api import router
from servicekit import app, aside, run
from servicekit.settings import ApiSettings


def create_app(settings: ApiSettings) -> FastAPI:
    """The referral API."""
    return app.create_app(
        settings,
        "Throughgate referral",
        "A directory of services and referrals to them. States and references: the data comes from the door.",
        [router, aside.router],
        while_running=asking_the_door,
    )


if __name__ == "__main__":
    settings = ApiSettings()
    run.serve(create_app(settings), settings, "referral-api")
