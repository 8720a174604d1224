"""How templates are rendered."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent.parent / "templates"

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


environment.filters["number"] = number
