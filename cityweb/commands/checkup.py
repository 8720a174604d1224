"""The checks of the command `check`, each with the fix for a failure."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import settings
from cityweb.postgres import corrections, database, history, moderation, schema
from cityweb.server import launch
from cityweb.settings import COMMAND, OperatorError
from cityweb.web import assets

NAMED = 3
"""How many cities a finding names."""


@dataclass(frozen=True)
class Finding:
    """The result of one check; for a failure, `words` give the reason and the fix."""

    subject: str
    words: str
    well: bool = True

    def __str__(self) -> str:
        return f"{'ok   ' if self.well else 'WRONG'}  {self.subject}: {self.words}"


def findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Runs the checks one after another; those that need an unavailable database are left out."""
    try:
        read = settings.read(environment)
    except OperatorError as error:
        yield Finding("settings", str(error), well=False)
    else:
        yield Finding("settings", "all can be used")
        try:
            # The checks use the application's role, because the application has to work with the database.
            with launch.database_urls(read) as (_, url):
                yield from asyncio.run(_database(url))
        except OperatorError as error:
            yield Finding("database", str(error), well=False)
    yield from _vendored()


async def _database(url: URL) -> list[Finding]:
    with launch.translate_errors(url):
        async with database.outside_the_pool(url).connect() as connection:
            found = [Finding("database", f"{launch.server_name(url)} answers")]
            if await schema.is_current(connection):
                found.append(Finding("schema", "the one this code was written for"))
                await schema.remove_time_limits(connection)
                found += [*await _names(connection), await _history(connection), await _log(connection)]
            else:
                wrong = f"not the one this code was written for: run {COMMAND} initdb"
                found.append(Finding("schema", wrong, well=False))
            try:
                await schema.reject_unsafe(connection)
            except schema.UnfitDatabase as error:
                found.append(Finding("durability", str(error), well=False))
            else:
                found.append(Finding("durability", f"{', '.join(schema.UNSAFE_SETTINGS)} are on"))
    return found


async def _names(connection: AsyncConnection) -> list[Finding]:
    found = [
        Finding(
            "names",
            f"{city.name} (id {city.id}) was stored beside an earlier city of the same name:"
            f" run {COMMAND} remove --id {city.id}, or rename --id {city.id} NAME",
            well=False,
        )
        for city in await corrections.duplicates(connection)
    ]
    return found or [Finding("names", "each is stored once")]


async def _history(connection: AsyncConnection) -> Finding:
    broken = await history.broken(connection)
    if not broken:
        return Finding("history", "every city is what the log of changes says")
    cities = [f"{name or 'a removed city'} (id {city_id})" for city_id, name in broken[:NAMED]]
    more = f" and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
    return Finding(
        "history",
        f"{', '.join(cities)}{more} changed without the log of changes, probably in psql."
        f" Use {COMMAND} correct, rename or remove instead; to begin the history of a city anew,"
        " delete its rows from the table changes in psql",
        well=False,
    )


async def _log(connection: AsyncConnection) -> Finding:
    is_owner, may_change = await moderation.log_rights(connection)
    if is_owner:
        words = "this role owns the tables, so it can also change the log: to prevent that, serve as cityweb_app"
        return Finding("log", words)
    if may_change:
        revoke = "REVOKE UPDATE, DELETE, TRUNCATE ON changes FROM the role that serves"
        return Finding("log", f"the role that serves may change it: run {revoke}, as the owner", well=False)
    return Finding("log", "the role that serves can only append to it")


def _vendored() -> Iterator[Finding]:
    for name, reviewed in assets.VENDORED.items():
        file = assets.STATIC / name
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == reviewed:
            yield Finding(name, "as it was reviewed")
        else:
            yield Finding(name, f"not as it was reviewed: run git checkout static/{name}", well=False)
