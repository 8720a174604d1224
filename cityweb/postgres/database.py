"""Connections to the database, units of work, and which errors mean that the database is unavailable."""

import asyncio
import random
import ssl
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import asyncpg
from sqlalchemy import URL, NullPool
from sqlalchemy.exc import DBAPIError, InterfaceError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

READ_CONNECTIONS = 3
ADD_CONNECTIONS = 5  # rather than two, because concurrent commits share a flush to disk
"""Connections of one process for adds and the limiter. They have their own pool, so slow reads do not delay an add."""
CONNECT_SECONDS = 2
"""The time limit of a connection attempt."""
REQUEST_SECONDS = 2.3
"""The time limit of all units of work of a request, from the beginning of the first one; the default of `Pool`."""

DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""The errors that a connection outside the pools raises if the database fails."""
INSUFFICIENT_PRIVILEGE = "42501"
P = ParamSpec("P")
T = TypeVar("T")
Query = Callable[Concatenate["Session", P], Coroutine[Any, Any, T]]


class DatabaseUnavailable(Exception):
    """The database is unavailable; the cause is the error of the database, the driver or the network."""


class Unconfirmed(DatabaseUnavailable):
    """The result of a change is lost: it may have been stored."""


class DriverConnection(asyncpg.Connection):
    """A connection that ends at once when SQLAlchemy gives it up."""

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 (asyncpg's signature)
        """Closes the connection; with a time limit, without waiting for the server."""
        # After a cancelled statement, SQLAlchemy 2.1 waits up to two seconds for the server to end the connection
        # (AsyncAdapt_terminate in connectors/asyncio.py). If the server is silent, the response would wait too.
        if timeout is None:
            await super().close()
        else:
            self.terminate()


async def connect(url: URL, *, command_timeout: float | None = None) -> DriverConnection:
    """A connection; the parameters of the URL have libpq's names and meanings (docs/settings.md).

    SQLAlchemy would pass them to asyncpg as arguments, which have other names; asyncpg parses a URL like libpq.
    Raises OSError (ssl.SSLError is one), TimeoutError, asyncpg.PostgresError or asyncpg.InterfaceError.
    """
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    # No other settings, because a pooler rejects most of them.
    settings = {"application_name": str(url.query.get("application_name", "cityweb"))}
    try:
        return await asyncpg.connect(
            plain,
            timeout=CONNECT_SECONDS,
            command_timeout=command_timeout,
            connection_class=DriverConnection,
            server_settings=settings,
        )
    except (UnicodeError, OverflowError) as error:  # an impossible host name, or a port above 65535
        raise asyncpg.ClientConfigurationError(str(error)) from error


def outside_the_pool(url: URL, *, command_timeout: float | None = None) -> AsyncEngine:
    """An engine without a pool, whose statements have a time limit only if `command_timeout`, in seconds, is set."""
    creator = partial(connect, url, command_timeout=command_timeout)
    return create_async_engine(url, async_creator=creator, hide_parameters=True, poolclass=NullPool)


# --- what an error means ---


def wrong_url(error: BaseException) -> str:
    """Why the database cannot be reached with this URL, especially its TLS; empty if the URL is not the cause.

    The reason contains no password.
    """
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    match cause:
        case ssl.SSLCertVerificationError():
            return cause.verify_message.rstrip(".")
        case ssl.SSLError():
            return cause.reason or str(cause)
        case asyncpg.ClientConfigurationError():
            return str(cause.args[0])
        case ConnectionError() if "rejected SSL upgrade" in str(cause):
            return "it does not offer TLS"
    return ""


def is_disconnected(error: BaseException) -> bool:
    """Whether the connection broke, so that work that is safe to repeat may be retried."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or sqlstate(error).startswith(("08", "57P0"))
    # SQLAlchemy 2.1 does not wrap the driver's error for a connection that breaks while it is set up.
    return isinstance(error, ConnectionError | asyncpg.InterfaceError)


