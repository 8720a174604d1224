"""The middleware, from the outside in: prepared responses, headers, host, same origin, session."""

import logging
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cityweb.log import Requests
from cityweb.web.prepared import Head

HEAD_BYTES = 16_384
"""The longest head of a request: its path, its query and its header lines."""
BODY_BYTES = 8_192
"""The longest body that is read."""
LINE_BYTES = len(b": \r\n")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; manifest-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: it would make the Origin of our own form "null" (Fetch Standard), which SameOrigin rejects.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
HTTPS_HEADERS = [*HEADERS, (b"strict-transport-security", b"max-age=63072000; includeSubDomains")]

Reject = Callable[[Scope, int], ASGIApp]
"""Makes the error response to a request, with this status."""

log = logging.getLogger("cityweb.requests")


class Prepared:
    """Sends prepared responses before all other work: most requests only read, and these cost next to nothing.

    It serves only requests that the other middleware would accept: without a body, for one known host, with a head of
    at most HEAD_BYTES. A 204 has no security headers and no line in the log, because open pages request thousands.
    """

    def __init__(
        self, app: ASGIApp, find: Callable[[Scope], tuple[Head, bytes] | None], hosts: Sequence[str], requests: Requests
    ) -> None:
        self.app, self.find, self.requests = app, find, requests
        self.knows = host_rule(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        found = None
        if scope["type"] == "http" and self._is_plain(scope):
            with suppress(Exception):  # the view raises it again, for the other middleware to handle
                found = self.find(scope)
        if found is None:
            await self.app(scope, receive, send)
            return
        (status, headers), body = found
        is_quiet = status == 204  # noqa: PLR2004 (no content)
        if not is_quiet:
            headers = [*headers, *security_headers(scope)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if not is_quiet:
            self.requests.note(self.requests.next_id(), scope["method"], scope["path"], status, begun)

    def _is_plain(self, scope: Scope) -> bool:
        if scope["method"] not in {"GET", "HEAD"}:
            return False
        size, hosts = len(scope["path"]) + len(scope["query_string"]), 0
        for name, value in scope["headers"]:
            size += len(name) + len(value) + LINE_BYTES
            if name == b"host":
                if not self.knows(value):
                    return False
                hosts += 1
            elif name in BODY_HEADERS:
                return False
        return hosts == 1 and size <= HEAD_BYTES


BODY_HEADERS = {b"content-length", b"transfer-encoding"}


def security_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers of every response."""
    return HTTPS_HEADERS if scope["scheme"] == "https" else HEADERS


class SecurityHeaders:
    """Adds security headers to every response and logs every request with an id. An unexpected exception becomes a 500.

    If the response has already begun, the exception is raised again: the server then cuts the connection, so a partial
    response never looks complete. A head longer than HEAD_BYTES becomes a 431.
    """

    def __init__(self, app: ASGIApp, reject: Reject, requests: Requests) -> None:
        self.app, self.reject, self.requests = app, reject, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = time.perf_counter()
        status: int | None = None
        size, unread = len(scope["path"]) + len(scope["query_string"]), False
        for name, value in scope["headers"]:
            size += len(name) + len(value) + LINE_BYTES
            unread = unread or name == b"transfer-encoding" or (name == b"content-length" and value != b"0")

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Without this header, the server would read a rejected body to its end.
                closing = [(b"connection", b"close")] if unread else []
                message = {**message, "headers": [*message["headers"], *security_headers(scope), *closing]}
            await send(message)

        async def receive_to_the_end() -> Message:
            nonlocal unread
            message = await receive()
            unread = bool(message.get("more_body"))
            return message

        request_id = scope.setdefault("state", {})["request_id"] = self.requests.next_id()
        app = self.reject(scope, 431) if size > HEAD_BYTES else self.app
        try:
            await app(scope, receive_to_the_end, send_with_headers)
        except Exception:
            log.exception("failed", extra={"request_id": request_id})
            if status:
                raise
            await self.reject(scope, 500)(scope, receive, send_with_headers)
        finally:
            self.requests.note(request_id, scope["method"], scope["path"], status, begun)


class KnownHost:
    """Rejects a request unless it has exactly one Host header (RFC 9112, 3.2), with a known host."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], reject: Reject) -> None:
        self.app, self.reject = app, reject
        self.knows = host_rule(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http":
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) != 1 or not self.knows(hosts[0]):
                app = self.reject(scope, 400)
        await app(scope, receive, send)


def host_rule(hosts: Sequence[str]) -> Callable[[bytes], bool]:
    """A function that says whether a Host header names one of these hosts; `*` matches all, `*.` any subdomain."""
    exact = {host.encode() for host in hosts}
    endings = tuple(host[1:].encode() for host in hosts if host.startswith("*."))

    @lru_cache(256)
    def knows(host: bytes) -> bool:
        match = HOST.fullmatch(host.lower())
        return match is not None and ("*" in hosts or match[1] in exact or match[1].endswith(endings))

    return knows


# A domain name has at most 253 characters (RFC 1035, 2.3.4). A limit is needed: the feed repeats the host 100 times.
HOST = re.compile(rb"(\[[0-9a-f:.]{1,45}\]|[a-z0-9._-]{1,253})(?::[0-9]{1,5})?")


class SameOrigin:
    """Rejects unsafe requests from pages of other sites: the algorithm of CrossOriginProtection in Go's net/http."""

    def __init__(self, app: ASGIApp, reject: Reject) -> None:
        self.app, self.reject = app, reject

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app
        if scope["type"] == "http" and scope["method"] not in {"GET", "HEAD", "OPTIONS"} and not is_same_origin(scope):
            app = self.reject(scope, 403)
        await app(scope, receive, send)


def is_same_origin(scope: Scope) -> bool:
    """Whether a request that may change something comes from our own page or from a client that is no browser."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    sites, origins = headers.get(b"sec-fetch-site", []), headers.get(b"origin", [])
    if any(sites):
        return sites in ([b"same-origin"], [b"none"])
    # The scheme is not compared: behind a proxy it may be unknown, and HSTS covers the difference.
    return not any(origins) or [origin.partition(b"://")[2] for origin in origins] == headers.get(b"host")


class SessionMiddleware:
    """Opens a session for a route that asks the database, as `state["session"]`, and closes it after the response.

    Adds have a pool of their own, so that slow reads do not delay them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = scope["state"]
        pool = state["add_pool" if scope["method"] == "POST" else "read_pool"]
        async with pool.open() as state["session"]:
            await self.app(scope, receive, send)
