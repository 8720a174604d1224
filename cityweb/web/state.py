"""The state of a request, and what is read from its headers."""

import ipaddress
import logging
from functools import cache
from typing import NotRequired, TypedDict

from starlette.requests import Request

from cityweb.postgres import networks
from cityweb.postgres.database import Pool, Session
from cityweb.postgres.distribution import Distribution
from cityweb.postgres.networks import Author
from cityweb.postgres.ranking import CountryCount
from cityweb.postgres.rate_limit import Limiter, network_of
from cityweb.postgres.recent import Recent
from cityweb.postgres.spelling import Biggest
from cityweb.web.assets import Assets
from cityweb.web.board import Board
from cityweb.web.downloads import Downloads
from cityweb.web.templates import Templates

log = logging.getLogger("cityweb")


class State(TypedDict):
    """The state of a request, set by the lifespan, the server, the middleware and the views."""

    assets: Assets
    board: Board
    templates: Templates
    read_pool: Pool
    add_pool: Pool
    downloads: Downloads
    limiter: Limiter | None
    request_id: str
    peer: NotRequired[tuple[str, int] | None]
    entered: NotRequired[dict[str, str]]
    session: Session
    biggest: Recent[Biggest]
    distribution: Recent[Distribution]
    countries: Recent[list[CountryCount]]
    network_keys: Recent[tuple[bytes, ...]]
    corrections: bool
    contact: str


def client_ip(request: Request[State]) -> str:
    """The client IP: that of the connection or, if it belongs to a trusted proxy, the one that the proxy forwards."""
    ip = request.client.host if request.client else ""
    if _is_forwarded(request):
        _warn_about_unlisted_proxy()
    peer = request.scope["state"].get("peer")
    # uvicorn 0.54.0 accepts any forwarded text, which a visitor may choose. If it is no IP, the proxy's own IP counts.
    return peer[0] if peer and not network_of(ip) else ip


def client_network(request: Request[State]) -> bytes:
    """The client network that the log of changes has a code of; empty behind an unlisted proxy with a private IP.

    All visitors who come through such a proxy have its IP. A public IP counts, because a visitor could otherwise send
    the header to avoid a code.
    """
    ip = client_ip(request)
    network = network_of(ip)
    return b"" if network and _is_forwarded(request) and not ipaddress.ip_address(ip).is_global else network


async def read_author(request: Request[State]) -> Author:
    """The author of the change that a request asks for. Raises DatabaseUnavailable."""
    keys = await request.state["network_keys"].get(request.state["session"])
    return Author(networks.codes(keys, client_network(request)))


def _is_forwarded(request: Request[State]) -> bool:
    """Whether a proxy that is not trusted has forwarded the request, or the client pretends so."""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    return bool(forwarded) and (request.client.host if request.client else "") not in forwarded


@cache
def _warn_about_unlisted_proxy() -> None:
    log.warning("CITYWEB_TRUSTED_PROXIES lacks a proxy that forwards visitors: all who come through it count as one")
