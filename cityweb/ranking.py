"""The whole ranking: a page of it, a search in it, one city between its neighbours, the newest. It only reads."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Row, Select, SQLColumnExpression, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names
from cityweb.cities import Place
from cityweb.models import POPULATION_MAX, City, Tally, TallyChange, Word

PAGE_SIZE = 50
NEIGHBOURS = 3
"""How many cities are shown above and below one."""
NEWEST = 50
MATCHES_MAX = 10_000
"""Words. A search that finds more is not counted, but walks the words of its first letter in the order of the board."""
TOP_SHIFT = 20
"""The buckets of the tally that are the fewest."""
LAST_CHARACTER = "\U0010ffff"

Column = SQLColumnExpression[int]


@dataclass(frozen=True)
class Cursor:
    """A place between two rows of the ranking: after this city, or before it."""

    population: int
    id: int
    backwards: bool = False


START = Cursor(POPULATION_MAX + 1, 0)


@dataclass(frozen=True)
class Page:
    """A part of the ranking and the cursors of the parts beside it; a `total` of None is more than are counted."""

    places: tuple[Place, ...]
    total: int | None
    previous: Cursor | None
    next: Cursor | None


@dataclass(frozen=True)
class Surroundings:
    """A city between the next bigger and the next smaller ones, all in the order of the ranking."""

    above: tuple[Place, ...]
    city: Place
    below: tuple[Place, ...]


@dataclass(frozen=True)
class Source:
    """Where rows come from: `found` selects population and id, of which the two columns are given as well."""

    found: Select[int, int]
    population: Column
    id: Column


PLACES = select(City.id, City.name, City.population, City.created_at, 1 + func.cities_above(City.population))
EVERYTHING = Source(select(City.population, City.id), City.population, City.id)


async def page(connection: AsyncConnection, cursor: Cursor = START) -> Page:
    """The cities after a cursor, or before it."""
    tally = select(func.coalesce(func.sum(Tally.cities), 0)).where(Tally.shift == TOP_SHIFT).scalar_subquery()
    changes = select(func.coalesce(func.sum(TallyChange.cities), 0)).scalar_subquery()
    return await _page(connection, EVERYTHING, cursor, await connection.scalar(select(tally + changes)))


async def search(connection: AsyncConnection, text: str, cursor: Cursor = START) -> Page:
    """The cities with a word that begins so, whatever its case and accents, as a page of the ranking."""
    # PostgreSQL has no NUL in a text.
    beginning = func.spaced(names.bare(text.replace("\0", " ")))
    in_range = (Word.suffix >= beginning) & (Word.suffix < beginning.concat(LAST_CHARACTER)) & (beginning != "")
    counted = select(Word.city_id).where(in_range).limit(MATCHES_MAX + 1).subquery()
    count = select(func.count(), func.count(counted.c.city_id.distinct())).select_from(counted)
    words, cities = (await connection.execute(count)).one()
    if words > MATCHES_MAX:
        # The prefix is compared in a way that no index knows, so that the planner walks `words_board` in its order.
        same_letter = func.left(Word.suffix, 1) == func.left(beginning, 1)
        begins_so = func.left(Word.suffix, func.length(beginning)) == beginning
        found = select(Word.population, Word.city_id.label("id")).where(same_letter, begins_so).distinct()
        return await _page(connection, Source(found, Word.population, Word.city_id), cursor, None)
    few = select(Word.population, Word.city_id.label("id")).where(in_range).distinct().cte().prefix_with("MATERIALIZED")
    return await _page(
        connection, Source(select(few.c.population, few.c.id), few.c.population, few.c.id), cursor, cities
    )


async def surroundings(connection: AsyncConnection, city_id: int) -> Surroundings | None:
    """A city and its neighbours, or None where there is none of this number."""
    city = (await connection.execute(PLACES.where(City.id == city_id))).one_or_none()
    if city is None:
        return None
    above = await _beside(connection, EVERYTHING, Cursor(city.population, city_id, backwards=True), NEIGHBOURS)
    below = await _beside(connection, EVERYTHING, Cursor(city.population, city_id), NEIGHBOURS)
    return Surroundings(tuple(reversed(above)), Place(*city), tuple(below))


async def newest(connection: AsyncConnection) -> Sequence[Row[int, str, int, object]]:
    """The cities that were added last, the last first."""
    statement = select(City.id, City.name, City.population, City.created_at).order_by(City.id.desc()).limit(NEWEST)
    return (await connection.execute(statement)).all()


async def _page(connection: AsyncConnection, source: Source, cursor: Cursor, total: int | None) -> Page:
    """The cities beside a cursor; one more is read than a page has, which says whether there is another page."""
    places = await _beside(connection, source, cursor, PAGE_SIZE + 1)
    if cursor.backwards and len(places) <= PAGE_SIZE:
        # The first page is always a full one, whoever was added or removed since the last look.
        cursor = START
        places = await _beside(connection, source, cursor, PAGE_SIZE + 1)
    more, places = len(places) > PAGE_SIZE, places[:PAGE_SIZE]
    if cursor.backwards:
        places.reverse()
    # After the last city there is nothing to begin from but the cursor, whose own city comes before.
    first, last = (places[0], places[-1]) if places else (Cursor(cursor.population, cursor.id + 1), cursor)
    return Page(
        tuple(places),
        total,
        previous=Cursor(first.population, first.id, backwards=True) if cursor != START else None,
        next=Cursor(last.population, last.id) if more or cursor.backwards else None,
    )


async def _beside(connection: AsyncConnection, source: Source, cursor: Cursor, limit: int) -> list[Place]:
    """The nearest cities beside a cursor, the nearest first.

    Those of the same population and all others are two ranges of an index; one condition for both would read every
    equal before the cursor as well, and there can be very many.
    """
    population, id_ = source.population, source.id
    order = _order(population, id_, cursor)
    equals = source.found.where(
        population == cursor.population, id_ < cursor.id if cursor.backwards else id_ > cursor.id
    )
    others = source.found.where(population > cursor.population if cursor.backwards else population < cursor.population)
    beside = union_all(equals.order_by(*order).limit(limit), others.order_by(*order).limit(limit)).subquery()
    nearest = select(beside.c.id).order_by(*_order(beside.c.population, beside.c.id, cursor)).limit(limit).subquery()
    statement = PLACES.join(nearest, nearest.c.id == City.id).order_by(*_order(City.population, City.id, cursor))
    return [Place(*row) for row in await connection.execute(statement)]


def _order(population: Column, id_: Column, cursor: Cursor) -> tuple[Column, Column]:
    return (population, id_.desc()) if cursor.backwards else (population.desc(), id_)
