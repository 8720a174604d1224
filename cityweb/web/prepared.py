"""Complete responses, made once and sent many times: plain and gzip, ETag, 304, HEAD."""

import gzip
import hashlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple

from starlette.types import Receive, Scope, Send

GZIP_LEVEL = 9
"""The highest level, since a response is compressed once per change, not once per request."""


class Head(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]


class PreparedResponse:
    """A 200 as an ASGI application: its body is compressed and hashed once, not once per request.

    The ETags are strong (RFC 9110, 8.8.1) and made from the bytes, so all processes agree on them. Each encoding has
    its own ETag.
    """

    def __init__(self, body: bytes, media_type: str, headers: Mapping[str, str]) -> None:
        self.body = body
        self.digest = hashlib.sha256(body).hexdigest()[:20]
        vary = ", ".join(filter(None, ("Accept-Encoding", headers.get("vary"))))
        self.headers = [
            (b"content-type", media_type.encode()),
            *((name.encode(), value.encode()) for name, value in headers.items() if name != "vary"),
            (b"vary", vary.encode()),
        ]
        self.plain = _Encoding(body, f'"{self.digest}"'.encode(), self.headers)

    @cached_property
    def packed(self) -> "_Encoding":
        """The gzip encoding, compressed on first use, because most pages except the board are sent only once."""
        packed = gzip.compress(self.body, GZIP_LEVEL, mtime=0)
        return _Encoding(packed, f'"{self.digest}-gzip"'.encode(), [*self.headers, (b"content-encoding", b"gzip")])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (an ASGI application)
        head, body = self.choose(scope)
        await send({"type": "http.response.start", "status": head.status, "headers": head.headers})
        await send({"type": "http.response.body", "body": body})

    def choose(self, scope: Scope) -> tuple[Head, bytes]:
        """The head and the body for a request: plain or gzip, 304 if its ETag matches, no body for HEAD."""
        encoding, known = self.plain, b""
        for name, value in scope["headers"]:
            if name == b"accept-encoding":
                if accepts_gzip(value):
                    encoding = self.packed
            elif name == b"if-none-match":
                known = known + b"," + value if known else value  # several lines form one list (RFC 9110, 5.3)
        if known and encoding.is_known(known):
            return encoding.not_modified, b""
        return encoding.head, b"" if scope["method"] == "HEAD" else encoding.body


class _Encoding:
    def __init__(self, body: bytes, etag: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.body, self.etag = body, etag
        headers = [*headers, (b"etag", etag)]
        length = (b"content-length", str(len(body)).encode())
        self.head = Head(200, [*headers, length])
        self.not_modified = Head(
            304,
            [pair for pair in headers if pair[0] not in {b"content-type", b"content-encoding"}],
        )

    def is_known(self, if_none_match: bytes) -> bool:
        """Whether If-None-Match (RFC 9110, 13.1.2) has this ETag, by weak comparison."""
        tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return self.etag in tags or tags == [b"*"]


@lru_cache(256)
def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether Accept-Encoding (RFC 9110, 12.5.3) accepts gzip; a weight of zero rejects it."""
    for part in accept_encoding.lower().split(b","):
        coding, _, weight = part.partition(b";")
        if coding.strip() in {b"gzip", b"x-gzip"}:
            return b"".join(weight.split()).rstrip(b".0") != b"q="
    return False
