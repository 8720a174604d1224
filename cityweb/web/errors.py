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
from cityweb.web import templates
from cityweb.web.board import NoBoard

RETRY_SECONDS = 5
"""The default `Retry-After`, a guess: the length of an outage is unknown."""

TITLES = {
    400: "The request could not be read",
    403: "The form came from another site",
    404: "There is no such page",
    405: "That cannot be done here",
    413: "That is too long",
    415: "That format is not read here",
    429: "Too many at once",
    431: "That is too long",
    500: "There is a problem with the service",
    503: "Not at the moment",
}
SENTENCES = {
    400: "The request could not be read. Nothing was saved. Go to the leaderboard and try again.",
    403: "The form came from another site. The city was not saved. Open the leaderboard and add it there.",
    404: "There is no page at this address. Nothing was saved. Go to the leaderboard.",
    405: "This address cannot do what was asked of it. Nothing was saved. Go to the leaderboard.",
    413: "More was sent than a city needs. The city was not saved. Send a name and a population only.",
    415: "The city came in a format that is not read here. The city was not saved. Send a form or JSON, in UTF-8.",
    429: "Too many cities came from your network. The city was not saved. Try again in {seconds} seconds.",
    431: "The head of the request is too long. Nothing was saved. Clear this site's cookies and try again.",
    500: "There is a problem with the service. We could not confirm that the city was saved. Try again in a minute.",
    503: "The service cannot save cities at the moment. The city was not saved. Try again in {seconds} seconds.",
}
UNREADABLE_ADD = "The form could not be read. The city was not saved. Go to the leaderboard and add it there."
UNCONFIRMED = "We could not confirm that the city was saved. Adding it again is safe."
NO_BOARD = "The service cannot show the board at the moment. Nothing was lost. Try again in {seconds} seconds."
WRONG_HOST = "This site is not known by the name that was asked for. Nothing was saved. Check the address."
SAVED = "The city was saved. The service cannot show the board at the moment. Try again in {seconds} seconds."
NOT_SHOWN = "The service cannot show this at the moment. Nothing was lost. Try again in {seconds} seconds."
DOWNLOADS_FULL = "Too many downloads are running. Try again in {seconds} seconds."
NO_CITY = "There is no city at this address. Nothing was saved. Go to the leaderboard and look for it."
NO_SUCH_LIST_PAGE = "The list has no page at this address. Nothing was saved. Go to the leaderboard."
SEARCH_TOO_LONG = "No city has so long a name. Nothing was saved. Go back and search for its beginning."
ALREADY_STORED = "The city is already stored"


@dataclass(eq=False)
class Rejection(Exception):
    """A rejected request: its status, its message unless it is the usual one, and when to try again."""

    status: int
    sentence: str = ""
    retry_seconds: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.retry_seconds is None and self.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}:
            self.retry_seconds = RETRY_SECONDS

    @property
    def text(self) -> str:
        """The message: what happened, whether anything was saved, what to do next."""
        sentence = self.sentence or SENTENCES.get(self.status) or SENTENCES[400]
        # Not str.format: the sentence about forbidden characters has braces.
        return sentence.replace("{seconds}", str(self.retry_seconds))

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers of the response, which must not be cached."""
        retry = {} if self.retry_seconds is None else {"retry-after": str(self.retry_seconds)}
        return {"cache-control": "no-store", **retry, **self.headers}


def respond(scope: Scope, rejection: Rejection) -> Response:
    """The response to any rejection: a problem document if the client wants JSON, else a page."""
    request_id = scope["state"]["request_id"] if rejection.status == HTTPStatus.INTERNAL_SERVER_ERROR else None
    if wants_json(scope):
        return problem(rejection, **({"request_id": request_id} if request_id else {}))
    title = TITLES.get(rejection.status, TITLES[400])
    entered = scope["state"].get("entered")
    document = scope["state"]["templates"].render(
        "error.html", title=title, sentence=rejection.text, request_id=request_id, entered=entered
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


EXPECTED = (Rejection, HTTPException, NoBoard, DatabaseUnavailable, ClientDisconnect)
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
    return Rejection(400)  # ClientDisconnect
