"""uvicorn's HTTP protocol with limits on the size and the duration of a request.

uvicorn has no timeout for receiving a request or for sending a response (its issue 157). This module depends on its
internals, so uvicorn is pinned exactly, and each limit has a test that fails if an update breaks it.
"""

import asyncio
import re
from functools import partial
from typing import Any, ClassVar

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from cityweb.web.errors import SENTENCES
from cityweb.web.middleware import BODY_BYTES, HEAD_BYTES, HEADERS

HEAD_SECONDS = 10.0
BODY_SECONDS = 20.0
UNREAD_SECONDS = 30.0
"""Time limits for receiving a head, for receiving a body, and for a response that the client does not read."""
HEADERS_MAX = 100
"""Headers per request: each takes a hundred bytes of memory in addition to its text."""
PIPELINE_MAX = 16
"""How many pipelined requests may wait on one connection. No real client sends so many."""
BODY_BYTES_SENT = 2**16
"""Bytes that a client may send for a body of at most `BODY_BYTES`: chunk sizes and trailers count too, because the
parser keeps a trailer of any length until it is complete. A body without them reaches its own limit long before."""
PART_COST = 64
"""Bytes counted in addition for each chunk and trailer: each takes about a microsecond, however short it is."""
PARSED_BYTES = 4096
"""Bytes that are parsed between two checks of the limits."""
SWEEP_SECONDS = 1.0
DRAIN_SECONDS = 0.5
"""How long an idle connection stays open during shutdown: its next request may be in transit."""


