"""Validates submitted cities."""

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated

from pydantic import Field, WithJsonSchema

from cityweb import countries, names
from cityweb.city import NAME_MAX, POPULATION_MAX
from cityweb.population import check_population

NAME_ENTERED_MAX = 1_000
"""Characters of an entered name: the time to normalise it grows with the square of its combining marks."""

_NAME_MISSING = "Enter a city name."
_NAME_NOT_TEXT = "Send the city name as text."
_NAME_TOO_LONG = f"City names can't be longer than {NAME_MAX:,} characters."
_COUNTRY_NOT_TEXT = "Send the country as text."
_PLACE_NOT_TEXT = "Send the place as text."
_PLACE_WITHOUT_LETTER = "Enter a region, a state or a country, like Texas."
_TRAP_FILLED = "Leave this field empty."
_NOTHING_SENT = "Send what changes: a name, a population or a country."
_REASON_MISSING = "Choose a reason."
REASONS = ("not a city", "duplicate", "offensive")
"""Why a visitor may remove a city, as the log of changes shows it."""
UNDO_REASON = "added by mistake"

_CODE = re.compile("[A-Z]{2}")


class UnreadableBody(ValueError):
    """A body is neither a form nor JSON, or has a field twice."""


class ShownValueMissing(ValueError):
    """A change came without a value that its author was shown; `field` is the missing one."""

    def __init__(self, field: str) -> None:
        super().__init__(field)
        self.field = field


class InvalidSubmission(ValueError):
    """A submission is invalid; `errors` has a message for each invalid field, in the order of the form."""

    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


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


def _check_place(name: str, value: object) -> str:
    """The name with a place, like "Paris, Texas"; the rules for names apply to the whole."""
    if value is None:
        return name
    if not isinstance(value, str):
        raise ValueError(_PLACE_NOT_TEXT)  # noqa: TRY004 (caught with the others)
    if len(value) > NAME_ENTERED_MAX:
        raise ValueError(_NAME_TOO_LONG)
    place = names.normal(value).strip(" ,")
    # The name may have the place already, if both were corrected.
    if not (name and place) or names.key(name).endswith(f", {names.key(place)}"):
        return name
    if not any(character.isalpha() for character in place):
        raise ValueError(_PLACE_WITHOUT_LETTER)
    return _check_name(f"{name}, {place}")


def _check_country(value: object, *, as_stored: bool = False) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(_COUNTRY_NOT_TEXT)  # noqa: TRY004 (caught with the others)
    # A load checks a million codes, most of which are written as they are stored.
    if value in countries.NAMES or (as_stored and _CODE.fullmatch(value)):
        return value
    text = names.normal(value[:NAME_ENTERED_MAX])
    return countries.parse(text) if text else ""


_POPULATION_SCHEMA = {
    "title": "Population",
    "description": "A whole number, or a text like 37,400,068 or 13.96 million.",
    "anyOf": [{"type": "integer", "minimum": 0, "maximum": POPULATION_MAX}, {"type": "string"}],
}

_COUNTRY_SCHEMA = {
    "title": "Country",
    "description": "An ISO 3166-1 code, like FR, or the English name of the country.",
    "type": ["string", "null"],
}


