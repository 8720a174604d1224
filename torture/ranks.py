"""Ranks under simultaneous adds, corrections, removals and loads, compared with `rank()`."""

import asyncio
import random
import time
from collections.abc import Callable

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import create_async_engine

from cityweb.postgres import database, schema
from tests.conftest import FILL
from torture.ground import ground
from torture.report import Report

WRITERS = 8
ADD = """
INSERT INTO cities (name, name_key, name_bare, population, country)
SELECT name, name, name, $3 / n, (ARRAY['', 'FR', 'DE'])[1 + n % 3]
FROM generate_series(1, $1::int) AS n, concat($2::text, ' ', n) AS name
"""
CORRECT = """
UPDATE cities SET population = $1, country = $3 WHERE id = (SELECT id FROM cities WHERE id >= $2 ORDER BY id LIMIT 1)
"""
REMOVE = "DELETE FROM cities WHERE id = (SELECT id FROM cities WHERE id >= $1 ORDER BY id LIMIT 1)"
WRONG = """
SELECT count(*) FROM (
  SELECT population, country, rank() OVER (ORDER BY population DESC),
    rank() OVER (PARTITION BY country ORDER BY population DESC) AS rank_in_country
  FROM cities ORDER BY random() LIMIT $1
) AS ranked, cities_above(population) AS bigger, cities_above(population, country) AS bigger_there
WHERE rank <> 1 + bigger.above OR country <> '' AND rank_in_country <> 1 + bigger_there.above
"""
DIGEST = """
SELECT md5(string_agg((id, name, population, created_at, words)::text, '' ORDER BY id)) AS digest
FROM cities WHERE id <= 1000000
"""


async def change_at_random(owner: URL, changes: int, seed: int) -> None:
    """Adds, corrects, removes and loads over eight connections; many cities share half of the populations."""

    async def write(writer: int) -> None:
        chance = random.Random(f"{seed} {writer}")
        connection = await database.connect(owner)
        try:
            for number in range(changes // WRITERS):
                name, population = f"{writer} {number}", _population(chance)
                some = chance.randrange(changes)
                match chance.choices(("add", "correct", "remove", "load"), (60, 25, 14, 1))[0]:
                    case "add":
                        await connection.execute(ADD, 1, name, population)
                    case "correct":
                        await connection.execute(CORRECT, population, some, chance.choice(("", "FR", "DE")))
                    case "remove":
                        await connection.execute(REMOVE, some)
                    case _:
                        await connection.execute(ADD, 300, name, population)
        finally:
            await connection.close()

    await asyncio.gather(*(write(writer) for writer in range(WRITERS)))


def _population(chance: random.Random) -> int:
    return chance.choice((chance.randrange(40), round(10 ** chance.uniform(0, 8))))


async def wrong_ranks(url: URL, sample: int) -> int:
    """The number of cities in a random sample of this size whose rank differs from `rank()`."""
    connection = await database.connect(url)
    try:
        return int(await connection.fetchval(WRONG, sample, timeout=60))
    finally:
        await connection.close()


async def rank(report: Report, seed: int) -> None:
    """R1: 1,000 ranks at a time during 100,000 changes by eight writers, and 20,000 ranks afterwards."""
    async with ground() as here:
        changing = asyncio.create_task(change_at_random(here.url(), 100_000, seed))
        wrong = looks = 0
        while not changing.done():
            wrong, looks = wrong + await wrong_ranks(here.url(), 1_000), looks + 1
            await asyncio.sleep(1)
        await changing
        (row,) = await here.sql("SELECT count(*) FROM cities")
        report.exactly(f"wrong ranks of 20,000 in {row['count']:,} cities", await wrong_ranks(here.url(), 20_000), 0)
    report.exactly(f"… in {looks} looks at 1,000 while eight writers change them", wrong, 0)


async def migrate(report: Report, seed: int) -> None:
    """R2: the countries come, go and come again in a database of 1,000,000 cities, while cities are added."""
    chance = random.Random(seed)
    async with ground() as here, create_async_engine(here.url(), poolclass=NullPool).connect() as connection:

        async def shift(change: Callable[[Config, str], None], revision: str) -> float:
            began = time.monotonic()
            await connection.run_sync(lambda synchronous: change(schema.configure(synchronous), revision))
            await connection.commit()
            return time.monotonic() - began

        await shift(command.downgrade, "0008")
        population = chance.choice(("n", "n % 1000", "(1e8 / n)::int"))
        await here.sql(FILL.format(population=population, first=1, last=1_000_000))
        (before,) = await here.sql(DIGEST)
        seconds: list[float] = []
        waits, added = [0.0], 0

        async def add() -> None:
            nonlocal added
            while len(seconds) < len(steps):
                began = time.monotonic()
                added += 1
                await here.sql(FILL.format(population=added, first=1_000_000 + added, last=1_000_000 + added))
                waits.append(time.monotonic() - began)

        steps = ((command.upgrade, "0009"), (command.downgrade, "0008"), (command.upgrade, "0009"))
        adding = asyncio.create_task(add())
        for change, revision in steps:
            seconds.append(await shift(change, revision))
        await adding
        (after,) = await here.sql(DIGEST)
        (row,) = await here.sql("SELECT count(*) FROM cities")
        wrong = await wrong_ranks(here.url(), 20_000)
        await schema.reset(here.url())
        (left,) = await here.sql("SELECT count(*) FROM cities")
    report.row("1,000,000 cities: forward, back, forward", "–", ", ".join(f"{time_:.1f} s" for time_ in seconds), True)
    report.exactly(
        f"… {added:,} adds meanwhile, the longest {max(waits):.1f} s: lost", row["count"] - 1_000_000 - added, 0
    )
    report.exactly("… earlier cities are unchanged", before["digest"] == after["digest"], True)
    report.exactly("… wrong ranks of 20,000", wrong, 0)
    report.exactly("… cities after `initdb --reset`", left["count"], 0)
