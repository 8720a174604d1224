"""What every rejection says: as a page, as a problem document, in its headers."""

import json
import re
from typing import Any

import pytest
from selectolax.lexbor import LexborNode
from starlette.responses import Response
from starlette.types import Scope

from cityweb.web import errors
from cityweb.web.errors import Rejection
from cityweb.web.templates import VARY
from tests.pages import TEMPLATES, one, parse, text

STATUSES = [400, 403, 404, 405, 413, 415, 422, 429, 431, 500, 503]
"""Those of the contract, and 431."""
STATUSES_OF_ADDS = [403, 413, 415, 429, 500, 503]
WORDS = re.compile(r"\b(please|sorry|valid|invalid|required|forbidden|oops)\b", re.IGNORECASE)
"""What is never said to a visitor."""

statuses = pytest.mark.parametrize("status", STATUSES)


def request(*headers: tuple[str, str]) -> Scope:
    raw = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "headers": raw, "state": {"request_id": "3f2a-7", "templates": TEMPLATES}}


PERSON, PROGRAM = request(("accept", "text/html")), request(("accept", "application/json"))
everybody = pytest.mark.parametrize("asking", [PERSON, PROGRAM], ids=["person", "program"])


def page(rejection: Rejection) -> LexborNode:
    return parse(bytes(errors.respond(PERSON, rejection).body).decode())


def members(answer: Response) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bytes(answer.body))
    return document


# --- a page and a problem document ---


@statuses
def test_a_person_gets_a_page(status: int) -> None:
    answer = errors.respond(PERSON, Rejection(status))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")


@statuses
def test_a_page_says_what_happened(status: int) -> None:
    said = text(one(page(Rejection(status)), "#problem-text > p:first-child"))
    assert said == Rejection(status).text
    assert re.fullmatch(r"[A-Z].*\.", said)


@pytest.mark.parametrize("status", STATUSES_OF_ADDS)
def test_the_response_to_an_add_says_whether_the_city_was_saved_and_what_to_do(status: int) -> None:
    assert re.fullmatch(r"[A-Z].*\bsaved(\. [A-Z]|; [a-z]).*\.", Rejection(status).text)


@statuses
def test_a_page_has_a_heading_which_is_its_title_too(status: int) -> None:
    document = page(Rejection(status))
    assert text(one(document, "h1"))
    assert text(one(document, "title")) == f"{text(one(document, 'h1'))} - cityweb"


@statuses
def test_a_page_leads_back_to_the_board(status: int) -> None:
    one(page(Rejection(status)), "main a[href='/']")


@statuses
def test_a_program_gets_a_problem_document(status: int) -> None:
    answer = errors.respond(PROGRAM, Rejection(status))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert members(answer) == {
        "type": "about:blank",
        "title": members(answer)["title"],
        "status": status,
        "detail": Rejection(status).text,
        **({"request_id": "3f2a-7"} if status == 500 else {}),
    }


@pytest.mark.parametrize(("status", "title"), [(404, "Not Found"), (403, "Forbidden"), (429, "Too Many Requests")])
def test_the_title_of_a_problem_document_is_the_standard_phrase(status: int, title: str) -> None:
    # RFC 9457, 4.2.1 asks for it where the type is about:blank.
    assert members(errors.problem(Rejection(status)))["title"] == title


def test_a_problem_document_takes_more_members() -> None:
    answer = errors.problem(Rejection(422, "Enter a city name."), errors={"name": "Enter a city name."})
    assert members(answer)["errors"] == {"name": "Enter a city name."}


def test_a_problem_document_is_utf8_that_people_can_read() -> None:
    assert "Zürich".encode() in bytes(errors.problem(Rejection(422), name="Zürich").body)


@everybody
def test_a_sentence_of_its_own_takes_the_place_of_the_usual_one(asking: Scope) -> None:
    said = bytes(errors.respond(asking, Rejection(400, errors.UNCONFIRMED)).body).decode()
    assert errors.UNCONFIRMED in said
    assert "read that request" not in said


@everybody
def test_a_sentence_may_quote_braces(asking: Scope) -> None:
    assert "{7*7} {seconds" in bytes(errors.respond(asking, Rejection(503, "{7*7} {seconds")).body).decode()


def test_an_unusual_status_has_a_sentence_too() -> None:
    assert Rejection(418).text == errors.SENTENCES[400]


# --- words ---


@statuses
def test_a_page_never_scolds_nor_begs(status: int) -> None:
    assert not WORDS.search(text(page(Rejection(status))))


@statuses
def test_the_detail_of_a_problem_never_scolds_nor_begs(status: int) -> None:
    assert not WORDS.search(members(errors.problem(Rejection(status)))["detail"])


