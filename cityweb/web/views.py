"""One function for each route: a request becomes calls, what they give becomes an answer."""

import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from http import HTTPStatus
from typing import NotRequired, TypedDict, TypeVar
from urllib.parse import urlencode

from python_multipart.multipart import parse_options_header
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from cityweb import submissions
from cityweb.city import BOARD_SIZE, ID_MAX, NAME_MAX, POPULATION_MAX
from cityweb.postgres import cities, database, ranking
from cityweb.postgres.cities import Landing, Place, Stored
from cityweb.postgres.ranking import START, Cursor, Page, Spelling
from cityweb.postgres.rate_limit import Limiter, network_of
from cityweb.submissions import FIELDS_MAX, Form, SubmissionRefused, Unreadable
from cityweb.web import downloads, errors, openapi, templates
from cityweb.web.assets import Assets
from cityweb.web.board import CACHE_CONTROL, Board, NoBoard, Snapshot, prepare_page, render_page
from cityweb.web.downloads import Export, Exports
from cityweb.web.errors import ALREADY_STORED, RETRY_SECONDS, Refusal
from cityweb.web.middleware import BODY_BYTES
from cityweb.web.prepared import Answer

PART_BYTES = 4_096
"""The longest field of a multipart form."""
ADD_SECONDS = 2.3
"""How long a visitor waits for an add at most: for a connection, the limit and the row together."""
NEWLY_ADDED = timedelta(minutes=2)
"""For how long `/?added=ID` says where a city landed: each such request reads the board from the database."""

T = TypeVar("T")

log = logging.getLogger("cityweb")


class State(TypedDict):
    """What a request carries: what the lifespan gave, and what the middleware adds."""

    assets: Assets
    board: Board
    engine: AsyncEngine
    downloads: Exports
    limiter: Limiter | None
    request_id: str
    peer: NotRequired[tuple[str, int] | None]
    typed: NotRequired[dict[str, str]]
    session: AsyncSession
    spelling: Spelling


async def show_board(request: Request[State]) -> ASGIApp:
    """The page: board and form; `?added=ID` says where a new city landed, `?name=NAME&population=N` fill that in."""
    board = request.state["board"]
    live = request.query_params.get("live") != "off"
    added = request.query_params.get("added", "")
    typed = _typed(request.query_params)
    if re.fullmatch("[0-9]{1,10}", added) and int(added) <= ID_MAX:
        try:
            landing = await database.read(request.state["engine"], lambda found: cities.landing(found, int(added)))
            if landing and landing.age < NEWLY_ADDED:
                await board.refresh()
                snapshot = board.snapshot
                return _html(render_page(snapshot, landed=_landed(landing, snapshot), live=live))
        except Exception as error:
            if not database.unavailable(error):
                raise
    snapshot = board.snapshot
    if any(typed.values()):
        return _html(render_page(snapshot, form=Form(values=typed), live=live))
    return snapshot.page if live else snapshot.paused_page


async def show_fragment(request: Request[State]) -> ASGIApp:
    """The board for an open page; 204 if the page shows this one already: `?seen=ID`."""
    snapshot = request.state["board"].snapshot
    if request.query_params.get("seen") == snapshot.id:
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"cache-control": CACHE_CONTROL})
    return snapshot.fragment


async def list_biggest(request: Request[State]) -> ASGIApp:
    """The board as JSON."""
    try:
        return request.state["board"].snapshot.biggest
    except NoBoard:
        return errors.problem(errors.no_board())


async def add_city(request: Request[State]) -> ASGIApp:
    """Stores the city that a form, htmx or a program submits, and says where it landed or what is wrong with it."""
    values = await _read(request)
    request.state["typed"] = _typed(values)
    begun = time.monotonic()
    limiter, late = request.state["limiter"], Refusal(503)
    try:
        submission = submissions.check(values)
        session = request.state["session"]
        if limiter:
            counting = limiter.seconds_to_wait(_address(request))
            if seconds := await database.unbroken(session, counting, ADD_SECONDS):
                return await _fail(request, values, Refusal(429, retry_seconds=seconds))
        late = Refusal(503, errors.UNCONFIRMED)
        adding = cities.add(session, submission.name, submission.population)
        city, is_new = await database.unbroken(session, adding, begun + ADD_SECONDS - time.monotonic())
    except SubmissionRefused as refused:
        return await _refuse(request, values, refused.errors)
    except TimeoutError:
        return await _fail(request, values, late)
    except Exception as error:
        if not database.unavailable(error):
            raise
        return await _fail(request, values, Refusal(503))
    if is_new:
        return await _welcome(request, city)
    taken = f"{ALREADY_STORED}: {city.name}, population {city.population:,}"
    return await _refuse(request, values, {"name": taken}, stored=city)


