"""Every name from each of its words on, so that a search for "york c" finds New York City by one range of an index.

The words come from `name_bare`, which knows no case and no accents. A search that finds little reads the range of the
primary key; one that finds much walks `words_board`, which has the words of one first letter in the order of the board.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# What parts words: white space and the punctuation of ASCII, Latin-1, Hebrew, Arabic, the general one and the Chinese.
# 々 and 〇 (U+3005 to U+3007) are letters. One function serves names and queries.
SPACED = r"""
CREATE FUNCTION spaced(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN btrim(regexp_replace(
  name COLLATE "C",
  '[\u0001-/:-@[-`{-\u00bf\u00d7\u00f7\u058a\u05be\u05f4\u060c\u061b\u2000-\u206f\u3000-\u3004\u3008-\u3020\u30fb]+',
  ' ', 'g'
))
"""
# Xi'an is found as "xi an", "an" and "xian". A key that is only a hash has no words.
SUFFIXES = """
CREATE FUNCTION suffixes(name_bare text) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT DISTINCT array_to_string(words[first_word:], ' ') COLLATE "C"
  FROM unnest(CASE
      WHEN name_bare LIKE '%''%' THEN ARRAY[name_bare, replace(name_bare, '''', '')] ELSE ARRAY[name_bare]
    END) AS spelling,
    string_to_array(spaced(spelling), ' ') AS words,
    generate_subscripts(words, 1) AS first_word
  WHERE name_bare NOT LIKE 'SHA256:%'
$$
"""
FILL = """
INSERT INTO words (suffix, population, city_id)
SELECT suffix, population, id FROM cities, suffixes(name_bare) AS suffix
"""
# Sorted, the words of a million cities come to neighbouring pages of the indexes: an import takes a third of the time.
FUNCTION = """
CREATE FUNCTION cities_worded() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp
AS $$ BEGIN
  CASE TG_OP
    WHEN 'INSERT' THEN
      INSERT INTO words (suffix, population, city_id)
      SELECT suffix, population, id FROM new_rows, suffixes(name_bare) AS suffix ORDER BY suffix;
    WHEN 'DELETE' THEN
      DELETE FROM words USING old_rows, suffixes(old_rows.name_bare) AS gone
      WHERE (words.suffix, words.population, words.city_id) = (gone, old_rows.population, old_rows.id);
    WHEN 'UPDATE' THEN
      DELETE FROM words USING (
        SELECT id, name_bare, population FROM old_rows EXCEPT SELECT id, name_bare, population FROM new_rows
      ) AS was, suffixes(was.name_bare) AS gone
      WHERE (words.suffix, words.population, words.city_id) = (gone, was.population, was.id);
      INSERT INTO words (suffix, population, city_id)
      SELECT suffix, population, id FROM (
        SELECT id, name_bare, population FROM new_rows EXCEPT SELECT id, name_bare, population FROM old_rows
      ) AS now, suffixes(name_bare) AS suffix ORDER BY suffix;
    ELSE
      TRUNCATE words;
  END CASE;
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
    GRANT SELECT ON words TO cityweb_app;
  END IF;
END $$
"""


def upgrade() -> None:
    """Makes the words, and fills them where there are cities already."""
    op.create_table(
        "words",
        sa.Column("suffix", sa.Text(collation="C"), nullable=False),
        sa.Column("population", sa.Integer, nullable=False),
        sa.Column("city_id", sa.Integer, nullable=False),
    )
    op.execute(SPACED)
    op.execute(SUFFIXES)
    op.execute(FUNCTION.format(schema=op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))))
    for kind, rows in TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER cities_worded_{kind.lower()} AFTER {kind} ON cities {rows}"
            " FOR EACH STATEMENT EXECUTE FUNCTION cities_worded()"
        )
    op.execute(FILL)
    op.execute("SET LOCAL maintenance_work_mem = '256MB'")
    # An index over rows that are there is made in a fraction of the time that row for row takes.
    op.create_primary_key("words_pkey", "words", ["suffix", "population", "city_id"])
    op.create_index(
        "words_board",
        "words",
        [sa.text('"left"(suffix, 1)'), sa.text("population DESC"), "city_id"],
        postgresql_include=["suffix"],
    )
    op.execute("ANALYZE words")
    op.execute(GRANT)
