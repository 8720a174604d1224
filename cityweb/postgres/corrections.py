"""An operator's changes of one city: correct its population or country, rename or remove it."""

from dataclasses import replace

from sqlalchemy import URL, ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import countries, names, submissions
from cityweb.population import parse_population
from cityweb.postgres import changes, database
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchCity
from cityweb.postgres.cities import Stored
from cityweb.postgres.networks import Author
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


def corrected(city: Stored, population: str, country: str | None = None) -> Stored:
    """The city with this population, in any form that a visitor may enter, and with this country unless it is None.

    Raises OperatorError if one is invalid, or if the city has both already.
    """
    try:
        after = replace(city, population=parse_population(population))
        if country is not None:
            after = replace(after, country=countries.parse(country) if country else "")
    except ValueError as error:
        raise OperatorError(f"{error} Run the command again with another value.") from error
    if after == city:
        what = "population" if country is None else "population and this country"
        raise OperatorError(f"{city.name} has this {what} already: run the command again with another value.")
    return after


def renamed(city: Stored, name: str) -> Stored:
    """The city with this name. Raises OperatorError if the name is invalid."""
    try:
        # One of the `duplicates` may be renamed to its own name, whatever rules it breaks.
        valid = submissions.check({"name": name, "population": city.population}, as_stored=name == city.name)
        return replace(city, name=valid.name)
    except submissions.InvalidSubmission as error:
        raise OperatorError(f"{error.errors['name']} Run the command again with another name.") from error


async def store(url: URL, before: Stored, after: Stored, reason: str | None = None) -> None:
    """Stores a changed city, whose name is not blocked any more.

    Raises OperatorError if the name is taken, or if `before` is not what is stored.
    """
    # Without a difference, it is a rename of one of the `duplicates` to its own name, which gives it the key.
    fields = [name for name in submissions.FIELDS if getattr(before, name) != getattr(after, name)] or ["name"]
    old, new = ({name: getattr(city, name) for name in fields} for city in (before, after))
    try:
        async with database.outside_the_pool(url).begin() as connection:
            await changes.correct(connection, before.id, old, new, Author(is_operator=True, reason=reason))
    except NameTaken as error:
        raise OperatorError(
            f"{after.name} is already stored: remove one of the two, or choose another name."
        ) from error
    except (Conflict, NoSuchCity) as error:
        raise OperatorError(CHANGED) from error


async def remove(url: URL, city: Stored, reason: str | None = None) -> None:
    """Removes a city, whose name visitors cannot store any more. Raises OperatorError if it has changed."""
    try:
        async with database.outside_the_pool(url).begin() as connection:
            await changes.remove(connection, city, Author(is_operator=True, reason=reason))
    except (Conflict, NoSuchCity) as error:
        raise OperatorError(CHANGED) from error


CHANGED = "The city has just been changed by somebody else: run the command again to see it."


async def _find_one(connection: AsyncConnection, condition: ColumnElement[bool]) -> Stored | None:
    row = (await connection.execute(COLUMNS.where(condition))).one_or_none()
    return Stored(*row) if row else None
