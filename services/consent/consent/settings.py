"""What each process of the door needs to know besides what every process needs."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, model_validator

from consent.domain.retention import REST, periods
from consent.repository.retractions import Patience
from consent.service.retention import Periods
from contracts.heads import public_key_of
from contracts.merkle import from_base64url
from contracts.vocabulary import Category
from servicekit.settings import Settings

STOP_SECONDS = 2.0
"""A producer that does not stop by then is left."""
RESTART_SECONDS = 1.0
"""From one try to start a producer to the next."""


Days = Annotated[PositiveInt, Field(le=36_500)]
"""A period: at most a century, for no calendar has the days before the year 1."""


class RetentionSettings(Settings):
    """What a run of retention needs to know besides."""

    retention_days: dict[Category, Days] = {}
    """Days by category, as JSON, where they are not those of `consent.domain.retention`."""
    rest_days: Days = REST.days
    """Days after the last that was said, told or asked of a client, until what is left beside sections is erased."""

    @property
    def periods(self) -> Periods:
        """How long what is kept here."""
        return Periods(periods(self.retention_days), timedelta(days=self.rest_days))


class WorkerSettings(RetentionSettings):
    """What the worker needs to know besides."""

    upkeep_seconds: PositiveFloat = 1.0
    """How often to look for what the clock, or a change of the register, makes due."""
    count_seconds: PositiveFloat = 60.0
    """How often to count what waits for a person."""
    reminder_hours: PositiveFloat = 24.0
    """After so many hours a partner is reminded of a retraction, and again each time. Less than its topic keeps."""
    service_reminder_hours: PositiveFloat = 2.0
    """The same for our own services, whose topics keep hours only."""
    overdue_hours: PositiveFloat = 24.0
    """From when on a retraction that nobody confirmed is counted as overdue."""

    @property
    def patience(self) -> Patience:
        """When to remind whom."""
        return Patience(self.reminder_hours, self.service_reminder_hours)


class DiscloserSettings(Settings):
    """What the discloser needs to know besides."""

    shard: NonNegativeInt = 0
    """Which of the shards this process is, from 0."""
    shards: PositiveInt = 1
    """How many there are, the same for all; to change it, stop them all first."""
    signing_key: SecretStr
    """Seed of the Ed25519 key that signs the heads of the ledger: 32 bytes in base64url without padding."""
    batch: PositiveInt = 1000
    send_seconds: PositiveFloat = 10.0
    """A send that is not done by then is given up, and its rows are decided again."""
    session_seconds: float = 15.0
    """The database ends a session that was idle for so long, and with it the lock of a process that was stopped. More
    than a send and the start of another producer may take."""

    @property
    def seed(self) -> bytes:
        """The signing key's bytes."""
        return from_base64url(self.signing_key.get_secret_value())

    @model_validator(mode="after")
    def _is_a_key(self) -> "DiscloserSettings":
        try:
            public_key_of(self.seed)
        except ValueError:
            raise ValueError("signing_key must be 32 bytes in base64url without padding") from None
        return self

    @model_validator(mode="after")
    def _is_one_of_the_shards(self) -> "DiscloserSettings":
        if self.shard >= self.shards:  # numbered from 1, they would leave the clients of shard 0 to nobody
            raise ValueError("shard must be less than shards: they are numbered from 0")
        return self

    @model_validator(mode="after")
    def _session_outlives_a_send(self) -> "DiscloserSettings":
        # between two statements a start of a producer may fail, and it may have to be stopped
        if self.session_seconds <= self.send_seconds + STOP_SECONDS + RESTART_SECONDS:
            raise ValueError(f"session_seconds must be more than send_seconds and {STOP_SECONDS + RESTART_SECONDS:g}")
        return self

    def session(self) -> dict[str, str]:
        """Server settings of the one session."""
        limit = f"{int(self.session_seconds * 1000)}ms"
        return {
            "idle_session_timeout": limit,
            "idle_in_transaction_session_timeout": limit,
            "tcp_user_timeout": limit,
            "default_transaction_isolation": "repeatable read",
            # The queue is claimed by its indexes in their order, which skip what has left; a bitmap would not.
            "enable_seqscan": "off",
            "enable_bitmapscan": "off",
        }