def error_response(status: str, sentence: str) -> bytes:
    """A complete error response, for input that never becomes a request to the application."""
    body = f"{sentence}\n".encode()
    headers = [
        *HEADERS,
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 " + status.encode() + b"\r\n" + lines + b"\r\n" + body


WITHOUT_PATH = re.compile(rb"^https?://[^/?#]+(?=[?#]|$)", re.IGNORECASE)
"""A target without a path means "/" (RFC 9112, 3.2.2). uvicorn 0.54.0 fails on it."""
BAD_REQUEST = error_response("400 Bad Request", SENTENCES[400])
HEAD_TOO_LONG = error_response("431 Request Header Fields Too Large", SENTENCES[431])


class TooMany(Exception):
    """A request has too many headers, or a connection too many waiting requests; raised to stop the parser."""


class GuardedProtocol(HttpToolsProtocol):
    """Closes a connection whose request is too large or too slow, or whose response is not read in time."""

    sweeping: ClassVar[bool] = False

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.since = self.unread = 0.0
        """When the wait for a request and the wait for the client to read began, in loop time; 0 if there is none."""
        self.limit = HEAD_SECONDS
        self.head = 0
        """Bytes received of the head; -1 once it is complete."""
        self.sent = 0
        """Bytes received after the head of an incomplete request: body, chunk sizes and extensions, trailers."""
        self.is_last = False
        """Whether further input is ignored: the connection ends with the response that is due."""
        self.serving: RequestResponseCycle | None = None
        """The request that is being served; `cycle` is the last one parsed, which may be queued behind it."""
        self.held = b""
        """The head of a response, held back until its body follows."""
        self.is_draining = False
        """Whether the process is shutting down: the next response of the connection is its last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time limit for the first request, and the sweep with the first connection."""
        super().connection_made(transport)
        self.since, self.limit = self.loop.time(), HEAD_SECONDS
        if not GuardedProtocol.sweeping:
            GuardedProtocol.sweeping = True
            self.loop.call_later(SWEEP_SECONDS, sweep, self.loop, self.connections)

    def data_received(self, data: bytes) -> None:
        """Parses in small parts, so that the limits are checked between them."""
        # The event loop reads up to 256 kB at once, which can contain 50,000 trailers or chunks.
        for start in range(0, len(data), PARSED_BYTES):
            self._parse(data[start : start + PARSED_BYTES])

    def _parse(self, data: bytes) -> None:
        if self.is_last or self.transport.is_closing():
            return
        if not self.since and self.head >= 0:
            self.since, self.limit = self.loop.time(), HEAD_SECONDS
        super().data_received(data)
        if self.since and self.head >= 0:
            self.head += len(data)
            if self.head > HEAD_BYTES:
                self.reject(HEAD_TOO_LONG)
        elif self.since:
            self.sent += len(data)
            if self.sent > BODY_BYTES_SENT:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Starts the time limit of a request, also of a pipelined one."""
        super().on_message_begin()
        # uvicorn replaces scope["client"] with the client IP that a trusted proxy forwards.
        self.scope["state"]["peer"] = self.client
        self.since, self.limit = self.loop.time(), HEAD_SECONDS

    def on_header(self, name: bytes, value: bytes) -> None:
        """Drops trailers (RFC 9110, 6.5.1), which the parser reports as headers. Raises TooMany."""
        if self.head < 0:
            self.sent += PART_COST
            return
        if len(self.headers) >= HEADERS_MAX:
            self.reject(HEAD_TOO_LONG)
            raise TooMany
        # The parser keeps trailing whitespace, which is not part of the value (RFC 9110, 5.5).
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        """Starts the time limit for the body. Raises TooMany."""
        self.head, self.since, self.limit, self.sent = -1, self.loop.time(), BODY_SECONDS, 0
        if len(self.pipeline) >= PIPELINE_MAX:
            self.transport.abort()
            raise TooMany
        if not self.url.startswith(b"/"):
            self.url = WITHOUT_PATH.sub(rb"\g<0>/", self.url)
        super().on_headers_complete()
        if self.is_draining:
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.serving = cycle
        # The cycle calls only `write`, `close` and `is_closing` of its transport.
        cycle.transport = self  # type: ignore[assignment]
        if cycle.scope["http_version"] == "1.0":
            cycle.send = partial(send_without_chunks, cycle)  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        """Ignores further input once a body is too long; the view rejects the request."""
        super().on_body(body)
        self.sent += PART_COST
        if len(self.cycle.body) > BODY_BYTES:
            self.is_last, self.cycle.keep_alive, self.since = True, False, 0.0
            super().on_message_complete()

    def on_message_complete(self) -> None:
        self.since, self.head = 0.0, 0
        super().on_message_complete()

    def write(self, data: bytes) -> None:
        """Writes for the request cycle, a head together with its body; uvicorn 0.54.0 writes each by itself."""
        if self.held:
            data, self.held = self.held + data, b""
        elif self.serving and self.serving.expected_content_length and self.serving.scope["method"] != "HEAD":
            self.held = data
            return
        self.transport.write(data)

    def close(self) -> None:
        self.transport.close()

    def is_closing(self) -> bool:
        return self.transport.is_closing()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps a half-closed connection (RFC 9112, 9.6) open until its responses are sent."""
        self.is_last = True
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()
        return self._is_responding()

    def shutdown(self) -> None:
        """Closes the connection after its next response, or soon if it is idle; uvicorn would close it at once."""
        self.is_draining = True
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self.loop.call_later(DRAIN_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if not (self.head or self._is_responding()):
            self.transport.close()

    def _is_responding(self) -> bool:
        """Whether a complete request still awaits the end of its response."""
        return self.serving is not None and not (self.serving.more_body or self.serving.response_complete)

    def pause_writing(self) -> None:
        """Starts the time limit for a client that does not read."""
        self.unread = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.unread = 0.0
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's words are not for people)
        self.reject(BAD_REQUEST)

    def reject(self, response: bytes) -> None:
        """Sends an error as the last response; if the response to a complete request is due, that one is the last."""
        self.is_last = True
        is_responding = self._is_responding()
        self.pipeline.clear()
        if is_responding or self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and not cycle.response_complete:
            # A view may be waiting for the rest of this body; its response is not sent.
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(response)
        self.transport.close()

    def on_response_complete(self) -> None:
        if self.is_last and not self.pipeline:
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the response that is being sent; uvicorn 0.54.0 ends only that of the last request."""
        if self.serving is not None and not self.serving.response_complete:
            self.serving.disconnected = True
            self.serving.message_event.set()
        super().connection_lost(exc)


async def send_without_chunks(cycle: RequestResponseCycle, message: Any) -> None:
    """Sends to an HTTP/1.0 client: the end of the connection ends a body of unknown length (RFC 9112, 6.1)."""
    cycle.chunked_encoding = False
    cycle.expected_content_length = len(message.get("body", b""))
    await RequestResponseCycle.send(cycle, message)


def sweep(loop: asyncio.AbstractEventLoop, connections: set[Any]) -> None:
    """Aborts connections whose time limit has passed. One scan a second costs less than a timer for each."""
    now = loop.time()
    for connection in list(connections):
        since, unread = connection.since, connection.unread
        if (since and now - since > connection.limit) or (unread and now - unread > UNREAD_SECONDS):
            connection.transport.abort()
    loop.call_later(SWEEP_SECONDS, sweep, loop, connections)
