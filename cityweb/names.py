"""City names: which names are the same, and which names are not allowed."""

import enum
import hashlib
import re
import unicodedata
from functools import lru_cache

import regex

KEY_BYTES = 2_000
"""In bytes of UTF-8. A B-tree row in PostgreSQL holds at most 2,704; 200 characters can fold to 14,000."""
RESERVED = frozenset(";=|@<>{}\\")
"""Characters used in formulas, markup and shells. No name in GeoNames contains any of them."""

# Other apostrophes, such as ʻ and ʼ, are letters in Unicode.
_APOSTROPHES = frozenset("'’‘‛`´′＇՚׳")
_DROPPED = "\u00ad\u200e\u200f"
# White_Space of UAX #44. In Python, \s also matches four control characters, which are rejected.
_SPACES = re.compile(r"[^\S\x1c-\x1f]+")

# Composed Latin without hidden characters: most names skip the slower patterns below.
_LATIN = re.compile("[ -~\u00a1-\u00ac\u00ae-\u02ff\u1e00-\u1eff‘’]*")
# Script extensions (scx), because the script of the tatweel is Common.
_CURSIVE = r"[\p{L}&&[\p{scx=Adlam}\p{scx=Arabic}\p{scx=Mongolian}\p{scx=Nko}\p{scx=Syriac}]]"
_UNREADABLE = regex.compile(
    rf"""
    [\p{{C}}\p{{Default_Ignorable_Code_Point}}\u2800\ufffd]         # In Unicode, the blank \u2800 is a symbol.
    (?<! \p{{ccc=Virama}} [\u200c\u200d]                            # RFC 5892, A.1
       | {_CURSIVE} [\p{{M}}\u200c\u200d]* \u200c (?= {_CURSIVE} )  # RFC 5892, A.2
       | [\p{{Lo}}&&\p{{Han}}] [\U000e0100-\U000e01ef]
       | [\p{{L}}&&\p{{Mongolian}}] [\u180b-\u180d\u180f]
    )
    | (?: \p{{M}} [\u200c\u200d]? ){{5}}                            # Burmese needs four: မြို့.
    """,
    regex.VERBOSE | regex.VERSION1,  # Only VERSION1 has && and --.
)
# Extended_Pictographic also has ❤, which many fonts show as an emoji, and ©, which they do not.
_EMOJI = regex.compile(r"[[\p{Emoji_Presentation}\p{Extended_Pictographic}\u20e3]--[©®™]]", regex.VERSION1)
_SCRIPTS = [regex.compile(rf"\p{{{script}}}") for script in ("Latin", "Greek", "Cyrillic")]
_PILE_OF_MARKS = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}] (?: \p{M} [\u200c\u200d]? ){3}", regex.VERBOSE)

# The accents of Latin, Greek and Cyrillic, the points of Hebrew and Arabic, ZWNJ and ZWJ.
_ACCENTS = re.compile("[\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u064b-\u065f\u0670\u200c\u200d]")
_LETTERS = str.maketrans("øłđħı", "oldhi")
# Apostrophes, dashes (category Pd) and minus signs that NFKC does not unify. A change requires a migration.
_VARIANTS = str.maketrans(
    dict.fromkeys("ʹʻʼʽʾʿꞌ‘’‛`′՚׳", "'")
    | dict.fromkeys("\u058a\u05be\u1400\u1806\u2010\u2012\u2013\u2014\u2015\u2212\u2e17\u2e1a\u2e3a\u2e3b", "-")
    | dict.fromkeys("\u2e40\u2e5d\u301c\u3030\u30a0\U00010d6e\U00010ead", "-")
)

DUPLICATE = "DUPLICATE:"
"""The prefix, before the id, of the key of a city whose name became the same as an earlier city's in a migration.

No input produces such a key, because case folding leaves no capital letters."""


class Rule(enum.StrEnum):
    """The rules for names, each with the message to a visitor whose name breaks it."""

    EMOJI = "City names can't include emoji."
    UNREADABLE = "City names can't include hidden or unreadable characters. Type the name instead of pasting it."
    FIRST_CHARACTER = "City names must start with a letter, a number or an apostrophe."
    NO_LETTER = "City names must include a letter or a number."
    RESERVED = "The characters ; = | @ < > { } \\ can't be part of a city name."
    WEB_ADDRESS = "City names can't include web addresses."
    MIXED_SCRIPTS = "City names can't mix Latin, Greek and Cyrillic letters in one word."
    MARKS = "City names can't have more than two accents on one letter."


