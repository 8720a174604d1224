"""What every refusal says, to people and to programs."""

import re

import pytest

from cityweb import errors
from cityweb.errors import Refusal
from tests.pages import one, parse, text

STATUSES = (400, 403, 404, 405, 413, 415, 429, 431, 500, 503)
UNKIND = re.compile(r"\b(please|sorry|valid|invalid|required|forbidden|oops)\b", re.IGNORECASE)


def scope(**headers: str) -> dict[str, object]:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"headers": pairs, "state": {"request_id": "the-id"}}


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("status", STATUSES)
async def test_a_page_says_what_happened_and_whether_anything_was_saved(status: int) -> None:
    answer = errors.answer(scope(), Refusal(status, retry_seconds=7))
    page = parse(bytes(answer.body).decode())
    said = text(one(page, "#problem-text"))
    assert answer.status_code == status
    assert "saved" in said
    assert "{" not in said
    assert ("the-id" in said) is (status == 500)
    assert not UNKIND.search(text(one(page, "main")))
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["vary"] == "HX-Request, HX-Request-Type"


@pytest.mark.parametrize("status", STATUSES)
def test_a_problem_document_says_the_same(status: int) -> None:
    refusal = Refusal(status, retry_seconds=7)
    answer = errors.answer(scope(accept="application/json"), refusal)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "7"
    assert refusal.text in bytes(answer.body).decode()


def test_an_unusual_status_has_a_sentence_too() -> None:
    assert Refusal(418).text == errors.SENTENCES[400]


@pytest.mark.parametrize(
    ("headers", "json"),
    [
        ({}, False),
        ({"accept": "*/*"}, False),
        ({"accept": "text/html,application/json"}, False),
        ({"accept": "application/json"}, True),
        ({"accept": "application/problem+json"}, True),
        ({"content_type": "application/json; charset=utf-8", "accept": "text/html"}, True),
        ({"content_type": "application/x-www-form-urlencoded", "accept": "*/*"}, False),
    ],
)
def test_json_is_for_who_speaks_it(headers: dict[str, str], json: bool) -> None:
    assert errors.wants_json(scope(**headers)) is json
