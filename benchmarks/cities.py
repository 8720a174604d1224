"""The list of very many cities: the response time of its pages for 8 clients, and the cost of a download.

`run.py` calls `measure`; `make bench BENCH="--only L"` runs only this.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import asyncpg
import httpx
from sqlalchemy import make_url

from benchmarks import pages
from benchmarks.polling import memory
from cityweb.postgres import database, embedded, schema

MILLISECONDS_MAX = 50
EXPORTED = 1_000_000

# Most cities are small: half have fewer than 1,000 people. Most names have three words, and some words begin many.
FILL = """
INSERT INTO cities (name, name_key, name_bare, population, created_at)
SELECT name, lower(name), lower(name), population, now() - interval '1 h' FROM (
  SELECT concat_ws(' ',
      (ARRAY['New', 'San', 'Port', 'Saint', 'Santa', 'Old', 'Upper', 'Lower', 'North', 'South', 'Villa', 'Bad', 'Al',
             'El', 'La', NULL, NULL, NULL, NULL, NULL])[1 + n * 7919::bigint % 20],
      chr(65 + (n * 104729::bigint % 26)::int)
        || (ARRAY['ar', 'el', 'in', 'on', 'ur', 'an', 'or', 'is', 'et', 'om'])[1 + n / 7 % 10]
        || (ARRAY['ton', 'ville', 'burg', 'stad', 'grad', 'pur', 'abad', 'minster', 'ham', 'field'])[1 + n / 77 % 10],
      to_hex(n)
    ) AS name,
    least(40000000, 500 / power(1 - random(), 0.9))::int AS population
  FROM generate_series($1::int, $2::int) AS n
) AS made
"""
STEP = 1_000_000

Line = Callable[[str, str, str, str, bool], None]
Serve = Callable[[], AbstractContextManager[tuple[str, "subprocess.Popen[str]"]]]


def measure(served: embedded.Server, serve: Serve, line: Line, cities: int, seconds: int) -> None:
    """Fills the database and prints a line for each kind of page, and for the download."""
    if asyncio.run(stored(served.owner_url)) != cities:
        filling = asyncio.run(fill(served.owner_url, cities))
        line("L0", f"ranks and indexes of {cities:,} cities made by `initdb`", f"{filling:,.0f} s", "", True)
    works = asyncio.run(pages.works(dsn(served.owner_url)))
    with serve() as (ours, process):
        for work in filter(lambda work: work.ours, works):
            pages.ask(ours, work.ours, 2)  # to warm up
            rate, slowest = pages.ask(ours, work.ours, seconds)
            line(
                "L1",
                f"{work.name}, {cities:,} cities, {pages.CLIENTS} clients",
                f"{rate:,.0f}/s, p99 {slowest:.0f} ms",
                f"at most {MILLISECONDS_MAX} ms",
                slowest <= MILLISECONDS_MAX,
            )
        first, growth, rate, freed = download(ours, process.pid, served)
        line("L2", "first byte of `/cities.csv`", f"{first * 1000:.0f} ms", "at most 200 ms", first <= 0.2)
        line("L2", f"memory for {EXPORTED:,} rows", f"{growth / 1e6:.0f} MB more", "at most 50 MB", growth <= 50e6)
        line("L2", "rows of it", f"{rate:,.0f}/s", "", True)
        line("L2", "a reader who left frees its connection", f"{freed:.2f} s", "at most 1 s", freed <= 1)


async def stored(owner_url: str) -> int:
    """The number of stored cities, after a migration."""
    await schema.migrate(make_url(owner_url))
    connection = await asyncpg.connect(dsn(owner_url))
    count = await connection.fetchval("SELECT count(*) FROM cities")
    await connection.close()
    return int(count)


async def fill(owner_url: str, cities: int) -> float:
    """Stores the cities before there are triggers. Returns the seconds that ranks and indexes take afterwards."""
    url = make_url(owner_url)
    async with database.outside_the_pool(url).begin() as owner:
        for statement in schema.RESET:
            await owner.exec_driver_sql(statement)
        await owner.run_sync(schema.upgrade, "0003")
    connection = await asyncpg.connect(dsn(owner_url))
    for first in range(1, cities + 1, STEP):
        await connection.execute(FILL, first, min(first + STEP - 1, cities))
    begun = time.perf_counter()
    await schema.migrate(url)
    seconds = time.perf_counter() - begun
    await connection.execute("VACUUM ANALYZE tally")
    await connection.close()
    return seconds


def download(ours: str, pid: int, served: embedded.Server) -> tuple[float, float, float, float]:
    """Seconds to the first byte, growth in bytes, rows per second, and seconds until the connection is released."""
    before, most, rows = memory(pid), 0, 0
    with httpx.Client() as client:
        begun = time.perf_counter()
        with client.stream("GET", f"{ours}/cities.csv", timeout=60) as response:
            first = 0.0
            for part in response.iter_raw():
                first = first or time.perf_counter() - begun
                rows += part.count(b"\n")
                most = max(most, memory(pid))
                if rows >= EXPORTED:
                    break
            seconds = time.perf_counter() - begun
        left = time.perf_counter()
        while asyncio.run(exporting(served.owner_url)):
            time.sleep(0.01)
    return first, most - before, rows / seconds, time.perf_counter() - left


async def exporting(url: str) -> int:
    """The number of connections that run a download."""
    connection = await asyncpg.connect(dsn(url))
    try:
        count = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%to_char(created_at%' AND pid <> pg_backend_pid()"
        )
        return int(await connection.fetchval(count))
    finally:
        await connection.close()


def dsn(url: str) -> str:
    """The URL in the form that asyncpg accepts."""
    return url.replace("postgresql+asyncpg", "postgresql")
