"""Search by words in any order, ranks and pages whose plans do not depend on statistics."""

import sqlalchemy as sa
from alembic import context, op

revision = "0008"
down_revision = "0007"

# What parts words: white space and the punctuation of ASCII, Latin-1, Hebrew, Arabic, the general one and the Chinese.
# 々 and 〇 (U+3005 to U+3007) are letters. One function serves names and queries.
SPACED = r"""
CREATE OR REPLACE FUNCTION spaced(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN btrim(regexp_replace(
  name COLLATE "C",
  '[\u0001-/:-@[-`{-\u00bf\u00d7\u00f7\u058a\u05be\u05f4\u060c\u061b\u2000-\u206f\u3000-\u3004\u3008-\u3020\u30fb]+',
  ' ', 'g'
))
"""
# Each word of a name after a space. Xi'an is "xi", "an" and "xian", and St. Louis and Saint-Denis are each "st" and
# "saint". A key that is only a hash has no words. 600 characters of four bytes fit into a row of a B-tree.
WORDS = r"""
CREATE FUNCTION search_words(name_bare text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
  CASE WHEN name_bare LIKE 'SHA256:%' THEN '' ELSE left(
    ' ' || spaced(name_bare)
    || CASE WHEN name_bare LIKE '%''%' THEN ' ' || spaced(replace(name_bare, '''', '')) ELSE '' END
    || CASE WHEN spaced(name_bare) ~ '\m(st|saint)\M' THEN ' st saint' ELSE '' END, 600)
  END
"""
# Read in FROM it becomes part of the statement that asks, with one range of the tally's key for each size of bucket.
ABOVE = """
CREATE FUNCTION cities_above(people integer) RETURNS TABLE (above bigint) LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT (
    coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 0 AND bucket > people AND bucket <= people | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 5 AND bucket > people >> 5 AND bucket <= people >> 5 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 10 AND bucket > people >> 10 AND bucket <= people >> 10 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally
      WHERE shift = 15 AND bucket > people >> 15 AND bucket <= people >> 15 | 31), 0)
    + coalesce((SELECT sum(cities) FROM tally WHERE shift = 20 AND bucket > people >> 20), 0)
    + coalesce((SELECT sum(cities) FROM tally_changes WHERE population > people), 0)
  )::bigint;
END
"""


def upgrade() -> None:
    """Replaces the table of words by a column and an index, and makes the board's index one that search can walk."""
    op.execute("DROP FUNCTION IF EXISTS cities_worded, suffixes, cities_above CASCADE")  # and the triggers
    op.execute("DROP TABLE IF EXISTS words")
    op.execute(ABOVE)
    op.execute(context.script.get_revision("0004").module.FOLD)
    op.execute("CLUSTER tally USING tally_pkey")
    op.execute(SPACED)
    op.execute(WORDS)
    op.execute("SET LOCAL maintenance_work_mem = '256MB'")
    op.drop_index("cities_board", "cities")
    computed = sa.Computed("search_words(name_bare)", persisted=True)
    op.add_column("cities", sa.Column("words", sa.Text(collation="C"), computed, nullable=False))
    op.create_index("cities_board", "cities", ["population", sa.text("(-id)")], postgresql_include=["id", "words"])
    # The list of pending entries would be read by each search: as long as it is, whatever is asked.
    op.execute(
        "CREATE INDEX cities_words ON cities USING gin (array_to_tsvector(string_to_array(btrim(words), ' ')))"
        " WITH (fastupdate = off)"
    )
    # A page of the table that VACUUM has not seen since it changed is read for each row that the index has of it.
    op.execute("ALTER TABLE cities SET (autovacuum_vacuum_insert_scale_factor = 0.02)")
