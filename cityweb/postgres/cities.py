"""The board, adding a city, and the rank of a new city."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, NoResultFound

from cityweb import names
from cityweb.city import BOARD_SIZE
from cityweb.postgres import database
from cityweb.postgres.database import DatabaseUnavailable, DriverConnection, Session, Unconfirmed, unit_of_work
from cityweb.postgres.networks import ANYBODY, BLOCK, CODES, Author, reject_blocked
from cityweb.postgres.tables import City
from cityweb.submissions import FIELDS, CitySubmission


@dataclass(frozen=True)
class Stored:
    """A stored city, with the stored spelling of its name; `country` is its code, or empty."""

    id: int
    name: str
    population: int
    country: str


@dataclass(frozen=True)
class RankedCity(Stored):
    """A ranked city; cities with equal populations share a rank (1, 2, 2, 4).

    `rank_in_country` is None except for the city of a page, if it has a country, and in the list of a country.
    """

    created_at: datetime
    rank: int
    rank_in_country: int | None


@dataclass(frozen=True)
class Landing:
    """An added city: its age by the database's clock, its rank or 0, the biggest city that differs only in accents.

    `nearby` has the city and its neighbours if it is below the board; `can_undo` is whether the page offers
    to undo the add: the client network is known, and may be the one that added the city.
    """

    city: Stored
    age: timedelta = timedelta()
    rank: int = 0
    near_miss: Stored | None = None
    nearby: tuple[RankedCity, ...] = ()
    can_undo: bool = False


# --- the board ---


@dataclass(frozen=True)
class BoardRow(Stored):
    """A row of the board; `new` if the city is younger than a minute by the database's clock."""

    rank: int
    new: bool


@dataclass(frozen=True)
class Leaders:
    """The board: its rows, the number of all cities, and the name and time of the newest one, if there is one."""

    rows: tuple[BoardRow, ...]
    total: int = 0
    newest: str = ""
    newest_at: datetime | None = None


# The number of cities: the tally and the changes that are not yet folded into it.
TOTAL = """
(SELECT coalesce(sum(cities), 0) FROM tally WHERE shift = 20 AND country = '')
+ (SELECT coalesce(sum(cities), 0) FROM tally_changes)
"""
LEADERS = f"""
WITH top AS MATERIALIZED (
  SELECT id, name, population, country, created_at FROM cities ORDER BY population DESC, -id DESC LIMIT {BOARD_SIZE}
)
SELECT top.id, top.name, top.population, top.country, rank() OVER (ORDER BY top.population DESC),
  top.created_at > now() - interval '60 seconds', {TOTAL}, newest.name, newest.created_at
FROM top, (SELECT name, created_at FROM cities ORDER BY id DESC LIMIT 1) AS newest
ORDER BY top.population DESC, -top.id DESC
"""  # noqa: S608 (no value is put in)


async def leaders(connection: DriverConnection) -> Leaders:
    """The board, biggest city first and, among equals, the earliest added first; read in one statement."""
    found = await connection.fetch(LEADERS)
    rows = tuple(BoardRow(*row[:6]) for row in found)
    return Leaders(rows, int(found[0][6]), *found[0][7:]) if found else Leaders(())


# --- an add ---

COLUMNS = {column: City.__table__.c[column].type for column in (*FIELDS, "name_key", "name_bare")}
"""The columns that are written for a city, with their types; PostgreSQL fills the others."""
_COLUMNS = ", ".join(COLUMNS)
_VALUES = ", ".join(f"(:new_{column})::{type_}" for column, type_ in COLUMNS.items())
# The unique key decides. NOT EXISTS only saves the id that a conflicting row would use up.
INSERT = text(f"""
WITH city AS (
  INSERT INTO cities ({_COLUMNS})
  SELECT {_VALUES}
  WHERE NOT EXISTS (SELECT FROM cities WHERE name_key = :new_name_key) AND NOT EXISTS ({BLOCK})
  ON CONFLICT DO NOTHING
  RETURNING id, {", ".join(FIELDS)}, created_at
)
INSERT INTO changes (kind, city_id, {", ".join(f"new_{field}" for field in FIELDS)}, created_at, network)
SELECT 'add', id, {", ".join(FIELDS)}, created_at, ({CODES})[1] FROM city
RETURNING city_id, {", ".join(f"new_{field}" for field in FIELDS)}
""")  # noqa: S608 (no value is put in)
STORED = text(f"""
SELECT id, name, population, country, extract(epoch FROM now() - created_at) AS age,
  ({_COLUMNS}) IS NOT DISTINCT FROM ({_VALUES}) AS is_same
FROM cities WHERE name_key = :new_name_key
""")  # noqa: S608 (no value is put in)


