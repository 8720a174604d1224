"""Corrections, removals and reverts, each one statement that also writes the log of changes.

An add writes its line in its own statement (`cities.INSERT`); a load writes one line for all cities that it adds, and
one for each city that it changes (`transfers.py`).

A statement compares the values that its author was shown with those that are stored, so of two changes of one value
only one succeeds. If it changed nothing, its function reads once, and says why not.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from cityweb import names
from cityweb.city import BOARD_SIZE, CHANGE_ID_MAX
from cityweb.postgres.cities import COLUMNS, Stored, columns
from cityweb.postgres.networks import BLOCK, CODES, Author, reject_blocked
from cityweb.submissions import FIELDS

Connection = AsyncConnection | AsyncSession
Values = Mapping[str, object]

UNDO_MINUTES = 15
"""How long the network that added a city may remove it, wherever it is, while nothing has changed."""
BOARD_DAYS = 7
"""How long a city that was on the board counts as on the board, if it is older than a day."""


class NameTaken(Exception):
    """Another city has the name."""


class Conflict(Exception):
    """The city has changed since its values were shown; `stored` has the present ones."""

    def __init__(self, stored: Stored) -> None:
        super().__init__(stored)
        self.stored = stored


class NoSuchCity(Exception):
    """No city has this id, or it has been removed."""


class NoSuchChange(Exception):
    """No change has this id."""


class OnBoard(Exception):
    """The city is on the board, or was within seven days: only an operator may remove it, or at first its author."""


class NotRevertible(Exception):
    """The change cannot be reverted, or not any more.

    It is no correction or removal, it was reverted before, a later one is in its way, its name was redacted, or an
    operator removed the city.
    """


OLD, NEW = ([f"{age}_{field}" for field in FIELDS] for age in ("old", "new"))
TYPES = {f"{age}_{column}": type_ for age in ("old", "new") for column, type_ in COLUMNS.items()}
_FIELDS = ", ".join(FIELDS)
# A range of pairs, so that the index is used. With `city_id = ...`, if one city had all changes when the log was
# analysed, PostgreSQL would read the whole log.
OF_THE_CITY = f"(city_id, id) > (CAST(:id AS int), 0) AND (city_id, id) <= (CAST(:id AS int), {CHANGE_ID_MAX})"
_AUTHOR = f"CAST(:reason AS text), CAST(:operator AS boolean), ({CODES})[1]"
# A parameter that is null leaves its column as it is.
CORRECT = text(f"""
WITH city AS (
  UPDATE cities SET {", ".join(f"{c} = coalesce((:new_{c})::{type_}, {c})" for c, type_ in COLUMNS.items())}
  WHERE id = CAST(:id AS int) AND NOT EXISTS ({BLOCK})
    AND {" AND ".join(f"{f} = coalesce((:old_{f})::{COLUMNS[f]}, {f})" for f in FIELDS)}
    AND (CAST(:reverts AS bigint) IS NULL OR EXISTS (
      SELECT FROM changes WHERE id = CAST(:reverts AS bigint) AND old_name IS NOT DISTINCT FROM (:new_name)::text
    ))
  RETURNING id, {_FIELDS}
), change AS (
  INSERT INTO changes (kind, city_id, {", ".join(OLD + NEW)}, reverts, reason, operator, network)
  SELECT 'correct', id, {", ".join(f"(:{name})::{TYPES[name]}" for name in OLD + NEW)}, CAST(:reverts AS bigint),
    {_AUTHOR}
  FROM city
)
SELECT id, name, population, country FROM city
""")  # noqa: S608 (no value is put in)
# An operator may remove any city, anyone a city below the board (with fewer than 20 cities, all are on it), and the
# network that added a city may undo that. A city that was on the board within BOARD_DAYS counts as on the board;
# otherwise, a correction to zero would be the first step of its removal. For a city younger than a day, only its
# present population counts, so that invented cities can be corrected and then removed. The board is that of the cities
# without a change within a day; otherwise, twenty invented cities would push any other off the board.
REMOVE = text(f"""
WITH city AS (
  DELETE FROM cities
  WHERE id = CAST(:id AS int) AND ({_FIELDS}) = ({", ".join(f"(:old_{f})::{COLUMNS[f]}" for f in FIELDS)})
    AND NOT EXISTS ({BLOCK})
    AND (
      CAST(:operator AS boolean)
      OR (greatest(population, CASE WHEN created_at < clock_timestamp() - interval '1 day' THEN (
          SELECT max(old_population) FROM changes
          WHERE {OF_THE_CITY} AND at > clock_timestamp() - interval '{BOARD_DAYS} days'
        ) END), -id) < (
          SELECT population, -id FROM (
            SELECT id, population FROM cities ORDER BY population DESC, -id DESC LIMIT 1000
          ) AS other
          WHERE ((
            SELECT CASE WHEN city_id = other.id THEN at END FROM changes
            WHERE (city_id, id) <= (other.id, {CHANGE_ID_MAX}) ORDER BY city_id DESC, id DESC LIMIT 1
          ) > clock_timestamp() - interval '1 day') IS NOT TRUE
          ORDER BY population DESC, -id DESC LIMIT 1 OFFSET {BOARD_SIZE - 1}
        )
      OR EXISTS (
        SELECT FROM changes
        WHERE {OF_THE_CITY} AND kind = 'add' AND network = ANY(({CODES})[1:2])
          AND at > clock_timestamp() - interval '{UNDO_MINUTES} minutes'
          AND ({", ".join(NEW)}) = ({", ".join(f"(:old_{f})::{COLUMNS[f]}" for f in FIELDS)})
      )
    )
  RETURNING *
), change AS (
  INSERT INTO changes (kind, city_id, {", ".join(OLD)}, created_at, reason, operator, network)
  SELECT 'remove', id, {_FIELDS}, created_at, {_AUTHOR} FROM city
)
SELECT name_key FROM city
""")  # noqa: S608 (no value is put in)
# The old name is compared, because it may have been redacted since it was read.
RESTORE = text(f"""
WITH removal AS (
  SELECT * FROM changes
  WHERE id = CAST(:reverts AS bigint) AND kind = 'remove' AND old_name = (:new_name)::text
    AND (CAST(:operator AS boolean) OR NOT operator)
    AND NOT EXISTS (
      SELECT FROM changes AS later
      WHERE later.city_id = changes.city_id AND later.id > changes.id AND later.kind IN ('remove', 'restore')
    )
), city AS (
  INSERT INTO cities (id, {_FIELDS}, name_key, name_bare, created_at) OVERRIDING SYSTEM VALUE
  SELECT city_id, {", ".join(OLD)}, :new_name_key, :new_name_bare, created_at FROM removal
  WHERE NOT EXISTS ({BLOCK})
  ON CONFLICT DO NOTHING
  RETURNING *
)
INSERT INTO changes (kind, city_id, {", ".join(NEW)}, created_at, reverts, reason, operator, network)
SELECT 'restore', id, {_FIELDS}, created_at, CAST(:reverts AS bigint), {_AUTHOR} FROM city
RETURNING city_id, {", ".join(NEW)}
""")  # noqa: S608 (no value is put in)
CITY = text(f"SELECT id, {_FIELDS} FROM cities WHERE id = CAST(:id AS int)")  # noqa: S608 (no value is put in)
# Not EXISTS: for that, PostgreSQL may read the whole log.
CHANGE = text("""
SELECT *, (SELECT id FROM changes AS later WHERE later.reverts = changes.id LIMIT 1) IS NOT NULL AS is_reverted
FROM changes WHERE id = CAST(:id AS bigint)
""")
LATEST = text(f"SELECT * FROM changes WHERE {OF_THE_CITY} ORDER BY city_id DESC, id DESC LIMIT 1")  # noqa: S608
# The name of a stored city is never blocked.
BLOCK_NAME = text("""
INSERT INTO blocks (name_key) SELECT CAST(:name_key AS text)
WHERE NOT EXISTS (SELECT FROM cities WHERE name_key = CAST(:name_key AS text)) ON CONFLICT DO NOTHING
""")
UNBLOCK_NAME = text("DELETE FROM blocks WHERE name_key = :name_key")


async def find(connection: Connection, city_id: int) -> Stored | None:
    row = (await connection.execute(CITY, {"id": city_id})).one_or_none()
    return Stored(*row) if row else None


async def find_city_of(connection: Connection, change_id: int) -> int | None:
    """The id of the city of a change, or None for a load."""
    change = (await connection.execute(CHANGE, {"id": change_id})).one()
    return change.city_id  # type: ignore[no-any-return]


async def correct(
    connection: Connection, city_id: int, old: Values, new: Values, author: Author, reverts: int | None = None
) -> Stored:
    """Replaces the shown values `old` by `new`, both with the same fields. Returns the city; repeating it is safe.

    Raises NameTaken, Conflict, NoSuchCity or Blocked.
    """
    parameters = dict.fromkeys(TYPES) | {f"old_{field}": value for field, value in old.items()}
    written = {**new, **columns(str(new["name"]))} if "name" in new else new
    parameters |= {f"new_{column}": value for column, value in written.items()}
    parameters |= {"id": city_id, "reverts": reverts, **author.parameters}
    for _ in range(3):  # The shown values may be there again, after a change and its revert.
        try:
            row = (await connection.execute(CORRECT, parameters)).one_or_none()
        except IntegrityError as error:
            # After a revert of its revert, a change stands again, but the index allows no second revert of it.
            raise (NotRevertible if "changes_reverts" in str(error) else NameTaken) from error
        if row:
            if author.is_operator and "name" in new:
                await connection.execute(UNBLOCK_NAME, {"name_key": written["name_key"]})
            return Stored(*row)
        stored = await find(connection, city_id)
        if stored is None:
            raise NoSuchCity
        await reject_blocked(connection, author, written.get("name_key"))
        if _has(stored, new):
            return stored
        conflict = Conflict(stored)
        if not _has(stored, old):
            break
    raise conflict


async def remove(connection: Connection, city: Stored, author: Author) -> None:
    """Removes a city that still has the shown values; repeating it is safe. An operator also blocks its name.

    Raises Conflict, NoSuchCity, OnBoard or Blocked.
    """
    shown = {f"old_{field}": getattr(city, field) for field in FIELDS}
    parameters = {"id": city.id, "new_name_key": None, **shown, **author.parameters}
    for _ in range(2):
        if row := (await connection.execute(REMOVE, parameters)).one_or_none():
            if author.is_operator:
                await connection.execute(BLOCK_NAME, {"name_key": row.name_key})
            return
        stored = await find(connection, city.id)
        if stored is None:
            latest = (await connection.execute(LATEST, {"id": city.id})).one_or_none()
            if latest is None or shown != {name: getattr(latest, name) for name in OLD}:
                raise NoSuchCity
            if author.is_operator:
                await connection.execute(BLOCK_NAME, {"name_key": names.key(city.name)})
            return
        await reject_blocked(connection, author)
        if stored != city:
            raise Conflict(stored)
    raise OnBoard


async def revert(connection: Connection, change_id: int, author: Author) -> Stored:
    """Undoes a correction or a removal while what it set still stands. Returns the city; repeating it is safe.

    A change is reverted once. To visitors, a second revert is a success; operators are told.
    Raises NoSuchChange, NotRevertible, NameTaken, Conflict, NoSuchCity or Blocked.
    """
    change = (await connection.execute(CHANGE, {"id": change_id})).one_or_none()
    if change is None:
        raise NoSuchChange
    if change.is_reverted and not author.is_operator and (city := await find(connection, change.city_id)):
        return city
    if change.is_reverted or change.kind not in {"correct", "remove"} or "" in {change.old_name, change.new_name}:
        raise NotRevertible
    if change.kind == "remove":
        return await _restore(connection, change, author)
    old = {field: getattr(change, f"new_{field}") for field in FIELDS}
    new = {field: getattr(change, f"old_{field}") for field in FIELDS}
    return await correct(connection, change.city_id, _present(old), _present(new), author, change.id)


async def _restore(connection: Connection, removal: Row[Any], author: Author) -> Stored:
    """Stores a removed city under its old id. Of several restores at once, one stores it, and the others find it."""
    name = columns(removal.old_name)
    parameters: dict[str, object] = {f"new_{column}": value for column, value in name.items()}
    parameters |= {"reverts": removal.id, **author.parameters}
    try:
        row = (await connection.execute(RESTORE, parameters)).one_or_none()
    except IntegrityError as error:  # It was restored meanwhile, and the city removed once more.
        raise NotRevertible from error
    if row:
        if author.is_operator:
            await connection.execute(UNBLOCK_NAME, {"name_key": name["name_key"]})
        return Stored(*row)
    if city := await find(connection, removal.city_id):
        return city
    if removal.operator and not author.is_operator:
        raise NotRevertible
    await reject_blocked(connection, author, name["name_key"])
    latest = (await connection.execute(LATEST, {"id": removal.city_id})).one()
    is_last = (latest.id, latest.old_name) == (removal.id, removal.old_name)  # and its name is not redacted
    raise NameTaken if is_last else NotRevertible


def _present(values: Values) -> Values:
    return {field: value for field, value in values.items() if value is not None}


def _has(city: Stored, values: Values) -> bool:
    return all(getattr(city, field) == value for field, value in values.items())
