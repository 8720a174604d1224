"""What wraps every request, from the outside in: headers, host, same origin, session."""

import asyncio
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD_BYTES = 16_384
"""The longest head of a request: its header names and values added up."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not no-referrer: it would make the Origin of our own form "null" (Fetch Standard), which SameOrigin refuses.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-embedder-policy", b"require-corp"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
]
HTTPS_HEADERS = [*HEADERS, (b"strict-transport-security", b"max-age=63072000; includeSubDomains")]

Refuse = Callable[[Scope, int], ASGIApp]
"""Makes the answer that refuses a request with this status."""

log = logging.getLogger("cityweb.requests")


class SecurityHeaders:
    """Gives every answer its security headers and every request its id, and answers what nobody else caught.

    A failure after the answer has begun is raised on: the server then cuts the connection, so that half an answer never
    looks whole.
    """

    def __init__(self, app: ASGIApp, refuse: Refuse) -> None:
        self.app, self.refuse = app, refuse
        self.process = secrets.token_hex(4)
        self.numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds the headers, and answers what failed."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        security = HTTPS_HEADERS if scope["scheme"] == "https" else HEADERS
        begun = False
        size, unread = 0, False
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            unread = unread or name == b"transfer-encoding" or (name == b"content-length" and value != b"0")

        async def send_with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                # Without it the server would read a refused body to its end.
                closing = [(b"connection", b"close")] if unread else []
                message = {**message, "headers": [*message["headers"], *security, *closing]}
            await send(message)

        async def receive_to_the_end() -> Message:
            nonlocal unread
            message = await receive()
            unread = bool(message.get("more_body"))
            return message

        request_id = scope.setdefault("state", {})["request_id"] = f"{self.process}-{next(self.numbers):x}"
        app = self.app
        if size > HEAD_BYTES:
            app = self.refuse(scope, 431)
        try:
            await app(scope, receive_to_the_end, send_with_headers)
        except Exception:
            log.exception("failed", extra={"request_id": request_id})
            if begun:
                raise
            await self.refuse(scope, 500)(scope, receive, send_with_headers)


class KnownHost:
    """Refuses a request unless it names exactly one host (RFC 9112, 3.2), and one that we are."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str], refuse: Refuse) -> None:
        self.app, self.refuse = app, refuse
        self.any = "*" in hosts
        self.exact = {host.encode() for host in hosts}
        self.endings = tuple(host[1:].encode() for host in hosts if host.startswith("*."))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a known host pass."""
        app = self.app
        if scope["type"] == "http" and not self._knows([value for name, value in scope["headers"] if name == b"host"]):
            app = self.refuse(scope, 400)
        await app(scope, receive, send)

    def _knows(self, hosts: list[bytes]) -> bool:
        match = HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        return match is not None and (self.any or match[1] in self.exact or match[1].endswith(self.endings))


HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")


class Drawn:
    """Sends what is drawn already before a route is looked for: most visitors read, and that costs next to nothing."""

    def __init__(self, app: ASGIApp, find: Callable[[str], ASGIApp | None]) -> None:
        self.app, self.find = app, find

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a plain GET or HEAD of an address that has a drawn answer."""
        app = self.app
        if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"} and not scope["query_string"]:
            app = self.find(scope["path"]) or app
        await app(scope, receive, send)


class SameOrigin:
    """Refuses what another site's page makes a browser send: the algorithm of Go's net/http CrossOriginProtection."""

    def __init__(self, app: ASGIApp, refuse: Refuse) -> None:
        self.app, self.refuse = app, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets what comes from our own page pass."""
        app = self.app
        if scope["type"] == "http" and scope["method"] not in {"GET", "HEAD", "OPTIONS"} and not is_same_origin(scope):
            app = self.refuse(scope, 403)
        await app(scope, receive, send)


def is_same_origin(scope: Scope) -> bool:
    """Whether a request that may change something comes from our own page or from no browser at all."""
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    sites, origins = headers.get(b"sec-fetch-site", []), headers.get(b"origin", [])
    if any(sites):
        same = sites in ([b"same-origin"], [b"none"])
    elif not any(origins):
        same = True
    else:
        # The scheme is left aside: behind a proxy we may not know it, and HSTS covers the difference.
        same = [origin.partition(b"://")[2] for origin in origins] == headers.get(b"host")
    return same


class SessionMiddleware:
    """Gives each request an AsyncSession at `state["session"]`: made on first use, closed after the answer."""

    def __init__(
        self, app: ASGIApp, sessions: async_sessionmaker[AsyncSession], closing: set[asyncio.Task[None]]
    ) -> None:
        self.app, self.sessions, self.closing = app, sessions, closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the session on, and closes it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope["state"] = RequestState(scope.get("state", {}), self.sessions)
        try:
            await self.app(scope, receive, send)
        finally:
            session = state.get("session")
            if session and not session.in_transaction() and has_ended(session):
                await session.close()
            elif session:
                # A task of its own: a cancelled request must still give its connection back.
                closing = asyncio.create_task(close(session))
                self.closing.add(closing)
                closing.add_done_callback(self.closing.discard)
                await asyncio.shield(closing)


class RequestState(dict[str, Any]):
    """What a request carries; its session appears when it is first asked for."""

    def __init__(self, state: dict[str, Any], sessions: async_sessionmaker[AsyncSession]) -> None:
        super().__init__(state)
        self.sessions = sessions

    def __missing__(self, key: str) -> AsyncSession:
        if key != "session":
            raise KeyError(key)
        session = self["session"] = self.sessions()
        return session


def has_ended(session: AsyncSession) -> bool:
    """Whether no unit of work of this session is still under way."""
    work = session.info.get("work")
    return work is None or work.done()


async def close(session: AsyncSession) -> None:
    """Closes a session once its unit of work has ended: two tasks never share one."""
    if work := session.info.get("work"):
        await asyncio.gather(work, return_exceptions=True)
    await session.close()
