"""The log of changes: its pages, the history of a city, and whether it agrees with the cities."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from cityweb import countries
from cityweb.city import CHANGE_ID_MAX
from cityweb.postgres.changes import NEW, OLD
from cityweb.postgres.networks import contributor
from cityweb.submissions import FIELDS

PAGE_SIZE = 50


class Change(NamedTuple):
    """A line of the log. `city_name` is the city's present name, or its last one; empty for a load.

    `old` and `new` have the values that changed: an addition has no old ones, a removal no new ones. A redacted name is
    empty. `code` is that of the client network, if it is known; `cities` is the number of cities of a load.
    """

    id: int
    at: datetime
    kind: str
    city_id: int | None
    city_name: str
    cities: int | None
    reverts: int | None
    reason: str | None
    is_operator: bool
    code: bytes | None
    can_revert: bool
    old: dict[str, Any]
    new: dict[str, Any]

    @property
    def author(self) -> str:
        if self.is_operator:
            return "an operator"
        return f"contributor {contributor(self.code) if self.code else 'unknown'}"

    @property
    def differences(self) -> list[tuple[str, str, str]]:
        """Each field of a correction with its old and its new value as texts."""
        values = ((field, self.old[field], value) for field, value in self.new.items())
        return [(field, format_value(field, old), format_value(field, new)) for field, old, new in values]

    @property
    def event(self) -> str:
        """What happened, in words: population 83,360,000 → 3,677,000."""
        match self.kind:
            case "load":
                what = "1 city loaded" if self.cities == 1 else f"{self.cities:,} cities loaded"
            case "add":
                what = f"added, population {self.new['population']:,}"
            case "remove":
                what = "removed"
            case "restore":
                what = "restored"
            case _:
                changed = ", ".join(f"{field} {old} → {new}" for field, old, new in self.differences)
                what = f"reverted, {changed}" if self.reverts else changed
        return f"{what}: {self.reason}" if self.reason else what

    @property
    def summary(self) -> str:
        """The city and what happened: Berlin: population 83,360,000 → 3,677,000."""
        return self.event if self.city_id is None else f"{self.city_name or f'City {self.city_id}'}: {self.event}"


def format_value(field: str, value: object) -> str:
    """A value as the log shows it."""
    if field == "population":
        return f"{value:,}"
    if field == "country":
        return countries.name_of(str(value)) or "no country"
    return str(value) or "(redacted)"


# A change can be reverted while all that it set still stands. Whether the name of a removed city is free is not asked.
LINES = f"""
SELECT change.id, at, kind, change.city_id, coalesce(city.name, latest.name, ''), cities, reverts,
  reason, operator, network,
  CASE kind
    WHEN 'correct' THEN city.name IS NOT NULL AND change.old_name IS DISTINCT FROM '' AND {
    " AND ".join(f"(change.new_{field} IS NULL OR change.new_{field} = city.{field})" for field in FIELDS)
}
    WHEN 'remove' THEN city.name IS NULL AND NOT operator AND change.old_name <> ''
    ELSE false
  END AND (SELECT id FROM changes AS later WHERE later.reverts = change.id LIMIT 1) IS NULL,
  {", ".join(OLD + NEW)}
