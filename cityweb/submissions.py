"""Validates submitted cities."""

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from typing import Annotated, NoReturn

from pydantic import Field, WithJsonSchema

from cityweb import names
from cityweb.city import NAME_MAX, POPULATION_MAX

NAME_ENTERED_MAX = 1_000
"""Characters of an entered name: the time to normalise it grows with the square of its combining marks."""
POPULATION_LENGTH_MAX = 40
"""Characters of an entered population."""

_NAME_MISSING = "Enter a city name."
_NAME_NOT_TEXT = "Send the city name as text."
_NAME_TOO_LONG = f"City names can't be longer than {NAME_MAX:,} characters."
_POPULATION_MISSING = "Enter the population."
_POPULATION_NOT_UNDERSTOOD = "Write the number in full, like 13,960,000, or as 13.96 million."
_POPULATION_TOO_LOW = "Enter a population of 0 or more."
_POPULATION_TOO_HIGH = f"Enter a population of {POPULATION_MAX:,} or less."
_TRAP_FILLED = "Leave this field empty."

_SPACE = " \u00a0\u202f\u2009"
_SEPARATOR = f"[,.'’_٬{_SPACE}]"
_SEPARATORS = re.compile(_SEPARATOR)
_UNITS = {"k": 1_000, "m": 1_000_000}
# Groups of three digits, or, as in India, groups of two before the last three, all with the same separator. With a
# unit, a decimal number: after a comma not with three digits, because 1,396 million could be 1.396 or 1,396 million.
_NUMBER = re.compile(
    rf"""
    (?P<minus> [-−])?
    (?: (?P<whole> \d+
        |   \d{{1,3}} (?P<thousands> {_SEPARATOR}) \d{{3}} (?: (?P=thousands) \d{{3}} )*
        |   \d{{1,2}} (?P<lakhs> {_SEPARATOR}) (?: \d{{2}} (?P=lakhs) )+ \d{{3}} )
    |   (?P<decimal> \d+ (?: (?: \. | , (?! \d{{3}} \D ) ) \d+ )? ) [{_SPACE}]* (?P<unit> k | m | mio\.? | million )
    )
    """,
    re.VERBOSE,
)


class UnreadableBody(ValueError):
    """A body is neither a form nor JSON, or has a field twice."""


class InvalidSubmission(ValueError):
    """A submission is invalid; `errors` has a message for each invalid field, in the order of the form."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


def parse_population(text: str) -> int:
    """The population in a text, like 37,400,068 or 13.96 million, in the digits of any one script.

    Raises ValueError with a message for the visitor.
    """
    text = text.strip().casefold()
    if not text:
        raise ValueError(_POPULATION_MISSING)
    number = _NUMBER.fullmatch(text)
    zeros = {ord(digit) - int(digit) for digit in text if digit.isdecimal()}
    if number is None or len(zeros) > 1:
        raise ValueError(_POPULATION_NOT_UNDERSTOOD)
    if number["minus"]:
        raise ValueError(_POPULATION_TOO_LOW)
    if len(text) > POPULATION_LENGTH_MAX:
        raise ValueError(_POPULATION_TOO_HIGH)
    if number["whole"]:
        return _check_range(int(_SEPARATORS.sub("", number["whole"])))
    population = Fraction(number["decimal"].replace(",", ".")) * _UNITS[number["unit"][0]]
    if population.denominator > 1:
        raise ValueError(_POPULATION_NOT_UNDERSTOOD)
    return _check_range(int(population))


def _check_range(population: int) -> int:
    if population < 0:
        raise ValueError(_POPULATION_TOO_LOW)
    if population > POPULATION_MAX:
        raise ValueError(_POPULATION_TOO_HIGH)
    return population


def _check_population(value: object) -> int:
    if value is None:
        raise ValueError(_POPULATION_MISSING)
    if isinstance(value, str):
        return parse_population(value)
    # Not isinstance, because bool is a subclass of int.
    if type(value) is not int:
        raise ValueError(_POPULATION_NOT_UNDERSTOOD)
    return _check_range(value)


def _check_name(value: object, *, as_stored: bool = False) -> str:
    if value is None:
        raise ValueError(_NAME_MISSING)
    if not isinstance(value, str):
        raise ValueError(_NAME_NOT_TEXT)  # noqa: TRY004 (caught with the others)
    if len(value) > NAME_ENTERED_MAX:
        raise ValueError(_NAME_TOO_LONG)
    name = names.normal(value)
    if not name:
        raise ValueError(_NAME_MISSING)
    if len(name) > NAME_MAX:
        raise ValueError(_NAME_TOO_LONG)
    if rule := names.broken_rule(name, as_stored=as_stored):
        raise ValueError(rule)
    return name


_POPULATION_SCHEMA = {
    "title": "Population",
    "description": "A whole number, or a text like 37,400,068 or 13.96 million.",
    "anyOf": [{"type": "integer", "minimum": 0, "maximum": POPULATION_MAX}, {"type": "string"}],
}


@dataclass(frozen=True)
class CitySubmission:
    """A valid city: its name is normalised, and both values are within their limits."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_MAX)]
    population: Annotated[int, WithJsonSchema(_POPULATION_SCHEMA)]


FIELDS = tuple(field.name for field in fields(CitySubmission))
"""What is entered for a city, in forms, JSON and files, and stored in columns of these names."""
REQUIRED = tuple(field.name for field in fields(CitySubmission) if field.default is MISSING)


def check(values: Mapping[str, object], *, as_stored: bool = False) -> CitySubmission:
    """The submitted city; a missing field counts as empty. Raises InvalidSubmission if a field is invalid.

    With `as_stored`, the name may break newer rules, as a stored name may.
    """
    errors = {}
    name, population = "", 0
    try:
        name = _check_name(values.get("name"), as_stored=as_stored)
    except ValueError as error:
        errors["name"] = str(error)
    try:
        population = _check_population(values.get("population"))
    except ValueError as error:
        errors["population"] = str(error)
    # Visitors do not see this field, but bots fill in every field.
    if str(values.get("topic") or "").strip():
        errors["topic"] = _TRAP_FILLED
    if errors:
        raise InvalidSubmission(errors)
    return CitySubmission(name, population)


def from_json(body: bytes) -> dict[str, object]:
    """The members of a JSON object in UTF-8, or none if it is other JSON. Raises UnreadableBody."""
    try:
        value = json.loads(
            body.decode(),
            # Twenty digits are already out of range, and int() raises an error of its own for thousands of them.
            parse_int=lambda digits: int(digits[:20]),
            parse_constant=_reject_constant,
            object_pairs_hook=_reject_repetition,
        )
    except (ValueError, RecursionError) as error:
        raise UnreadableBody from error
    return value if isinstance(value, dict) else {}


def _reject_constant(_: str) -> NoReturn:
    raise UnreadableBody


def _reject_repetition(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise UnreadableBody
    return members
