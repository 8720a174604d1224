"""One name, one key, however its apostrophes, dashes and commas are typed.

The keys are folded here as `names.key` folds them today, so that this revision means the same when that changes.
"""

import re
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

# Reads go on. Adds wait: one that came in between would keep a key of before.
LOCK = "LOCK TABLE cities IN SHARE ROW EXCLUSIVE MODE"
APOSTROPHES = "ʹʻʼʽʾʿꞌ‘’‛`′՚׳"
DASHES = "֊־᐀᠆‐‒–—―−⸗⸚⸺⸻⹀⹝〜〰゠\U00010d6e\U00010ead"
FOLDED = """
CREATE FUNCTION pg_temp.folded(key text) RETURNS text LANGUAGE sql RETURN (
  SELECT CASE WHEN octet_length(key) <= 2000 THEN key
    ELSE 'SHA256:' || encode(sha256(convert_to(key, 'UTF8')), 'hex') END
  FROM (SELECT btrim(replace(replace(replace(replace(replace(
    translate(key, '{apostrophes}{dashes}', repeat('''', length('{apostrophes}')) || repeat('-', length('{dashes}'))),
    ' -', '-'), '- ', '-'), ' ,', ','), ', ', ','), ',', ', '))) AS spelled (key)
)
"""
# Whoever has one of the keys that change, or gets one, is among these.
CANDIDATES = """
CREATE TEMPORARY TABLE folded ON COMMIT DROP AS
SELECT id, pg_temp.folded(name_key) COLLATE "C" AS name_key, pg_temp.folded(name_bare) COLLATE "C" AS name_bare
FROM cities WHERE name_key || name_bare ~ '[-,''{apostrophes}{dashes}]' OR name LIKE '%´%' OR name_key LIKE 'SHA256:%'
"""
# NFKC made a space with an accent of the acute accent, and in a digest there is nothing to fold.
UNFOLDED = "SELECT id, name FROM cities WHERE name LIKE '%´%' OR name_key LIKE 'SHA256:%'"
REFOLD = "UPDATE folded SET name_key = pg_temp.folded(:key) WHERE id = :id"
# The earliest keeps its name. No input makes a key with capital letters.
DUPLICATES = """
UPDATE folded SET name_key = 'DUPLICATE:' || id
WHERE EXISTS (SELECT FROM folded AS earlier WHERE earlier.name_key = folded.name_key AND earlier.id < folded.id)
"""
# First whoever has a key that another one gets: a unique key is checked row by row.
GIVE_UP = """
UPDATE cities SET name_key = 'DUPLICATE:' || cities.id FROM folded
WHERE folded.name_key = cities.name_key AND folded.id <> cities.id
"""
STORE = """
UPDATE cities SET name_key = folded.name_key, name_bare = folded.name_bare FROM folded
WHERE cities.id = folded.id AND (cities.name_key, cities.name_bare) <> (folded.name_key, folded.name_bare)
"""


def upgrade() -> None:
    """Writes the keys that change."""
    op.execute(LOCK)
    for statement in (FOLDED, CANDIDATES):
        op.execute(statement.format(apostrophes=APOSTROPHES, dashes=DASHES))
    op.execute("ALTER TABLE folded ADD PRIMARY KEY (id)")
    connection = op.get_bind()
    for id_, name in connection.execute(sa.text(UNFOLDED)).all():
        folded = unicodedata.normalize("NFKC", name.replace("´", "'")).casefold()
        key = re.sub(" +", " ", unicodedata.normalize("NFKC", folded))
        connection.execute(sa.text(REFOLD), {"id": id_, "key": key})
    for statement in (DUPLICATES, GIVE_UP, STORE, "DROP FUNCTION pg_temp.folded"):
        op.execute(statement)
