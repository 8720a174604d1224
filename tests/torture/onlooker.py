"""A visitor in a process of its own: what the page takes is then the server's time, not that of whoever torments it.

`python -m tests.torture.onlooker PORT` asks for the page, each time on a new connection, until its input ends; then it
prints the seconds that each took, as JSON.
"""

import asyncio
import json
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PAUSE_SECONDS = 0.1
LONGEST_SECONDS = 15


@asynccontextmanager
async def onlooker(port: int) -> AsyncIterator[list[float]]:
    """In how many seconds the page came, each time while this lasted; filled at its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.torture.onlooker", str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    seconds: list[float] = []
    try:
        yield seconds
        said, _ = await process.communicate(b"")
        seconds += json.loads(said)
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


def main() -> None:
    """Looks until its input ends."""
    port, seconds = int(sys.argv[1]), []
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        seconds.append(look(port))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
