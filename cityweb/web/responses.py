"""The responses to an add, each in three formats: a page, fragments for htmx, JSON."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from cityweb import countries, submissions
from cityweb.city import BOARD_SIZE
from cityweb.postgres import cities, ranking
from cityweb.postgres.cities import Landing, Stored
from cityweb.postgres.database import DatabaseUnavailable, Session
from cityweb.submissions import ENTERED
from cityweb.web import errors, templates
from cityweb.web.board import NEW_FORM, Form, NoBoard, Snapshot
from cityweb.web.errors import ALREADY_STORED, Rejection
from cityweb.web.state import State, client_network


async def added(request: Request[State], city: Stored, *, is_new: bool) -> Response:
    """The response if the city is stored: 201, or its rank in fragments, on a page, or by a redirect to that page."""
    board = request.state["board"]
    await board.refresh()
    if errors.sends_json(request.scope):
        location = request.app.url_path_for("show_city_json", id=city.id)
        return JSONResponse(as_json(city), HTTPStatus.CREATED, {"cache-control": "no-store", "location": location})
    # The target of the redirect shows the rank only of a new city.
    if is_new and not is_partial(request):
        url = f"{request.app.url_path_for('show_board')}?added={city.id}"
        return RedirectResponse(url, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})
    try:
        snapshot = board.snapshot
    except NoBoard:
        return errors.respond(request.scope, Rejection(503, errors.SAVED))
    landed, session = Landing(city), request.state["session"]
    # The city is stored, even if the database is unavailable now, and the response says so.
    with suppress(DatabaseUnavailable):
        landed = await cities.landing(session, city.id) or landed
        landed = await add_neighbours(session, landed, snapshot)
    landed = replace(landed, can_undo=is_new and bool(client_network(request)))
    if not is_partial(request):
        return html(snapshot.render(landed=landed))
    return html(request.state["templates"].render("_added.html", board=snapshot, form=NEW_FORM, landed=landed))


async def add_neighbours(session: Session, landing: Landing, snapshot: Snapshot) -> Landing:
    """The landing, with the neighbours of the city if it is not on the board. Raises DatabaseUnavailable."""
    is_on_board = any(row.id == landing.city.id for row in snapshot.leaders.rows)
    found = None if is_on_board else await ranking.surroundings(session, landing.city.id)
    return replace(landing, nearby=found.rows) if found else landing


def invalid(
    request: Request[State],
    fields: Mapping[str, object],
    invalid_fields: Mapping[str, str],
    stored: Stored | None = None,
    namesakes: Sequence[Stored] = (),
    confirm: int | None = None,
) -> Response:
    """The 422 with an error for each invalid field; the form keeps the entered values."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if errors.sends_json(request.scope):
        if stored:
            return errors.problem(Rejection(status, ALREADY_STORED), errors=invalid_fields, stored=as_json(stored))
        return errors.problem(Rejection(status, " ".join(invalid_fields.values())), errors=invalid_fields)
    form = Form(entered_texts(fields), invalid_fields, stored, namesakes, confirm=confirm)
    return _respond_with_form(request, Rejection(status, " ".join(invalid_fields.values())), form)


async def already_stored(request: Request[State], fields: Mapping[str, object], city: Stored) -> Response:
    """The 422 for a name that is taken; `city` has it. A page asks for a place that tells another city apart."""
    field = "place" if fields.get("place") else "name"
    namesakes: Sequence[Stored] = ()
    if not errors.sends_json(request.scope):
        with suppress(DatabaseUnavailable):
            namesakes = await cities.namesakes(request.state["session"], str(fields["name"]))
    others = [namesake for namesake in namesakes if namesake.id != city.id]
    return invalid(request, fields, {field: describe_taken(city)}, city, others)


def describe_taken(city: Stored) -> str:
    where = f", in {countries.name_of(city.country)}" if city.country else ""
    return f"{city.name} is already on the list, with {templates.people(city.population)}{where}."


def needs_confirmation(
    request: Request[State], fields: Mapping[str, object], population: object, shown: object = None
) -> bool:
    """Whether a form has a population that its visitor has to confirm, and has not. JSON is taken at its word."""
    if (
        errors.sends_json(request.scope)
        or not isinstance(population, int)
        or str(fields.get("confirm")) == str(population)
    ):
        return False
    rows: Sequence[Stored] = ()
    with suppress(NoBoard):
        rows = request.state["board"].snapshot.leaders.rows
    first = rows[0].population if len(rows) == BOARD_SIZE else None
    return submissions.is_unlikely(population, shown if isinstance(shown, int) else None, first)


def failed(request: Request[State], fields: Mapping[str, object], rejection: Rejection) -> Response:
    """The response if the city could not be stored; the form keeps the entered values, and the board is shown."""
    if errors.sends_json(request.scope):
        return errors.respond(request.scope, rejection)
    try:
        return _respond_with_form(request, rejection, Form(values=entered_texts(fields)), rejection.text)
    except NoBoard:
        return errors.respond(request.scope, rejection)


def _respond_with_form(request: Request[State], rejection: Rejection, form: Form, problem: str = "") -> Response:
    """The page with a form, or fragments if the form has the errors. Raises NoBoard."""
    snapshot = request.state["board"].snapshot
    if form.errors and is_partial(request):
        document = request.state["templates"].render("_rejected.html", board=snapshot, form=form)
    else:
        document = snapshot.render(form=form, problem=problem)
    return HTMLResponse(document, rejection.status, {**rejection.all_headers, "vary": templates.VARY})


def as_json(city: Stored) -> dict[str, object]:
    """The members of a stored city in the responses to an add; without the country, so that they stay as they were."""
    return {"id": city.id, "name": city.name, "population": city.population}


def entered_texts(fields: Mapping[str, object]) -> dict[str, str]:
    """The entered values as strings, empty if missing."""
    return {field: str(fields.get(field, "")) for field in ENTERED}


def is_partial(request: Request[State]) -> bool:
    """Whether htmx requests fragments; a request is "full" if htmx selects a part of the page itself."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-request-type") != "full"


def html(document: str, status: int = HTTPStatus.OK) -> Response:
    """A response with a page or fragments for one visitor; it must not be cached."""
    return HTMLResponse(document, status, {"cache-control": "no-store", "vary": templates.VARY})
