"""What an operator does about vandals: revert many changes, block a network, redact a name."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError

from cityweb import submissions
from cityweb.postgres import changes, database, history
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchCity, NotRevertible
from cityweb.postgres.cities import Stored
from cityweb.postgres.history import Change
from cityweb.postgres.networks import Author
from cityweb.settings import COMMAND, OperatorError

LOCK = text("SELECT pg_advisory_xact_lock(1835885669)")
"""The advisory lock ("mode" in ASCII) of a command that reverts: two would undo each other's changes."""
BLOCK_HOURS_MAX = 24
BLOCK = text("""
INSERT INTO blocks (network, until)
SELECT network, clock_timestamp() + make_interval(hours => :hours) FROM changes
WHERE id = CAST(:id AS bigint) AND network IS NOT NULL
  AND (at AT TIME ZONE 'UTC')::date >= (now() AT TIME ZONE 'UTC')::date - 1
RETURNING until
""")
BLOCKS = text("SELECT id, name_key, until FROM blocks WHERE until IS NULL OR until > now() ORDER BY id")
UNBLOCK = text("DELETE FROM blocks WHERE id = :id")
REDACT = text("""
UPDATE changes SET old_name = CASE old_name WHEN :name THEN '' ELSE old_name END,
  new_name = CASE new_name WHEN :name THEN '' ELSE new_name END
WHERE city_id = :city AND (old_name = :name OR new_name = :name)
""")
IS_BORNE = text("SELECT id FROM cities WHERE name = :name")


async def find_change(url: URL, number: int) -> Change:
    """A change by its number. Raises OperatorError if there is none."""
    async with database.outside_the_pool(url).connect() as connection:
        found = await history.select(connection, history.ONE, id=number)
    if not found:
        raise OperatorError(f"There is no change {number}: the links of the log have the numbers.")
    return found[0]


async def find_like(url: URL, number: int) -> list[Change]:
    """All changes of the network of a change on that day, the newest first. Raises OperatorError."""
    await find_change(url, number)
    async with database.outside_the_pool(url).connect() as connection:
        found = await history.select(connection, history.OF_A_NETWORK, id=number)
    if not found:
        raise OperatorError(f"Change {number} has no network: revert it alone, or all changes --since a time.")
    return found


async def find_since(url: URL, since: datetime, until: datetime) -> list[Change]:
    """All changes of visitors in this time, the newest first."""
    async with database.outside_the_pool(url).connect() as connection:
        return await history.select(connection, history.OF_A_TIME, since=since, until=until)


async def revert(url: URL, found: Sequence[Change], reason: str | None = None) -> list[tuple[Change, str]]:
    """Undoes changes in this order and in one transaction. Returns those that could not be undone, each with a reason.

    An addition or a restored city is removed, and its name is blocked.
    """
    author = Author(is_operator=True, reason=reason)
    prevented = []
    try:
        async with database.outside_the_pool(url).begin() as connection:
            await connection.execute(LOCK)
            for change in found:
                try:
                    async with connection.begin_nested():
                        if change.kind in {"add", "restore"}:
                            values = [change.new[field] for field in submissions.FIELDS]
                            await changes.remove(connection, Stored(change.city_id or 0, *values), author)
                        else:
                            await changes.revert(connection, change.id, author)
                except NameTaken:
                    prevented.append((change, "another city has the name now"))
                except (Conflict, NoSuchCity):
                    prevented.append((change, "the city was changed or removed later"))
                except NotRevertible:
                    prevented.append((change, "it cannot be reverted"))
    except DBAPIError as error:
        if not database.is_deadlock(error):
            raise
        raise OperatorError(
            "Other changes came in between, and nothing was reverted: run the command again."
        ) from error
    return prevented


async def block(url: URL, number: int, hours: int) -> datetime:
    """Blocks the network of a change. Returns when that ends. Raises OperatorError."""
    await find_change(url, number)
    async with database.outside_the_pool(url).begin() as connection:
        until = await connection.scalar(BLOCK, {"id": number, "hours": hours})
    if until is None:
        raise OperatorError(f"Change {number} has no network, or is of before yesterday: take a newer one.")
    assert isinstance(until, datetime)  # noqa: S101 (for the types)
    return until


async def blocks(url: URL) -> list[tuple[int, str, datetime | None]]:
    """The present blocks: the number, the key of the name (empty for a network), and when it ends."""
    async with database.outside_the_pool(url).connect() as connection:
        return [(row.id, row.name_key or "", row.until) for row in await connection.execute(BLOCKS)]


async def unblock(url: URL, number: int) -> None:
    """Ends a block. Raises OperatorError if there is none with this number."""
    async with database.outside_the_pool(url).begin() as connection:
        if not (await connection.execute(UNBLOCK, {"id": number})).rowcount:
            raise OperatorError(f"There is no block {number}: {COMMAND} block lists them.")


async def redact(url: URL, change: Change) -> int:
    """Empties the name that a change set or removed, in all changes of its city. Returns how many had it.

    Raises OperatorError if a city still has the name.
    """
    name = change.new.get("name") or change.old.get("name")
    if not name:
        raise OperatorError(f"Change {change.id} has no name, or it is redacted already: take another change.")
    async with database.outside_the_pool(url).begin() as connection:
        if city_id := await connection.scalar(IS_BORNE, {"name": name}):
            raise OperatorError(f"City {city_id} still has this name: rename or remove it first.")
        return (await connection.execute(REDACT, {"name": name, "city": change.city_id})).rowcount


def parse_time(text: str) -> datetime:
    """A time like 2026-12-03T14:00, in UTC unless it says otherwise. Raises OperatorError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise OperatorError(f"{text} is no time: write one like 2026-12-03T14:00, in UTC.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def parse_hours(text: str) -> int:
    """A number of hours like 24h. Raises OperatorError unless it is between 1 and 24."""
    hours = text.removesuffix("h")
    if not (hours.isdecimal() and 1 <= int(hours) <= BLOCK_HOURS_MAX):
        raise OperatorError(f"{text} is not a time that a block can last: write one from 1h to 24h.")
    return int(hours)


FAR = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
