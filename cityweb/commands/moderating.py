"""The commands against vandals."""

import asyncio
from datetime import datetime
from typing import Annotated

import typer

from cityweb.city import CHANGE_ID_MAX, ID_MAX
from cityweb.commands.readiness import ready
from cityweb.postgres import moderation
from cityweb.postgres.history import Change
from cityweb.settings import COMMAND

ONE_OF_THREE = "Write CHANGE, --like CHANGE or --since TIME; --until TIME only with --since."
NUMBER = "The number of a change, as the log shows it."
Time = typer.Option(metavar="TIME", help="A time like 2026-12-03T14:00, in UTC.")
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why; everybody can read it in the log of changes.")]
Like = Annotated[
    int | None,
    typer.Option(min=1, max=CHANGE_ID_MAX, metavar="CHANGE", help="A change of the network that is meant."),
]


def revert(
    number: Annotated[
        int | None, typer.Argument(min=1, max=CHANGE_ID_MAX, metavar="CHANGE", help=NUMBER, show_default=False)
    ] = None,
    like: Annotated[
        int | None,
        typer.Option(
            min=1, max=CHANGE_ID_MAX, metavar="CHANGE", help="All changes by the network of this one, on its day."
        ),
    ] = None,
    since: Annotated[str | None, Time] = None,
    until: Annotated[str | None, Time] = None,
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Undo one change or many; asks first.

    A city that was added is removed, and visitors cannot add its name again.
    """
    if sum(choice is not None for choice in (number, like, since)) != 1 or (until is not None and since is None):
        raise typer.BadParameter(ONE_OF_THREE)
    first, last = (None if time is None else moderation.parse_time(time) for time in (since, until))
    with ready() as url:
        if number is not None:
            found = asyncio.run(moderation.find_revertible(url, number))
        elif like is not None:
            found = asyncio.run(moderation.find_like(url, like))
        else:
            assert first  # noqa: S101 (for the types)
            found = asyncio.run(moderation.find_since(url, first, last))
        if not found:
            typer.echo("No visitor changed anything in that time: there is nothing to revert.")
            return
        for change in found:
            typer.echo(_describe(change))
        if not yes:
            typer.confirm(f"Revert {_count(len(found))}?", abort=True)
        prevented = asyncio.run(moderation.revert(url, found, reason))
    for change, why in prevented:
        typer.echo(f"Change {change.id} was not reverted: {why}.")
    typer.echo(f"{len(found) - len(prevented):,} of {_count(len(found))} reverted.")


def block(
    like: Like = None,
    duration: Annotated[
        str, typer.Option("--for", metavar="HOURS", help="How long, from 1h to 24h.")
    ] = f"{moderation.BLOCK_HOURS_MAX}h",
) -> None:
    """Block a network; without --like, list blocks."""
    hours = moderation.parse_hours(duration)
    with ready() as url:
        if like is not None:
            until = asyncio.run(moderation.block(url, like, hours))
            typer.echo(
                f"The network of change {like} is blocked until {_format_time(until)}."
                f" Next: {COMMAND} revert --like {like}"
            )
            return
        found = asyncio.run(moderation.blocks(url))
    for number, name, ends in found:
        typer.echo(f"{number}  {f'the name {name}' if name else 'a network'}, {_format_end(ends)}")
    typer.echo(f"To end one: {COMMAND} unblock NUMBER" if found else "Nothing is blocked.")


def unblock(
    number: Annotated[int, typer.Argument(min=1, max=ID_MAX, metavar="NUMBER", help="As block lists it.")],
) -> None:
    """End a block of a network or of a name."""
    with ready() as url:
        asyncio.run(moderation.unblock(url, number))
    typer.echo(f"Block {number} has ended.")


def redact(
    number: Annotated[int, typer.Argument(min=1, max=CHANGE_ID_MAX, metavar="CHANGE", help=NUMBER)], yes: Yes = False
) -> None:
    """Delete a name from a city's history; asks first."""
    with ready() as url:
        change, name = asyncio.run(moderation.find_redactable(url, number))
        typer.echo(name)
        if not yes:
            typer.confirm("Delete this name from the history of the city, for good?", abort=True)
        redacted = asyncio.run(moderation.redact(url, change, name))
    typer.echo(f"{_count(redacted)} redacted.")


def _describe(change: Change) -> str:
    return f"{change.id}  {_format_time(change.at)}  {change.author}  {change.summary}"


def _count(changes: int) -> str:
    return f"{changes:,} change{'s' * (changes != 1)}"


def _format_time(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _format_end(end: datetime | None) -> str:
    return f"until {_format_time(end)}" if end else "until it is unblocked"
