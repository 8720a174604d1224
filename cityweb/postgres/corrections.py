"""An operator's changes: correct a population, rename or remove a city."""

from dataclasses import replace

from sqlalchemy import URL, ColumnElement, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names, submissions
from cityweb.postgres import database
from cityweb.postgres.cities import Stored, columns
from cityweb.postgres.tables import City
from cityweb.settings import COMMAND, OperatorError

NEAR_MISSES_MAX = 5
COLUMNS = select(City.id, City.name, City.population, City.country)


async def find(url: URL, city: str | int) -> Stored:
    """The stored city with this id, or with the same key as this name. Raises OperatorError, with near misses."""
    async with database.outside_the_pool(url).connect() as connection:
        if isinstance(city, int):
            if found := await _find_one(connection, City.id == city):
                return found
            raise OperatorError(f"No city has the id {city}: the URL of a city's page ends in its id.")
        if len(city) > submissions.NAME_ENTERED_MAX:
            raise OperatorError(f"No city name is that long: {COMMAND} dump prints all names.")
        if found := await _find_one(connection, City.name_key == names.key(city)):
            return found
        near = COLUMNS.where(City.name_bare == names.bare(city)).order_by(City.population.desc(), City.id)
        near_misses = [near_miss.name for near_miss in await connection.execute(near.limit(NEAR_MISSES_MAX))]
    advice = f"write {' or '.join(near_misses)}" if near_misses else f"{COMMAND} dump prints all names"
    raise OperatorError(f"No city is called {city}: {advice}.")


async def duplicates(connection: AsyncConnection) -> list[Stored]:
    """The cities whose key begins with `names.DUPLICATE`: in a migration, an earlier city got their key."""
    rows = await connection.execute(COLUMNS.where(City.name_key.startswith(names.DUPLICATE)).order_by(City.id))
    return [Stored(*row) for row in rows]


def corrected(city: Stored, population: str) -> Stored:
    """The city with this population, in any form that a visitor may enter.

    Raises OperatorError if it is invalid, or is the city's already.
    """
    try:
        after = replace(city, population=submissions.parse_population(population))
    except ValueError as error:
        raise OperatorError(f"{error} Run the command again with another population.") from error
    if after == city:
        raise OperatorError(f"{city.name} has this population already: run the command again with another one.")
    return after


def renamed(city: Stored, name: str) -> Stored:
    """The city with this name. Raises OperatorError if the name is invalid."""
    try:
        # One of the `duplicates` may be renamed to its own name, whatever rules it breaks.
        valid = submissions.check({"name": name, "population": city.population}, as_stored=name == city.name)
        return replace(city, name=valid.name)
    except submissions.InvalidSubmission as error:
        raise OperatorError(f"{error.errors['name']} Run the command again with another name.") from error


async def store(url: URL, before: Stored, after: Stored) -> None:
    """Stores a changed city. Raises OperatorError if the name is taken, or if `before` is not what is stored."""
    values: dict[str, object] = {"population": after.population}
    if after.population == before.population:
        # Only for a rename: one of the `duplicates` cannot get the key of its name while another city has that key.
        values = columns(after.name)
    statement = update(City).where(*_match_unchanged(before)).values(values)
    try:
        async with database.outside_the_pool(url).begin() as connection:
            _expect_one((await connection.execute(statement)).rowcount)
    except IntegrityError as error:
        raise OperatorError(
            f"{after.name} is already stored: remove one of the two, or choose another name."
        ) from error


async def remove(url: URL, city: Stored) -> None:
    """Removes a city. Raises OperatorError if it has changed."""
    async with database.outside_the_pool(url).begin() as connection:
        _expect_one((await connection.execute(delete(City).where(*_match_unchanged(city)))).rowcount)


async def _find_one(connection: AsyncConnection, condition: ColumnElement[bool]) -> Stored | None:
    row = (await connection.execute(COLUMNS.where(condition))).one_or_none()
    return Stored(*row) if row else None


def _match_unchanged(city: Stored) -> tuple[ColumnElement[bool], ...]:
    """The conditions that the city is still as it was shown to the operator."""
    return City.id == city.id, City.name == city.name, City.population == city.population


def _expect_one(changed: int) -> None:
    if not changed:
        raise OperatorError("The city has just been changed by somebody else: run the command again to see it.")
