"""Whatever bytes come: no address fails, stores nonsense, or answers without its headers and its charset."""

import gzip
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote_from_bytes, unquote, urlencode

import asyncpg
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.types import Message

from cityweb import countries, names
from cityweb.city import POPULATION_MAX
from cityweb.postgres import database
from cityweb.submissions import REASONS
from tests.conftest import FILL, Addresses, Site, insert, of_requests, run_sql, until
from tests.pages import HSTS, OTHERS, SECURITY

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Asked:
    """A request as uvicorn hands it on: any bytes that its parser lets through."""

    method: str
    path: bytes
    query: bytes = b""
    headers: Headers = ()
    body: Sequence[bytes] = ()
    scheme: str = "http"


@dataclass(frozen=True)
class Answered:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


async def ask(site: Site, asked: Asked) -> Answered:
    """Sends a request whose client leaves when it has sent it."""
    sent: list[Message] = []
    coming_in: list[Message] = [
        {"type": "http.request", "body": part, "more_body": number < len(asked.body)}
        for number, part in enumerate(asked.body or [b""], 1)
    ]

    async def receive() -> Message:
        return coming_in.pop(0) if coming_in else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": unquote(asked.path.decode("ascii")),
        "raw_path": asked.path,
        "query_string": asked.query,
        "root_path": "",
        "headers": list(asked.headers),
        "client": ("192.0.2.1", 4711),
        "server": ("127.0.0.1", 8000),
    }
    # On a busy machine its timer may have had no turn for a second, or its read none before the deadline.
    await until(lambda: not site.board.is_stale)
    await site.asgi(scope, receive, send)
    start, *rest = sent
    assert start["type"] == "http.response.start"
    assert {message["type"] for message in rest} == {"http.response.body"}
    assert [bool(message.get("more_body")) for message in rest] == [True] * (len(rest) - 1) + [False]
    headers = [(name.decode("ascii"), value.decode("latin-1")) for name, value in start["headers"]]
    return Answered(start["status"], headers, b"".join(message.get("body", b"") for message in rest))


KINDS = {
    "application/atom+xml; charset=utf-8",
    "application/json",
    "application/problem+json",
    "image/svg+xml",
    "text/css; charset=utf-8",
    "text/event-stream; charset=utf-8",
    "text/html; charset=utf-8",
    "text/javascript; charset=utf-8",
    "text/plain; charset=utf-8",
}
"""What is sent: JSON is always UTF-8 (RFC 8259, 8.1), and XML where it says nothing else."""


def assert_sound(asked: Asked, answer: Answered) -> None:
    """What holds for every answer, whatever was asked."""
    headers = dict(answer.headers)
    assert answer.status < 500
    expected = SECURITY | HSTS if asked.scheme == "https" else SECURITY
    assert sorted(pair for pair in answer.headers if pair[0] not in OTHERS) == sorted(expected.items())
    assert len(headers) == len(answer.headers)
    assert answer.status in {303, 304} or headers["content-type"] in KINDS
    body = gzip.decompress(answer.body) if headers.get("content-encoding") == "gzip" and answer.body else answer.body
    assert "Traceback" not in body.decode()
    if headers.get("content-type", "").endswith("json") and body:
        json.loads(body)
    if answer.status >= 400 or asked.method == "POST":
        assert headers["cache-control"] == "no-store"


@pytest.fixture
async def psql(empty: Addresses) -> AsyncIterator[asyncpg.Connection]:
    connection = await database.connect(empty.owner)
    yield connection
    await connection.close()


async def stored(psql: asyncpg.Connection) -> list[tuple[str, int]]:
    return [tuple(row) for row in await psql.fetch("SELECT name, population FROM cities")]


# --- what may come ---