SAID = [value for name, value in vars(errors).items() if name.isupper() and isinstance(value, str)]


@pytest.mark.parametrize("sentence", SAID)
def test_no_other_sentence_scolds_or_begs(sentence: str) -> None:
    assert not WORDS.search(sentence)


def test_there_are_other_sentences() -> None:
    assert errors.NO_BOARD in SAID


def test_such_words_would_be_found() -> None:
    assert WORDS.search("Sorry, this is Forbidden.")


# --- headers ---


@everybody
@statuses
def test_no_cache_keeps_a_rejection(status: int, asking: Scope) -> None:
    assert errors.respond(asking, Rejection(status)).headers["cache-control"] == "no-store"


def test_a_page_varies_with_what_htmx_asks_for() -> None:
    assert errors.respond(PERSON, Rejection(404)).headers["vary"] == VARY


@everybody
@pytest.mark.parametrize("status", [429, 503])
def test_who_may_try_again_is_told_when(status: int, asking: Scope) -> None:
    for seconds, wait in ((7, "7 seconds"), (1, "1 second"), (60, "60 seconds"), (61, "2 minutes")):
        answer = errors.respond(asking, Rejection(status, retry_seconds=seconds))
        assert answer.headers["retry-after"] == str(seconds)
        assert f"try again in {wait}." in bytes(answer.body).decode()


@everybody
@pytest.mark.parametrize("status", [429, 503])
def test_where_nobody_knows_when_a_few_seconds_are_named(status: int, asking: Scope) -> None:
    answer = errors.respond(asking, Rejection(status))
    assert answer.headers["retry-after"] == str(errors.RETRY_SECONDS)
    assert f"try again in {errors.RETRY_SECONDS} seconds." in bytes(answer.body).decode()


@pytest.mark.parametrize("status", sorted({*STATUSES} - {429, 503}))
def test_other_rejected_lines_name_no_time(status: int) -> None:
    assert "retry-after" not in errors.respond(PERSON, Rejection(status)).headers


@everybody
def test_a_rejection_brings_its_own_headers(asking: Scope) -> None:
    answer = errors.respond(asking, Rejection(405, headers={"allow": "GET, HEAD"}))
    assert (answer.headers["allow"], answer.headers["cache-control"]) == ("GET, HEAD", "no-store")


def test_without_a_board_the_answer_is_503_and_says_when_to_try_again() -> None:
    answer = errors.respond(PERSON, Rejection(503, errors.NO_BOARD))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, str(errors.RETRY_SECONDS))
    assert "show the board right now. Try again in 5 seconds." in text(parse(bytes(answer.body).decode()))


# --- the reference ---


def test_the_page_of_a_failure_shows_the_id_of_its_request() -> None:
    assert text(one(page(Rejection(500)), "#problem-text .quiet")) == "Reference: 3f2a-7"


@pytest.mark.parametrize("status", sorted({*STATUSES} - {500}))
def test_other_pages_show_no_id(status: int) -> None:
    assert "3f2a-7" not in text(page(Rejection(status)))


# --- what was entered ---


def test_the_page_of_a_failed_add_leads_back_with_what_was_entered() -> None:
    scope = request(("accept", "text/html"))
    scope["state"]["entered"] = {"name": "São & Paulo", "population": "12,300,000"}
    link = one(parse(bytes(errors.respond(scope, Rejection(500)).body).decode()), ".links a")
    assert link.attrs["href"] == "/?name=S%C3%A3o+%26+Paulo&population=12%2C300%2C000#name"
    assert text(link) == "Back to what you entered"


# --- who speaks JSON ---

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("headers", "json_wanted"),
    [
        ([], False),
        ([("accept", "*/*")], False),
        ([("accept", CHROME)], False),
        ([("accept", "text/html, application/json")], False),
        ([("accept", "application/json, text/html;q=0.9")], False),
        ([("accept", "text/event-stream")], False),
        ([("accept", "text/html"), ("accept", "application/json")], False),
        ([("accept", "application/json"), ("accept", "image/png")], True),
        ([("accept", "application/json")], True),
        ([("accept", "Application/JSON, */*;q=0.1")], True),
        ([("accept", "application/problem+json")], True),
        ([("content-type", "application/json")], True),
        ([("content-type", "Application/JSON ; charset=utf-8")], True),
        ([("content-type", "application/json"), ("accept", "text/html")], True),
        ([("content-type", "application/json-patch+json")], False),
        ([("content-type", "application/x-www-form-urlencoded")], False),
        ([("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")], True),
    ],
)
def test_json_is_for_whom_it_suits(headers: list[tuple[str, str]], json_wanted: bool) -> None:
    assert errors.wants_json(request(*headers)) is json_wanted