async def _read(request: Request[State]) -> Mapping[str, object]:
    """The fields of the body, whichever of the three formats it has. Raises Refusal."""
    if any(coding.lower() not in {"", "identity"} for coding in request.headers.getlist("content-encoding")):
        raise Refusal(415, headers={"accept-encoding": "identity"})  # RFC 9110, 15.5.16
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8"}:
        raise Refusal(415)
    try:
        match kind:
            case b"application/json":
                return submissions.from_json(await _body(request))
            case b"application/x-www-form-urlencoded":
                return submissions.from_form(await _body(request))
            case b"multipart/form-data":
                return submissions.from_pairs(await _parts(request))
    except (Unreadable, UnicodeDecodeError, MultiPartException):
        raise Refusal(400, errors.UNREADABLE_ADD) from None
    raise Refusal(415)


async def _body(request: Request[State]) -> bytes:
    """The body, if it is not too long. Raises Refusal."""
    announced = request.headers.get("content-length", "0")
    body = b""
    if announced.isdecimal() and int(announced[:20]) <= BODY_BYTES:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES:
                break
        else:
            return body
    raise Refusal(413)


async def _parts(request: Request[State]) -> list[tuple[str, str]]:
    body = await _body(request)
    # Starlette reads a part that is not UTF-8 as Latin-1; a whole that is UTF-8 has no such part.
    body.decode()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=0, max_fields=FIELDS_MAX, max_part_size=PART_BYTES)
    return [(field, str(text)) for field, text in (await parser.parse()).multi_items()]


def _address(request: Request[State]) -> str:
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


def _is_partial(request: Request[State]) -> bool:
    """Whether htmx asks for fragments; it calls a request "full" whose answer it takes a part of."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-request-type") != "full"


async def _welcome(request: Request[State], city: Stored) -> Response:
    """The answer to a city that was stored: 201, fragments, or a redirection to the page that says where it landed."""
    board = request.state["board"]
    await board.refresh()
    if errors.sends_json(request.scope):
        location = request.app.url_path_for("show_city_json", id=city.id)
        return JSONResponse(vars(city), HTTPStatus.CREATED, {"cache-control": "no-store", "location": location})
    if not _is_partial(request):
        address = f"{request.app.url_path_for('show_board')}?added={city.id}"
        return RedirectResponse(address, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})
    landed, snapshot = Landed(city, "added"), board.snapshot
    try:
        if landing := await database.read(request.state["engine"], lambda found: cities.landing(found, city.id)):
            landed = _landed(landing, snapshot)
    except Exception as error:
        # The city is stored whatever became of the database since: the answer still says so.
        if not database.unavailable(error):
            raise
    return _html(templates.render("_added.html", board=snapshot, form=Form(focus=True), landed=landed))


async def _refuse(
    request: Request[State], values: Mapping[str, object], wrong: Mapping[str, str], stored: Stored | None = None
) -> Response:
    """The 422 that names each field, says what is wrong with it and keeps what was typed."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if errors.sends_json(request.scope):
        if stored:
            return errors.problem(Refusal(status, ALREADY_STORED), errors=wrong, stored=vars(stored))
        return errors.problem(Refusal(status, ". ".join(wrong.values())), errors=wrong)
    snapshot = request.state["board"].snapshot
    on_board = any(row.id == stored.id for row in snapshot.leaders.rows) if stored else False
    form = Form(values=_typed(values), errors=wrong, stored=stored, on_board=on_board)
    if _is_partial(request):
        return _html(templates.render("_refused.html", form=form), status)
    return _html(render_page(snapshot, form=form), status)


async def _fail(request: Request[State], values: Mapping[str, object], refusal: Refusal) -> Response:
    """The answer to a city that could not be stored: what was typed stays in the form, beside the board at hand."""
    if errors.sends_json(request.scope):
        return errors.answer(request.scope, refusal)
    try:
        snapshot = request.state["board"].snapshot
    except NoBoard:
        return errors.answer(request.scope, refusal)
    document = render_page(snapshot, form=Form(values=_typed(values)), problem=[refusal.text])
    return HTMLResponse(document, refusal.status, {**refusal.all_headers, "vary": templates.VARY})


def _typed(values: Mapping[str, object]) -> dict[str, str]:
    return {field: str(values.get(field, "")) for field in ("name", "population")}


@dataclass(frozen=True)
class Landed:
    """What is said of a city that was added: a link by its name, and the words after it."""

    city: Stored
    words: str


