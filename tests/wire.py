"""Random requests as bytes, repeatable by a seed, and a strict reader of the responses."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tests.pages import PAGES

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "QUERY"]
READ_ONLY: dict[str, set[int]] = {path: {200} for path in PAGES if path != "/cities/1"} | {
    "/?added=1": {200}, "/?live=off": {200}, "/?name=Tokyo&population=5": {200},
    "/cities/biggest": {200}, "/cities/1.json": {200, 404},
    "/cities.csv": {200, 503}, "/cities-excel.csv": {200, 503}, "/cities.json": {200, 503},
    "/feed.atom": {200}, "/openapi.json": {200}, "/livez": {200}, "/readyz": {200, 503},
    "/static/site.css": {200}, "/static/none": {404}, "/robots.txt": {200}, "/sitemap.xml": {200},
    "/favicon.ico": {200}, "/apple-touch-icon.png": {200}, "/manifest.webmanifest": {200},
    "/.well-known/security.txt": {404},
}  # fmt: skip
"""The possible statuses of GET at each path. Two downloads at a time are served, others are rejected with 503."""
NO_ROUTE = {path: {404} for path in ("/nowhere", "/%00", "/%ff%2e%2e/", "//", "/static/..%2fmanage.py")}
LISTS = {
    "/cities": {200},
    "/cities/": {200},
    "/cities?q=t": {200},
    "/cities?after=5-1": {200},
    "/cities?after=x": {400},
    "/cities/1": {200, 404},
    "/cities/0": {404},
}
"""Paths that accept POST too."""
FORM, JSON = "application/x-www-form-urlencoded", "application/json"
SMUGGLED = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""Text in a body; a parser that miscounts the body would read it as a request."""
GARBAGE = [b"\0\1\2\r\n\r\n", b"\r\n\r\nzz", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00",
           b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
           b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 150, b"GET /" + b"a" * 20_000]  # fmt: skip


@dataclass(frozen=True)
class Request:
    """A valid request, and the statuses that its response may have."""

    method: str
    text: bytes
    statuses: set[int]


@dataclass(frozen=True)
class Conversation:
    """The bytes that one connection sends, in parts: valid requests, then perhaps something else.

    With `is_broken`, the rest is or may be invalid HTTP; with `ends_first`, the client closes its sending half.
    """

    valid: list[Request]
    parts: list[bytes]
    methods: list[str]
    is_broken: bool
    ends_first: bool

    @property
    def most(self) -> int:
        """The maximum number of responses: broken input may be a request and something to be rejected."""
        return len(self.methods) + self.is_broken


@dataclass(frozen=True)
class Response:
    """A complete response; with `closes`, it is the last one of its connection."""

    status: int
    closes: bool


def converse(chance: random.Random) -> Conversation:
    valid = [request(chance, last=False) for _ in range(chance.choice([0, 0, 1, 1, 2, 5]))]
    kind = chance.choice(["whole", "whole", "cut", "mutated", "garbage"])
    last, rest = request(chance, last=kind == "whole"), b""
    match kind:
        case "whole":
            valid.append(last)
        case "cut":
            rest = last.text[: chance.randrange(1, len(last.text))]
        case "mutated":
            rest = mutate(chance, last.text.replace(SMUGGLED.encode(), b""))
        case _:
            rest = chance.choice(GARBAGE)
    sent = b"".join(each.text for each in valid) + rest
    cuts = sorted(chance.sample(range(1, len(sent)), min(len(sent) - 1, chance.choice([0, 0, 0, 1, 3]))))
    parts = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    is_broken = kind in {"mutated", "garbage"}
    methods = [each.method for each in valid] + [last.method] * bool(rest)
    return Conversation(valid, parts, methods, is_broken, bool(rest) or chance.randrange(4) == 0)


def request(chance: random.Random, last: bool) -> Request:
    """A random valid request; the last one asks to close the connection."""
    headers = [("host", chance.choice(["localhost", "localhost:8000", "127.0.0.1"]))]
    body, method = b"", chance.choice(["GET", "GET", "HEAD", "POST", "POST", *METHODS])
    path, statuses = chance.choice([*READ_ONLY.items(), *NO_ROUTE.items(), *LISTS.items()])
    if method == "POST" and chance.randrange(4):
        path = chance.choice(["/cities", "/cities/"])
        kind, body, statuses = submission(chance)
        headers.append(("content-type", kind))
    elif method not in {"GET", "HEAD"} and not (method == "POST" and path in LISTS):
        statuses = {404} if path in NO_ROUTE else {405}
    elif method == "POST":
        statuses = {415}
    if body or chance.randrange(10) == 0:
        body = body or SMUGGLED.encode()
        if chance.randrange(2):
            headers.append(("Transfer-Encoding", "chunked"))
            body = b"".join(chunks(chance, body))
        else:
            headers.append(("Content-Length", str(len(body))))
    headers += chance.sample(
        [("accept", "application/json"), ("accept-encoding", "gzip"), ("cookie", "a=b"), ("if-none-match", '"x"'),
         ("user-agent", "x" * chance.randrange(1, 2000)), ("range", "bytes=0-5"), ("upgrade", "h2c"),
         ("x-forwarded-for", "192.0.2.7"), ("sec-fetch-site", "none"), ("x" * 200, "\x80\xff")],
        chance.randrange(5),
    )  # fmt: skip
    chance.shuffle(headers)
    if last:
        headers.append(("connection", "close"))
    target = "http://localhost" + path if chance.randrange(6) == 0 else path
    lines = "".join(f"{name}:{chance.choice(['', ' ', '  '])}{value}\r\n" for name, value in headers)
    return Request(method, f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body, statuses)


