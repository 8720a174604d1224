"""Makes a CSV for `load` from files of GeoNames, in which no name occurs twice.

Arguments: cities500.txt (or another of these files), admin1CodesASCII.txt and the CSV to write. The first two are at
https://download.geonames.org/export/dump/. The biggest city with a name keeps it. Each smaller one gets its region, its
country or both appended, and is left out if its name is still taken.
"""

import csv
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from cityweb import countries, names, submissions

CREDIT = "from GeoNames (https://www.geonames.org) on {:%Y-%m-%d}, licence CC BY 4.0"
"""A last column of the header, which a load ignores."""


class Place(NamedTuple):
    """A populated place of GeoNames; `country` is a code, `region` the name or code of its first-level division."""

    name: str
    population: int
    country: str
    region: str


def main() -> None:
    """Reads the two files, writes the CSV and prints how many places have a name in it."""
    cities, regions, target = map(Path, sys.argv[1:])
    read = list(read_places(cities, read_regions(regions)))
    named = list(name_once(read))
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "population", "country", CREDIT.format(datetime.now(UTC))])
        writer.writerows(place[:3] for place in named)
    sys.stdout.write(f"{len(named):,} of {len(read):,} places have a name of their own\n")


def read_regions(path: Path) -> dict[str, str]:
    """The names of the first-level divisions, by codes like US.TX."""
    with path.open(encoding="utf-8") as file:
        return {code: name for code, name, *_ in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}


def read_places(path: Path, regions: dict[str, str]) -> Iterator[Place]:
    """The places of a file; its columns are described in the readme.txt beside it."""
    with path.open(encoding="utf-8") as file:
        for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            name, country, division, population = row[1], row[8], row[10], int(row[14])
            yield Place(name, population, country, regions.get(f"{country}.{division}", ""))


def name_once(places: Iterable[Place]) -> Iterator[Place]:
    """The places that get a name of their own, with that name."""
    # Thousands of places tie for the biggest of their name, so the population alone is no order.
    left = sorted(places, key=lambda place: (-place.population, place.country, place.region, place.name))
    taken: set[str] = set()
    for qualify in (
        lambda _: (),
        lambda place: (place.region,),
        lambda place: (countries.name_of(place.country),),
        lambda place: (place.region, countries.name_of(place.country)),
    ):
        rest = []
        for place in left:
            name = ", ".join(filter(None, (place.name, *qualify(place))))
            key = names.key(name)
            if key in taken or not submissions.is_name(name):
                rest.append(place)
            else:
                taken.add(key)
                yield place._replace(name=name)
        left = rest


if __name__ == "__main__":
    main()
