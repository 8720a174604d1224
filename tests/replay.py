"""The cities that the log of changes leads to, compared with the table."""

from collections.abc import AsyncIterable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import asyncpg

from cityweb import names
from cityweb.postgres.database import DriverConnection
from cityweb.submissions import FIELDS

CITIES = "SELECT id, name, name_key, name_bare, population, country, created_at FROM cities ORDER BY id"
LOG = "SELECT * FROM changes ORDER BY id"
Rows = Iterable[asyncpg.Record]


@dataclass(frozen=True)
class City:
    """All columns of a city that PostgreSQL does not generate."""

    id: int
    name: str
    name_key: str
    name_bare: str
    population: int
    country: str
    created_at: datetime


async def replayed(cities: Rows, log: AsyncIterable[asyncpg.Record]) -> dict[int, City]:
    """The cities after all changes in the order of their ids, from rows of CITIES at the start and of LOG.

    Raises ValueError for a load, whose cities are not in the log, and for a change that the cities do not allow.
    """
    found = {row["id"]: City(**row) for row in cities}
    async for change in log:
        number, id_ = change["id"], change["city_id"]
        old, new = (
            {field: value for field in FIELDS if (value := change[f"{age}_{field}"]) is not None}
            for age in ("old", "new")
        )
        present = found.get(id_)
        match change["kind"]:
            case "add" | "restore" if present is None:
                found[id_] = City(id_, **_with_keys(new), created_at=change["created_at"])
            case "correct" if present and old.keys() == new.keys() and _has(present, old):
                found[id_] = replace(present, **_with_keys(new))
            case "remove" if present and old.keys() == set(FIELDS) and _has(present, old):
                del found[id_]
            case kind:
                raise ValueError(f"change {number}, {kind} {old} to {new}, cannot be replayed on {present}")
    return found


async def differences(connection: DriverConnection, cities: Rows = ()) -> list[str]:
    """How the table differs from the log, replayed from rows of CITIES at the start; empty if it does not."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        try:
            expected = await replayed(cities, connection.cursor(LOG, prefetch=1_000))
        except ValueError as error:
            return [str(error)]
        stored = {row["id"]: City(**row) async for row in connection.cursor(CITIES, prefetch=1_000)}
    return [
        f"city {id_}: by the log {_shown(expected.get(id_))}, stored {_shown(stored.get(id_))}"
        for id_ in sorted(expected.keys() | stored.keys())
        if expected.get(id_) != stored.get(id_)
    ]


def _with_keys(values: dict[str, Any]) -> dict[str, Any]:
    if "name" not in values:
        return values
    return {**values, "name_key": names.key(values["name"]), "name_bare": names.bare(values["name"])}


def _has(city: City, values: dict[str, Any]) -> bool:
    return all(getattr(city, field) == value for field, value in values.items())


def _shown(city: City | None) -> object:
    return asdict(city) if city else "not there"