def columns(name: str, **others: object) -> dict[str, object]:
    """The columns that a name and other entered values fill; for all of them, in the order of `COLUMNS`."""
    return {"name": name, **others, "name_key": names.key(name), "name_bare": names.bare(name)}


async def add(session: Session, city: CitySubmission, author: Author = ANYBODY) -> tuple[Stored, bool]:
    """Adds a city, unless its name is stored. Returns the stored city, and whether this call stored it.

    The insert is one statement and its own transaction; the unique key decides. Raises Blocked, Unconfirmed if its
    result is lost, or DatabaseUnavailable.
    """
    lost: list[float] = []
    try:
        return await _insert_or_find(session, columns(**vars(city)), author, lost)
    except DatabaseUnavailable as error:
        if lost:
            raise Unconfirmed from error
        raise


@unit_of_work
async def _insert_or_find(
    session: Session, values: dict[str, object], author: Author, lost: list[float]
) -> tuple[Stored, bool]:
    """Stores the city, or finds the one with its name. Returns it, and whether an insert of this call stored it.

    If the result of an insert is lost, its time is appended to `lost`. A row with the same values that is younger than
    a lost insert counts as stored by this call. Otherwise a visitor would be told that the city that they have just
    added was already stored.
    """
    await session.connection()  # If this fails, no insert was sent.
    began = time.monotonic()
    parameters = {f"new_{column}": value for column, value in values.items()}
    try:
        row = (await session.execute(INSERT, {**parameters, **author.parameters})).one_or_none()
    except BaseException as error:
        if not isinstance(error, DBAPIError) or database.is_disconnected(error):
            lost.append(began)
        raise
    if row:
        return Stored(*row), True
    stored = (await session.execute(STORED, parameters)).one_or_none()
    if stored is None:
        await reject_blocked(session, author, values["name_key"])
        raise NoResultFound  # The city was removed in between; the unit of work is run once more.
    is_ours = bool(lost) and stored.is_same and stored.age < time.monotonic() - lost[0]
    return Stored(*stored[:4]), is_ours


NAMED = text("SELECT id, name, population, country FROM cities WHERE name_key = :key")


@unit_of_work
async def find_named(session: Session, name: str) -> Stored | None:
    """The city that has a name. Raises DatabaseUnavailable."""
    row = (await session.execute(NAMED, {"key": names.key(name)})).one_or_none()
    return Stored(*row) if row else None


# All cities that differ only in accents are found before the LIMIT applies: with the LIMIT in the same query, a plan
# could walk the whole board.
LANDING = text("""
WITH city AS MATERIALIZED (
  SELECT * FROM cities WHERE id = (SELECT CAST(:id AS int))
), near AS MATERIALIZED (
  SELECT id, name, population, country FROM cities
  WHERE name_bare = (SELECT name_bare FROM city) AND id <> (SELECT id FROM city)
)
SELECT city.id, city.name, city.population, city.country, now() - city.created_at, 1 + above, near.*
FROM city CROSS JOIN LATERAL cities_above(city.population)
LEFT JOIN (SELECT * FROM near ORDER BY population DESC, id LIMIT 1) AS near ON true
""")


@unit_of_work
async def landing(session: Session, city_id: int) -> Landing | None:
    """The city with this id and its rank, or None if there is no such city. Raises DatabaseUnavailable."""
    row = (await session.execute(LANDING, {"id": city_id})).one_or_none()
    if row is None:
        return None
    city, (age, rank), near = row[:4], row[4:6], row[6:]
    return Landing(Stored(*city), age, rank, Stored(*near) if near[0] else None)


# The key of "Paris, Texas" begins with that of "Paris", a comma and a space; the exclamation mark follows the space.
# With both bounds in one WHERE, the planner would expect few rows, and sort them. Only the first 200 are compared, so
# that the time is bounded.
NAMESAKES = text("""
WITH asked AS MATERIALIZED (SELECT CAST(:key AS text) AS key)
SELECT id, name, population, country FROM (
  (SELECT * FROM cities WHERE name_key = (SELECT key FROM asked) LIMIT 1)
  UNION ALL
  SELECT * FROM (
    SELECT * FROM cities WHERE name_key > (SELECT key || ', ' FROM asked) ORDER BY name_key LIMIT 200
  ) AS next WHERE name_key < (SELECT key || ',!' FROM asked)
) AS namesakes
ORDER BY population DESC, id LIMIT 3
""")


@unit_of_work
async def namesakes(session: Session, name: str) -> tuple[Stored, ...]:
    """The three biggest cities with this name, with a place after it or without. Raises DatabaseUnavailable."""
    return tuple(Stored(*row) for row in await session.execute(NAMESAKES, {"key": names.key(name)}))
