"""Error responses: a page for visitors and a problem document (RFC 9457) for programs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import Scope

from cityweb.postgres.database import DatabaseUnavailable
from cityweb.postgres.networks import Blocked
from cityweb.submissions import ShownValueMissing
from cityweb.web import templates
from cityweb.web.board import NoBoard

RETRY_SECONDS = 5
"""The default `Retry-After`, a guess: the length of an outage is unknown."""

TITLES = {
    400: "That request didn't work",
    403: "That isn't allowed",
    404: "Page not found",
    405: "That request isn't supported",
    409: "That isn't possible any more",
    410: "Removed",
    413: "That request is too long",
    415: "That format isn't supported",
    429: "Too many at once",
    431: "That request is too long",
    500: "Something went wrong",
    503: "Temporarily unavailable",
}
SENTENCES = {
    400: "We couldn't read that request. Go back and try again.",
    403: "That form was sent from another site, so nothing was saved. Open this site and try again there.",
    404: "There is no page here.",
    405: "This page doesn't support that request.",
    413: "That request is too long. Nothing was saved. Send only the fields of the form.",
    415: "We can't read that format. Nothing was saved. Send a form or JSON, in UTF-8.",
    429: "Too many cities were added from your network. This one was not saved; try again in {wait}.",
    431: "The headers of that request are too long. Clear this site's cookies and try again.",
    500: "Something went wrong. If you added a city, we could not confirm that it was saved. Try again in a minute.",
    503: "We can't save cities right now. This one was not saved; try again in {wait}.",
}
UNREADABLE_ADD = "We couldn't read that request. Nothing was saved. Go back and try again."
UNCONFIRMED = "We could not confirm that the city was saved. Adding it again is safe."
NO_BOARD = "We can't show the board right now. Try again in {wait}."
WRONG_HOST = "This server doesn't serve that host name. Check the address."
SAVED = "The city was saved, but we can't show the board right now. Open it in {wait}."
NOT_SHOWN = "We can't show this right now. Try again in {wait}."
DOWNLOADS_FULL = "Too many downloads are running. Try again in {wait}."
NO_CITY = "There is no city here. It may have been removed."
CITY_GONE = "This city has been removed. Its page says when and why."
CITY_REMOVED = "This city has been removed. Nothing was changed. Its history says when and why."
CITY_CHANGED = "This city has been changed in the meantime. Nothing was done. Its history shows the change."
NOT_REVERTIBLE = (
    "Only corrections and removals that still stand can be reverted, and no removals by an operator. Nothing was"
    " changed. The history of the city shows what came later."
)
NAME_TAKEN = "Another city has the name now. Nothing was changed. Rename or remove one of the two."
ON_BOARD = (
    "Cities that are on the board, or were within a week, can only be removed by operators. Nothing was changed."
    " You can correct the city."
)
NETWORK_BLOCKED = "Changes from your network are blocked until {until}. Nothing was saved."
NAME_BLOCKED = "A city with this name was removed by an operator, so the name can't be used again. Nothing was saved."
CORRECTIONS_OFF = "Corrections are switched off at the moment. Nothing was changed. Try again in {wait}."
CHANGE_SAVED = "Your change was saved, but we can't show the city right now. Open it in {wait}."
CHANGE_UNCONFIRMED = "We could not confirm that the change was saved. Sending it again is safe."
TOO_MANY_CHANGES = "Too many changes came from your network. This one was not saved; try again in {wait}."
SHOWN_VALUE_MISSING = "Send {field} too: the value that you were shown."
CONFIRM = "Is {population:,} right? If it is, send it again."
CONFLICT = (
    "Somebody changed {name} in the meantime, to {stored}. You entered {entered}. Send it again to replace theirs."
)
NO_SUCH_CHANGE = "There is no such change. Look for it in the list of changes."
NO_COUNTRY = "There is no such country. Choose one from the list of countries."
NO_SUCH_LIST_PAGE = "The list has no such page. Start at its first page."
SEARCH_TOO_LONG = "No city name is that long. Search for the beginning of the name."
ALREADY_STORED = "The city is already stored"
"""The `detail` in JSON, where programs compare it; the message for people has the stored name and population."""


@dataclass(eq=False)
class Rejection(Exception):
    """A rejected request: its status, its message unless it is the usual one, when to try again.

    `link` is the URL and the words of where a page leads next, if that is neither the board nor what was entered.
    """

    status: int
    sentence: str = ""
    retry_seconds: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    link: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.retry_seconds is None and self.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            self.retry_seconds = RETRY_SECONDS

    @property
    def text(self) -> str:
        """The message: what happened, whether anything was saved if somebody tried to save, what to do next."""
        sentence = self.sentence or SENTENCES.get(self.status) or SENTENCES[400]
        # Not str.format: the message about reserved characters has braces.
        return sentence.replace("{wait}", _format_wait(self.retry_seconds or 0))

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers of the response, which must not be cached."""
        retry = {} if self.retry_seconds is None else {"retry-after": str(self.retry_seconds)}
        return {"cache-control": "no-store", **retry, **self.headers}


