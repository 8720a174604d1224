"""A visitor in a process of its own: what the page takes is then the server's time, not that of whoever torments it.

`python -m torture.onlooker PORT` asks for the page, each time on a new connection, until its input ends; then it
prints the seconds that each took, as JSON. With RATE as well it asks so often a second, over kept connections, and
prints when each began, its seconds and its status.
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
    """One look at the page: when it began by `time.monotonic`, how long it took, its status; 0 where there is none."""

    begun: float
    seconds: float
    status: int


@asynccontextmanager
async def onlooker(port: int) -> AsyncIterator[list[float]]:
    """In how many seconds the page came, each time while this lasted; filled at its end."""
    seconds: list[float] = []
    async with _started(port) as said:
        yield seconds
    seconds += json.loads(said[0])


@asynccontextmanager
async def readers(port: int) -> AsyncIterator[list[Read]]:
    """What 500 readers a second saw while this lasted; filled at its end."""
    reads: list[Read] = []
    async with _started(port, RATE) as said:
        yield reads
    reads += [Read(*read) for read in json.loads(said[0])]


@asynccontextmanager
async def _started(*arguments: int) -> AsyncIterator[list[bytes]]:
    """The process, until the block is left; then its words."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torture.onlooker", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said: list[bytes] = []
    try:
        yield said
        said += await process.communicate(b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def look(port: int) -> float:
    """How long the page takes: to connect, to ask, and to read it to its end. Raises OSError."""
    begun, answer = time.monotonic(), b""
    with socket.create_connection(("127.0.0.1", port), timeout=LONGEST_SECONDS) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        while part := connection.recv(65_536):
            answer += part
    if not answer.startswith(b"HTTP/1.1 200 ") or not answer.rstrip().endswith(b"</html>"):
        raise ConnectionError(f"this is no page: {answer[:80]!r}")
    return time.monotonic() - begun


async def look_often(port: int, rate: int) -> list[Read]:
    """Looks so often a second, over kept connections, until the input ends."""
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
    """Looks until its input ends."""
    port, seconds = int(sys.argv[1]), []
    if len(sys.argv) > 2:
        print(json.dumps(uvloop.run(look_often(port, int(sys.argv[2])))))
        return
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        seconds.append(look(port))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
