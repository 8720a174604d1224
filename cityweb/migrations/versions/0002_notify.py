"""Every change of the cities is told to whoever listens: by the database itself, so that psql and imports are heard."""

from alembic import op

revision = "0002"
down_revision = "0001"

# A statement that changed no row, such as a refused duplicate, stays silent. TRUNCATE has no transition table.
FUNCTION = """
CREATE FUNCTION cities_changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP <> 'TRUNCATE' THEN
    IF NOT EXISTS (SELECT FROM changed) THEN RETURN NULL; END IF;
  END IF;
  PERFORM pg_notify('cities', '');
  RETURN NULL;
END $$
"""
TRIGGERS = {
    "INSERT": "REFERENCING NEW TABLE AS changed",
    "UPDATE": "REFERENCING NEW TABLE AS changed",
    "DELETE": "REFERENCING OLD TABLE AS changed",
    "TRUNCATE": "",
}


def upgrade() -> None:
    """Makes the triggers, one for each kind of statement."""
    op.execute(FUNCTION)
    for kind, rows in TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER cities_{kind.lower()} AFTER {kind} ON cities {rows}"
            " FOR EACH STATEMENT EXECUTE FUNCTION cities_changed()"
        )


def downgrade() -> None:
    """Drops the triggers."""
    for kind in TRIGGERS:
        op.execute(f"DROP TRIGGER cities_{kind.lower()} ON cities")
    op.execute("DROP FUNCTION cities_changed")
