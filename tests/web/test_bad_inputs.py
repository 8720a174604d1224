"""Bad inputs against a real server: no failure, no trace, nothing stored, the whole header set, the right charset."""

import http.client
import itertools
import json
import re
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import quote_plus

import asyncpg
import httpx
import pytest

from cityweb import names
from cityweb.postgres import database
from tests.conftest import Addresses, Server, find_browser, serving, unmeasured
from tests.names import GOOD, JOINED, NEWER
from tests.names import UNREADABLE as UNREADABLE_NAMES
from tests.pages import HTMX, OTHERS, SECURITY, WAYS, parse, table, text

pytestmark = unmeasured  # in this process: what these tests are about happens in the server

Stored = Callable[[], Awaitable[list[tuple[str, int]]]]


@pytest.fixture(scope="module")
def running(postgres: Addresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of them: a bad input leaves nothing behind."""
    with serving(postgres.app, tmp_path_factory.mktemp("running") / "log") as start:
        yield start()


@pytest.fixture(scope="module")
def client(running: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url) as client:
        yield client


@pytest.fixture(scope="module")
async def psql(postgres: Addresses) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(postgres.owner)
    await connection.execute(EMPTY)
    yield connection
    await connection.close()


EMPTY = "TRUNCATE cities RESTART IDENTITY"


@pytest.fixture
async def stored(psql: asyncpg.Connection) -> AsyncIterator[Stored]:
    """Gives what a test has stored, and takes it away after the test."""

    async def stored() -> list[tuple[str, int]]:
        return [tuple(row) for row in await psql.fetch("SELECT name, population FROM cities")]

    yield stored
    if await stored():
        await psql.execute(EMPTY)


@pytest.fixture
async def nothing_stored(stored: Stored) -> AsyncIterator[None]:
    """Fails a test after which a city is stored."""
    yield
    assert await stored() == []


@dataclass(frozen=True)
class Response:
    status: int
    headers: list[tuple[str, str]]
    body: bytes
    closed: bool


def exchange(running: Server, request: bytes, method: str = "GET") -> Response:
    """The answer to these very bytes, and whether the server then closes the connection."""
    with socket.create_connection(("127.0.0.1", int(running.url.rpartition(":")[2])), timeout=10) as connection:
        with suppress(ConnectionError):  # it may be rejected before it was sent whole
            connection.sendall(request)
        answer = http.client.HTTPResponse(connection, method=method)
        answer.begin()
        body = answer.read()
        connection.settimeout(1)
        try:
            closed = not connection.recv(1)
        except TimeoutError:
            closed = False
        except ConnectionError:
            closed = True
        headers = [(name.lower(), value) for name, value in answer.getheaders()]
        return Response(answer.status, headers, body, closed)


def assert_sound(status: int, headers: list[tuple[str, str]], body: bytes) -> None:
    """What holds for every answer."""
    about, rest = dict(headers), [pair for pair in headers if pair[0] not in {*OTHERS, "date", "transfer-encoding"}]
    assert status < 500
    assert sorted(rest) == sorted(SECURITY.items())
    assert len(about) == len(headers)
    if status not in {303, 304}:
        assert about["content-type"] in {
            "text/html; charset=utf-8", "text/plain; charset=utf-8", "application/json", "application/problem+json",
        }  # fmt: skip
    assert "Traceback" not in body.decode()
    assert status < 400 or about["cache-control"] == "no-store"


# --- same origin ---

ORIGINS = [
    ({"sec-fetch-site": "same-site"}, 403),
    ({"sec-fetch-site": "friendly"}, 403),
    ({"sec-fetch-site": "Same-Origin"}, 403),
    ({"origin": "http://{host}:1"}, 403),
    ({"origin": "null"}, 403),
    ({"origin": "http://[::1"}, 403),
    ({"origin": "http://me@{authority}"}, 403),
    ({"origin": "{authority}"}, 403),
    ({"origin": "http://{authority}", "sec-fetch-site": "cross-site"}, 403),
    ({"origin": "http://{authority}"}, 422),
    ({"sec-fetch-site": "same-origin"}, 422),
    ({}, 422),
    ({"sec-fetch-site": "none"}, 422),
]


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("headers", "status"), ORIGINS)
async def test_where_a_request_comes_from(client: httpx.Client, way: str, headers: dict[str, str], status: int) -> None:
    authority = client.base_url.netloc.decode()
    given = {name: value.format(authority=authority, host="127.0.0.1") for name, value in headers.items()}
    answer = submit(client, way, "", "", **given)
    assert answer.status_code == status
    assert ("That form was sent from another site" in answer.text) is (status == 403)
    assert_sound(answer.status_code, answer.headers.multi_items(), answer.content)


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("headers", [[b"same-origin", b"same-origin"], [b"same-origin", b"cross-site"]])
async def test_two_words_on_where_a_request_comes_from_are_one_too_many(
    running: Server, method: str, headers: list[bytes]
) -> None:
    sites = b"".join(b"sec-fetch-site: " + site + b"\r\n" for site in headers)
    answer = exchange(
        running, method.encode() + b" /cities/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n" + sites + b"\r\n"
    )
    assert answer.status == 403
    assert_sound(answer.status, answer.headers, answer.body)


FORGED = """<!DOCTYPE html><title>another site</title><form action="{url}/cities/" method="post">
<input name="name" value="Atlantis"><input name="population" value="5"></form>
<script>document.forms[0].submit()</script>"""


@contextmanager
def another_site(page: str) -> Iterator[int]:
    """The port of a site that answers every GET with a page."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Site) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["cross-site", "same-site"])
async def test_a_browser_that_another_site_makes_post_is_rejected(running: Server, tmp_path: Path, host: str) -> None:
    with another_site(FORGED.format(url=running.url)) as port:
        browser = [
            find_browser("chromium"),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
        ]
        shown = ["--virtual-time-budget=9000", "--dump-dom", f"http://{host}:{port}/"]
        done = subprocess.run([*browser, *shown], capture_output=True, text=True, timeout=60, check=False)
    assert "That form was sent from another site, so nothing was saved." in done.stdout


# --- host ---

POISONED = [
    b"localhost@evil.tld", b"localhost:dr.frankenstein@evil.tld", b"localhost:dr.frankenstein@evil.tld:80",
    b"localhost:80/badpath", b"localhost: recovermypassword.com", b"evil.tld", b"localhost..", b"localhost/path",
    b"localhost?query", b"me@localhost", b"localhost:port", b"localhost:-1", b"localhost,localhost", b"",
    b"localhost#part", b"\xc3\xbc.localhost", b"[::1", b"localhost\\x",
]  # fmt: skip
"""Django's (tests/requests_tests/tests.py), and others."""
HOSTS = [
    b"HTTP/1.1\r\n",
    b"HTTP/1.0\r\n",
    b"HTTP/1.1\r\nhost: localhost\r\nhost: evil.tld\r\n",
    b"HTTP/1.1\r\nhost: evil.tld\r\nhost: localhost\r\n",
    b"HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n",
    b"HTTP/1.0\r\nhost: evil.tld\r\n",
    b"HTTP/1.1\r\nhost: evil.tld\r\nx-forwarded-host: localhost\r\n",
    *[b"HTTP/1.1\r\nhost: " + host + b"\r\n" for host in POISONED],
]


@pytest.mark.parametrize("address", [b"/", b"/livez", b"/readyz", b"/board", b"/static/site.css", b"/nowhere"])
@pytest.mark.parametrize("rest", HOSTS)
async def test_a_request_that_does_not_name_us_is_rejected(running: Server, address: bytes, rest: bytes) -> None:
    answer = exchange(running, b"GET " + address + b" " + rest + b"connection: close\r\n\r\n")
    assert answer.status == 400
    assert b"serve that host name. Check the address." in answer.body
    assert_sound(answer.status, answer.headers, answer.body)


# --- framing ---

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
POST = f"POST /cities/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: {FORM}\r\n".encode()
TOKYO = b"name=Tokyo&population=5"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(TOKYO), TOKYO)
FRAMING = {
    "a length and chunks": (POST + b"content-length: 23\r\ntransfer-encoding: chunked\r\n\r\n" + CHUNKED, 400),
    "chunks and a length": (POST + b"transfer-encoding: chunked\r\ncontent-length: 23\r\n\r\n" + TOKYO, 400),
    "two lengths": (POST + b"content-length: 23\r\ncontent-length: 23\r\n\r\n" + TOKYO, 400),
    "two different lengths": (POST + b"content-length: 23\r\ncontent-length: 5\r\n\r\n" + TOKYO, 400),
    "a list of lengths": (POST + b"content-length: 23, 23\r\n\r\n" + TOKYO, 400),
    "a negative length": (POST + b"content-length: -1\r\n\r\n" + TOKYO, 400),
    "a signed length": (POST + b"content-length: +23\r\n\r\n" + TOKYO, 400),
    "a hexadecimal length": (POST + b"content-length: 0x17\r\n\r\n" + TOKYO, 400),
    "a length in superscript": (POST + b"content-length: \xb2\r\n\r\n" + TOKYO, 400),
    "an empty length": (POST + b"content-length:\r\n\r\n" + TOKYO, 400),
    "a length of thirty digits": (POST + b"content-length: " + 30 * b"9" + b"\r\n\r\n" + TOKYO, 400),
    "xchunked": (POST + b"transfer-encoding: xchunked\r\n\r\n" + CHUNKED, 400),
    "chunked, then not": (POST + b"transfer-encoding: chunked, identity\r\n\r\n" + CHUNKED, 400),
    "a space before the colon": (b"GET / HTTP/1.1\r\nhost : localhost\r\n\r\n", 400),
    "a space before the colon of the coding": (POST + b"transfer-encoding : chunked\r\n\r\n" + CHUNKED, 400),
    "bare line feeds": (b"GET / HTTP/1.1\nhost: localhost\n\n", 400),
    "a bare line feed": (b"GET / HTTP/1.1\r\nhost: localhost\nx: y\r\n\r\n", 400),
    "a bare carriage return": (GET + b"x: a\rb\r\n\r\n", 400),
    "a folded header": (GET + b"x: a\r\n b\r\n\r\n", 400),
    "a folded first header": (b"GET / HTTP/1.1\r\n x: a\r\nhost: localhost\r\n\r\n", 400),
    "a header without a colon": (GET + b"x\r\n\r\n", 400),
    "a header without a name": (GET + b": x\r\n\r\n", 400),
    "a header with NUL": (GET + b"x: a\0b\r\n\r\n", 400),
    "a header's name in UTF-8": (GET + b"z\xc3\xbcrich: x\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nhost: localhost\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "an address in UTF-8": (b"GET /Z\xc3\xbcrich HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "an address in Latin-1": (b"GET /Z\xfcrich HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "an address without a path": (b"GET ? HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "an unknown method": (b"FROB / HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "a method in small letters": (b"get / HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "CONNECT": (b"CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "a chunk of no number": (POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n" + TOKYO + b"\r\n0\r\n\r\n", 400),
    "a chunk of 68 bits": (POST + b"transfer-encoding: chunked\r\n\r\n" + 17 * b"f" + b"\r\n" + TOKYO, 400),
    "chunks with bare line feeds": (POST + b"transfer-encoding: chunked\r\n\r\n17\n" + TOKYO + b"\n0\n\n", 400),
    "a trailer of 30 KB": (
        POST + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + 30_000 * b"x" + b"\r\n\r\n", 422
    ),
    "TRACE": (b"TRACE / HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
    "OPTIONS": (b"OPTIONS / HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
    "a head of 16 KB": (GET + b"x: " + 16_384 * b"x" + b"\r\n\r\n", 431),
    "a head of 5,000 short lines": (GET + 5_000 * b"x: y\r\n" + b"\r\n", 431),
    "an address of 20 KB": (GET.replace(b"/", b"/" + 20_000 * b"x", 1) + b"\r\n", 431),
    "a query of 20 KB": (GET.replace(b"/", b"/?" + 20_000 * b"x", 1) + b"\r\n", 431),
    "an address of 64 KB": (GET.replace(b"/", b"/" + 65_536 * b"x", 1) + b"\r\n", 431),
    "an endless head": (GET + 3_000 * b"x-filler: xxxxxxxxxxxxxxxxxxxx\r\n", 431),
}  # fmt: skip


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize(("request_", "status"), FRAMING.values(), ids=FRAMING)
async def test_what_is_not_quite_http_is_rejected(running: Server, request_: bytes, status: int) -> None:
    answer = exchange(running, request_)
    assert answer.status == status
    assert answer.closed or status == 405
    assert_sound(answer.status, answer.headers, answer.body)


# --- address ---

NOWHERE = [
    "/%00",
    "/%c0%ae",
    "/static/%00",
    "/static/..%2f",
    "/static/%2e%2e/manage.py",
    "//evil.example/",
    "/" + "x" * 3_000,
]


@pytest.mark.parametrize("address", NOWHERE, ids=lambda address: address[:30])
async def test_an_address_that_is_none_is_not_found(running: Server, address: str) -> None:
    answer = exchange(running, f"GET {address} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".encode())
    assert answer.status == 404
    assert_sound(answer.status, answer.headers, answer.body)


QUERIES = [
    "added=Tokyo",
    f"added={2**63}",
    "added=1&added=2",
    "added=",
    "added=%ff",
    "added=%00",
    "x=y",
    "%",
    "&&=&",
    "%ff=%ff",
]
BROKEN = {
    "if-none-match": [b'"', b"W/", b'"a" "b"', b",,,", b"\xff", 1_000 * b'"'],
    "accept": [b"", b"/", b";q=x", b"\xff", b"text/html;q=9e9", 1_000 * b","],
    "accept-encoding": [b"", b";;", b"\xff", b"gzip;q=x"],
    "range": [b"bytes=-", b"bytes=9-1", b"lines=1-2", b"bytes=0-99999999999999999999"],
    "last-event-id": [b"", b"\xff", 1_000 * b"9"],
    "if-modified-since": [b"yesterday", b"Thu, 99 Foo 9999 99:99:99 GMT"],
}


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("query", QUERIES)
async def test_a_query_that_means_nothing_shows_the_plain_page(client: httpx.Client, query: str) -> None:
    plain, queried = (client.get(f"/{rest}") for rest in ("", f"?{query}"))
    assert (queried.status_code, queried.text) == (200, plain.text)
    assert_sound(queried.status_code, queried.headers.multi_items(), queried.content)


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("address", ["/", "/cities/biggest", "/static/site.css"])
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BROKEN.items() for value in values])
async def test_a_header_that_means_nothing_is_ignored(
    client: httpx.Client, address: str, name: str, value: bytes
) -> None:
    headers = {b"accept-encoding": b"identity", name.encode(): value}
    answer = client.get(address, headers=headers)
    assert (answer.status_code, answer.content) == (200, client.get(address).content)


# --- body ---

PART = b'--x\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
FIVE = PART % (b"population", b"", b"5") + b"--x--\r\n"
WHOLE = PART % (b"name", b"", b"Tokyo") + FIVE
MULTIPART = "multipart/form-data; boundary=x"
BODIES: dict[str, tuple[bytes, str, set[int]]] = {
    "text": (TOKYO, "text/plain", {415}),
    "a form in UTF-16": (TOKYO, f"{FORM}; charset=utf-16", {415}),
    "JSON in UTF-16": (b"{}", f"{JSON}; charset=utf-16", {415}),
    "a form in UTF-16, shouted": (TOKYO, f"{FORM}; CHARSET=UTF-16", {415}),
    "a multipart form in UTF-16": (WHOLE, f"{MULTIPART}; charset=utf-16", {415}),
    "no type": (TOKYO, "", {415}),
    "a list of types": (TOKYO, f"{FORM}, {JSON}", {415}),
    "half a type": (TOKYO, "application/", {415}),
    "no boundary": (WHOLE, "multipart/form-data", {400}),
    "an empty boundary": (WHOLE, "multipart/form-data; boundary=", {400}),
    "another boundary": (WHOLE, "multipart/form-data; boundary=y", {400}),
    "a boundary of 5,000 characters": (WHOLE, "multipart/form-data; boundary=" + 5_000 * "y", {400}),
    "a file beside a whole city": (PART % (b"photo", b'; filename="f"', b"Tokyo") + WHOLE, MULTIPART, {400}),
    "50 headers of a part": (PART % (b"name", 50 * b"\r\nx: y", b"Tokyo") + b"--x--\r\n", MULTIPART, {400, 422}),
    "50 headers of a part of a whole city": (PART % (b"x", 50 * b"\r\nx: y", b"y") + WHOLE, MULTIPART, {400}),
    "a part without a name": (b"--x\r\ncontent-disposition: form-data\r\n\r\nTokyo\r\n" + WHOLE, MULTIPART, {400}),
    "a part in UTF-16": (PART % (b"name", b"", "Tōkyō".encode("utf-16")) + FIVE, MULTIPART, {400}),
    "a part in UTF-16 that is UTF-8 too": (
        PART % (b"name", b"", "Tokyo".encode("utf-16-le")) + FIVE,
        MULTIPART,
        {422},
    ),
    "a part in Latin-1": (PART % (b"name", b"", b"Z\xfcrich") + FIVE, MULTIPART, {400}),
    "a part of 5,000 bytes": (PART % (b"x", b"", 5_000 * b"x") + WHOLE, MULTIPART, {400}),
    "nine parts": (9 * (PART % (b"x", b"", b"y")) + b"--x--\r\n", MULTIPART, {400}),
    "a name in two parts": (PART % (b"name", b"", b"Delhi") + WHOLE, MULTIPART, {400}),
    "a multipart form without its end": (PART % (b"name", b"", b"Tokyo"), MULTIPART, {400, 422}),
    "half a part": (WHOLE[:50], MULTIPART, {400, 422}),
    "an empty multipart form": (b"", MULTIPART, {400, 422}),
    "a closed multipart form": (b"--x--\r\n", MULTIPART, {400, 422}),
    "an empty form": (b"", FORM, {422}),
    "%": (b"%", FORM, {422}),
    "a query of a database": (b"name[$gt]=1", FORM, {422}),
    "no value": (b"name&population", FORM, {422}),
    "bytes that are no UTF-8, escaped": (b"name=%ff%fe&population=5", FORM, {400}),
    "a surrogate, escaped": (b"name=%ED%A0%80&population=5", FORM, {400}),
    "an overlong slash": (b"name=a%C0%AF&population=5", FORM, {400}),
    "bytes that are no UTF-8": (b"name=\xff&population=5", FORM, {400}),
    "Latin-1": (b"name=Z\xfcrich&population=5", FORM, {400}),
    "nine fields": (b"&".join([b"x=1"] * 9), FORM, {400}),
    "two names": (TOKYO + b"&name=Delhi", FORM, {400}),
    "two populations": (TOKYO + b"&population=5", FORM, {400}),
    "a filled trap": (TOKYO + b"&topic=https://evil.example", FORM, {422}),
    "a filled trap in JSON": (b'{"name": "Tokyo", "population": 5, "topic": "x"}', JSON, {422}),
    "empty JSON": (b"", JSON, {400}),
    "half JSON": (b'{"name": "Tokyo", "popul', JSON, {400}),
    "a byte order mark": (b'\xef\xbb\xbf{"name": "Tokyo", "population": 5}', JSON, {400}),
    "JSON that is no UTF-8": (b'{"name": "\xff", "population": 5}', JSON, {400}),
    "8,000 brackets": (8_000 * b"[", JSON, {400}),
    "1,300 objects, whole": (1_300 * b'{"a":' + b"1" + 1_300 * b"}", JSON, {400, 422}),
    "NaN": (b'{"name": "Tokyo", "population": NaN}', JSON, {400}),
    "Infinity": (b'{"name": "Tokyo", "population": -Infinity}', JSON, {400}),
    "a name twice": (b'{"name": "Tokyo", "name": "Delhi", "population": 5}', JSON, {400}),
    "two documents": (b'{"name": "Tokyo", "population": 5}{}', JSON, {400}),
    "a form that says it is JSON": (TOKYO, JSON, {400}),
    "null": (b"null", JSON, {422}),
    "a list": (b'[{"name": "Tokyo", "population": 5}]', JSON, {422}),
    "an integer of 5,000 digits": (b'{"name": "Tokyo", "population": ' + 5_000 * b"9" + b"}", JSON, {422}),
    "1e400": (b'{"name": "Tokyo", "population": 1e400}', JSON, {422}),
    "1.5": (b'{"name": "Tokyo", "population": 1.5}', JSON, {422}),
    "1.000": (b'{"name": "Tokyo", "population": 1.000}', JSON, {422}),
    "true": (b'{"name": "Tokyo", "population": true}', JSON, {422}),
    "a lone surrogate": (b'{"name": "\\ud800", "population": 5}', JSON, {422}),
    "a name that is a number": (b'{"name": 7, "population": 5}', JSON, {422}),
    "a name that is an object": (b'{"name": {"$gt": ""}, "population": {"$gt": 0}}', JSON, {422}),
}


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("headers", [{}, HTMX], ids=["plain", "htmx"])
@pytest.mark.parametrize(("body", "kind", "statuses"), BODIES.values(), ids=BODIES)
async def test_a_body_that_is_no_city_is_rejected(
    client: httpx.Client, body: bytes, kind: str, statuses: set[int], headers: dict[str, str]
) -> None:
    headers = {**headers, **({"content-type": kind} if kind else {})}
    answer = client.post("/cities/", content=body, headers=headers)
    assert answer.status_code in statuses
    assert_sound(answer.status_code, answer.headers.multi_items(), answer.content)
    problem = answer.headers["content-type"] == "application/problem+json"
    assert problem == (kind.partition(";")[0] == JSON)


LONG = {
    "8,193 bytes announced": POST + b"content-length: 8193\r\n\r\n" + 8_193 * b"x",
    "8,193 bytes announced and not sent": POST + b"content-length: 8193\r\n\r\n",
    "8,193 bytes in chunks": POST + b"transfer-encoding: chunked\r\n\r\n2001\r\n" + 8_193 * b"x" + b"\r\n2001\r\nx",
    "a name of 8,193 bytes": POST + b"content-length: 8193\r\n\r\n" + TOKYO + b"&x=" + 8_167 * b"x",
    "50 MB": POST + b"content-length: 52428800\r\n\r\n" + 52_428_800 * b"x",
    "50 MB in chunks": POST + b"transfer-encoding: chunked\r\n\r\n3200000\r\n" + 52_428_800 * b"x" + b"\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("keep", [b"close", b"keep-alive"])
async def test_a_body_of_more_than_8_kb_is_rejected_and_not_read(running: Server, kind: str, keep: bytes) -> None:
    answer = exchange(running, LONG[kind].replace(b"connection: close", b"connection: " + keep, 1), "POST")
    assert (answer.status, answer.closed) == (413, True)
    assert dict(answer.headers)["connection"] == "close"
    assert_sound(answer.status, answer.headers, answer.body)


# --- number and name ---


def submit(client: httpx.Client, way: str, name: str, population: str, **headers: str) -> httpx.Response:
    """Submits a city one of the three ways, lone surrogates and all."""
    if way == "json":
        body = json.dumps({"name": name, "population": population}).encode()
        kind = JSON
    else:
        fields = {"name": name, "population": population}
        body = "&".join(
            f"{field}={quote_plus(value, errors='surrogatepass')}" for field, value in fields.items()
        ).encode()
        kind = FORM
    more = HTMX if way == "htmx" else {}
    return client.post("/cities/", content=body, headers={"content-type": kind, **more, **headers})


NUMBERS = [
    "1.5", "1,5", "-3", "1e6", "12x", "", "1,2345", "1.000,000", "12,34", "+5", "0x10", "²", "-1", "−1", "100,000,001",
    "100000001", str(2**63), "9" * 4_301, "1２", "1,396 million", "1.5 m m", "1_0", "NaN", "\x00", "5\x00",
    "5;DROP TABLE cities",
]  # fmt: skip


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: ascii(number[:20]))
async def test_what_is_no_population_is_rejected(client: httpx.Client, way: str, number: str) -> None:
    answer = submit(client, way, "Tokyo", number)
    assert answer.status_code == 422
    assert_sound(answer.status_code, answer.headers.multi_items(), answer.content)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("number", "population"),
    [
        ("0", 0), ("100,000,000", 100_000_000), (" 7 ", 7), ("37,400,068", 37_400_068), ("37 400 068", 37_400_068),
        ("37\u00a0400\u00a0068", 37_400_068), ("37\u202f400\u202f068", 37_400_068),
        ("37\u2009400\u2009068", 37_400_068),
        ("37.400.068", 37_400_068), ("37'400'068", 37_400_068), ("37_400_068", 37_400_068), ("1,24,78,447", 12_478_447),
        ("１２３", 123), ("٣", 3), ("13.96 million", 13_960_000), ("536k", 536_000),
    ],
)  # fmt: skip
async def test_a_population_is_stored(
    client: httpx.Client, stored: Stored, way: str, number: str, population: int
) -> None:
    assert submit(client, way, "Tokyo", number).status_code in {200, 201, 303}
    assert await stored() == [("Tokyo", population)]


NO_NAMES = {
    **UNREADABLE_NAMES,
    **{f"U+{point:04X}": f"a{chr(point)}b" for point in [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]},
    **{name: name for name in [" \u00a0 ", "---", "=cmd()", "+1", "-1+1|cmd", "@SUM(1)", "{{7*7}}", "<script>", "'"]},
    "201 characters": 201 * "a",
    **{name: name for name in ["I❤️NY", *itertools.chain(*NEWER.values())]},
    "a\ttab at the start of a formula": "\t=cmd()",
}


@pytest.mark.usefixtures("nothing_stored")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NO_NAMES.values(), ids=[ascii(name) for name in NO_NAMES])
async def test_what_is_no_name_is_rejected(client: httpx.Client, way: str, name: str) -> None:
    answer = submit(client, way, name, "5")
    assert answer.status_code == (400 if re.search("[\ud800-\udfff]", name) and way != "json" else 422)
    assert_sound(answer.status_code, answer.headers.multi_items(), answer.content)


LITERAL = [
    "O'Brien' OR 1--",
    "a&lt",
    "a\nb",
    'a" onclick x',
    200 * "\ufdfa",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name", [*GOOD, *LITERAL, *(name for name in JOINED.values() if len(name) < 10)], ids=lambda name: ascii(name[:30])
)
async def test_a_name_is_stored_and_shown_as_it_is(client: httpx.Client, stored: Stored, way: str, name: str) -> None:
    answer = submit(client, way, name, "5")
    assert answer.status_code in {200, 201, 303}
    assert_sound(answer.status_code, answer.headers.multi_items(), answer.content)
    plain = names.normal(name)
    assert await stored() == [(plain, 5)]
    page = parse(client.get("/?added=1").text)
    assert [city for _, city, _ in table(page)] == [" ".join(plain.split())]
    assert not page.css("bdi :not(a, .quiet), [onclick]")
    again = submit(client, way, name.upper().replace(" ", "\u00a0") if name.isascii() else name, "6")
    assert again.status_code == 422
    said = again.json()["detail"] if way == "json" else text(parse(again.text))
    assert ("The city is already stored" if way == "json" else "is already on the list, with 5 people.") in said
