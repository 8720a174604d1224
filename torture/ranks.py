"""Ranks under simultaneous adds, corrections, removals and loads, compared with `rank()`."""

import asyncio
import random

from sqlalchemy import URL

from cityweb.postgres import database
from torture.ground import ground
from torture.report import Report

WRITERS = 8
ADD = """
INSERT INTO cities (name, name_key, name_bare, population)
SELECT name, name, name, $3 / n FROM generate_series(1, $1::int) AS n, concat($2::text, ' ', n) AS name
"""
CORRECT = "UPDATE cities SET population = $1 WHERE id = (SELECT id FROM cities WHERE id >= $2 ORDER BY id LIMIT 1)"
REMOVE = "DELETE FROM cities WHERE id = (SELECT id FROM cities WHERE id >= $1 ORDER BY id LIMIT 1)"
WRONG = """
SELECT count(*) FROM (
  SELECT population, rank() OVER (ORDER BY population DESC) FROM cities ORDER BY random() LIMIT $1
) AS ranked, cities_above(population) WHERE rank <> 1 + above
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
                        await connection.execute(CORRECT, population, some)
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
