"""The server's protocol, on a real socket: its deadlines, with limits shortened, and how it ends connections."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from cityweb.server import protocol
from cityweb.server.protocol import PIPELINE_MAX, GuardedProtocol
from cityweb.web.middleware import HEADERS
from tests.conftest import Server, ready, until


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body to its end and answers: /endless for ever, /slow after a while."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(0.1)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/endless":
        leaving = asyncio.ensure_future(receive())
        while not leaving.done():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"whole"})


@asynccontextmanager
async def serving(protocol: type[asyncio.Protocol]) -> AsyncIterator[uvicorn.Server]:
    """A server in this process."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)  # else the system takes megabytes off our hands
    config = uvicorn.Config(
        app, http=protocol, ws="none", lifespan="on", log_config=None, proxy_headers=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await task


def port_of(server: uvicorn.Server) -> int:
    return int(server.servers[0].sockets[0].getsockname()[1])


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[uvicorn.Server]:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "SWEEP_SECONDS", 0.05)
    monkeypatch.setattr(GuardedProtocol, "sweeping", False)
    async with serving(GuardedProtocol) as server:
        yield server


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    return port_of(server)


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


async def test_http_1_0_gets_a_length_where_it_is_known(start_server: Callable[..., Server]) -> None:
    port = await ready(start_server())
    pages = [await exchange(port, f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode()) for path in ("/", "/api")]
    assert [b"content-length: " in page and page.rstrip().endswith(b"</html>") for page in pages] == [True, True]


@pytest.mark.parametrize(("version", "body"), [("1.0", b"whole"), ("1.1", b"5\r\nwhole\r\n0\r\n\r\n")])
async def test_http_1_0_gets_no_chunks(port: int, version: str, body: bytes) -> None:
    answer = await exchange(port, f"GET / HTTP/{version}\r\nconnection: close\r\n\r\n".encode())
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert (b"transfer-encoding" in head) is (version == "1.1")
    assert b"connection: close" in head
    assert rest == body


@pytest.mark.parametrize("kind", SLOW)
async def test_a_request_that_does_not_come_is_not_waited_for(port: int, kind: str) -> None:
    assert await closed_within(port, *SLOW[kind], seconds=2)


@pytest.mark.parametrize("kind", SLOW)
async def test_without_the_guard_it_would_be(kind: str) -> None:
    async with serving(HttpToolsProtocol) as server:
        assert not await closed_within(port_of(server), *SLOW[kind], seconds=0.8)


