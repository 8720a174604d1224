"""What a visitor may submit, and what is wrong with it."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cityweb import submissions
from cityweb.city import NAME_MAX, POPULATION_MAX
from cityweb.names import NEWER_FLAWS, flaw
from cityweb.submissions import FIELDS, CitySubmission, InvalidSubmission, UnreadableBody
from cityweb.web import bodies

EMPTY = "Enter the population"
NOT_WHOLE = "Population must be a whole number, like 13,960,000"
TOO_LOW = "Population must be 0 or more"
TOO_HIGH = "Population must be 100,000,000 or fewer"

NOT_TEXT = "City name must be text"
TOO_LONG = "City name must be 200 characters or less"
NO_NAME = "Enter a city name"
FIRST_CHARACTER = "City name must start with a letter, a number or an apostrophe"
NO_LETTER = "City name must include a letter or a number"
UNREADABLE = "City name must not include hidden or unreadable characters. Type it instead of pasting it"
RESERVED = "City name must not include any of the characters ; = | @ < > { } \\"
FILLED = "Leave this field empty"
WORDS = {
    EMPTY,
    NOT_WHOLE,
    TOO_LOW,
    TOO_HIGH,
    NOT_TEXT,
    TOO_LONG,
    NO_NAME,
    FIRST_CHARACTER,
    NO_LETTER,
    UNREADABLE,
    RESERVED,
    FILLED,
}

ACCEPTED = {
    "37400068": 37_400_068,
    "37,400,068": 37_400_068,
    "37 400 068": 37_400_068,
    "37\u00a0400\u00a0068": 37_400_068,
    "37\u202f400\u202f068": 37_400_068,
    "37\u2009400\u2009068": 37_400_068,
    "37.400.068": 37_400_068,
    "37'400'068": 37_400_068,
    "37’400’068": 37_400_068,
    "37_400_068": 37_400_068,
    "1,24,78,447": 12_478_447,
    "12 34 567": 1_234_567,
    "1.500": 1_500,
    "0": 0,
    "007": 7,
    " 7 ": 7,
    "\u00a07\t\n": 7,
    "100,000,000": 100_000_000,
    "10,00,00,000": 100_000_000,
    "100000000": 100_000_000,
    "0000000000000000000000000000000000000007": 7,
}

REFUSED = {
    "": EMPTY,
    " \u00a0\n": EMPTY,
    "1.5": NOT_WHOLE,
    "1,5": NOT_WHOLE,
    "1e6": NOT_WHOLE,
    "12x": NOT_WHOLE,
    "1,2345": NOT_WHOLE,
    "1.000,000": NOT_WHOLE,
    "1,000 000": NOT_WHOLE,
    "1,24 78,447": NOT_WHOLE,
    "12,34": NOT_WHOLE,
    "123,45,678": NOT_WHOLE,
    "1234,567": NOT_WHOLE,
    ",123": NOT_WHOLE,
    "1,": NOT_WHOLE,
    "1,,000": NOT_WHOLE,
    "1  000": NOT_WHOLE,
    "1\n000": NOT_WHOLE,
    "1-000": NOT_WHOLE,
    "+5": NOT_WHOLE,
    "--5": NOT_WHOLE,
    "-": NOT_WHOLE,
    "-1.5": NOT_WHOLE,
    "0x10": NOT_WHOLE,
    "1_0": NOT_WHOLE,
    "²": NOT_WHOLE,
    "½": NOT_WHOLE,
    "１２": NOT_WHOLE,
    "١٢": NOT_WHOLE,
    "٣": NOT_WHOLE,
    "1\x00": NOT_WHOLE,
    "\ud800": NOT_WHOLE,
    "NaN": NOT_WHOLE,
    "Infinity": NOT_WHOLE,
    "13 million": NOT_WHOLE,
    "-3": TOO_LOW,
    "−1": TOO_LOW,
    "-1,000": TOO_LOW,
    "-100000001": TOO_LOW,
    "100,000,001": TOO_HIGH,
    "100000001": TOO_HIGH,
    str(2**63): TOO_HIGH,
    str(10**40): TOO_HIGH,
    4_301 * "9": TOO_HIGH,
    1_000 * "1,": NOT_WHOLE,
}

separators = st.sampled_from(",.'’_ \u00a0\u202f\u2009")
populations = st.integers(0, POPULATION_MAX)


texts = st.text(
    st.characters(exclude_categories=[]) | st.sampled_from("ab'0123456789,.-\u0301\u200d\ud800"), max_size=20
)
short = st.text(max_size=10)
anything = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.lists(short, max_size=2)
names = st.from_regex(
    r"[A-Za-zÀ-ÖØ-öø-ɏЀ-я东京東ぁ-んㄱ-ㅎ가-힣0-9'’][A-Za-zÀ-ɏЀ-я \u00a0'().,/-]{0,30}[a-z][ \n]?", fullmatch=True
)


def refusal_of(values: Mapping[str, object]) -> dict[str, str]:
    with pytest.raises(InvalidSubmission) as refused:
        submissions.check(values)
    return refused.value.errors


@pytest.mark.parametrize(("text", "population"), ACCEPTED.items())
def test_a_population_may_be_grouped_as_people_paste_it(text: str, population: int) -> None:
    assert submissions.parse_population(text) == population


@pytest.mark.parametrize(("text", "words"), REFUSED.items(), ids=[ascii(text[:20]) for text in REFUSED])
def test_a_text_that_is_no_population_is_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}$"):
        submissions.parse_population(text)


@given(populations, separators)
def test_a_population_in_threes_is_read_as_it_was_printed(population: int, separator: str) -> None:
    assert submissions.parse_population(f"{population:,}".replace(",", separator)) == population


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 999), separators)
def test_a_population_in_lakhs_is_read_as_it_was_printed(lakhs: int, thousands: int, ones: int, separator: str) -> None:
    typed = f"{lakhs}{separator}{thousands:02}{separator}{ones:03}"
    assert submissions.parse_population(typed) == lakhs * 100_000 + thousands * 1_000 + ones


grouped = st.one_of(
    st.text("0123456789,.'’_ \u00a0\u202f\u2009", max_size=14),
    st.text("0123456789 ,", max_size=9),
    st.lists(st.from_regex("[0-9]{2,3}", fullmatch=True), min_size=1, max_size=4).flatmap(
        lambda groups: separators.map(lambda separator: separator.join(groups))
    ),
    st.text(max_size=5).map(lambda text: f"1{text}000"),
)


@given(grouped)
def test_an_accepted_number_prints_back_as_it_was_typed_but_for_its_grouping(typed: str) -> None:
    try:
        population = submissions.parse_population(typed)
    except ValueError:
        return
    digits = "".join(character for character in typed if character in "0123456789")
    assert str(population) == (digits.lstrip("0") or "0")
    assert {*typed.strip()} - {*"0123456789"} <= {*",.'’_ \u00a0\u202f\u2009"}
    assert submissions.parse_population(f"{population:,}") == population


@given(st.integers(min_value=POPULATION_MAX + 1))
def test_a_number_over_the_limit_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match=f"^{TOO_HIGH}$"):
        submissions.parse_population(f"{number:,}")


def test_a_submitted_city_has_a_name_and_a_population() -> None:
    city = submissions.check({"name": "Ōsaka", "population": "2,753,862"})
    assert city == CitySubmission("Ōsaka", 2_753_862)


def test_every_field_is_checked() -> None:
    with pytest.raises(InvalidSubmission) as refused:
        submissions.check({field: {} for field in FIELDS})
    assert tuple(refused.value.errors) == FIELDS


def test_a_submitted_name_is_normalised() -> None:
    assert submissions.check({"name": " Zu\u0308rich\n", "population": "1"}).name == "Zürich"


def test_a_population_may_be_a_number() -> None:
    assert submissions.check({"name": "Ōsaka", "population": 2_753_862}).population == 2_753_862


def test_what_nobody_asked_for_is_ignored() -> None:
    assert submissions.check({"name": "Y", "population": "9", "name[$gt]": "1", "id": 7}) == CitySubmission("Y", 9)


@pytest.mark.parametrize("website", [None, "", " \t"])
def test_an_empty_trap_is_no_fault(website: str | None) -> None:
    assert submissions.check({"name": "Y", "population": "9", "website": website}).name == "Y"


@pytest.mark.parametrize(
    "name", ["Paris" + 995 * "\u00ad", 995 * " " + "Paris", "Pari" + 995 * "\u200e" + "s"], ids=ascii
)
def test_a_name_of_1000_characters_is_normalised_before_it_is_measured(name: str) -> None:
    assert submissions.check({"name": name, "population": "1"}).name == "Paris"


@given(st.integers(1, 5_000), st.sampled_from("a \u00ad\u200e\u0301\u0316\ufdfa"))
def test_a_name_of_more_than_1000_characters_is_too_long_whatever_it_is_made_of(more: int, character: str) -> None:
    assert refusal_of({"name": "a" + (999 + more) * character, "population": "1"}) == {"name": TOO_LONG}


@pytest.mark.parametrize("name", ["a" * NAME_MAX, " " + NAME_MAX * "a" + " ", NAME_MAX * "u\u0308", NAME_MAX * "𠮷"])
def test_a_name_may_have_as_many_characters_as_the_limit_says(name: str) -> None:
    assert len(submissions.check({"name": name, "population": "1"}).name) == NAME_MAX


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, NO_NAME),
        ("", NO_NAME),
        (" \u00a0\u200e\n", NO_NAME),
        (7, NOT_TEXT),
        (True, NOT_TEXT),
        (["Paris"], NOT_TEXT),
        ({"$gt": 1}, NOT_TEXT),
        (201 * "a", TOO_LONG),
        (201 * "-", TOO_LONG),
        ("Paris" + 996 * "\u00ad", TOO_LONG),
        (1_001 * " ", TOO_LONG),
        ("=cmd()", FIRST_CHARACTER),
        ("---", FIRST_CHARACTER),
        ("'!", NO_LETTER),
        ("Par\x00is", UNREADABLE),
        ("\ud800", UNREADABLE),
        ("Paris\u202e", UNREADABLE),
        ("Paris<b>", RESERVED),
        ("Ab;=HYPERLINK(1);x", RESERVED),
        ("Paris;\u202e", UNREADABLE),
    ],
)
def test_a_refused_name_is_answered_in_our_words(name: object, words: str) -> None:
    assert refusal_of({"name": name, "population": "1"}) == {"name": words}


@pytest.mark.parametrize(
    ("population", "words"),
    [
        (None, EMPTY),
        ("", EMPTY),
        (True, NOT_WHOLE),
        (False, NOT_WHOLE),
        (1.0, NOT_WHOLE),
        (1.5, NOT_WHOLE),
        (float("inf"), NOT_WHOLE),
        ([7], NOT_WHOLE),
        ({}, NOT_WHOLE),
        ("1.5", NOT_WHOLE),
        (-1, TOO_LOW),
        (POPULATION_MAX + 1, TOO_HIGH),
        (2**63, TOO_HIGH),
    ],
)
def test_a_refused_population_is_answered_in_our_words(population: object, words: str) -> None:
    assert refusal_of({"name": "Y", "population": population}) == {"population": words}


@pytest.mark.parametrize("website", ["https://example.com", 7, ["x"]])
def test_a_filled_trap_asks_to_leave_it_empty(website: object) -> None:
    assert refusal_of({"name": "Y", "population": "9", "website": website}) == {"website": FILLED}


def test_a_missing_field_is_an_empty_one() -> None:
    assert refusal_of({}) == {"name": NO_NAME, "population": EMPTY}


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_form() -> None:
    wrong = refusal_of({"website": "x", "population": "many", "name": "---"})
    assert list(wrong.items()) == [
        ("name", FIRST_CHARACTER),
        ("population", NOT_WHOLE),
        ("website", FILLED),
    ]


@given(names, st.integers(0, POPULATION_MAX))
def test_what_was_accepted_is_accepted_again_unchanged(name: str, population: int) -> None:
    city = submissions.check({"name": name, "population": population})
    assert submissions.check({"name": city.name, "population": f"{city.population:,}"}) == city


@given(anything | st.text("ab;=<\u0301 '-", max_size=5), st.sampled_from([1, "x"]))
def test_a_stored_name_may_break_newer_rules_and_no_other(name: object, population: object) -> None:
    city = {"name": name, "population": population}
    kept, errors = None, {}
    try:
        kept = submissions.check(city, as_stored=True)
    except InvalidSubmission as refused:
        errors = refused.errors
    assert NEWER_FLAWS.isdisjoint(errors.values())
    if kept is None:
        assert errors.items() <= refusal_of(city).items()
    elif flaw(kept.name):
        assert refusal_of(city) == {"name": flaw(kept.name)}
    else:
        assert submissions.check(city) == kept


@given(anything, anything)
def test_whatever_is_sent_only_our_words_answer(name: object, population: object) -> None:
    assert set(refusal_of({"name": name, "population": population, "website": "x"}).values()) <= WORDS


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"name=Z%C3%BCrich&population=1%2C000&website=", {"name": "Zürich", "population": "1,000", "website": ""}),
        ("name=Zürich&population=1 000".encode(), {"name": "Zürich", "population": "1 000"}),
        (b"name=New+York", {"name": "New York"}),
        (b"name", {"name": ""}),
        (b"name=%", {"name": "%"}),
        (b"name=%00", {"name": "\x00"}),
        (b"name[$gt]=1", {"name[$gt]": "1"}),
        (b"x=1&x=2", {"x": "2"}),
        (b"", {}),
        (b"&".join([b"x=1"] * 8), {"x": "1"}),
    ],
)
def test_a_form_is_read_as_utf8(body: bytes, fields: dict[str, str]) -> None:
    assert bodies.from_form(body) == fields


@pytest.mark.parametrize(
    "body",
    [
        b"name=%ff%fe",
        b"name=%ED%A0%80",
        b"name=\xff",
        b"name=Z\xfcrich",
        b"name=a&name=b",
        b"name=a&name=a",
        b"name=a&population=1&population=2",
        b"&".join([b"x=1"] * 9),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each of these bodies raises another kind)
        bodies.from_form(body)


@given(st.dictionaries(short, short, max_size=8))
def test_a_form_is_read_as_it_was_written(fields: dict[str, str]) -> None:
    assert bodies.from_form(urlencode(fields).encode()) == fields


@pytest.mark.parametrize(
    ("body", "members"),
    [
        ('{"name": "Zürich", "population": 1000}'.encode(), {"name": "Zürich", "population": 1_000}),
        (b'{"name": "Z\\u00fcrich"}', {"name": "Zürich"}),
        (b'{"name": "\\ud800"}', {"name": "\ud800"}),
        (b'{"population": 1e400}', {"population": float("inf")}),
        (b'{"population": 1.5}', {"population": 1.5}),
        (b'{"population": true}', {"population": True}),
        (b'{"population": -3}', {"population": -3}),
        (b'{"population": ' + 5_000 * b"9" + b"}", {"population": 10**20 - 1}),
        (b'{"population": -' + 5_000 * b"9" + b"}", {"population": 1 - 10**19}),
        (b" {} ", {}),
        (b"null", {}),
        (b"[1]", {}),
        (b'"name"', {}),
        (b"7", {}),
    ],
)
def test_json_is_read_as_utf8_and_without_an_object_there_are_no_members(
    body: bytes, members: dict[str, object]
) -> None:
    assert submissions.from_json(body) == members


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xef\xbb\xbf{}",
        b'{"name": "\xff"}',
        b'{"name": "\xed\xa0\x80"}',
        '{"name": "a"}'.encode("utf-16"),
        b'{"name": "a\nb"}',
        8_000 * b"[",
        b'{"population": NaN}',
        b'{"population": Infinity}',
        b'{"population": -Infinity}',
        b'{"name": "a", "name": "a"}',
        b'{"name": {"a": 1, "a": 2}}',
        b"{} {}",
        b"name=a",
    ],
    ids=lambda body: ascii(body[:30]),
)
def test_json_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadableBody):
        submissions.from_json(body)


@pytest.mark.parametrize("body", [b'{"population": 1e400}', b'{"population": 1.5}', b'{"population": true}'])
def test_json_that_gives_no_whole_number_is_refused(body: bytes) -> None:
    assert refusal_of(submissions.from_json(body))["population"] == NOT_WHOLE


@given(st.dictionaries(short, short | st.booleans() | st.integers(-(10**18), 10**18)))
def test_json_is_read_as_it_was_written(members: dict[str, object]) -> None:
    assert submissions.from_json(json.dumps(members).encode()) == members


@pytest.mark.parametrize("read", [bodies.from_form, submissions.from_json])
@given(body=st.binary())
def test_any_bytes_are_read_or_unreadable(read: Callable[[bytes], Mapping[str, object]], body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(read(body), dict)
