"""What wraps every request: headers, host, same origin, session."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import httpx
import pytest
from sqlalchemy import text as sql
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cityweb import log
from cityweb.log import Requests, output
from cityweb.postgres import cities, database
from cityweb.postgres.database import Pool, Session
from cityweb.web.middleware import HEAD_BYTES, KnownHost, Prepared, SameOrigin, SecurityHeaders, SessionMiddleware
from cityweb.web.prepared import Head, PreparedResponse
from tests.conftest import Addresses, Site, open_site, until
from tests.pages import HSTS, HTMX, OTHERS, SECURITY, one, parse, text

Headers = Sequence[tuple[bytes, bytes]]


@pytest.fixture(autouse=True)
def quick_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writes the lines of requests at once, so that no test waits for its own or for those of the test before it."""
    monkeypatch.setattr(log, "FLUSH_SECONDS", 0.01)


async def passed(scope: Scope, receive: Receive, send: Send) -> None:
    await Response(status_code=204)(scope, receive, send)


def reject(scope: Scope, status: int) -> ASGIApp:  # noqa: ARG001 (what middleware calls)
    return PlainTextResponse(f"rejected with {status}", status)


def http(headers: Headers = (), method: str = "POST", scheme: str = "http") -> Scope:
    address = {"scheme": scheme, "path": "/", "query_string": b""}
    return {"type": "http", "method": method, **address, "headers": list(headers)}


async def call(app: ASGIApp, scope: Scope) -> list[Message]:
    """What an application sends in answer to a request without a body."""
    sent: list[Message] = []
    await app(scope, nobody, collect(sent))
    return sent


async def nobody() -> Message:
    return {"type": "http.request", "body": b""}


def collect(sent: list[Message]) -> Send:
    async def send(message: Message) -> None:
        sent.append(message)

    return send


async def status(app: ASGIApp, scope: Scope) -> int:
    answered: int = (await call(app, scope))[0]["status"]
    return answered


SLEEP = "SELECT pg_sleep(1.5)"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda app: Prepared(app, prepared, [], Requests()),
        lambda app: SecurityHeaders(app, reject, Requests()),
        lambda app: KnownHost(app, [], reject),
        lambda app: SameOrigin(app, reject),
    ],
    ids=["Prepared", "SecurityHeaders", "KnownHost", "SameOrigin"],
)
async def test_what_is_no_request_passes_untouched(wrap: type) -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
        seen.append(scope)

    scope = {"type": "lifespan", "headers": [(b"x", b"x" * HEAD_BYTES)]}
    await wrap(app)(scope, nobody, collect([]))
    assert seen == [{"type": "lifespan", "headers": [(b"x", b"x" * HEAD_BYTES)]}]
    assert seen[0] is scope


# --- Prepared ---

LOCAL = ("host", "testserver")
PLAIN_AND_NOT: list[tuple[str, list[tuple[str, str]]]] = [
    ("GET", [LOCAL]),
    ("HEAD", [LOCAL]),
    ("GET", [LOCAL, ("accept-encoding", "gzip")]),
    ("GET", [LOCAL, ("accept-encoding", "gzip;q=0")]),
    ("GET", [LOCAL, ("if-none-match", "*")]),
    ("GET", [LOCAL, ("hx-request", "true")]),
    ("GET", [("host", "TESTSERVER:80")]),
    ("GET", [("host", "evil.example")]),
    ("GET", [LOCAL, LOCAL]),
    ("GET", []),
    ("GET", [LOCAL, ("content-length", "5")]),
    ("GET", [LOCAL, ("content-length", "0")]),
    ("GET", [LOCAL, ("transfer-encoding", "chunked")]),
    ("GET", [LOCAL, ("x", "x" * HEAD_BYTES)]),
    ("POST", [LOCAL]),
    ("OPTIONS", [LOCAL]),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("method", "headers"), PLAIN_AND_NOT)
