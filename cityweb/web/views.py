"""Views: the board, an add, the description of the API, static files, health checks.

The others are in city.py, changes.py and lists.py.
"""

import re
from dataclasses import replace
from datetime import timedelta
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp

from cityweb import countries, submissions
from cityweb.city import ID_MAX
from cityweb.postgres import cities
from cityweb.postgres.database import DatabaseUnavailable, Unconfirmed
from cityweb.postgres.networks import Blocked
from cityweb.postgres.rate_limit import RateLimited
from cityweb.submissions import InvalidSubmission
from cityweb.web import bodies, errors, openapi, responses
from cityweb.web.board import CACHE_CONTROL, Form, NoBoard, prepare_json, prepare_page
from cityweb.web.errors import RETRY_SECONDS, Rejection
from cityweb.web.state import State, client_ip, client_network, read_author

NO_STORE = {"cache-control": "no-store"}
NEWLY_ADDED = timedelta(minutes=2)
"""How long after an add `/?added=ID` shows the rank; limited, because each such request reads the database."""


async def show_board(request: Request[State]) -> ASGIApp:
    """The board and the form; `?added=ID` shows the rank of a new city, `?name=NAME&population=N` fills in the form."""
    board = request.state["board"]
    live = request.query_params.get("live") != "off"
    added = request.query_params.get("added", "")
    entered = responses.entered_texts(request.query_params)
    if re.fullmatch("[0-9]{1,10}", added) and int(added) <= ID_MAX:
        try:
            landing = await cities.landing(request.state["session"], int(added))
            if landing and landing.age < NEWLY_ADDED:
                await board.refresh()
                landing = replace(landing, can_undo=bool(client_network(request)))
                landing = await responses.add_neighbours(request.state["session"], landing, board.snapshot)
                return responses.html(board.snapshot.render(landed=landing, live=live))
        except DatabaseUnavailable:
            pass
    snapshot = board.snapshot
    if any(entered.values()):
        return responses.html(snapshot.render(form=Form(values=entered), live=live))
    return snapshot.page if live else snapshot.paused_page


async def show_fragment(request: Request[State]) -> ASGIApp:
    """The board for an open page, or a 204 if `?seen=ID` is the current snapshot."""
    snapshot = request.state["board"].snapshot
    if request.query_params.get("seen") == snapshot.id:
        return Response(status_code=HTTPStatus.NO_CONTENT, headers={"cache-control": CACHE_CONTROL})
    return snapshot.fragment


async def list_biggest(request: Request[State]) -> ASGIApp:
    try:
        return request.state["board"].snapshot.biggest
    except NoBoard as error:
        return errors.problem(errors.rejection_of(error))


async def add_city(request: Request[State]) -> ASGIApp:
    """Stores a submitted city; the response has its rank or says why it was not stored."""
    fields = await bodies.read_fields(request)
    request.state["entered"] = {field: text for field, text in responses.entered_texts(fields).items() if text}
    session, limiter = request.state["session"], request.state["limiter"]
    try:
        submission = submissions.check(fields)
        if responses.needs_confirmation(request, fields, submission.population):
            question = {"population": errors.CONFIRM.format(population=submission.population)}
            return responses.invalid(request, fields, question, confirm=submission.population)
        author = await read_author(request)
        if limiter:
            await limiter.charge(session, client_ip(request))
        city, is_new = await cities.add(session, submission, author)
    except InvalidSubmission as invalid:
        return responses.invalid(request, fields, invalid.errors)
    except RateLimited as limited:
        return responses.failed(request, fields, Rejection(429, retry_seconds=limited.seconds))
    except Blocked as blocked:
        return responses.failed(request, fields, Rejection(403, errors.describe_block(blocked)))
    except Unconfirmed:
        return responses.failed(request, fields, Rejection(503, errors.UNCONFIRMED))
    except DatabaseUnavailable:
        return responses.failed(request, fields, Rejection(503))
    # In a browser, Back and a second click send the same city again, which is not an error.
    is_same = city.population == submission.population and submission.country in {"", city.country}
    is_repeated = is_same and not errors.sends_json(request.scope)
    if is_new or is_repeated:
        return await responses.added(request, city, is_new=is_new)
    return await responses.already_stored(request, fields, city)


async def describe_api(request: Request[State]) -> ASGIApp:
    return prepare_json(_describe(request))


async def explain_api(request: Request[State]) -> ASGIApp:
    """The page that lists the files and the operations of the API, with curl commands; data.js tries them."""
    document = _describe(request)
    operations = openapi.operations(document)
    page = request.state["templates"].render(
        "api.html", version=document["openapi"], operations=operations, files=openapi.FILES
    )
    return prepare_page(page)


def _describe(request: Request[State]) -> openapi.JSON:
    return openapi.document({route.name: route.path_format for route in request.app.routes})


async def list_country_names(request: Request[State]) -> ASGIApp:
    """The names of all countries as options, for the suggestions of the form."""
    return prepare_page(request.state["templates"].render("_country_names.html", names=countries.NAMES.values()))


async def show_asset(request: Request[State]) -> ASGIApp:
    """A static file, immutable if the URL has its fingerprint. Raises Rejection (404)."""
    asset = request.state["assets"].find(request.path_params["name"], request.query_params.get("v", ""))
    if asset is None:
        raise Rejection(404)
    return asset


async def check_health(request: Request[State]) -> Response:  # noqa: ARG001 (a view)
    """The health check: 200 while the process runs."""
    return PlainTextResponse("alive\n", headers=NO_STORE)


async def check_readiness(request: Request[State]) -> Response:
    """The readiness check: 200 while the board is current, 503 while it is stale or was never read."""
    if request.state["board"].is_stale:
        return PlainTextResponse("not ready\n", 503, {**NO_STORE, "retry-after": str(RETRY_SECONDS)})
    return PlainTextResponse("ready\n", headers=NO_STORE)
