"""P9: the pages behind the board, their paths here, at the ceiling and at Datasette, and their speed."""

import csv
import math
import random
import re
import sqlite3
import statistics
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import asyncpg

from benchmarks import wrk

HERE = Path(__file__).parent
CLIENTS = 8
ROUNDS, SECONDS = 3, 1
RATIO_MIN, MILLISECONDS_MAX = 0.5, 25
SAMPLE = 1_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FREQUENT = """
SELECT word FROM cities, string_to_table(name_bare, ' ') AS word WHERE word ~ '^[a-z]{4,}$'
GROUP BY word HAVING count(*) BETWEEN 200 AND 500 ORDER BY md5(word) LIMIT 100
"""
OF_OURS = "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
STATISTICS = {
    "straight after `load`": (),
    "after ANALYZE": ("ANALYZE",),
    "statistics of an empty table": (
        f"DELETE FROM pg_statistic WHERE starelid IN {OF_OURS}",
        f"UPDATE pg_class SET relpages = 0, reltuples = 0, relallvisible = 0 WHERE oid IN {OF_OURS}",
    ),
}
"""The states of the planner's statistics, and the statements for each. The visibility map is as `load` leaves it."""

SQLITE = """
CREATE TABLE cities (id INTEGER PRIMARY KEY, name TEXT, population INTEGER);
CREATE INDEX by_population ON cities (population);
CREATE VIRTUAL TABLE cities_fts USING fts5 (
  name, content='cities', content_rowid='id', tokenize='unicode61 remove_diacritics 2', prefix='1 2 3 4'
);
"""
# Two of twenty changes add and remove a city. The others correct populations, from what the change before them left,
# and lead to what is stored; one in twenty is a revert. Bigger cities have more changes: of 1,000,000, the biggest
# has 30,000, the second 6,000, and 7,000 cities have ten or more.
FILL_CHANGES = """
INSERT INTO changes (id, at, kind, city_id, old_name, old_population, old_country, new_name, new_population,
  new_country, created_at, reverts, reason, network)
OVERRIDING SYSTEM VALUE
WITH chosen AS MATERIALIZED (
  SELECT n, ceil(power(random(), 4) * (SELECT count(*) FROM cities)) AS size FROM generate_series(1, $1::int) AS n
), sizes AS (
  SELECT id, population, row_number() OVER (ORDER BY population DESC, id) AS size FROM cities
), corrected AS (
  SELECT n, id, population + (count(*) OVER of_the_city - row_number() OVER in_order)::int AS population,
    CASE WHEN n % 10 = 5 THEN lag(n) OVER in_order END AS reverts
  FROM chosen JOIN sizes USING (size) WHERE n % 20 BETWEEN 1 AND 18
  WINDOW of_the_city AS (PARTITION BY id), in_order AS (PARTITION BY id ORDER BY n)
), added AS (
  SELECT n, id, 'Town ' || id AS name, n % 20 = 0 AS is_removal
  FROM generate_series(1, $1::int) AS n, LATERAL (SELECT (SELECT max(id) FROM cities) + 1 + (n - 1) / 20 AS id) AS gone
  WHERE n % 20 IN (0, 19)
)
SELECT first + n, now() - ($1::int - n) * interval '30 seconds', kind, city_id, old_name, old_population, old_country,
  new_name, new_population, new_country, now() - interval '1 year', first + reverts, reason,
  decode(md5((n % 10007)::text), 'hex')
FROM (
  SELECT n, 'correct' AS kind, id AS city_id, NULL AS old_name, population + 1 AS old_population, NULL AS old_country,
    NULL AS new_name, population AS new_population, NULL AS new_country, reverts, NULL AS reason
  FROM corrected
  UNION ALL
  SELECT n, 'add', id, NULL, NULL, NULL, name, id % 1000, '', NULL, NULL FROM added WHERE NOT is_removal
  UNION ALL
  SELECT n, 'remove', id, name, id % 1000, '', NULL, NULL, NULL, NULL, 'not a city' FROM added WHERE is_removal
) AS changed, (SELECT coalesce(max(id), 0) AS first FROM changes) AS earlier
ORDER BY n
"""
FEW_CHANGES = """
SELECT city_id FROM changes JOIN cities ON cities.id = city_id GROUP BY city_id HAVING count(*) BETWEEN 10 AND 100
ORDER BY md5(city_id::text) LIMIT 1000
"""
MOST_CHANGES = "SELECT city_id FROM changes WHERE kind = 'correct' GROUP BY city_id ORDER BY count(*) DESC LIMIT 1"
OF_A_CITY = "SELECT id FROM changes WHERE city_id = $1 ORDER BY md5(id::text) LIMIT 1000"
DATASETTE_LIST = "/cities/cities?_size=50&_sort_desc=population"


class Work(NamedTuple):
    """One kind of page: the paths that are requested in turn, here and at the peers."""

    name: str
    ours: list[str]
    ceiling: str
    datasette: list[str]


class Speed(NamedTuple):
    """Requests per second, and the 99th percentile of the response times in milliseconds."""

    rate: float
    p99: float


