"""When two names are one, and what may not be a name."""

import enum
import hashlib
import re
import unicodedata
from functools import lru_cache

import regex

KEY_BYTES = 2_000
"""UTF-8 bytes. A row of a B-tree in PostgreSQL holds at most 2,704, and 200 characters can fold out to 14,000."""
RESERVED = frozenset(";=|@<>{}\\")
"""Characters of formulas, markup and shells. None of the names in GeoNames has one."""

# The others, such as ʻ and ʼ, are letters to Unicode.
_APOSTROPHES = frozenset("'’‘‛`´′＇՚׳")
_DROPPED = "\u00ad\u200e\u200f"
# White_Space of UAX #44. Python counts four control characters too, and those are refused.
_SPACES = re.compile(r"[^\S\x1c-\x1f]+")

# Composed Latin, where nothing hides: most names need no closer look.
_LATIN = re.compile("[ -~\u00a1-\u00ac\u00ae-\u02ff\u1e00-\u1eff‘’]*")
# Script extensions (scx), because the tatweel has no script of its own.
_CURSIVE = r"[\p{L}&&[\p{scx=Adlam}\p{scx=Arabic}\p{scx=Mongolian}\p{scx=Nko}\p{scx=Syriac}]]"
_UNREADABLE = regex.compile(
    rf"""
    [\p{{C}}\p{{Default_Ignorable_Code_Point}}\u2800\ufffd]         # To Unicode, the blank \u2800 is a symbol.
    (?<! \p{{ccc=Virama}} [\u200c\u200d]                            # RFC 5892, A.1
       | {_CURSIVE} [\p{{M}}\u200c\u200d]* \u200c (?= {_CURSIVE} )  # RFC 5892, A.2
       | [\p{{Lo}}&&\p{{Han}}] [\U000e0100-\U000e01ef]
       | [\p{{L}}&&\p{{Mongolian}}] [\u180b-\u180d\u180f]
    )
    | (?: \p{{M}} [\u200c\u200d]? ){{5}}                            # Burmese needs four: မြို့.
    """,
    regex.VERBOSE | regex.VERSION1,  # && is of VERSION1.
)

# The accents of Latin, Greek and Cyrillic, the points of Hebrew and Arabic, and the joiners.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u200c\u200d]")
_LETTERS = str.maketrans("øłđħı", "oldhi")
# What NFKC leaves of the apostrophes, of the dashes (category Pd) and of the minus signs. A change needs a migration.
_VARIANTS = str.maketrans(
    dict.fromkeys("ʹʻʼʽʾʿꞌ‘’‛`′՚׳", "'")
    | dict.fromkeys("\u058a\u05be\u1400\u1806\u2010\u2012\u2013\u2014\u2015\u2212\u2e17\u2e1a\u2e3a\u2e3b", "-")
    | dict.fromkeys("\u2e40\u2e5d\u301c\u3030\u30a0\U00010d6e\U00010ead", "-")
)

DUPLICATE = "DUPLICATE:"
"""How the key begins, before the id, of a city that was stored before its name and an earlier one became the same.

No input makes such a key: case folding leaves no capital letter."""


class Flaw(enum.Enum):
    """Why a text is no name."""

    UNREADABLE = enum.auto()
    FIRST_CHARACTER = enum.auto()
    NO_LETTER = enum.auto()
    RESERVED = enum.auto()


NEWER_FLAWS = frozenset({Flaw.RESERVED})
"""What was a name once: it stays where it is stored."""


@lru_cache(maxsize=8)  # The check of a name, its key and its bare form share the work.
def normal(name: str) -> str:
    """The name as it is stored: NFC (UAX #15), single spaces, without soft hyphens and direction marks."""
    for character in _DROPPED:
        name = name.replace(character, "")
    return _single_spaced(unicodedata.normalize("NFC", name))


def flaw(name: str) -> Flaw | None:
    """What keeps a normalised text from being a name, if anything; one of `NEWER_FLAWS` only if no other does."""
    # First what cannot be seen: nobody understands that "\u200bParis" does not start with a letter.
    if not _readable(name):
        return Flaw.UNREADABLE
    if not (name[:1].isalpha() or name[:1].isdecimal() or name[:1] in _APOSTROPHES):
        return Flaw.FIRST_CHARACTER
    if not any(character.isalpha() or character.isdecimal() for character in name):
        return Flaw.NO_LETTER
    # Not after NFKC, which makes = of the sign in サン＝ジル (Saint-Gilles).
    if not RESERVED.isdisjoint(name):
        return Flaw.RESERVED
    return None


def key(name: str) -> str:
    """What two spellings of one name share: NFKC (UAX #15), case folded, single spaces; at most `KEY_BYTES` long.

    Apostrophes are `'`, dashes `-` without a space beside them; a space follows each comma, and none precedes it.
    """
    return _bounded(_folded(normal(name)))


def bare(name: str) -> str:
    """What names share that differ in accents or like a key only: `Zurich` and `Zürich`. Bounded as a key."""
    letters = _ACCENTS.sub("", unicodedata.normalize("NFKD", _folded(normal(name)))).translate(_LETTERS)
    return _bounded(_without_variants(unicodedata.normalize("NFC", letters)))


def _single_spaced(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" ")


def _readable(name: str) -> bool:
    if _LATIN.fullmatch(name):
        return True
    # Python makes the key, and cannot fold what only the newer Unicode of `regex` has.
    return not _UNREADABLE.search(name) and "Cn" not in map(unicodedata.category, name)


@lru_cache(maxsize=8)
def _folded(text: str) -> str:
    # NFKC would make the acute accent a space with an accent. One NFKC is not enough: case folding takes letters apart.
    composed = unicodedata.normalize("NFKC", text.replace("´", "'"))
    return _without_variants(unicodedata.normalize("NFKC", composed.casefold()))


def _without_variants(text: str) -> str:
    text = _single_spaced(text).translate(_VARIANTS).replace(" -", "-").replace("- ", "-")
    return text.replace(" ,", ",").replace(", ", ",").replace(",", ", ").strip(" ")


def _bounded(text: str) -> str:
    # A lone surrogate has no UTF-8, and has a key all the same.
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= KEY_BYTES else f"SHA256:{hashlib.sha256(encoded).hexdigest()}"