async def exchange(port: int, *requests: bytes) -> bytes:
    """What the server sends until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(3):
            for request in requests:
                writer.write(request)
                await asyncio.sleep(0.02)
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


async def test_a_request_in_time_is_answered_and_its_connection_kept(port: int) -> None:
    answers = await exchange(port, HEAD + b"\r\n" + HEAD + b"connection: close\r\n\r\n")
    assert answers.count(b"whole") == 2


async def test_a_head_without_end_is_rejected(port: int) -> None:
    answer = await exchange(port, HEAD + (b"x-filler: " + b"x" * 500 + b"\r\n") * 34)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert all(name + b": " + value in answer for name, value in HEADERS)


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n"])
async def test_what_is_no_http_is_rejected_in_our_words(port: int, junk: bytes) -> None:
    answer = await exchange(port, junk)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"We couldn't read that request." in answer
    assert all(name + b": " + value in answer for name, value in HEADERS)


async def test_a_reader_that_never_reads_is_cut(server: uvicorn.Server) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=1)
    writer.write(HEAD.replace(b"/ ", b"/endless ", 1) + b"\r\n")
    await until_gone(lambda: len(server.server_state.connections))
    writer.transport.abort()
    assert not server.server_state.connections


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


async def test_a_queue_that_grows_from_answer_to_answer_is_cut(port: int) -> None:
    slow = HEAD.replace(b"/ ", b"/slow ", 1) + b"\r\n"
    answers = await exchange(port, *[slow * PIPELINE_MAX] * 2)
    assert answers.count(b"whole") < PIPELINE_MAX


# --- a body ---

POST = b"POST / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"


async def test_a_body_in_pieces_is_read(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in (POST + b"content-length: 2\r\n\r\n", b"x", b"y"):
        writer.write(piece)
        await asyncio.sleep(0.05)
    assert b"whole" in await reader.read()
    writer.close()


CHUNK = b"2000\r\n" + b"x" * 0x2000 + b"\r\n"


async def test_a_body_over_the_limit_is_answered_before_its_end(port: int) -> None:
    assert b"whole" in await exchange(port, POST + b"transfer-encoding: chunked\r\n\r\n" + CHUNK + b"1\r\nx\r\n")


# --- trailers ---

TRAILERS = POST + b"transfer-encoding: chunked\r\n\r\n0\r\n"
ENDLESS = {
    "many trailers": (TRAILERS, b"a:b\r\n"),
    "one trailer": (TRAILERS + b"a:", b"b"),
    "a chunk extension": (POST + b"transfer-encoding: chunked\r\n\r\n1;a=", b"b"),
}


@pytest.mark.parametrize("kind", ENDLESS)
async def test_trailers_and_chunk_extensions_without_end_are_cut(kind: str) -> None:
    first, more = ENDLESS[kind]
    async with serving(GuardedProtocol) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(first)
        sent = 0
        try:
            while sent < 20_000_000:
                writer.write(more * 10_000)
                await writer.drain()
                sent += 10_000 * len(more)
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()
    assert sent < 20_000_000


async def test_a_trailer_is_no_header(start_server: Callable[..., Server]) -> None:
    server = start_server(CITYWEB_RATE_LIMIT="1,1,1", CITYWEB_TRUSTED_PROXIES="127.0.0.1")
    port = await ready(server)
    statuses = []
    for number in (1, 2):
        body = b'{"name": "City %d", "population": 1}' % number
        answer = await exchange(
            port,
            b"POST /cities/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n"
            b"content-type: application/json\r\n\r\n%x\r\n%b\r\n0\r\nx-forwarded-for: 198.18.9.%d\r\n\r\n"
            % (len(body), body, number),
        )
        statuses.append(answer[9:12])
    assert statuses == [b"201", b"429"]


async def test_a_trailer_names_no_host(start_server: Callable[..., Server]) -> None:
    port = await ready(start_server())
    request = b"POST /cities/ HTTP/1.1\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n0\r\n"
    assert (await exchange(port, request + b"host: localhost\r\n\r\n")).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize("part", [b"1\r\nx\r\n", b"a:b\r\n"], ids=["chunks", "trailers"])
@pytest.mark.parametrize(("count", "is_read"), [(500, True), (2_000, False)])
async def test_a_body_has_a_limited_number_of_parts(port: int, part: bytes, count: int, is_read: bool) -> None:
    last_chunk = b"0\r\n" if part.startswith(b"1") else b""
    begin = POST + b"transfer-encoding: chunked\r\n\r\n" + (b"" if last_chunk else b"0\r\n")
    assert (b"whole" in await exchange(port, begin + part * count + last_chunk + b"\r\n")) == is_read


async def test_nothing_is_read_behind_a_body_that_is_too_long(port: int) -> None:
    head = POST.replace(b"connection: close\r\n", b"transfer-encoding: chunked\r\n\r\n")
    answer = await exchange(port, head + CHUNK * 2 + b"0\r\n\r\n" + HEAD + b"\r\n")
    assert (answer.count(b"whole"), answer.count(b"connection: close")) == (1, 1)


async def test_half_a_head_behind_a_whole_request_is_not_waited_for(port: int) -> None:
    begun = asyncio.get_running_loop().time()
    assert (await exchange(port, HEAD + b"\r\n" + HEAD)).count(b"whole") == 1
    assert asyncio.get_running_loop().time() - begun < 2  # uvicorn itself closes a silent connection after 5 s


# --- what is not HTTP, behind what is ---

ADD = b"POST /cities/ HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
TOKYO = b'content-length: 34\r\n\r\n{"name": "Tokyo", "population": 5}'
GARBAGE = {
    "no HTTP": b"\0garbage\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 102,
    "a head too long": b"GET / HTTP/1.1\r\na: " + b"b" * 20_000,
    "a broken body": POST + b"transfer-encoding: chunked\r\n\r\nzz",
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_what_follows_a_valid_add_does_not_change_its_response(
    start_server: Callable[..., Server], kind: str
) -> None:
    port = await ready(start_server())
    answer = await exchange(port, ADD + TOKYO + GARBAGE[kind])
    assert answer.startswith(b"HTTP/1.1 201")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"that request" not in answer


async def test_what_follows_two_requests_ends_the_connection_after_the_first(port: int) -> None:
    slow = HEAD.replace(b"/ ", b"/slow ", 1) + b"\r\n"
    answer = await exchange(port, slow, slow + GARBAGE["no HTTP"])
    assert answer.count(b"whole") == answer.count(b"HTTP/1.1 ") == 1


async def test_a_broken_body_that_a_view_waits_for_is_rejected_once(port: int) -> None:
    head = POST + b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
    answer = await exchange(port, head, b"zz\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"100", b"400"]


@pytest.mark.parametrize(("count", "status"), [(100, b"200"), (101, b"431")])
async def test_a_request_has_at_most_a_hundred_headers(port: int, count: int, status: bytes) -> None:
    more = b"a:b\r\n" * (count - 2)
    answer = await exchange(port, HEAD + more + b"connection: close\r\n\r\n")
    assert answer[9:12] == status


async def test_too_many_headers_are_rejected_before_the_head_ends(port: int) -> None:
    assert (await exchange(port, HEAD + b"a:b\r\n" * 102)).startswith(b"HTTP/1.1 431 ")


async def test_white_space_around_a_value_is_no_part_of_it(start_server: Callable[..., Server]) -> None:
    port = await ready(start_server())
    answer = await exchange(port, ADD + b"connection: close\t \r\n" + TOKYO.replace(b"34", b"34 \t"))
    assert answer.startswith(b"HTTP/1.1 201")


@pytest.mark.parametrize("target", [b"http://localhost", b"HTTP://localhost?x=y", b"http://localhost/"])
async def test_a_target_without_a_path_is_the_page(start_server: Callable[..., Server], target: bytes) -> None:
    port = await ready(start_server())
    answer = await exchange(port, b"GET " + target + b" HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"biggest cities" in answer


# --- a client that ends its half of the connection, or leaves ---

IN_TIME = HEAD.replace(b"/ ", b"/slow ", 1) + b"\r\n"
HALF = {"nothing": b"", "half a head": HEAD, "half a body": POST + b"content-length: 2\r\n\r\nx"}


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("count", [1, 2])
async def test_whole_requests_are_answered_to_a_client_that_ends_its_half(port: int, kind: str, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(IN_TIME * count + HALF[kind])
    writer.write_eof()
    try:
        async with asyncio.timeout(2):
            assert (await reader.read()).count(b"whole") == count
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("count", [1, 2])
async def test_what_is_being_sent_ends_with_its_client(server: uvicorn.Server, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
    writer.write((HEAD.replace(b"/ ", b"/endless ", 1) + b"\r\n") * count)
    await reader.read(1)
    writer.transport.abort()
    await until(lambda: not server.server_state.tasks, 2)


# --- the end of a connection ---


async def test_a_stop_lets_a_request_through_that_is_on_its_way() -> None:
    async with serving(GuardedProtocol) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(HEAD + b"\r\n")
        assert b"whole" in await reader.read(1000)
        server.should_exit = True
        await until(lambda: not server.servers[0].is_serving())
        writer.write(HEAD + b"\r\n")
        last = await reader.read()
        assert b"whole" in last
        assert b"connection: close" in last
        writer.close()


async def test_a_stop_waits_for_the_rest_of_a_body() -> None:
    async with serving(GuardedProtocol) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(POST.replace(b"connection: close\r\n", b"") + b"content-length: 2\r\n\r\nx")
        await until(lambda: len(server.server_state.tasks) == 1)
        server.should_exit = True
        await asyncio.sleep(protocol.DRAIN_SECONDS + 0.2)
        writer.write(b"y")
        assert b"connection: close" in await reader.read()
        writer.close()


async def test_a_stop_closes_a_silent_connection() -> None:
    async with serving(GuardedProtocol) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        await until(lambda: len(server.server_state.connections) == 1)
        server.should_exit = True
        async with asyncio.timeout(2):
            assert await reader.read() == b""
        writer.close()


# --- one write for a response ---


class Recorder(asyncio.Transport):
    """A transport that keeps each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


