"""Slow and endless requests: F7, F8 and F12."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from torture.faults import timed
from torture.ground import Running, ground, memory
from torture.onlooker import onlooker
from torture.report import Report

CONNECTIONS = 2_000
CLOSED_SECONDS = 22
UNREAD_SECONDS = 32
HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
BODY = b"POST /cities/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 8000\r\n\r\n"
SLOW: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half a head": (HEAD, b""),
    "a dripping head": (HEAD, b"x"),
    "half a body": (BODY + b"{", b""),
    "a dripping body": (BODY, b"x"),
}
STOCK = """
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from cityweb.server import launch
launch.GuardedProtocol = HttpToolsProtocol
"""
"""Replaces our protocol with that of uvicorn."""


CHUNKED = BODY.replace(b"content-length: 8000", b"transfer-encoding: chunked")
ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "a target": (b"GET /", b"a"),
    "a header": (HEAD + b"a:", b"b"),
    "many tiny headers": (HEAD, b"a:b\r\n"),
    "requests": (b"", HEAD + b"\r\n"),
    "a body": (BODY.replace(b"8000", b"8000000000"), b"x"),
    "chunks": (CHUNKED, b"1000\r\n" + b"x" * 0x1000 + b"\r\n"),
    "one-byte chunks": (CHUNKED, b"1\r\nx\r\n"),
    "a chunk extension": (CHUNKED + b"1;a=", b"b"),
    "a trailer": (CHUNKED + b"0\r\na:", b"b"),
    "many trailers": (CHUNKED + b"0\r\n", b"a:b\r\n"),
}
"""The start of each request, and the part that is repeated without end."""
ENDLESS_CONNECTIONS = 200
ENDLESS_SECONDS = 60
ENDLESS_BYTES = 65_536
"""Bytes per write."""
CONTROL_BYTES = 100 * 2**20
"""The growth of memory at which the control ends."""


PIPELINED = 5
LONG_NAMES = """
INSERT INTO cities (name, name_key, name_bare, population)
SELECT n || name, n || name, n || name, n FROM generate_series(1, 20) n, (SELECT repeat('漢', 190) AS name)
"""
"""A board of about 20 kB, which soon fills every buffer."""


async def hold(port: int, first: bytes, drip: bytes, seconds: float) -> float | None:
    """The seconds until the server closes a slow connection; None if it does not."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            writer.write(first)
            while not reader.at_eof():
                writer.write(drip)
                with suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(4096)
            return time.monotonic() - begun
    except TimeoutError:
        return None
    except OSError:
        return time.monotonic() - begun
    finally:
        writer.transport.abort()


