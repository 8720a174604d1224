"""Downloads of the whole ranking, streamed from a database cursor in bounded memory."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import asyncpg
from starlette.types import Receive, Scope, Send

from cityweb.postgres import database
from cityweb.postgres.database import DriverConnection
from cityweb.web import errors
from cityweb.web.errors import Rejection

DOWNLOADS_MAX = 2
"""Downloads at once in one process; each holds its own connection outside the pool."""
DOWNLOAD_SECONDS = 600
"""The time limit of a download: its transaction keeps PostgreSQL from removing dead rows."""
ROWS = 500
EVERY_CITY = """
SELECT id, name, population, to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS created_at
FROM cities ORDER BY population DESC, -id DESC
"""
# Without a sort, PostgreSQL reads the rows from an index and sends the first one at once. SET LOCAL is needed because a
# pooler lends a connection for one transaction only.
READING = """
SET LOCAL jit = off; SET LOCAL enable_sort = off; SET LOCAL statement_timeout = '10s';
SET LOCAL idle_in_transaction_session_timeout = '60s'
"""
COLUMNS = ("rank", "id", "name", "population", "created_at")

Row = tuple[int, int, str, int, str]


@dataclass(frozen=True)
class Format:
    """The format of a file: `rows` renders a batch of rows, and `between` separates two batches."""

    name: str
    media_type: str
    begin: str
    rows: Callable[[Sequence[Row]], str]
    between: str
    end: str


def _render_csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    # Texts are quoted because some spreadsheets also split at a semicolon, and a stored name may have one.
    csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue()


def _render_json(rows: Sequence[Row]) -> str:
    return ",\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True)), ensure_ascii=False) for row in rows)


CSV = Format("cities.csv", "text/csv; charset=utf-8; header=present", ",".join(COLUMNS) + "\r\n", _render_csv, "", "")
JSON = Format("cities.json", "application/json", "[\n", _render_json, ",\n", "\n]\n")


class Downloads:
    """The running downloads of one process."""

    def __init__(self, connect: Callable[[], Awaitable[DriverConnection]], most: int = DOWNLOADS_MAX) -> None:
        self.connect, self.most = connect, most
        self._networks: set[bytes] = set()

    @asynccontextmanager
    async def connection(self, network: bytes) -> AsyncIterator[DriverConnection]:
        """A connection for the block, at most one per client network and `most` in all. Raises Rejection (503)."""
        if network in self._networks or len(self._networks) >= self.most:
            raise Rejection(503, errors.DOWNLOADS_FULL)
        self._networks.add(network)
        try:
            connection = await self.connect()
        except database.DRIVER_ERRORS:
            raise Rejection(503, errors.NOT_SHOWN) from None
        else:
            try:
                yield connection
            finally:
                connection.terminate()
        finally:
            self._networks.remove(network)


class Download:
    """The response that streams all cities in one format (RFC 4180, RFC 8259) until the client disconnects.

    `network` is the client network, `seconds` the time limit.
    """

    def __init__(self, downloads: Downloads, form: Format, network: bytes, seconds: float = DOWNLOAD_SECONDS) -> None:
        self.downloads, self.form, self.network, self.seconds = downloads, form, network, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the file. A failure or the time limit cuts the connection, so a partial file never looks complete."""
        headers = [
            (b"content-type", self.form.media_type.encode()),
            (b"content-disposition", f'attachment; filename="{self.form.name}"'.encode()),
            (b"cache-control", b"no-store"),
        ]
        start = {"type": "http.response.start", "status": 200, "headers": headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        async with self.downloads.connection(self.network) as connection, connection.transaction(readonly=True):
            await connection.execute(READING)
            cursor = await connection.cursor(EVERY_CITY)
            first = await cursor.fetch(ROWS)
            await send(start)
            disconnect = asyncio.create_task(left(receive))
            writing = asyncio.create_task(self.write(cursor, first, send))
            try:
                done, _ = await asyncio.wait(
                    (disconnect, writing), timeout=self.seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    raise TimeoutError
                if writing in done:
                    await writing
            finally:
                disconnect.cancel()
                writing.cancel()
                await asyncio.wait((disconnect, writing))
        if writing in done:
            # The end comes after the slot is released: a client with the whole file may start its next download.
            await send({"type": "http.response.body", "body": self.form.end.encode()})

    async def write(self, cursor: asyncpg.cursor.Cursor, rows: Sequence[asyncpg.Record], send: Send) -> None:
        """Sends the file without its end, at the speed of the client. Equal populations share a rank."""
        await send({"type": "http.response.body", "body": self.form.begin.encode(), "more_body": True})
        position, rank, last, between = 0, 0, None, ""
        while rows:
            ranked: list[Row] = []
            for id_, name, population, created_at in rows:
                position += 1
                if population != last:
                    rank, last = position, population
                ranked.append((rank, id_, name, population, created_at))
            body = (between + self.form.rows(ranked)).encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            between = self.form.between
            rows = await cursor.fetch(ROWS)


async def left(receive: Receive) -> None:
    """Returns when the client has disconnected; `send` does not report that."""
    while (await receive())["type"] != "http.disconnect":
        pass
