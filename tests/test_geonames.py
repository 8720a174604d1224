"""The script for the files of GeoNames: each place gets a name of its own, whatever the order of the lines."""

import csv
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.conftest import TOP

REGIONS = "US.TX\tTexas\tTexas\t1\nUS.IL\tIllinois\tIllinois\t2\nCA.08\tOntario\tOntario\t3\n"
# Name, population, country and division.
PLACES = [
    ("Paris", 2_138_551, "FR", "11"),
    ("Paris", 24_171, "US", "TX"),
    ("Paris", 8_000, "US", "IL"),
    ("Paris", 7_000, "CA", "08"),
    ("Paris", 500, "US", "TX"),
    ("Paris", 400, "US", "TX"),
    ("Paris", 300, "US", "TX"),
    ("Paris, Texas", 10, "US", "IL"),
    ("Nowhere", 9, "QQ", "1"),
    ("Bad;name", 8, "FR", "11"),
]
NAMES = {
    "Paris": 2_138_551,
    "Paris, Texas": 10,
    "Paris, Illinois": 8_000,
    "Paris, Ontario": 7_000,
    "Paris, United States": 24_171,
    "Paris, Texas, United States": 500,
    "Nowhere": 9,
}


def test_each_place_gets_a_name_whatever_the_order_of_the_lines(tmp_path: Path) -> None:
    (tmp_path / "regions.txt").write_text(REGIONS)
    for seed in range(3):
        shuffled = random.Random(seed).sample(PLACES, len(PLACES))
        rows = [
            ["1", name, *6 * [""], country, "", region, "", "", "", str(people), *4 * [""]]
            for name, people, country, region in shuffled
        ]
        (tmp_path / "cities500.txt").write_text("".join("\t".join(row) + "\n" for row in rows))
        done = subprocess.run(
            [sys.executable, TOP / "demo" / "geonames.py", "cities500.txt", "regions.txt", "out.csv"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(TOP)},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "7 of 10 places have a name of their own\n"
        with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
            header, *written = csv.reader(file)
        assert header[:3] == ["name", "population", "country"]
        assert "GeoNames" in header[3]
        assert {name: int(people) for name, people, _ in written} == NAMES
