"""What an operator does about vandals: revert many changes, block a network, redact a name."""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import URL, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cityweb import submissions
from cityweb.postgres import changes, database, history, schema
from cityweb.postgres.changes import Conflict, NameTaken, NoSuchCity, NotRevertible
from cityweb.postgres.cities import Stored
from cityweb.postgres.history import Change
from cityweb.postgres.networks import Author
from cityweb.settings import COMMAND, OperatorError

LOCK = text("SELECT pg_advisory_xact_lock(1836016741)")
"""The advisory lock ("mode" in ASCII) of a command that reverts: two would undo each other's changes."""
LOG_RIGHTS = text("""
SELECT pg_has_role(relowner, 'USAGE') AS is_owner,
  has_table_privilege(oid, 'DELETE, TRUNCATE') OR has_any_column_privilege(oid, 'UPDATE') AS may_change
FROM pg_class WHERE oid = 'changes'::regclass
""")
BLOCK_HOURS_MAX = 24
BLOCK = text("""
INSERT INTO blocks (network, until)
SELECT network, clock_timestamp() + make_interval(hours => :hours) FROM changes
WHERE id = CAST(:id AS bigint) AND network IS NOT NULL
  AND (at AT TIME ZONE 'UTC')::date >= (now() AT TIME ZONE 'UTC')::date - 1
RETURNING until
""")
BLOCKS = text("SELECT id, name_key, until FROM blocks WHERE until IS NULL OR until > now() ORDER BY id")
UNBLOCK = text("""
DELETE FROM blocks WHERE id = :id OR network = (SELECT network FROM blocks WHERE id = :id)
""")
REDACT = text("""
UPDATE changes SET old_name = CASE old_name WHEN :name THEN '' ELSE old_name END,
  new_name = CASE new_name WHEN :name THEN '' ELSE new_name END
WHERE city_id = :city AND :name IN (old_name, new_name) AND NOT EXISTS (SELECT FROM cities WHERE name = :name)
""")
NAMED = text("SELECT id FROM cities WHERE name = :name")


async def find_change(url: URL, number: int) -> Change:
    """A change by its number. Raises OperatorError if there is none."""
    async with database.outside_the_pool(url).connect() as connection:
        found = await history.select(connection, history.ONE, id=number)
    if not found:
        raise OperatorError(f"There is no change {number}: the log shows the numbers.")
    return found[0]


async def find_revertible(url: URL, number: int) -> list[Change]:
    """The change with this number, alone. Raises OperatorError if there is none, or if it is a load."""
    change = await find_change(url, number)
    if change.kind == "load":
        raise OperatorError(
            f"Change {number} is a load, which cannot be reverted:"
            f" remove its cities with {COMMAND} remove, or load a corrected file with --update."
        )
    return [change]


async def find_like(url: URL, number: int) -> list[Change]:
    """All changes of the network of a change on that day, the newest first. Raises OperatorError."""
    await find_revertible(url, number)
    async with database.outside_the_pool(url).connect() as connection:
        found = await history.select(connection, history.OF_A_NETWORK, id=number)
    if not found:
        raise OperatorError(
            f"The network of change {number} is unknown: revert the change alone, or all changes --since a time."
        )
    return found


async def find_since(url: URL, since: datetime, until: datetime | None) -> list[Change]:
    """All changes of visitors from one time until before another one, or until now, the newest first."""
    async with database.outside_the_pool(url).connect() as connection:
        return await history.select(connection, history.OF_A_TIME, since=since, until=until)


async def revert(url: URL, found: Sequence[Change], reason: str | None = None) -> list[tuple[Change, str]]:
    """Undoes the given changes, newest first, in one transaction. Returns those that cannot be undone, with why.

    An added or restored city is removed, and its name is blocked. Raises OperatorError after a deadlock.
    """
    author = Author(is_operator=True, reason=reason)
    try:
        async with database.outside_the_pool(url).begin() as connection:
            await schema.remove_time_limits(connection)
            await connection.execute(LOCK)
            undone = [(change, await _undo(connection, change, author)) for change in _without_pairs(found)]
    except DBAPIError as error:
        if not database.is_deadlock(error):
            raise
        raise OperatorError(
            "Other changes were made at the same moment, and nothing was reverted: run the command again."
        ) from error
    return [(change, why) for change, why in undone if why]


