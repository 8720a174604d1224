"""Suggestions for misspelled names."""

from collections.abc import Sequence
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Row, text

from cityweb import names
from cityweb.postgres.database import Session, unit_of_work

SIMILARITY = 0.7
"""From 0 to 1: three letters in ten may differ."""
BIGGEST = text("SELECT id, name, name_bare FROM cities ORDER BY population DESC, -id DESC LIMIT 10000")


class Biggest(NamedTuple):
    """The 10,000 biggest cities, biggest first, and their bare names."""

    cities: Sequence[Row[int, str, str]]
    bare_names: list[str]


@unit_of_work
async def biggest(session: Session) -> Biggest:
    cities = (await session.execute(BIGGEST)).all()
    return Biggest(cities, [city.name_bare for city in cities])


def nearest(biggest: Biggest, words: str) -> list[Row[int, str, str]]:
    """At most three cities with similar names, the most similar first and, among equals, the biggest first."""
    similar = process.extract(
        names.bare(words), biggest.bare_names, scorer=OSA.normalized_similarity, score_cutoff=SIMILARITY, limit=3
    )
    return [biggest.cities[position] for _, _, position in similar]
