"""What is done for ever goes on when the database comes back, and ends when it is wrong."""

import logging

import pytest

from servicekit.db import every


async def test_it_waits_for_the_database_and_ends_with_what_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[BaseException | None] = [None, ConnectionRefusedError("at 203.0.113.7"), None, KeyError("wrong")]

    async def once() -> None:
        if error := outcomes.pop(0):
            raise error

    with caplog.at_level(logging.WARNING), pytest.raises(KeyError):
        await every(0, "a round", once)
    assert outcomes == []
    assert caplog.messages == ["a round waits after ConnectionRefusedError"]
