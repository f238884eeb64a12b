"""The referral API as a process: `python -m referral.main`."""

from fastapi import FastAPI

from referral.api import router
from servicekit import app, run
from servicekit.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The referral API."""
    return app.create_app(
        settings,
        "Throughgate referral",
        "A directory of services and referrals to them. States and references: the data comes from the door.",
        [router],
    )


if __name__ == "__main__":
    settings = Settings()
    run.serve(create_app(settings), settings, "referral-api")
