"""Many cities at once: loaded from a file under the rules of the form, and dumped to one."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names, submissions
from cityweb.files import Format, Line
from cityweb.postgres import database

BATCH = 1_000
"""Lines that are checked at a stretch, while PostgreSQL stores those before."""
PROBLEMS_SHOWN = 20
LOAD_LOCK = 0x6C6F6164
"""The advisory lock, "load", that lets one load at a time store: two could wait for each other's names."""

# A role may have timeouts for the site, and standard input may take its time.
PATIENT = """
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0
"""
STAGE = """
CREATE TEMPORARY TABLE arrivals (
  line bigint, name text, name_key text COLLATE "C", name_bare text COLLATE "C", population integer, problem text
) ON COMMIT DROP
"""
COLUMNS = ("line", "name", "name_key", "name_bare", "population", "problem")
# The lines whose name breaks a rule newer than the list: they stay where it is stored, and where no city is.
REJECT = """
DELETE FROM arrivals
WHERE problem <> '' AND EXISTS (SELECT FROM cities)
  AND NOT EXISTS (SELECT FROM cities WHERE cities.name_key = arrivals.name_key)
RETURNING line, name, population, problem
"""
# Of one name the first line counts.
FIRST_LINES = "(SELECT DISTINCT ON (name_key) * FROM arrivals ORDER BY name_key, line) AS arrived"
# Gives stored cities the name and the population of the file.
UPDATE = f"""
UPDATE cities SET name = arrived.name, name_bare = arrived.name_bare, population = arrived.population
FROM {FIRST_LINES}
WHERE cities.name_key = arrived.name_key
  AND (cities.name, cities.population) IS DISTINCT FROM (arrived.name, arrived.population)
"""  # noqa: S608 (no value is put in)
# The unique key decides, if it is there. The look before it saves the ids that rows in conflict would use up.
INSERT = f"""
INSERT INTO cities (name, name_key, name_bare, population)
SELECT name, name_key, name_bare, population FROM {FIRST_LINES}
WHERE NOT EXISTS (SELECT FROM cities WHERE cities.name_key = arrived.name_key)
ORDER BY line
ON CONFLICT DO NOTHING
"""  # noqa: S608 (no value is put in)
# How each index of the cities is dropped and made again: for whoever may, while the table is empty.
INDEXES = text("""
SELECT
  CASE WHEN conname IS NULL THEN format('DROP INDEX %s', indexrelid::regclass)
    ELSE format('ALTER TABLE cities DROP CONSTRAINT %I', conname) END,
  CASE WHEN conname IS NULL THEN pg_get_indexdef(indexrelid)
    ELSE format('ALTER TABLE cities ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(pg_constraint.oid)) END
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid LEFT JOIN pg_constraint ON conindid = indexrelid
WHERE indrelid = 'cities'::regclass AND pg_has_role(relowner, 'USAGE') AND NOT EXISTS (SELECT FROM cities)
""")


# All cities, in the order of the board.
BOARD_ORDER = "SELECT name, population FROM cities ORDER BY population DESC, -id DESC"
# How PostgreSQL writes a format by itself.
COPIES: dict[Format, dict[str, Any]] = {
    # Some spreadsheets split at a semicolon too, and stored names may have one.
    Format.CSV: {"query": BOARD_ORDER, "header": True, "force_quote": ("name",)},
    # JSON has no control characters, so with these PostgreSQL quotes nothing.
    Format.JSONL: {
        "query": f"SELECT row_to_json(city) FROM ({BOARD_ORDER}) AS city",  # noqa: S608 (no value is put in)
        "delimiter": "\x02",
        "quote": "\x01",
    },
}
Refuse = Callable[[Line, str], None]


@dataclass
class Outcome:
    """What became of the lines of a file."""

    read: int = 0
    added: int = 0
    updated: int | None = None
    refused: int = 0
    problems: list[str] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        updated = "" if self.updated is None else f", {self.updated:,} updated"
        stored = self.read - self.added - (self.updated or 0) - self.refused
        return (
            f"{self.read:,} read, {self.added:,} added{updated}, {stored:,} already stored, {self.refused:,} refused"
            f"{self.note}"
        )


class Refused(Exception):
    """Lines of a file are wrong, and so nothing of it was stored; the text names the lines."""


