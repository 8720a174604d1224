"""Many cities at once: loaded from a file under the rules of the form, and dumped to one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import database, forms, names
from cityweb.files import Format, Line

BATCH = 5_000
"""Lines that are checked and sent together: what a load keeps in memory."""
PROBLEMS_SHOWN = 20
LOAD_LOCK = 0x6C6F6164
"""The advisory lock, "load", that lets one load at a time store: two could wait for each other's names."""

# A role may have timeouts for the site, and standard input may take its time.
PATIENT = """
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0
"""
STAGE = """
CREATE TEMPORARY TABLE arrivals (
  line bigint, name text, name_key text COLLATE "C", name_bare text COLLATE "C", population integer
) ON COMMIT DROP
"""
COLUMNS = ("line", "name", "name_key", "name_bare", "population")
IS_EMPTY = text("SELECT NOT EXISTS (SELECT FROM cities)")
STORED = text("SELECT name_key FROM cities WHERE name_key = ANY (:keys)")
UPDATE = """
UPDATE cities SET name = arrived.name, name_bare = arrived.name_bare, population = arrived.population
FROM (SELECT DISTINCT ON (name_key) * FROM arrivals ORDER BY name_key, line) AS arrived
WHERE cities.name_key = arrived.name_key
  AND (cities.name, cities.population) IS DISTINCT FROM (arrived.name, arrived.population)
"""
# The unique key decides. The look before it only saves the numbers that rows in conflict would use up.
INSERT = """
INSERT INTO cities (name, name_key, name_bare, population)
SELECT name, name_key, name_bare, population FROM arrivals
WHERE NOT EXISTS (SELECT FROM cities WHERE cities.name_key = arrivals.name_key)
ORDER BY line
ON CONFLICT DO NOTHING
"""


Arrival = tuple[int, str, str, str, int]
"""What `COLUMNS` say of a line."""
Refuse = Callable[[Line, str], None]


class Copy(NamedTuple):
    """How PostgreSQL writes a format by itself."""

    query: str
    header: bool = True
    delimiter: str = ","
    quote: str = '"'
    # Some spreadsheets split at a semicolon too, and stored names may have one.
    force_quote: Sequence[str] | None = ("name",)


BOARD_ORDER = "SELECT name, population FROM cities ORDER BY population DESC, -id DESC"
JSON_BOARD_ORDER = """
SELECT row_to_json(city) FROM (SELECT name, population FROM cities ORDER BY population DESC, -id DESC) AS city
"""
COPIES = {
    Format.CSV: Copy(BOARD_ORDER),
    # JSON has no control characters, so with these PostgreSQL quotes nothing.
    Format.JSONL: Copy(JSON_BOARD_ORDER, header=False, delimiter="\x02", quote="\x01", force_quote=None),
}


@dataclass
class Outcome:
    """What became of the lines of a file."""

    read: int = 0
    added: int = 0
    updated: int | None = None
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        updated = "" if self.updated is None else f", {self.updated:,} updated"
        stored = self.read - self.added - (self.updated or 0) - self.refused
        return f"{self.read:,} read, {self.added:,} added{updated}, {stored:,} already stored, {self.refused:,} refused"


class Refused(Exception):
    """Lines of a file are wrong, and so nothing of it was stored; the text names the lines."""


class Stopped(Exception):
    """The database gave up in the middle; the text says why and what to do."""


async def load(
    url: URL,
    lines: Iterable[Line],
    *,
    skipping: AbstractContextManager[Callable[[Line, str], None]] | None = None,
    update: bool = False,
    read: Callable[[], None] = lambda: None,
) -> Outcome:
    """Stores the cities of a file, all or, where it is interrupted at any moment, none.

    Where a line is wrong, `skipping` is told and the others are stored; without it none is, and Refused is raised. Of
    one name the first line counts. With `update` a stored city becomes as the file has it. `read` is called after each
    batch. A name that breaks only a rule newer than the list is kept where it is stored, or no city was.
    """
    outcome = Outcome(updated=0 if update else None)
    # What is skipped is written down before the commit.
    async with database.outside_the_pool(url).begin() as connection:
        with skipping or nullcontext() as refuse:
            await connection.execute(text(STAGE))
            driver = await _driver(connection)
            await driver.execute(PATIENT)
            arriving = _arrivals(lines, outcome, refuse)
            while batch := list(islice(arriving, BATCH)):
                batch = await _without_newer_problems(connection, batch, outcome, refuse)
                # After a line that refuses the whole file, the rest is read for its problems only.
                if skipping or not outcome.refused:
                    with _explained():
                        await driver.copy_records_to_table("arrivals", records=batch, columns=COLUMNS)
                read()
            if outcome.refused and not skipping:
                raise Refused(_sentences(outcome))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOAD_LOCK})
            await connection.execute(text("ANALYZE arrivals"))
            with _explained():
                if update:
                    outcome.updated = (await connection.execute(text(UPDATE))).rowcount
                outcome.added = (await connection.execute(text(INSERT))).rowcount
    return outcome


