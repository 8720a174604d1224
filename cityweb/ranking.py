"""The whole ranking: a page of it, a search in it, one city between its neighbours, the newest. It only reads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Row,
    Select,
    SQLColumnExpression,
    Text,
    TextClause,
    bindparam,
    case,
    func,
    literal_column,
    select,
    text,
    union_all,
)
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names
from cityweb.cities import Place
from cityweb.models import ID_MAX, POPULATION_MAX, City, Tally, TallyChange, Word

PAGE_SIZE = 50
NEIGHBOURS = 3
"""How many cities are shown above and below one."""
NEWEST = 50
MATCHES_MAX = 5_000
"""Words. A search that finds more is not counted, but walks the words of its first letter in the order of the board."""
SHIFTS = (0, 5, 10, 15)
TOP_SHIFT = 20
"""The tally counts cities in buckets of 1, 32, 1,024, 32,768 people, and of 1,048,576, which are the fewest."""
LAST_CHARACTER = "\U0010ffff"

Column = SQLColumnExpression[int]
Beside = Mapping[bool, TextClause]
"""The statement that reads the cities after a cursor, and the one for those before it, by whether it goes backwards."""
NOTHING: Mapping[str, str] = {}


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


async def page(connection: AsyncConnection, cursor: Cursor = START) -> Page:
    """The cities after a cursor, or before it."""
    return await _page(connection, EVERYTHING, cursor, await connection.scalar(STORED), {})


async def search(connection: AsyncConnection, words: str, cursor: Cursor = START) -> Page:
    """The cities with a word that begins so, whatever its case and accents, as a page of the ranking."""
    # PostgreSQL has no NUL in a text.
    given = {"beginning": names.bare(words.replace("\0", " "))}
    found, total = (await connection.execute(MATCHES, {**given, "most": MATCHES_MAX + 1})).one()
    return await _page(connection, MANY if found > MATCHES_MAX else FEW, cursor, total, given)


async def surroundings(connection: AsyncConnection, city_id: int) -> Surroundings | None:
    """A city and its neighbours, or None where there is none of this number."""
    row = (await connection.execute(ONE, {"id": city_id})).one_or_none()
    if row is None:
        return None
    city = Place(*row)
    above = await _beside(connection, EVERYTHING, Cursor(city.population, city_id, backwards=True), NEIGHBOURS)
    below = await _beside(connection, EVERYTHING, Cursor(city.population, city_id), NEIGHBOURS)
    return Surroundings(tuple(reversed(above)), city, tuple(below))


async def newest(connection: AsyncConnection) -> Sequence[Row[int, str, int, datetime]]:
    """The cities that were added last, the last first."""
    return (await connection.execute(NEWEST_CITIES)).all()


async def _page(
    connection: AsyncConnection, beside: Beside, cursor: Cursor, total: int | None, given: Mapping[str, str]
) -> Page:
    """The cities beside a cursor; one more is read than a page has, which says whether there is another page."""
    places = await _beside(connection, beside, cursor, PAGE_SIZE + 1, given)
    if cursor.backwards and len(places) <= PAGE_SIZE:
        # The first page is always a full one, whoever was added or removed since the last look.
        cursor = START
        places = await _beside(connection, beside, cursor, PAGE_SIZE + 1, given)
    more, places = len(places) > PAGE_SIZE, places[:PAGE_SIZE]
    if cursor.backwards:
        places.reverse()
    # After the last city there is nothing to begin from but the cursor, whose own city comes before.
    first, last = (places[0], places[-1]) if places else (Cursor(cursor.population, min(cursor.id + 1, ID_MAX)), cursor)
    return Page(
        tuple(places),
        total,
        previous=Cursor(first.population, first.id, backwards=True) if cursor != START else None,
        next=Cursor(last.population, last.id) if more or cursor.backwards else None,
    )


async def _beside(
    connection: AsyncConnection, beside: Beside, cursor: Cursor, limit: int, given: Mapping[str, str] = NOTHING
) -> list[Place]:
    """The nearest cities beside a cursor, the nearest first."""
    values = {**given, "population": cursor.population, "id": cursor.id, "limit": limit}
    return [Place(*row) for row in await connection.execute(beside[cursor.backwards], values)]


# --- the statements, each built once: that takes longer than PostgreSQL takes to answer ---


def _ready(statement: Select[*tuple[Any, ...]]) -> TextClause:
    """The statement as text, the values that are in it already bound."""
    compiled = statement.compile(dialect=PGDialect(paramstyle="named"))  # type: ignore[no-untyped-call]
    known = {name: value for name, value in compiled.params.items() if value is not None}
    return text(str(compiled)).bindparams(**known)


def _both_ways(
    found: Select[int, int], population: Column, id_: Column, rank: Callable[[CTE], ColumnElement[int]]
) -> Beside:
    """The cities after a cursor, and before it, of those that are found; `found` selects the two columns.

    Those of the same population and all others are two ranges of an index; one condition for both would read every
    equal before the cursor as well, and there can be very many.
    """

    def beside(*, backwards: bool) -> TextClause:
        order = _order(population, id_, backwards)
        nearer = id_ < AT_ID if backwards else id_ > AT_ID
        equals = found.where(population == AT_POPULATION, nearer).order_by(*order).limit(LIMIT)
        others = found.where(population > AT_POPULATION if backwards else population < AT_POPULATION)
        both = union_all(equals, others.order_by(*order).limit(LIMIT)).subquery()
        nearest = select(both.c.id).order_by(*_order(both.c.population, both.c.id, backwards)).limit(LIMIT).subquery()
        here = CITY.join(nearest, nearest.c.id == City.id).cte("here")
        return _ready(select(here, rank(here)).order_by(*_order(here.c.population, here.c.id, backwards)))

    return {backwards: beside(backwards=backwards) for backwards in (False, True)}


def _rank_of_each(here: CTE) -> ColumnElement[int]:
    """The rank of rows from anywhere.

    It is `cities_above`, written out: that PostgreSQL begins and ends a function's query for each row costs most of it.
    """
    people = here.c.population
    above = [_in_buckets(people, shift, _bucket(people, shift).op("|")(_number(31))) for shift in SHIFTS]
    above.append(_in_buckets(people, TOP_SHIFT, _number(POPULATION_MAX >> TOP_SHIFT)))
    changes = select(func.coalesce(func.sum(TallyChange.cities), _number(0))).where(TallyChange.population > people)
    return sum(above, _number(1) + changes.scalar_subquery())


def _in_buckets(people: ColumnElement[int], shift: int, last: ColumnElement[int]) -> ColumnElement[int]:
    """How many cities are in the buckets above that of these people, as far as the last."""
    above = (Tally.shift == _number(shift)) & (Tally.bucket > _bucket(people, shift)) & (Tally.bucket <= last)
    return select(func.coalesce(func.sum(Tally.cities), _number(0))).where(above).scalar_subquery()


def _bucket(people: ColumnElement[int], shift: int) -> ColumnElement[int]:
    return people.op(">>")(_number(shift))


def _number(value: int) -> ColumnElement[int]:
    """A number that is part of the statement."""
    return literal_column(str(value), Integer)


def _rank_in_stretch(here: CTE) -> ColumnElement[int]:
    """The rank of rows that follow each other in the ranking: two counts give all of them."""
    top = select(func.max(here.c.population)).scalar_subquery()
    above = select(func.cities_above(top)).scalar_subquery()
    down_to_top = select(func.cities_above(func.greatest(top - 1, 0))).scalar_subquery()
    is_top = here.c.population == top
    below_top = func.rank().over(order_by=here.c.population.desc()) - func.count().filter(is_top).over()
    return case((is_top, above + 1), else_=down_to_top + below_top)


def _order(population: Column, id_: Column, backwards: bool) -> tuple[Column, Column]:
    return (population, id_.desc()) if backwards else (population.desc(), id_)


AT_POPULATION, AT_ID = bindparam("population", type_=Integer), bindparam("id", type_=Integer)
LIMIT = bindparam("limit", type_=Integer)
BEGINNING = func.spaced(bindparam("beginning", type_=Text))

CITY = select(City.id, City.name, City.population, City.created_at)
ONE = _ready(CITY.add_columns(1 + func.cities_above(City.population)).where(City.id == AT_ID))
NEWEST_CITIES = _ready(CITY.order_by(City.id.desc()).limit(NEWEST))
STORED = _ready(
    select(
        select(func.coalesce(func.sum(Tally.cities), 0)).where(Tally.shift == TOP_SHIFT).scalar_subquery()
        + select(func.coalesce(func.sum(TallyChange.cities), 0)).scalar_subquery()
    )
)
EVERYTHING = _both_ways(select(City.population, City.id), City.population, City.id, _rank_in_stretch)

IN_RANGE = (Word.suffix >= BEGINNING) & (Word.suffix < BEGINNING.concat(LAST_CHARACTER)) & (BEGINNING != "")
# As many words as are counted, and one more.
MOST = bindparam("most", type_=Integer)
WORDS = select(func.count().label("words")).select_from(select(Word.city_id).where(IN_RANGE).limit(MOST).subquery())
COUNTED = WORDS.subquery()
CITIES = select(func.count(Word.city_id.distinct())).where(IN_RANGE).scalar_subquery()
MATCHES = _ready(select(COUNTED.c.words, case((COUNTED.c.words < MOST, CITIES), else_=None)))
_few = select(Word.population, Word.city_id.label("id")).where(IN_RANGE).distinct().cte("few")
FEW = _both_ways(select(_few.c.population, _few.c.id), _few.c.population, _few.c.id, _rank_of_each)
ONE_LETTER: SQLColumnExpression[int] = literal_column("1")  # a value given apart would not be the index's own
# The beginning is compared in a way that no index knows, so that the planner walks `words_board` in its order.
MANY = _both_ways(
    select(Word.population, Word.city_id.label("id"))
    .where(func.left(Word.suffix, ONE_LETTER) == func.left(BEGINNING, ONE_LETTER))
    .where(func.left(Word.suffix, func.length(BEGINNING)) == BEGINNING)
    .distinct(),
    Word.population,
    Word.city_id,
    _rank_of_each,
)
