"""The views of the files that browsers and crawlers ask for by name; `views.show_asset` serves the icons."""

from datetime import UTC, datetime, timedelta

from starlette.requests import Request
from starlette.types import ASGIApp

from cityweb.web.errors import Rejection
from cityweb.web.prepared import PreparedResponse
from cityweb.web.state import State

CACHE_CONTROL = "public, max-age=3600"
TEXT = "text/plain; charset=utf-8"
SITEMAP_CITIES = 1_000
SECURITY_DAYS = 180
"""How long a security.txt is current; RFC 9116 recommends less than a year."""


async def show_robots(request: Request[State]) -> ASGIApp:
    """What crawlers leave out, and where the sitemap is (RFC 9309)."""
    return _render(request, "robots.txt", TEXT)


async def show_sitemap(request: Request[State]) -> ASGIApp:
    """The pages for search engines: the board, the list and the 1,000 biggest cities (sitemaps.org)."""
    biggest = await request.state["biggest"].get(request.state["session"])
    return _render(request, "sitemap.xml", "application/xml", cities=biggest.cities[:SITEMAP_CITIES])


async def show_manifest(request: Request[State]) -> ASGIApp:
    """The name and the icons for the home screen of a phone (Web Application Manifest)."""
    return _render(request, "manifest.webmanifest", "application/manifest+json")


async def show_security(request: Request[State]) -> ASGIApp:
    """Whom to tell of a vulnerability (RFC 9116). Raises Rejection (404) if CITYWEB_CONTACT is not set."""
    if not request.state["contact"]:
        raise Rejection(404)
    expires = datetime.now(UTC).date() + timedelta(days=SECURITY_DAYS)
    return _render(request, "security.txt", TEXT, contact=request.state["contact"], expires=expires)


def _render(request: Request[State], template: str, media_type: str, **context: object) -> PreparedResponse:
    document = request.state["templates"].render(template, **context)
    return PreparedResponse(document.encode(), media_type, {"cache-control": CACHE_CONTROL})
