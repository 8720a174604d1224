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
    chosen = random.Random(9)
    rows = await connection.fetch(
        "SELECT id, name, population FROM cities WHERE id = ANY($1)",
        [chosen.randint(1, last) for _ in range(SAMPLE)],
    )
    frequent = [row["word"] for row in await connection.fetch(FREQUENT)]
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
            "/city",
            [f"/cities/cities/{row['id']}" for row in rows],
        ),
        Work("the feed", ["/feed.atom"], "/feed", ["/cities/cities?_size=50&_sort_desc=id"]),
    ]


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
