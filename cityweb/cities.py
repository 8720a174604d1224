"""What can be done with cities: the board, an add, where a city landed."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

import asyncpg
from sqlalchemy import Row, Select, Table, bindparam, func, select, text, true
from sqlalchemy.exc import DBAPIError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, aliased

from cityweb import database, names
from cityweb.models import BOARD_SIZE, City


@dataclass(frozen=True)
class Place:
    """A city as the board shows it, at its rank: equal populations share one (1, 2, 2, 4)."""

    id: int
    name: str
    population: int
    created_at: datetime
    rank: int


@dataclass(frozen=True)
class Stored:
    """A stored city, by its name as it was first written."""

    id: int
    name: str
    population: int


@dataclass(frozen=True)
class Landing:
    """Where a city stands: its age by the database's clock, its rank, and the biggest city that differs in accents."""

    city: Stored
    age: timedelta
    rank: int
    near_miss: Stored | None


# --- the board ---


@dataclass(frozen=True)
class BoardRow:
    """A row of the board; `new` while the city is younger than a minute by the clock of the database."""

    id: int
    name: str
    population: int
    rank: int
    new: bool


@dataclass(frozen=True)
class Leaders:
    """What the board shows: its rows, how many cities there are, and the name of the newest one, if there is any."""

    rows: tuple[BoardRow, ...]
    total: int
    newest: str


LEADERS = f"""
SELECT top.id, top.name, top.population, rank() OVER (ORDER BY top.population DESC),
  top.created_at > now() - interval '60 seconds', counted.total, newest.name
FROM
  (SELECT id, name, population, created_at FROM cities ORDER BY population DESC, id LIMIT {BOARD_SIZE}) AS top,
  (SELECT (SELECT coalesce(sum(cities), 0) FROM tally WHERE shift = 20)
    + (SELECT coalesce(sum(cities), 0) FROM tally_changes) AS total) AS counted,
  (SELECT name FROM cities ORDER BY id DESC LIMIT 1) AS newest
ORDER BY top.population DESC, top.id
"""  # noqa: S608 (a constant of ours)


async def leaders(connection: asyncpg.Connection) -> Leaders:
    """The biggest cities, biggest first; among equals the earliest added first. One statement."""
    found = await connection.fetch(LEADERS)
    rows = tuple(BoardRow(*row[:5]) for row in found)
    return Leaders(rows, int(found[0][5]), found[0][6]) if found else Leaders((), 0, "")


# --- an add ---

TABLE = cast("Table", City.__table__)
# The unique key decides. The look before it only saves the id that a row in conflict would use up.
INSERT = text("""
INSERT INTO cities (name, name_key, name_bare, population)
SELECT :name, :name_key, :name_bare, CAST(:population AS integer)
WHERE NOT EXISTS (SELECT FROM cities WHERE name_key = :name_key)
ON CONFLICT DO NOTHING
RETURNING id, name, population
""")
STORED = select(
    TABLE.c.id,
    TABLE.c.name,
    TABLE.c.population,
    func.extract("epoch", func.now() - TABLE.c.created_at).label("age"),
).where(TABLE.c.name_key == bindparam("name_key"))


async def add(session: AsyncSession, name: str, population: int) -> tuple[Stored, bool]:
    """The stored city of this name, and whether it was this call that stored it.

    One statement, and so its own transaction; the unique key decides. Where its answer was lost, a
    row just like ours that is younger than our first try is ours: nobody hears that somebody else stored the city they
    have just added.
    """
    begun = time.monotonic()
    city = {"name": name, "name_key": names.key(name), "name_bare": names.bare(name), "population": population}

    def insert_or_find(session: Session, is_second_try: bool) -> tuple[Stored, bool]:
        with session:
            if row := session.execute(INSERT, city).one_or_none():
                return Stored(*row), True
            id_, *stored, age = session.execute(STORED, city).one()
        is_ours = is_second_try and stored == [name, population] and age < time.monotonic() - begun
        return Stored(id_, *stored), is_ours

    for is_second_try in (False, True):
        try:
            return await session.run_sync(insert_or_find, is_second_try)
        except (DBAPIError, NoResultFound, ConnectionError) as error:
            # NoResultFound: whoever stored the name removed it between our two statements.
            if is_second_try or not (isinstance(error, NoResultFound) or database.disconnected(error)):
                raise
            await database.breathe()
    raise AssertionError  # pragma: no cover (the second try returns or raises)


async def landing(engine: AsyncEngine, city_id: int) -> Landing | None:
    """Where a city stands, or None where there is none of this number; one query."""

    async def question(connection: AsyncConnection) -> Row[int, str, int, timedelta, int, int, str, int] | None:
        return (await connection.execute(_landing(city_id))).one_or_none()

    row = await database.read(engine, question)
    if row is None:
        return None
    id_, name, population, age, rank, near_id, near_name, near_population = row
    return Landing(
        city=Stored(id_, name, population),
        age=age,
        rank=rank,
        near_miss=Stored(near_id, near_name, near_population) if near_id else None,
    )


def _landing(city_id: int) -> Select[int, str, int, timedelta, int, int, str, int]:
    """The city, its age, its rank, and the biggest of its near misses."""
    near = aliased(City)
    near_miss = (
        select(near.id, near.name, near.population)
        .where(near.name_bare == City.name_bare, near.id != City.id)
        .order_by(near.population.desc(), near.id)
        .limit(1)
        .correlate(City)
        .lateral()
    )
    return (
        select(
            City.id,
            City.name,
            City.population,
            func.now() - City.created_at,
            1 + func.cities_above(City.population),
            near_miss.c.id,
            near_miss.c.name,
            near_miss.c.population,
        )
        .outerjoin(near_miss, true())
        .where(City.id == city_id)
    )