async def drag_out(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """F7: thousands of connections with slow requests, an endless head, and a pipeline of 5,000 requests."""
    async with ground() as here:
        server, stock = await here.start(), await here.start(before=STOCK)
        for _ in range(20):
            await timed(server, "/")
        async with onlooker(server.port) as pages, growth(server.process.pid) as grown:
            kinds = [SLOW[kind] for kind in SLOW for _ in range(CONNECTIONS // len(SLOW))]
            holding = [asyncio.create_task(hold(server.port, *kind, seconds=30)) for kind in kinds]
            controls = [
                asyncio.create_task(hold(stock.port, *kind, seconds=CLOSED_SECONDS + 3)) for kind in SLOW.values()
            ]
            closed = await asyncio.gather(*holding)
            head = await send_without_end(server, HEAD + b"x-filler: ", 200 * 2**20)
            pipeline = await send_without_end(server, (HEAD + b"\r\n") * 5_000, 0)
            opened = await asyncio.gather(*controls)
    late = sum(seconds is None for seconds in closed)
    longest = max((seconds for seconds in closed if seconds is not None), default=99.0)
    report.exactly(f"{len(closed):,} slow connections of 5 kinds: still open after 30 s", late, 0)
    report.at_most("… the last is closed", longest, CLOSED_SECONDS, "s")
    # Each slow body has a task of its own: about 12 kB per connection in all.
    report.at_most("… memory more, at the peak", max(grown) / 2**20, 30, "MB")
    report.at_most("… the page meanwhile, the slowest", 1000 * max(pages), 100, "ms")
    report.row(
        "… a head of 200 MB is rejected",
        "431 or cut, ≤ 8 MB taken, buffers of the system included",
        f"{head[0][9:12].decode() or 'cut'}, {head[1] / 2**20:.2f} MB",
        head[1] <= 2**23,
    )
    report.at_most("… 5,000 pipelined requests and their connection end", pipeline[2], CLOSED_SECONDS, "s")
    report.exactly("control on uvicorn's own protocol: still open, of 5", sum(seconds is None for seconds in opened), 5)


@asynccontextmanager
async def growth(pid: int) -> AsyncIterator[list[int]]:
    """The growth of the memory of a process in bytes, measured ten times per second until the block ends."""
    before, grown = memory(pid), [0]

    async def measure() -> None:
        while True:
            grown.append(memory(pid) - before)
            await asyncio.sleep(0.1)

    measuring = asyncio.create_task(measure())
    try:
        yield grown
    finally:
        measuring.cancel()


async def send_without_end(server: Running, first: bytes, more: int) -> tuple[bytes, int, float]:
    """The start of the response, the bytes that were taken, and the seconds until the connection ended."""
    begun, taken = time.monotonic(), 0
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    response = b""
    try:
        async with asyncio.timeout(20):
            writer.write(first)
            taken += len(first)
            while more > 0:
                writer.write(b"x" * 65_536)
                await writer.drain()
                taken, more = taken + 65_536, more - 65_536
            await writer.drain()
            response = await reader.read(4096)
            while await reader.read(65_536):
                pass
    except (OSError, TimeoutError):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                response = response or await reader.read(4096)
    finally:
        writer.transport.abort()
    return response, taken, time.monotonic() - begun


async def flood_endlessly(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """F12: connections that send one part of a request without end, and are replaced when they are cut."""
    async with ground() as here:
        server, stock = await here.start(), await here.start(before=STOCK)
        for _ in range(20):
            await timed(server, "/")
        end = time.monotonic() + ENDLESS_SECONDS
        async with growth(server.process.pid) as grown, onlooker(server.port) as pages:
            kinds = [*ENDLESS.values()] * (ENDLESS_CONNECTIONS // len(ENDLESS))
            sent = await asyncio.gather(*(flood(server.port, *kind, end) for kind in kinds))
        connections, taken = (sum(numbers) for numbers in zip(*sent, strict=True))
        async with growth(stock.process.pid) as grown_stock:
            flooding = asyncio.create_task(flood(stock.port, *ENDLESS["many trailers"], time.monotonic() + 30))
            while not flooding.done() and max(grown_stock) < CONTROL_BYTES:
                await asyncio.sleep(0.01)
            flooding.cancel()
    report.at_most(
        f"{len(kinds)} connections send {len(ENDLESS)} parts of a request without end for {ENDLESS_SECONDS} s"
        f" ({connections:,} times, {taken / 2**30:.1f} GB taken): memory more, at the peak",
        max(grown) / 2**20,
        30,
        "MB",
    )
    # All 200 send continuously, on the same two cores: the page waits for one turn of each.
    report.at_most("… the page meanwhile, the slowest", 1000 * max(pages), 1000, "ms")
    report.at_least(
        "control: trailers on uvicorn's own protocol, one connection: memory more",
        max(grown_stock) / 2**20,
        CONTROL_BYTES / 2**20,
        "MB",
    )


async def flood(port: int, first: bytes, more: bytes, end: float) -> tuple[int, int]:
    """Sends until `end` on the monotonic clock. Returns the number of connections used and the bytes taken."""
    part = more * (ENDLESS_BYTES // len(more))
    connections = taken = 0
    while time.monotonic() < end:
        connections += 1
        writer = None
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + end - time.monotonic()):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(first)
                while True:
                    writer.write(part)
                    await writer.drain()
                    taken += len(part)
        if writer:
            writer.transport.abort()
    return connections, taken


async def never_read(report: Report, seed: int) -> None:  # noqa: ARG001 (a row)
    """F8: clients that pipeline requests for the page and never read the responses."""
    async with ground() as here:
        await here.sql(LONG_NAMES)
        server = await here.start()
        for _ in range(20):
            await timed(server, "/")
        before = memory(server.process.pid)
        clients = []
        for _ in range(100):
            connection = socket.socket()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            clients.append(connection)
        begun = full = time.monotonic()
        peak, unread = before, dict.fromkeys((connection.getsockname()[1] for connection in clients), -1)
        while time.monotonic() - begun < 90 and (waits := waiting(server.port)):
            peak = max(peak, memory(server.process.pid))
            for connection in clients:
                number = connection.getsockname()[1]
                # The buffers of the system still take more, so none of ours is full yet.
                if waits.get(number, -1) > unread[number]:
                    unread[number], full = waits[number], time.monotonic()
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n" * PIPELINED)
            await asyncio.sleep(0.3)
        seconds = time.monotonic() - full
        for connection in clients:
            connection.close()
    report.exactly("100 readers who never read: still open after 90 s", len(waits), 0)
    report.row(
        "… the last is cut, after its response lay unread",
        f"20 to {UNREAD_SECONDS} s", f"{seconds:.2f} s", 20 <= seconds <= UNREAD_SECONDS,
    )  # fmt: skip
    report.at_most("… memory more for each", (peak - before) / 100 / 2**20, 1, "MB")


def waiting(port: int) -> dict[int, int]:
    """The unread bytes from a server in the buffers of the system, by the port of each client."""
    with open("/proc/net/tcp") as table:  # noqa: PTH123 (a file of the kernel)
        lines = [line.split() for line in table][1:]
    return {
        int(there.rpartition(":")[2], 16): int(queues.partition(":")[0], 16)
        for _, here, there, state, queues, *_ in lines
        if here.endswith(f":{port:04X}") and state in {"01", "08"}
    }
