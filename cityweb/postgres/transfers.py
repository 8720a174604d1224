"""Many cities at once: loaded from a file under the rules of the form, and dumped to a file."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import asyncpg
from sqlalchemy import URL, Text, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import names, submissions
from cityweb.files import Format, Line
from cityweb.postgres import cities, database, schema
from cityweb.postgres.changes import NEW, OLD
from cityweb.settings import OperatorError
from cityweb.submissions import FIELDS

BATCH = 5_000
"""Lines that are checked and sent together: what a load keeps in memory."""
PROBLEMS_SHOWN = 20
LOAD_LOCK = 0x6C6F6164
"""The advisory lock ("load" in ASCII) that a load holds while it stores: two loads could deadlock on their names."""

# The role may have timeouts that are meant for requests, and standard input may be slow.
PATIENT = """
SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0
"""
COLUMNS = ", ".join(cities.COLUMNS)
STAGE = f"""
CREATE TEMPORARY TABLE arrivals (
  position bigint, line bigint, {", ".join(f"{column} {type_}" for column, type_ in cities.COLUMNS.items())},
  problem text, places text[]
) ON COMMIT DROP
"""
# The names that are in the file more than once, and have a value in the column that tells them apart.
ALIKE = """
SELECT position, name, places[{number}] AS place FROM arrivals
WHERE places[{number}] <> '' AND name_key IN (SELECT name_key FROM arrivals GROUP BY name_key HAVING count(*) > 1)
"""
STAGE_NAMES = (
    "CREATE TEMPORARY TABLE qualified (position bigint, name text, name_key text, name_bare text) ON COMMIT DROP"
)
QUALIFY = """
UPDATE arrivals SET name = qualified.name, name_key = qualified.name_key, name_bare = qualified.name_bare
FROM qualified WHERE qualified.position = arrivals.position
"""
# The names that are in the file more than once, and the lines of the first ones.
REPEATED = f"""
SELECT count(*) OVER () AS names, min(name) AS name, (array_agg(line ORDER BY position))[1:3] AS lines
FROM arrivals GROUP BY name_key HAVING count(*) > 1 ORDER BY min(position) LIMIT {PROBLEMS_SHOWN}
"""  # noqa: S608 (no value is put in)
# Lines whose names break newer rules are rejected, unless the name is stored or there are no cities.
REJECT = """
DELETE FROM arrivals
WHERE problem <> '' AND EXISTS (SELECT FROM cities)
  AND NOT EXISTS (SELECT FROM cities WHERE cities.name_key = arrivals.name_key)