FROM (SELECT * FROM changes WHERE {{rows}} LIMIT {{limit}}) AS change
LEFT JOIN LATERAL (SELECT {", ".join(FIELDS)} FROM cities WHERE id = change.city_id LIMIT 1) AS city ON true
LEFT JOIN LATERAL (
  SELECT city_id, coalesce(new_name, old_name) AS name FROM changes
  WHERE city.name IS NULL AND (city_id, id) <= (change.city_id, {CHANGE_ID_MAX})
  ORDER BY city_id DESC, id DESC LIMIT 1
) AS latest ON latest.city_id = change.city_id
ORDER BY change.id DESC
"""  # noqa: S608 (no value is put in)
ON_PAGE_OF_CITY = 10
"""How many changes the page of a city shows."""
BEFORE = "id < (SELECT CAST(:before AS bigint))"
# See `changes.OF_THE_CITY`; the first pair is the lower bound.
BEFORE_IN_A_CITY = """
(city_id, id) > ((SELECT CAST(:city AS int)), 0)
AND (city_id, id) < ((SELECT CAST(:city AS int)), (SELECT CAST(:before AS bigint))) ORDER BY city_id DESC, id DESC
"""
ALL = text(LINES.format(rows=f"{BEFORE} ORDER BY id DESC", limit=PAGE_SIZE + 1))
OF_A_CITY = text(LINES.format(rows=BEFORE_IN_A_CITY, limit=PAGE_SIZE + 1))
LATEST_OF_A_CITY = text(LINES.format(rows=BEFORE_IN_A_CITY, limit=ON_PAGE_OF_CITY + 1))
ONE = text(LINES.format(rows="id = CAST(:id AS bigint)", limit=1))
OF_A_NETWORK = text(
    LINES.format(rows="network = (SELECT network FROM changes WHERE id = CAST(:id AS bigint))", limit="ALL")
)
OF_A_TIME = text(
    LINES.format(
        rows="NOT operator AND at >= :since AND at < coalesce(CAST(:until AS timestamptz), 'infinity')", limit="ALL"
    )
)
# For each field of each city, the old value of a change must be the new one of the change before it, and the last new
# value must be what is stored.
BROKEN = text("""
WITH steps AS (
  SELECT changes.id, city_id, field, old, new, lag(new) OVER changes_of_a_field AS before,
    row_number() OVER changes_of_a_field AS number, lead(changes.id) OVER changes_of_a_field AS next
  FROM changes, LATERAL (VALUES
    ('name', old_name, new_name), ('population', old_population::text, new_population::text),
    ('country', old_country, new_country)
  ) AS each (field, old, new)
  WHERE old IS NOT NULL OR new IS NOT NULL
  WINDOW changes_of_a_field AS (PARTITION BY city_id, field ORDER BY changes.id)
)
SELECT city_id, min(coalesce(cities.name, '')) AS name FROM steps LEFT JOIN cities ON cities.id = city_id
WHERE number > 1 AND old IS DISTINCT FROM before
  OR next IS NULL AND new IS DISTINCT FROM
    CASE field
      WHEN 'name' THEN cities.name WHEN 'population' THEN cities.population::text WHEN 'country' THEN cities.country
    END
GROUP BY city_id ORDER BY city_id
""")


async def read(
    connection: AsyncConnection | AsyncSession, *, city: int | None = None, before: int = CHANGE_ID_MAX
) -> tuple[Sequence[Change], bool]:
    """The 50 newest changes with smaller ids than `before`, of one city if it is given, and whether there are more."""
    parameters = {"before": before} | ({} if city is None else {"city": city})
    rows = (await connection.execute(ALL if city is None else OF_A_CITY, parameters)).all()
    return [_read_line(row) for row in rows[:PAGE_SIZE]], len(rows) > PAGE_SIZE


async def read_latest(connection: AsyncConnection | AsyncSession, city: int) -> tuple[Sequence[Change], bool]:
    """The ten newest changes of a city, and whether there are more."""
    rows = (await connection.execute(LATEST_OF_A_CITY, {"city": city, "before": CHANGE_ID_MAX})).all()
    return [_read_line(row) for row in rows[:ON_PAGE_OF_CITY]], len(rows) > ON_PAGE_OF_CITY


async def select(connection: AsyncConnection, statement: TextClause, **parameters: object) -> list[Change]:
    """All changes that ONE, OF_A_NETWORK or OF_A_TIME selects, the newest first."""
    rows = await connection.execute(statement, parameters)
    return [_read_line(row) for row in rows]


async def broken(connection: AsyncConnection) -> list[tuple[int, str]]:
    """The ids and names of the cities whose history does not lead to what is stored."""
    return [(row.city_id, row.name) for row in await connection.execute(BROKEN)]


def _read_line(row: Row[Any]) -> Change:
    *line, values = *row[:_VALUES], row[_VALUES:]
    old, new = zip(FIELDS, values[: len(FIELDS)], strict=True), zip(FIELDS, values[len(FIELDS) :], strict=True)
    present = ({field: value for field, value in pairs if value is not None} for pairs in (old, new))
    return Change(*line, *present)


_VALUES = Change._fields.index("old")