async def two_parts(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
    """Responds with two parts, of a declared length where the path says so."""
    length = [(b"content-length", b"6")] if scope["path"] == "/known" else []
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": b"one", "more_body": True})
    await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"two"})


@pytest.mark.parametrize(
    ("requests", "endings"),
    [
        ([("GET", "/known")], [b"\r\n\r\none", b"two"]),
        ([("GET", "/known")] * 2, [b"\r\n\r\none", b"two"] * 2),
        ([("GET", "/unknown")], [b"\r\n\r\n", b"3\r\none\r\n", b"3\r\ntwo\r\n0\r\n\r\n"]),
        ([("HEAD", "/known")], [b"\r\n\r\n"]),
        ([("HEAD", "/known"), ("GET", "/known")], [b"\r\n\r\n", b"\r\n\r\none", b"two"]),
    ],
)
async def test_a_head_waits_only_for_a_body_that_must_follow(
    requests: list[tuple[str, str]], endings: list[bytes]
) -> None:
    config = uvicorn.Config(two_parts, http=GuardedProtocol, ws="none", log_config=None)
    config.load()
    guarded, transport = GuardedProtocol(config, ServerState(), {}), Recorder()
    guarded.connection_made(transport)
    guarded.data_received(b"".join(f"{m} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode() for m, path in requests))
    await asyncio.sleep(0.1)
    written = [data for data in transport.writes if data]
    assert [data[-len(ending) :] for data, ending in zip(written, endings, strict=True)] == endings
    assert b"".join(written).count(b"HTTP/1.1 200") == len(requests)
    guarded.connection_lost(None)
