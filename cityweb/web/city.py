"""The page of a city, and its correction and removal by visitors."""

from collections.abc import Mapping
from dataclasses import asdict
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp

from cityweb import countries, submissions
from cityweb.city import ID_MAX
from cityweb.postgres import changes, cities, history, ranking
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchCity
from cityweb.postgres.cities import Stored
from cityweb.postgres.database import DatabaseUnavailable, unit_of_work
from cityweb.postgres.ranking import Cursor
from cityweb.submissions import FIELDS, SHOWN, InvalidSubmission
from cityweb.web import bodies, errors, responses, templates
from cityweb.web.board import Form, prepare_json, prepare_page
from cityweb.web.changing import perform, reject_if_off
from cityweb.web.errors import Rejection
from cityweb.web.lists import build_query
from cityweb.web.state import State

read_latest = unit_of_work(history.read_latest)


async def show_city(request: Request[State]) -> ASGIApp:
    """The page of a city: its population, rank, neighbours and history, and a form to correct it. Raises Rejection."""
    city_id = _city_id(request)
    context = await _read_context(request, city_id)
    if context is None:
        return await _respond_with_removed(request, city_id, HTTPStatus.GONE)
    return prepare_page(request.state["templates"].render("city.html", **context))


async def show_city_json(request: Request[State]) -> ASGIApp:
    try:
        city_id = _city_id(request)
        found = await ranking.surroundings(request.state["session"], city_id)
        if found is None:
            raise await _describe_missing(request, city_id, errors.CITY_GONE)
    except (Rejection, DatabaseUnavailable) as error:
        return errors.problem(errors.rejection_of(error))
    document = {**vars(found.city), "created_at": found.city.created_at.isoformat()}
    # New members come last.
    for name in ("country", "rank_in_country"):
        document[name] = document.pop(name)
    return prepare_json(document)


async def correct_city(request: Request[State]) -> ASGIApp:
    """Replaces the values that the visitor changed, if each of them is still as it was shown. Raises Rejection."""
    reject_if_off(request)
    city_id, fields = _city_id(request), await bodies.read_fields(request)
    try:
        old, new = submissions.check_correction(fields)
        population = new.get("population")
        if responses.needs_confirmation(request, fields, population, old.get("population")):
            question = {"population": errors.CONFIRM.format(population=population)}
            return await _reject(request, fields, question, confirm=population)
        if new:
            city = await perform(request, changes.correct, city_id, old, new)
        else:
            city = await unit_of_work(_find)(request.state["session"], city_id)
    except Rejection as rejection:
        rejection.link = _link_back(request, city_id)
        raise
    except InvalidSubmission as invalid:
        return await _reject(request, fields, invalid.errors)
    except NameTaken:
        holder = await cities.find_named(request.state["session"], str(new["name"]))
        sentence = responses.describe_taken(holder) if holder else errors.NAME_TAKEN
        return await _reject(request, fields, {"name": sentence}, taken=holder)
    except Conflict as conflict:
        return await _respond_with_conflict(request, fields, old, new, conflict.stored)
    except NoSuchCity:
        raise await _describe_missing(request, city_id, entered=fields) from None
    return await respond_with_city(request, city, is_changed=bool(new))


async def remove_city(request: Request[State]) -> ASGIApp:
    """Removes a city for one of the REASONS, unless it is on the board. Raises Rejection."""
    reject_if_off(request)
    city_id, fields = _city_id(request), await bodies.read_fields(request)
    try:
        shown, reason = submissions.check_removal(fields)
        city = Stored(city_id, **shown)  # type: ignore[arg-type]  # Each value has the type of its field.
        await perform(request, changes.remove, city, reason=reason)
    except Rejection as rejection:
        rejection.link = _link_back(request, city_id)
        raise
    except InvalidSubmission as invalid:
        sentence = " ".join(invalid.errors.values())
        raise Rejection(422, sentence, link=_link_back(request, city_id)) from None
    except Conflict:
        raise Rejection(409, errors.CITY_CHANGED, link=history_link(request, city_id)) from None
    except NoSuchCity:
        raise await _describe_missing(request, city_id) from None
    if errors.wants_json(request.scope):
        return JSONResponse(asdict(city), headers={"cache-control": "no-store"})
    if responses.is_partial(request):
        return await _respond_with_removed(request, city_id, HTTPStatus.OK)
    return _redirect_to_history(request, city_id)


async def respond_with_city(request: Request[State], city: Stored, *, is_changed: bool = True) -> Response:
    """The response to a change: the city as JSON, fragments of its page, or a redirect to its history."""
    if errors.wants_json(request.scope):
        return JSONResponse(asdict(city), headers={"cache-control": "no-store"})
    if not responses.is_partial(request):
        return _redirect_to_history(request, city.id)
    try:
        context = await _read_context(request, city.id, outcome=is_changed)
    except DatabaseUnavailable as error:
        raise Rejection(503, errors.CHANGE_SAVED) from error
    if context is None:  # somebody has removed it since
        raise await _describe_missing(request, city.id)
    return responses.html(request.state["templates"].render("_corrected.html", **context))


