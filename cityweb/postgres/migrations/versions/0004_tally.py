"""Counts cities by population in the database itself, so that a rank is exact and costs the same at any size.

The tally counts the cities in buckets of 1, 32, 1,024, 32,768 and 1,048,576 people (`population >> shift`), so that
whoever is bigger is summed from a few dozen rows of each. A row that every add changed would make adds wait for each
other; instead each adds a row of its own to `tally_changes`, and every hundredth folds these into the tally.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

FILL = """
INSERT INTO tally (shift, bucket, cities)
SELECT shift, population >> shift, sum(cities)
FROM (SELECT population, count(*) AS cities FROM cities GROUP BY population) AS counted,
  (VALUES (0), (5), (10), (15), (20)) AS level (shift)
GROUP BY 1, 2
"""
# Only who holds the lock folds, so nobody else waits for a row of the tally. In the order of the key, the rows of one
# range lie side by side, which halves the time of a rank.
FOLD = """
CREATE OR REPLACE FUNCTION fold_tally() RETURNS void LANGUAGE sql AS $$
  WITH gone AS (DELETE FROM tally_changes RETURNING population, cities)
  INSERT INTO tally (shift, bucket, cities)
  SELECT shift, population >> shift, sum(cities)
  FROM gone, (VALUES (0), (5), (10), (15), (20)) AS level (shift)
  GROUP BY 1, 2 HAVING sum(cities) <> 0 ORDER BY 1, 2
  ON CONFLICT (shift, bucket) DO UPDATE SET cities = tally.cities + excluded.cities
$$
"""
# The application may not write the tally, hence SECURITY DEFINER; a search_path of its own keeps that harmless. In a
# stricter isolation than READ COMMITTED folding could fail, and would fail the add with it: the next one folds.
FUNCTION = """
CREATE FUNCTION cities_counted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp
AS $$ DECLARE rows bigint; BEGIN
  CASE TG_OP
    WHEN 'INSERT' THEN
      INSERT INTO tally_changes (population, cities) SELECT population, count(*) FROM new_rows GROUP BY population;
    WHEN 'DELETE' THEN
      INSERT INTO tally_changes (population, cities) SELECT population, -count(*) FROM old_rows GROUP BY population;
    WHEN 'UPDATE' THEN
      INSERT INTO tally_changes (population, cities)
      SELECT population, sum(cities) FROM (
        SELECT population, 1 AS cities FROM new_rows UNION ALL SELECT population, -1 FROM old_rows
      ) AS both_rows GROUP BY population HAVING sum(cities) <> 0;
    ELSE
      TRUNCATE tally, tally_changes;
      RETURN NULL;
  END CASE;
  GET DIAGNOSTICS rows = ROW_COUNT;
  IF rows = 0 OR current_setting('transaction_isolation') <> 'read committed' THEN RETURN NULL; END IF;
  IF rows >= 100 THEN
    PERFORM pg_advisory_xact_lock(1952541804);
    PERFORM fold_tally();
  ELSIF currval('tally_changes_id_seq') % 100 < rows AND pg_try_advisory_xact_lock(1952541804) THEN
    PERFORM fold_tally();
  END IF;
  RETURN NULL;
END $$
"""
TRIGGERS = {
    "INSERT": "REFERENCING NEW TABLE AS new_rows",
    "UPDATE": "REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows",
    "DELETE": "REFERENCING OLD TABLE AS old_rows",
    "TRUNCATE": "",
}
GRANT = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cityweb_app') THEN
    GRANT SELECT ON tally, tally_changes TO cityweb_app;
  END IF;
END $$
"""


def upgrade() -> None:
    """Makes the tally, and fills it where there are cities already."""
    op.create_table(
        "tally",
        sa.Column("shift", sa.SmallInteger, primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True),
        sa.Column("cities", sa.Integer, nullable=False),
        postgresql_with={"fillfactor": 70},
    )
    op.create_table(
        "tally_changes",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("population", sa.Integer, nullable=False),
        sa.Column("cities", sa.Integer, nullable=False),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 1000},
    )
    op.execute(FOLD)
    op.execute(FUNCTION.format(schema=op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))))
    # The triggers first: they lock out whoever adds until the tally is filled.
    for kind, rows in TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER cities_counted_{kind.lower()} AFTER {kind} ON cities {rows}"
            " FOR EACH STATEMENT EXECUTE FUNCTION cities_counted()"
        )
    op.execute(FILL)
    op.execute("ANALYZE tally")
    op.execute(GRANT)
