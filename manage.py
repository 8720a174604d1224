#!/usr/bin/env python3
"""The commands of cityweb."""

import asyncio
import os
import sys
from typing import Annotated

import typer

from cityweb import database, server, settings

app = typer.Typer(
    help="The public leaderboard of the world's biggest cities. Run runserver first; it prepares what is missing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def list_commands(context: typer.Context) -> None:
    """The public leaderboard of the world's biggest cities."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def initdb(
    reset: Annotated[bool, typer.Option("--reset", help="Drop every city and start empty; asks first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Bring the database to the present schema. Safe to repeat: no city is lost."""
    with server.addresses(settings.read(os.environ)) as (url, _), server.explained(url):
        if reset:
            if not yes:
                typer.confirm(f"Drop every city in {url.render_as_string()}?", abort=True)
            asyncio.run(database.reset(url))
            typer.echo("The database is empty and ready. Next: python manage.py runserver")
        else:
            asyncio.run(database.migrate(url))
            typer.echo("The database is ready. Next: python manage.py runserver")


@app.command()
def runserver(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="How many processes serve.")] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when a file changes; for development.")] = False,
) -> None:
    """Prepare the database where needed, and serve."""
    server.run(settings.read(os.environ), host=host, port=port, workers=workers, reload=reload)


def main() -> None:
    """Runs a command; what goes wrong is one sentence on standard error and status 1."""
    try:
        app()
    except (settings.WrongSetting, server.CannotServe) as error:
        typer.echo(error, err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
