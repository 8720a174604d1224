"""The cities, in the order of the board, each name once."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

# The application's role where it is not the owner, as with the embedded server.
GRANT = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cityweb_app') THEN
    GRANT SELECT ON alembic_version TO cityweb_app;
    GRANT SELECT, INSERT ON cities TO cityweb_app;
  END IF;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "cities",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("name_key", sa.Text(collation="C"), nullable=False, unique=True),
        sa.Column("name_bare", sa.Text(collation="C"), nullable=False),
        sa.Column("population", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="cities_name_length"),
        sa.CheckConstraint("population BETWEEN 0 AND 100000000", name="cities_population_range"),
    )
    op.create_index("cities_board", "cities", [sa.text("population DESC"), "id"])
    op.create_index("cities_bare", "cities", ["name_bare"])
    op.execute(GRANT)
