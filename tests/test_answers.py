"""Complete answers: encodings, ETags, 304, HEAD."""

import gzip

import httpx
import pytest

from cityweb.answers import Answer, takes_gzip

BODY = b"<p>Tokyo</p>" * 50


def client(answer: Answer) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(answer), base_url="http://testserver")


ANSWER = Answer(BODY, "text/html; charset=utf-8", {"cache-control": "public", "vary": "HX-Request"})


async def get(method: str = "GET", **headers: str) -> httpx.Response:
    async with client(ANSWER) as visitor:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await visitor.request(method, "/", headers={"accept-encoding": "identity", **names})


async def test_an_answer_is_complete() -> None:
    answer = await get()
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["cache-control"] == "public"
    assert answer.headers["vary"] == "Accept-Encoding, HX-Request"
    assert answer.headers["etag"].startswith('"')


async def test_who_takes_gzip_gets_it() -> None:
    answer = await get(accept_encoding="br, gzip")
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) == len(gzip.compress(BODY, 9, mtime=0)) < len(BODY)
    assert answer.content == BODY


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        (b"gzip", True),
        (b"GZIP;q=0.5", True),
        (b"br, x-gzip", True),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000, br", False),
        (b"br", False),
        (b"", False),
    ],
)
def test_accept_encoding(header: bytes, takes: bool) -> None:
    assert takes_gzip(header) is takes


async def test_each_encoding_has_an_etag_of_its_own() -> None:
    assert (await get()).headers["etag"] != (await get(accept_encoding="gzip")).headers["etag"]


def test_equal_bytes_have_equal_etags_in_every_process() -> None:
    assert Answer(BODY, "text/html", {}).plain.etag == Answer(BODY, "text/html", {}).plain.etag
    assert Answer(BODY, "text/html", {}).plain.etag != Answer(BODY + b" ", "text/html", {}).plain.etag


@pytest.mark.parametrize("known", ["{}", "W/{}", '"other", {}', "*"])
async def test_who_has_the_bytes_gets_no_body(known: str) -> None:
    etag = (await get()).headers["etag"]
    answer = await get(if_none_match=known.format(etag))
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == etag
    assert answer.headers["vary"] == "Accept-Encoding, HX-Request"
    assert answer.headers["cache-control"] == "public"
    assert "content-type" not in answer.headers


async def test_who_has_other_bytes_gets_these() -> None:
    assert (await get(if_none_match='"other"')).content == BODY


async def test_who_has_the_other_encoding_gets_this_one() -> None:
    packed = (await get(accept_encoding="gzip")).headers["etag"]
    assert (await get(if_none_match=packed)).status_code == 200


async def test_head_has_the_headers_and_no_body() -> None:
    head = await get("HEAD")
    assert head.content == b""
    assert head.headers == (await get()).headers