@dataclass(frozen=True)
class CitySubmission:
    """A valid city: a normalised name, a population within its limits, and the code of a country or an empty text."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_MAX)]
    population: Annotated[int, WithJsonSchema(_POPULATION_SCHEMA)]
    country: Annotated[str, WithJsonSchema(_COUNTRY_SCHEMA)] = ""


FIELDS = tuple(field.name for field in fields(CitySubmission))
"""What is entered for a city, in forms, JSON and files, and stored in columns of these names."""
REQUIRED = tuple(field.name for field in fields(CitySubmission) if field.default is MISSING)
ENTERED = (*FIELDS, "place")
"""The fields of forms and JSON: a place becomes a part of the name."""
SHOWN = tuple(f"old_{field}" for field in FIELDS)
"""The values that a visitor was shown, which come with a correction or a removal."""
READ = (*ENTERED, *SHOWN, "confirm", "reason")
"""All fields that are read; none may be sent twice."""


def check(values: Mapping[str, object], *, as_stored: bool = False) -> CitySubmission:
    """The submitted city; a missing field counts as empty. Raises InvalidSubmission if a field is invalid.

    With `as_stored`, the name may break newer rules, as a stored name may, and the country may be any two letters.
    """
    errors = {}
    name, population, country = "", 0, ""
    try:
        name = _check_name(values.get("name"), as_stored=as_stored)
    except ValueError as error:
        errors["name"] = str(error)
    try:
        name = _check_place(name, values.get("place"))
    except ValueError as error:
        errors["place"] = str(error)
    try:
        population = check_population(values.get("population"))
    except ValueError as error:
        errors["population"] = str(error)
    try:
        country = _check_country(values.get("country"), as_stored=as_stored)
    except ValueError as error:
        errors["country"] = str(error)
    errors |= _check_trap(values)
    if errors:
        raise InvalidSubmission(errors)
    return CitySubmission(name, population, country)


def check_correction(values: Mapping[str, object]) -> tuple[dict[str, object], dict[str, object]]:
    """The shown values that change, and what replaces them. Only a field that differs from what was shown is checked.

    Raises ShownValueMissing, or InvalidSubmission if a field is invalid.
    """
    old, new, errors = {}, {}, {}
    for field, check_value in _CHECKS.items():
        if field not in values:
            continue
        entered, shown = values[field], _shown(values, field)
        # The rules for names may be newer than a stored name.
        if entered is not None and _as_text(entered) == _as_text(shown):
            continue
        try:
            value = check_value(entered)
        except ValueError as error:
            errors[field] = str(error)
        else:
            if value != shown:
                old[field], new[field] = shown, value
    if values.keys().isdisjoint(_CHECKS):
        errors["name"] = _NOTHING_SENT
    errors |= _check_trap(values)
    if errors:
        raise InvalidSubmission(errors)
    return old, new


def check_removal(values: Mapping[str, object]) -> tuple[dict[str, object], str]:
    """The shown values of a city that is to be removed, and the reason. Raises as `check_correction`."""
    shown = {field: _shown(values, field) for field in FIELDS}
    reason = values.get("reason")
    if reason not in (*REASONS, UNDO_REASON):
        raise InvalidSubmission({"reason": _REASON_MISSING})
    return shown, str(reason)


def is_unlikely(population: int, shown: int | None, first: int | None) -> bool:
    """Whether a population is unlikely, given the shown one and that of number 1 of a full board.

    A population is unlikely if it is three times the shown one or a third of it, and differs from it by at least
    100,000, or if it is more than one and a half times that of number 1.
    """
    if first is not None and 2 * population > 3 * first:
        return True
    if shown is None or abs(population - shown) < _DIFFERENCE_MIN:
        return False
    return population >= 3 * shown or 3 * population <= shown


_DIFFERENCE_MIN = 100_000
_CHECKS: dict[str, Callable[[object], object]] = {
    "name": _check_name,
    "population": check_population,
    "country": _check_country,
}


def _shown(values: Mapping[str, object], field: str) -> object:
    """The value that was shown, in the form that is stored; a value that no city has, if it is invalid."""
    value = values.get(f"old_{field}")
    if value is None:
        raise ShownValueMissing(f"old_{field}")
    if field == "population":
        try:
            return check_population(value)
        except ValueError:
            return -1
    # PostgreSQL has neither NUL nor lone surrogates in texts.
    return str(value).replace("\0", "\ufffd").encode(errors="replace").decode()


def _as_text(value: object) -> str:
    return names.normal(str(value)[:NAME_ENTERED_MAX])


def _check_trap(values: Mapping[str, object]) -> dict[str, str]:
    # Visitors do not see this field, but bots fill in every field.
    return {"topic": _TRAP_FILLED} if str(values.get("topic") or "").strip() else {}


def is_name(text: str) -> bool:
    """Whether a city may have this name."""
    try:
        return bool(_check_name(text))
    except ValueError:
        return False
