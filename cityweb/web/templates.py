"""Renders the templates."""

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cityweb import countries, settings
from cityweb.city import BOARD_SIZE
from cityweb.submissions import REASONS, UNDO_REASON

TEMPLATES = settings.TOP / "templates"

MILLION = 1_000_000
VARY = "HX-Request, HX-Request-Type"
"""The headers that an HTML response depends on: with these, htmx requests fragments or a whole page."""

environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


class Templates:
    """The templates of one site.

    `url_for` and `asset` make the URLs; `origin` is the scheme and host of absolute ones, `authority` the name in ids;
    `corrections` is whether visitors may correct cities.
    """

    def __init__(
        self,
        url_for: Callable[..., str],
        asset: Callable[[str], str],
        origin: str = "http://localhost:8000",
        authority: str = "localhost",
        corrections: bool = True,
    ) -> None:
        self._values = {
            "url_for": url_for,
            "asset": asset,
            "origin": origin,
            "authority": authority,
            "corrections": corrections,
        }

    def render(self, template: str, **context: object) -> str:
        """The text of a template, with every value escaped. Raises UndefinedError if a name has no value."""
        return environment.get_template(template).render(self._values | context)


def number(n: int) -> str:
    """A whole number with thousands separators: 13,960,000."""
    return f"{n:,}"


def difference(n: int) -> str:
    """A number with its sign: +13,960,000 or −13,960,000."""
    return f"{n:+,}".replace("-", "−")


def round_number(n: int) -> str:
    """A number of a few digits and zeros, with millions as a word: 20,000 or 2 million."""
    return f"{number(n // MILLION)} million" if n >= MILLION else number(n)


def people(n: int) -> str:
    """A population in words: 13,960,000 people."""
    return "1 person" if n == 1 else f"{number(n)} people"


def day(moment: datetime) -> str:
    """A date in full, in UTC: 25 November 2026."""
    return f"{moment.astimezone(UTC):%-d %B %Y}"


def clock(moment: datetime) -> str:
    """A time of day in UTC, with the date unless it is today: 14:03 UTC."""
    moment, today = moment.astimezone(UTC), datetime.now(UTC).date()
    return f"{moment:%H:%M} UTC" if moment.date() == today else f"{moment:%H:%M} UTC on {day(moment)}"


def moment(time: datetime) -> Markup:
    """The element of a time, with its time of day as `clock` writes it."""
    # Not Markup.format, which takes a third of the time of a page of the log; a time has nothing to escape.
    return Markup(f'<time datetime="{time.isoformat(timespec="seconds")}">{clock(time)}</time>')  # noqa: S704


def xml(text: str) -> str:
    """The text without characters that XML 1.0 forbids; a name that was inserted with psql may have some."""
    return NOT_IN_XML.sub("\ufffd", text)


NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

environment.globals.update(BOARD_SIZE=BOARD_SIZE, REASONS=REASONS, UNDO_REASON=UNDO_REASON)
environment.filters.update(
    clock=clock,
    country=countries.name_of,
    day=day,
    difference=difference,
    moment=moment,
    number=number,
    people=people,
    round_number=round_number,
    shell=shlex.join,
    xml=xml,
)