async def _respond_with_removed(request: Request[State], city_id: int, status: int) -> Response:
    """The history of a removed city. Raises Rejection (404) if there was no such city."""
    session = request.state["session"]
    lines, has_more = await read_latest(session, city_id)
    if not lines:
        raise Rejection(404, errors.NO_CITY)
    name = lines[0].city_name
    holder = await cities.find_named(session, name) if name else None
    if holder:
        lines = [line._replace(can_revert=False) for line in lines]
    document = request.state["templates"].render(
        "_removed.html" if responses.is_partial(request) else "removed.html",
        city_id=city_id,
        name=name,
        lines=lines,
        has_more=has_more,
        holder=holder,
    )
    return responses.html(document, status)


async def _respond_with_conflict(
    request: Request[State],
    fields: Mapping[str, object],
    old: Mapping[str, object],
    new: Mapping[str, object],
    stored: Stored,
) -> Response:
    """The 409 with the stored values and the entered ones; sent again, the form replaces the stored ones."""
    sentences = {
        field: errors.CONFLICT.format(
            name=old.get("name", stored.name),
            stored=history.format_value(field, getattr(stored, field)),
            entered=history.format_value(field, value),
        )
        for field, value in new.items()
        if getattr(stored, field) != old[field]
    }
    # What the visitor did not change is shown as it is now, or the form would change it back.
    entered = {**_as_entered(stored), **{field: fields[field] for field in new}}
    shown = {f"old_{field}": getattr(stored, field) for field in FIELDS}
    return await _reject(request, {**entered, **shown}, sentences, HTTPStatus.CONFLICT, stored=stored)


async def _reject(
    request: Request[State],
    fields: Mapping[str, object],
    sentences: Mapping[str, str],
    status: int = HTTPStatus.UNPROCESSABLE_ENTITY,
    *,
    taken: Stored | None = None,
    stored: Stored | None = None,
    confirm: object = None,
) -> Response:
    """The response to a correction that was not made: the form has the entered values and a sentence for each field."""
    if errors.wants_json(request.scope):
        detail = errors.ALREADY_STORED if taken else " ".join(sentences.values())
        found = taken or stored
        return errors.problem(
            Rejection(status, detail), errors=sentences, **({"stored": asdict(found)} if found else {})
        )
    shown = {name.removeprefix("old_"): fields.get(name, "") for name in SHOWN}
    form = Form(responses.entered_texts(fields), sentences, stored=taken, shown=shown, confirm=confirm)
    city_id = _city_id(request)
    context = await _read_context(request, city_id, form)
    if context is None:
        raise await _describe_missing(request, city_id, entered=fields)
    template = "_corrected.html" if responses.is_partial(request) else "city.html"
    document = request.state["templates"].render(template, **context)
    return responses.html(document, status)


async def _read_context(
    request: Request[State], city_id: int, form: Form | None = None, *, outcome: bool | None = None
) -> dict[str, object] | None:
    """The values of the templates of a city, or None if there is no such city.

    `outcome` is whether the request has changed the city; None if it has asked for no change.
    """
    session = request.state["session"]
    found = await ranking.surroundings(session, city_id)
    if found is None:
        return None
    lines, has_more = await read_latest(session, found.city.id)
    before = found.above[-1] if found.above else None
    return {
        **vars(found),
        "rows": found.rows,
        "distribution": await request.state["distribution"].get(session),
        "from_here": build_query(Cursor(before.population, before.id) if before else None),
        "lines": lines,
        "has_more": has_more,
        "form": form or Form(_as_entered(found.city), shown={field: getattr(found.city, field) for field in FIELDS}),
        "outcome": outcome,
    }


async def _describe_missing(
    request: Request[State],
    city_id: int,
    sentence: str = errors.CITY_REMOVED,
    entered: Mapping[str, object] | None = None,
) -> Rejection:
    """The rejection for a city that is not stored: 410 if it was removed, 404 if there was none.

    Its page leads back to what was entered for a correction.
    """
    if entered:
        texts = responses.entered_texts(entered)
        request.state["entered"] = {field: text for field, text in texts.items() if text}
    lines, _ = await read_latest(request.state["session"], city_id)
    if not lines:
        return Rejection(404, errors.NO_CITY)
    return Rejection(410, sentence, link=history_link(request, city_id))


async def _find(session: changes.Connection, city_id: int) -> Stored:
    city = await changes.find(session, city_id)
    if city is None:
        raise NoSuchCity
    return city


def _city_id(request: Request[State]) -> int:
    """The id in the path. Raises Rejection (404) if no city can have it."""
    city_id: int = request.path_params["id"]
    if city_id > ID_MAX:
        raise Rejection(404, errors.NO_CITY)
    return city_id


def _redirect_to_history(request: Request[State], city_id: int) -> Response:
    url, _ = history_link(request, city_id)
    return RedirectResponse(url, HTTPStatus.SEE_OTHER, {"cache-control": "no-store"})


def _link_back(request: Request[State], city_id: int) -> tuple[str, str]:
    return f"{request.app.url_path_for('show_city', id=city_id)}#correct", "Back to the city"


def history_link(request: Request[State], city_id: int) -> tuple[str, str]:
    """The link from an error to the history of a city."""
    return f"{request.app.url_path_for('show_city', id=city_id)}#history", "Its history"


def _as_entered(city: Stored) -> dict[str, str]:
    """The values of a city as a visitor would enter them."""
    country = countries.name_of(city.country)
    return {"name": city.name, "population": templates.number(city.population), "country": country, "place": ""}