async def test_a_prepared_response_is_what_the_whole_way_sends(
    site: Site, scheme: str, method: str, headers: list[tuple[str, str]]
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    scope = http(raw, method, scheme)
    short = await call(site.asgi, {**scope, "query_string": b""})
    # A query is enough to send a request the whole way.
    assert await call(site.asgi, {**scope, "query_string": b"x"}) == short


async def test_a_prepared_response_goes_no_further_and_all_else_does() -> None:
    async def ask(path: str) -> int:
        scope = {**http([(b"host", b"testserver")], "GET"), "path": path, "query_string": b""}
        return await status(Prepared(passed, prepared, ["testserver"], Requests()), scope)

    assert [await ask("/"), await ask("/other")] == [200, 204]


TOKYO = PreparedResponse(b"<p>Tokyo</p>", "text/html", {})


def prepared(scope: Scope) -> tuple[Head, bytes] | None:
    return TOKYO.choose(scope) if scope["path"] == "/" else None


async def test_an_unchanged_board_has_no_line_in_the_log(site: Site, capfd: pytest.CaptureFixture[str]) -> None:
    await lines(capfd)  # those of other tests
    for query in (f"seen={site.board.snapshot.id}", "seen=0"):
        await site.client.get(f"/board?{query}")
    assert [line["status"] for line in await lines(capfd, 1)] == [200]


# --- SecurityHeaders ---


def security(answer: httpx.Response) -> list[tuple[str, str]]:
    return sorted(pair for pair in answer.headers.multi_items() if pair[0] not in OTHERS)


EVIL = {"sec-fetch-site": "cross-site"}
CITY = {"name": "Tokyo", "population": "37400068"}
ANSWERS: list[tuple[str, str, dict[str, str], dict[str, str] | None, int]] = [
    ("GET", "/", {}, None, 200),
    ("HEAD", "/", {}, None, 200),
    ("GET", "/", {"if-none-match": "*"}, None, 304),
    ("GET", "/cities/biggest", {}, None, 200),
    ("GET", "/livez", {}, None, 200),
    ("GET", "/static/site.css", {}, None, 200),
    ("GET", "/static/site.css", {"if-none-match": "*"}, None, 304),
    ("HEAD", "/board", {}, None, 200),
    ("POST", "/cities/", {}, CITY, 303),
    ("POST", "/cities/", HTMX, CITY, 200),
    ("POST", "/cities/", {}, {"name": ""}, 422),
    ("POST", "/cities/", HTMX, {"name": ""}, 422),
    ("GET", "/", {"host": "evil.example"}, None, 400),
    ("POST", "/cities/", EVIL, CITY, 403),
    ("POST", "/cities/", {"origin": "https://evil.example"}, CITY, 403),
    ("GET", "/nowhere", {}, None, 404),
    ("GET", "/nowhere", {"accept": "application/json"}, None, 404),
    ("DELETE", "/", {}, None, 405),
    ("OPTIONS", "/", {"origin": "https://evil.example", "access-control-request-method": "GET"}, None, 405),
    ("POST", "/cities/", {"content-type": "text/plain"}, None, 415),
    ("GET", "/", {"x": "x" * HEAD_BYTES}, None, 431),
    ("GET", "/?added=404", {}, None, 500),
    ("GET", "/?added=404", {"accept": "application/json"}, None, 500),
]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the page fail that says where city 404 landed."""
    whole = cities.landing

    async def landing(session: Session, city_id: int) -> cities.Landing | None:
        if city_id == 404:
            raise ValueError("nobody expects this")
        return await whole(session, city_id)

    monkeypatch.setattr(cities, "landing", landing)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(("method", "address", "headers", "form", "expected"), ANSWERS)
async def test_every_answer_has_the_security_headers_and_one_line_of_the_log(
    site: Site,
    capfd: pytest.CaptureFixture[str],
    method: str,
    address: str,
    headers: dict[str, str],
    form: dict[str, str] | None,
    expected: int,
) -> None:
    await lines(capfd)  # those of other tests
    answer = await site.client.request(method, address, headers=headers, data=form)
    assert answer.status_code == expected
    assert security(answer) == sorted(SECURITY.items())
    (line,) = await lines(capfd, 1)
    assert (line["method"], line["path"], line["status"]) == (method, address.partition("?")[0], expected)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("address", ["/", "/nowhere", "/?added=404"])
async def test_only_over_https_the_browser_is_told_to_stay_there(site: Site, address: str) -> None:
    for scheme, expected in (("https", SECURITY | HSTS), ("http", SECURITY)):
        answer = await site.client.get(f"{scheme}://testserver{address}")
        assert security(answer) == sorted(expected.items())


@pytest.mark.usefixtures("broken")
async def test_a_failure_is_logged_once_and_its_page_has_the_id_of_both_lines(
    site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    await lines(capfd)
    answer = await site.client.get("/?added=404", headers={"accept": "text/html"})
    reference = text(one(parse(answer.text), "#problem-text .quiet"))
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert (record.name, record.exc_info and record.exc_info[0]) == ("cityweb.requests", ValueError)
    (line,) = await lines(capfd, 1)
    assert reference == f"Reference: {vars(record)['request_id']}" == f"Reference: {line['request_id']}"


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("accept", ["text/html", "application/json"])
async def test_no_answer_shows_what_failed(site: Site, accept: str) -> None:
    answer = await site.client.get("/?added=404", headers={"accept": accept})
    assert answer.status_code == 500
    assert "nobody expects this" not in answer.text
    assert "Traceback" not in answer.text


async def test_each_request_has_its_own_id() -> None:
    ids: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ids.append(scope["state"]["request_id"])
        await passed(scope, receive, send)

    one_process, another = SecurityHeaders(app, reject, Requests()), SecurityHeaders(app, reject, Requests())
    await call(one_process, http())
    await call(one_process, http())
    await call(another, http())
    assert len(set(ids)) == 3


async def fail(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
    raise ValueError("nobody expects this")


async def fail_halfway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    await fail(scope, receive, send)


async def test_a_failure_after_the_answer_has_begun_is_logged_and_raised_on_so_that_the_connection_is_cut(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[Message] = []
    with pytest.raises(ValueError, match="nobody expects this"):
        await SecurityHeaders(fail_halfway, reject, Requests())(http(), nobody, collect(sent))
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"]
    (record,) = caplog.records
    assert record.exc_info


async def test_a_request_that_is_cancelled_is_not_answered_and_has_no_status(capfd: pytest.CaptureFixture[str]) -> None:
    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
        raise asyncio.CancelledError

    await lines(capfd)
    sent: list[Message] = []
    with pytest.raises(asyncio.CancelledError):
        await SecurityHeaders(cancelled, reject, Requests())(http(), nobody, collect(sent))
    (line,) = await lines(capfd, 1)
    assert (sent, line["status"]) == ([], None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"x", b"x" * (HEAD_BYTES - len("/x: \r\n")))], 204),
        ([(b"x", b"x" * (HEAD_BYTES - len("x: \r\n")))], 431),
        ([(b"x" * HEAD_BYTES, b"x")], 431),
        ([(b"x", b"x" * 159)] * 100, 431),
        ([(b"x", b"x" * 158)] * 100, 204),
        ([(b"x", b"y")] * 5_000, 431),
    ],
)
async def test_a_head_of_16_kb_is_read_and_one_byte_more_is_rejected(headers: Headers, expected: int) -> None:
    assert HEAD_BYTES == 16 * 1024
    assert await status(SecurityHeaders(passed, reject, Requests()), http(headers)) == expected


UNREAD = [
    ([(b"content-length", b"9")], True),
    ([(b"content-length", b"0")], False),
    ([(b"transfer-encoding", b"chunked")], True),
    ([], False),
]


def closes(sent: list[Message]) -> bool:
    return (b"connection", b"close") in sent[0]["headers"]


@pytest.mark.parametrize(("headers", "expected"), UNREAD)
@pytest.mark.parametrize("app", [passed, fail], ids=["answered", "failed"])
async def test_a_body_that_nobody_read_closes_the_connection(app: ASGIApp, headers: Headers, expected: bool) -> None:
    # Else the server would read it to its end, however long it is.
    assert closes(await call(SecurityHeaders(app, reject, Requests()), http(headers))) is expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([{"type": "http.request", "body": b"whole"}], False),
        ([{"type": "http.request", "body": b"h", "more_body": True}, {"type": "http.request", "body": b"t"}], False),
        ([{"type": "http.request", "body": b"half", "more_body": True}], True),
    ],
)
async def test_a_body_that_was_read_to_its_end_keeps_the_connection(parts: list[Message], expected: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in parts:
            await receive()
        await passed(scope, receive, send)

    sent: list[Message] = []
    coming_in = iter(parts)

    async def receive() -> Message:
        return next(coming_in)

    await SecurityHeaders(app, reject, Requests())(http([(b"transfer-encoding", b"chunked")]), receive, collect(sent))
    assert closes(sent) is expected


async def lines(capfd: pytest.CaptureFixture[str], wanted: int = 0) -> list[dict[str, object]]:
    """What the log says of requests, once it is written."""
    found: list[dict[str, object]] = []
    async with asyncio.timeout(5):
        while True:
            await asyncio.sleep(1.5 * log.FLUSH_SECONDS)
            output().flush()
            written = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
            found += [line for line in written if line["message"] == "answered"]
            if len(found) >= wanted:
                return found


# --- KnownHost ---

HOSTS = [
    "example.com", "12.34.56.78", "[2001:19f0:feee::dead:beef:cafe]", "xn--4ca9at.com", "*.multitenant.com",
    "insensitive.com", "[::ffff:169.254.169.254]",
]  # fmt: skip
"""As in Django's HostValidationTests (tests/requests_tests/tests.py), from where the hosts below come as well."""

KNOWN = [
    b"example.com", b"example.com:80", b"example.com:0", b"example.com:65535", b"Example.COM", b"INSENSITIVE.com:8000",
    b"12.34.56.78", b"12.34.56.78:443", b"[2001:19f0:feee::dead:beef:cafe]", b"[2001:19f0:feee::dead:beef:cafe]:8080",
    b"[2001:19F0:FEEE::DEAD:BEEF:CAFE]", b"[::ffff:169.254.169.254]", b"xn--4ca9at.com", b"anything.multitenant.com",
    b"a.b.multitenant.com:80", b"under_score.multitenant.com",
]  # fmt: skip
UNKNOWN = [
    # Django's poisoned hosts.
    b"example.com@evil.tld", b"example.com:dr.frankenstein@evil.tld", b"example.com:dr.frankenstein@evil.tld:80",
    b"example.com:80/badpath", b"example.com: recovermypassword.com",
    # Others.
    b"other.com", b"example.com..", b"example.com.", b".example.com", b"www.example.com", b"example.com.evil.tld",
    b"evilexample.com", b"multitenant.com", b"evilmultitenant.com", b"multitenant.com.evil.tld", b"12.34.56.78.9",
    # Broken.
    b"", b" ", b":80", b"example.com:", b"example.com:http", b"example.com:-1", b"example.com:+1", b"example.com:80:80",
    b"example.com/", b"example.com/path", b"example.com?query", b"example.com#part", b"example.com\\path", b"/",
    b"me@example.com", b"me:secret@example.com", b"@example.com", b"http://example.com", b"//example.com",
    b" example.com", b"example.com ", b"example.com\t", b"example.com\n", b"example.com\x00", b"example.com, other.com",
    b"example.com,example.com", b"example.com other.com", b"evil.tld/.multitenant.com", b"evil.tld?.multitenant.com",
    b"evil.tld#.multitenant.com", b"me@evil.multitenant.com", b"evil.tld\x00.multitenant.com",
    b"2001:19f0:feee::dead:beef:cafe", b"[2001:19f0:feee::dead:beef:cafe", b"2001:19f0:feee::dead:beef:cafe]",
    b"[2001:19f0:feee::dead:beef:cafe]x", b"[2001:19f0:feee::dead:beef:cafe]:", b"[]", b"[::1]", b"[::1%25eth0]",
    b"[example.com]", b"[12.34.56.78]", b"z\xc3\xbcrich.multitenant.com", b"z\xfcrich.multitenant.com", b"\xff",
]  # fmt: skip
STRICTER: list[list[bytes]] = [
    # A proxy and we may read different ones.
    [b"example.com", b"other.com"],
    [b"example.com", b"example.com"],
    [b"example.com", b""],
    # The feed repeats the host for each city.
    [254 * b"a" + b".multitenant.com"],
    # A pattern is no host.
    [b"*.multitenant.com"],
    # RFC 3986 allows these characters in a registered name, and no name in use has one.
    [b"evil%00.multitenant.com"],
    [b"evil%2f.multitenant.com"],
    [b"a&b.multitenant.com"],
    [b"a;b.multitenant.com"],
    [b"a'b.multitenant.com"],
    [b"a,b.multitenant.com"],
    # No port has so many digits.
    [b"example.com:000080"],
    [b"example.com:123456"],
]
"""What Starlette's TrustedHostMiddleware lets pass and we do not."""


def naming(*hosts: bytes) -> Scope:
    return http([(b"host", host) for host in hosts], method="GET")


known_host = KnownHost(passed, HOSTS, reject)
trusted_host = TrustedHostMiddleware(passed, HOSTS, www_redirect=False)
AS_STARLETTE: list[tuple[list[bytes], int]] = [
    *(([host], 204) for host in KNOWN), *(([host], 400) for host in UNKNOWN), ([], 400),
    ([b"other.com", b"example.com"], 400),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hosts", "ours", "theirs"),
    [*((hosts, status, status) for hosts, status in AS_STARLETTE), *((hosts, 400, 204) for hosts in STRICTER)],
)
async def test_a_known_host_passes_and_another_is_rejected(hosts: list[bytes], ours: int, theirs: int) -> None:
    assert await status(known_host, naming(*hosts)) == ours
    assert await status(trusted_host, naming(*hosts)) == theirs


@pytest.mark.parametrize(
    ("known", "hosts", "expected"),
    [
        *(("*", [host], 204) for host in [b"example.com", b"anything.example:8000", b"[::1]"]),
        *(("*", [host], 400) for host in [b"", b"me@example.com", b"example.com/path", b"*"]),
        ("*", [], 400),
        ("*", [b"example.com", b"example.com"], 400),
        ("", [b"example.com"], 400),
    ],
)
async def test_a_star_knows_every_one_whole_host_and_nothing_knows_none(
    known: str, hosts: list[bytes], expected: int
) -> None:
    assert await status(KnownHost(passed, [*known], reject), naming(*hosts)) == expected


@pytest.mark.parametrize("name", [b"x-forwarded-host", b"forwarded", b"x-host", b"x-original-host"])
async def test_only_the_host_header_names_the_host(name: bytes) -> None:
    scope = http([(b"host", b"example.com"), (name, b"evil.tld")], method="GET")
    assert await status(known_host, scope) == 204


# --- SameOrigin ---

OURS = b"https://example.com"
UNSAFE = ["POST", "PUT", "PATCH", "DELETE"]


def coming(method: str, sites: Sequence[bytes], origins: Sequence[bytes], hosts: Sequence[bytes]) -> Scope:
    headers = [(b"sec-fetch-site", site) for site in sites] + [(b"origin", origin) for origin in origins]
    return http([(b"host", host) for host in hosts] + headers, method)


async def passes(scope: Scope) -> bool:
    answered = await status(SameOrigin(passed, reject), scope)
    assert answered in {204, 403}
    return answered == 204


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("origins", [[], [b"https://attacker.example"], [b"null"]])
@pytest.mark.parametrize("sites", [[], [b"cross-site"], [b"cross-site", b"none"]])
async def test_what_changes_nothing_passes(method: str, sites: list[bytes], origins: list[bytes]) -> None:
    assert await passes(coming(method, sites, origins, [b"example.com"]))


# Every row of TestCrossOriginProtection… in Go's net/http/csrf_test.go is here; we trust no other origin.
FROM_US = [
    ([b"same-origin"], []),
    ([b"none"], []),
    # Origin is not looked at where the browser itself says where it comes from.
    ([b"same-origin"], [b"null"]),
    ([b"none"], [b"https://attacker.example"]),
    ([b"same-origin"], [b"https://attacker.example"]),
    # What sends neither header is no browser, and rides on nobody.
    ([], []),
    ([b""], []),
    ([], [b""]),
    ([b""], [b""]),
    ([], [b"https://example.com"]),
    ([b""], [b"https://example.com"]),
    # The scheme is ignored: HSTS covers it.
    ([], [b"http://example.com"]),
]
FROM_OTHERS = [
    ([b"cross-site"], []),
    ([b"same-site"], []),
    ([b"cross-site"], [OURS]),
    ([b"cross-site"], [b"https://attacker.example"]),
    ([b"same-site"], [OURS]),
    ([b"Same-Origin"], [OURS]),
    ([b"SAME-ORIGIN"], []),
    ([b"None"], []),
    ([b"same-origin "], []),
    ([b"same-origin, same-origin"], []),
    ([b"friendly"], [OURS]),
    ([b"same-origin", b"same-origin"], [OURS]),
    ([b"same-origin", b"cross-site"], []),
    ([b"", b"same-origin"], []),
    ([], [b"null"]),
    ([], [b"https://attacker.example"]),
    ([], [b"https://example.com.attacker.example"]),
    ([], [b"https://attacker-example.com"]),
    ([], [b"https://www.example.com"]),
    ([], [b"https://example.com:8443"]),
    ([], [b"https://example.com:443"]),
    ([], [b"https://EXAMPLE.com"]),
    ([], [b"https://example.com."]),
    ([], [b"https://example.com/"]),
    ([], [b"https://example.com/path"]),
    ([], [b"https://example.com?query"]),
    ([], [b"https://me@example.com"]),
    ([], [b"https://example.com@attacker.example"]),
    ([], [b"https://attacker.example/://example.com"]),
    ([], [b"http://[::1"]),
    ([], [b"example.com"]),
    ([], [b"//example.com"]),
    ([], [b"https:example.com"]),
    ([], [b"https://"]),
    ([], [b"https://example.com https://attacker.example"]),
    ([], [b"https://example.com", b"https://example.com"]),
    ([], [b"https://example.com", b"https://attacker.example"]),
    ([], [b"https://attacker.example", b"https://example.com"]),
    ([], [b"", b"https://attacker.example"]),
]


@pytest.mark.parametrize("method", UNSAFE)
@pytest.mark.parametrize(("sites", "origins"), FROM_US)
async def test_what_comes_from_our_page_or_from_no_browser_passes(
    method: str, sites: list[bytes], origins: list[bytes]
) -> None:
    assert await passes(coming(method, sites, origins, [b"example.com"]))


@pytest.mark.parametrize("method", [*UNSAFE, "TRACE", "post", "get"])
@pytest.mark.parametrize(("sites", "origins"), FROM_OTHERS)
async def test_what_another_site_makes_a_browser_send_is_rejected(
    method: str, sites: list[bytes], origins: list[bytes]
) -> None:
    assert not await passes(coming(method, sites, origins, [b"example.com"]))


@pytest.mark.parametrize(
    ("origin", "hosts", "expected"),
    [
        (b"http://localhost:8000", [b"localhost:8000"], True),
        (b"http://localhost:8000", [b"localhost:8001"], False),
        (b"http://localhost", [b"localhost:8000"], False),
        (b"http://[::1]:8000", [b"[::1]:8000"], True),
        (b"http://[::1", [b"[::1]"], False),
        (b"http://127.0.0.1:8000", [b"localhost:8000"], False),
        (OURS, [], False),
        (OURS, [b"example.com", b"example.com"], False),
        (OURS, [b"attacker.example", b"example.com"], False),
    ],
)
async def test_an_origin_is_compared_with_one_host_and_its_port(
    origin: bytes, hosts: list[bytes], expected: bool
) -> None:
    assert await passes(coming("POST", [], [origin], hosts)) is expected


@pytest.mark.parametrize("origin", [b"null", b"https://", b""])
async def test_an_empty_host_is_rejected_before_it_could_equal_an_empty_origin(site: Site, origin: bytes) -> None:
    headers = [(b"host", b""), (b"origin", origin)]
    assert (await site.client.post("/cities/", data=CITY, headers=headers)).status_code == 400


# --- SessionMiddleware ---


@pytest.fixture
async def pool(empty: Addresses) -> AsyncIterator[Pool]:
    pool = Pool(empty.app, database.READ_CONNECTIONS)
    yield pool
    await pool.engine.dispose()


def lent(pool: Pool) -> int:
    """How many connections the pool has given out."""
    count: int = pool.engine.pool.checkedout()  # type: ignore[attr-defined]
    return count


async def call_with_session(pool: Pool, app: ASGIApp) -> int:
    """The status with which an application responds that is given a session of this pool."""
    return await status(SessionMiddleware(app), {**http(), "state": {"add_pool": pool}})


@database.unit_of_work
async def ask(session: Session, statement: str = "SELECT 1") -> None:
    await session.execute(sql(statement))


async def test_each_request_has_one_session_which_holds_a_connection_only_while_it_asks(pool: Pool) -> None:
    sessions: list[Session] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["state"]["session"]
        asking = asyncio.create_task(ask(session, "SELECT pg_sleep(0.1)"))
        await until(lambda: lent(pool) == 1)
        await asking
        assert lent(pool) == 0
        assert scope["state"]["session"] is session
        sessions.append(session)
        await passed(scope, receive, send)

    assert [await call_with_session(pool, app) for _ in range(2)] == [204, 204]
    assert sessions[0] is not sessions[1]


async def test_a_request_that_fails_gives_its_connection_back(pool: Pool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scope["state"]["session"].execute(sql("SELECT 1"))
        assert lent(pool) == 1
        await fail(scope, receive, send)

    with pytest.raises(ValueError, match="nobody expects this"):
        await call_with_session(pool, app)
    assert lent(pool) == 0


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("statement", ["SELECT 1", SLEEP], ids=["between statements", "in a statement"])
async def test_a_cancelled_request_gives_its_connection_back(pool: Pool, statement: str, times: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
        session = scope["state"]["session"]
        await session.execute(sql("SELECT 1"))
        await session.execute(sql(statement))
        await asyncio.Event().wait()

    request = asyncio.create_task(call_with_session(pool, app))
    await until(lambda: lent(pool) == 1)
    await asyncio.sleep(0.05)
    for _ in range(times):
        request.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([request])
    assert request.cancelled()
    await until(lambda: lent(pool) == 0)


async def test_500_cancelled_requests_give_every_connection_back(pool: Pool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (an ASGI application)
        await ask(scope["state"]["session"], SLEEP)

    requests = [asyncio.create_task(call_with_session(pool, app)) for _ in range(500)]
    await until(lambda: lent(pool) == database.READ_CONNECTIONS)
    for request in requests:
        request.cancel()
    await asyncio.wait(requests)
    assert lent(pool) == 0
    async with pool.open() as session:
        await ask(session)


@pytest.mark.parametrize("limit", ["off", "1000,1000,1000"])
@pytest.mark.parametrize("way", [{"json": CITY}, {"data": CITY}], ids=["json", "form"])
async def test_a_pool_exhausted_tenfold_is_a_503(empty: Addresses, limit: str, way: dict[str, dict[str, str]]) -> None:
    async with open_site(empty.app, CITYWEB_RATE_LIMIT=limit) as site, AsyncExitStack() as held:
        await site.client.get("/")
        for pool, connections in (
            (site.read_pool, database.READ_CONNECTIONS),
            (site.add_pool, database.ADD_CONNECTIONS),
        ):
            for _ in range(connections):
                await held.enter_async_context(pool.engine.connect())
        # One time limit for the rate limit, the row and the page together; two would be 4.6 s.
        async with asyncio.timeout(4.5):
            answers = await asyncio.gather(*(site.client.post("/cities/", **way) for _ in range(50)))  # type: ignore[arg-type]
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "5")}


@pytest.mark.parametrize("way", [{"json": CITY}, {"data": CITY}], ids=["json", "form"])
async def test_an_add_is_stored_while_slow_pages_hold_their_connections(
    empty: Addresses, way: dict[str, dict[str, str]]
) -> None:
    async with open_site(empty.app, CITYWEB_RATE_LIMIT="1,1,1") as site, AsyncExitStack() as held:
        for _ in range(database.READ_CONNECTIONS):
            await held.enter_async_context(site.read_pool.engine.connect())
        assert (await site.client.post("/cities/", **way)).status_code in {201, 303}  # type: ignore[arg-type]


async def test_an_add_and_its_page_give_their_connections_back(site: Site) -> None:
    await site.client.get("/")
    assert (await site.client.post("/cities/", data=CITY, follow_redirects=True)).status_code == 200
    assert lent(site.read_pool) == lent(site.add_pool) == 0
