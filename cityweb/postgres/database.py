"""The database: its engine, its schema, and which of its errors mean "not now"."""

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
ADD_CONNECTIONS = 5  # not two: commits that come together share a flush to the disk
"""Connections of one process in a pool of their own, the limiter's included: slow reads never keep an add waiting."""
PATIENCE_SECONDS = 2
"""How long one connection attempt, one statement or one wait for the pool may take."""
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x63697479
"""The advisory lock, "city", that lets one process at a time change the schema."""
UNSAFE_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")

DRIVER_ERRORS = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What a connection outside the pools raises where the database cannot do its work."""
INSUFFICIENT_PRIVILEGE = "42501"
RESET = (
    "DROP FUNCTION IF EXISTS cities_above, cities_changed, cities_counted, cities_worded, fold_tally CASCADE",
    "DROP FUNCTION IF EXISTS search_words, spaced, suffixes CASCADE",
    "DROP TABLE IF EXISTS cities, words, tally, tally_changes, adds, salts, alembic_version",
)
"""Drops what any of the migrations made."""

T = TypeVar("T")


class DatabaseUnavailable(Exception):
    """The database cannot do its work now; the cause is what it, the driver or the network raised."""


class DatabaseTimeout(DatabaseUnavailable):
    """The database did not say in time what became of the work: it may be done."""


class OldSchema(Exception):
    """The schema is not the one this code was written for, and this role may not change it."""


class Unsafe(Exception):
    """The server would lose what it said it stored; the text names the setting and the way out."""


def make_engine(url: URL, connections: int = READ_CONNECTIONS) -> AsyncEngine:
    """A pool of at most `connections` connections for requests; every wait in it is bounded.

    A statement is its own transaction: nothing that a request does needs two, and BEGIN and COMMIT are round trips too.
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
    """A connection, for every purpose: the parameters of the URL have libpq's names and meanings (docs/settings.md).

    SQLAlchemy would pass them as arguments, which have other names; asyncpg itself reads a URL as libpq does.
    Raises OSError (ssl.SSLError is one), TimeoutError, asyncpg.PostgresError or asyncpg.InterfaceError.
    """
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    # No other settings: a pooler rejects most.
    settings = {"application_name": str(url.query.get("application_name", "cityweb"))}
    try:
        return await asyncpg.connect(
            plain, timeout=PATIENCE_SECONDS, command_timeout=command_timeout, server_settings=settings
        )
    except (UnicodeError, OverflowError) as error:  # a host that no name can be, a port above 65535
        raise asyncpg.ClientConfigurationError(str(error)) from error


# --- the schema ---


async def prepare(url: URL) -> None:
    """Makes sure of a safe server and the newest schema. Raises Unsafe; OldSchema where this role may not migrate."""
    async with outside_the_pool(url, command_timeout=PATIENCE_SECONDS).connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")  # nothing to roll back where it falls silent
        await refuse_unsafe(connection)
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
    """Brings the schema to its newest revision, one process at a time. Raises Unsafe."""
    async with outside_the_pool(url).begin() as connection:
        await refuse_unsafe(connection)
        await lock_schema(connection)
        was_current = await is_current(connection)
        await connection.run_sync(upgrade)
    if not was_current:
        await vacuum(url)


async def reset(url: URL) -> None:
    """Drops everything that the migrations made, and makes it anew, empty."""
    async with outside_the_pool(url).begin() as connection:
        await lock_schema(connection)
        for statement in RESET:
            await connection.execute(text(statement))
        await connection.run_sync(upgrade)


async def lock_schema(connection: AsyncConnection) -> None:
    """Waits until nobody else changes the schema. From here on, nothing in this transaction has a time limit."""
    # A role that owns the tables and serves has timeouts for the site.
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    await connection.execute(text("SET LOCAL lock_timeout = 0"))
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})


