"""Reads the whole ranking: a page of it, a search in it, one city between its neighbours, the newest cities."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Row, TextClause, text

from cityweb import names
from cityweb.city import CHANGE_ID_MAX, ID_MAX, POPULATION_MAX
from cityweb.postgres.cities import TOTAL, RankedCity
from cityweb.postgres.database import Session, unit_of_work

PAGE_SIZE = 50


@dataclass(frozen=True)
class Cursor:
    """A position between two rows of the ranking: after this city, or before it if `backwards`."""

    population: int
    id: int
    backwards: bool = False


START = Cursor(POPULATION_MAX + 1, 0)


@dataclass(frozen=True)
class Page:
    """A page of the ranking and the cursors of the pages beside it; `total` is None if the search did not count."""

    rows: tuple[RankedCity, ...]
    total: int | None
    previous: Cursor | None
    next: Cursor | None


class CountryCount(NamedTuple):
    """A country, by its code, and the number of its cities."""

    country: str
    cities: int


@dataclass(frozen=True)
class Surroundings:
    """A city and up to three on either side, in the order of the ranking; `smaller` of `total` cities are smaller."""

    above: tuple[RankedCity, ...]
    city: RankedCity
    below: tuple[RankedCity, ...]
    smaller: int
    total: int
    total_in_country: int | None

    @property
    def rows(self) -> tuple[RankedCity, ...]:
        return (*self.above, self.city, *self.below)


# --- the statements ---
# Parameters are written as `(SELECT ...)`, because the planner would estimate row counts from plain values.

RANKED = ", ".join(field.name for field in fields(RankedCity))
# The number of cities of a source, and the 51 next to a cursor with ranks; if there are none, one row has the total.
PAGE = """
WITH {found} page AS MATERIALIZED (
  SELECT id, population FROM {rows} AND {beyond}
  ORDER BY population {order}, -id {order} LIMIT 51
), ranks AS MATERIALIZED (
  {ranks}
)
SELECT total, city.*
FROM (SELECT ({total}) AS total) AS counted LEFT JOIN (
  page JOIN ranks USING (population)
  CROSS JOIN LATERAL (SELECT {ranked} FROM cities WHERE id = page.id LIMIT 1) AS city
) ON true
ORDER BY page.population {order}, -page.id {order}
"""
# The ranks of the populations on a page, for any cities.
RANKS = """
  SELECT population, 1 + above AS rank, NULL::bigint AS rank_in_country
  FROM (SELECT DISTINCT population FROM page) AS each, cities_above(population)
"""
# The same for consecutive cities: it counts only the cities above the top population, and those at or above it. Without
# MATERIALIZED, PostgreSQL would count them for each row of the page. An empty country is the world.
RANKS_IN_A_ROW = """
  WITH first AS MATERIALIZED (
    SELECT population, count(*) AS cities FROM page GROUP BY population ORDER BY population DESC LIMIT 1
  ), counted AS MATERIALIZED (
    SELECT first.*, bigger.above AS bigger, at_least.above AS at_least
    FROM first, cities_above(population, {country}) AS bigger, cities_above(population - 1, {country}) AS at_least
  )
  SELECT DISTINCT page.population, CASE page.population
    WHEN counted.population THEN 1 + bigger
    ELSE at_least - cities + rank() OVER (ORDER BY page.population DESC)
  END AS {rank}
  FROM page, counted
"""
IN_THE_WORLD = RANKS_IN_A_ROW.format(country="''", rank="rank, NULL::bigint AS rank_in_country")
COUNTRY = "(SELECT CAST(:country AS text))"
IN_A_COUNTRY = f"""
  SELECT population, rank, in_country.rank_in_country
  FROM ({RANKS}) AS world JOIN ({RANKS_IN_A_ROW.format(country=COUNTRY, rank="rank_in_country")}) AS in_country
  USING (population)
