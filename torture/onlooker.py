"""A visitor in a process of its own, so that its times measure the server and not the row that loads it.

`python -m torture.onlooker PORT` requests the page, each time on a new connection, until its input ends; then it
prints the seconds of each request, as JSON. With RATE, it sends that many requests per second over open connections,
and prints the start, the seconds and the status of each.
"""

import asyncio
import json
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import uvloop

from torture.visitor import Visitor

PAUSE_SECONDS = 0.1
LONGEST_SECONDS = 15


CONNECTIONS = 25
RATE = 500


class Read(NamedTuple):
    """One request for the page: its start on the monotonic clock, its seconds, and its status, or 0 if it failed."""

    begun: float
    seconds: float
    status: int


@asynccontextmanager
async def onlooker(port: int) -> AsyncIterator[list[float]]:
    """The seconds of each request for the page until the block ends; the list is filled then."""
    seconds: list[float] = []
    async with _started(port) as output:
        yield seconds
    seconds += json.loads(output[0])


@asynccontextmanager
async def readers(port: int) -> AsyncIterator[list[Read]]:
    """500 requests for the page per second until the block ends; the list is filled then."""
    reads: list[Read] = []
    async with _started(port, RATE) as output:
        yield reads
    reads += [Read(*read) for read in json.loads(output[0])]


@asynccontextmanager
async def _started(*arguments: int) -> AsyncIterator[list[bytes]]:
    """Runs this module as a process until the block ends; the list has its output then."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torture.onlooker", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    output: list[bytes] = []
    try:
        yield output
        output += await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def look(port: int) -> float:
    """The seconds to connect, to request the page and to read it to its end. Raises OSError."""
    begun, response = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        while part := connection.recv(65_536):
            response += part
    if not response.startswith(b"HTTP/1.1 200 ") or not response.rstrip().endswith(b"</html>"):
        raise ConnectionError(f"this is no page: {response[:80]!r}")
    return time.monotonic() - begun


async def look_often(port: int, rate: int) -> list[Read]:
    """Requests the page this often per second, over open connections, until the input ends."""
    reads: list[Read] = []
    over = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

    async def read(first: float) -> None:
        async with Visitor(port) as visitor:
            await asyncio.sleep(first)
            while not over.done():
                begun, status = time.monotonic(), 0
                try:
                    status = (await visitor.get("/")).status
                finally:
                    reads.append(Read(begun, time.monotonic() - begun, status))
                await asyncio.sleep(begun + CONNECTIONS / rate - time.monotonic())

    await asyncio.gather(*(read(number / rate) for number in range(CONNECTIONS)), return_exceptions=True)
    return reads


def main() -> None:
    port, seconds = int(sys.argv[1]), []
    if len(sys.argv) > 2:
        print(json.dumps(uvloop.run(look_often(port, int(sys.argv[2])))))
        return
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        seconds.append(look(port))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
