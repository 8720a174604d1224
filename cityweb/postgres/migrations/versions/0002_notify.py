"""Makes nothing any more: it made triggers that notified whoever listened, which 0006 drops where they are."""

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes nothing."""