"""  # noqa: S608 (no value is put in)
BEYOND = "(population, -id) {side} ((SELECT CAST(:population AS int)), (SELECT -CAST(:id AS int)))"


class Source:
    """A set of cities: the statements that read a page of them after a cursor, and before it."""

    def __init__(self, rows: str, total: str, ranks: str, found: str = "", **numbers: int) -> None:
        def make_statement(side: str, order: str) -> TextClause:
            direction = {"beyond": BEYOND.format(side=side), "order": order}
            found_here = found.format(**direction, **numbers, side=side, stored=TOTAL)
            return text(PAGE.format(ranked=RANKED, rows=rows, total=total, ranks=ranks, found=found_here, **direction))

        self.after, self.before = make_statement("<", "DESC"), make_statement(">", "ASC")


CITIES = Source("cities WHERE true", TOTAL, IN_THE_WORLD)
# Reads on in the index from the cursor, possibly into the next country, whose rows are then dropped. With
# `country = ...` here, the planner would expect few rows, and sort them.
NEAR_IN_COUNTRIES = f"""
near AS MATERIALIZED (
  SELECT id, population, country FROM cities
  WHERE country <> '' AND (country, population, -id) {{side}}
    ({COUNTRY}, (SELECT CAST(:population AS int)), (SELECT -CAST(:id AS int)))
  ORDER BY country {{order}}, population {{order}}, -id {{order}} LIMIT 51
),
"""  # noqa: S608 (no value is put in)
CITIES_OF_A_COUNTRY = Source(
    f"near WHERE country = {COUNTRY}",
    f"SELECT above FROM cities_above(-1, {COUNTRY})",  # noqa: S608 (no value is put in)
    IN_A_COUNTRY,
    NEAR_IN_COUNTRIES,
)
# The cities that match all words of a search. In a big table, a walk along the board finds frequent words: it reads the
# next `near` cities and, if at least `least` of them match, the next `far`. Otherwise `others` are all matches.
# The index reads all words that begin with a word of the search, 10 ms for "santa" in a million cities. So it looks up
# only the longest word, with a second one if both are short, and each city found is compared with all words.
MATCHES = """
asked AS MATERIALIZED (
  SELECT array_agg('% ' || word || '%') AS patterns,
    string_agg(format('''%s'':*', word), ' & ') FILTER (WHERE place = 1 OR place = 2 AND longest < 5)::tsquery AS query
  FROM (
    SELECT word, row_number() OVER (ORDER BY length(word) DESC) AS place, max(length(word)) OVER () AS longest
    FROM unnest(string_to_array(spaced(CAST(:bare AS text)), ' ')) AS word
  ) AS words
), board AS MATERIALIZED (
  SELECT {stored} > {counted} AS is_big
), near AS MATERIALIZED (
  SELECT id, population FROM (
    SELECT id, population, words FROM cities WHERE (SELECT is_big FROM board) AND {beyond}
    ORDER BY population {order}, -id {order} LIMIT {near}
  ) AS walk WHERE words LIKE ALL ((SELECT patterns FROM asked)::text[]) LIMIT 51
), far AS MATERIALIZED (
  SELECT id, population FROM (
    SELECT id, population, words FROM cities WHERE (SELECT count(*) BETWEEN {least} AND 50 FROM near) AND {beyond}
    ORDER BY population {order}, -id {order} LIMIT {far}
  ) AS walk WHERE words LIKE ALL ((SELECT patterns FROM asked)::text[]) LIMIT 51
), walked AS MATERIALIZED (
  TABLE near UNION TABLE far
), outcome AS MATERIALIZED (
  SELECT is_big AND ((SELECT count(*) >= 51 FROM walked) OR (SELECT count(*) >= {least} FROM near) AND NOT EXISTS (
    SELECT FROM cities WHERE {beyond} ORDER BY population {order}, -id {order} OFFSET {near}
  )) AS is_complete FROM board
), others AS MATERIALIZED (
  SELECT id, population FROM cities
  WHERE NOT (SELECT is_complete FROM outcome)
    AND array_to_tsvector(string_to_array(btrim(words), ' ')) @@ (SELECT query FROM asked)
    AND words LIKE ALL ((SELECT patterns FROM asked)::text[])
),
"""


def matches(near: int = 1_000, far: int = 12_000, least: int = 5, counted: int = 5_000) -> Source:
    """The cities that match all words of a search. In a table of at most `counted` cities, they are counted."""
    return Source(
        "(SELECT id, population FROM walked, outcome WHERE is_complete UNION ALL TABLE others) AS found WHERE true",
        "SELECT CASE WHEN is_complete THEN NULL ELSE (SELECT count(*) FROM others) END FROM outcome",
        RANKS,
        MATCHES,
        near=near,
        far=far,
        least=least,
        counted=counted,
    )


SEARCH = matches()
SURROUNDINGS = text(f"""
WITH city AS MATERIALIZED (
  SELECT * FROM cities WHERE id = (SELECT CAST(:id AS int))
), higher AS MATERIALIZED (
  SELECT * FROM cities WHERE (population, -id) > ((SELECT population FROM city), (SELECT -id FROM city))
  ORDER BY population, -id LIMIT 3
), lower AS MATERIALIZED (
  SELECT * FROM cities WHERE (population, -id) < ((SELECT population FROM city), (SELECT -id FROM city))
  ORDER BY population DESC, -id DESC LIMIT 3
), page AS MATERIALIZED (
  TABLE higher UNION ALL TABLE city UNION ALL TABLE lower
), ranks AS MATERIALIZED (
  {RANKS_IN_A_ROW.format(country="''", rank="rank")}
), in_country AS MATERIALIZED (
  SELECT id, 1 + bigger.above AS rank_in_country, every.above AS total_in_country
  FROM city, cities_above(population, country) AS bigger, cities_above(-1, country) AS every
  WHERE country <> ''
)
SELECT {RANKED}, total_in_country, at_least.above AS at_least, total
FROM page JOIN ranks USING (population) LEFT JOIN in_country USING (id), (SELECT ({TOTAL}) AS total) AS counted,
  cities_above((SELECT population - 1 FROM city)) AS at_least
ORDER BY page.population DESC, -id DESC
""")  # noqa: S608 (no value is put in)
COUNTRIES = text("""
SELECT country, cities FROM tally WHERE shift = 20 AND country <> ''
UNION ALL SELECT country, cities FROM tally_changes WHERE country <> ''
""")
# The last change is found with pairs, which no statistics make PostgreSQL sort; without it, the city has no history.
NEWEST = text(f"""
SELECT newest.id, name, population, newest.created_at, coalesce(latest.at, newest.created_at) AS updated_at
FROM (SELECT * FROM cities ORDER BY id DESC LIMIT 50) AS newest LEFT JOIN LATERAL (
  SELECT * FROM changes WHERE (city_id, id) <= (newest.id, {CHANGE_ID_MAX}) ORDER BY city_id DESC, id DESC LIMIT 1
) AS latest ON latest.city_id = newest.id AND latest.kind <> 'add'
ORDER BY newest.id DESC
""")  # noqa: S608 (no value is put in)

# --- the queries ---


@unit_of_work
async def page(session: Session, cursor: Cursor = START, words: str = "", country: str = "") -> Page:
    """A page of all cities, of those with words that begin with all of `words`, or else of those of a country."""
    source, parameters = CITIES, {}
    if words:
        # PostgreSQL rejects NUL in a text.
        source, parameters = SEARCH, {"bare": names.bare(words.replace("\0", " "))}
    elif country:
        source, parameters = CITIES_OF_A_COUNTRY, {"country": country}
    # The statement reads one city more than a page has, to find out whether there is another page.
    rows, total = await _read_nearest(session, source, cursor, parameters)
    if cursor.backwards and len(rows) <= PAGE_SIZE:
        # The first page is always full, even if cities before the cursor were removed since the last request.
        cursor = START
        rows, total = await _read_nearest(session, source, cursor, parameters)
    more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
    if cursor.backwards:
        rows.reverse()
    # An empty page is after the last city: the page before it ends with the city of the cursor.
    first, last = (rows[0], rows[-1]) if rows else (Cursor(cursor.population, min(cursor.id + 1, ID_MAX)), cursor)
    return Page(
        tuple(rows),
        total,
        previous=Cursor(first.population, first.id, backwards=True) if cursor != START else None,
        next=Cursor(last.population, last.id) if more or cursor.backwards else None,
    )


@unit_of_work
async def surroundings(session: Session, city_id: int) -> Surroundings | None:
    """The city with this id and its neighbours, or None if there is no such city."""
    rows = (await session.execute(SURROUNDINGS, {"id": city_id})).all()
    if not rows:
        return None
    cities = tuple(RankedCity(*city) for *city, _, _, _ in rows)
    position = next(position for position, city in enumerate(cities) if city.id == city_id)
    smaller, total = int(rows[0].total - rows[0].at_least), int(rows[0].total)
    in_country = rows[position].total_in_country
    return Surroundings(cities[:position], cities[position], cities[position + 1 :], smaller, total, in_country)


@unit_of_work
async def countries(session: Session) -> list[CountryCount]:
    """The countries that have cities, the one with the most first."""
    counted = Counter[str]()
    for country, cities in await session.execute(COUNTRIES):
        counted[country] += cities
    return [CountryCount(*pair) for pair in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])) if pair[1]]


@unit_of_work
async def newest(session: Session) -> Sequence[Row[int, str, int, datetime, datetime]]:
    """The 50 newest cities, the newest first, each with the times of its addition and of its last correction."""
    return (await session.execute(NEWEST)).all()


async def _read_nearest(
    session: Session, source: Source, cursor: Cursor, parameters: Mapping[str, str]
) -> tuple[list[RankedCity], int | None]:
    """The cities nearest to a cursor, the nearest first, and the total of the source."""
    statement = source.before if cursor.backwards else source.after
    values = {"population": cursor.population, "id": cursor.id, **parameters}
    rows = (await session.execute(statement, values)).all()
    return [RankedCity(*city) for _, *city in rows if city[0] is not None], rows[0].total
