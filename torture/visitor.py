"""An HTTP client on one open connection: small, so that measurements show the server and not the client."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self


@dataclass(frozen=True)
class Response:
    """A complete response; the names of its headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Visitor:
    """Sends one request after another on its connection, which is opened when it is needed.

    A broken connection raises OSError or EOFError; the next request opens another.
    """

    def __init__(self, port: int, address: str = "127.0.0.1", seconds: float = 15) -> None:
        self.port, self.address, self.seconds = port, address, seconds
        self.answered = 0
        """Responses received on this connection."""
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._writer:
            self._writer.transport.abort()
        self._reader = self._writer = None
        self.answered = 0

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if not self._reader or not self._writer:
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self.port, local_addr=(self.address, 0) if self.address != "127.0.0.1" else None
            )
        return self._reader, self._writer

    async def get(self, path: str) -> Response:
        return await self.ask(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())

    async def add(self, name: str, population: int, place: str = "") -> Response:
        """Adds a city as JSON, like a program."""
        return await self.post(
            "/cities/", {"name": name, "population": population, **({"place": place} if place else {})}
        )

    async def post(self, path: str, values: Mapping[str, object]) -> Response:
        """Sends values as JSON."""
        body = json.dumps(values).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return await self.ask(head.encode() + body)

    async def ask(self, request: bytes) -> Response:
        try:
            async with asyncio.timeout(self.seconds):
                reader, writer = await self.connect()
                writer.write(request)
                first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
        except BaseException:
            self.close()
            raise
        self.answered += 1
        if headers.get("connection") == "close":
            self.close()
        return Response(int(first.split()[1]), headers, body)


def address(number: int) -> str:
    """One of many loopback IPs of this machine."""
    return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}"