RETURNING *
"""
# If lines have the same name, the first one counts.
FIRST_LINES = "(SELECT DISTINCT ON (name_key) * FROM arrivals ORDER BY name_key, position) AS arrived"
# Updates the stored cities of a file, and logs each change with the old values of the locked rows. A line without a
# country takes none away, since a file need not have that column.
CHANGE = f"""
WITH before AS MATERIALIZED (
  SELECT cities.id, {", ".join(f"cities.{field}" for field in FIELDS)},
    {", ".join(f"arrived.{column} AS new_{column}" for column in cities.COLUMNS)}
  FROM cities JOIN {FIRST_LINES} ON cities.name_key = arrived.name_key
  WHERE {{differs}}
  FOR UPDATE OF cities
), changed AS (
  UPDATE cities SET {{changed}} FROM before WHERE cities.id = before.id
  RETURNING cities.id, {", ".join(f"cities.{field}" for field in FIELDS)}
)
INSERT INTO changes (kind, city_id, {", ".join(OLD + NEW)}, operator)
SELECT 'correct', id, {
    ", ".join(
        f"CASE WHEN before.{field} <> changed.{field} THEN {source}.{field} END"
        for source in ("before", "changed")
        for field in FIELDS
    )
}, true
FROM before JOIN changed USING (id)
"""  # noqa: S608 (no value is put in)
UPDATE = CHANGE.format(
    differs=" OR ".join(f"cities.{field} <> arrived.{field}" for field in FIELDS if field != "country")
    + " OR arrived.country <> '' AND cities.country <> arrived.country",
    changed=", ".join(f"{column} = new_{column}" for column in cities.COLUMNS if column != "country")
    + ", country = coalesce(nullif(new_country, ''), cities.country)",
)
FILL_IN_COUNTRIES = CHANGE.format(
    differs="cities.country = '' AND arrived.country <> ''", changed="country = new_country"
)
# The name of a stored city is not blocked.
UNBLOCK = text("DELETE FROM blocks WHERE EXISTS (SELECT FROM cities WHERE cities.name_key = blocks.name_key)")
MAY_UNBLOCK = text("SELECT has_table_privilege('blocks', 'DELETE')")
LOG = text("INSERT INTO changes (kind, cities, operator) VALUES ('load', :cities, true)")
# The unique key decides, unless it is dropped. NOT EXISTS saves the ids that conflicting rows would use up. The board
# marks cities of the last minute as new, which loaded ones are not.
INSERT = f"""
INSERT INTO cities ({COLUMNS}, created_at)
SELECT {COLUMNS}, now() - interval '1 minute' FROM {FIRST_LINES}
WHERE NOT EXISTS (SELECT FROM cities WHERE cities.name_key = arrived.name_key)
ORDER BY position
ON CONFLICT DO NOTHING
"""  # noqa: S608 (no value is put in)
# Statements that drop and recreate each index of the cities, if the role may and the table is empty.
INDEXES = text("""
SELECT
  CASE WHEN conname IS NULL THEN format('DROP INDEX %s', indexrelid::regclass)
    ELSE format('ALTER TABLE cities DROP CONSTRAINT %I', conname) END,
  CASE WHEN conname IS NULL THEN pg_get_indexdef(indexrelid)
    ELSE format('ALTER TABLE cities ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(pg_constraint.oid)) END
FROM pg_index JOIN pg_class ON pg_class.oid = indrelid LEFT JOIN pg_constraint ON conindid = indexrelid
WHERE indrelid = 'cities'::regclass AND pg_has_role(relowner, 'USAGE') AND NOT EXISTS (SELECT FROM cities)
""")

TEXTS = tuple(field for field in FIELDS if isinstance(cities.COLUMNS[field], Text))
BOARD_ORDER = f"SELECT {', '.join(FIELDS)} FROM cities ORDER BY population DESC, -id DESC"  # noqa: S608 (no value is put in)
# The COPY arguments with which PostgreSQL writes each format.
COPIES: dict[Format, dict[str, Any]] = {
    # Texts are quoted because some spreadsheets also split at semicolons, which stored names may contain.
    Format.CSV: {"query": BOARD_ORDER, "header": True, "force_quote": TEXTS},
    # JSON contains no control characters, so with these PostgreSQL quotes nothing.
    Format.JSONL: {
        "query": f"SELECT row_to_json(city) FROM ({BOARD_ORDER}) AS city",  # noqa: S608 (no value is put in)
        "delimiter": "\x02",
        "quote": "\x01",
    },
}
Report = Callable[[Line, str], None]


@dataclass
class Outcome:
    """The result of a load: the number of lines by outcome, and the first problems."""

    read: int = 0
    added: int = 0
    updated: int | None = None
    rejected: int = 0
    problems: list[str] = field(default_factory=list)
    note: str = ""

    def __str__(self) -> str:
        updated = "" if self.updated is None else f", {self.updated:,} updated"
        stored = self.read - self.added - (self.updated or 0) - self.rejected
        return (
            f"{self.read:,} read, {self.added:,} added{updated}, {stored:,} already stored, {self.rejected:,} rejected"
            f"{self.note}"
        )


async def load(
    url: URL,
    lines: Iterable[Line],
    *,
    skipping: AbstractContextManager[Report] | None = None,
    update: str = "",
    place_columns: int = 0,
    read: Callable[[], None] = lambda: None,
    batch_size: int = BATCH,
) -> Outcome:
    """Stores the cities of a file: all of them, or none if it is interrupted. Raises OperatorError.

    `skipping` yields a function that receives rejected lines; without it, one rejected line raises OperatorError. Of
    lines with the same name, the first one counts; `place_columns` columns tell them apart. `update` is
    UPDATE, FILL_IN_COUNTRIES or empty. `read` is called after each batch. A name that breaks newer rules is accepted if
    it is stored, or if there were no cities.

    A load into an empty table blocks reads and adds until it commits, for longer than requests wait.
    """
    outcome = Outcome(updated=0 if update else None)
    # The file of rejected lines is written before the commit.
    async with database.outside_the_pool(url).begin() as connection:
        with skipping or nullcontext() as report:
            await connection.execute(text(STAGE))
            driver = await _driver(connection)
            await driver.execute(f"{PATIENT}; SET LOCAL maintenance_work_mem = '128MB'")
            records = _check_lines(lines, outcome, report)
            # Not one COPY of all lines: asyncpg 0.32 cannot end one that KeyboardInterrupt leaves.
            while batch := list(islice(records, batch_size)):
                with _explain_errors():
                    await driver.copy_records_to_table("arrivals", records=batch)
                read()
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOAD_LOCK})
            await connection.execute(text("ANALYZE arrivals"))
            for number in range(1, place_columns + 1):
                await _qualify(driver, number, batch_size)
            if place_columns:
                await driver.execute("DELETE FROM arrivals WHERE population IS NULL")
            with _explain_errors():
                async for row in driver.cursor(REJECT):
                    _reject(
                        Line(row["line"], "", {field: row[field] for field in FIELDS}), row["problem"], outcome, report
                    )
                if outcome.rejected and not skipping:
                    raise OperatorError(_format_problems(outcome))
                if update:
                    outcome.updated = (await connection.execute(text(update))).rowcount
                # Creating an index over existing rows takes a fraction of the time of updating it row by row.
                indexes = (await connection.execute(INDEXES)).all()
                for drop, _ in indexes:
                    await driver.execute(drop)
                outcome.added = (await connection.execute(text(INSERT))).rowcount
                for _, make in indexes:
                    await driver.execute(make)
                if outcome.added:
                    await connection.execute(LOG, {"cities": outcome.added})
                    if await connection.scalar(MAY_UNBLOCK):
                        await connection.execute(UNBLOCK)
            if outcome.added < outcome.read - outcome.rejected:
                outcome.note = _format_repeated(await driver.fetch(REPEATED), place_columns)
    try:
        await schema.vacuum(url)
    except database.DRIVER_ERRORS as error:
        outcome.note += f". All is stored, but pages may be slow until PostgreSQL has vacuumed: VACUUM failed ({error})"
    return outcome


async def dump(url: URL, write: Callable[[bytes], None], format_: Format) -> None:
    """Writes all cities as of one moment, in the order of the board and in chunks. Raises OperatorError."""

    async def write_chunk(chunk: bytes) -> None:
        write(chunk)

    async with database.outside_the_pool(url).connect() as connection:
        driver = await _driver(connection)
        try:
            with _explain_errors():
                await driver.execute(f"BEGIN; {PATIENT}")
                await driver.copy_from_query(**COPIES[format_], output=write_chunk, format="csv")
        finally:
            # If `write` fails, asyncpg cancels the query, and would wait forever for one that has already ended.
            driver.terminate()


def _check_lines(lines: Iterable[Line], outcome: Outcome, report: Report | None) -> Iterator[tuple[object, ...]]:
    """The rows to stage, in the order of `STAGE`; rejected lines are counted and reported."""
    for line in lines:
        outcome.read += 1
        city, problem = _check_line(line)
        if city:
            yield outcome.read, line.number, *cities.columns(**vars(city)).values(), problem, line.places
        else:
            _reject(line, problem, outcome, report)
            name = line.values.get("name")
            # A name is in the file twice, whether or not its other line is rejected. Corrected, it gets the same names.
            if line.places and isinstance(name, str) and submissions.is_name(name):
                columns = cities.columns(names.normal(name), population=None, country="")
                yield outcome.read, line.number, *columns.values(), "", line.places


async def _qualify(driver: asyncpg.Connection, number: int, batch_size: int) -> None:
    """Adds the value of a column to the names that are in the file more than once: "Paris" becomes "Paris, Texas"."""
    await driver.execute(STAGE_NAMES)
    alike = await driver.cursor(ALIKE.format(number=number))
    while rows := await alike.fetch(batch_size):
        longer = [(row["position"], f"{row['name']}, {row['place']}") for row in rows]
        valid = [(position, *cities.columns(name).values()) for position, name in longer if submissions.is_name(name)]
        await driver.copy_records_to_table("qualified", records=valid)
    await driver.execute(QUALIFY)
    await driver.execute("DROP TABLE qualified")


def _format_repeated(repeated: list[asyncpg.Record], place_columns: int) -> str:
    """The sentences about names that are in the file more than once."""
    if not repeated:
        return ""
    count = repeated[0]["names"]
    found = ", ".join(f"{row['name']} (lines {', '.join(map(str, row['lines']))})" for row in repeated)
    more = f" and {count - len(repeated):,} more" if count > len(repeated) else ""
    advice = "" if place_columns else ". To tell them apart, name a column that says where they are: --place COLUMN"
    once = "1 name is in the file more than once, and only its first line counts"
    several = f"{count:,} names are in the file more than once, and only the first line of each counts"
    return f". {once if count == 1 else several}: {found}{more}{advice}"


def _check_line(line: Line) -> tuple[submissions.CitySubmission | None, str]:
    """The city of a line, or None, and its problem, which with a city can only be that its name breaks newer rules."""
    if line.problem:
        return None, line.problem
    try:
        return submissions.check(line.values), ""
    except submissions.InvalidSubmission as error:
        errors = error.errors
    try:
        return submissions.check(line.values, as_stored=True), " ".join(errors.values())
    except submissions.InvalidSubmission as error:
        return None, " ".join(errors[field] for field in error.errors)


def _reject(line: Line, problem: str, outcome: Outcome, report: Report | None) -> None:
    outcome.rejected += 1
    if len(outcome.problems) < PROBLEMS_SHOWN:
        outcome.problems.append(f"Line {line.number:,}: {problem}")
    if report:
        report(line, problem)


def _format_problems(outcome: Outcome) -> str:
    sentences = outcome.problems.copy()
    if more := outcome.rejected - len(outcome.problems):
        sentences.append(f"And {more:,} more.")
    sentences.append(
        f"Nothing was stored: {outcome.rejected:,} of {outcome.read:,} lines are rejected."
        " Correct them, or skip them with --skip-bad."
    )
    return "\n".join(sentences)


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    """The asyncpg connection of a SQLAlchemy connection, for COPY, which SQLAlchemy does not support."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection)  # noqa: S101 (for the types)
    return driver


@contextmanager
def _explain_errors() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        cause = error.orig.__cause__ if error.orig else None  # the error of asyncpg, which names the city
        if not isinstance(cause, asyncpg.IntegrityConstraintViolationError | asyncpg.DataError):
            raise
        reason = str(cause).replace("\nDETAIL:  ", ". ").rstrip(".")
        raise OperatorError(
            f"The database rejected a city: {reason}. Nothing was stored. Remove it from the file."
        ) from error
    except database.DRIVER_ERRORS as error:
        raise OperatorError(f"The database gave up ({error}): see to it, and run the command again.") from error
