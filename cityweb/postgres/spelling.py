"""Suggestions for misspelled names."""

import math
import time
from collections.abc import Sequence

from rapidfuzz import process
from rapidfuzz.distance import OSA
from sqlalchemy import Row, text

from cityweb import names
from cityweb.postgres.database import Session, unit_of_work

READ_SECONDS = 60
SIMILARITY = 0.7
"""From 0 to 1: three letters in ten may differ."""
# The candidates for a misspelled name, and the cities of the sitemap.
BIGGEST = text("SELECT id, name, name_bare FROM cities ORDER BY population DESC, -id DESC LIMIT 10000")


class Spelling:
    """Suggestions for a misspelled name from the 10,000 biggest cities, which are read at most once a minute."""

    def __init__(self) -> None:
        self.seconds = READ_SECONDS
        self._bare_names: list[str] = []
        self._cities: Sequence[Row[int, str, str]] = []
        self._read_at = -math.inf

    async def nearest(self, session: Session, words: str) -> list[Row[int, str, str]]:
        """At most three cities, the most similar first and, among equals, the biggest first."""
        if time.monotonic() - self._read_at > self.seconds:
            self._cities = await biggest(session)
            self._bare_names = [city.name_bare for city in self._cities]
            self._read_at = time.monotonic()
        similar = process.extract(
            names.bare(words), self._bare_names, scorer=OSA.normalized_similarity, score_cutoff=SIMILARITY, limit=3
        )
        return [self._cities[position] for _, _, position in similar]


@unit_of_work
async def biggest(session: Session) -> Sequence[Row[int, str, str]]:
    """The 10,000 biggest cities with their bare names, the biggest first."""
    return (await session.execute(BIGGEST)).all()
