"""A ready answer: in which encoding it goes out, under which ETag, and when it is not sent again."""

import gzip
import re
from dataclasses import dataclass

import pytest
from starlette.types import Message

from cityweb.web.prepared import PreparedResponse, accepts_gzip

BODY = b"<p>Tokyo</p>" * 100


def page(body: bytes = BODY) -> PreparedResponse:
    headers = {"cache-control": "public, max-age=0", "vary": "HX-Request"}
    return PreparedResponse(body, "text/html; charset=utf-8", headers)


@dataclass(frozen=True)
class Sent:
    status: int
    headers: dict[str, str]
    body: bytes


async def ask(answer: PreparedResponse, *headers: tuple[str, str], method: str = "GET") -> Sent:
    """What an answer sends to a request with these headers."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nobody reads the body of this request")

    raw = [(name.encode(), value.encode()) for name, value in headers]
    await answer({"type": "http", "method": method, "headers": raw}, receive, send)
    start, body = sent
    names = [name for name, _ in start["headers"]]
    assert len(names) == len(set(names))
    assert not body.get("more_body")
    return Sent(
        start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, bytes(body["body"])
    )


GZIP = ("accept-encoding", "gzip")
encodings = pytest.mark.parametrize("encoding", [(), (GZIP,)], ids=["plain", "gzip"])
Encoding = tuple[tuple[str, str], ...]


async def test_an_answer_is_sent_with_its_type_and_headers() -> None:
    sent = await ask(page())
    assert (sent.status, sent.body) == (200, BODY)
    assert sent.headers == {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "public, max-age=0",
        "vary": "Accept-Encoding, HX-Request",
        "etag": sent.headers["etag"],
        "content-length": str(len(BODY)),
    }


async def test_who_takes_gzip_gets_the_same_bytes_packed() -> None:
    sent = await ask(page(), GZIP)
    assert sent.headers["content-encoding"] == "gzip"
    assert len(sent.body) < len(BODY)
    assert gzip.decompress(sent.body) == BODY


@encodings
async def test_the_length_is_that_of_what_is_sent(encoding: Encoding) -> None:
    sent = await ask(page(), *encoding)
    assert sent.headers["content-length"] == str(len(sent.body))


async def test_an_answer_that_varies_with_nothing_else_varies_with_the_encoding() -> None:
    assert (await ask(PreparedResponse(b"{}", "application/json", {}))).headers["vary"] == "Accept-Encoding"


async def test_an_answer_can_be_sent_again_and_again() -> None:
    answer = page()
    assert await ask(answer) == await ask(answer)


async def test_an_empty_answer_is_an_answer() -> None:
    sent = await ask(page(b""))
    assert (sent.status, sent.headers["content-length"], sent.body) == (200, "0", b"")


# --- which encoding ---


@pytest.mark.parametrize(
    ("accepted", "gzipped"),
    [
        (b"gzip", True),
        (b"GZip", True),
        (b"x-gzip", True),
        (b"gzip, deflate, br, zstd", True),
        (b"br , gzip", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"gzip;q=1", True),
        (b"gzip;q=1.000", True),
        (b"gzip;q=0.001", True),
        (b"gzip ; q=0.5", True),
        (b"", False),
        (b"br", False),
        (b"identity", False),
        (b"*", False),
        (b"gzipped", False),
        (b"not-gzip", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.", False),
        (b"gzip;q=0.0", False),
        (b"gzip;q=0.00", False),
        (b"gzip;q=0.000", False),
        (b"gzip; q=0", False),
        (b"gzip ;\tQ=0.0 ", False),
        (b"br, gzip;q=0, deflate", False),
    ],
)
def test_gzip_is_taken_by_whom_it_suits(accepted: bytes, gzipped: bool) -> None:
    assert accepts_gzip(accepted) is gzipped


async def test_who_rejects_gzip_gets_the_plain_bytes() -> None:
    sent = await ask(page(), ("accept-encoding", "gzip;q=0"))
    assert "content-encoding" not in sent.headers
    assert sent.body == BODY


BROTLI = ("accept-encoding", "br")


@pytest.mark.parametrize("accepted", [(BROTLI, GZIP), (GZIP, BROTLI)])
async def test_an_encoding_may_stand_in_a_header_of_its_own(accepted: Encoding) -> None:
    assert "content-encoding" in (await ask(page(), *accepted)).headers


# --- the ETag ---


@encodings
async def test_an_etag_is_strong(encoding: Encoding) -> None:
    assert re.fullmatch('"[0-9a-z-]+"', (await ask(page(), *encoding)).headers["etag"])


async def test_each_encoding_has_its_own_etag() -> None:
    assert (await ask(page())).headers["etag"] != (await ask(page(), GZIP)).headers["etag"]


@encodings
async def test_equal_bytes_have_equal_etags_in_every_process(encoding: Encoding) -> None:
    assert await ask(page(), *encoding) == await ask(page(), *encoding)


async def test_packed_bytes_do_not_tell_when_they_were_packed() -> None:
    # RFC 1952, 2.3: the fourth to seventh byte are a time, or zero.
    assert (await ask(page(), GZIP)).body[4:8] == bytes(4)


@encodings
async def test_other_bytes_have_another_etag(encoding: Encoding) -> None:
    one, other = await ask(page(), *encoding), await ask(page(b"<p>Delhi</p>"), *encoding)
    assert one.headers["etag"] != other.headers["etag"]


# --- 304 ---


@encodings
async def test_who_has_the_bytes_gets_no_body_and_no_description_of_one(encoding: Encoding) -> None:
    etag = (await ask(page(), *encoding)).headers["etag"]
    sent = await ask(page(), *encoding, ("if-none-match", etag))
    assert sent == Sent(
        304, {"cache-control": "public, max-age=0", "vary": "Accept-Encoding, HX-Request", "etag": etag}, b""
    )


@pytest.mark.parametrize(
    "known", ["{etag}", "W/{etag}", " {etag} ", '"other", {etag}', '"other",W/{etag}', '{etag}, "other"', "*", " * "]
)
async def test_an_etag_is_found_however_it_is_asked_for(known: str) -> None:
    etag = (await ask(page())).headers["etag"]
    assert (await ask(page(), ("if-none-match", known.format(etag=etag)))).status == 304


@pytest.mark.parametrize("known", ["", '"other"', "{bare}", "w/{etag}", '"*"', '*, "other"', "W/", ",", '"', "\x00"])
async def test_who_has_other_bytes_gets_these(known: str) -> None:
    etag = (await ask(page())).headers["etag"]
    sent = await ask(page(), ("if-none-match", known.format(etag=etag, bare=etag.strip('"'))))
    assert (sent.status, sent.body) == (200, BODY)


@pytest.mark.parametrize(
    ("known", "status"), [(("{etag}", '"other"'), 304), (('"other"', "{etag}"), 304), (('"a"', '"b"'), 200)]
)
async def test_every_line_of_if_none_match_counts(known: tuple[str, str], status: int) -> None:
    etag = (await ask(page())).headers["etag"]
    lines = [("if-none-match", line.format(etag=etag)) for line in known]
    assert (await ask(page(), *lines)).status == status


async def test_the_etag_of_one_encoding_is_not_known_in_the_other() -> None:
    etag = (await ask(page())).headers["etag"]
    assert (await ask(page(), GZIP, ("if-none-match", etag))).status == 200


async def test_the_order_of_headers_does_not_matter() -> None:
    etag = (await ask(page(), GZIP)).headers["etag"]
    assert (await ask(page(), ("if-none-match", etag), GZIP)).status == 304


# --- HEAD ---


@encodings
async def test_head_has_the_headers_of_get_and_no_body(encoding: Encoding) -> None:
    get, head = await ask(page(), *encoding), await ask(page(), *encoding, method="HEAD")
    assert head == Sent(200, get.headers, b"")


async def test_head_is_answered_304_too() -> None:
    assert (await ask(page(), ("if-none-match", "*"), method="HEAD")).status == 304
