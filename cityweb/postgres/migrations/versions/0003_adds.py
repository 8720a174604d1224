"""Who added how much of late: what the rate limit counts. Addresses are kept as keyed hashes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

# Two random UUIDs have 244 random bits.
SALT = """
INSERT INTO salts VALUES (decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'))
"""
GRANT = """
DO $$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'cityweb_app') THEN
    GRANT SELECT ON salts TO cityweb_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON adds TO cityweb_app;
  END IF;
END $$
"""


def upgrade() -> None:
    op.create_table("salts", sa.Column("salt", sa.LargeBinary, primary_key=True))
    op.execute(SALT)
    # A crash empties an unlogged table: a few adds more, for half the writing.
    op.create_table(
        "adds",
        sa.Column("address", sa.LargeBinary, primary_key=True),
        sa.Column("minute", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        prefixes=["UNLOGGED"],
    )
    op.execute(GRANT)
