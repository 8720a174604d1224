"""One function for each route: a request becomes calls, what they give becomes an answer."""

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from functools import cache
from http import HTTPStatus
from typing import TypedDict

from python_multipart.multipart import parse_options_header
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from cityweb import cities, database, errors, forms, html
from cityweb.assets import Assets
from cityweb.board import Board, Drawing, NoBoard, page_html
from cityweb.cities import RANK_MAX, Landing, Stored
from cityweb.errors import ALREADY_STORED, RETRY_SECONDS, Refusal
from cityweb.forms import FIELDS_MAX, Form, SubmissionRefused, Unreadable
from cityweb.limits import Limiter
from cityweb.models import BOARD_SIZE
from cityweb.streams import NOTHING_NEW, EventStream, Streams

BODY_BYTES = 8_192
"""The longest body that is read."""
PART_BYTES = 4_096
"""The longest field of a multipart form."""
ID_MAX = 2**31 - 1
"""The biggest number that a city can have."""

log = logging.getLogger("cityweb")


class State(TypedDict):
    """What a request carries: what the lifespan gave, and what the middleware adds."""

    assets: Assets
    board: Board
    limiter: Limiter | None
    streams: Streams
    request_id: str
    session: AsyncSession


async def show_board(request: Request[State]) -> ASGIApp:
    """The page: board and form; with `?added=ID` it says where that city landed."""
    board = request.state["board"]
    live = request.query_params.get("live") != "off"
    added = request.query_params.get("added", "")
    if re.fullmatch("[0-9]{1,10}", added) and int(added) <= ID_MAX:
        try:
            landing = await cities.landing(request.state["session"], int(added))
            if landing:
                drawing = await board.fresh()
                return _html(page_html(drawing.table, status=_status(landing, drawing), live=live))
        except Exception as error:
            if not database.unavailable(error):
                raise
    drawing = await board.current()
    return drawing.page if live else drawing.paused_page


async def list_biggest(request: Request[State]) -> ASGIApp:
    """The board as JSON."""
    try:
        return (await request.state["board"].current()).biggest
    except NoBoard:
        return errors.problem(errors.no_board())


async def stream_board(request: Request[State]) -> ASGIApp:
    """The board at once and after each change, as events; not at once to whom shows it already."""
    drawing = await request.state["board"].current()
    shown = request.headers.get("last-event-id") or request.query_params.get("shown")
    first = NOTHING_NEW if shown == drawing.table.id else drawing.event
    return EventStream(request.state["streams"], _address(request), first)


async def add_city(request: Request[State]) -> ASGIApp:
    """Stores the city that a form, htmx or a program submits, and says where it landed or what is wrong with it."""
    values = await _read(request)
    limiter = request.state["limiter"]
    try:
        submission = forms.check(values)
        if limiter and (seconds := await limiter.seconds_to_wait(_address(request))):
            return await _fail(request, values, Refusal(429, retry_seconds=seconds))
        city, is_new = await database.unbroken(
            request.state["session"],
            cities.add(request.state["session"], submission.name, submission.population),
        )
    except SubmissionRefused as refused:
        return await _refuse(request, values, refused.errors)
    except TimeoutError:
        return await _fail(request, values, Refusal(503, errors.UNCONFIRMED))
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
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8"}:
        raise Refusal(415)
    try:
        match kind:
            case b"application/json":
                return forms.from_json(await _body(request))
            case b"application/x-www-form-urlencoded":
                return forms.from_form(await _body(request))
            case b"multipart/form-data":
                return forms.from_pairs(await _parts(request))
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
    """Where a request comes from; what a trusted proxy forwards, the server has put there already."""
    address = request.client.host if request.client else ""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for"))
    if forwarded and address not in forwarded:
        _tell_of_unlisted_proxy()
    return address


@cache
def _tell_of_unlisted_proxy() -> None:
    log.warning("CITYWEB_TRUSTED_PROXIES lacks a proxy that forwards visitors: all who come through it count as one")


