"""The country of a city, and counts for each country, so that a rank in a country costs the same as one in the world.

In the tally, the rows with an empty country count all cities.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0009"
down_revision = "0008"

# With a default, because a server of the version before may still call it with one argument.
ABOVE = """
CREATE FUNCTION cities_above(people integer, of_country text DEFAULT '') RETURNS TABLE (above bigint)
LANGUAGE sql STABLE PARALLEL SAFE BEGIN ATOMIC
  SELECT (
    coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 0 AND country = of_country AND bucket > people AND bucket <= people | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 5 AND country = of_country AND bucket > people >> 5 AND bucket <= people >> 5 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 10 AND country = of_country AND bucket > people >> 10 AND bucket <= people >> 10 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 15 AND country = of_country AND bucket > people >> 15 AND bucket <= people >> 15 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 20 AND country = of_country AND bucket > people >> 20), 0)
    + coalesce((SELECT sum(cities) FROM tally_changes
      WHERE population > people AND (of_country = '' OR country = of_country)), 0)
  )::bigint;
END
"""
FOLD = """
CREATE OR REPLACE FUNCTION fold_tally() RETURNS void LANGUAGE sql AS $$
  WITH gone AS (DELETE FROM tally_changes RETURNING country, population, cities),
  counted AS (SELECT * FROM gone WHERE country <> '' UNION ALL SELECT '', population, cities FROM gone)
  INSERT INTO tally (shift, country, bucket, cities)
  SELECT shift, country, population >> shift, sum(cities)
  FROM counted, (VALUES (0), (5), (10), (15), (20)) AS level (shift)
  GROUP BY 1, 2, 3 HAVING sum(cities) <> 0 ORDER BY 1, 2, 3
  ON CONFLICT (shift, country, bucket) DO UPDATE SET cities = tally.cities + excluded.cities
$$
"""


def counting(columns: str) -> str:
    """The trigger function of 0004, for changes that have these columns."""
    function: str = context.script.get_revision("0004").module.FUNCTION
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    return (
        function.format(schema=schema)
        .replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        .replace("population", columns)
    )


def upgrade() -> None:
    """Adds the column with its index, and the country to the tally and to its changes."""
    op.execute("ALTER TABLE cities ADD COLUMN country text COLLATE \"C\" NOT NULL DEFAULT ''")
    op.create_check_constraint("cities_country_code", "cities", "country = '' OR country ~ '^[A-Z]{2}$'")
    for table in ("tally", "tally_changes"):
        op.execute(f"ALTER TABLE {table} ADD COLUMN country text COLLATE \"C\" NOT NULL DEFAULT ''")
    op.execute("ALTER TABLE tally DROP CONSTRAINT tally_pkey, ADD PRIMARY KEY (shift, country, bucket)")
    op.execute("DROP FUNCTION cities_above")
    op.execute(ABOVE)
    op.execute(FOLD)
    op.execute(counting("country, population"))
    # Partial, because PostgreSQL 18 would skip through the countries for questions about the world.
    op.create_index(
        "cities_country",
        "cities",
        ["country", "population", sa.text("(-id)")],
        postgresql_include=["id"],
        postgresql_where=sa.text("country <> ''"),
    )


def downgrade() -> None:
    """Drops the countries, and what counts them."""
    op.execute("LOCK TABLE cities IN SHARE ROW EXCLUSIVE MODE")
    op.execute("SELECT fold_tally()")
    op.execute("DELETE FROM tally WHERE country <> ''")
    op.execute("DROP FUNCTION cities_above")
    for table in ("cities", "tally_changes"):
        op.drop_column(table, "country")
    op.execute("ALTER TABLE tally DROP CONSTRAINT tally_pkey, DROP COLUMN country, ADD PRIMARY KEY (shift, bucket)")
    op.execute(context.script.get_revision("0008").module.ABOVE)
    op.execute(context.script.get_revision("0004").module.FOLD)
    op.execute(counting("population"))
