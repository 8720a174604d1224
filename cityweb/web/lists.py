"""The views behind the board: the list, a search in it, a city, the feed, the downloads."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.types import ASGIApp

from cityweb.city import ID_MAX, NAME_MAX, POPULATION_MAX
from cityweb.postgres import database, ranking
from cityweb.postgres.cities import Place, Stored
from cityweb.postgres.database import DatabaseUnavailable
from cityweb.postgres.ranking import START, Cursor, Page
from cityweb.postgres.rate_limit import network_of
from cityweb.web import downloads, errors, templates
from cityweb.web.board import CACHE_CONTROL, prepare_json, prepare_page
from cityweb.web.downloads import Download
from cityweb.web.errors import Rejection
from cityweb.web.prepared import PreparedResponse
from cityweb.web.responses import is_partial
from cityweb.web.state import State, client_ip, site_origin

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """A part of the list as it is shown; `previous` and `next` are the queries of the parts beside it.

    Where a search found nothing, `similar` are the cities it may have meant.
    """

    q: str
    title: str
    found: str
    similar: Sequence[Stored]
    places: tuple[Place, ...]
    previous: str
    next: str


async def list_cities(request: Request[State]) -> ASGIApp:
    """A page of the whole list, or of what a search finds in it; to htmx the list alone."""
    q = request.query_params.get("q", "").strip()
    if len(q) > NAME_MAX:
        raise Rejection(400, errors.SEARCH_TOO_LONG)
    cursor = _cursor(request)
    page = await _ask(request, lambda connection: ranking.page(connection, cursor, q))
    similar: Sequence[Stored] = ()
    if q and page.total == 0:
        similar = await _ask(request, lambda connection: request.state["spelling"].nearest(connection, q))
    listing = Listing(
        q=q,
        title=f"Cities that match “{q}”" if q else "All cities by population",
        found=_found(q, page),
        similar=similar,
        places=page.places,
        previous=_query(page.previous, q),
        next=_query(page.next, q),
    )
    template = "_cities_found.html" if is_partial(request) else "cities.html"
    return prepare_page(templates.render(template, list=listing))


async def show_city(request: Request[State]) -> ASGIApp:
    """One city: population, rank, neighbours, when it was added."""
    found = await _city(request)
    before = found.above[-1] if found.above else None
    here = _query(Cursor(before.population, before.id) if before else None)
    return prepare_page(templates.render("city.html", above=found.above, city=found.city, below=found.below, here=here))


async def show_city_json(request: Request[State]) -> ASGIApp:
    """One city as JSON."""
    try:
        city = (await _city(request)).city
    except Rejection as refusal:
        return errors.problem(refusal)
    return prepare_json({**vars(city), "created_at": city.created_at.isoformat()})


async def show_feed(request: Request[State]) -> ASGIApp:
    """The newest cities as a feed (Atom, RFC 4287)."""
    newest = await _ask(request, ranking.newest)
    updated = newest[0].created_at.isoformat() if newest else "1970-01-01T00:00:00Z"
    document = templates.render("feed.atom", site=site_origin(request), updated=updated, cities=newest)
    return PreparedResponse(document.encode(), "application/atom+xml; charset=utf-8", {"cache-control": CACHE_CONTROL})


async def export_csv(request: Request[State]) -> ASGIApp:
    """All cities as CSV."""
    return Download(request.state["downloads"], downloads.CSV, network_of(client_ip(request)))


async def export_json(request: Request[State]) -> ASGIApp:
    """All cities as JSON."""
    return Download(request.state["downloads"], downloads.JSON, network_of(client_ip(request)))


async def _ask(request: Request[State], question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """What the database says. Raises Rejection where it cannot be asked."""
    try:
        return await database.read(request.state["engine"], question)
    except DatabaseUnavailable:
        raise Rejection(503, errors.NOT_SHOWN) from None


async def _city(request: Request[State]) -> ranking.Surroundings:
    """The city that the address names. Raises Rejection."""
    city_id = request.path_params["id"]
    found = None
    if city_id <= ID_MAX:
        found = await _ask(request, lambda connection: ranking.surroundings(connection, city_id))
    if found is None:
        raise Rejection(404, errors.NO_CITY)
    return found


def _cursor(request: Request[State]) -> Cursor:
    """Where the page begins or ends, `?after=POPULATION-ID` or `?before=POPULATION-ID`. Raises Rejection."""
    given = [pair for pair in request.query_params.multi_items() if pair[0] in {"after", "before"}]
    if not given:
        return START
    match = CURSOR.fullmatch(given[0][1])
    if len(given) > 1 or match is None or int(match[1]) > POPULATION_MAX or int(match[2]) > ID_MAX:
        raise Rejection(400, errors.NO_SUCH_PAGE_OF_THE_LIST)
    return Cursor(int(match[1]), int(match[2]), backwards=given[0][0] == "before")


CURSOR = re.compile("([0-9]{1,9})-([0-9]{1,10})")


def _query(cursor: Cursor | None, q: str = "") -> str:
    """The query of an address that begins at a cursor."""
    if cursor is None:
        return ""
    side = "before" if cursor.backwards else "after"
    return urlencode({**({"q": q} if q else {}), side: f"{cursor.population}-{cursor.id}"})


def _found(q: str, page: Page) -> str:
    """How many cities there are, or how many a search found."""
    if page.total is None:
        return f"Many cities match “{q}”"
    if not q:
        return "1 city" if page.total == 1 else f"{page.total:,} cities"
    match page.total:
        case 0:
            return f"No city matches “{q}”"
        case 1:
            return f"1 city matches “{q}”"
    return f"{page.total:,} cities match “{q}”"
