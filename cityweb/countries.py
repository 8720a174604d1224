"""Countries: their codes (ISO 3166-1 alpha-2, and XK for Kosovo) and their English names (CLDR)."""

from babel import Locale

from cityweb import names

UNKNOWN = "We don't know that country. Write its English name or its code, like France or FR."

# CLDR also names codes that ISO 3166-1 reserves: parts of countries, unions, and locales for tests.
_RESERVED = frozenset(("AC", "CP", "CQ", "DG", "EA", "EU", "EZ", "IC", "QO", "TA", "UN", "XA", "XB", "ZZ"))
_TERRITORIES: dict[str, str] = {code: name for code, name in Locale("en").territories.items() if len(code) == len("FR")}
NAMES: dict[str, str] = {
    code: name
    for code, name in sorted(_TERRITORIES.items(), key=lambda item: names.bare(item[1]))
    if code not in _RESERVED
}
"""The name of each code, in alphabetical order of the names."""
_CODES = {names.bare(text): code for code, name in NAMES.items() for text in (code, name)}


def name_of(code: str) -> str:
    """The name of a country, or its code if the code has no name here."""
    return NAMES.get(code, code)


def parse(text: str) -> str:
    """The code for a code or an English name, whatever its case and accents. Raises ValueError with a message."""
    try:
        return _CODES[names.bare(text)]
    except KeyError:
        raise ValueError(UNKNOWN) from None