@lru_cache(maxsize=8)  # `broken_rule`, `key` and `bare` of a name need the same result.
def normal(name: str) -> str:
    """The name as it is stored: NFC (UAX #15), with single spaces, without soft hyphens and direction marks."""
    for character in _DROPPED:
        name = name.replace(character, "")
    return _collapse_spaces(unicodedata.normalize("NFC", name))


def broken_rule(name: str, *, as_stored: bool = False) -> Rule | None:
    """The first rule that a normalised name breaks, or None.

    With `as_stored`, only the oldest rules count, since a stored name may break the newer ones.
    """
    is_latin = _LATIN.fullmatch(name)
    # These two are first: "must start with a letter" would be a confusing error for "\u200bParis" or an emoji.
    if not as_stored and not is_latin and _EMOJI.search(name):
        return Rule.EMOJI
    if not is_latin and _is_unreadable(name):
        return Rule.UNREADABLE
    begins_with_letter = name[:1].isalpha() or name[:1].isdecimal()
    if not (begins_with_letter or name[:1] in _APOSTROPHES):
        return Rule.FIRST_CHARACTER
    # A signal in a generator that is closed would be lost, so a load has one only for the few names that need it.
    if not (begins_with_letter or any(character.isalpha() or character.isdecimal() for character in name)):
        return Rule.NO_LETTER
    if as_stored:
        return None
    # Not after NFKC, which turns the sign in サン＝ジル (Saint-Gilles) into =.
    if not RESERVED.isdisjoint(name):
        return Rule.RESERVED
    if "://" in name or "www." in name.lower():
        return Rule.WEB_ADDRESS
    if is_latin:
        return None
    if _mixes_scripts(name):
        return Rule.MIXED_SCRIPTS
    if _PILE_OF_MARKS.search(name):
        return Rule.MARKS
    return None


def key(name: str) -> str:
    """The key of a name, the same for all its spellings: NFKC (UAX #15), case folded; at most `KEY_BYTES` long.

    Spaces are single, apostrophes `'`, dashes `-` without spaces around them; commas have a space only after them.
    """
    return _bounded(_fold(normal(name)))


def bare(name: str) -> str:
    """The key of a name without its accents, the same for `Zurich` and `Zürich`; at most `KEY_BYTES` long."""
    letters = _ACCENTS.sub("", unicodedata.normalize("NFKD", _fold(normal(name)))).translate(_LETTERS)
    return _bounded(_unify_variants(unicodedata.normalize("NFC", letters)))


def _collapse_spaces(text: str) -> str:
    return _SPACES.sub(" ", text).strip(" ")


def _is_unreadable(name: str) -> bool:
    # Python computes the key, and cannot fold characters that only the newer Unicode of `regex` has.
    return bool(_UNREADABLE.search(name)) or "Cn" in map(unicodedata.category, name)


def _mixes_scripts(name: str) -> bool:
    """Whether a word has letters of two scripts whose letters look alike (UTS #39)."""
    # A slash ends a word too, because bilingual places have names like Скопје/Shkup.
    return any(sum(bool(script.search(word)) for script in _SCRIPTS) > 1 for word in re.split("[ /]", name))


@lru_cache(maxsize=8)
def _fold(text: str) -> str:
    # NFKC would turn ´ into a space and an accent. The second NFKC is needed because case folding decomposes letters.
    composed = unicodedata.normalize("NFKC", text.replace("´", "'"))
    return _unify_variants(unicodedata.normalize("NFKC", composed.casefold()))


def _unify_variants(text: str) -> str:
    text = _collapse_spaces(text).translate(_VARIANTS).replace(" -", "-").replace("- ", "-")
    return text.replace(" ,", ",").replace(", ", ",").replace(",", ", ").strip(" ")


def _bounded(text: str) -> str:
    # Unchecked input needs a key too, and may contain a lone surrogate, which has no UTF-8 encoding.
    encoded = text.encode("utf-8", "surrogatepass")
    return text if len(encoded) <= KEY_BYTES else f"SHA256:{hashlib.sha256(encoded).hexdigest()}"