def is_deadlock(error: BaseException) -> bool:
    """Whether PostgreSQL ended the statement because it and another waited for each other; repeating it is safe."""
    return isinstance(error, DBAPIError) and sqlstate(error) == "40P01"


def is_unavailable(error: BaseException) -> bool:
    """Whether the error means that the database is unavailable (a 503 response); any other error is our bug."""
    if isinstance(error, DBAPIError):
        # Read-only, access, no database, no tables, no resources, a lock, an operator, the system.
        states = ("25006", "28", "3D", "42P01", "53", "55P03", "57", "58")
        return is_disconnected(error) or isinstance(error, InterfaceError) or sqlstate(error).startswith(states)
    return isinstance(error, OSError | asyncpg.InterfaceError)  # TimeoutError is an OSError


def sqlstate(error: DBAPIError) -> str:
    """The five characters of the error code (appendix A of PostgreSQL's manual), or an empty string."""
    return str(getattr(error.orig, "sqlstate", None) or "")


# --- a unit of work ---


class Session(AsyncSession):
    """The session of one request. It holds a connection only during a unit of work."""

    def __init__(self, engine: AsyncEngine, turns: asyncio.Semaphore, seconds: float) -> None:
        super().__init__(engine)
        self.turns, self.seconds = turns, seconds
        self.deadline: float | None = None  # in the time of the event loop; the first unit of work sets it


class Pool:
    """At most `connections` connections for the sessions of requests, whose units of work share a limit of `seconds`.

    Each statement is its own transaction: no request needs a longer one, and BEGIN and COMMIT would cost round trips.
    """

    def __init__(self, url: URL, connections: int, seconds: float = REQUEST_SECONDS) -> None:
        self._seconds = seconds
        self.engine = create_async_engine(
            url,
            async_creator=partial(connect, url),
            hide_parameters=True,
            isolation_level="AUTOCOMMIT",
            pool_size=connections,
            max_overflow=0,
            pool_recycle=1800,
        )
        # SQLAlchemy 2.1 is not fair: a new request takes the connection that was just returned, before a request that
        # has waited for it. One in a hundred waited for a third of a second.
        self._turns = asyncio.Semaphore(connections)

    def open(self) -> Session:
        return Session(self.engine, self._turns, self._seconds)


def unit_of_work(query: Query[P, T]) -> Query[P, T]:
    """Makes a unit of work of a function that asks the database in the session of a request.

    It waits for its turn, holds a connection until it ends, and is run once more if the connection breaks or after a
    deadlock. All units of work of a session share one time limit. Raises DatabaseUnavailable.
    """

    @wraps(query)
    async def run(session: Session, /, *arguments: P.args, **named: P.kwargs) -> T:
        async def ask() -> T:
            try:
                return await query(session, *arguments, **named)
            finally:
                await session.close()  # gives the connection back; the session can be used again

        now = asyncio.get_running_loop().time()
        session.deadline = session.deadline or now + session.seconds
        if now >= session.deadline:  # Otherwise the statement would be sent, and the connection lost with it.
            raise DatabaseUnavailable
        try:
            async with asyncio.timeout_at(session.deadline), session.turns:
                try:
                    return await ask()
                # NoResultFound: a row was removed between two statements.
                except (DBAPIError, ConnectionError, asyncpg.InterfaceError, NoResultFound) as error:
                    if not (isinstance(error, NoResultFound) or is_disconnected(error) or is_deadlock(error)):
                        raise
                await pause_before_retry()
                return await ask()
        except Exception as error:
            if is_unavailable(error):
                raise DatabaseUnavailable from error
            raise

    return run


async def pause_before_retry() -> None:
    """Pauses for 20 to 80 ms, at random so that retries do not coincide."""
    await asyncio.sleep(random.uniform(0.02, 0.08))  # noqa: S311 (no secret)
