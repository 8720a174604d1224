"""The schema: its migrations, and whether the server keeps what is stored."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb.postgres import database
from cityweb.settings import COMMAND, OperatorError

MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATION_LOCK = 0x63697479
"""The advisory lock ("city" in ASCII) that a process holds while it changes the schema."""
UNSAFE_SETTINGS = ("fsync", "full_page_writes", "synchronous_commit")
RESET = (
    "DROP FUNCTION IF EXISTS cities_above, cities_changed, cities_counted, cities_worded, fold_tally CASCADE",
    "DROP FUNCTION IF EXISTS search_words, spaced, suffixes CASCADE",
    "DROP TABLE IF EXISTS cities, words, tally, tally_changes, adds, salts, alembic_version",
    "DROP TABLE IF EXISTS changes, network_keys, blocks",
)
"""Drops everything that any of the migrations created."""


class UnfitDatabase(OperatorError):
    """The server could lose stored cities, or its schema is old and this role may not migrate it."""


async def prepare(url: URL, seconds: float = database.CONNECT_SECONDS) -> None:
    """Checks the server, in `seconds` a statement, and migrates the schema if needed. Raises UnfitDatabase."""
    async with database.outside_the_pool(url, command_timeout=seconds).connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")  # no ROLLBACK waits for a hanging server
        await reject_unsafe(connection)
        if await is_current(connection):
            return
    try:
        await migrate(url)
    except DBAPIError as error:
        if database.sqlstate(error) != database.INSUFFICIENT_PRIVILEGE:
            raise
        raise UnfitDatabase(
            "The database has an older schema, which this role may not change:"
            f" run `{COMMAND} initdb` as the role that owns the tables."
        ) from error


async def migrate(url: URL) -> None:
    """Migrates the schema to the newest revision, one process at a time. Raises UnfitDatabase."""
    async with database.outside_the_pool(url).begin() as connection:
        await reject_unsafe(connection)
        await lock_schema(connection)
        was_current = await is_current(connection)
        await connection.run_sync(upgrade)
    if not was_current:
        await vacuum(url)


async def reset(url: URL) -> None:
    """Drops everything that the migrations created, and creates it again, empty."""
    async with database.outside_the_pool(url).begin() as connection:
        await lock_schema(connection)
        for statement in RESET:
            await connection.execute(text(statement))
        await connection.run_sync(upgrade)


async def lock_schema(connection: AsyncConnection) -> None:
    """Waits until no other process changes the schema, and removes the time limits of this transaction."""
    await remove_time_limits(connection)
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})


async def remove_time_limits(connection: AsyncConnection) -> None:
    """Removes the time limits of this transaction: a role that serves has some that are meant for requests."""
    await connection.execute(text("SET LOCAL statement_timeout = 0"))
    await connection.execute(text("SET LOCAL lock_timeout = 0"))


async def vacuum(url: URL) -> None:
    """Vacuums and analyses the cities and their tally, after a change of many.

    Before that, there are no index-only scans and no statistics for plans, and each rank reads what a bulk change left
    in `tally_changes`: 7 ms for a million cities. Raises the same errors as `connect`.
    """
    connection = await database.connect(url)
    try:
        await connection.execute("SET statement_timeout = 0")
        await connection.execute("VACUUM (ANALYZE) cities, tally, tally_changes")
    finally:
        await connection.close()


async def is_current(connection: AsyncConnection) -> bool:

    def revisions(synchronous: Connection) -> set[str]:
        return set(MigrationContext.configure(synchronous).get_current_heads())

    return await connection.run_sync(revisions) == set(ScriptDirectory(str(MIGRATIONS)).get_heads())


async def reject_unsafe(connection: AsyncConnection) -> None:
    """Raises UnfitDatabase if the server could lose committed changes."""
    for setting in UNSAFE_SETTINGS:
        if await connection.scalar(text("SELECT current_setting(:setting)"), {"setting": setting}) == "off":
            raise UnfitDatabase(
                f"The PostgreSQL server runs with {setting} = off and could lose cities that were stored:"
                f" set {setting} = on in its configuration and start again."
            )


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Runs the pending migrations up to a revision."""
    command.upgrade(configure(connection), revision)


def configure(connection: Connection) -> Config:
    """The configuration of Alembic's commands for a connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
