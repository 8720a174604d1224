"""The database: engines, the schema, and which errors mean that the database is unavailable."""

import asyncio
import random
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, NullPool, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from cityweb.settings import COMMAND

READ_CONNECTIONS = 3
ADD_CONNECTIONS = 5  # rather than two, because concurrent commits share a flush to disk
"""Connections of one process for adds and the limiter. They have their own pool, so slow reads do not delay an add."""
PATIENCE_SECONDS = 2
"""The time limit of a connection attempt, of a statement and of a wait for the pool."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x63697479
"""The advisory lock ("city" in ASCII) that a process holds while it changes the schema."""
UNSAFE_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")

DRIVER_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""The errors that a connection outside the pools raises if the database fails."""
INSUFFICIENT_PRIVILEGE = "42501"
RESET = (
    "DROP FUNCTION IF EXISTS cities_above, cities_changed, cities_counted, cities_worded, fold_tally CASCADE",
    "DROP FUNCTION IF EXISTS search_words, spaced, suffixes CASCADE",
    "DROP TABLE IF EXISTS cities, words, tally, tally_changes, adds, salts, alembic_version",
)
"""Drops everything that any of the migrations created."""

T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """The database is unavailable; the cause is the error of the database, the driver or the network."""


class DatabaseTimeout(DatabaseUnavailable):
    """The database did not respond in time; the work may have been done."""


class OldSchema(Exception):
    """The schema is not at the newest revision, and this role may not migrate it."""


class Unsafe(Exception):
    """The server could lose stored cities; the message names the setting and says what to do."""


def make_engine(url: URL, connections: int = READ_CONNECTIONS) -> AsyncEngine:
    """A pool of at most `connections` connections for requests; every wait has a time limit.

    Each statement is its own transaction: no request needs two in one, and BEGIN and COMMIT would cost round trips.
    """
    return create_async_engine(
        url,
        async_creator=partial(connect, url, command_timeout=PATIENCE_SECONDS),
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        pool_size=connections,
        max_overflow=0,
        pool_timeout=PATIENCE_SECONDS,
        pool_recycle=1800,
    )


async def connect(url: URL, *, command_timeout: float | None = None) -> asyncpg.Connection:
    """A connection; the parameters of the URL have libpq's names and meanings (docs/settings.md).

    SQLAlchemy would pass them to asyncpg as arguments, which have other names; asyncpg parses a URL like libpq.
    Raises OSError (ssl.SSLError is one), TimeoutError, asyncpg.PostgresError or asyncpg.InterfaceError.
    """
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    # No other settings, because a pooler rejects most of them.
    settings = {"application_name": str(url.query.get("application_name", "cityweb"))}
    try:
        return await asyncpg.connect(
            plain, timeout=PATIENCE_SECONDS, command_timeout=command_timeout, server_settings=settings
        )
    except (UnicodeError, OverflowError) as error:  # an impossible host name, or a port above 65535
        raise asyncpg.ClientConfigurationError(str(error)) from error


# --- the schema ---


async def prepare(url: URL) -> None:
    """Checks the server and migrates the schema if needed. Raises Unsafe, or OldSchema if this role may not migrate."""
    async with outside_the_pool(url, command_timeout=PATIENCE_SECONDS).connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")  # no ROLLBACK waits for a hanging server
        await reject_unsafe(connection)
        if await is_current(connection):
            return
    try:
        await migrate(url)
    except DBAPIError as error:
        if sqlstate(error) != INSUFFICIENT_PRIVILEGE:
            raise
        raise OldSchema(
            "The database has an older schema, which this role may not change:"
            f" run `{COMMAND} initdb` as the role that owns the tables."
        ) from error


async def migrate(url: URL) -> None:
    """Migrates the schema to the newest revision, one process at a time. Raises Unsafe."""
    async with outside_the_pool(url).begin() as connection:
        await reject_unsafe(connection)
        await lock_schema(connection)
        was_current = await is_current(connection)
        await connection.run_sync(upgrade)
    if not was_current:
        await vacuum(url)


async def reset(url: URL) -> None:
    """Drops everything that the migrations created, and creates it again, empty."""
    async with outside_the_pool(url).begin() as connection:
        await lock_schema(connection)
        for statement in RESET:
            await connection.execute(text(statement))
        await connection.run_sync(upgrade)