ENDPOINTS = [
    ("GET", b"/"), ("POST", b"/"), ("POST", b"/cities"), ("POST", b"/cities/"), ("GET", b"/cities/biggest"),
    ("GET", b"/board"), ("GET", b"/livez"), ("GET", b"/readyz"), ("GET", b"/static/site.css"), ("GET", b"/cities/1"),
    ("GET", b"/changes"), ("GET", b"/changes.atom"), ("GET", b"/privacy"), ("POST", b"/cities/1"),
    ("POST", b"/cities/1/remove"), ("POST", b"/changes/1/revert"),
]  # fmt: skip
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20)
VALUE = st.binary(max_size=60).map(lambda value: bytes(byte for byte in value if byte >= 32 and byte != 127).strip())
KNOWN = {
    b"accept": [b"text/html", b"application/json", b"*/*", b"application/json;q=0", b",,;;q="],
    b"accept-encoding": [b"gzip", b"gzip;q=0", b"*", b"gzip;q=", b"br, gzip ; q = 1"],
    b"connection": [b"close", b"upgrade"],
    b"content-length": [b"0", b"5", b"8192", b"8193", b"99999999999999999999", b"9" * 5000, b"-1", b"\xb2"],
    b"content-type": [b"text/plain", b"application/json", b"multipart/form-data"],
    b"cookie": [b"a=b", b"=;="],
    b"forwarded": [b"for=192.0.2.7"],
    b"host": [b"evil.example", b"testserver", b""],
    b"hx-request": [b"true", b"false"],
    b"hx-request-type": [b"partial", b"full"],
    b"if-none-match": [b"*", b'"x"', b'W/"', b'"' * 1000],
    b"last-event-id": [b"7", b"\xff"],
    b"origin": [b"http://testserver", b"null", b"https://evil.example", b"http://[::1"],
    b"range": [b"bytes=0-5", b"bytes=-", b"bytes=5-1"],
    b"sec-fetch-site": [b"same-origin", b"none", b"cross-site"],
    b"transfer-encoding": [b"chunked"],
    b"x-forwarded-for": [b"192.0.2.7", b"\xff, ,"],
    b"x-forwarded-proto": [b"https"],
}
header = st.one_of(
    st.sampled_from(sorted(KNOWN)).flatmap(lambda name: st.tuples(st.just(name), st.sampled_from(KNOWN[name]) | VALUE)),
    st.tuples(TOKEN.map(str.encode), VALUE),
)
some_headers = st.lists(header, max_size=4).map(lambda more: [(b"host", b"testserver"), *more])
odd_headers = st.lists(header, max_size=4)
METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH"])
paths = st.one_of(
    st.binary(max_size=40).map(lambda path: b"/" + quote_from_bytes(path, safe="/").encode()),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40).map(lambda path: f"/{path}".encode()),
    st.binary(max_size=20).map(lambda name: b"/static/" + quote_from_bytes(name).encode()),
)
queries = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(["added", "before", "city", "live", "v", "x"]), st.text(max_size=20)).map(
        lambda query: urlencode(query, errors="replace").encode()
    ),
    st.tuples(st.sampled_from(["added", "before", "city"]), st.integers()).map(
        lambda pair: "{}={}".format(*pair).encode()
    ),
)

words = st.one_of(
    st.sampled_from(
        ["Tokyo", "東京", " Zu\u0308rich ", "a\u200d", "\x00", "'", "1,000", "37 400 068", "-1", "1e6", "7"]
    ),
    st.text(max_size=12),
)
fields = st.sampled_from(["name", "population", "topic", "x"])


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=3)


values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | words, nested, max_leaves=6)
cities = st.fixed_dictionaries({"name": words, "population": words | st.integers(-5, POPULATION_MAX + 5)})
FORM, JSON = b"application/x-www-form-urlencoded", b"application/json"


def multipart(parts: Mapping[str, object]) -> bytes:
    rendered = [
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts.items()
    ]
    return "".join([*rendered, "--x--\r\n"]).encode(errors="replace")


written = st.one_of(
    cities.map(lambda city: (FORM, urlencode(city, errors="replace").encode())),
    st.lists(st.tuples(fields, words), max_size=10).map(
        lambda form: (FORM, urlencode(form, errors="replace").encode())
    ),
    cities.map(lambda city: (JSON, json.dumps(city).encode())),
    st.dictionaries(fields, values).map(lambda members: (JSON, json.dumps(members).encode())),
    values.map(lambda value: (JSON, json.dumps(value, ensure_ascii=False).encode(errors="surrogatepass"))),
    st.dictionaries(fields, words, max_size=9).map(
        lambda parts: (b"multipart/form-data; boundary=x", multipart(parts))
    ),
)
"""A kind and a body that fit each other."""
kinds = st.one_of(
    st.sampled_from([FORM, JSON, b"multipart/form-data; boundary=x", b"multipart/form-data; boundary=", b"text/plain"]),
    st.tuples(st.sampled_from([FORM, JSON, b"multipart/form-data", b""]), VALUE).map(b";".join),
    VALUE,
)
ending = st.integers(0, 60)
bodies = st.one_of(
    written,
    st.tuples(kinds, written.map(lambda both: both[1])),
    st.tuples(kinds, st.binary(max_size=200)),
    st.tuples(written, ending, st.binary(max_size=3)).map(
        lambda cut: (cut[0][0], cut[0][1][: cut[1]] + cut[2] + cut[0][1][cut[1] + 1 :])
    ),
    st.tuples(written, ending).map(lambda cut: (cut[0][0], cut[0][1][: cut[1]])),
    st.sampled_from([(JSON, b"[" * 8000), (FORM, b"x" * 8193), (JSON, b'{"population": ' + b"9" * 5000 + b"}")]),
)
schemes = st.sampled_from(["http", "https"])
HTMX = [(b"hx-request", b"true"), (b"hx-request-type", b"partial")]
ways = st.sampled_from([[], HTMX])


def in_parts(body: bytes, at: int) -> list[bytes]:
    return [body[:at], body[at:]] if at < len(body) else [body]


# --- and what comes of it ---


async def submit(
    site: Site, path: bytes, submitted: tuple[bytes, bytes], way: Headers, more: Headers, part: int
) -> Answered:
    """Sends a body in parts. Returns the answer, for which holds what holds for every answer."""
    kind, body = submitted
    headers = [(b"host", b"testserver"), (b"content-type", kind), *way, *more]
    asked = Asked("POST", path, headers=headers, body=in_parts(body, part))
    answer = await ask(site, asked)
    assert_sound(asked, answer)
    return answer