async def vacuum(url: URL) -> None:
    """Has PostgreSQL look at all cities: until then an index cannot answer alone, and plans are guessed.

    Raises what `connect` does.
    """
    connection = await connect(url)
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("VACUUM (ANALYZE) cities")
    finally:
        await connection.close()


async def is_current(connection: AsyncConnection) -> bool:
    """Whether the schema is the one this code was written for."""

    def revisions(synchronous: Connection) -> set[str]:
        return set(MigrationContext.configure(synchronous).get_current_heads())

    return await connection.run_sync(revisions) == set(ScriptDirectory(str(MIGRATIONS)).get_heads())


async def refuse_unsafe(connection: AsyncConnection) -> None:
    """Raises Unsafe where the server may forget what it acknowledged."""
    for setting in UNSAFE_SETTINGS:
        if await connection.scalar(text("SELECT current_setting(:setting)"), {"setting": setting}) == "off":
            raise Unsafe(
                f"The PostgreSQL server runs with {setting} = off and could lose cities that were stored:"
                f" set {setting} = on in its configuration and start again."
            )


def outside_the_pool(url: URL, *, command_timeout: float | None = None) -> AsyncEngine:
    """Single connections, for work that takes as long as it takes."""
    creator = partial(connect, url, command_timeout=command_timeout)
    return create_async_engine(url, async_creator=creator, hide_parameters=True, poolclass=NullPool)


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs the migrations up to a revision that have not run yet."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


# --- what an error means ---


def wrong_url(error: BaseException) -> str:
    """Why the database cannot be reached as its URL demands, its TLS above all; nothing where the URL is not to blame.

    The reason has no password.
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


def disconnected(error: BaseException) -> bool:
    """Whether the connection broke, so that harmless work may be tried once more at once."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or sqlstate(error).startswith(("08", "57P0"))
    return isinstance(error, ConnectionError)


def unavailable(error: BaseException) -> bool:
    """Whether the database cannot do its work now: an answer of 503, where any other error is our bug."""
    if isinstance(error, DBAPIError):
        return (
            disconnected(error)
            or isinstance(error, InterfaceError)
            or sqlstate(error).startswith(("25006", "28", "3D", "42P01", "53", "55P03", "57", "58"))
        )
    return isinstance(error, PoolTimeout | OSError | TimeoutError)


@contextmanager
def availability() -> Iterator[None]:
    """Raises DatabaseTimeout or DatabaseUnavailable for what means that; any other error is our bug."""
    try:
        yield
    except Exception as error:
        if not unavailable(error):
            raise
        raise (DatabaseTimeout if isinstance(error, TimeoutError) else DatabaseUnavailable) from error


def sqlstate(error: DBAPIError) -> str:
    """The five characters of PostgreSQL's error code (its appendix A), or none."""
    return str(getattr(error.orig, "sqlstate", None) or "")


# --- a unit of work ---


async def read(engine: AsyncEngine, question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """What a question gives: on a connection of its own, and again where that breaks. Raises DatabaseUnavailable."""
    with availability():
        for last_try in (False, True):
            try:
                async with engine.connect() as connection:
                    return await question(connection)
            except (DBAPIError, ConnectionError) as error:
                if last_try or not disconnected(error):
                    raise
    raise AssertionError  # pragma: no cover (the last try returns or raises)


async def unbroken(session: AsyncSession, work: Coroutine[Any, Any, T], seconds: float = 3) -> T:
    """Runs a unit of work to its end, even where its request is cancelled.

    Raises DatabaseTimeout when that takes long, or DatabaseUnavailable.
    """
    task = session.info["work"] = asyncio.create_task(work)
    # Where nobody waits any more, nobody is left to be told of its error.
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    with availability():
        async with asyncio.timeout(seconds):
            return await asyncio.shield(task)


async def breathe() -> None:
    """The short, uneven pause before a second try."""
    await asyncio.sleep(random.uniform(0.02, 0.08))  # noqa: S311 (no secret)
