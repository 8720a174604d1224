"""The checks of the command `check`, each with the fix for a failure."""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import settings
from cityweb.postgres import corrections, database, schema
from cityweb.server import launch
from cityweb.settings import COMMAND, OperatorError
from cityweb.web import assets


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
                found += await _names(connection)
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


def _vendored() -> Iterator[Finding]:
    for name, reviewed in assets.VENDORED.items():
        file = assets.STATIC / name
        if file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() == reviewed:
            yield Finding(name, "as it was reviewed")
        else:
            yield Finding(name, f"not as it was reviewed: run git checkout static/{name}", well=False)