async def works(owner_url: str) -> list[Work]:
    """The kinds of pages, with cities and words of this database; the same for the same cities."""
    connection = await asyncpg.connect(owner_url)
    last = await connection.fetchval("SELECT max(id) FROM cities")
    chance = random.Random(9)
    rows = await connection.fetch(
        "SELECT id, name, population FROM cities WHERE id = ANY($1)",
        [chance.randint(1, last) for _ in range(SAMPLE)],
    )
    frequent = [row["word"] for row in await connection.fetch(FREQUENT)]
    of_the_log = await log_works(connection, chance)
    await connection.close()
    # Some other characters are operators in the query language of SQLite's full-text search.
    names = [row["name"] for row in rows if re.fullmatch("[A-Za-z0-9]+( [A-Za-z0-9]+)*", row["name"])]
    pairs = [words for name in names if len(words := name.split()) == 2]
    return [
        Work("`/cities`", ["/cities"], "/list/50", [DATASETTE_LIST]),
        Work(
            "a deep page",
            [f"/cities?after={row['population']}-{row['id']}" for row in rows],
            "/list/50",
            [f"{DATASETTE_LIST}&_next={row['population']}%2C{row['id']}" for row in rows],
        ),
        search("one letter", list(LETTERS), 50),
        search("two to four letters", [name[:length] for name in names for length in (2, 3, 4)], 50),
        search("a whole name", names, 1),
        search("two words in either order", [" ".join(words) for pair in pairs for words in (pair, pair[::-1])], 1),
        search("hundreds of matches", frequent, 50),
        search("no match", [f"q{number}x" for number in range(SAMPLE)], 0),
        Work(
            "a city",
            [f"/cities/{row['id']}" for row in rows],
            "/city/0",
            [f"/cities/cities/{row['id']}" for row in rows],
        ),
        Work("the feed", ["/feed.atom"], "/feed", ["/cities/cities?_size=50&_sort_desc=id"]),
        *of_the_log,
    ]


async def log_works(connection: asyncpg.Connection, chance: random.Random) -> list[Work]:
    """The kinds of pages that show the log of changes; without paths if the build has none, or too few changes."""
    newest, deep, with_history, of_one, deep_of_one = ([] for _ in range(5))
    if await connection.fetchval("SELECT to_regclass('changes')") and (city := await connection.fetchval(MOST_CHANGES)):
        last = await connection.fetchval("SELECT max(id) FROM changes")
        newest = ["/changes"]
        deep = [f"/changes?before={chance.randint(1, last)}" for _ in range(SAMPLE)]
        with_history = [f"/cities/{row['city_id']}" for row in await connection.fetch(FEW_CHANGES)]
        of_one = [f"/changes?city={city}"]
        deep_of_one = [f"/changes?city={city}&before={row['id']}" for row in await connection.fetch(OF_A_CITY, city)]
    return [
        Work("a city with ten changes or more", with_history, "/city/10", []),
        Work("`/changes`", newest, "/changes/0", []),
        Work("a deep page of `/changes`", deep, "/changes/0", []),
        Work("`/changes?city=` of the city with the most", of_one, "/changes/1", []),
        Work("… a deep page", deep_of_one, "/changes/1", []),
    ]


async def fill_changes(owner_url: str, changes: int) -> None:
    """Fills the log of changes, unless the build has none; the same for the same cities."""
    connection = await asyncpg.connect(owner_url)
    if await connection.fetchval("SELECT to_regclass('changes')"):
        await connection.execute("SELECT setseed(0.9)")
        await connection.execute(FILL_CHANGES, changes)
        await connection.execute("VACUUM changes")  # as autovacuum does while a log grows
    await connection.close()


def search(name: str, searches: list[str], cities: int) -> Work:
    """A kind of search; `cities` is the usual number of cities on its first page.

    Datasette gets each word with a `*`, so that it also finds the words that begin with it.
    """
    words = [" ".join(f"{word}*" for word in words.lower().split()) for words in searches]
    return Work(
        name,
        [f"/cities?q={quote(words)}" for words in searches],
        f"/list/{cities}?q=a",
        [f"{DATASETTE_LIST}&_searchmode=raw&_search={quote(each)}" for each in words],
    )


def ask(server: str, paths: list[str], seconds: int) -> Speed:
    """The speed of these paths, requested in turn. Raises SystemExit if a response is an error."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(paths) + "\n")
        file.flush()
        script = ["-s", str(HERE / "addresses.lua"), server, "--", file.name]
        printed = wrk.run(CLIENTS, seconds, "--latency", *script)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)\b", printed)
    if not rate or not p99 or "Non-2xx" in printed:
        raise SystemExit(f"{server}{paths[0]}: {printed}")
    if not float(rate[1]):
        return Speed(0, math.inf)
    return Speed(float(rate[1]), float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]])


def p99(measured: list[Speed]) -> float:
    """The median of the 99th percentiles, in milliseconds."""
    return statistics.median(speed.p99 for speed in measured)


def write_sqlite(cities: Path, path: Path) -> None:
    """Writes the cities of a CSV file for Datasette: a table, an index of populations, and a full-text index."""
    with sqlite3.connect(path) as connection, cities.open(encoding="utf-8", newline="") as file:
        connection.executescript(SQLITE)
        rows = csv.reader(file)
        next(rows)
        connection.executemany("INSERT INTO cities (name, population) VALUES (?, ?)", (row[:2] for row in rows))
        connection.execute("INSERT INTO cities_fts (cities_fts) VALUES ('rebuild')")
        connection.execute("ANALYZE")
    connection.close()
