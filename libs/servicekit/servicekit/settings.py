"""Settings that every process reads from its environment (`THROUGHGATE_...`), or from files of the same names.

The files lie in the folder THROUGHGATE_SECRETS_DIR, as a Kubernetes Secret mounted as a volume has them: passwords
need not stand in an environment. A variable goes before a file.
"""

import os

from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a process needs to find its database, its brokers and the issuer whose tokens it trusts."""

    model_config = SettingsConfigDict(
        env_prefix="THROUGHGATE_",
        secrets_dir=os.environ.get("THROUGHGATE_SECRETS_DIR"),
        extra="ignore",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    database_url: SecretStr
    """`postgresql+asyncpg://role:password@host:port/database`"""
    database_pool: int = 5
    """Connections to each of its databases, of an API or of the worker of referral, matching or notifications."""
    kafka_servers: str = ""
    """Bootstrap servers, comma separated. Empty for a process that does not touch Kafka."""
    kafka_user: str = ""
    """SASL user (SCRAM-SHA-512). Empty: a plaintext connection, for a broker without users only."""
    kafka_password: SecretStr = SecretStr("")
    """The SASL user's."""
    kafka_ca_file: str = ""
    """A CA bundle: given, the connection is TLS (SASL_SSL)."""
    namespace: str = ""
    """Prefix of topic names, groups and transactional ids, so that several systems can share a cluster."""
    http_host: str = "127.0.0.1"
    """The address on which a process listens: an API, or `/healthz`, `/readyz` and `/metrics` of the others."""
    http_port: int = 8000
    """The port there. Several processes on one machine need one each."""
    otlp_endpoint: str = ""
    """Base URL of an OTLP/HTTP collector. Empty: no traces are exported."""
    trace_sampling: float = 0.01
    """Share of events without a trace of their own that begin one, 0 to 1. A publisher's sampled trace is followed."""
    log_level: str = "INFO"
    """`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`: what is less is not logged."""
    set_aside_days: float = 7.0
    """How long referral, matching and notifications keep an event that they could not apply."""
    alert_owner: str = "operations"
    """Who sees to what waits for a person at the door: a role or a rota, told in its alerts and lists."""
    batch: int = 500
    """The most records that one transaction of a worker or a discloser takes."""
    stall_seconds: float = 60.0
    """A worker with lag, an answering broker and no progress for this long ends itself."""


class ApiSettings(Settings):
    """What an API needs besides."""

    agency_database_url: SecretStr
    """Its database by the role of the agencies, which row-level security binds."""
    jwks: str = ""
    """Path or http(s) URL of the key set that signs our callers' tokens. Without it no API starts."""
    issuer: str = "throughgate-development"
    """The `iss` of our callers' tokens. A token of another issuer is refused."""
    audience: str = "throughgate"
    """The `aud` of our callers' tokens."""
    door_url: str = ""
    """Base URL of the door's API, where an API of another service asks it what may be seen."""
    door_seconds: float = 2.0
    """How long such a question may take. After it nothing is shown."""
