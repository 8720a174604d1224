"""How templates are rendered."""

import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cityweb import settings

TEMPLATES = settings.TOP / "templates"

VARY = "HX-Request, HX-Request-Type"
"""What an HTML answer depends on beside its address: htmx says with these whether it takes a part or the whole."""

environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def set_globals(*, url_for: Callable[..., str], asset: Callable[[str], str], board_size: int, origin: str = "") -> None:
    """Tell every template where things are and how long the board is; said once, when the site starts."""
    environment.globals.update(url_for=url_for, asset=asset, BOARD_SIZE=board_size, ORIGIN=origin)


def render(template: str, **context: object) -> str:
    """The HTML of a template, every value escaped; a name the template uses and nobody gave is an error."""
    return environment.get_template(template).render(context)


def number(n: int) -> str:
    """A whole number as everyone reads it: 13,960,000."""
    return f"{n:,}"


def day(moment: datetime) -> str:
    """A date in full, in UTC: 25 November 2026."""
    return f"{moment.astimezone(UTC):%-d %B %Y}"


def clock(moment: datetime) -> str:
    """A time of day in UTC, with the date unless it is today: 14:03 UTC."""
    moment, today = moment.astimezone(UTC), datetime.now(UTC).date()
    return f"{moment:%H:%M} UTC" if moment.date() == today else f"{moment:%H:%M} UTC on {day(moment)}"


def xml(text: str) -> str:
    """A text without what XML 1.0 cannot hold; a name that came by psql may have it."""
    return NOT_IN_XML.sub("\ufffd", text)


NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

environment.filters.update(clock=clock, day=day, number=number, shell=shlex.join, xml=xml)
