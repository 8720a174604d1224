"""A proxy in front of PostgreSQL that breaks connections, modelled on Shopify's Toxiproxy."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sqlalchemy import URL

STORED = b"INSERT 0 1\0"
"""The end of PostgreSQL's message CommandComplete for one row that is stored and committed."""


class Proxy:
    """Forwards everything until a fault is set. `url` is the database through the proxy, over TLS if `tls` is set."""

    def __init__(self, database: URL, tls: ssl.SSLContext | None = None) -> None:
        self.database, self.tls = database, tls
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._open = asyncio.Event()
        self._open.set()
        self._down = False
        self.answers_to_lose = 0
        self.lost = 0

    @property
    def url(self) -> URL:
        query = {key: value for key, value in self.database.query.items() if key not in {"host", "port"}}
        if not self.tls:
            # asyncpg 0.32.0 leaves an exception unretrieved if its request to cancel a query ends during TLS.
            query = {"sslmode": "disable", **query}
        return self.database.set(host="127.0.0.1", port=self._port, query=query)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._server
        # A server that closes while it accepts a connection leaks the connection (Python 3.11.7;
        # https://github.com/python/cpython/issues/109564). So the server first stops accepting, and each accepted
        # connection becomes a task within five turns of the loop.
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening)
        for _ in range(5):
            await asyncio.sleep(0)
        self._server.close()
        self._open.set()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def down(self) -> None:
        """Resets every connection, also each new one."""
        self._down = True
        self.reset()

    def up(self) -> None:
        """Forwards everything again."""
        self._down = False
        self._open.set()

    def swallow(self) -> None:
        """Accepts everything and forwards nothing, like a black hole."""
        self._open.clear()

    def reset(self) -> None:
        """Resets every open connection."""
        for writer in list(self._writers):
            _abort(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._open.wait()
            if self._down:
                return
            if self.tls:
                await reader.readexactly(8)  # SSLRequest, which starts TLS in PostgreSQL's protocol
                writer.write(b"S")
                await writer.start_tls(self.tls)
            there_reader, there = await self._connect()
            self._writers.add(there)
            ends = (self._pass(reader, there), self._pass(there_reader, writer, self._loses))
            await asyncio.wait([asyncio.ensure_future(end) for end in ends], return_when=asyncio.FIRST_COMPLETED)
            _abort(there)
            self._writers.discard(there)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            _abort(writer)
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        folder = self.database.query.get("host")
        if folder:
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{self.database.query.get('port', 5432)}")
        return await asyncio.open_connection(self.database.host, self.database.port or 5432)

    def _loses(self, chunk: bytes) -> bool:
        if self.answers_to_lose and STORED in chunk:
            self.answers_to_lose -= 1
            self.lost += 1
            return True
        return False

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[bytes], bool] | None = None
    ) -> None:
        try:
            while chunk := await reader.read(65_536):
                await self._open.wait()
                if loses and loses(chunk):
                    return
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass


def _abort(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection and connection.family != socket.AF_UNIX and connection.fileno() >= 0:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
