"""P5: open pages that poll like htmx, each every three seconds on its own connection."""

import asyncio
import os
import random
import re
import time
from pathlib import Path

import httpx

PAGES = 2_000
PERIOD_SECONDS = 3.0
SEEN = re.compile(rb'name="seen" value="([0-9a-f]+)"')


class Page:
    """An open page: its connection, and the board that it shows."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.seen, self.board = b"", b""

    async def poll(self) -> None:
        """Polls once. Raises OSError or EOFError if the connection ends."""
        self.writer.write(b"GET /board?seen=" + self.seen + b" HTTP/1.1\r\nhost: localhost\r\n\r\n")
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 204"):
            length = re.search(rb"content-length: (\d+)", head)
            self.board = await self.reader.readexactly(int(length[1]) if length else 0)
            self.seen = SEEN.search(self.board)[1]  # type: ignore[index]

    async def live(self, over: asyncio.Event) -> None:
        """Polls until `over` is set, from a random moment on, because visitors arrive at different times."""
        await asyncio.sleep(random.uniform(0, PERIOD_SECONDS))
        while not over.is_set():
            begun = time.monotonic()
            await self.poll()
            await asyncio.sleep(begun + PERIOD_SECONDS - time.monotonic())
        self.writer.transport.abort()


async def measure(url: str, pid: int, seconds: float) -> tuple[float, float, float, float]:
    """Measures what many open pages cost a process.

    Returns its share of a core without changes and with an add per second, the seconds until the last page shows a
    change, and the bytes per page.
    """
    port, over = int(url.rpartition(":")[2]), asyncio.Event()
    before = memory(pid)
    pages = [Page(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(PAGES)]
    polling = [asyncio.create_task(page.live(over)) for page in pages]
    await asyncio.sleep(2 * PERIOD_SECONDS)
    each = (memory(pid) - before) / PAGES
    async with httpx.AsyncClient(base_url=url) as client:

        async def add(name: str, population: int) -> None:
            response = await client.post("/cities/", json={"name": name, "population": population})
            response.raise_for_status()

        quiet = await share(pid, seconds)
        adding = asyncio.create_task(share(pid, seconds))
        number = 0
        while not adding.done():
            number += 1
            await add(f"Busy {number}", 50_000_000 + number)
            await asyncio.sleep(1)
        begun = time.monotonic()
        await add("Atlantis", 99_999_999)
        while not all(b"Atlantis" in page.board for page in pages):  # noqa: ASYNC110 (an event for each costs more)
            await asyncio.sleep(0.01)
        latest = time.monotonic() - begun
    over.set()
    await asyncio.gather(*polling)
    return quiet, await adding, latest, each


async def share(pid: int, seconds: float) -> float:
    """The share of one core that a process uses during this time."""
    before, begun = cpu_seconds(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - begun)


def cpu_seconds(pid: int) -> float:
    """The CPU time of a process in seconds, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """The resident memory of a process in bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
