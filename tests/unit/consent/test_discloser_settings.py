"""A discloser that could not do its work does not start: one that would lose its session in the middle of it, or that
is none of the shards. Nor does a worker that would erase at once.
"""

import base64

import pytest
from pydantic import ValidationError

from consent.settings import DiscloserSettings, WorkerSettings
from contracts.vocabulary import Category


def settings(send: float = 10, session: float = 15, shard: int = 0, shards: int = 1) -> DiscloserSettings:
    return DiscloserSettings(
        kafka_servers="127.0.0.1:1",
        database_url="postgresql+asyncpg://127.0.0.1/x",
        signing_key=base64.urlsafe_b64encode(bytes(32)).rstrip(b"=").decode(),
        send_seconds=send,
        session_seconds=session,
        shard=shard,
        shards=shards,
    )


def test_the_session_outlives_a_send_that_fails_and_the_next_producer() -> None:
    assert settings(10, 13.5).session()["idle_session_timeout"] == "13500ms"
    with pytest.raises(ValidationError, match="session_seconds must be more than send_seconds and 3"):
        settings(10, 13)


@pytest.mark.parametrize(("shard", "shards"), [(2, 2), (1, 1), (-1, 2), (0, 0)])
def test_a_shard_is_one_of_the_shards(shard: int, shards: int) -> None:
    assert settings(shard=1, shards=2).shard == 1
    with pytest.raises(ValidationError):
        settings(shard=shard, shards=shards)


@pytest.mark.parametrize("days", [0, -5, 3_000_000, 99_999_999_999])
def test_nothing_is_kept_for_no_time_and_nothing_longer_than_calendars_go(days: int) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(
            kafka_servers="127.0.0.1:1",
            database_url="postgresql+asyncpg://127.0.0.1/x",
            retention_days={Category.IDENTITY: days},
        )
