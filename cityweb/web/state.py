"""What a request carries beside what the client sent."""

import logging
from functools import cache
from typing import NotRequired, TypedDict

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from starlette.requests import Request

from cityweb.postgres.ranking import Spelling
from cityweb.postgres.rate_limit import Limiter, network_of
from cityweb.web.assets import Assets
from cityweb.web.board import Board
from cityweb.web.downloads import Downloads

log = logging.getLogger("cityweb")


class State(TypedDict):
    """What a request carries: what the lifespan gave, and what the middleware adds."""

    assets: Assets
    board: Board
    engine: AsyncEngine
    downloads: Downloads
    limiter: Limiter | None
    request_id: str
    peer: NotRequired[tuple[str, int] | None]
    entered: NotRequired[dict[str, str]]
    session: AsyncSession
    spelling: Spelling


def client_ip(request: Request[State]) -> str:
    """The client IP: that of the connection, or where it is a trusted proxy's, the one that it forwards."""
    address = request.client.host if request.client else ""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    if forwarded and address not in forwarded:
        _tell_of_unlisted_proxy()
    peer = request.scope["state"].get("peer")
    # uvicorn 0.54.0 takes any text that is forwarded for a host; a visitor may have chosen it. It counts as the proxy.
    return peer[0] if peer and not network_of(address) else address


@cache
def _tell_of_unlisted_proxy() -> None:
    log.warning("CITYWEB_TRUSTED_PROXIES lacks a proxy that forwards visitors: all who come through it count as one")


def site_origin(request: Request[State]) -> str:
    """Scheme and host, for the few responses that are read elsewhere; the host is a known one."""
    return f"{request.scope['scheme']}://{request.headers['host']}"
