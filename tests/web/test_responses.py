"""What is said of a city that was added."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cityweb.postgres.cities import BoardRow, Landing, Leaders, Stored
from cityweb.web.board import Snapshot
from cityweb.web.responses import describe_landing
from tests.pages import TEMPLATES

CURRENT = Snapshot(Leaders((BoardRow(1, "Small", 5, 1, new=False),), 1, "Small"), TEMPLATES)
TOKYO = Landing(Stored(2, "Tokyo", 37_400_068), timedelta(0), 1, None)


def test_a_stale_board_does_not_say_that_a_city_is_outside_of_it() -> None:
    assert "outside the top 20" in describe_landing(TOKYO, CURRENT).words
    assert describe_landing(TOKYO, replace(CURRENT, as_of=datetime.now(UTC))).words == "added at rank 1"
