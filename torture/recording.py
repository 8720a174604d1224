"""`python -m torture.recording CHECKOUT`: records what a checkout's server responds to some 400 requests.

Two recordings of one behaviour are equal: times, ids of requests, fingerprints and white space are left out.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx

PATHS = [
    "/", "/?live=off", "/?added=1", "/?added=7", "/?added=x", "/?name=A&population=5", "/board", "/board?seen=0",
    "/board?seen=x", "/cities", "/cities/", "/cities?q=to", "/cities?q=tokio", "/cities?q=%00",
    "/cities?after=5-5", "/cities?before=5-5", "/cities?after=x", "/cities?after=5-5&before=5-5", "/cities/biggest",
    "/cities/1", "/cities/999", "/cities/99999999999", "/cities/x", "/cities/1.json", "/cities/999.json", "/cities.csv",
    "/cities-excel.csv", "/cities.json", "/feed.atom", "/api", "/openapi.json", "/livez", "/readyz", "/static/site.css",
    "/static/nowhere.css", "/nowhere", "/cities?q=" + "x" * 201, "/robots.txt", "/sitemap.xml", "/favicon.ico",
    "/apple-touch-icon.png", "/manifest.webmanifest", "/.well-known/security.txt", "/cities/2", "/cities/2.json",
    "/changes", "/changes?city=1", "/changes?before=3", "/changes?before=x", "/changes.atom", "/privacy",
]  # fmt: skip
HEADERS: list[dict[str, str]] = [
    {}, {"accept": "application/json"}, {"hx-request": "true"}, {"accept-encoding": "gzip"}, {"if-none-match": "*"},
]  # fmt: skip
FIELDS: list[dict[str, object]] = [
    {"name": "Tokyo", "population": "37,400,068"}, {"name": "Delhi", "population": 28_514_000},
    {"name": "tokyo ", "population": "5"}, {"name": "Zürich", "population": "0"}, {"name": "Zurich", "population": "1"},
    {"name": "", "population": ""}, {"name": "=1+1", "population": "x"}, {"name": "A;b", "population": "-1"},
    {"name": "A" * 201, "population": "100,000,001"}, {"name": "Osaka", "population": "1", "topic": "x"}, {},
    {"name": "a\x00b", "population": "1.5"}, {"name": "Xi’an", "population": "1"}, {"name": "Xi'an", "population": "2"},
]  # fmt: skip
CHANGES: list[tuple[str, dict[str, object]]] = [
    ("/cities/1", {"population": "37,400,069", "old_population": "37,400,068"}),
    ("/cities/1", {"population": "37,400,070", "old_population": "37,400,068"}),
    ("/cities/1", {"population": "5", "old_population": "37,400,069"}), ("/cities/1", {"population": "5"}),
    ("/cities/1", {"name": "Delhi", "old_name": "Tokyo"}), ("/cities/999", {"name": "A", "old_name": "B"}),
    ("/cities/1/remove", {"reason": "duplicate", "old_name": "Tokyo", "old_population": 5, "old_country": ""}),
    ("/cities/2/remove", {"reason": "x", "old_name": "Delhi", "old_population": 28_514_000, "old_country": ""}),
    ("/cities/2/remove", {"reason": "duplicate", "old_name": "Delhi", "old_population": 28_514_000, "old_country": ""}),
    ("/cities/2", {"name": "A", "old_name": "Delhi"}), ("/changes/1/revert", {}), ("/changes/999/revert", {}),
]  # fmt: skip
FORM = "application/x-www-form-urlencoded"
RAW = [
    (b"{", "application/json"), (b"[]", "application/json"), (b'{"name": 1}', "application/json"),
    (b"\xff", "application/json"), (b'{"name": "A", "name": "B"}', "application/json"), (b"name=A&name=B", FORM),
    (b"name=%ff", FORM), (b"x" * 9_000, FORM), (b"x", "text/plain"), (b"", "application/json; charset=latin-1"),
]  # fmt: skip
VARIABLE = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)"), "TIME"),
    (re.compile(r"\?v=[0-9a-f]{12}"), "?v=FINGERPRINT"),
    (re.compile(r"(value|seen)=(\\?\"?)[0-9a-f]{16}"), r"\1=\2BOARD"),
    (re.compile(r"localhost:\d+|127\.0\.0\.1:\d+"), "HOST"),
    (re.compile(r"\d\d:\d\d UTC"), "CLOCK"),
    (re.compile(r"\d+ \w+ 20\d\d"), "DAY"),
    (re.compile(r"contributor [a-z2-7]{5}"), "CONTRIBUTOR"),
    (re.compile(r"sha384-[^\"]+"), "HASH"),
    (re.compile(r"(?:\\n|\s)+"), ""),
]


@contextmanager
def serving(checkout: Path) -> Iterator[str]:
    """The URL of the checkout's own server, on a new database."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": folder, "CITYWEB_RATE_LIMIT": "off"}
        command = [sys.executable, "manage.py", "runserver", "--port", "0"]
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        with process:
            assert process.stdout
            yield process.stdout.readline().split()[3].rstrip("/")
            process.terminate()


def requests() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Method, path and what else httpx takes."""
    for fields, headers in product(FIELDS, HEADERS[:3]):
        yield "POST", "/cities/", {"data": fields, "headers": headers}
    for fields, headers in product(FIELDS, HEADERS[:2]):
        yield "POST", "/cities/", {"json": fields, "headers": headers}
        yield "POST", "/cities", {"files": {n: (None, str(v)) for n, v in fields.items()}, "headers": headers}
    for (path, fields), headers in product(CHANGES, HEADERS[:3]):
        yield "POST", path, {"data": fields, "headers": headers}
        yield "POST", path, {"json": fields, "headers": headers}
    for body, kind in RAW:
        yield "POST", "/cities/", {"content": body, "headers": {"content-type": kind}}
    for path, headers in product(PATHS, HEADERS):
        yield "GET", path, {"headers": headers}
    for method, path in product(
        ("HEAD", "PUT", "DELETE", "OPTIONS"), ("/", "/cities/", "/cities/1", "/board", "/livez")
    ):
        yield method, path, {}
    yield "POST", "/cities/", {"data": FIELDS[0], "headers": {"sec-fetch-site": "cross-site"}}
    yield "GET", "/", {"headers": {"host": "elsewhere.example"}}
    yield "GET", "/", {"headers": {"x": "x" * 17_000}}


def main() -> None:
    """Prints one line of JSON for each request."""
    with serving(Path(sys.argv[1])) as url, httpx.Client(base_url=url) as client:
        for number, (method, path, rest) in enumerate(requests()):
            response = client.request(method, path, **rest)  # type: ignore[arg-type]
            # The server lists the methods of a 405 in any order.
            left_out = {"allow", "date", "etag", "content-length", "last-modified"}
            headers = {name: value for name, value in response.headers.items() if name not in left_out}
            recorded = json.dumps(
                [number, method, path, response.status_code, headers, response.text], ensure_ascii=False
            )
            for pattern, word in VARIABLE:
                recorded = pattern.sub(word, recorded)
            print(re.sub(r"[0-9a-f]{8}-[0-9a-f]+", "ID", recorded))


if __name__ == "__main__":
    main()
