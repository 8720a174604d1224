"""Makes nothing any more: it made a table of words to be searched, which 0008 drops where it is."""

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Makes nothing."""