def _is_partial(request: Request[State]) -> bool:
    """Whether htmx asks for fragments; it calls a request "full" whose answer it takes a part of."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-request-type") != "full"


async def _welcome(request: Request[State], city: Stored) -> Response:
    """The answer to a city that was stored: 201, fragments, or a redirection to the page that says where it landed."""
    board = request.state["board"]
    board.heard()
    landed = f"{request.app.url_path_for('show_board')}?added={city.id}"
    if errors.sends_json(request.scope):
        document = {"id": city.id, "name": city.name, "population": city.population}
        return JSONResponse(document, HTTPStatus.CREATED, {"cache-control": "no-store", "location": landed})
    if not _is_partial(request):
        return RedirectResponse(landed, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})
    status = f"{city.name} added"
    try:
        drawing = await board.fresh()
        if landing := await cities.landing(request.state["session"], city.id):
            status = _status(landing, drawing)
    except Exception as error:
        # The city is stored whatever became of the database since: the answer still says so.
        if not database.unavailable(error):
            raise
        drawing = await board.current()
    return _html(html.render("_added.html", board=drawing.table, form=Form(focus=True), status=status))


async def _refuse(
    request: Request[State], values: Mapping[str, object], wrong: Mapping[str, str], stored: Stored | None = None
) -> Response:
    """The 422 that names each field, says what is wrong with it and keeps what was typed."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if errors.sends_json(request.scope):
        if stored:
            entry = {"id": stored.id, "name": stored.name, "population": stored.population}
            return errors.problem(Refusal(status, ALREADY_STORED), errors=wrong, stored=entry)
        return errors.problem(Refusal(status, ". ".join(wrong.values())), errors=wrong)
    drawing = await request.state["board"].current()
    row = next((row for row in drawing.rows if stored and row.id == stored.id), None)
    form = Form(values=_typed(values), errors=wrong, stored=row)
    if _is_partial(request):
        return _html(html.render("_refused.html", form=form), status)
    return _html(page_html(drawing.table, form=form), status)


async def _fail(request: Request[State], values: Mapping[str, object], refusal: Refusal) -> Response:
    """The answer to a city that could not be stored: what was typed stays in the form."""
    try:
        drawing = await request.state["board"].current()
    except NoBoard:
        drawing = None
    if drawing is None or errors.sends_json(request.scope):
        return errors.answer(request.scope, refusal)
    form = Form(values=_typed(values))
    document = page_html(drawing.table, form=form, problem=[refusal.text])
    return HTMLResponse(document, refusal.status, {**refusal.all_headers, "vary": html.VARY})


def _typed(values: Mapping[str, object]) -> dict[str, str]:
    return {field: str(values.get(field, "")) for field in ("name", "population")}


def _status(landing: Landing, drawing: Drawing) -> str:
    """Where a city landed, in words: its rank on the board, or outside it, and what the last place takes."""
    name = landing.city.name
    if any(row.id == landing.city.id for row in drawing.rows):
        status = f"{name} added at rank {landing.rank}"
    else:
        place = (
            f"at rank {landing.rank:,}, outside the top {BOARD_SIZE}"
            if landing.rank
            else f"outside the top {RANK_MAX:,}"
        )
        last = drawing.rows[-1].population
        status = f"{name} added {place}. The {BOARD_SIZE}th place takes more than {last:,}"
    if near := landing.near_miss:
        status += f". A similar name is also stored: {near.name}, population {near.population:,}"
    return status


def _html(document: str, status: int = HTTPStatus.OK) -> Response:
    return HTMLResponse(document, status, {"cache-control": "no-store", "vary": html.VARY})


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
    """200 while adds can be served, as the last heartbeat knows it; 503 from the first stop signal on."""
    if request.state["board"].hearing and not request.state["streams"].closed:
        return _text("ready\n", HTTPStatus.OK)
    return _text("not ready\n", HTTPStatus.SERVICE_UNAVAILABLE, {"retry-after": str(RETRY_SECONDS)})


def _text(text: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    return PlainTextResponse(text, status, {"cache-control": "no-store", **(headers or {})})
