"""Countries: their codes (ISO 3166-1 alpha-2, and XK for Kosovo) and their English names (CLDR)."""

from babel import Locale

from cityweb import names

UNKNOWN = "We don't know that country. Write its English name or its code, like France or FR."

# CLDR also names parts of countries, unions, and codes for unknown regions and for tests.
_NOT_COUNTRIES = frozenset(("AC", "CP", "CQ", "DG", "EA", "EU", "EZ", "IC", "QO", "TA", "UN", "XA", "XB", "ZZ"))
# CLDR has these names too, as short or variant ones, which Babel 2.19 leaves out.
_SHORT = {"CD": "DR Congo", "CG": "Congo", "HK": "Hong Kong", "MM": "Myanmar", "MO": "Macao", "PS": "Palestine"}
_OTHER = {
    "Burma": "MM",
    "Czech Republic": "CZ",
    "Democratic Republic of the Congo": "CD",
    "Great Britain": "GB",
    "Ivory Coast": "CI",
    "Republic of Korea": "KR",
    "Russian Federation": "RU",
    "Turkey": "TR",
    "UAE": "AE",
    "UK": "GB",
    "United States of America": "US",
    "USA": "US",
    "Viet Nam": "VN",
}
_NAMES: dict[str, str] = {**Locale("en").territories, **_SHORT}

# The keys that are no letters are regions, like 001.
NAMES = {
    code: _NAMES[code]
    for code in sorted(_NAMES, key=lambda code: names.bare(_NAMES[code]))
    if code.isalpha() and code not in _NOT_COUNTRIES
}
"""The name of each code, in alphabetical order of the names."""
_CODES = {names.bare(text): code for code, name in NAMES.items() for text in (code, name)}
_CODES |= {names.bare(text): code for text, code in _OTHER.items()}


def name_of(code: str) -> str:
    """The name of a country, or its code if the code has no name here."""
    return NAMES.get(code, code)


def parse(text: str) -> str:
    """The code for a code or an English name, whatever its case and accents. Raises ValueError with a message."""
    try:
        return _CODES[names.bare(text)]
    except KeyError:
        raise ValueError(UNKNOWN) from None