def submission(chance: random.Random) -> tuple[str, bytes, set[int]]:
    """The media type and the body of a random submission, and the statuses that its response may have."""
    name, population = f"City {chance.randrange(3000)}", chance.randrange(10**6)
    city = json.dumps({"name": name, "population": population, "note": SMUGGLED})
    return chance.choice(
        [
            (JSON, city.encode(), {201, 422}),
            (FORM, f"name={name}&population={population}".encode(), {200, 303, 422}),
            (JSON, json.dumps({"name": SMUGGLED}).encode(), {422}),
            (JSON, city.encode()[: chance.randrange(1, len(city))], {400}),
            (FORM, b"name=%ff", {400}),
            ("text/plain", SMUGGLED.encode(), {415}),
            (JSON, city.encode() + b" " * chance.randrange(8_192, 20_000), {413}),
        ]
    )


def chunks(chance: random.Random, body: bytes) -> Iterator[bytes]:
    """A body in chunks, with extensions and trailers."""
    while body:
        size = chance.choice([1, 10, 5_000]) if len(body) < 500 else 5_000
        part, body = body[:size], body[size:]
        yield f"{len(part):{chance.choice('xX')}}".encode() + chance.choice([b"", b";a", b";a=b", b';a="b"']) + b"\r\n"
        yield part + b"\r\n"
    yield b"0\r\n" + chance.choice([b"", b"", b"a: b\r\n", b"host: x\r\nx-forwarded-for: 192.0.2.7\r\n"]) + b"\r\n"


def mutate(chance: random.Random, text: bytes) -> bytes:
    """Changes, drops, repeats or inserts some bytes, mostly in the head."""
    mutated = bytearray(text)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at = chance.randrange(min(len(mutated), chance.choice([20, 200, 5000])))
        byte, repeated = bytes([chance.randrange(256)]), bytes(mutated[at : at + chance.randrange(30)]) * 2
        change = chance.choice([byte, b"", chance.choice(INSERTED), repeated])
        mutated[at : at + chance.randrange(3)] = change
    return bytes(mutated) or b"x"


INSERTED = [b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b"%", b"content-length: 3\r\n"]
STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z -]*")
HEADER = re.compile(rb"([a-z0-9-]+): ([ -~\x80-\xff]*)")


class Malformed(AssertionError):
    """The server sent something other than a sequence of responses."""


def read_responses(stream: bytes, methods: list[str]) -> list[Response]:
    """The final responses in all bytes that a server sent until it closed the connection. Raises Malformed."""
    responses: list[Response] = []
    while stream:
        head, end, stream = stream.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status, pairs = STATUS.fullmatch(first), [HEADER.fullmatch(line) for line in lines]
        if not (end and status and all(pairs)):
            raise Malformed(head[:200])
        headers = {pair[1]: pair[2] for pair in pairs if pair}
        if len(headers) < len(pairs):
            raise Malformed("a header twice", head)
        code = int(status[1])
        if code < 200:
            continue
        closes = headers.get(b"connection") == b"close"
        method = methods[len(responses)] if len(responses) < len(methods) else ""
        # Invalid HTTP has no method: its rejection has a body and is the last response.
        empty = code in {204, 304} or (method == "HEAD" and (not stream or stream.startswith(b"HTTP/1.1 ")))
        if not empty and headers.get(b"transfer-encoding") == b"chunked":
            stream = skip_chunks(stream)
        elif not empty:
            length = int(headers[b"content-length"])
            if len(stream) < length:
                raise Malformed("cut", head, len(stream))
            stream = stream[length:]
        responses.append(Response(code, closes))
    return responses


def skip_chunks(stream: bytes) -> bytes:
    """The bytes after a body in chunks. Raises Malformed."""
    size = -1
    while size:
        line, end, stream = stream.partition(b"\r\n")
        size = int(line, 16)
        if not end or stream[size : size + 2] != b"\r\n":
            raise Malformed(line, stream[:100])
        stream = stream[size + 2 :]
    return stream
