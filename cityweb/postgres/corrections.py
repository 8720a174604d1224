"""What an operator mends: a population, a name, or that a city is there at all."""

from dataclasses import replace

from sqlalchemy import URL, ColumnElement, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names, submissions
from cityweb.postgres import database
from cityweb.postgres.cities import Stored
from cityweb.postgres.tables import City
from cityweb.settings import COMMAND

NEAR_MISSES_MAX = 5


class CannotCorrect(Exception):
    """A correction that is not possible; the text says why and what to do."""


COLUMNS = select(City.id, City.name, City.population)


async def find(url: URL, name: str) -> Stored:
    """The stored city of this name, found as the site finds it. Raises CannotCorrect with the near misses."""
    if len(name) > submissions.NAME_ENTERED_MAX:
        raise CannotCorrect(f"No city has so long a name: {COMMAND} dump prints all names.")
    near = COLUMNS.where(City.name_bare == names.bare(name)).order_by(City.population.desc(), City.id)
    async with database.outside_the_pool(url).connect() as connection:
        if city := await _one(connection, City.name_key == names.key(name)):
            return city
        near_misses = [city.name for city in await connection.execute(near.limit(NEAR_MISSES_MAX))]
    if near_misses:
        raise CannotCorrect(f"No city is called {name}: write {' or '.join(near_misses)}.")
    raise CannotCorrect(f"No city is called {name}: {COMMAND} dump prints all names.")


async def find_by_id(url: URL, city_id: int) -> Stored:
    """The stored city with this id. Raises CannotCorrect."""
    async with database.outside_the_pool(url).connect() as connection:
        if city := await _one(connection, City.id == city_id):
            return city
    raise CannotCorrect(f"No city has the id {city_id}: the URL of a city's page ends in its id.")


async def duplicates(connection: AsyncConnection) -> list[Stored]:
    """The cities whose key begins with `names.DUPLICATE`: an earlier city had their name when keys changed."""
    rows = await connection.execute(COLUMNS.where(City.name_key.startswith(names.DUPLICATE)).order_by(City.id))
    return [Stored(*row) for row in rows]


def corrected(city: Stored, population: str) -> Stored:
    """The city with this population, written as a visitor may write it. Raises CannotCorrect."""
    try:
        return replace(city, population=submissions.parse_population(population))
    except ValueError as error:
        raise CannotCorrect(f"{error}: correct it, and run the command again.") from error


def renamed(city: Stored, name: str) -> Stored:
    """The city with this name, under the rules for names. Raises CannotCorrect."""
    try:
        return replace(city, name=submissions.check({"name": name, "population": city.population}).name)
    except submissions.InvalidSubmission as refusal:
        raise CannotCorrect(f"{refusal.errors['name']}: run the command again with another name.") from refusal


async def store(url: URL, before: Stored, after: Stored) -> None:
    """Replaces a city by what is right. Raises CannotCorrect where the name is taken or the city has changed."""
    values: dict[str, object] = {"population": after.population}
    if after.population == before.population:
        # Not always: one of the `duplicates` cannot have the key of its name as long as another city has that.
        values = {"name": after.name, "name_key": names.key(after.name), "name_bare": names.bare(after.name)}
    statement = update(City).where(*_is(before)).values(values)
    try:
        async with database.outside_the_pool(url).begin() as connection:
            _expect_one((await connection.execute(statement)).rowcount)
    except IntegrityError as error:
        raise CannotCorrect(
            f"{after.name} is already stored: remove one of the two, or choose another name."
        ) from error


async def remove(url: URL, city: Stored) -> None:
    """Takes a city out. Raises CannotCorrect where it has changed."""
    async with database.outside_the_pool(url).begin() as connection:
        _expect_one((await connection.execute(delete(City).where(*_is(city)))).rowcount)


async def _one(connection: AsyncConnection, condition: ColumnElement[bool]) -> Stored | None:
    row = (await connection.execute(COLUMNS.where(condition))).one_or_none()
    return Stored(*row) if row else None


def _is(city: Stored) -> tuple[ColumnElement[bool], ...]:
    """The city as it was shown before somebody agreed."""
    return City.id == city.id, City.name == city.name, City.population == city.population


def _expect_one(changed: int) -> None:
    if not changed:
        raise CannotCorrect("The city has just been changed by somebody else: run the command again to see it.")
