"""The deadlines of the server's protocol, on a real socket; limits shortened."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cityweb import guard
from cityweb.guard import GuardedProtocol
from cityweb.middleware import HEADERS


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body to its end and answers; at /endless it never stops answering."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while scope["path"] == "/endless" and GuardedProtocol.connections_of_loop:
        await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"whole"})


@asynccontextmanager
async def serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[int]:
    """The port of a server in this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield listening.getsockname()[1]
    server.should_exit = True
    await task


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(guard, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(guard, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(guard, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(GuardedProtocol, "sweeping", False)
    async with serving(GuardedProtocol) as port:
        yield port


HEAD = b"GET / HTTP/1.1\r\nhost: localhost\r\n"
SLOW: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half a head": (HEAD, b""),
    "a dripping head": (HEAD, b"x"),
    "half a body": (HEAD + b"content-length: 100\r\n\r\nhalf", b""),
    "a dripping body": (HEAD + b"content-length: 100000\r\n\r\n", b"x"),
}


async def closed_within(port: int, first: bytes, drip: bytes, seconds: float) -> bool:
    """Whether the server closes a connection that sends a little, and then little by little."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(seconds):
            writer.write(first)
            while not reader.at_eof():
                writer.write(drip)
                try:
                    async with asyncio.timeout(0.05):
                        await reader.read(1)
                except TimeoutError:
                    continue
            return True
    except (TimeoutError, ConnectionError) as error:
        return isinstance(error, ConnectionError)
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("kind", SLOW)
async def test_a_request_that_does_not_come_is_not_waited_for(port: int, kind: str) -> None:
    assert await closed_within(port, *SLOW[kind], seconds=2)


@pytest.mark.parametrize("kind", SLOW)
async def test_without_the_guard_it_would_be(kind: str) -> None:
    async with serving(HttpToolsProtocol) as port:
        assert not await closed_within(port, *SLOW[kind], seconds=0.8)


async def exchange(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(3):
            writer.write(request)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_request_in_time_is_answered_and_its_connection_kept(port: int) -> None:
    answers = await exchange(port, HEAD + b"\r\n" + HEAD + b"connection: close\r\n\r\n")
    assert answers.count(b"whole") == 2


async def test_a_head_without_end_is_refused(port: int) -> None:
    answer = await exchange(port, HEAD + (b"x-filler: " + b"x" * 500 + b"\r\n") * 34)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert all(name + b": " + value in answer for name, value in HEADERS)


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n"])
async def test_what_is_no_http_is_refused_in_our_words(port: int, junk: bytes) -> None:
    answer = await exchange(port, junk)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"The request could not be read." in answer
    assert all(name + b": " + value in answer for name, value in HEADERS)


async def test_a_reader_that_never_reads_is_cut(port: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    writer.write(HEAD.replace(b"/ ", b"/endless ", 1) + b"\r\n")
    await until_gone(lambda: len(GuardedProtocol.connections_of_loop))
    writer.transport.abort()
    assert not GuardedProtocol.connections_of_loop


async def until_gone(count: Callable[[], int]) -> None:
    async with asyncio.timeout(5):
        while not count():
            await asyncio.sleep(0.01)
        while count():
            await asyncio.sleep(0.01)


async def test_a_slow_reader_that_reads_is_served(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=65_536)
    writer.write(HEAD.replace(b"/ ", b"/endless ", 1) + b"\r\n")
    for _ in range(30):
        await asyncio.sleep(0.03)
        assert await reader.read(1_000_000)
    writer.transport.abort()


async def test_a_queue_of_many_requests_is_cut(port: int) -> None:
    answers = await exchange(port, (HEAD + b"\r\n") * 5_000)
    assert answers.count(b"whole") < 50