async def dump(url: URL, write: Callable[[bytes], None], format_: Format) -> None:
    """Writes all cities in the order of the board, as one moment has them, bit by bit. Raises Stopped."""
    copy = COPIES[format_]

    async def write_on(some: bytes) -> None:
        write(some)

    async with database.outside_the_pool(url).connect() as connection:
        driver = await _driver(connection)
        try:
            with _explained():
                await driver.execute(f"BEGIN; {PATIENT}")
                await driver.copy_from_query(
                    copy.query,
                    output=write_on,
                    format="csv",
                    header=copy.header,
                    delimiter=copy.delimiter,
                    quote=copy.quote,
                    force_quote=copy.force_quote,
                )
        finally:
            # Where `write` fails, asyncpg cancels a query that may have ended, and would wait for that for ever.
            driver.terminate()


def _arrivals(lines: Iterable[Line], outcome: Outcome, refuse: Refuse | None) -> Iterator[Arrival]:
    """The rows to be staged; what is refused is counted and told."""
    for line in lines:
        outcome.read += 1
        problem = line.problem
        if not problem:
            try:
                city = forms.check(line.values, as_stored=True)
            except forms.SubmissionRefused as refusal:
                problem = ". ".join(refusal.errors.values())
            else:
                yield line.number, city.name, names.key(city.name), names.bare(city.name), city.population
                continue
        _reject(line, problem, outcome, refuse)


async def _without_newer_problems(
    connection: AsyncConnection, batch: list[Arrival], outcome: Outcome, refuse: Refuse | None
) -> list[Arrival]:
    """The rows whose names break no rule, or are stored, or all where no city is; the others are rejected."""
    problems = {number: problem for number, name, *_ in batch if (problem := forms.newer_problem(name))}
    # The table of cities is looked at only where it must be: the look locks it against migrations until the load ends.
    if not problems or await connection.scalar(IS_EMPTY):
        return batch
    keys = [key for number, _, key, *_ in batch if number in problems]
    stored = set(await connection.scalars(STORED, {"keys": keys}))
    kept = []
    for row in batch:
        number, name, key, _, population = row
        if number in problems and key not in stored:
            _reject(Line(number, "", {"name": name, "population": population}), problems[number], outcome, refuse)
        else:
            kept.append(row)
    return kept


def _reject(line: Line, problem: str, outcome: Outcome, refuse: Refuse | None) -> None:
    outcome.refused += 1
    if len(outcome.problems) < PROBLEMS_SHOWN:
        outcome.problems.append(f"Line {line.number:,}: {problem}.")
    if refuse:
        refuse(line, problem)


def _sentences(outcome: Outcome) -> str:
    sentences = outcome.problems.copy()
    if more := outcome.refused - len(outcome.problems):
        sentences.append(f"And {more:,} more.")
    sentences.append(
        f"Nothing was stored: {outcome.refused:,} of {outcome.read:,} lines are refused."
        " Mend them, or go on without them: add --skip-bad."
    )
    return "\n".join(sentences)


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    """The connection under SQLAlchemy's, for COPY, which SQLAlchemy does not know."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection)  # noqa: S101 (for the types)
    return driver


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig else None  # asyncpg's, which names the city
        if not isinstance(cause, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError):
            raise
        reason = str(cause).replace("\nDETAIL:  ", ". ").rstrip(".")
        raise Stopped(f"The database refuses a city: {reason}. Nothing was stored. Take it out of the file.") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, ConnectionError) as error:
        raise Stopped(f"The database gave up ({error}): see to it, and run the command again.") from error