async def lock_schema(connection: AsyncConnection) -> None:
    """Waits until no other process changes the schema, and removes the time limits of this transaction."""
    # A role that owns the tables and serves has timeouts that are meant for requests.
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    await connection.execute(text("SET LOCAL lock_timeout = 0"))
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})


async def vacuum(url: URL) -> None:
    """Vacuums and analyses the cities and their tally, after a change of many.

    Before that, there are no index-only scans and no statistics for plans, and each rank reads what a bulk change left
    in `tally_changes`: 7 ms for a million cities. Raises the same errors as `connect`.
    """
    connection = await connect(url)
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("VACUUM (ANALYZE) cities, tally, tally_changes")
    finally:
        await connection.close()


async def is_current(connection: AsyncConnection) -> bool:
    """Whether the schema is at the newest revision."""

    def revisions(synchronous: Connection) -> set[str]:
        return set(MigrationContext.configure(synchronous).get_current_heads())

    return await connection.run_sync(revisions) == set(ScriptDirectory(str(MIGRATIONS)).get_heads())


async def reject_unsafe(connection: AsyncConnection) -> None:
    """Raises Unsafe if the server could lose committed changes."""
    for setting in UNSAFE_SETTINGS:
        if await connection.scalar(text("SELECT current_setting(:setting)"), {"setting": setting}) == "off":
            raise Unsafe(
                f"The PostgreSQL server runs with {setting} = off and could lose cities that were stored:"
                f" set {setting} = on in its configuration and start again."
            )


def outside_the_pool(url: URL, *, command_timeout: float | None = None) -> AsyncEngine:
    """An engine without a pool, for work without a time limit; `command_timeout`, in seconds, sets one."""
    creator = partial(connect, url, command_timeout=command_timeout)
    return create_async_engine(url, async_creator=creator, hide_parameters=True, poolclass=NullPool)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs the pending migrations up to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


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
    """Whether the connection broke, so that work that is safe to repeat may be retried at once."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or sqlstate(error).startswith(("08", "57P0"))
    return isinstance(error, ConnectionError)


def is_unavailable(error: BaseException) -> bool:
    """Whether the error means that the database is unavailable (a 503 response); any other error is our bug."""
    if isinstance(error, DBAPIError):
        return (
            is_disconnected(error)
            or isinstance(error, InterfaceError)
            or sqlstate(error).startswith(("25006", "28", "3D", "42P01", "53", "55P03", "57", "58"))
        )
    return isinstance(error, PoolTimeout | OSError | TimeoutError)


@contextmanager
def availability() -> Iterator[None]:
    """Maps errors of an unavailable database to DatabaseTimeout or DatabaseUnavailable; any other error is our bug."""
    try:
        yield
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise (DatabaseTimeout if isinstance(error, TimeoutError) else DatabaseUnavailable) from error


def sqlstate(error: DBAPIError) -> str:
    """The five characters of the error code (appendix A of PostgreSQL's manual), or an empty string."""
    return str(getattr(error.orig, "sqlstate", None) or "")


# --- a unit of work ---


class Reader:
    """Runs the queries of requests, in the order in which these came.

    The pool alone is not fair (SQLAlchemy 2.1): a new request takes the connection that one has just returned, before a
    request that has waited for it. One in a hundred waited for a third of a second.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._turns = asyncio.Semaphore(READ_CONNECTIONS)

    async def read(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """The result of a query, which is run once more if its connection breaks. Raises DatabaseUnavailable."""
        with availability():
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._turns.acquire()
            try:
                return await self._read(query)
            finally:
                self._turns.release()

    async def _read(self, query: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        for last_try in (False, True):
            try:
                async with self.engine.connect() as connection:
                    return await query(connection)
            except (DBAPIError, ConnectionError) as error:
                if last_try or not is_disconnected(error):
                    raise
        raise AssertionError  # pragma: no cover (the last try returns or raises)


async def run_to_end(session: AsyncSession, work: Coroutine[Any, Any, T], seconds: float = 3) -> T:
    """Runs a unit of work to its end, even if its request is cancelled.

    Raises DatabaseTimeout after `seconds`, while the work continues, or DatabaseUnavailable.
    """
    task = session.info["work"] = asyncio.create_task(work)
    # Without this, asyncio would log an error that no request waits for any more.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    with availability():
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)


async def pause_before_retry() -> None:
    """Pauses for 20 to 80 ms before a second try, at random so that retries do not coincide."""
    await asyncio.sleep(random.uniform(0.02, 0.08))  # noqa: S311 (no secret)
