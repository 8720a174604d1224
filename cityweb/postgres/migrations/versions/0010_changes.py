"""The history of the cities, the keys that hash client networks in it, and blocks of networks and names."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

VALUES = ("name", "population", "country")
COLUMNS = ("kind", "city_id", *(f"{age}_{value}" for age in ("old", "new") for value in VALUES))
# The role that serves may neither change nor delete what is in the log, nor choose the number or the time of a change.
IF_SERVING = """
DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cityweb_app') THEN {} END IF; END $$
"""
GRANT = f"""
  GRANT SELECT, INSERT ({", ".join(COLUMNS)}, created_at, cities, reverts, reason, operator, network)
    ON changes TO cityweb_app;
  GRANT SELECT, INSERT, DELETE ON network_keys TO cityweb_app;
  GRANT SELECT ON blocks TO cityweb_app;
  GRANT DELETE, UPDATE (name, name_key, name_bare, population, country) ON cities TO cityweb_app;
"""
REVOKE = "REVOKE DELETE, UPDATE (name, name_key, name_bare, population, country) ON cities FROM cityweb_app;"


def upgrade() -> None:
    """Creates the tables; the cities of before have no history."""
    op.create_table(
        "changes",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("city_id", sa.Integer),
        *(
            sa.Column(f"{age}_{value}", sa.Integer if value == "population" else sa.Text)
            for age in ("old", "new")
            for value in VALUES
        ),
        sa.Column("created_at", sa.DateTime(timezone=True)),
        sa.Column("cities", sa.Integer),
        sa.Column("reverts", sa.BigInteger),
        sa.Column("reason", sa.Text),
        sa.Column("operator", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("network", sa.LargeBinary),
        sa.CheckConstraint("kind IN ('add', 'correct', 'remove', 'restore', 'load')", name="changes_kind"),
    )
    op.create_index("changes_city", "changes", ["city_id", "id"])
    op.create_index(
        "changes_reverts", "changes", ["reverts"], unique=True, postgresql_where=sa.text("reverts IS NOT NULL")
    )
    # Until a VACUUM, a deleted key stays in the file of the table.
    op.create_table(
        "network_keys",
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("key", sa.LargeBinary, nullable=False),
        postgresql_with={"autovacuum_vacuum_scale_factor": 0, "autovacuum_vacuum_threshold": 0},
    )
    op.create_table(
        "blocks",
        sa.Column("id", sa.Integer, sa.Identity(always=True), primary_key=True),
        sa.Column("name_key", sa.Text(collation="C"), unique=True),
        sa.Column("network", sa.LargeBinary),
        sa.Column("until", sa.DateTime(timezone=True)),
        sa.CheckConstraint("num_nonnulls(name_key, network) = 1", name="blocks_one"),
    )
    op.execute(IF_SERVING.format(GRANT))


def downgrade() -> None:
    """Drops the history."""
    for table in ("changes", "network_keys", "blocks"):
        op.drop_table(table)
    op.execute(IF_SERVING.format(REVOKE))
