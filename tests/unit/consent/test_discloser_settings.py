"""A discloser that would lose its session in the middle of its work does not start."""

import base64

import pytest
from pydantic import ValidationError

from consent.settings import DiscloserSettings


def settings(send: float, session: float) -> DiscloserSettings:
    return DiscloserSettings(
        kafka_servers="127.0.0.1:1",
        database_url="postgresql+asyncpg://127.0.0.1/x",
        signing_key=base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode(),
        send_seconds=send,
        session_seconds=session,
    )


def test_the_session_outlives_a_send_that_fails_and_the_next_producer() -> None:
    assert settings(10, 13.5).session()["idle_session_timeout"] == "13500ms"
    with pytest.raises(ValidationError, match="session_seconds must be more than send_seconds and 3"):
        settings(10, 13)