def _without_pairs(found: Sequence[Change]) -> list[Change]:
    """The changes without those of which one reverts the other.

    Together they change nothing. If the revert were undone, the change would stand again, and could not be undone,
    because a change can be reverted only once.
    """
    standing: dict[int | None, Change] = {}
    for change in reversed(found):
        if not standing.pop(change.reverts, None):
            standing[change.id] = change
    return list(reversed(standing.values()))


async def _undo(connection: AsyncConnection, change: Change, author: Author) -> str:
    """Undoes a change. Returns why it cannot be undone, or an empty string."""
    try:
        async with connection.begin_nested():
            if change.kind in {"add", "restore"}:
                values = [change.new[field] for field in submissions.FIELDS]
                await changes.remove(connection, Stored(change.city_id or 0, *values), author)
            else:
                await changes.revert(connection, change.id, author)
    except NameTaken:
        return "another city has the name now"
    except NotRevertible:
        return "it is reverted already, a later change is in its way, or its name is redacted"
    except (Conflict, NoSuchCity):
        return "the city was changed or removed later"
    return ""


async def block(url: URL, number: int, hours: int) -> datetime:
    """Blocks the network of a change. Returns when that ends. Raises OperatorError."""
    await find_change(url, number)
    async with database.outside_the_pool(url).begin() as connection:
        until = await connection.scalar(BLOCK, {"id": number, "hours": hours})
    if until is None:
        raise OperatorError(
            f"The network of change {number} is unknown, or the change is older than yesterday: take a newer one."
        )
    assert isinstance(until, datetime)  # noqa: S101 (for the types)
    return until


async def blocks(url: URL) -> list[tuple[int, str, datetime | None]]:
    """The present blocks: the number, the key of the name (empty for a network), and when it ends."""
    async with database.outside_the_pool(url).connect() as connection:
        return [(row.id, row.name_key or "", row.until) for row in await connection.execute(BLOCKS)]


async def unblock(url: URL, number: int) -> None:
    """Ends a block. Raises OperatorError if there is none with this number."""
    async with database.outside_the_pool(url).begin() as connection:
        ended = (await connection.execute(UNBLOCK, {"id": number})).rowcount
    if not ended:
        raise OperatorError(f"There is no block {number}: {COMMAND} block lists them.")


async def find_redactable(url: URL, number: int) -> tuple[Change, str]:
    """A change, and the name that it gave its city, or that the city had when it was removed.

    Raises OperatorError if there is none, or if a city still has it.
    """
    change = await find_change(url, number)
    name = change.new.get("name", change.old.get("name"))
    if not name:
        raise OperatorError(f"Change {number} has no name, or it is redacted already: take another change.")
    async with database.outside_the_pool(url).connect() as connection:
        city_id = await connection.scalar(NAMED, {"name": name})
    if city_id:
        raise OperatorError(
            f"The city with the id {city_id} is still called {name}: rename or remove it first,"
            " or take the change that set the name."
        )
    return change, name


async def redact(url: URL, change: Change, name: str) -> int:
    """Empties a name in all changes of a city, unless a city has it. Returns the number of these changes."""
    async with database.outside_the_pool(url).begin() as connection:
        return (await connection.execute(REDACT, {"name": name, "city": change.city_id})).rowcount


async def log_rights(connection: AsyncConnection) -> tuple[bool, bool]:
    """Whether the role owns the log of changes, and whether it may change or delete what is in it."""
    return tuple((await connection.execute(LOG_RIGHTS)).one())


def parse_time(text: str) -> datetime:
    """A time like 2026-12-03T14:00, in UTC unless it says otherwise. Raises OperatorError."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise OperatorError(f"{text} is not a time: write one like 2026-12-03T14:00, in UTC.") from error


def parse_hours(text: str) -> int:
    """A number of hours like 24h. Raises OperatorError unless it is between 1 and 24."""
    hours = text.removesuffix("h")
    if not (hours.isdecimal() and 1 <= int(hours) <= BLOCK_HOURS_MAX):
        raise OperatorError(f"{text} is not a time that a block can last: write one from 1h to 24h.")
    return int(hours)
