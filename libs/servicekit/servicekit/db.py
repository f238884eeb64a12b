"""The transaction boundary: one place opens, commits, rolls back and retries."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

log = logging.getLogger(__name__)
T = TypeVar("T")

RETRYABLE = frozenset({"40001", "40P01", "55P03"})
"""SQLSTATEs that mean "try again": serialization failure, deadlock, lock not available."""
ATTEMPTS = 8
"""So often work is run that loses a race each time: by then its pauses have come to about a second."""
AWAY = ("08", "57P", "53")
"""SQLSTATE prefixes of a database that is away, starting, stopping or out of something: never the event's fault."""


_BIND = text(
    "SELECT set_config(name, value, true)"
    " FROM unnest(CAST(:names AS text[]), CAST(:values AS text[])) AS r(name, value)"
)


class TryAgain(Exception):
    """Raised by work that lost a race and would win or see the winner if it ran again from the start."""


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of an error, or an empty string."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", "") or "")


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later without anyone changing it."""
    if isinstance(error, TryAgain | InterfaceError | OSError | TimeoutError | asyncpg.InterfaceError):
        return True
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    state = sqlstate(error)
    return state in RETRYABLE or state.startswith(AWAY)


async def every(seconds: float, what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do this for ever, with so many seconds between. While the database is away it waits: the log says `what` does.

    Raises:
        Exception: whatever `work` raised that is not transient.
    """
    while True:
        try:
            await work()
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("%s waits after %s", what, type(error).__name__)
        await asyncio.sleep(seconds)


def create_engine(
    url: str, pool: int, name: str, session: Mapping[str, str] | None = None, **options: Any
) -> AsyncEngine:
    """An engine whose errors do not quote parameters and whose statements cannot wait for a lock for ever.

    `session` adds server settings, such as `idle_session_timeout`.
    """
    engine = create_async_engine(
        url,
        pool_size=pool,
        max_overflow=0,
        pool_pre_ping=False,
        hide_parameters=True,
        connect_args={
            "server_settings": {"application_name": name, "lock_timeout": "5s", **(session or {})},
            "timeout": 10,
        },
        **options,
    )
    event.listen(engine.sync_engine, "checkout", _not_closed)
    return engine


def _not_closed(_dbapi: Any, record: Any, _proxy: Any) -> None:
    """A connection that the server ended while it lay in the pool is made anew: else the first request after a restart
    of the database would fail. What it costs is no round trip, as asking first would.
    """
    if record.driver_connection.is_closed():
        raise DisconnectionError


class Database:
    """One service's database. `run` is the boundary that HTTP requests and message batches share."""

    def __init__(self, url: str, pool: int, name: str) -> None:
        self.engine = create_engine(url, pool, name)
        self.waker = Waker(url)

    async def run(
        self,
        work: Callable[[AsyncSession], Awaitable[T]],
        bound: Mapping[str, str] | None = None,
    ) -> T:
        """Run `work` in one transaction, commit, and return what it returned.

        `bound` are settings of this transaction alone, such as the agency that row-level security is to hold it to.

        A deadlock, serialization failure, lock timeout or `TryAgain` runs the whole of `work` again, so it must have no
        effect outside the session. Channels named in `session.info["wake"]` are notified after the commit.

        Raises:
            TryAgain: the work lost each of so many races. It is transient: the same work may succeed later.
            Exception: whatever else `work` raised, or the last of what it was run again for.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with AsyncSession(self.engine, expire_on_commit=False) as session, session.begin():
                    if bound:
                        await session.execute(_BIND, {"names": list(bound), "values": list(bound.values())})
                    result = await work(session)
                for channel in session.info.get("wake", ()):
                    self.waker.wake(channel)
                return result
            except (DBAPIError, TryAgain) as error:
                if (not isinstance(error, TryAgain) and sqlstate(error) not in RETRYABLE) or attempt == ATTEMPTS:
                    raise
                log.warning("transaction is run again after %s %s", type(error).__name__, sqlstate(error))
                await asyncio.sleep(random.uniform(0, 0.01 * 2**attempt))
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close every connection."""
        await self.waker.close()
        await self.engine.dispose()


def wake_after_commit(session: AsyncSession, channel: str) -> None:
    """Ask for a NOTIFY on `channel` once this session's transaction is committed, in the order of asking."""
    session.info.setdefault("wake", {})[channel] = None


def _plain(url: str) -> str:
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


class Waker:
    """Coalesced NOTIFYs on a connection of their own: a NOTIFY inside a write transaction serialises all commits."""

    def __init__(self, url: str) -> None:
        self._url = _plain(url)
        self._channels: dict[str, None] = {}  # in order
        self._task: asyncio.Task[None] | None = None
        self._connection: asyncpg.Connection[Any] | None = None

    def wake(self, channel: str) -> None:
        """Notify soon. Never fails: whoever listens polls as well."""
        self._channels[channel] = None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._notify())

    async def _notify(self) -> None:
        while self._channels:
            channels, self._channels = list(self._channels), {}
            try:
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._url, timeout=5)
                await self._connection.execute("SELECT pg_notify(c, '') FROM unnest($1::text[]) AS c", channels)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                self._connection = None
                return

    async def close(self) -> None:
        """Close the connection."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._connection:
            self._connection.terminate()


@asynccontextmanager
async def listening(url: str, *channels: str) -> AsyncIterator[list[asyncio.Event]]:
    """An event for each channel, set when that is notified. Only a hint: who loses the connection must poll."""
    events = {channel: asyncio.Event() for channel in channels}
    connection = await asyncpg.connect(_plain(url), timeout=10)
    for channel in channels:
        await connection.add_listener(channel, lambda _connection, _pid, name, _payload: events[name].set())
    try:
        yield list(events.values())
    finally:
        connection.terminate()


async def wait(woken: asyncio.Event, seconds: float) -> None:
    """Wait until woken, at most `seconds`, and reset."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await woken.wait()
    woken.clear()
