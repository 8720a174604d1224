"""Reads a population as people write it: 37,400,068 or 13.96 million."""

import re
from fractions import Fraction

from cityweb.city import POPULATION_MAX

POPULATION_LENGTH_MAX = 40
"""Characters of an entered population."""

_MISSING = "Enter the population."
_NOT_UNDERSTOOD = "Write the number in full, like 13,960,000, or as 13.96 million."
_SHORTENED = "This number is shortened. Write it in full, like 13,960,000."
_FOOTNOTE = "Leave out the footnote after the number."
_TOO_LOW = "Enter a population of 0 or more."
_TOO_HIGH = f"Enter a population of {POPULATION_MAX:,} or less."

_SPACE = " \u00a0\u202f\u2009"
_SEPARATOR = f"[,.'’_٬{_SPACE}]"
_SEPARATORS = re.compile(_SEPARATOR)
# Spreadsheets and pandas write whole numbers with such zeros. Three zeros are a group.
_ZEROS = re.compile(r"\.00?\Z")
_EXPONENT = re.compile(r"\d([.,]\d+)?e\+?\d+")
_FOOTNOTE_MARK = re.compile(r"(?<=\d)\s*(\[[^]]*]|[*†‡¹²³])+\Z")
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


def parse_population(text: str) -> int:
    """The population in a text, like 37,400,068, 13.96 million or 5000000.0, in the digits of any one script.

    Raises ValueError with a message for the visitor.
    """
    text = text.strip().casefold()
    if not text:
        raise ValueError(_MISSING)
    number = _NUMBER.fullmatch(_ZEROS.sub("", text) if text.count(".") == 1 else text)
    if number is None or not (text.isascii() or _has_one_script(text)):
        if _EXPONENT.fullmatch(text):
            raise ValueError(_SHORTENED)
        raise ValueError(_FOOTNOTE if _FOOTNOTE_MARK.search(text[-POPULATION_LENGTH_MAX:]) else _NOT_UNDERSTOOD)
    if number["minus"]:
        raise ValueError(_TOO_LOW)
    if len(text) > POPULATION_LENGTH_MAX:
        raise ValueError(_TOO_HIGH)
    if number["whole"]:
        return _check_range(int(_SEPARATORS.sub("", number["whole"])))
    population = Fraction(number["decimal"].replace(",", ".")) * _UNITS[number["unit"][0]]
    if population.denominator > 1:
        raise ValueError(_NOT_UNDERSTOOD)
    return _check_range(int(population))


def _has_one_script(text: str) -> bool:
    """Whether all digits are of one script: each script has its own zero."""
    return len({ord(digit) - int(digit) for digit in text if digit.isdecimal()}) <= 1


def _check_range(population: int) -> int:
    if population < 0:
        raise ValueError(_TOO_LOW)
    if population > POPULATION_MAX:
        raise ValueError(_TOO_HIGH)
    return population


def check_population(value: object) -> int:
    """The population of a form or of JSON, a text or a whole number. Raises ValueError like `parse_population`."""
    if value is None:
        raise ValueError(_MISSING)
    if isinstance(value, str):
        return parse_population(value)
    # Not isinstance, because bool is a subclass of int.
    if type(value) is not int:
        raise ValueError(_NOT_UNDERSTOOD)
    return _check_range(value)
