"""Reads the body of a request: the fields of a city or of its change, in one of three formats."""

from collections.abc import AsyncGenerator, Iterable, Mapping
from urllib.parse import parse_qsl

from python_multipart.multipart import parse_options_header
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from cityweb import strict_json
from cityweb.submissions import READ, UnreadableBody
from cityweb.web import errors
from cityweb.web.errors import Rejection
from cityweb.web.middleware import BODY_BYTES
from cityweb.web.state import State

FIELDS_MAX = 8
"""The maximum number of fields in a form; ours have at most that many."""
PART_BYTES = 4_096
"""The longest field of a multipart form, in bytes."""


async def read_fields(request: Request[State]) -> Mapping[str, object]:
    """The fields of a body: JSON, a URL-encoded form or a multipart form. Raises Rejection (400, 413, 415)."""
    if any(coding.lower() not in {"", "identity"} for coding in request.headers.getlist("content-encoding")):
        raise Rejection(415, headers={"accept-encoding": "identity"})  # RFC 9110, 15.5.16
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if options.get(b"charset", b"utf-8").lower() not in {b"utf-8", b"utf8"}:
        raise Rejection(415)
    try:
        match kind:
            case b"application/json":
                return strict_json.parse(await _read_body(request))
            case b"application/x-www-form-urlencoded":
                return from_form(await _read_body(request))
            case b"multipart/form-data":
                return from_pairs(await _read_parts(request))
    except (ValueError, MultiPartException):
        raise Rejection(400, errors.UNREADABLE_ADD) from None
    raise Rejection(415)


async def _read_body(request: Request[State]) -> bytes:
    """The whole body. Raises Rejection (413) if it is longer than BODY_BYTES."""
    announced = request.headers.get("content-length", "0")
    body = b""
    if announced.isdecimal() and int(announced[:20]) <= BODY_BYTES:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES:
                raise Rejection(413)
        return body
    raise Rejection(413)


async def _read_parts(request: Request[State]) -> list[tuple[str, str]]:
    body = await _read_body(request)
    # Starlette decodes a part that is not UTF-8 as Latin-1; this raises UnicodeDecodeError instead.
    body.decode()

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=0, max_fields=FIELDS_MAX, max_part_size=PART_BYTES)
    return [(field, str(text)) for field, text in (await parser.parse()).multi_items()]


def from_form(body: bytes) -> dict[str, str]:
    """The fields of a URL-encoded form in UTF-8. Raises ValueError if it has more than FIELDS_MAX, or one twice."""
    return from_pairs(parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MAX))


def from_pairs(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The fields of a parsed form. Raises UnreadableBody if it has one of `READ` twice."""
    fields: dict[str, str] = {}
    for name, text in pairs:
        if name in fields and name in READ:
            raise UnreadableBody
        fields[name] = text
    return fields