def _landed(landing: Landing, snapshot: Snapshot) -> Landed:
    """Where a city landed: its rank on the board, or outside it, and what the last place takes."""
    words = f"added at rank {landing.rank:,}"
    rows = snapshot.leaders.rows
    if rows and all(row.id != landing.city.id for row in rows):
        last = rows[-1].population
        words += f", outside the top {BOARD_SIZE}. The {BOARD_SIZE}th place takes more than {last:,}"
    if near := landing.near_miss:
        words += f". A similar name is also stored: {near.name}, population {near.population:,}"
    return Landed(landing.city, words)


def _html(document: str, status: int = HTTPStatus.OK) -> Response:
    return HTMLResponse(document, status, {"cache-control": "no-store", "vary": templates.VARY})


# --- the whole list ---


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
        raise Refusal(400, errors.SEARCH_TOO_LONG)
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
    template = "_cities_found.html" if _is_partial(request) else "cities.html"
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
    except Refusal as refusal:
        return errors.problem(refusal)
    return _json({**vars(city), "created_at": city.created_at.isoformat()})


async def show_feed(request: Request[State]) -> ASGIApp:
    """The newest cities as a feed (Atom, RFC 4287)."""
    newest = await _ask(request, ranking.newest)
    updated = newest[0].created_at.isoformat() if newest else "1970-01-01T00:00:00Z"
    document = templates.render("feed.atom", site=_site(request), updated=updated, cities=newest)
    return Answer(document.encode(), "application/atom+xml; charset=utf-8", {"cache-control": CACHE_CONTROL})


async def export_csv(request: Request[State]) -> ASGIApp:
    """All cities as CSV."""
    return Export(request.state["downloads"], downloads.CSV, network_of(_address(request)))


async def export_json(request: Request[State]) -> ASGIApp:
    """All cities as JSON."""
    return Export(request.state["downloads"], downloads.JSON, network_of(_address(request)))


async def describe_api(request: Request[State]) -> ASGIApp:
    """What programs may ask for, as an OpenAPI document."""
    return _json(openapi.document({route.name: route.path_format for route in request.app.routes}))


async def explain_api(request: Request[State]) -> ASGIApp:
    """What programs may ask for, as a page with lines for a shell."""
    return prepare_page(templates.render("api.html", site=_site(request)))


async def _ask(request: Request[State], question: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    """What the database says. Raises Refusal where it cannot be asked."""
    try:
        return await database.read(request.state["engine"], question)
    except Exception as error:
        if not database.unavailable(error):
            raise
        raise Refusal(503, errors.NOT_SHOWN) from None


async def _city(request: Request[State]) -> ranking.Surroundings:
    """The city that the address names. Raises Refusal."""
    city_id = request.path_params["id"]
    found = None
    if city_id <= ID_MAX:
        found = await _ask(request, lambda connection: ranking.surroundings(connection, city_id))
    if found is None:
        raise Refusal(404, errors.NO_CITY)
    return found


def _cursor(request: Request[State]) -> Cursor:
    """Where the page begins or ends, `?after=POPULATION-ID` or `?before=POPULATION-ID`. Raises Refusal."""
    given = [pair for pair in request.query_params.multi_items() if pair[0] in {"after", "before"}]
    if not given:
        return START
    match = CURSOR.fullmatch(given[0][1])
    if len(given) > 1 or match is None or int(match[1]) > POPULATION_MAX or int(match[2]) > ID_MAX:
        raise Refusal(400, errors.NO_SUCH_PAGE_OF_THE_LIST)
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


def _site(request: Request[State]) -> str:
    """Scheme and host, for the few answers that are read elsewhere; the host is a known one."""
    return f"{request.scope['scheme']}://{request.headers['host']}"


def _json(document: object) -> Answer:
    body = json.dumps(document, ensure_ascii=False)
    return Answer(body.encode(), "application/json", {"cache-control": CACHE_CONTROL})


# --- the rest ---


async def show_asset(request: Request[State]) -> ASGIApp:
    """A static file, to be kept for ever where the address has its fingerprint."""
    asset = request.state["assets"].find(request.path_params["name"], request.query_params.get("v", ""))
    if asset is None:
        raise Refusal(404)
    return asset


async def say_alive(request: Request[State]) -> Response:  # noqa: ARG001 (a view)
    """200 while the process lives."""
    return _text("alive\n", HTTPStatus.OK)


async def say_ready(request: Request[State]) -> Response:
    """200 while the board is read, and so the database answers; 503 while it is stale."""
    if not request.state["board"].is_stale:
        return _text("ready\n", HTTPStatus.OK)
    return _text("not ready\n", HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": str(RETRY_SECONDS)})


def _text(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text, status, {"cache-control": "no-store", **(headers or {})})
