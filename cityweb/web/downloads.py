"""Downloads of the whole ranking, streamed from a database cursor in bounded memory."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from sqlalchemy import URL
from starlette.types import Receive, Scope, Send

from cityweb.postgres import exports
from cityweb.postgres.exports import Fetch, RankedRow
from cityweb.web import errors
from cityweb.web.errors import Rejection

DOWNLOADS_MAX = 2
"""Downloads at once in one process; each holds its own connection outside the pool."""
DOWNLOAD_SECONDS = 600
"""The time limit of a download: its transaction keeps PostgreSQL from removing dead rows."""


@dataclass(frozen=True)
class Format:
    """The format of a file: `rows` renders a batch of rows, and `between` separates two batches."""

    name: str
    media_type: str
    begin: str
    rows: Callable[[Sequence[RankedRow]], str]
    between: str
    end: str


def _render_csv(rows: Sequence[RankedRow]) -> str:
    text = io.StringIO()
    # Texts are quoted because some spreadsheets also split at a semicolon, and a stored name may have one.
    csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue()


def _render_json(rows: Sequence[RankedRow]) -> str:
    return ",\n".join(json.dumps(dict(row), ensure_ascii=False) for row in rows)


CSV = Format(
    "cities.csv", "text/csv; charset=utf-8; header=present", ",".join(exports.COLUMNS) + "\r\n", _render_csv, "", ""
)
# Without a byte order mark, Excel does not read a file as UTF-8.
EXCEL = replace(CSV, name="cities-excel.csv", begin="\ufeff" + CSV.begin)
JSON = Format("cities.json", "application/json", "[\n", _render_json, ",\n", "\n]\n")


class Downloads:
    def __init__(self, url: URL, slots: int = DOWNLOADS_MAX) -> None:
        self.url, self.slots = url, slots
        self._networks: set[bytes] = set()

    @asynccontextmanager
    async def slot(self, network: bytes) -> AsyncIterator[tuple[Sequence[RankedRow], Fetch]]:
        """What `exports.reading` yields. A network has one slot. Raises DatabaseUnavailable or Rejection (503)."""
        if network in self._networks or len(self._networks) >= self.slots:
            raise Rejection(503, errors.DOWNLOADS_FULL)
        self._networks.add(network)
        try:
            async with exports.reading(self.url) as cities:
                yield cities
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
        async with self.downloads.slot(self.network) as (first, fetch):
            await send(start)
            disconnect = asyncio.create_task(wait_for_disconnect(receive))
            writing = asyncio.create_task(self.write(fetch, first, send))
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

    async def write(self, fetch: Fetch, rows: Sequence[RankedRow], send: Send) -> None:
        """Sends the file without its end, at the speed of the client."""
        await send({"type": "http.response.body", "body": self.form.begin.encode(), "more_body": True})
        between = ""
        while rows:
            body = (between + self.form.rows(rows)).encode()
            await send({"type": "http.response.body", "body": body, "more_body": True})
            between = self.form.between
            rows = await fetch()


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has disconnected; `send` does not report that."""
    while (await receive())["type"] != "http.disconnect":
        pass
