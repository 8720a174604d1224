"""The open live streams: one slot a reader, never more than were allowed, all ended at once when the process stops."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive, Scope, Send

BEAT_SECONDS = 15
"""After so long a silence a comment is sent, so that no proxy takes the stream for dead."""
COMMENT = b": still here\n\n"


class TooManyFromAddress(Exception):
    """One address has as many streams as it may have."""


class Full(Exception):
    """The process has as many streams as it may have, or is stopping."""


class Reader:
    """A queue of one: always the newest event, so that a slow reader skips to it."""

    def __init__(self, event: bytes) -> None:
        self.newest: bytes | None = event
        self.ended = False
        self._wake = asyncio.Event()
        self._wake.set()

    def put(self, event: bytes) -> None:
        """Replaces what waits."""
        self.newest = event
        self._wake.set()

    def end(self) -> None:
        """Ends the stream, whatever waits."""
        self.ended = True
        self._wake.set()

    async def next(self) -> bytes | None:
        """The newest event, a comment after a long silence, or None at the end."""
        try:
            async with asyncio.timeout(BEAT_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return COMMENT
        self._wake.clear()
        event, self.newest = self.newest, None
        return None if self.ended else event


class Streams:
    """All readers of one process."""

    def __init__(self, per_address: int, per_process: int) -> None:
        self.per_address, self.per_process = per_address, per_process
        self.closed = False
        self._readers: set[Reader] = set()
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._readers)

    @contextmanager
    def reader(self, address: str, first: bytes) -> Iterator[Reader]:
        """A reader of this address until the block is left. Raises TooManyFromAddress and Full."""
        if self.closed or len(self._readers) >= self.per_process:
            raise Full
        if self._addresses[address] >= self.per_address:
            raise TooManyFromAddress
        reader = Reader(first)
        self._readers.add(reader)
        self._addresses[address] += 1
        try:
            yield reader
        finally:
            self._readers.discard(reader)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def publish(self, event: bytes) -> None:
        """Gives every reader the newest event."""
        for reader in self._readers:
            reader.put(event)

    def close(self) -> None:
        """Ends every stream, for good: whoever comes later is turned away."""
        self.closed = True
        for reader in self._readers:
            reader.end()


class EventStream:
    """The answer that sends one reader's events (HTML Standard, 9.2) until it leaves or the streams are closed."""

    def __init__(self, streams: Streams, address: str, first: bytes) -> None:
        self.streams, self.address, self.first = streams, address, first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends events until the stream ends."""
        with self.streams.reader(self.address, self.first) as reader:
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            if scope["method"] != "HEAD":
                leaving = asyncio.create_task(left(receive))
                leaving.add_done_callback(lambda _: reader.end())
                try:
                    while event := await reader.next():
                        await send({"type": "http.response.body", "body": event, "more_body": True})
                finally:
                    leaving.cancel()
            await send({"type": "http.response.body", "body": b""})


HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would keep events back
]


async def left(receive: Receive) -> None:
    """Returns when the client has gone; sending to it would not tell."""
    while (await receive())["type"] != "http.disconnect":
        pass


def event(id: str, document: str) -> bytes:  # noqa: A002 (the field's name in the standard)
    """An unnamed event of these lines."""
    lines = "".join(f"data: {line}\n" for line in document.splitlines())
    return f"{RETRY}id: {id}\n{lines}\n".encode()


RETRY = "retry: 1000\n"
"""Asks a browser that lost the stream to come back after a second."""
NOTHING_NEW = f"{RETRY}\n".encode()
"""How a stream begins whose reader shows the newest event already."""
