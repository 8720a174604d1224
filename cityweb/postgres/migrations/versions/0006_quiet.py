"""No notifications any more: each process reads the board by a timer."""

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Drops the triggers that notified, where they are."""
    op.execute("DROP FUNCTION IF EXISTS cities_changed CASCADE")