def assert_valid(name: str, population: int) -> None:
    """What holds for every stored city."""
    assert name == names.normal(name)
    assert 1 <= len(name) <= 200
    assert names.broken_rule(name) is None
    assert 0 <= population <= POPULATION_MAX


@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=[f"{method} {path.decode()}" for method, path in ENDPOINTS])
@of_requests
@given(query=queries, headers=some_headers | odd_headers, body=st.binary(max_size=50), scheme=schemes)
async def test_whatever_query_headers_and_body_an_address_gets_it_answers(
    site: Site, method: str, path: bytes, query: bytes, headers: Headers, body: bytes, scheme: str
) -> None:
    asked = Asked(method, path, query, headers, [body], scheme)
    answer = await ask(site, asked)
    assert_sound(asked, answer)
    assert answer.status not in {201, 303} or b"name" in body


@of_requests
@given(METHODS, paths | st.sampled_from([path for _, path in ENDPOINTS]), queries, some_headers)
async def test_whatever_method_and_path_is_asked_for_it_is_answered(
    site: Site, psql: asyncpg.Connection, method: str, path: bytes, query: bytes, headers: Headers
) -> None:
    asked = Asked(method, path, query, headers)
    assert_sound(asked, await ask(site, asked))
    assert await stored(psql) == []


@pytest.mark.parametrize("path", [b"/cities", b"/cities/"])
@of_requests
@given(bodies, ways, st.just([]) | st.lists(header, max_size=2), ending)
@example((b"multipart/form-data; boundary=", multipart({"name": "a"})), [], [], 60)
async def test_whatever_is_submitted_only_a_city_is_stored(
    site: Site,
    psql: asyncpg.Connection,
    path: bytes,
    submitted: tuple[bytes, bytes],
    way: Headers,
    more: Headers,
    part: int,
) -> None:
    answer = await submit(site, path, submitted, way, more, part)
    rows = await stored(psql)
    assert len(rows) == (answer.status in {200, 201, 303})
    for name, population in rows:
        assert_valid(name, population)
        await psql.execute("TRUNCATE cities")


BERLIN = ("Berlin", 400_000, "DE")
SMALL = insert("Berlin", 400_000, id=1, country="'DE'", created_at="now() - interval '2 days'")
shown = {"old_name": "Berlin", "old_population": 400_000, "old_country": "DE"}
people = st.sampled_from([400_001, "13,960,000"]) | words | st.integers(-5, POPULATION_MAX + 5)
changes = st.tuples(
    st.dictionaries(st.sampled_from(sorted(shown)), words | people, max_size=1) | st.just({}),
    st.fixed_dictionaries(
        {"reason": st.sampled_from(REASONS) | words},
        optional={"name": words, "population": people, "country": st.sampled_from(["", "fr", "Germany", "ZZ"])},
    ),
).map(lambda pair: {**shown, **pair[0], **pair[1]})
"""Changes of a city: most with the values that are shown, and half of those with valid ones to replace them."""
changing = st.one_of(
    changes.map(lambda fields: (FORM, urlencode(fields, errors="replace").encode())),
    changes.map(lambda fields: (JSON, json.dumps(fields).encode())),
    changes.map(lambda fields: (b"multipart/form-data; boundary=x", multipart(fields))),
    st.tuples(changes, st.dictionaries(st.sampled_from(["name", "population", "old_name"]), values)).map(
        lambda both: (JSON, json.dumps({**both[0], **both[1]}).encode())
    ),
)


@pytest.fixture
async def full(site: Site, empty: Addresses) -> Site:
    """The site with a full board, above which nothing is asked about."""
    await run_sql(empty.owner, FILL.format(population="90000000 + n", first=101, last=120))
    await site.board.refresh()
    return site


@pytest.mark.parametrize("path", [b"/cities/1", b"/cities/1/remove", b"/changes/1/revert"])
@of_requests
@given(changing | bodies, ways, st.just([]) | st.lists(header, max_size=2), ending)
async def test_whatever_is_sent_as_a_change_what_is_stored_is_a_city_and_logged(
    full: Site,
    psql: asyncpg.Connection,
    path: bytes,
    submitted: tuple[bytes, bytes],
    way: Headers,
    more: Headers,
    part: int,
) -> None:
    await psql.execute("DELETE FROM cities WHERE id = 1; TRUNCATE changes RESTART IDENTITY")
    await psql.execute(SMALL)
    await psql.execute(
        "INSERT INTO changes (kind, city_id, old_population, new_population) VALUES ('correct', 1, 300000, 400000)"
    )
    answer = await submit(full, path, submitted, way, more, part)
    rows = [tuple(row) for row in await psql.fetch("SELECT name, population, country FROM cities WHERE id = 1")]
    logged = [row["kind"] for row in await psql.fetch("SELECT kind FROM changes WHERE id > 1")]
    if rows == [BERLIN]:
        assert logged == []
        return
    assert answer.status in {200, 303}
    assert logged == (["correct"] if rows else ["remove"])
    for name, population, country in rows:
        assert_valid(name, population)
        assert country == "" or country in countries.NAMES
