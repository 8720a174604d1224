"""The views of the log of changes, and the revert of one; what is kept about visitors."""

import re

from starlette.requests import Request
from starlette.types import ASGIApp

from cityweb.city import CHANGE_ID_MAX, ID_MAX
from cityweb.postgres import changes, history
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchChange, NoSuchCity, NotRevertible
from cityweb.postgres.database import unit_of_work
from cityweb.web import errors
from cityweb.web.board import prepare_feed, prepare_page
from cityweb.web.changing import perform, reject_if_off
from cityweb.web.city import history_link, respond_with_city
from cityweb.web.errors import Rejection
from cityweb.web.state import State

NUMBER = re.compile("[0-9]{1,18}")
FAILURES: dict[type[Exception], tuple[int, str]] = {
    NameTaken: (422, errors.NAME_TAKEN),
    NoSuchCity: (410, errors.CITY_REMOVED),
    Conflict: (409, errors.NOT_REVERTIBLE),
    NotRevertible: (409, errors.NOT_REVERTIBLE),
}
"""The status and the sentence for each reason why a change is not reverted; a page leads to the history of the city."""
read_changes = unit_of_work(history.read)
find_city_of = unit_of_work(changes.find_city_of)


async def revert_change(request: Request[State]) -> ASGIApp:
    """Undoes a correction or a removal. Raises Rejection."""
    reject_if_off(request)
    number = request.path_params["id"]
    try:
        city = await perform(request, changes.revert, number, is_revert=True)
    except NoSuchChange:
        raise Rejection(404, errors.NO_SUCH_CHANGE) from None
    except tuple(FAILURES) as error:
        status, sentence = FAILURES[type(error)]
        city_id = await find_city_of(request.state["session"], number)
        link = history_link(request, city_id) if city_id else None
        raise Rejection(status, sentence, link=link) from None
    return await respond_with_city(request, city)


async def list_changes(request: Request[State]) -> ASGIApp:
    """A page of the log, of all cities or of one, the newest change first. Raises Rejection (400)."""
    city, before = _parse_number(request, "city", ID_MAX), _parse_number(request, "before", CHANGE_ID_MAX)
    lines, has_more = await read_changes(request.state["session"], city=city, before=before or CHANGE_ID_MAX)
    document = request.state["templates"].render(
        "changes.html", lines=lines, city=city, next=lines[-1].id if has_more else None
    )
    return prepare_page(document)


async def show_changes_feed(request: Request[State]) -> ASGIApp:
    """The newest changes as an Atom feed (RFC 4287). Raises Rejection (400)."""
    city = _parse_number(request, "city", ID_MAX)
    lines, _ = await read_changes(request.state["session"], city=city)
    updated = lines[0].at.isoformat() if lines else "1970-01-01T00:00:00Z"
    document = request.state["templates"].render("changes.atom", updated=updated, lines=lines, city=city)
    return prepare_feed(document)


async def show_privacy(request: Request[State]) -> ASGIApp:
    """What is kept about a visitor, and for how long."""
    return prepare_page(request.state["templates"].render("privacy.html", contact=request.state["contact"]))


def _parse_number(request: Request[State], name: str, maximum: int) -> int | None:
    """The number in a parameter of the query, or None without one. Raises Rejection (400)."""
    text = request.query_params.get(name)
    if text is None:
        return None
    if not NUMBER.fullmatch(text) or int(text) > maximum:
        raise Rejection(400, errors.NO_SUCH_LIST_PAGE)
    return int(text)