class Stopped(Exception):
    """The database gave up in the middle; the text says why and what to do."""


async def load(
    url: URL,
    lines: Iterable[Line],
    *,
    skipping: AbstractContextManager[Refuse] | None = None,
    update: bool = False,
    read: Callable[[], None] = lambda: None,
) -> Outcome:
    """Stores the cities of a file, all or, where it is interrupted at any moment, none.

    Where a line is wrong, `skipping` is told and the others are stored; without it none is, and Refused is raised. Of
    one name the first line counts. With `update` a stored city becomes as the file has it. `read` is called after each
    batch. A name that breaks only a rule newer than the list is kept where it is stored, or no city was. While the
    first cities of an empty table are stored, whoever reads or adds one waits, for longer than pages do.
    """
    outcome = Outcome(updated=0 if update else None)
    # What is skipped is written down before the commit.
    async with database.outside_the_pool(url).begin() as connection:
        with skipping or nullcontext() as refuse:
            await connection.execute(text(STAGE))
            driver = await _driver(connection)
            await driver.execute(f"{PATIENT}; SET LOCAL maintenance_work_mem = '128MB'")
            arriving = _arrivals(lines, driver, outcome, refuse, read)
            with _explained():
                await driver.copy_records_to_table("arrivals", records=arriving, columns=COLUMNS)
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOAD_LOCK})
            await connection.execute(text("ANALYZE arrivals"))
            with _explained():
                async for number, name, population, problem in driver.cursor(REJECT):
                    _reject(Line(number, "", {"name": name, "population": population}), problem, outcome, refuse)
                if outcome.refused and not skipping:
                    raise Refused(_sentences(outcome))
                if update:
                    outcome.updated = (await connection.execute(text(UPDATE))).rowcount
                # An index over rows that are there is made in a fraction of the time that row for row takes.
                indexes = (await connection.execute(INDEXES)).all()
                for drop, _ in indexes:
                    await driver.execute(drop)
                outcome.added = (await connection.execute(text(INSERT))).rowcount
                for _, make in indexes:
                    await driver.execute(make)
    try:
        await database.vacuum(url)
    except database.DRIVER_ERRORS as error:
        outcome.note = f". All is stored, but pages may be slow until PostgreSQL has vacuumed: VACUUM failed ({error})"
    return outcome


async def dump(url: URL, write: Callable[[bytes], None], format_: Format) -> None:
    """Writes all cities in the order of the board, as one moment has them, bit by bit. Raises Stopped."""

    async def write_on(some: bytes) -> None:
        write(some)

    async with database.outside_the_pool(url).connect() as connection:
        driver = await _driver(connection)
        try:
            with _explained():
                await driver.execute(f"BEGIN; {PATIENT}")
                await driver.copy_from_query(**COPIES[format_], output=write_on, format="csv")
        finally:
            # Where `write` fails, asyncpg cancels a query that may have ended, and would wait for that for ever.
            driver.terminate()


async def _arrivals(
    lines: Iterable[Line],
    driver: asyncpg.Connection,
    outcome: Outcome,
    refuse: Refuse | None,
    read: Callable[[], None],
) -> AsyncIterator[tuple[object, ...]]:
    """The rows to be staged, as `COLUMNS` say; what is refused is counted and told."""
    for line in lines:
        outcome.read += 1
        if outcome.read % BATCH == 0:
            read()
            await asyncio.sleep(0)  # for the connection to send what waits, and to notice that it broke
            if driver.is_closed():
                raise ConnectionError("the connection broke")
        city, problem = _checked(line)
        if city:
            yield line.number, city.name, names.key(city.name), names.bare(city.name), city.population, problem
        else:
            _reject(line, problem, outcome, refuse)
    read()


def _checked(line: Line) -> tuple[submissions.CitySubmission | None, str]:
    """The city of a line, if it has one, and what is wrong with it: with a city, what a stored one may have."""
    if line.problem:
        return None, line.problem
    problem = ""
    for as_stored in (False, True):
        try:
            return submissions.check(line.values, as_stored=as_stored), problem
        except submissions.InvalidSubmission as refusal:
            problem = ". ".join(refusal.errors.values())
    return None, problem


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