def describe_block(blocked: Blocked) -> str:
    """The sentence for a change that a block prevents."""
    if blocked.until is None:
        return NAME_BLOCKED
    return NETWORK_BLOCKED.replace("{until}", templates.clock(blocked.until))


def _format_wait(seconds: int) -> str:
    minutes = -(-seconds // 60)
    number, unit = (minutes, "minute") if minutes > 1 else (seconds, "second")
    return f"{number} {unit}{'' if number == 1 else 's'}"


def respond(scope: Scope, rejection: Rejection) -> Response:
    """The response to any rejection: a problem document if the client wants JSON, else a page."""
    request_id = scope["state"]["request_id"] if rejection.status == HTTPStatus.INTERNAL_SERVER_ERROR else None
    if wants_json(scope):
        return problem(rejection, **({"request_id": request_id} if request_id else {}))
    title = TITLES.get(rejection.status, TITLES[400])
    entered = scope["state"].get("entered")
    document = scope["state"]["templates"].render(
        "error.html", title=title, sentence=rejection.text, request_id=request_id, entered=entered, link=rejection.link
    )
    return HTMLResponse(document, rejection.status, {**rejection.all_headers, "vary": templates.VARY})


def problem(rejection: Rejection, **more: object) -> Response:
    """A problem document; `more` has the members beyond the standard ones."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(rejection.status).phrase,
        "status": rejection.status,
        "detail": rejection.text,
        **more,
    }
    body = json.dumps(document, ensure_ascii=False)
    return Response(body, rejection.status, rejection.all_headers, "application/problem+json")


def wants_json(scope: Scope) -> bool:
    """Whether the client wants JSON: it sends JSON, or accepts JSON but not HTML."""
    accept = b",".join(value for name, value in scope["headers"] if name == b"accept").lower()
    return sends_json(scope) or (b"json" in accept and b"html" not in accept)


def sends_json(scope: Scope) -> bool:
    kind: bytes = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return kind.partition(b";")[0].strip().lower() == b"application/json"


EXPECTED = (Rejection, HTTPException, NoBoard, DatabaseUnavailable, ShownValueMissing, ClientDisconnect)
"""Expected exceptions, which are not bugs: each has an error response."""


def rejection_of(exception: Exception) -> Rejection:
    """The rejection for one of the expected exceptions."""
    match exception:
        case Rejection():
            return exception
        case HTTPException(status_code=status, headers=headers):
            return Rejection(status, headers=headers or {})
        case NoBoard():
            return Rejection(503, NO_BOARD)
        case DatabaseUnavailable():
            return Rejection(503, NOT_SHOWN)
        case ShownValueMissing(field=field):
            return Rejection(428, SHOWN_VALUE_MISSING.replace("{field}", field))
    return Rejection(400)  # ClientDisconnect
