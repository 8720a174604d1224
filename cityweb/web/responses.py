"""The responses to an add, each in three formats: a page, fragments for htmx, JSON."""

from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from cityweb.city import FIELDS
from cityweb.postgres import cities
from cityweb.postgres.cities import Landing, Stored
from cityweb.postgres.database import DatabaseUnavailable
from cityweb.web import errors, templates
from cityweb.web.board import Form, NoBoard
from cityweb.web.errors import ALREADY_STORED, Rejection
from cityweb.web.state import State

Fields = Mapping[str, object]
"""The submitted values by the name of their field."""


async def added(request: Request[State], city: Stored) -> Response:
    """The response if the city was stored: 201, fragments, or a redirect to the page that shows its rank."""
    board = request.state["board"]
    await board.refresh()
    if errors.sends_json(request.scope):
        location = request.app.url_path_for("show_city_json", id=city.id)
        return JSONResponse(vars(city), HTTPStatus.CREATED, {"cache-control": "no-store", "location": location})
    if not is_partial(request):
        url = f"{request.app.url_path_for('show_board')}?added={city.id}"
        return RedirectResponse(url, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})
    landed = Landing(city)
    # The city is stored, even if the database is unavailable now, and the response says so.
    with suppress(DatabaseUnavailable):
        landed = await cities.landing(request.state["session"], city.id) or landed
    document = request.state["templates"].render(
        "_added.html", board=board.snapshot, form=Form(focus=True), landed=landed
    )
    return html(document)


def invalid(
    request: Request[State], fields: Fields, invalid_fields: Mapping[str, str], stored: Stored | None = None
) -> Response:
    """The 422 with an error for each invalid field; the form keeps the entered values."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if errors.sends_json(request.scope):
        if stored:
            return errors.problem(Rejection(status, ALREADY_STORED), errors=invalid_fields, stored=vars(stored))
        return errors.problem(Rejection(status, ". ".join(invalid_fields.values())), errors=invalid_fields)
    snapshot = request.state["board"].snapshot
    form = Form(values=entered_texts(fields), errors=invalid_fields, stored=stored)
    if is_partial(request):
        return html(request.state["templates"].render("_refused.html", board=snapshot, form=form), status)
    return html(snapshot.render(form=form), status)


def already_stored(request: Request[State], fields: Fields, city: Stored) -> Response:
    """The 422 for a name that is taken; `city` has it."""
    taken = f"{ALREADY_STORED}: {city.name}, population {city.population:,}"
    return invalid(request, fields, {"name": taken}, stored=city)


def failed(request: Request[State], fields: Fields, rejection: Rejection) -> Response:
    """The response if the city could not be stored; the form keeps the entered values, and the board is shown."""
    if errors.sends_json(request.scope):
        return errors.respond(request.scope, rejection)
    try:
        snapshot = request.state["board"].snapshot
    except NoBoard:
        return errors.respond(request.scope, rejection)
    document = snapshot.render(form=Form(values=entered_texts(fields)), problem=[rejection.text])
    return HTMLResponse(document, rejection.status, {**rejection.all_headers, "vary": templates.VARY})


def entered_texts(fields: Fields) -> dict[str, str]:
    """The entered name and population as strings, empty if missing."""
    return {field: str(fields.get(field, "")) for field in FIELDS}


def is_partial(request: Request[State]) -> bool:
    """Whether htmx requests fragments; a request is "full" if htmx selects a part of the page itself."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-request-type") != "full"


def html(document: str, status: int = HTTPStatus.OK) -> Response:
    """A response with a page or fragments for one visitor; it must not be cached."""
    return HTMLResponse(document, status, {"cache-control": "no-store", "vary": templates.VARY})
