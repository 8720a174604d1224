"""Reads JSON objects strictly: a member that is there twice or a number that is none makes them unreadable."""

import json
from typing import NoReturn

from cityweb.submissions import UnreadableBody


def parse(body: bytes) -> dict[str, object]:
    """The members of a JSON object in UTF-8, or none if it is other JSON. Raises UnreadableBody."""
    try:
        value = _DECODER.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise UnreadableBody from error
    return value if isinstance(value, dict) else {}


def object_at(text: str, start: int) -> tuple[dict[str, object] | None, int]:
    """The members of the JSON object at a position, or None if it is unreadable or other JSON, and where it ends.

    Raises JSONDecodeError if there is no whole JSON value.
    """
    try:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except UnreadableBody:
            value, end = None, json.JSONDecoder(parse_int=str).raw_decode(text, start)[1]
    except RecursionError as error:
        raise json.JSONDecodeError("too deep", text, start) from error
    return value if isinstance(value, dict) else None, end


def _parse_float(text: str) -> int | float:
    """A whole number for 37400068.0, as pandas writes it; otherwise a float, which is no valid population."""
    whole, _, decimals = text.partition(".")
    return int(whole[:20]) if decimals in {"0", "00"} else float(text)


def _reject_constant(_: str) -> NoReturn:
    raise UnreadableBody


def _reject_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise UnreadableBody
    return members


_DECODER = json.JSONDecoder(
    # Twenty digits are already out of range, and int() raises an error of its own for thousands of them.
    parse_int=lambda digits: int(digits[:20]),
    parse_float=_parse_float,
    parse_constant=_reject_constant,
    object_pairs_hook=_reject_repetition,
)
