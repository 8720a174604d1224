"""Reads every city with its rank, some at a time, for downloads."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import asyncpg
from sqlalchemy import URL

from cityweb.postgres import database
from cityweb.postgres.database import DatabaseUnavailable

FETCHED = 500
"""Cities that a download reads at once."""

RankedRow = asyncpg.Record
Fetch = Callable[[], Awaitable[Sequence[RankedRow]]]

COLUMNS = ("rank", "id", "name", "population", "created_at", "country")
CREATED_AT = """to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS created_at"""
EVERY_CITY = f"""
SELECT rank() OVER (ORDER BY population DESC), {", ".join(COLUMNS[1:]).replace("created_at", CREATED_AT)}
FROM cities ORDER BY population DESC, -id DESC
"""  # noqa: S608 (no value is put in)
# Without a sort, PostgreSQL reads the rows from an index and sends the first one at once. SET LOCAL is needed because a
# pooler lends a connection for one transaction only.
READING = """
SET LOCAL jit = off; SET LOCAL enable_sort = off; SET LOCAL statement_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '60s'
"""


@asynccontextmanager
async def reading(url: URL) -> AsyncIterator[tuple[Sequence[RankedRow], Fetch]]:
    """The first 500 cities with `COLUMNS`, and a function that reads the next ones. Raises DatabaseUnavailable.

    It reads as of one moment, on a connection of its own. The function raises the errors of asyncpg.
    """
    async with AsyncExitStack() as stack:
        try:
            connection = await database.connect(url)
            stack.callback(connection.terminate)
            await stack.enter_async_context(connection.transaction(readonly=True))
            await connection.execute(READING)
            cursor = await connection.cursor(EVERY_CITY)
            first = await cursor.fetch(FETCHED)
        except database.DRIVER_ERRORS as error:
            raise DatabaseUnavailable from error
        yield first, partial(cursor.fetch, FETCHED)
