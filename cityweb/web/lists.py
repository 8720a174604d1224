"""The views of all cities: the list, the search, the countries, the feed, the downloads."""

import re
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.types import ASGIApp

from cityweb import countries
from cityweb.city import ID_MAX, NAME_MAX, POPULATION_MAX
from cityweb.postgres import ranking, spelling
from cityweb.postgres.distribution import SIZES
from cityweb.postgres.ranking import START, Cursor
from cityweb.postgres.rate_limit import network_of
from cityweb.web import downloads, errors
from cityweb.web.board import prepare_feed, prepare_page
from cityweb.web.downloads import Download
from cityweb.web.errors import Rejection
from cityweb.web.responses import is_partial
from cityweb.web.state import State, client_ip

COUNTRIES_SHOWN = 5
"""Countries beside the list; the page of countries has all."""


async def list_cities(request: Request[State]) -> ASGIApp:
    """A page of all cities or of the cities that match a search; htmx gets only the list. Raises Rejection."""
    q = request.query_params.get("q", "").strip()
    if len(q) > NAME_MAX:
        raise Rejection(400, errors.SEARCH_TOO_LONG)
    country = "" if q else _parse_country(request)
    cursor = _parse_cursor(request)
    session = request.state["session"]
    page = await ranking.page(session, cursor, q, country)
    similar = spelling.nearest(await request.state["biggest"].get(session), q) if q and page.total == 0 else []
    sizes = [] if is_partial(request) else await _find_sizes(request)
    top_countries = [] if is_partial(request) else (await request.state["countries"].get(session))[:COUNTRIES_SHOWN]
    title = f"Cities that match “{q}”" if q else "All cities by population"
    if country:
        title = f"Cities in {countries.name_of(country)} by population"
    if page.previous and page.rows:
        title += f", from number {page.rows[0].rank_in_country or page.rows[0].rank:,}"
    document = request.state["templates"].render(
        "_cities_found.html" if is_partial(request) else "cities.html",
        q=q,
        title=title,
        country=country,
        here=build_query(cursor if page.previous else None, q, country),
        total=page.total,
        similar=similar,
        rows=page.rows,
        sizes=sizes,
        countries=top_countries,
        previous=page.previous and build_query(page.previous, q, country),
        next=page.next and build_query(page.next, q, country),
    )
    return prepare_page(document)


async def list_countries(request: Request[State]) -> ASGIApp:
    """The countries that have cities, with their numbers as of the last minute."""
    found = await request.state["countries"].get(request.state["session"])
    return prepare_page(request.state["templates"].render("countries.html", countries=found))


async def show_feed(request: Request[State]) -> ASGIApp:
    """The newest cities as an Atom feed (RFC 4287). Raises Rejection."""
    newest = await ranking.newest(request.state["session"])
    updated = max(city.updated_at for city in newest).isoformat() if newest else "1970-01-01T00:00:00Z"
    document = request.state["templates"].render("feed.atom", updated=updated, cities=newest)
    return prepare_feed(document)


async def export_csv(request: Request[State]) -> ASGIApp:
    return Download(request.state["downloads"], downloads.CSV, network_of(client_ip(request)))


async def export_excel(request: Request[State]) -> ASGIApp:
    return Download(request.state["downloads"], downloads.EXCEL, network_of(client_ip(request)))


async def export_json(request: Request[State]) -> ASGIApp:
    return Download(request.state["downloads"], downloads.JSON, network_of(client_ip(request)))


async def _find_sizes(request: Request[State]) -> list[tuple[int, int | None, int, str]]:
    """The sizes that cities have, biggest first: the bounds in people, the number of cities, the query of the page."""
    counted = (await request.state["distribution"].get(request.state["session"])).sizes
    sizes = zip((0, *SIZES), (*SIZES, None), counted, strict=True)
    return [
        (at_least, below, cities, build_query(Cursor(below - 1, 0) if below else None))
        for at_least, below, cities in reversed(list(sizes))
        if cities
    ]


def _parse_cursor(request: Request[State]) -> Cursor:
    """The cursor in `?after=POPULATION-ID` or `?before=POPULATION-ID`, else START. Raises Rejection (400)."""
    cursors = [pair for pair in request.query_params.multi_items() if pair[0] in {"after", "before"}]
    if not cursors:
        return START
    match = CURSOR.fullmatch(cursors[0][1])
    if len(cursors) > 1 or match is None or int(match[1]) > POPULATION_MAX or int(match[2]) > ID_MAX:
        raise Rejection(400, errors.NO_SUCH_LIST_PAGE)
    return Cursor(int(match[1]), int(match[2]), backwards=cursors[0][0] == "before")


CURSOR = re.compile("([0-9]{1,9})-([0-9]{1,10})")


def _parse_country(request: Request[State]) -> str:
    """The code in `?country=`, which may be a name too, or "". Raises Rejection (404)."""
    text = request.query_params.get("country", "").strip()
    # A code without a name may be stored too.
    if not text or CODE.fullmatch(text):
        return text.upper()
    try:
        return countries.parse(text[:NAME_MAX])
    except ValueError:
        raise Rejection(404, errors.NO_COUNTRY) from None


CODE = re.compile("[A-Za-z]{2}")


def build_query(cursor: Cursor | None, q: str = "", country: str = "") -> str:
    """The URL query of the page at a cursor, or of the first page for None."""
    parts = {name: text for name, text in (("q", q), ("country", country)) if text}
    if cursor:
        parts["before" if cursor.backwards else "after"] = f"{cursor.population}-{cursor.id}"
    return urlencode(parts)
