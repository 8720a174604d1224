"""What wraps every request."""

import asyncio

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cityweb import database
from cityweb.middleware import HEADERS, KnownHost, SecurityHeaders, SessionMiddleware, is_same_origin
from tests.conftest import Addresses, Site


def refuse(_: Scope, status: int) -> ASGIApp:
    return PlainTextResponse("refused", status)


async def ask(app: ASGIApp, *headers: tuple[bytes, bytes], **scope: object) -> list[Message]:
    """What an application sends in answer to one request."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    request = {"type": "http", "method": "GET", "path": "/", "scheme": "http", "headers": list(headers), **scope}
    await app(request, receive, send)
    return sent


# --- headers ---

EXPECTED = {name.decode(): value.decode() for name, value in HEADERS}
ANSWERS = [
    ("GET", "/", 200),
    ("GET", "/events", 503),
    ("GET", "/static/site.css", 200),
    ("GET", "/nowhere", 404),
    ("PUT", "/", 405),
    ("POST", "/cities/", 415),
]


@pytest.mark.parametrize(("method", "address", "status"), ANSWERS)
async def test_every_answer_has_the_headers(site: Site, method: str, address: str, status: int) -> None:
    await site.client.get("/")
    site.streams.close()
    answer = await site.client.request(method, address)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED
    assert "strict-transport-security" not in answer.headers


async def test_a_redirection_and_a_304_have_the_headers(site: Site) -> None:
    redirection = await site.client.post("/cities/", data={"name": "Tokyo", "population": "5"})
    etag = (await site.client.get("/")).headers["etag"]
    unchanged = await site.client.get("/", headers={"if-none-match": etag})
    assert (redirection.status_code, unchanged.status_code) == (303, 304)
    for answer in (redirection, unchanged):
        assert {name: answer.headers.get(name) for name in EXPECTED} == EXPECTED


async def test_https_is_asked_for_where_it_is_spoken() -> None:
    (start, _) = await ask(SecurityHeaders(PlainTextResponse("x"), refuse), scheme="https")
    assert (b"strict-transport-security", b"max-age=63072000; includeSubDomains") in start["headers"]


async def broken(_: Scope, __: Receive, ___: Send) -> None:
    raise ZeroDivisionError


async def test_what_nobody_caught_is_a_500_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    (start, _) = await ask(SecurityHeaders(broken, refuse))
    assert start["status"] == 500
    assert set(HEADERS) <= set(start["headers"])
    (record,) = caplog.records
    assert record.exc_info
    assert record.__dict__["request_id"]


async def test_half_an_answer_never_looks_whole(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await ask(SecurityHeaders(breaks, refuse))
    assert len(caplog.records) == 1


async def test_a_long_head_is_refused() -> None:
    app = SecurityHeaders(PlainTextResponse("x"), refuse)
    assert (await ask(app, (b"cookie", b"x" * 16_378)))[0]["status"] == 200
    assert (await ask(app, (b"cookie", b"x" * 16_379)))[0]["status"] == 431


@pytest.mark.parametrize(
    ("header", "closes"),
    [((b"content-length", b"9"), True), ((b"transfer-encoding", b"chunked"), True), ((b"content-length", b"0"), False)],
)
async def test_a_body_that_nobody_read_closes_the_connection(header: tuple[bytes, bytes], closes: bool) -> None:
    (start, _) = await ask(SecurityHeaders(PlainTextResponse("x"), refuse), header)
    assert ((b"connection", b"close") in start["headers"]) is closes


async def test_a_body_that_was_read_keeps_it() -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await PlainTextResponse("x")(scope, receive, send)

    (start, _) = await ask(SecurityHeaders(reads, refuse), (b"content-length", b"9"))
    assert (b"connection", b"close") not in start["headers"]


async def test_what_is_no_request_passes() -> None:
    seen: list[str] = []

    async def lifespan(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope["type"])

    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker()
    app = KnownHost(SessionMiddleware(lifespan, sessions, set()), [], refuse)
    await ask(SecurityHeaders(app, refuse), type="lifespan")
    assert seen == ["lifespan"]


# --- host ---

KNOWN = ["example.com", "*.example.org", "[::1]", "127.0.0.1"]
HOSTS: list[tuple[bytes, int]] = [
    (b"example.com", 200),
    (b"EXAMPLE.com", 200),
    (b"example.com:8000", 200),
    (b"a.example.org", 200),
    (b"a.b.example.org:80", 200),
    (b"[::1]", 200),
    (b"[::1]:8000", 200),
    (b"127.0.0.1:8000", 200),
    (b"", 400),
    (b"example.org", 400),
    (b"www.example.com", 400),
    (b"evil.com", 400),
    (b"example.com.", 400),
    (b"example.com..", 400),
    (b"example.com@evil.tld", 400),
    (b"example.com:dr.frankenstein@evil.tld", 400),
    (b"example.com:80/badpath", 400),
    (b"example.com/path", 400),
    (b"example.com?query", 400),
    (b"example.com: recovermypassword.com", 400),
    (b"example.com:port", 400),
    (b"evilexample.org", 400),
    (b"[::1", 400),
]


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_a_host_is_known_or_refused(host: bytes, status: int) -> None:
    (start, _) = await ask(KnownHost(PlainTextResponse("x"), KNOWN, refuse), (b"host", host))
    assert start["status"] == status


@pytest.mark.parametrize(("host", "status"), HOSTS)
async def test_starlettes_own_check_lets_nothing_in_less(host: bytes, status: int) -> None:
    theirs = TrustedHostMiddleware(PlainTextResponse("x"), KNOWN, www_redirect=False)
    (start, _) = await ask(theirs, (b"host", host))
    assert start["status"] <= status


@pytest.mark.parametrize("hosts", [(), (b"example.com", b"evil.com"), (b"evil.com", b"example.com")])
async def test_exactly_one_host_is_named(hosts: tuple[bytes, ...]) -> None:
    app = KnownHost(PlainTextResponse("x"), KNOWN, refuse)
    assert (await ask(app, *((b"host", host) for host in hosts)))[0]["status"] == 400


async def test_every_host_may_be_known() -> None:
    app = KnownHost(PlainTextResponse("x"), ["*"], refuse)
    assert (await ask(app, (b"host", b"anything.test")))[0]["status"] == 200


# --- same origin: the table of Go's net/http, csrf_test.go, and more ---

HOST = (b"host", b"example.com")


def site_is(value: bytes) -> tuple[bytes, bytes]:
    return (b"sec-fetch-site", value)


def origin_is(value: bytes) -> tuple[bytes, bytes]:
    return (b"origin", value)


ORIGINS: list[tuple[list[tuple[bytes, bytes]], bool]] = [
    ([], True),
    ([site_is(b"same-origin")], True),
    ([site_is(b"none")], True),
    ([site_is(b"cross-site")], False),
    ([site_is(b"same-site")], False),
    ([site_is(b"Same-Origin")], False),
    ([site_is(b"unknown")], False),
    ([site_is(b"same-origin"), site_is(b"cross-site")], False),
    ([site_is(b"same-origin"), site_is(b"same-origin")], False),
    ([site_is(b"same-origin"), origin_is(b"https://attacker.example")], True),
    ([site_is(b"cross-site"), origin_is(b"https://example.com")], False),
    ([site_is(b""), origin_is(b"https://example.com")], True),
    ([origin_is(b"https://example.com")], True),
    ([origin_is(b"http://example.com")], True),
    ([origin_is(b"https://attacker.example")], False),
    ([origin_is(b"https://example.com:8443")], False),
    ([origin_is(b"https://user@example.com")], False),
    ([origin_is(b"null")], False),
    ([origin_is(b"example.com")], False),
    ([origin_is(b"http://[::1")], False),
    ([origin_is(b"https://example.com"), origin_is(b"https://example.com")], False),
]


@pytest.mark.parametrize(("headers", "same"), ORIGINS)
def test_same_origin(headers: list[tuple[bytes, bytes]], same: bool) -> None:
    assert is_same_origin({"headers": [HOST, *headers]}) is same


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_another_sites_form_is_refused(site: Site, method: str) -> None:
    answer = await site.client.request(method, "/cities/", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 403
    assert "The form came from another site. The city was not saved." in answer.text


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_another_sites_link_is_followed(site: Site, method: str) -> None:
    answer = await site.client.request(method, "/", headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200


# --- session ---


async def test_a_request_that_asks_no_database_has_no_session(site: Site) -> None:
    pool = site.board._engine.pool
    await site.client.get("/livez")
    made: list[Scope] = []

    async def looks(scope: Scope, receive: Receive, send: Send) -> None:
        made.append(scope)
        await PlainTextResponse("x")(scope, receive, send)

    sessions: async_sessionmaker[AsyncSession] = async_sessionmaker()
    await ask(SessionMiddleware(looks, sessions, set()))
    assert "session" not in made[0]["state"]
    with pytest.raises(KeyError):
        made[0]["state"]["sessions"]
    assert pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_500_cancelled_requests_give_every_connection_back(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    closing: set[asyncio.Task[None]] = set()

    async def asks(scope: Scope, _: Receive, __: Send) -> None:
        await scope["state"]["session"].execute(text("SELECT pg_sleep(1)"))

    app = SessionMiddleware(asks, async_sessionmaker(engine), closing)
    requests = [asyncio.create_task(ask(app)) for _ in range(500)]
    await asyncio.sleep(0.1)
    assert engine.pool.checkedout() == database.POOL_SIZE  # type: ignore[attr-defined]
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    await asyncio.gather(*closing)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


async def test_a_session_is_closed_after_its_work_has_ended(empty: Addresses) -> None:
    engine = database.make_engine(empty.app)
    ended: list[bool] = []

    async def work(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(0.2)"))
        ended.append(True)

    async def gives_up(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["state"]["session"]
        with pytest.raises(TimeoutError):
            await database.unbroken(session, work(session), seconds=0.05)
        await PlainTextResponse("x")(scope, receive, send)

    await ask(SessionMiddleware(gives_up, async_sessionmaker(engine), set()))
    assert ended == [True]
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


async def test_a_pool_exhausted_tenfold_is_a_503(site: Site) -> None:
    await site.client.get("/")
    held = [await site.board._engine.connect() for _ in range(database.POOL_SIZE)]
    try:
        async with asyncio.timeout(5):
            answers: list[httpx.Response] = await asyncio.gather(
                *(site.client.post("/cities/", json={"name": f"C{n}", "population": n}) for n in range(50))
            )
    finally:
        for connection in held:
            await connection.close()
    assert {answer.status_code for answer in answers} == {503}
    assert all(answer.headers["retry-after"] for answer in answers)
